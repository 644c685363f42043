//! What happens in a round: random operations, each with a line that says so. Must not know what is true
//! afterwards; the world says that.

use std::collections::VecDeque;
use std::time::Duration;

use super::reader::{Ended, Position, Reader};
use super::reference::{Draft, Rules};
use super::world::World;
use crate::Result;
use crate::client::{TRANSPORTS, Transport};
use crate::durable::body::Body;
use crate::http;
use crate::random::Random;
use crate::server::Server;

/// The channels, and what the configuration says of them.
const RULES: [Rules; 6] = [
    Rules { channel: "all", in_memory: false, events: 1_000_000, bytes: None, keyed: false, once_keys: KEYS },
    Rules { channel: "few:1", in_memory: false, events: 30, bytes: None, keyed: false, once_keys: 20 },
    Rules { channel: "few:keyed", in_memory: false, events: 30, bytes: None, keyed: true, once_keys: KEYS },
    Rules {
        channel: "small",
        in_memory: false,
        events: 1_000_000,
        bytes: Some(16_384),
        keyed: true,
        once_keys: KEYS,
    },
    Rules { channel: "memory:1", in_memory: true, events: 30, bytes: None, keyed: false, once_keys: 15 },
    Rules { channel: "memory:keyed", in_memory: true, events: 30, bytes: None, keyed: true, once_keys: 15 },
];
const KEYS: usize = 1_000_000;

const CONFIG: &str = r#"
[history]
events = 1000000
bytes = 1000000000
age_seconds = 1000000
idempotency_keys = 1000000
[limits]
event_bytes = 16384
close_timeout_ms = 100
[[channels]]
pattern = "few:keyed"
state = "keyed"
history.events = 30
[[channels]]
pattern = "few:*"
history = { events = 30, idempotency_keys = 20 }
[[channels]]
pattern = "small"
state = "keyed"
history.bytes = 16384
[[channels]]
pattern = "memory:keyed"
durability = "memory"
state = "keyed"
history = { events = 30, idempotency_keys = 15 }
[[channels]]
pattern = "memory:*"
durability = "memory"
history = { events = 30, idempotency_keys = 15 }
"#;

const STEPS: usize = 150;
const READERS_MAX: usize = 8;
/// A channel is compared before so many of its events are unknown, so that retention takes none unseen.
const UNKNOWN_MAX: usize = 12;
const TOLD_MAX: usize = 40;

struct Story {
    world: World,
    random: Random,
    begun: usize,
    told: VecDeque<String>,
}

/// Plays a round.
///
/// # Errors
/// What was seen and what was expected, with the seed and the last operations.
pub fn play(seed: u64) -> Result<()> {
    let world = World::new(&RULES, CONFIG)?;
    let mut story = Story { world, random: Random::new(seed), begun: 0, told: VecDeque::new() };
    story.tell().map_err(|error| {
        let told: Vec<_> = story.told.iter().map(String::as_str).collect();
        let log = story.world.server.as_ref().map(Server::log).unwrap_or_default();
        format!(
            "TIDEWIRE_SEED={seed} TIDEWIRE_MODEL_ROUNDS=1; the last operations:\n  {}\n{error}\nthe server said: {log}",
            told.join("\n  ")
        )
    })
}

impl Story {
    fn tell(&mut self) -> Result<()> {
        for _ in 0..STEPS {
            self.step()?;
        }
        for at in 0..self.world.readers.len() {
            self.catch_up(at)?;
        }
        for stop in [true, false] {
            self.restart(stop)?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        let channel = self.random.below(self.world.logs.len());
        match self.random.below(100) {
            0..30 => self.publish(channel),
            30..42 => self.retry(channel),
            42..44 => self.lose(),
            44..54 => self.begin(channel),
            54..70 => self.with_reader(Self::catch_up),
            70..77 => self.with_reader(Self::cut),
            77..85 => self.go_on_from_snapshot(channel),
            85..90 => self.begin_with_state(channel),
            90..95 => self.settle(channel),
            95..97 => self.delete(channel),
            97..98 => self.delete_and_kill(channel),
            98..99 => self.restart(false),
            _ => self.restart(true),
        }
    }

    fn note(&mut self, what: String) {
        if std::env::var_os("TIDEWIRE_KEEP").is_some() {
            println!("{what}");
        }
        self.told.push_back(what);
        if self.told.len() > TOLD_MAX {
            self.told.pop_front();
        }
    }

    fn name(&self, channel: usize) -> &'static str {
        self.world.logs[channel].rules.channel
    }

