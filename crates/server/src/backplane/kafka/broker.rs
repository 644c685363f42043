//! The broker's seam, spoken to Kafka: what is asked becomes records, or is answered from what the log says. Must not know
//! how a partition is read and written.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use tidewire_core::limits::{Limits, Policy, StateKind};
use tidewire_core::{ChannelName, Code, Event, EventId, Problem, Timestamp, record};
use tokio::sync::mpsc;

use super::address::Address;
use super::channel::Kept;
use super::connection::Dialer;
use super::front;
use super::machine::{Outcome, Shared};
use super::partition::{Draft, Reaction, keeps};
use super::requests::problem;
use super::session::{Session, Slot, Store};
use super::topic::Topic;
use super::words::{self, Body};
use crate::access::sealed::Secret;
use crate::backplane::broker::{
    Answer, Append, Appended, Arrival, Broker, BrokerError, Known, Notice, Standing, StateAt,
};
use crate::clock::wall_clock;

/// Where announcements are, and what all nodes know.
const COMMON: i32 = 0;
/// How much of a partition is read at once for a few events of it, at least.
const READ_BYTES: usize = 16 << 10;
const READ_BYTES_MAX: usize = 1 << 20;
/// How long it may take to find or make the topic, at least.
const TOPIC_TIME: Duration = Duration::from_secs(5);
/// What a record has that counts for nothing.
const RECORD_EXTRA: usize = 256;

/// Where a Kafka is, and what this node knows of its log.
pub(crate) struct Target {
    address: Arc<Address>,
    node: u64,
    timeout: Duration,
    store: Arc<Store>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kafka at {:?}", self.address.hosts)
    }
}

impl Target {
    /// Reads a URL, as [`Address::parse`].
    pub(crate) fn parse(url: &str, node: u64, timeout: Duration) -> anyhow::Result<Self> {
        Ok(Self { address: Arc::new(Address::parse(url)?), node, timeout, store: Arc::default() })
    }

    /// Connects. The log has this number and secret if it has none yet.
    pub(in crate::backplane) async fn connect(
        &self,
        known: Option<Known>,
    ) -> Result<Box<dyn Broker + Send>, BrokerError> {
        let dialer = Dialer::new(Arc::clone(&self.address), self.timeout)?;
        // To make a topic takes longer than to write to it.
        let patient = dialer.patient(TOPIC_TIME);
        let topic = match tokio::time::timeout(TOPIC_TIME * 2, Topic::find(&patient)).await {
            Ok(found) => found?,
            Err(_) => return Err(problem("its topic is there, and its partitions have no leaders")),
        };
        let (session, notices) = Session::begin(dialer, topic, self.node, Arc::clone(&self.store));
        // Dropped, it ends the session.
        let broker = KafkaBroker { session, notices: RefCell::new(notices) };
        let session = &broker.session;
        if let Some(known) = known {
            session.know(known);
        }
        let common = session.slot(COMMON);
        // Those that were read before, too: they go on from there, or are told of a loss.
        for slot in session.slots() {
            session.outlasts(session.is_ready(&slot)).await?;
        }
        loop {
            if let Some(shared) = session.with(&common, |machine| machine.shared) {
                session.know(self.agree(known, &shared, session.topic.leaders.len())?);
                break;
            }
            let mut secret = known.map_or(Secret::default(), |known| known.secret);
            if known.is_none() {
                getrandom::fill(&mut secret).map_err(|_| problem("the system gives no random numbers"))?;
            }
            let number = known.map_or_else(|| fastrand::u64(1..), |known| known.number);
            let partitions = session.topic.leaders.len() as u32;
            let body = Body::Known { number, secret, partitions };
            session.order(&common, Draft::Other(Bytes::new(), body)).await?;
        }
        let keeper = Arc::clone(session);
        session.spawn(async move { front::keep(&keeper).await });
        Ok(Box::new(broker))
    }

    fn agree(&self, known: Option<Known>, shared: &Shared, partitions: usize) -> Result<Known, BrokerError> {
        if shared.partitions as usize != partitions {
            return Err(problem(&format!(
                "the topic {} has {partitions} partitions and had {} when it was begun, so channels would be \
                 elsewhere; use a topic with another prefix",
                self.address.topic, shared.partitions
            )));
        }
        match known {
            // Ids that clients hold were made of the number that this node has; another log is not theirs.
            Some(known) if known.number != shared.number => Err(problem(
                "it has another log than before, or than the first server; give each a prefix of its own",
            )),
            _ => Ok(Known { number: shared.number, secret: shared.secret }),
        }
    }
}

