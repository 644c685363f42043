//! A subscriber of one or several channels over whatever transport: it writes down what it gets, and can be cut
//! off and come back with its last ids. What it got is judged once the log is known. Must not publish.

use std::time::{Duration, Instant};

use super::reference::{Log, Range};
use crate::Result;
use crate::client::{Ask, Client, Connected, Gap, Item, Transport};
use crate::durable::ledger::parts;
use crate::event::{Seen, shorten};

/// What can be said of a channel at some moment, while events are on their way to it.
#[derive(Debug, Clone)]
pub struct Moment {
    /// Its name.
    pub channel: &'static str,
    /// The epoch of its ids.
    pub epoch: String,
    /// Everything up to here is deleted.
    pub cleared: u64,
    /// What its newest offset may be.
    pub head: Range,
}

/// A position in one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The epoch, which may be over.
    pub epoch: String,
    /// Everything up to here is known.
    pub offset: u64,
}

#[derive(Debug)]
enum Step {
    /// It connected with its position; without a gap it goes on from there.
    Connected(Range),
    /// It was told of a gap, or asked for the beginning, and now stands at this offset.
    Moved { to: u64, head: Range, is_gap: bool },
    /// An event, over what it was connected with then.
    Event(Box<Seen>, &'static Transport),
}

/// What is known of one of its channels.
#[derive(Debug)]
struct Place {
    channel: usize,
    /// Where it stands.
    at: Position,
    /// Where it stood when it was judged last, and what came since.
    judged: Position,
    trail: Vec<Step>,
    /// It connected to a position that is gone, and has not heard so.
    owed_gap: bool,
    /// The least that was the newest offset when it connected.
    connected_at: u64,
}

/// A subscriber.
pub struct Reader {
    /// Tells it from the others.
    pub number: usize,
    /// Its transport.
    pub over: &'static Transport,
    client: Option<Box<dyn Client>>,
    places: Vec<Place>,
    /// What it comes back with, once it was cut off.
    since: Option<String>,
}

/// Whether reading is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It stands where it must.
    No,
    /// The connection ended; the close code where there is one.
    Closed(Option<u16>),
}

const PATIENCE: Duration = Duration::from_secs(20);
/// How long to look for what may be there or not.
const GLANCE: Duration = Duration::from_millis(20);

impl Position {
    /// As a cursor.
    pub fn id(&self) -> String {
        format!("{}-{}", self.epoch, self.offset)
    }
}

impl Reader {
    /// A subscriber that stands at these positions of channels, and is not connected.
    pub fn new(number: usize, over: &'static Transport, at: Vec<(usize, Position)>) -> Self {
        let place = |(channel, at): (usize, Position)| {
            let (judged, trail) = (at.clone(), Vec::new());
            Place { channel, at, judged, trail, owed_gap: false, connected_at: 0 }
        };
        Self { number, over, client: None, places: at.into_iter().map(place).collect(), since: None }
    }

    /// Its channels.
    pub fn channels(&self) -> Vec<usize> {
        self.places.iter().map(|place| place.channel).collect()
    }

    /// Whether it is connected.
    pub fn is_connected(&self) -> bool {
        self.client.is_some()
    }

    /// Leaves, with its last ids: as the server gave them where `by_server`, else as it counts them itself.
    pub fn cut(&mut self, by_server: bool) {
        let client = self.client.take();
        let own: Vec<_> = self.places.iter().map(|place| place.at.id()).collect();
        // A page's cursor is beyond what was taken of it, and a stream has no id after a gap.
        let is_exact = matches!(self.places[0].trail.last(), Some(Step::Event(..)));
        let theirs = client.filter(|_| by_server && is_exact && own.len() == 1 && !self.is_paged());
        self.since = Some(theirs.and_then(|client| client.position()).unwrap_or_else(|| own.join(".")));
    }

    fn is_paged(&self) -> bool {
        self.over.name.contains("poll")
    }

    /// Connects where it stands.
    ///
    /// # Errors
    /// When it is refused.
    pub fn resume(&mut self, url: &str, limit: u32, moments: &[Moment]) -> Result<()> {
        if self.since.is_none() {
            self.cut(false);
        }
        let since = self.since.take().unwrap_or_default();
        let heads = self.places.iter().map(|place| moments[place.channel].head.clone()).collect::<Vec<_>>();
        for (place, head) in self.places.iter_mut().zip(heads) {
            place.trail.push(Step::Connected(head));
        }
        self.connect(url, &since, limit, false, moments)
    }

