//! What servers that share a backplane know of one another: each tells all others who has connections and who is present
//! there, as it changes, and each second how it stands. What they say counts here as if it were so here, until they say
//! otherwise or are gone. One thread. Must not know brokers, nor what becomes of what is known.

mod message;
mod own;
mod table;
#[cfg(test)]
mod tests;
mod translate;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use tidewire_core::limits::{PEERS_BEAT_MS, PEERS_PACE_MS, PEERS_WAITING};

use message::{Message, Says};
use own::Own;
use table::{Now, Table};

use crate::access::Access;
use crate::backplane::Backplane;
use crate::clock::Clock;
use crate::hub::Hub;
use crate::metrics::{Brief, Glance, Sources, brief, together};
use crate::presence::Presence;
use crate::server::{AbortOnPanic, Gauges, spawn};

/// How what servers tell one another is announced.
pub(crate) const SUBJECT: &str = "peers";

/// Where the thread is reached, and what it knows for others to see.
#[derive(Debug)]
pub(crate) struct Peers {
    orders: SyncSender<Order>,
    rows: Mutex<Vec<Row>>,
    pub(crate) counts: Counts,
    clock: Clock,
}

/// What was said so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) sent: Count,
    pub(crate) heard: Count,
    /// How often a server was asked for all that it tells of.
    pub(crate) asked: AtomicU64,
}

#[derive(Debug, Default)]
pub(crate) struct Count {
    pub(crate) messages: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// A server as it said that it stands.
#[derive(Debug, Clone)]
struct Row {
    server: u64,
    is_this: bool,
    /// All that it tells of is known here.
    is_whole: bool,
    heard_ms: u64,
    brief: Brief,
}

/// What the thread is told.
#[derive(Debug)]
enum Order {
    Heard(String),
    Stop,
}

/// What was ordered before the thread exists.
#[derive(Debug)]
pub(crate) struct Orders(Receiver<Order>);

/// Whom it tells of what.
pub(crate) struct Parties {
    pub(crate) hub: Arc<Hub>,
    pub(crate) backplane: Arc<Backplane>,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) access: Arc<Access>,
    pub(crate) presence: Arc<Presence>,
    /// How long who was present here may take to come back elsewhere.
    pub(crate) grace_ms: u64,
}

/// Makes both ends.
pub(crate) fn prepare(clock: Clock) -> (Arc<Peers>, Orders) {
    let (orders, receiver) = mpsc::sync_channel(PEERS_WAITING);
    let peers = Peers { orders, rows: Mutex::default(), counts: Counts::default(), clock };
    (Arc::new(peers), Orders(receiver))
}