/// A Kafka.
struct KafkaBroker {
    session: Arc<Session>,
    notices: RefCell<mpsc::Receiver<Notice>>,
}

impl Drop for KafkaBroker {
    fn drop(&mut self) {
        self.session.end();
    }
}

impl KafkaBroker {
    /// Orders a record now, and gives what becomes of it.
    fn order(&self, slot: &Arc<Slot>, key: &str, body: Body) -> Answer<Outcome> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let reaction = slot.partition.order(Draft::Other(key, body));
        let (session, slots) = (Arc::clone(&self.session), [Arc::clone(slot)]);
        Box::pin(async move {
            let answered =
                async { reaction.await.map_err(|_| problem("the connection ended before it answered")) };
            match session.bounded(&slots, answered).await? {
                Reaction::Other(outcome) => Ok(outcome),
                _ => Err(problem("a record was answered as another one")),
            }
        })
    }
}

impl Broker for KafkaBroker {
    fn known(&self) -> Known {
        self.session.known().unwrap_or(Known { number: 0, secret: Secret::default() })
    }

    fn is_sparse(&self) -> bool {
        true
    }

    fn say_once(&self, what: &str, keep_ms: u64) -> Answer<bool> {
        let slot = self.session.slot_of(what);
        let said = self.order(&slot, what, Body::Once { keep_ms });
        Box::pin(async move {
            match said.await? {
                Outcome::First(is_first) => Ok(is_first),
                _ => Err(problem("others have changed the log meanwhile")),
            }
        })
    }

    fn announce(&self, subject: &str, what: &str, is_kept: bool) -> Answer<()> {
        let (subject, what) = (subject.to_owned(), what.to_owned());
        let body = Body::Announce { is_kept, is_again: false, subject, what };
        let said = self.order(&self.session.slot(COMMON), "", body);
        Box::pin(async move {
            match said.await? {
                Outcome::Announced(..) => Ok(()),
                _ => Err(problem("others have changed the log meanwhile")),
            }
        })
    }

    fn announced(&self) -> Answer<Vec<(String, String)>> {
        let session = Arc::clone(&self.session);
        Box::pin(async move {
            let slot = session.slot(COMMON);
            session.bounded(&[], session.is_fresh(&slot)).await?;
            let board = |(subject, (what, _)): (&String, &(String, u64))| (subject.clone(), what.clone());
            Ok(session.with(&slot, |machine| machine.board.iter().map(board).collect()))
        })
    }

    fn forget(&self, announced: &[(String, String)]) -> Answer<()> {
        let slot = self.session.slot(COMMON);
        let said = announced.iter().map(|(subject, what)| {
            let body = Body::Forget { subject: subject.clone(), what: what.clone() };
            self.order(&slot, "", body)
        });
        let said = try_join_all(said.collect::<Vec<_>>());
        Box::pin(async move { said.await.map(drop) })
    }

    fn append(&self, appends: Vec<Append>, limits: &Limits) -> Answer<Vec<Appended>> {
        let limits = Arc::new(limits.clone());
        let slots = self.session.slots_of(appends.iter().map(|append| &append.name));
        let ordered: Vec<_> = appends
            .into_iter()
            .map(|append| {
                let slot = self.session.slot_of(append.name.as_str());
                slot.partition.order(Draft::Event(Box::new(append), Arc::clone(&limits)))
            })
            .collect();
        let session = Arc::clone(&self.session);
        Box::pin(async move {
            let answered = async {
                let all = try_join_all(ordered).await;
                all.map_err(|_| problem("the connection ended before it answered"))
            };
            session.bounded(&slots, answered).await?.into_iter().map(appended).collect()
        })
    }

    fn follow(&self, names: &[ChannelName]) -> Answer<()> {
        self.session.follow(names);
        Box::pin(std::future::ready(Ok(())))
    }

    fn unfollow(&self, names: &[ChannelName]) -> Answer<()> {
        self.session.unfollow(names);
        Box::pin(std::future::ready(Ok(())))
    }

    fn look(&self, channels: &[(ChannelName, Arc<Policy>)]) -> Answer<Vec<Standing>> {
        let session = Arc::clone(&self.session);
        let channels = channels.to_vec();
        let slots = session.slots_of(channels.iter().map(|(name, _)| name));
        Box::pin(async move { session.bounded(&slots, session.look(&slots, &channels)).await })
    }

