//! A server that comes and goes, the model of each of its channels, and how the two are compared: whatever is
//! under way is awaited, the log is read, and everything that anybody was told must follow from it.

use std::time::Duration;

use serde_json::Value;

use super::flight::{Attempt, Flights};
use super::reader::{Moment, Reader};
use super::reference::{Event, Log, Rules};
use crate::durable::history::{Logged, read, read_all};
use crate::durable::ledger::parts;
use crate::durable::publish::Said;
use crate::event::shorten;
use crate::launch::Launch;
use crate::scratch::Scratch;
use crate::server::Server;
use crate::{Result, http};

/// A state that somebody was shown, to be judged when the log is known.
#[derive(Debug)]
struct Shown {
    channel: usize,
    moment: Moment,
    snapshot: Value,
}

/// All of it.
pub struct World {
    launch: Launch,
    /// Gone while it is down.
    pub server: Option<Server>,
    /// The models, one for each channel.
    pub logs: Vec<Log>,
    /// What is being published.
    pub flights: Flights,
    /// Who reads.
    pub readers: Vec<Reader>,
    shown: Vec<Shown>,
    /// A channel of which nobody knows whether it was deleted.
    pub perhaps_deleted: Option<usize>,
    _scratch: Scratch,
}

impl World {
    /// A server on an empty directory.
    ///
    /// # Errors
    /// When it does not start.
    pub fn new(rules: &[Rules], config: &str) -> Result<Self> {
        let scratch = Scratch::new("model")?;
        let mut world = Self {
            launch: Launch::on(&scratch.join("data")).config(config),
            server: None,
            logs: rules.iter().map(|rules| Log::new(*rules, "", 0)).collect(),
            flights: Flights::default(),
            readers: Vec::new(),
            shown: Vec::new(),
            perhaps_deleted: None,
            _scratch: scratch,
        };
        world.start()?;
        Ok(world)
    }

    /// Where the server is.
    pub fn url(&self) -> String {
        self.server.as_ref().map(|server| server.url.clone()).unwrap_or_default()
    }

