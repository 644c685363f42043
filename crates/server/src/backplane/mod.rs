//! The brokers that all nodes share, as the rest of the server has them: orders go in, and what becomes of them comes
//! back through the shards' inboxes and the channels. Must not know what a broker is made of (`redis`, `nats`, `kafka`),
//! nor wait.

mod broker;
mod follow;
pub(crate) mod kafka;
mod link;
pub(crate) mod nats;
pub(crate) mod redis;
mod replies;
mod target;
mod worker;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use tidewire_core::limits::{Limits, Policy};
use tidewire_core::{ChannelName, NewEvent, Problem};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use broker::Known;
pub(crate) use broker::{Arrival, Extent, Seam, Standing};
use link::{Link, Order, Publication, Visitor};
pub(crate) use target::{Target, shown, split};
use worker::Connected;

use crate::hub::Hub;
use crate::metrics::Histogram;
use crate::server::spawn;
use crate::store::commit::Waiter;
use crate::store::load::{Chunks, Load};
use crate::traces::Trace;

/// What the configuration says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackplaneSettings {
    /// Its servers, each with channels of its own.
    pub urls: Vec<String>,
}

/// All brokers of this node.
#[derive(Debug)]
pub(crate) struct Backplane {
    links: Vec<Arc<Link>>,
    pub(crate) chunks: Chunks,
    herald: OnceLock<Herald>,
}

/// Acts on what is announced of a subject. False if it is too old to be kept.
pub(crate) struct Herald(pub(crate) Heed);

/// A subject, and what was announced of it.
pub(crate) type Heed = Box<dyn Fn(&str, &str) -> bool + Send + Sync>;

impl fmt::Debug for Herald {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Herald")
    }
}

/// Brokers to which the connections stand, and what they say that the log's number is.
pub(crate) struct Opened {
    brokers: Vec<Connected>,
    pub(crate) known: Known,
}

/// How a broker is.
#[derive(Debug)]
pub(crate) struct Health<'l> {
    pub(crate) is_away: bool,
    pub(crate) waiting_bytes: usize,
    /// How long it takes to answer for publishes.
    pub(crate) answers: &'l Histogram,
}

impl Backplane {
    /// Connects to all brokers.
    ///
    /// # Errors
    /// Says which cannot be reached, and why.
    pub(crate) fn open(settings: &BackplaneSettings, limits: &Limits) -> anyhow::Result<(Arc<Self>, Opened)> {
        let timeout = Duration::from_millis(limits.backplane_timeout_ms);
        let node = fastrand::u64(..);
        let (mut links, mut brokers) = (Vec::new(), Vec::new());
        // The first one knows, and the others are told.
        let mut known = None;
        for url in &settings.urls {
            let target = Target::parse(url, node, timeout)?;
            let connected = Connected::open(target, known)?;
            known = known.or(Some(connected.known()));
            links.push(Arc::new(Link::new(shown(url), connected.is_sparse())));
            brokers.push(connected);
        }
        let known = known.ok_or_else(|| anyhow::anyhow!("no backplane is named"))?;
        let opened = Opened { brokers, known };
        Ok((Arc::new(Self { links, chunks: Chunks::default(), herald: OnceLock::new() }), opened))
    }

    /// Serves the orders, a thread for each broker. What was announced before is acted on when this returns.
    ///
    /// # Errors
    /// If the system refuses threads, or a broker does not answer.
    pub(crate) fn start(
        self: &Arc<Self>,
        hub: &Arc<Hub>,
        herald: Herald,
        opened: Opened,
    ) -> anyhow::Result<Vec<JoinHandle<()>>> {
        for (subject, what) in opened.brokers.first().map_or_else(|| Ok(Vec::new()), Connected::announced)? {
            (herald.0)(&subject, &what);
        }
        let _ = self.herald.set(herald);
        let mut threads = Vec::new();
        for (index, (link, connected)) in self.links.iter().zip(opened.brokers).enumerate() {
            let (hub, backplane, link) = (Arc::clone(hub), Arc::clone(self), Arc::clone(link));
            let run = move || {
                let _guard = crate::server::AbortOnPanic;
                worker::run(hub, backplane, link, connected, index == 0);
            };
            threads.push(spawn(&format!("backplane-{index}"), run)?);
        }
        Ok(threads)
    }

    /// The broker of a channel: the one that likes its name best, so that another number of brokers moves as few
    /// channels as can be.
    fn link_of(&self, name: &str) -> &Arc<Link> {
        let liking = |index: usize| xxh3_64_with_seed(name.as_bytes(), index as u64 + 1);
        let index = (0..self.links.len()).max_by_key(|index| liking(*index)).unwrap_or(0);
        &self.links[index]
    }