    fn read(
        &self,
        name: &ChannelName,
        after: u64,
        last: u64,
        events_max: usize,
        bytes_max: usize,
    ) -> Answer<Vec<Arrival>> {
        let (session, name) = (Arc::clone(&self.session), name.clone());
        let slot = session.slot_of(name.as_str());
        Box::pin(async move {
            let reading = async {
                session.is_ready(&slot).await;
                let wanted = slot.partition.lock().kept_after(&name, after, last, events_max, bytes_max);
                session.events(&slot, &name, wanted).await
            };
            // Readers wait in turn, so that all of them are slower than one; each question has its own time.
            session.outlasts(reading).await?
        })
    }

    fn state(&self, name: &ChannelName, policy: &Arc<Policy>) -> Answer<StateAt> {
        let (session, name, policy) = (Arc::clone(&self.session), name.clone(), Arc::clone(policy));
        let slots = [session.slot_of(name.as_str())];
        Box::pin(async move { session.bounded(&slots, session.state(&slots[0], &name, &policy)).await })
    }

    fn delete(&self, name: &ChannelName) -> Answer<u64> {
        let slot = self.session.slot_of(name.as_str());
        let deleted = self.order(&slot, name.as_str(), Body::Delete);
        Box::pin(async move {
            match deleted.await? {
                Outcome::Deleted(head) => Ok(head),
                _ => Err(problem("others have changed the log meanwhile")),
            }
        })
    }

    fn ping(&self) -> Answer<()> {
        let session = Arc::clone(&self.session);
        Box::pin(async move {
            let slot = session.slot(COMMON);
            session.bounded(&[], session.is_fresh(&slot)).await
        })
    }

    fn notice(&self) -> Pin<Box<dyn Future<Output = Option<Notice>> + '_>> {
        Box::pin(std::future::poll_fn(|context| match self.notices.try_borrow_mut() {
            Ok(mut notices) => notices.poll_recv(context),
            Err(_) => std::task::Poll::Pending,
        }))
    }
}

fn appended(reaction: Reaction) -> Result<Appended, BrokerError> {
    Ok(match reaction {
        Reaction::Stored(arrival) => Appended::Stored(arrival),
        Reaction::Refused(problem) | Reaction::Other(Outcome::Refused(problem)) => Appended::Refused(problem),
        Reaction::Other(Outcome::Known(receipt)) => Appended::Known(receipt),
        Reaction::Other(_) => Appended::Refused(Problem::new(
            Code::BackplaneUnavailable,
            "the backplane has lost events, and this one came while that was found out; nothing was stored. Try \
             again",
        )),
    })
}

/// How a channel stands, where its newest event is and what was before it, and what to say again.
type Stood = (Standing, Option<(u64, Kept)>, Option<Body>);

fn key_of(name: &ChannelName) -> Bytes {
    Bytes::copy_from_slice(name.as_str().as_bytes())
}

/// Answers from what the log says.
impl Session {
    /// What a future gives, while the session lasts; however long it takes.
    async fn outlasts<T>(&self, future: impl Future<Output = T>) -> Result<T, BrokerError> {
        tokio::select! {
            outcome = future => Ok(outcome),
            error = self.failed() => Err(error),
        }
    }

    async fn look(
        self: &Arc<Self>,
        slots: &[Arc<Slot>],
        channels: &[(ChannelName, Arc<Policy>)],
    ) -> Result<Vec<Standing>, BrokerError> {
        try_join_all(slots.iter().map(|slot| self.is_fresh(slot))).await?;
        try_join_all(channels.iter().map(|(name, policy)| self.look_at(name, policy))).await
    }

    async fn look_at(self: &Arc<Self>, name: &ChannelName, policy: &Policy) -> Result<Standing, BrokerError> {
        let slot = self.slot_of(name.as_str());
        loop {
            let Some((standing, latest, stay)) = self.standing(&slot, name, policy) else {
                self.begin_channel(&slot, name).await?;
                continue;
            };
            if let Some(stay) = stay {
                // Nobody waits for that.
                drop(slot.partition.order(Draft::Other(key_of(name), stay)));
            }
            let latest = self.events(&slot, name, latest.into_iter().collect()).await?;
            return Ok(Standing { latest: latest.into_iter().next(), ..standing });
        }
    }

