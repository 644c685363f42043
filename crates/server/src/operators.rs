//! For those who run the server: how it stands, as an event each second on a channel of its own while somebody listens
//! there; and pages of all channels, which would take a shard too long. One thread. Must not know connections, nor who
//! may read what it says.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tidewire_core::limits::{LISTINGS_WAITING, TOP_CHANNELS, TOP_TALKERS};
use tidewire_core::{ChannelName, Code, NewEvent, Payload, Problem};

use crate::access::Access;
use crate::clock::{Clock, wall_clock};
use crate::hub::{Busy, Hub, Wanted};
use crate::metrics::{Seen, Sources, statistics};
use crate::server::{Gauges, spawn};
use crate::shard::{Look, Message, Talker};

/// Where the statistics are.
pub(crate) const CHANNEL: &str = "tidewire.admin:statistics";
const EVENT_NAME: &str = "statistics";
const INTERVAL_MS: u64 = 1_000;
/// How long shards may take to tell of their connections; one that takes longer is left out.
const LOOK_TIMEOUT: Duration = Duration::from_millis(500);
/// Looking at all channels may take one in so many parts of the thread's time.
const PART: u64 = 20;

/// What the thread is asked.
#[derive(Debug)]
enum Job {
    List { wanted: Wanted, shard: u16, connection: u32, serial: u32 },
    Stop,
}

/// Where shards ask.
#[derive(Debug)]
pub(crate) struct Operators {
    jobs: SyncSender<Job>,
}

/// What came of it, before the thread exists.
#[derive(Debug)]
pub(crate) struct Jobs(Receiver<Job>);

/// Makes both ends.
pub(crate) fn prepare() -> (Operators, Jobs) {
    let (jobs, receiver) = mpsc::sync_channel(LISTINGS_WAITING);
    (Operators { jobs }, Jobs(receiver))
}

impl Operators {
    /// Has a page of the channels made; the connection's shard is told when it is there.
    ///
    /// # Errors
    /// `unavailable` when too many wait.
    pub(crate) fn list(
        &self,
        wanted: Wanted,
        shard: u16,
        connection: u32,
        serial: u32,
    ) -> Result<(), Problem> {
        let job = Job::List { wanted, shard, connection, serial };
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Problem::new(
                Code::Unavailable,
                "too many lists of channels are being made; try again in a moment",
            ),
            TrySendError::Disconnected(_) => Problem::new(Code::Unavailable, "the server is going away"),
        })
    }

    /// Ends the thread. It goes on while connections are open, so that those who watch see the last of them go.
    pub(crate) fn stop(&self) {
        // Fails only where the thread is gone already.
        let _ = self.jobs.send(Job::Stop);
    }
}

/// Starts the thread.
///
/// # Errors
/// If the system refuses a thread.
pub(crate) fn start(
    jobs: Jobs,
    hub: Arc<Hub>,
    gauges: Arc<Gauges>,
    access: Arc<Access>,
) -> anyhow::Result<JoinHandle<()>> {
    let channel = ChannelName::new(CHANNEL)?;
    let clock = hub.clock();
    let watch = Watch {
        hub,
        gauges,
        access,
        clock,
        channel,
        seen: Seen::default(),
        tops: Tops::default(),
        talked: Talked::default(),
    };
    spawn("operators", move || run(&jobs.0, watch))
}