    /// Connects at `earliest` or `latest`; gives the moments by which it did.
    ///
    /// # Errors
    /// When it is refused, or does not say where it stands.
    pub fn begin(&mut self, url: &str, word: &str, limit: u32, before: &[Moment]) -> Result<()> {
        self.connect(url, word, limit, false, before)?;
        let is_paged = self.is_paged();
        let client = self.client.as_mut().ok_or("not connected")?;
        let place = &mut self.places[0];
        let moment = &before[place.channel];
        // A page has its events in hand already, and its cursor is behind them: the first says where it began.
        let has_some = *moment.head.start() > moment.cleared;
        let first = if is_paged && word == "earliest" && *moment.head.end() > moment.cleared {
            client.next(Instant::now() + if has_some { PATIENCE } else { GLANCE })?
        } else {
            Item::Nothing
        };
        let from = match first {
            Item::Event(seen) => {
                let (epoch, offset) = parts(seen.id.as_deref().unwrap_or_default())?;
                place.at = Position { epoch: epoch.to_owned(), offset };
                place.trail.push(Step::Event(Box::new(seen), self.over));
                offset - 1
            }
            Item::Nothing if !(is_paged && has_some && word == "earliest") => {
                let id = client.position().ok_or("no position")?;
                let (epoch, offset) = parts(&id)?;
                place.at = Position { epoch: epoch.to_owned(), offset };
                offset
            }
            other => return Err(format!("expected the earliest event, got {other:?}")),
        };
        if place.at.epoch != moment.epoch {
            return Err(format!("{} begins at {:?}, expected {moment:?}", self.over.name, place.at));
        }
        place.judged = Position { epoch: moment.epoch.clone(), offset: from };
        if word == "earliest" {
            let to = Step::Moved { to: from, head: moment.head.clone(), is_gap: false };
            place.trail.insert(0, to);
        } else if !moment.head.contains(&from) {
            return Err(format!("{} begins at {from}, latest is {moment:?}", self.over.name));
        }
        Ok(())
    }

    /// Connects for the state, and stands right after it.
    ///
    /// # Errors
    /// When none comes.
    pub fn begin_with_state(&mut self, url: &str, moments: &[Moment]) -> Result<serde_json::Value> {
        self.connect(url, "", 0, true, moments)?;
        let client = self.client.as_mut().ok_or("not connected")?;
        match client.next(Instant::now() + PATIENCE)? {
            Item::Snapshot(state) => {
                let (epoch, offset) = parts(state["cursor"].as_str().unwrap_or_default())?;
                let place = &mut self.places[0];
                place.at = Position { epoch: epoch.to_owned(), offset };
                place.judged = place.at.clone();
                Ok(state)
            }
            other => Err(format!("over {}: expected the state, got {other:?}", self.over.name)),
        }
    }

    fn connect(&mut self, url: &str, since: &str, limit: u32, snapshot: bool, on: &[Moment]) -> Result<()> {
        self.client = None;
        for place in &mut self.places {
            place.connected_at = *on[place.channel].head.start();
        }
        let channels = self.places.iter().map(|place| on[place.channel].channel.to_owned()).collect();
        let (since, limit) =
            (Some(since.to_owned()).filter(|s| !s.is_empty()), Some(limit).filter(|l| *l > 0));
        let ask = Ask { channels, since, limit, snapshot };
        match (self.over.connect)(url, &ask)? {
            Connected::Client(client) => self.client = Some(client),
            Connected::Refused(refusal) => {
                return Err(format!("{ask:?} over {}: {refusal:?}", self.over.name));
            }
        }
        Ok(())
    }