    /// A channel to which nobody has published begins here, for all nodes.
    async fn begin_channel(&self, slot: &Slot, name: &ChannelName) -> Result<(), BrokerError> {
        self.order(slot, Draft::Other(key_of(name), Body::Begin)).await.map(drop)
    }

    /// How a channel stands, where its newest event is, and what must be said again so that it is not forgotten.
    fn standing(&self, slot: &Slot, name: &ChannelName, policy: &Policy) -> Option<Stood> {
        let now_ms = wall_clock().0;
        let mut inner = slot.partition.lock();
        let lost = inner.machine.lost;
        let channel = inner.machine.channels.get_mut(name)?;
        if channel.is_forgotten(now_ms) {
            return None;
        }
        let age_ms = policy.retention.age_ms;
        channel.expire(now_ms, age_ms);
        let stay = channel.fades(now_ms).then(|| {
            channel.touch(now_ms);
            Body::Stay { head: channel.head, stay: channel.standing(lost) }
        });
        let (head, extent) = (channel.head, channel.extent(now_ms, age_ms));
        let standing =
            Standing { head, extent, seams: channel.seams.iter().copied().collect(), latest: None };
        let latest = channel.kept.back().copied().map(|kept| {
            let before = channel.kept.len().checked_sub(2).and_then(|at| channel.kept.get(at));
            (before.map_or(channel.floor, |before| before.offset), kept)
        });
        Some((standing, latest.filter(|_| keeps(policy)), stay))
    }

    /// The events that are there, from memory or from the log. Ends before one that has gone meanwhile.
    async fn events(
        &self,
        slot: &Slot,
        name: &ChannelName,
        wanted: Vec<(u64, Kept)>,
    ) -> Result<Vec<Arrival>, BrokerError> {
        let mut here = slot.partition.lock().in_memory(&wanted);
        let epoch = self.epoch(name);
        for (index, (_, kept)) in wanted.iter().enumerate() {
            if here.contains_key(&kept.position) {
                continue;
            }
            let near = wanted[index..].iter().take_while(|(_, other)| !here.contains_key(&other.position));
            let bytes: usize = near.map(|(_, other)| other.bytes as usize + RECORD_EXTRA).sum();
            let bytes = (bytes * 2).clamp(READ_BYTES, READ_BYTES_MAX);
            for read in self.read_at(slot, kept.position, bytes).await?.records {
                let Ok(at) = wanted.binary_search_by_key(&read.position, |(_, kept)| kept.position) else {
                    continue;
                };
                let Some((_, Body::Event { record, .. })) = words::decode(&read.value) else { continue };
                let kept = &wanted[at].1;
                let id = EventId { epoch, offset: kept.offset };
                if let Ok(event) = record::decode(name, id, &record) {
                    let event = Event { time: Timestamp(kept.time_ms), ..event };
                    here.insert(read.position, Arc::new(event));
                }
            }
            if !here.contains_key(&kept.position) {
                break;
            }
        }
        let arrivals = wanted.into_iter().map_while(|(prev, kept)| {
            let event = here.remove(&kept.position)?;
            Some(Arrival { event, prev, lossy: kept.is_lossy, extent: None })
        });
        Ok(arrivals.collect())
    }

    async fn state(&self, slot: &Slot, name: &ChannelName, policy: &Policy) -> Result<StateAt, BrokerError> {
        self.is_fresh(slot).await?;
        let (standing, latest, _) = loop {
            match self.standing(slot, name, policy) {
                Some(standing) => break standing,
                None => self.begin_channel(slot, name).await?,
            }
        };
        let events = if policy.state == StateKind::Keyed {
            self.keyed(slot, name)
        } else {
            let latest = self.events(slot, name, latest.into_iter().collect()).await?;
            latest.into_iter().map(|arrival| arrival.event).collect()
        };
        Ok(StateAt { head: standing.head, events, extent: standing.extent })
    }

    fn keyed(&self, slot: &Slot, name: &ChannelName) -> Vec<Arc<Event>> {
        let epoch = self.epoch(name);
        let inner = slot.partition.lock();
        let held = inner.machine.channels.get(name).map(|channel| channel.state.values());
        let events = held.into_iter().flatten().filter_map(|held| {
            let id = EventId { epoch, offset: held.offset };
            let event = record::decode(name, id, &held.record).ok()?;
            Some(Arc::new(Event { time: Timestamp(held.time_ms), ..event }))
        });
        let mut events: Vec<Arc<Event>> = events.collect();
        events.sort_by_key(|event| event.id.offset);
        events
    }
}