fn run(jobs: &Receiver<Job>, mut watch: Watch) {
    let mut due_ms = watch.clock.now_ms() + INTERVAL_MS;
    loop {
        let now_ms = watch.clock.now_ms();
        if now_ms >= due_ms {
            watch.tick();
            due_ms = (due_ms + INTERVAL_MS).max(watch.clock.now_ms() + INTERVAL_MS / 2);
            continue;
        }
        match jobs.recv_timeout(Duration::from_millis(due_ms - now_ms)) {
            Ok(Job::List { wanted, shard, connection, serial }) => {
                let listed = watch.hub.list(&wanted);
                watch.hub.inboxes()[usize::from(shard)].push(Message::Listed { connection, serial, listed });
            }
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// What there is to watch, and what was seen last time.
struct Watch {
    hub: Arc<Hub>,
    gauges: Arc<Gauges>,
    access: Arc<Access>,
    clock: Clock,
    channel: ChannelName,
    seen: Seen,
    tops: Tops,
    talked: Talked,
}

/// The busiest channels, as of the last look.
#[derive(Default)]
struct Tops {
    again_ms: u64,
    shown: Value,
}

/// How many messages each had sent when that was last looked at.
#[derive(Default)]
struct Talked {
    at_ms: u64,
    users: HashMap<Arc<str>, Talker>,
    addresses: HashMap<IpAddr, Talker>,
}

impl Watch {
    fn tick(&mut self) {
        let listens = |channel: &Arc<crate::hub::Channel>| channel.has_subscribers();
        if !self.hub.find(&self.channel).ok().flatten().is_some_and(|channel| listens(&channel)) {
            // Nobody looks: nothing is counted, and nothing kept.
            (self.seen, self.tops, self.talked) = (Seen::default(), Tops::default(), Talked::default());
            return;
        }
        let talkers = self.talkers();
        self.look_at_channels();
        let sources = Sources { gauges: &self.gauges, hub: &self.hub, access: &self.access };
        let mut all = statistics(sources, self.clock.now_us(), &mut self.seen);
        all.insert("top_channels".to_owned(), self.tops.shown.clone());
        all.insert("top_talkers".to_owned(), talkers.into());
        if let Some(Value::Object(view)) = self.gauges.peers.as_ref().map(|peers| peers.view()) {
            all.extend(view);
        }
        if let Err(problem) = self.publish(&all) {
            eprintln!("tidewire: the statistics could not be published: {}", problem.detail);
        }
    }

    fn publish(&self, all: &Map<String, Value>) -> Result<(), Problem> {
        let body =
            serde_json::to_vec(all).map_err(|_| Problem::new(Code::Internal, "statistics are no JSON"))?;
        let payload = Payload::declared(Some("application/json"), Bytes::from(body))?;
        let event = NewEvent::new(payload).with(Some(EVENT_NAME), None, None)?;
        self.hub.publish(&self.channel, event, wall_clock(), None, || None).map(drop)
    }

    fn look_at_channels(&mut self) {
        let begun_ms = self.clock.now_ms();
        if begun_ms < self.tops.again_ms {
            return;
        }
        let mut tops = [
            Top::new(TOP_CHANNELS, |busy: &Busy| busy.published_per_second),
            Top::new(TOP_CHANNELS, |busy: &Busy| busy.delivered_per_second),
            Top::new(TOP_CHANNELS, |busy: &Busy| f64::from(busy.subscribers)),
            Top::new(TOP_CHANNELS, |busy: &Busy| busy.bytes as f64),
        ];
        self.hub.look(begun_ms, |busy| tops.iter_mut().for_each(|top| top.offer(&busy)));
        let done_ms = self.clock.now_ms();
        let [published, delivered, subscribers, bytes] = tops.map(Top::into_list);
        self.tops.shown = json!({"published": published, "delivered": delivered, "subscribers": subscribers, "bytes": bytes});
        self.tops.again_ms = done_ms + (done_ms - begun_ms) * PART;
    }

    /// Asks all shards who their connections belong to.
    fn talkers(&mut self) -> Map<String, Value> {
        let (reply, answers) = mpsc::channel();
        for inbox in self.hub.inboxes() {
            inbox.push(Message::Look(Box::new(Look::new(reply.clone()))));
        }
        drop(reply);
        let begun_ms = self.clock.now_ms();
        let mut now = Talked { at_ms: begun_ms, ..Talked::default() };
        for _ in self.hub.inboxes() {
            let waited = Duration::from_millis(self.clock.now_ms() - begun_ms);
            let Ok(look) = answers.recv_timeout(LOOK_TIMEOUT.saturating_sub(waited)) else { break };
            add(&mut now.users, look.users);
            add(&mut now.addresses, look.addresses);
        }
        let seconds = (begun_ms - self.talked.at_ms) as f64 / 1000.0;
        let seconds = Some(seconds).filter(|_| self.talked.at_ms > 0);
        let mut shown = Map::new();
        shown.insert(
            "users".to_owned(),
            tables(&now.users, &self.talked.users, seconds, |user| (**user).into()),
        );
        let address = |address: &IpAddr| address.to_string().into();
        shown
            .insert("addresses".to_owned(), tables(&now.addresses, &self.talked.addresses, seconds, address));
        self.talked = now;
        shown
    }
}

fn add<K: Hash + Eq>(all: &mut HashMap<K, Talker>, more: HashMap<K, Talker>) {
    for (key, talker) in more {
        let sum = all.entry(key).or_default();
        sum.connections += talker.connections;
        sum.published += talker.published;
        sum.delivered += talker.delivered;
    }
}

/// Those with the most connections, and those who send most.
fn tables<K: Hash + Eq>(
    now: &HashMap<K, Talker>,
    before: &HashMap<K, Talker>,
    seconds: Option<f64>,
    name: impl Fn(&K) -> Value,
) -> Value {
    type Row<'k, K> = (&'k K, Talker, f64);
    let mut by_connections = Top::new(TOP_TALKERS, |row: &Row<'_, K>| f64::from(row.1.connections));
    let mut by_messages = Top::new(TOP_TALKERS, |row: &Row<'_, K>| row.2);
    for (key, talker) in now {
        let sent_before = before.get(key).map_or(talker.published, |before| before.published);
        let sent = talker.published.saturating_sub(sent_before) as f64;
        let row = (key, *talker, seconds.map_or(0.0, |seconds| sent / seconds));
        by_connections.offer(&row);
        by_messages.offer(&row);
    }
    let show = |(key, talker, rate): Row<'_, K>| {
        json!({
            "name": name(key),
            "connections": talker.connections,
            "published": talker.published,
            "delivered": talker.delivered,
            "published_per_second": rate,
        })
    };
    let list = |top: Top<Row<'_, K>>| top.into_list().into_iter().map(show).collect::<Vec<_>>();
    json!({"connections": list(by_connections), "messages": list(by_messages)})
}

/// Those of many with the most of something. Holds no more than twice as many.
struct Top<T> {
    most: usize,
    of: fn(&T) -> f64,
    kept: Vec<T>,
    least: f64,
}

impl<T: Clone> Top<T> {
    fn new(most: usize, of: fn(&T) -> f64) -> Self {
        Self { most, of, kept: Vec::new(), least: 0.0 }
    }

    fn offer(&mut self, one: &T) {
        if (self.of)(one) <= self.least {
            return;
        }
        self.kept.push(one.clone());
        if self.kept.len() >= 2 * self.most {
            self.trim();
            self.least = self.kept.last().map_or(0.0, self.of);
        }
    }

    fn trim(&mut self) {
        self.kept.sort_by(|a, b| (self.of)(b).total_cmp(&(self.of)(a)));
        self.kept.truncate(self.most);
    }

    fn into_list(mut self) -> Vec<T> {
        self.trim();
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_are_found_in_order_and_nothings_are_left_out() {
        let mut top = Top::new(3, |number: &u32| f64::from(*number));
        (0..1000u32).map(|number| number * 7919 % 1000).for_each(|number| top.offer(&number));
        assert_eq!(top.into_list(), [999, 998, 997]);
        let mut idle = Top::new(3, |number: &u32| f64::from(*number));
        (0..5).for_each(|_| idle.offer(&0));
        assert!(idle.into_list().is_empty());
    }
}