    /// The channels' names.
    pub fn names(&self) -> Vec<&'static str> {
        self.logs.iter().map(|log| log.rules.channel).collect()
    }

    /// What can be said of each channel now.
    pub fn moments(&self) -> Vec<Moment> {
        let moment = |(channel, log): (usize, &Log)| {
            let (mut least, mut unheard) = (log.head(), 0);
            for attempt in self.flights.of(channel) {
                match &attempt.said {
                    Some(Said::Taken { id, .. }) => {
                        least = least.max(parts(id).map_or(0, |(_, offset)| offset));
                    }
                    Some(Said::Refused { .. }) => {}
                    None => unheard += 1,
                }
            }
            let (channel, epoch, cleared) = (log.rules.channel, log.epoch.clone(), log.cleared);
            Moment { channel, epoch, cleared, head: least..=least + unheard }
        };
        self.logs.iter().enumerate().map(moment).collect()
    }

    /// Asks for a snapshot, to be judged later.
    ///
    /// # Errors
    /// When there is none.
    pub fn snapshot(&mut self, channel: usize) -> Result<String> {
        let before = self.moments();
        let snapshot = self.get(channel)?;
        let cursor = snapshot["cursor"].as_str().unwrap_or_default().to_owned();
        self.note_shown(channel, &before, snapshot);
        Ok(cursor)
    }

    /// Somebody was shown this.
    pub fn note_shown(&mut self, channel: usize, before: &[Moment], snapshot: Value) {
        self.shown.push(Shown { channel, moment: before[channel].clone(), snapshot });
    }

    fn get(&self, channel: usize) -> Result<Value> {
        let agent = http::agent(Duration::from_secs(20));
        let url = format!("{}/v1/channels/{}", self.url(), self.logs[channel].rules.channel);
        let answer = http::exchange(&agent, "GET", &url, &[], None)?;
        if answer.status == 200 { answer.json() } else { Err(answer.text()) }
    }

    /// The server ends; `end` says how. What it still said is heard.
    ///
    /// # Errors
    /// When something was said that cannot be, or it does not end well.
    pub fn end(&mut self, end: impl FnOnce(&mut Server) -> Result<()>) -> Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        let moments = self.moments();
        end(&mut server)?;
        self.flights.collect(true)?;
        self.readers.iter_mut().try_for_each(|reader| reader.read_out(&moments))
    }

    /// A server starts, and is killed before it can do much.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn kill_at_start(&self, moment: Duration) -> Result<()> {
        self.launch.kill_after(moment)
    }

    /// A server starts, and must have everything that it should.
    ///
    /// # Errors
    /// What it has not.
    pub fn start(&mut self) -> Result<()> {
        self.server = Some(self.launch.serve()?);
        for channel in 0..self.logs.len() {
            self.find_again(channel)?;
            let before = self.moments();
            let snapshot = self.get(channel)?;
            self.note_shown(channel, &before, snapshot);
            self.settle(channel)?;
        }
        self.perhaps_deleted = None;
        Ok(())
    }

    /// Compares all that a channel has after a start.
    fn find_again(&mut self, channel: usize) -> Result<()> {
        let snapshot = self.get(channel)?;
        let (epoch, offset) = parts(snapshot["cursor"].as_str().unwrap_or_default())?;
        let log = &self.logs[channel];
        if log.rules.in_memory || log.epoch.is_empty() {
            if epoch == log.epoch {
                return Err(format!("{} was lost, and has the epoch {epoch} still", log.rules.channel));
            }
            self.logs[channel] = Log::new(log.rules, epoch, offset);
            drop(self.flights.take(channel));
            self.shown.retain(|shown| shown.channel != channel);
            self.readers.iter_mut().for_each(|reader| reader.forget_trail(channel));
            return Ok(());
        }
        if epoch != log.epoch {
            return Err(format!("{} had the epoch {}, now {epoch}", log.rules.channel, log.epoch));
        }
        let all = read_all(&self.url(), log.rules.channel)?;
        if self.perhaps_deleted == Some(channel) && all.is_empty() {
            self.logs[channel].clear();
        }
        self.settle(channel)?;
        // Whoever was to hear of these is dead: what is not in the log now never will be.
        drop(self.flights.take(channel));
        let log = &self.logs[channel];
        let first = all.first().map_or(Ok(log.head() + 1), |first| parts(&first.id).map(|(_, at)| at))?;
        let floor = log.floor(log.head());
        if !floor.contains(&(first - 1)) {
            return Err(format!(
                "{} begins with {first} after a start, not after {floor:?}",
                log.rules.channel
            ));
        }
        for (logged, offset) in all.iter().zip(first..) {
            let event = log.at(offset).ok_or_else(|| format!("{logged:?} is not in the model"))?;
            same(log, event, logged)?;
        }
        match all.last() {
            Some(last) if last.id != log.id(log.head()) => {
                Err(format!("{} ends with {}, not {}", log.rules.channel, last.id, log.head()))
            }
            _ => Ok(()),
        }
    }

    /// Waits for the answers to what is under way, and compares what everybody was told with the log.
    ///
    /// # Errors
    /// What cannot be.
    pub fn settle(&mut self, channel: usize) -> Result<()> {
        self.flights.collect(false)?;
        let mut attempts = self.flights.take(channel);
        let log = &mut self.logs[channel];
        let known = log.head();
        let url = self.server.as_ref().map(|server| server.url.clone()).unwrap_or_default();
        let new = read(&url, log.rules.channel, &log.id(known))?;
        if let Some(stopped) = new.stopped {
            return Err(format!("{} cannot be read: {stopped:?}", log.rules.channel));
        }
        for logged in new.events {
            take(log, &mut attempts, logged)?;
        }
        let name = log.rules.channel;
        for attempt in attempts {
            judge_answer(log, known, &attempt)
                .map_err(|error| format!("{name}: {}: {error}", shorten(&format!("{attempt:?}"))))?;
            if attempt.said.is_none() {
                self.flights.put_back(attempt);
            }
        }
        let (shown, rest) = std::mem::take(&mut self.shown).into_iter().partition(|s| s.channel == channel);
        self.shown = rest;
        let log = &self.logs[channel];
        Vec::<Shown>::into_iter(shown).try_for_each(|shown| shown.judge(log))?;
        self.readers.iter_mut().try_for_each(|reader| reader.judge(channel, log))
    }
}