    /// Reads until it has everything that is acknowledged, or the connection ends.
    ///
    /// # Errors
    /// When something does not come, or cannot be.
    pub fn catch_up(&mut self, moments: &[Moment]) -> Result<Ended> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let is_behind = |place: &&Place| {
                let moment = &moments[place.channel];
                place.at.epoch != moment.epoch || place.at.offset < *moment.head.start()
            };
            let Some(behind) = self.places.iter().find(is_behind) else { return Ok(Ended::No) };
            let waits =
                format!("stands at {:?} and gets nothing of {:?}", behind.at, moments[behind.channel]);
            match self.next(deadline, moments)? {
                Some(ended) => return Ok(ended),
                None if Instant::now() >= deadline => return Err(waits),
                None => {}
            }
        }
    }

    /// Reads what a server that is gone has left in the connection.
    ///
    /// # Errors
    /// When what is there cannot be.
    pub fn read_out(&mut self, moments: &[Moment]) -> Result<()> {
        while self.client.is_some() && !self.is_paged() {
            let Some(client) = &mut self.client else { break };
            match client.next(Instant::now() + Duration::from_millis(200)) {
                Ok(item @ (Item::Event(_) | Item::Gap(_))) => drop(self.take(item, moments)?),
                Ok(Item::Reconnect(_)) => {}
                Ok(_) | Err(_) => self.client = None,
            }
        }
        self.client = None;
        Ok(())
    }

    fn next(&mut self, deadline: Instant, moments: &[Moment]) -> Result<Option<Ended>> {
        let client = self.client.as_mut().ok_or("not connected")?;
        let item = client.next(deadline)?;
        self.take(item, moments)
    }

    fn take(&mut self, item: Item, moments: &[Moment]) -> Result<Option<Ended>> {
        match item {
            Item::Event(seen) => self.take_event(seen, moments)?,
            Item::Gap(gap) => self.take_gap(&gap, moments)?,
            Item::Closed(code, _) => {
                self.client = None;
                return Ok(Some(Ended::Closed(code)));
            }
            Item::Snapshot(state) => return Err(format!("a state that nobody asked for: {state}")),
            Item::Reconnect(_) | Item::Nothing => {}
        }
        Ok(None)
    }

    fn take_event(&mut self, seen: Seen, moments: &[Moment]) -> Result<()> {
        let named = |place: &&mut Place| seen.channel.as_deref() == Some(moments[place.channel].channel);
        let is_one = self.places.len() == 1;
        let place = if is_one { self.places.first_mut() } else { self.places.iter_mut().find(named) };
        let place = place.ok_or_else(|| format!("an event of another channel: {seen:?}"))?;
        let (epoch, offset) = match &seen.id {
            Some(id) => parts(id)?,
            None => (place.at.epoch.as_str(), place.at.offset + 1),
        };
        if epoch != moments[place.channel].epoch || (epoch == place.at.epoch && offset <= place.at.offset) {
            return Err(format!("after {:?} came {}", place.at, shorten(&format!("{seen:?}"))));
        }
        place.at = Position { epoch: epoch.to_owned(), offset };
        place.trail.push(Step::Event(Box::new(seen), self.over));
        Ok(())
    }

    fn take_gap(&mut self, gap: &Gap, moments: &[Moment]) -> Result<()> {
        for place in &mut self.places {
            let Moment { channel, epoch, cleared, head } = &moments[place.channel];
            if !gap.channels.is_empty() && !gap.channels.iter().any(|named| named == channel) {
                continue;
            }
            let ids = gap.resumed_from.split('.').map(parts).collect::<Result<Vec<_>>>()?;
            let own = ids.into_iter().find(|(other, _)| other == epoch);
            let (_, next) = own.ok_or_else(|| format!("{gap:?} says nothing of {channel}"))?;
            // Where nothing is retained, it names the position itself.
            let to = if next == *cleared { next } else { next.saturating_sub(1) };
            place.at = Position { epoch: epoch.clone(), offset: to };
            // It may have been on its way for as long as the connection.
            let head = place.connected_at..=*head.end();
            place.trail.push(Step::Moved { to, head, is_gap: true });
        }
        Ok(())
    }

    /// What it got of a channel that is gone cannot be judged any more.
    pub fn forget_trail(&mut self, channel: usize) {
        for place in self.places.iter_mut().filter(|place| place.channel == channel) {
            place.judged = place.at.clone();
            place.trail.clear();
        }
    }

    /// Whether the log has lost something after the place where it stands.
    pub fn is_evicted(&self, log: &Log) -> bool {
        let at = &self.places[0].at;
        at.epoch != log.epoch || at.offset < *log.floor(log.head()).end()
    }

    /// Whether the log, all of which is known, explains what it got of it.
    ///
    /// # Errors
    /// What it should have got instead.
    pub fn judge(&mut self, channel: usize, log: &Log) -> Result<()> {
        let (number, over) = (self.number, self.over);
        for place in self.places.iter_mut().filter(|place| place.channel == channel) {
            for step in std::mem::take(&mut place.trail) {
                place.judge(&step, log).map_err(|error| {
                    format!("reader {number} over {} of {}: {error}", over.name, log.rules.channel)
                })?;
            }
        }
        Ok(())
    }
}

impl Place {
    fn judge(&mut self, step: &Step, log: &Log) -> Result<()> {
        let is_foreign = self.judged.epoch != log.epoch;
        let stood = self.judged.offset;
        match step {
            Step::Connected(head) => {
                self.owed_gap = is_foreign || stood < *log.floor(*head.start()).start();
            }
            Step::Moved { to, head, is_gap } => {
                let (least, most) = (*log.floor(*head.start()).start(), *log.floor(*head.end()).end());
                if *is_gap && !is_foreign && stood >= most {
                    return Err(format!("a gap after {stood}, where everything after {most} is retained"));
                }
                if !(least..=most).contains(to) {
                    return Err(format!("it was led to {to}, expected {least} to {most}"));
                }
                self.owed_gap = false;
                self.judged = Position { epoch: log.epoch.clone(), offset: *to };
            }
            Step::Event(..) if self.owed_gap || is_foreign => {
                return Err(format!("expected a gap after {:?}, got {step:?}", self.judged));
            }
            Step::Event(seen, over) => {
                let next = log.at(stood + 1).ok_or_else(|| format!("no event follows {stood}: {seen:?}"))?;
                let next = log.published(next);
                next.check(seen, over.sees).map_err(|error| format!("after {stood}: {error}"))?;
                self.judged.offset += 1;
            }
        }
        Ok(())
    }
}
