//! What is known of the other servers: what each tells of, whether that is all of it, and whether it is still there.
//! Must not know what it is about, nor how messages come. Time is an argument.

use std::collections::BTreeMap;
use std::ops::Bound;

use serde_json::value::RawValue;
use tidewire_core::limits::{
    PEERS, PEERS_ASK_AGAIN_MS, PEERS_ASK_SPREAD_MS, PEERS_ASKED_AT_ONCE, PEERS_FORGOTTEN_MS, PEERS_SILENCE_MS,
};

use super::message::{Change, Facts, Message, Range, Says};
use crate::metrics::Brief;

/// What time it is, and how long the backplane has answered until then: a server is not gone because nobody is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Now {
    pub(super) ms: u64,
    pub(super) answering_ms: u64,
}

/// What a server says otherwise than before.
#[derive(Debug)]
pub(super) struct News {
    pub(super) server: u64,
    pub(super) name: Box<str>,
    pub(super) before: Option<Box<RawValue>>,
    pub(super) after: Option<Box<RawValue>>,
}

/// All other servers.
#[derive(Debug, Default)]
pub(super) struct Table {
    peers: BTreeMap<u64, Peer>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Peer {
    facts: Facts,
    /// Of the newest message.
    number: u64,
    /// Nothing that it told of is missing here.
    pub(super) is_whole: bool,
    /// All of it is being told, and was heard up to here.
    covered: Option<Box<str>>,
    /// When it is asked for that.
    ask_at_ms: u64,
    /// Until when its answer may be on its way.
    answers_until_ms: u64,
    pub(super) heard: Now,
    /// Once it has said goodbye: until when what it told of stays.
    ends_ms: Option<u64>,
    pub(super) brief: Option<Brief>,
}

impl Table {
    /// Takes a message; what it changes is added to `news`. True if it is the first of that server.
    pub(super) fn hear(&mut self, message: Message, now: Now, spread: f64, news: &mut Vec<News>) -> bool {
        let Message { server, number, says } = message;
        let is_new = !self.peers.contains_key(&server);
        if is_new && self.peers.len() >= PEERS {
            return false;
        }
        let peer = self.peers.entry(server).or_insert_with(|| Peer::new(number, now, spread));
        if number <= peer.number {
            return is_new; // heard before
        }
        if number != peer.number + 1 {
            peer.miss(now, spread);
        }
        peer.number = number;
        peer.heard = now;
        let Says { beat, facts, range, goodbye_ms, .. } = says;
        if beat.is_some() {
            peer.brief = beat;
        }
        if let Some(goodbye_ms) = goodbye_ms {
            peer.ends_ms = Some(now.ms + goodbye_ms);
        }
        match range {
            Some(range) => peer.take_slice(server, range, facts, now, news),
            None => facts.into_iter().for_each(|fact| peer.take(server, fact, news)),
        }
        is_new
    }

    /// Who is to be asked for all that they tell of.
    pub(super) fn take_asks(&mut self, now: Now, spread: f64) -> Vec<u64> {
        let answers = |peer: &&Peer| !peer.is_whole && peer.answers_until_ms > now.ms;
        let room = PEERS_ASKED_AT_ONCE.saturating_sub(self.peers.values().filter(answers).count());
        let is_due = |peer: &Peer| !peer.is_whole && peer.ends_ms.is_none() && peer.ask_at_ms <= now.ms;
        let due = self.peers.iter_mut().filter(|(_, peer)| is_due(peer));
        let ask = |(server, peer): (&u64, &mut Peer)| {
            peer.answers_until_ms = now.ms + PEERS_ASK_AGAIN_MS;
            peer.ask_at_ms = peer.answers_until_ms + jitter(spread);
            *server
        };
        due.take(room).map(ask).collect()
    }

    /// Forgets those who are gone, with all that they told of.
    pub(super) fn expire(&mut self, now: Now, news: &mut Vec<News>) {
        let is_gone = |peer: &Peer| match peer.ends_ms {
            Some(ends_ms) => ends_ms <= now.ms,
            None => {
                now.answering_ms - peer.heard.answering_ms > PEERS_SILENCE_MS
                    || now.ms - peer.heard.ms > PEERS_FORGOTTEN_MS
            }
        };
        for (server, peer) in self.peers.extract_if(.., |_, peer| is_gone(peer)) {
            let gone = |(name, before)| News { server, name, before: Some(before), after: None };
            news.extend(peer.facts.into_iter().map(gone));
        }
    }

    /// Those who are there.
    pub(super) fn peers(&self) -> impl Iterator<Item = (u64, &Peer)> {
        let is_there = |peer: &Peer| peer.ends_ms.is_none();
        self.peers.iter().filter(move |(_, peer)| is_there(peer)).map(|(server, peer)| (*server, peer))
    }

    #[cfg(test)]
    pub(super) fn facts_of(&self, server: u64) -> Option<&Facts> {
        self.peers.get(&server).map(|peer| &peer.facts)
    }
}

impl Peer {
    fn new(number: u64, now: Now, spread: f64) -> Self {
        Self {
            facts: Facts::new(),
            number: number.saturating_sub(1),
            // Before its first message it had told of nothing.
            is_whole: number == 1,
            covered: None,
            ask_at_ms: now.ms + jitter(spread),
            answers_until_ms: 0,
            heard: now,
            ends_ms: None,
            brief: None,
        }
    }

    /// A message was lost.
    fn miss(&mut self, now: Now, spread: f64) {
        if self.is_whole {
            self.ask_at_ms = now.ms + jitter(spread);
        }
        (self.is_whole, self.covered) = (false, None);
    }

    fn take(&mut self, server: u64, (name, after): Change, news: &mut Vec<News>) {
        let before = match &after {
            Some(value) => self.facts.insert(name.clone(), value.clone()),
            None => self.facts.remove(&name),
        };
        if before.as_ref().map(|value| value.get()) != after.as_ref().map(|value| value.get()) {
            news.push(News { server, name, before, after });
        }
    }

    /// Takes a slice of all that it tells of: what is not in it is not so any more.
    fn take_slice(&mut self, server: u64, range: Range, facts: Vec<Change>, now: Now, news: &mut Vec<News>) {
        let Range { after, to } = range;
        if to.as_ref().is_some_and(|to| *to <= after) {
            return; // no range
        }
        let end = to.as_deref().map_or(Bound::Unbounded, Bound::Included);
        let known = self.facts.range::<str, _>((Bound::Excluded(&*after), end));
        let is_told = |name: &str| facts.binary_search_by(|(told, _)| (**told).cmp(name)).is_ok();
        let outdated: Vec<Box<str>> =
            known.filter(|(name, _)| !is_told(name)).map(|(name, _)| name.clone()).collect();
        outdated.into_iter().for_each(|name| self.take(server, (name, None), news));
        facts.into_iter().for_each(|fact| self.take(server, fact, news));
        let is_covered = after.is_empty() || self.covered.as_ref() == Some(&after);
        match to {
            None => (self.is_whole, self.covered) = (self.is_whole || is_covered, None),
            Some(to) => self.covered = is_covered.then_some(to),
        }
        // More of it is on its way.
        self.answers_until_ms = now.ms + PEERS_ASK_AGAIN_MS;
        self.ask_at_ms = self.ask_at_ms.max(self.answers_until_ms);
    }
}

/// A part of the time over which those who ask are spread.
pub(super) fn jitter(spread: f64) -> u64 {
    (PEERS_ASK_SPREAD_MS as f64 * spread) as u64
}