    fn maybe(&mut self) -> bool {
        self.random.below(2) == 0
    }

    /// Some events at once; nobody waits for the answers yet.
    fn publish(&mut self, channel: usize) -> Result<()> {
        for _ in 0..=self.random.below(8) {
            let draft = self.draft();
            self.send(channel, &draft)?;
        }
        Ok(())
    }

    fn send(&mut self, channel: usize, draft: &Draft) -> Result<()> {
        if self.world.flights.of(channel).count() >= UNKNOWN_MAX {
            self.settle(channel)?;
        }
        self.note(format!("publish on {}: {draft:?}", self.name(channel)));
        let (url, names) = (self.world.url(), self.world.names());
        self.world.flights.send(&url, &names, channel, draft, &mut self.random)
    }

    fn draft(&mut self) -> Draft {
        self.begun += 1;
        let (number, most) = (self.begun, [10, 50, 600][self.random.below(3)]);
        let filler = "x".repeat(self.random.below(most));
        let key = self.maybe().then(|| format!("key {}", self.random.below(4)));
        let is_nothing = key.is_some() && self.random.below(5) == 0;
        let name = (is_nothing || self.maybe()).then(|| format!("name {number}"));
        let body = match (is_nothing, self.random.below(3)) {
            (true, 0) => Body::Json("null".to_owned()),
            (true, 1) => Body::Text(String::new()),
            (true, _) => Body::Bytes(Vec::new()),
            (false, 0) => Body::json(0, number, &filler),
            (false, 1) => Body::Text(format!("text {number} {filler}")),
            (false, _) => Body::Bytes(format!("\0{number} {filler}\u{ff}").into_bytes()),
        };
        let once = (self.random.below(3) > 0).then(|| format!("once {number}").replace(' ', "-"));
        Draft { name, key, once, body }
    }

    /// An event again under its key, or another one, whether the first was answered or not.
    fn retry(&mut self, channel: usize) -> Result<()> {
        let world = &self.world;
        let under_way = world.flights.of(channel).map(|attempt| &attempt.draft);
        let known = world.logs[channel].newest_first().map(|event| &event.draft).take(60);
        let all: Vec<_> = under_way.chain(known).filter(|draft| draft.once.is_some()).cloned().collect();
        if all.is_empty() {
            return Ok(());
        }
        let mut draft = all[self.random.below(all.len())].clone();
        if self.random.below(4) == 0 {
            draft = Draft { once: draft.once, ..self.draft() };
        }
        self.send(channel, &draft)
    }

    fn lose(&mut self) -> Result<()> {
        let owed = self.world.flights.lose_one(&mut self.random);
        self.note(format!("cut a publisher off that waits for {owed} answers"));
        Ok(())
    }