impl Peers {
    /// Another server said something.
    pub(crate) fn hear(&self, text: &str) {
        self.counts.heard.add(text.len());
        match self.orders.try_send(Order::Heard(text.to_owned())) {
            // The next message shows that one is missing, and all is asked for.
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    /// Says goodbye, and ends the thread.
    pub(crate) fn stop(&self) {
        // Fails only where the thread is gone already.
        let _ = self.orders.send(Order::Stop);
    }

    /// How many servers there are beside this one.
    pub(crate) fn others(&self) -> usize {
        self.rows().iter().filter(|row| !row.is_this).count()
    }

    /// How long the server has said nothing that was heard longest ago.
    pub(crate) fn oldest_ms(&self) -> u64 {
        let now_ms = self.clock.now_ms();
        let ages = |row: &Row| now_ms.saturating_sub(row.heard_ms);
        self.rows().iter().filter(|row| !row.is_this).map(ages).max().unwrap_or(0)
    }

    /// All servers, and their sums.
    pub(crate) fn view(&self) -> Value {
        let now_ms = self.clock.now_ms();
        let rows = self.rows();
        let show = |row: &Row| {
            let mut shown = serde_json::to_value(&row.brief).unwrap_or_default();
            shown["server"] = format!("{:016x}", row.server).into();
            shown["is_this"] = row.is_this.into();
            shown["is_whole"] = row.is_whole.into();
            shown["heard_ms_ago"] = now_ms.saturating_sub(row.heard_ms).into();
            shown
        };
        let sums = together(rows.iter().map(|row| &row.brief));
        json!({"servers": rows.iter().map(show).collect::<Vec<_>>(), "cluster": sums})
    }

    fn rows(&self) -> MutexGuard<'_, Vec<Row>> {
        // It is replaced as a whole.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count {
    fn add(&self, bytes: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Starts the thread.
///
/// # Errors
/// If the system refuses a thread.
pub(crate) fn start(peers: &Arc<Peers>, orders: Orders, parties: Parties) -> anyhow::Result<JoinHandle<()>> {
    let (peers, server) = (Arc::clone(peers), fastrand::u64(1..));
    let gossip = Gossip {
        peers,
        parties,
        server,
        own: Own::new(server),
        table: Table::default(),
        now: Now::default(),
        beat_at_ms: 0,
        glance: Glance::default(),
        brief: None,
        gone: Vec::new(),
    };
    spawn("peers", move || {
        let _guard = AbortOnPanic;
        gossip.run(&orders.0);
    })
}

/// The thread.
struct Gossip {
    peers: Arc<Peers>,
    parties: Parties,
    server: u64,
    own: Own,
    table: Table,
    now: Now,
    beat_at_ms: u64,
    glance: Glance,
    brief: Option<Brief>,
    /// Instances that left and were not told of yet.
    gone: Vec<crate::presence::Gone>,
}

impl Gossip {
    fn run(mut self, orders: &Receiver<Order>) {
        let mut due_ms = 0;
        loop {
            let now_ms = self.peers.clock.now_ms();
            if now_ms >= due_ms {
                self.tick(now_ms, None);
                due_ms = self.peers.clock.now_ms() + PEERS_PACE_MS;
                continue;
            }
            match orders.recv_timeout(Duration::from_millis(due_ms - now_ms)) {
                Ok(Order::Heard(text)) => self.hear(&text),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    return self.tick(self.peers.clock.now_ms(), Some(self.parties.grace_ms));
                }
            }
        }
    }

    fn hear(&mut self, text: &str) {
        let message: Message = match serde_json::from_str(text) {
            Ok(message) => message,
            Err(error) => {
                // Of another version, perhaps.
                tracing::debug!(target: "tidewire", %error, "another server said something that is not understood");
                return;
            }
        };
        if message.server == self.server {
            return;
        }
        self.now.ms = self.peers.clock.now_ms();
        if message.says.asks.contains(&self.server) {
            self.own.is_asked(self.now.ms + table::jitter(fastrand::f64()));
        }
        message.says.gone.iter().for_each(|gone| self.parties.presence.note_gone(gone.clone()));
        let mut news = Vec::new();
        let is_new = self.table.hear(message, self.now, fastrand::f64(), &mut news);
        news.into_iter().for_each(|news| translate::apply(&self.parties, news));
        if is_new {
            self.beat_at_ms = 0; // it is to hear of this one as well
        }
    }

    fn tick(&mut self, now_ms: u64, goodbye_ms: Option<u64>) {
        self.pass_time(now_ms);
        translate::collect(&self.parties, &mut self.own);
        self.gone.append(&mut self.parties.presence.take_gone());
        let mut news = Vec::new();
        self.table.expire(self.now, &mut news);
        news.into_iter().for_each(|news| translate::apply(&self.parties, news));
        let is_due = now_ms >= self.beat_at_ms;
        if is_due {
            self.beat_at_ms = now_ms + PEERS_BEAT_MS;
            self.look();
        }
        if self.parties.backplane.can_tell_peers() {
            let asks = self.table.take_asks(self.now, fastrand::f64());
            self.peers.counts.asked.fetch_add(asks.len() as u64, Ordering::Relaxed);
            let beat = self.brief.clone().filter(|_| is_due);
            let gone = std::mem::take(&mut self.gone);
            self.send(Says { beat, asks, gone, ..Says::default() });
            if goodbye_ms.is_some() {
                self.send(Says { goodbye_ms, ..Says::default() });
            }
        } else {
            self.gone.clear(); // they end by themselves
        }
        self.show();
    }

    /// Time in which the backplane does not answer is nobody's silence, nor is time in which this server did nothing.
    fn pass_time(&mut self, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.now.ms).min(2 * PEERS_PACE_MS);
        if self.parties.backplane.hears_peers(now_ms) {
            self.now.answering_ms += passed_ms;
        }
        self.now.ms = now_ms;
    }

    fn send(&mut self, first: Says) {
        for message in self.own.poll(self.now.ms, first) {
            match serde_json::to_string(&message) {
                Ok(text) => {
                    self.peers.counts.sent.add(text.len());
                    self.parties.backplane.tell_peers(SUBJECT, text);
                }
                Err(error) => {
                    eprintln!("tidewire: other servers could not be told (a fault of ours): {error}")
                }
            }
        }
    }

    fn look(&mut self) {
        let Parties { hub, gauges, access, .. } = &self.parties;
        let sources = Sources { gauges, hub, access };
        self.brief = Some(brief(sources, self.peers.clock.now_us(), &mut self.glance));
    }

    /// What others may see.
    fn show(&self) {
        let row = |server, is_this, is_whole, heard_ms, brief: &Option<Brief>| {
            let brief = brief.clone()?;
            Some(Row { server, is_this, is_whole, heard_ms, brief })
        };
        let this = row(self.server, true, true, self.now.ms, &self.brief);
        let others = self.table.peers();
        let others =
            others.filter_map(|(server, peer)| row(server, false, peer.is_whole, peer.heard.ms, &peer.brief));
        let mut rows: Vec<Row> = this.into_iter().chain(others).collect();
        rows.sort_by(|a, b| (&a.brief.name, a.server).cmp(&(&b.brief.name, b.server)));
        *self.peers.rows() = rows;
    }
}