/// The next event of the log: somebody's, acknowledged under its id or not answered.
fn take(log: &mut Log, attempts: &mut Vec<Attempt>, logged: Logged) -> Result<()> {
    let acknowledged = |attempt: &Attempt| match &attempt.said {
        Some(Said::Taken { id, duplicate, .. }) => !duplicate && *id == logged.id,
        _ => false,
    };
    let content = (logged.event.as_deref(), logged.key.as_deref(), logged.mark.clone());
    let unheard = |attempt: &Attempt| attempt.said.is_none() && attempt.draft.content() == content;
    let place = attempts.iter().position(acknowledged).or_else(|| attempts.iter().position(unheard));
    let place = place.ok_or_else(|| format!("nobody published {}", shorten(&format!("{logged:?}"))))?;
    let attempt = attempts.remove(place);
    let (_, offset) = parts(&logged.id)?;
    let event = Event { offset, time: logged.time.clone(), draft: attempt.draft };
    same(log, &event, &logged)?;
    if let Some(Said::Taken { time: Some(time), .. }) = attempt.said
        && time != logged.time
    {
        return Err(format!("acknowledged with the time {time}: {logged:?}"));
    }
    log.append(event)
}

fn same(log: &Log, event: &Event, logged: &Logged) -> Result<()> {
    let (event_name, key, mark) = event.draft.content();
    let expected = Logged {
        id: log.id(event.offset),
        mark,
        event: event_name.map(str::to_owned),
        key: key.map(str::to_owned),
        content_type: None,
        time: event.time.clone(),
    };
    if expected == *logged { Ok(()) } else { Err(format!("expected {expected:?}, got {logged:?}")) }
}

/// An answer that made no event of the log: a retry, a refusal, or none. Between `known` and the head, nobody
/// can say when it was given.
fn judge_answer(log: &Log, known: u64, attempt: &Attempt) -> Result<()> {
    let Some(said) = &attempt.said else { return Ok(()) };
    // A server that is going away takes nothing more.
    if said.is_refusal(503, "unavailable") {
        return Ok(());
    }
    let mut stands_for: Vec<&Event> = Vec::new();
    if let Some(key) = &attempt.draft.once {
        stands_for.extend((known..=log.head()).filter_map(|head| log.remembered(key, head)));
        stands_for.dedup_by_key(|event| event.offset);
    }
    let explains = |event: &&Event| match said {
        Said::Taken { id, duplicate, time } => {
            let same_time = time.as_ref().is_none_or(|time| *time == event.time);
            event.draft == attempt.draft && *duplicate && *id == log.id(event.offset) && same_time
        }
        Said::Refused { .. } => event.draft != attempt.draft && said.is_refusal(422, "idempotency_conflict"),
    };
    match stands_for.iter().copied().find(|event| explains(event)) {
        Some(_) => Ok(()),
        None => Err(format!("not in the log under a new id, and its key stands for {stands_for:?}")),
    }
}

impl Shown {
    fn judge(&self, log: &Log) -> Result<()> {
        let Self { moment, snapshot, .. } = self;
        let (epoch, offset) = parts(snapshot["cursor"].as_str().unwrap_or_default())?;
        if epoch != log.epoch || offset < *moment.head.start() || offset > log.head() {
            return Err(format!("a snapshot's cursor is {epoch}-{offset}, expected one of {moment:?}"));
        }
        let (expected, got) = (log.state(offset), &snapshot["state"]);
        if expected != *got {
            return Err(format!(
                "{}: the state at {offset} is {got}, expected {expected}",
                log.rules.channel
            ));
        }
        let floor = log.floor(offset);
        let (count, is_still) = (snapshot["events"].as_u64(), moment.head.start() == moment.head.end());
        let counts = (offset - floor.end())..=(offset - floor.start());
        if is_still && !count.is_some_and(|count| counts.contains(&count)) {
            return Err(format!("{}: {count:?} events at {offset}, expected {counts:?}", log.rules.channel));
        }
        Ok(())
    }
}
