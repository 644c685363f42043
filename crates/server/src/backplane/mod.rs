//! The brokers that all nodes share, as the rest of the server has them: orders go in, and what becomes of them comes
//! back through the shards' inboxes and the channels. Must not know what a broker is made of (`redis`), nor wait.

mod broker;
mod follow;
mod link;
pub(crate) mod redis;
mod replies;
mod worker;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tidewire_core::limits::{Limits, Policy};
use tidewire_core::{ChannelName, NewEvent, Problem};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub(crate) use self::redis::Target;
use broker::Known;
pub(crate) use broker::{Arrival, Extent, Seam, Standing};
use link::{Link, Order, Publication, Visitor};

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
}

/// Brokers to which the connections stand, and what they say that the log's number is.
pub(crate) struct Opened {
    brokers: Vec<worker::Connected>,
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
            let connected = worker::Connected::open(target, known)?;
            known = known.or(Some(connected.known()));
            brokers.push(connected);
            links.push(Arc::new(Link::new(shown(url))));
        }
        let known = known.ok_or_else(|| anyhow::anyhow!("no backplane is named"))?;
        let opened = Opened { brokers, known };
        Ok((Arc::new(Self { links, chunks: Chunks::default() }), opened))
    }

    /// Serves the orders, a thread for each broker.
    ///
    /// # Errors
    /// If the system refuses threads.
    pub(crate) fn start(
        self: &Arc<Self>,
        hub: &Arc<Hub>,
        opened: Opened,
    ) -> anyhow::Result<Vec<JoinHandle<()>>> {
        let mut threads = Vec::new();
        for (index, (link, connected)) in self.links.iter().zip(opened.brokers).enumerate() {
            let (hub, backplane, link) = (Arc::clone(hub), Arc::clone(self), Arc::clone(link));
            let run = move || {
                let _guard = crate::server::AbortOnPanic;
                worker::run(hub, backplane, link, connected);
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
            answers: &link.answers,
        })
    }

    /// Ends the threads, once all that is waiting is done.
    pub(crate) fn stop(&self) {
        self.links.iter().for_each(|link| link.stop());
    }
}

/// A URL without what must not be in a log.
pub(crate) fn shown(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{host}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(super::shown("redis://u:p@host:1/0?x=y"), "redis://host:1/0");
        assert_eq!(super::shown("redis://host"), "redis://host");
    }
}
