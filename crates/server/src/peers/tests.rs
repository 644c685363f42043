//! Servers that tell one another things over a network that loses, repeats and delays messages come to know the same;
//! and what one told of is gone with it.

use std::collections::BTreeMap;

use serde_json::value::to_raw_value;
use tidewire_core::limits::{
    PEERS_ASK_AGAIN_MS, PEERS_ASKED_AT_ONCE, PEERS_BEAT_MS, PEERS_CHANGES, PEERS_FORGOTTEN_MS,
    PEERS_MESSAGE_BYTES, PEERS_PACE_MS, PEERS_SILENCE_MS,
};

use super::message::{Facts, Message, Says};
use super::own::Own;
use super::table::{News, Now, Table};
use crate::metrics::Brief;

/// A server without its thread, and what its table made of what it heard.
struct Server {
    own: Own,
    table: Table,
    heard: BTreeMap<(u64, String), String>,
    is_up: bool,
}

/// Some of them, and the messages between them.
struct Network {
    servers: Vec<Server>,
    under_way: Vec<(u64, usize, Message)>,
    now: Now,
    random: fastrand::Rng,
    is_bad: bool,
    /// How much was said, and how many servers one asked at once.
    messages: usize,
    most_asked: usize,
}

impl Network {
    fn new(servers: usize, seed: u64) -> Self {
        let mut network = Self {
            servers: Vec::new(),
            under_way: Vec::new(),
            now: Now::default(),
            random: fastrand::Rng::with_seed(seed),
            is_bad: false,
            messages: 0,
            most_asked: 0,
        };
        (0..servers).for_each(|_| network.start());
        network
    }

    fn start(&mut self) {
        let own = Own::new(self.servers.len() as u64 + 1);
        self.servers.push(Server { own, table: Table::default(), heard: BTreeMap::new(), is_up: true });
    }

    /// Something changes on a server: one of a few names has another value, or none.
    fn change(&mut self, names: u64) {
        let server = self.random.usize(..self.servers.len());
        let (name, value) = (self.random.u64(..names), self.random.u64(..100));
        let value = (value > 30).then(|| to_raw_value(&"x".repeat(value as usize)).expect("text"));
        assert!(self.servers[server].own.set(&format!("{name:05}"), value));
    }

    /// As much time as lies between two messages of a server at least.
    fn step(&mut self) {
        self.now.ms += PEERS_PACE_MS;
        self.now.answering_ms += PEERS_PACE_MS;
        let now = self.now;
        for from in 0..self.servers.len() {
            if !self.servers[from].is_up {
                continue;
            }
            let spread = self.random.f64();
            let is_due = now.ms.is_multiple_of(PEERS_BEAT_MS);
            let asks = self.servers[from].table.take_asks(now, spread);
            self.most_asked = self.most_asked.max(asks.len());
            let first = Says {
                asks,
                beat: (is_due || now.ms == PEERS_PACE_MS).then(Brief::default),
                ..Says::default()
            };
            for message in self.servers[from].own.poll(now.ms, first) {
                self.messages += 1;
                self.spread(from, &message);
            }
        }
        self.deliver();
        for server in &mut self.servers {
            let mut news = Vec::new();
            server.table.expire(now, &mut news);
            server.take(news);
        }
    }