    fn transport(&mut self, fits: impl Fn(&Transport) -> bool) -> &'static Transport {
        let all: Vec<_> = TRANSPORTS.iter().filter(|transport| fits(transport)).collect();
        all[self.random.below(all.len())]
    }

    fn limit(&mut self) -> u32 {
        [0, 1, 7, 100][self.random.below(4)]
    }

    /// A new subscriber: from the beginning or the end, or from any place in any number of channels.
    fn begin(&mut self, channel: usize) -> Result<()> {
        let word = ["earliest", "latest", ""][self.random.below(3)];
        if word.is_empty() {
            return self.begin_anywhere(channel);
        }
        let over = self.transport(|over| over.sees.id && !over.name.ends_with("-many"));
        let mut reader = self.reader(over, vec![(channel, 0)]);
        self.note(format!(
            "reader {} over {} from {word} of {}",
            reader.number,
            over.name,
            self.name(channel)
        ));
        let limit = self.limit();
        reader.begin(&self.world.url(), word, limit, &self.world.moments())?;
        self.keep(reader);
        Ok(())
    }

    fn begin_anywhere(&mut self, channel: usize) -> Result<()> {
        let mut channels = vec![channel];
        while self.maybe() && channels.len() < self.world.logs.len() {
            let another = self.random.below(self.world.logs.len());
            if !channels.contains(&another) {
                channels.push(another);
            }
        }
        let is_one = channels.len() == 1;
        let over = self.transport(|over| over.many || is_one);
        let mut at = Vec::new();
        for channel in channels {
            let head = self.world.logs[channel].head();
            let back = self.random.below(40) as u64;
            at.push((channel, head.saturating_sub(back)));
        }
        let reader = self.reader(over, at.clone());
        self.note(format!("reader {} over {} after {at:?}", reader.number, over.name));
        let number = self.keep(reader);
        self.resume(number)
    }

    fn reader(&mut self, over: &'static Transport, at: Vec<(usize, u64)>) -> Reader {
        self.begun += 1;
        let epoch = |channel: usize| self.world.logs[channel].epoch.clone();
        let at =
            at.into_iter().map(|(channel, offset)| (channel, Position { epoch: epoch(channel), offset }));
        Reader::new(self.begun, over, at.collect())
    }

    /// Its place among the readers; with too many, another one goes for it.
    fn keep(&mut self, reader: Reader) -> usize {
        let readers = &mut self.world.readers;
        if readers.len() < READERS_MAX {
            readers.push(reader);
            return readers.len() - 1;
        }
        let at = self.random.below(READERS_MAX);
        readers[at] = reader;
        at
    }

    fn with_reader(&mut self, operation: fn(&mut Self, usize) -> Result<()>) -> Result<()> {
        match self.world.readers.len() {
            0 => Ok(()),
            count => {
                let at = self.random.below(count);
                operation(self, at)
            }
        }
    }

    fn cut(&mut self, at: usize) -> Result<()> {
        let by_server = self.maybe();
        self.note(format!("cut reader {} off", self.world.readers[at].number));
        self.world.readers[at].cut(by_server);
        Ok(())
    }

    fn resume(&mut self, at: usize) -> Result<()> {
        let limit = self.limit();
        let (url, moments) = (self.world.url(), self.world.moments());
        let reader = &mut self.world.readers[at];
        reader.resume(&url, limit, &moments).map_err(|error| format!("reader {}: {error}", reader.number))
    }

    /// A reader gets everything that is acknowledged; one that was cut off comes back for it over whatever.
    fn catch_up(&mut self, at: usize) -> Result<()> {
        let is_one = self.world.readers[at].channels().len() == 1;
        if !self.world.readers[at].is_connected() {
            let over = self.transport(|over| if is_one { !over.name.ends_with("-many") } else { over.many });
            self.world.readers[at].over = over;
            self.note(format!("reader {} comes back over {}", self.world.readers[at].number, over.name));
            self.resume(at)?;
        }
        self.note(format!("reader {} catches up", self.world.readers[at].number));
        let moments = self.world.moments();
        let reader = &mut self.world.readers[at];
        let (number, over) = (reader.number, reader.over.name);
        match reader.catch_up(&moments).map_err(|error| format!("reader {number} over {over}: {error}"))? {
            Ended::No => Ok(()),
            Ended::Closed(Some(4003)) if over == "raw-ws" => self.hear_of_gap(at),
            Ended::Closed(code) => Err(format!("reader {number} over {over} was cut off ({code:?})")),
        }
    }

    /// A raw reader is told that something is lost, but not where it goes on: it asks over another transport.
    fn hear_of_gap(&mut self, at: usize) -> Result<()> {
        let channel = self.world.readers[at].channels()[0];
        self.settle(channel)?;
        if !self.world.readers[at].is_evicted(&self.world.logs[channel]) {
            return Err(format!("reader {} was told of a gap for no reason", self.world.readers[at].number));
        }
        self.world.readers[at].over = self.transport(|over| over.sees.id && !over.many);
        self.resume(at)?;
        self.catch_up(at)
    }

    /// A reader goes on from a snapshot that was made, and begins, while others publish.
    fn go_on_from_snapshot(&mut self, channel: usize) -> Result<()> {
        self.publish(channel)?;
        let cursor = self.world.snapshot(channel)?;
        let (_, offset) = crate::durable::ledger::parts(&cursor)?;
        self.note(format!("a snapshot of {} at {offset}", self.name(channel)));
        if self.maybe() {
            self.publish(channel)?;
        }
        if offset > *self.world.moments()[channel].head.end() {
            return Err(format!("the snapshot at {cursor} is of the future"));
        }
        let over = self.transport(|_| true);
        let reader = self.reader(over, vec![(channel, offset)]);
        self.note(format!("reader {} over {} after {cursor}", reader.number, over.name));
        let at = self.keep(reader);
        self.resume(at)?;
        self.catch_up(at)
    }

    fn begin_with_state(&mut self, channel: usize) -> Result<()> {
        self.publish(channel)?;
        let over = self.transport(|over| ["ws", "sse"].contains(&over.name));
        let mut reader = self.reader(over, vec![(channel, 0)]);
        self.note(format!(
            "reader {} over {} with the state of {}",
            reader.number,
            over.name,
            self.name(channel)
        ));
        let before = self.world.moments();
        let state = reader.begin_with_state(&self.world.url(), &before)?;
        self.world.note_shown(channel, &before, state);
        let at = self.keep(reader);
        self.publish(channel)?;
        self.catch_up(at)
    }

    fn settle(&mut self, channel: usize) -> Result<()> {
        self.note(format!("compare {}", self.name(channel)));
        self.world.settle(channel)
    }

    /// Nobody waits for anything of the channel. False if something may still be on its way to it.
    fn quiet(&mut self, channel: usize) -> Result<bool> {
        for at in 0..self.world.readers.len() {
            let reader = &self.world.readers[at];
            if reader.is_connected() && reader.channels().contains(&channel) {
                self.catch_up(at)?;
            }
        }
        self.settle(channel)?;
        if self.world.flights.of(channel).next().is_some() {
            return Ok(false);
        }
        for at in 0..self.world.readers.len() {
            let reader = &self.world.readers[at];
            if reader.is_connected() && reader.channels().contains(&channel) {
                self.catch_up(at)?;
            }
        }
        self.settle(channel)?;
        Ok(true)
    }

    fn delete(&mut self, channel: usize) -> Result<()> {
        if !self.quiet(channel)? {
            return Ok(());
        }
        self.note(format!("delete {}", self.name(channel)));
        delete(&self.world.url(), self.name(channel))?;
        self.world.logs[channel].clear();
        Ok(())
    }

    /// Nobody can say whether it was deleted, until the next server does.
    fn delete_and_kill(&mut self, channel: usize) -> Result<()> {
        if !self.quiet(channel)? {
            return Ok(());
        }
        self.note(format!("delete {} and kill", self.name(channel)));
        let (url, name) = (self.world.url(), self.name(channel));
        let deleting = std::thread::spawn(move || delete(&url, name));
        let moment = Duration::from_micros(self.random.below(4_000) as u64);
        self.world.perhaps_deleted = Some(channel);
        self.world.end(|server| {
            std::thread::sleep(moment);
            server.kill();
            Ok(())
        })?;
        if deleting.join().map_err(|_| "a thread panicked")?.is_ok() {
            self.world.logs[channel].clear();
        }
        self.world.start()
    }

    /// In the middle of some publishing, the server stops in good order, or is killed.
    fn restart(&mut self, stop: bool) -> Result<()> {
        for channel in 0..self.world.logs.len() {
            if self.maybe() {
                self.publish(channel)?;
            }
        }
        let moment = Duration::from_micros(self.random.below(8_000) as u64);
        self.note(format!("{} after {moment:?}", if stop { "stop" } else { "kill" }));
        self.world.end(|server| {
            std::thread::sleep(moment);
            if stop {
                return server.stop().map(drop);
            }
            server.kill();
            Ok(())
        })?;
        if !stop && self.random.below(4) == 0 {
            self.world.kill_at_start(Duration::from_micros(self.random.below(60_000) as u64))?;
        }
        self.world.start()
    }
}

fn delete(url: &str, channel: &str) -> Result<()> {
    let url = format!("{url}/v1/channels/{channel}");
    let answer = http::exchange(&http::agent(Duration::from_secs(20)), "DELETE", &url, &[], None)?;
    if answer.status == 204 {
        Ok(())
    } else {
        Err(format!("DELETE {url}: {} {}", answer.status, answer.text()))
    }
}
