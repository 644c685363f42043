//! Publishers and readers of every kind on one channel, who work while the server is killed or its disk fails,
//! and at the end agree with the log. Must not know what is done to the server.

use std::thread::JoinHandle;
use std::time::Duration;

use super::Place;
use super::history::{Logged, read_all};
use super::ledger::Ledger;
use super::publisher::{self, Manner};
use super::reader::{OVER, Reader};
use crate::Result;
use crate::random::Random;
use crate::server::{Server, wait_until};

/// Settings by which nothing leaves the log or is cut off for its slowness: then all that is missing was lost.
/// And by which a stop does not wait for idle clients.
pub const KEEP_ALL: &str = "[history]\nevents = 100000000\nbytes = 100000000000\nage_seconds = 1000000\n\
                            idempotency_keys = 1000000\n\
                            [limits]\nhistory_bytes = 100000000000\nlag_events = 10000000\n\
                            close_timeout_ms = 100\n";

/// How many rounds to play: `TIDEWIRE_KILLS`, else 12.
pub fn kills() -> usize {
    std::env::var("TIDEWIRE_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(12)
}

/// All of them.
#[derive(Debug)]
pub struct Crew {
    /// Where they find the server.
    pub place: Place,
    /// What the publishers know.
    pub ledger: Ledger,
    channel: String,
    readers: Vec<Reader>,
    publishing: Vec<JoinHandle<Result<()>>>,
    reading: Vec<JoinHandle<Result<()>>>,
}

impl Crew {
    /// Starts them; they wait for a server.
    ///
    /// # Errors
    /// When a reader has no transport.
    pub fn start(channel: &str, random: &mut Random) -> Result<Self> {
        let (place, ledger) = (Place::default(), Ledger::default());
        let publishing = Manner::all()
            .into_iter()
            .map(|manner| publisher::start(manner, &place, &ledger, channel, random))
            .collect();
        let (mut readers, mut reading) = (Vec::new(), Vec::new());
        for over in OVER {
            let (reader, thread) = Reader::start(over, &place, channel)?;
            readers.push(reader);
            reading.push(thread);
        }
        Ok(Self { place, ledger, channel: channel.to_owned(), readers, publishing, reading })
    }

    /// Waits for something while all go on working.
    ///
    /// # Errors
    /// When it takes too long, or somebody ended.
    pub fn wait_for(&self, what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
        let mut ended = false;
        wait_until(what, Duration::from_secs(60), || {
            ended = self.publishing.iter().chain(&self.reading).any(JoinHandle::is_finished);
            ended || holds()
        })?;
        if ended {
            // Now, so that the death of the server is nobody else's error.
            self.place.give_up();
            return Err(format!("{}: {what}", super::ENDED));
        }
        Ok(())
    }

    /// Waits until so many more events are acknowledged.
    ///
    /// # Errors
    /// As [`Crew::wait_for`].
    pub fn wait_for_more(&self, events: usize) -> Result<()> {
        let goal = self.ledger.acknowledged() + events;
        let what = format!("{events} more events are acknowledged");
        self.wait_for(&what, || self.ledger.acknowledged() >= goal)
    }

    /// Lets them work until a random number of events is acknowledged, and a random moment longer.
    ///
    /// # Errors
    /// As [`Crew::wait_for`].
    pub fn live(&self, random: &mut Random) -> Result<()> {
        let most = [1, 20, 300][random.below(3)];
        self.wait_for_more(random.below(most))?;
        std::thread::sleep(Duration::from_micros(random.below(8_000) as u64));
        Ok(())
    }

    /// Everybody finishes on this server. The log is what publishers were told, and what each reader got.
    ///
    /// # Errors
    /// The first difference.
    pub fn finish(&mut self, server: &Server) -> Result<Vec<Logged>> {
        self.place.finish();
        self.join_publishers()?;
        let log = read_all(&server.url, &self.channel)?;
        self.ledger.check(&log)?;
        self.place.goal(&log.last().ok_or("nothing was published")?.id);
        self.join_readers()?;
        self.readers.iter().try_for_each(|reader| reader.check(&log))?;
        Ok(log)
    }

    /// Sends everybody home.
    ///
    /// # Errors
    /// What went wrong first: the outcome so far, unless that is only that somebody ended, who can say why.
    pub fn end(mut self, outcome: Result<()>) -> Result<()> {
        if outcome.is_err() {
            self.place.give_up();
        }
        self.reading.append(&mut self.publishing);
        let told = self.join_readers();
        match &outcome {
            Err(error) if error.contains(super::ENDED) => told.and(outcome),
            Err(_) => outcome,
            Ok(()) => told,
        }
    }

    fn join_publishers(&mut self) -> Result<()> {
        join(&self.place, std::mem::take(&mut self.publishing))
    }

    fn join_readers(&mut self) -> Result<()> {
        join(&self.place, std::mem::take(&mut self.reading))
    }
}

/// Waits for all and gives the first error that is no consequence of another.
fn join(place: &Place, mut open: Vec<JoinHandle<Result<()>>>) -> Result<()> {
    let mut errors = Vec::new();
    while !open.is_empty() {
        let (ended, rest): (Vec<_>, Vec<_>) = open.into_iter().partition(JoinHandle::is_finished);
        open = rest;
        if ended.is_empty() {
            crate::server::pause();
        }
        for thread in ended {
            if let Err(error) = thread.join().unwrap_or_else(|_| Err("a thread panicked".to_owned())) {
                place.give_up();
                errors.push(error);
            }
        }
    }
    errors.sort_by_key(|error| error.contains(super::GIVEN_UP));
    errors.into_iter().next().map_or(Ok(()), Err)
}