    /// Appends an event; the waiter is told when the broker has it.
    ///
    /// # Errors
    /// `backplane_unavailable` if the broker is away, or has more waiting than it may.
    pub(crate) fn publish(
        &self,
        name: &ChannelName,
        policy: Arc<Policy>,
        new: NewEvent,
        trace: Option<(Arc<Trace>, u64)>,
        waiter: impl FnOnce() -> Option<Waiter>,
    ) -> Result<(), Problem> {
        let link = self.link_of(name.as_str());
        link.check()?;
        let name = name.clone();
        link.push(Order::Publish(Publication { name, policy, new, waiter: waiter(), trace }));
        Ok(())
    }

    /// Deletes all that a channel has.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub(crate) fn delete(&self, name: &ChannelName, waiter: impl FnOnce() -> Waiter) -> Result<(), Problem> {
        let link = self.link_of(name.as_str());
        link.check()?;
        link.push(Order::Delete { name: name.clone(), waiter: waiter() });
        Ok(())
    }

    /// Has a channel followed, or looked at anew if it is already; the connection is told when that is done.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub(crate) fn visit(
        &self,
        name: &ChannelName,
        shard: u16,
        connection: u32,
        serial: u32,
    ) -> Result<(), Problem> {
        let link = self.link_of(name.as_str());
        link.check()?;
        link.push(Order::Visit { name: name.clone(), visitor: Visitor { shard, connection, serial } });
        Ok(())
    }

    /// Spends a ticket; the connection is told whether it was good. All servers ask the same broker.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub(crate) fn spend(
        &self,
        ticket: String,
        keep_ms: u64,
        shard: u16,
        connection: u32,
        serial: u32,
    ) -> Result<(), Problem> {
        let link = self.link_of(&ticket);
        link.check()?;
        link.push(Order::Spend { what: ticket, keep_ms, visitor: Visitor { shard, connection, serial } });
        Ok(())
    }

    /// Tells all servers something of a subject, by the first broker; the connection is told when that has it.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub(crate) fn announce(
        &self,
        (subject, what): (String, String),
        is_kept: bool,
        (shard, connection, serial): (u16, u32, u32),
    ) -> Result<(), Problem> {
        let Some(link) = self.links.first() else { return Ok(()) };
        link.check()?;
        let visitor = Visitor { shard, connection, serial };
        link.push(Order::Announce { subject, what, is_kept, visitor });
        Ok(())
    }

    /// Tells all servers something that is of no use later.
    pub(crate) fn tell_peers(&self, subject: &'static str, what: String) {
        if let Some(link) = self.links.first() {
            link.tell(subject, what);
        }
    }

    /// Whether that can be done now.
    pub(crate) fn can_tell_peers(&self) -> bool {
        self.links.first().is_some_and(|link| link.can_tell())
    }

    /// Whether what other servers say can be heard now.
    pub(crate) fn hears_peers(&self, now_ms: u64) -> bool {
        self.links.first().is_some_and(|link| link.answers(now_ms))
    }

    /// Acts on what another server announced.
    fn hear(&self, subject: &str, what: &str) -> bool {
        self.herald.get().is_none_or(|herald| (herald.0)(subject, what))
    }

    /// Whether a channel's offsets are sparse.
    pub(crate) fn is_sparse(&self, name: &str) -> bool {
        self.link_of(name).is_sparse
    }

    /// Whether the broker of a channel is away.
    pub(crate) fn is_away(&self, name: &str) -> bool {
        self.link_of(name).is_away()
    }

    /// Has the broker drop what has expired of a channel, and say how it stands.
    pub(crate) fn look(&self, name: &ChannelName) {
        self.link_of(name.as_str()).push(Order::Look { name: name.clone() });
    }

    /// Nobody wants a channel any more.
    pub(crate) fn leave(&self, name: &ChannelName) {
        self.link_of(name.as_str()).push(Order::Leave { name: name.clone() });
    }

    pub(crate) fn load(&self, load: Load) {
        self.link_of(load.channel.name().as_str()).push(Order::Load(load));
    }

    /// Has a refusal told.
    pub(crate) fn refuse(&self, waiter: Waiter, problem: Problem) {
        if let Some(link) = self.links.first() {
            link.push(Order::Refuse { waiter, problem });
        }
    }

    /// How many bytes wait to be sent to the broker that has most of them.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.links.iter().map(|link| link.bytes()).max().unwrap_or(0)
    }

    /// How each broker is, in the order of the configuration.
    pub(crate) fn health(&self) -> impl Iterator<Item = Health<'_>> {
        self.links.iter().map(|link| Health {
            is_away: link.is_away(),
            waiting_bytes: link.bytes(),
            answers: &link.durations,
        })
    }

    /// Ends the threads, once all that is waiting is done.
    pub(crate) fn stop(&self) {
        self.links.iter().for_each(|link| link.stop());
    }
}