    fn spread(&mut self, from: usize, message: &Message) {
        for to in (0..self.servers.len()).filter(|to| *to != from) {
            let (is_lost, is_repeated) =
                (self.is_bad && self.random.u8(..10) == 0, self.random.u8(..10) == 0);
            let late_ms = if self.is_bad { self.random.u64(..300) } else { 0 };
            if !is_lost {
                self.under_way.push((self.now.ms + late_ms, to, message.clone()));
            }
            if self.is_bad && is_repeated {
                self.under_way.push((self.now.ms + 2 * late_ms, to, message.clone()));
            }
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (mut due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.under_way).into_iter().partition(|(at_ms, ..)| *at_ms <= now.ms);
        self.under_way = later;
        due.sort_by_key(|(at_ms, ..)| *at_ms);
        for (_, to, message) in due {
            // What is sent is text.
            let text = serde_json::to_string(&message).expect("JSON");
            let message: Message = serde_json::from_str(&text).expect("the same");
            let server = &mut self.servers[to];
            if message.says.asks.contains(&(to as u64 + 1)) {
                server.own.is_asked(now.ms + self.random.u64(..500));
            }
            let mut news = Vec::new();
            server.table.hear(message, now, self.random.f64(), &mut news);
            server.take(news);
        }
    }

    fn run(&mut self, for_ms: u64) {
        (0..for_ms / PEERS_PACE_MS).for_each(|_| self.step());
    }

    /// Everybody knows what everybody else has who is there, and nothing else.
    fn check(&self) {
        for (to, server) in self.servers.iter().enumerate().filter(|(_, server)| server.is_up) {
            for (from, other) in self.servers.iter().enumerate().filter(|(from, _)| *from != to) {
                let from = from as u64 + 1;
                let heard = server.heard.iter().filter(|((server, _), _)| *server == from);
                let heard: Vec<_> = heard.map(|((_, name), value)| (name.clone(), value.clone())).collect();
                if !other.is_up {
                    assert!(heard.is_empty() && server.table.facts_of(from).is_none());
                    continue;
                }
                let known = server.table.facts_of(from).expect("is known");
                assert_eq!(texts(known), texts(other.own.facts()), "{to} of {from}");
                assert_eq!(heard, texts(other.own.facts()), "{to} was told of {from}");
            }
            assert!(server.table.peers().all(|(_, peer)| peer.is_whole && peer.brief.is_some()));
        }
    }
}

impl Server {
    fn take(&mut self, news: Vec<News>) {
        for News { server, name, before, after } in news {
            let name = (server, name.to_string());
            // Whoever adds and subtracts what is told is never wrong.
            let known = self.heard.get(&name).cloned();
            assert_eq!(known, before.map(|value| value.get().to_owned()));
            match after {
                Some(value) => drop(self.heard.insert(name, value.get().to_owned())),
                None => drop(self.heard.remove(&name)),
            }
        }
    }
}

fn texts(facts: &Facts) -> Vec<(String, String)> {
    facts.iter().map(|(name, value)| (name.to_string(), value.get().to_owned())).collect()
}

#[test]
fn what_is_lost_repeated_and_late_is_made_good() {
    for seed in 0..6 {
        eprintln!("seed {seed}");
        let mut network = Network::new(4, seed);
        for round in 0..120 {
            network.is_bad = (20..100).contains(&round);
            for _ in 0..network.random.u64(..60) {
                network.change(150);
            }
            if round == 60 {
                network.start(); // somebody comes later
            }
            network.step();
        }
        network.is_bad = false;
        network.run(2 * PEERS_ASK_AGAIN_MS + 2 * PEERS_BEAT_MS);
        network.check();
    }
}

#[test]
fn nothing_is_asked_where_nothing_is_lost_and_changes_are_told_together() {
    let mut network = Network::new(3, 1);
    network.run(PEERS_BEAT_MS);
    for _ in 0..1_000 {
        network.change(20);
    }
    let before = network.messages;
    network.run(PEERS_PACE_MS);
    assert!(network.messages - before <= 6, "{} messages", network.messages - before);
    network.check();
    let before = network.messages;
    network.run(10 * PEERS_BEAT_MS);
    assert_eq!(network.messages - before, 30, "a beat each second");
}

#[test]
fn one_that_comes_asks_a_few_at_a_time_until_it_knows_all() {
    let mut network = Network::new(20, 5);
    network.run(PEERS_BEAT_MS);
    assert_eq!(network.most_asked, 0, "who hears the first message has missed nothing");
    (0..2_000).for_each(|_| network.change(200));
    network.run(PEERS_BEAT_MS);
    network.start();
    network.run(20 * PEERS_BEAT_MS);
    network.check();
    assert!((1..=PEERS_ASKED_AT_ONCE).contains(&network.most_asked), "{} were asked", network.most_asked);
}

#[test]
fn who_says_nothing_is_gone_unless_nobody_can_be_heard() {
    let mut network = Network::new(3, 2);
    network.run(PEERS_BEAT_MS);
    (0..500).for_each(|_| network.change(300));
    network.run(PEERS_BEAT_MS);
    network.check();
    network.servers[1].is_up = false;
    // The backplane does not answer: nobody is forgotten, and then for a while at the most.
    let answering_ms = network.now.answering_ms;
    for _ in 0..2 * PEERS_SILENCE_MS / PEERS_PACE_MS {
        network.now.answering_ms = answering_ms - PEERS_PACE_MS;
        network.step();
    }
    assert!(network.servers[0].table.facts_of(2).is_some_and(|facts| !facts.is_empty()));
    network.run(PEERS_SILENCE_MS + 2 * PEERS_PACE_MS);
    network.check();
    network.servers[2].is_up = false;
    network.now.ms += PEERS_FORGOTTEN_MS;
    network.step();
    network.check();
}

#[test]
fn a_goodbye_is_heard_at_once_and_what_was_told_stays_for_the_grace() {
    let mut network = Network::new(2, 3);
    network.run(PEERS_BEAT_MS);
    network.servers[0].own.set("m", Some(to_raw_value(&1).expect("a number")));
    network.run(PEERS_PACE_MS);
    let now = network.now;
    let says = Says { goodbye_ms: Some(1_000), ..Says::default() };
    let last = network.servers[0].own.poll(now.ms, says).remove(0);
    network.servers[0].is_up = false;
    network.spread(0, &last);
    network.run(500);
    let other = &network.servers[1].table;
    assert!(other.peers().next().is_none() && other.facts_of(1).is_some());
    network.run(600);
    network.check();
}

#[test]
fn what_has_changed_without_end_is_told_anew_as_a_whole() {
    let mut network = Network::new(2, 4);
    network.run(PEERS_BEAT_MS);
    for name in 0..PEERS_CHANGES as u64 + 2 {
        let value = Some(to_raw_value(&name).expect("a number")).filter(|_| name % 100 == 0);
        network.servers[0].own.set(&format!("{name}"), Some(to_raw_value(&0).expect("a number")));
        network.servers[0].own.set(&format!("{name}"), value);
    }
    network.run(PEERS_BEAT_MS);
    network.check();
    assert!(network.servers[1].heard.len() > 1_000);
    // No message is much longer than it may be.
    network.servers[0].own.is_asked(0);
    for message in network.servers[0].own.poll(network.now.ms, Says::default()) {
        assert!(serde_json::to_string(&message).expect("JSON").len() < 2 * PEERS_MESSAGE_BYTES);
    }
}
