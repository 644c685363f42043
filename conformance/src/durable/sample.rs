//! A data directory of which everything is known, to damage copies of it; and what a server may make of one.
//! Must not know what is in the files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::body::Body;
use super::history::{Logged, Stopped, read, read_all};
use super::publish::{PATIENCE, post};
use crate::client::{self, Ask, Connected, Item};
use crate::launch::{Launch, Launched};
use crate::random::Random;
use crate::scratch::{self, Scratch};
use crate::{Result, http};

/// The channels of a sample.
pub const CHANNELS: [&str; 3] = ["a", "b:1", "b:2"];
/// Starts by which a sample is made; each leaves files that the next only reads.
const STARTS: usize = 4;

/// A directory that is known.
#[derive(Debug)]
pub struct Sample {
    scratch: Scratch,
    /// What the server served from it, checked against what was published, for each channel.
    pub logs: Vec<Vec<Logged>>,
    /// The channel of each event, in the order in which they were published.
    pub order: Vec<usize>,
    /// How long each file was after an event: where cutting it leaves nothing half.
    pub ends: BTreeMap<PathBuf, Vec<usize>>,
    /// The settings of its servers.
    pub config: &'static str,
}

/// What a server made of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It did not start.
    Refused,
    /// It started, and a read ended with an error.
    Error,
    /// Everything is there.
    Whole,
    /// It served without an error, but not everything.
    Less,
}

impl Sample {
    /// Publishes `events`, with restarts in between, and ends with a stop or a kill.
    ///
    /// # Errors
    /// When the server does not take or serve them.
    pub fn new(events: usize, stop: bool, random: &mut Random) -> Result<Self> {
        let scratch = Scratch::new("sample")?;
        let config = super::crew::KEEP_ALL;
        let (logs, order, ends) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut sample = Self { scratch, logs, order, ends, config };
        let agent = http::agent(PATIENCE);
        let mut marks = vec![Vec::new(); CHANNELS.len()];
        for start in 0..STARTS {
            let mut server = Launch::on(&sample.data()).config(config).serve()?;
            for number in 0..events / STARTS {
                let channel = random.below(CHANNELS.len());
                let body = Body::random(random, start, number);
                let id = post(&agent, &server.url, CHANNELS[channel], &body, None)?.fresh()?;
                marks[channel].push((id, body.mark()));
                sample.order.push(channel);
                sample.note_ends()?;
                if start == STARTS - 1 && number + 1 == events / STARTS - 1 {
                    // Everything but the last event, which is acknowledged and so on disk.
                    scratch::copy(&sample.data(), &sample.before())?;
                }
            }
            if start == STARTS - 1 {
                sample.logs =
                    CHANNELS.iter().map(|channel| read_all(&server.url, channel)).collect::<Result<_>>()?;
            }
            if stop { drop(server.stop()?) } else { drop(server.kill()) }
        }
        for (log, marks) in sample.logs.iter().zip(&marks) {
            let served: Vec<_> = log.iter().map(|logged| (logged.id.clone(), logged.mark.clone())).collect();
            if served != *marks {
                return Err(format!("published {} events, served {}", marks.len(), served.len()));
            }
        }
        Ok(sample)
    }

    fn note_ends(&mut self) -> Result<()> {
        for file in scratch::files(&self.data())? {
            // Files may come and go while the server runs.
            let Ok(meta) = std::fs::metadata(self.data().join(&file)) else { continue };
            let ends = self.ends.entry(file).or_default();
            if ends.last() != Some(&(meta.len() as usize)) {
                ends.push(meta.len() as usize);
            }
        }
        Ok(())
    }

    /// The directory.
    pub fn data(&self) -> PathBuf {
        self.scratch.join("data")
    }

    /// The directory as it was while the server ran, before the last event was published.
    pub fn before(&self) -> PathBuf {
        self.scratch.join("before")
    }

    /// The directory for a damaged copy, fresh.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn copy(&self) -> Result<PathBuf> {
        let copy = self.scratch.join("copy");
        scratch::copy(&self.data(), &copy)?;
        Ok(copy)
    }

    /// The files that have something in them.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = scratch::files(&self.data())?;
        files.retain(|file| std::fs::metadata(self.data().join(file)).is_ok_and(|meta| meta.len() > 0));
        Ok(files)
    }

    /// The files that the last publish changed: the newest journal.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn newest(&self) -> Result<Vec<PathBuf>> {
        let mut files = self.files()?;
        files.retain(|file| {
            std::fs::read(self.before().join(file)).ok() != std::fs::read(self.data().join(file)).ok()
        });
        Ok(files)
    }

    /// Starts a server on a directory and reads everything back. Whatever it serves must have been published; how
    /// much of it is the verdict. A server that does not serve everything must name what is damaged.
    ///
    /// # Errors
    /// What no damage excuses.
    pub fn judge(&self, data: &Path, damaged: &Path) -> Result<Verdict> {
        // The file, or at least the directory that is to be restored from a copy.
        let (name, place) = (damaged.to_string_lossy(), data.to_string_lossy());
        let named = |log: &str, what: &str| match log.contains(&*name) || log.contains(&*place) {
            true => Ok(()),
            false => Err(format!("{what} without naming {name} or {place}: {}", crate::event::shorten(log))),
        };
        let mut server = match Launch::on(data).config(self.config).run()? {
            Launched::Serving(server) => server,
            Launched::Ended(ended) => {
                if ended.status.code().is_none_or(|code| code == 0 || code == 101) {
                    let log = crate::event::shorten(&ended.log);
                    return Err(format!("instead of a refusal, {}: {log}", ended.status));
                }
                named(&ended.log, "it refused to start")?;
                return Ok(Verdict::Refused);
            }
        };
        let mut verdict = Verdict::Whole;
        let mut counts = Vec::new();
        for (channel, log) in CHANNELS.iter().zip(&self.logs) {
            let history = read(&server.url, channel, "earliest")?;
            is_beginning(&history.events, log).map_err(|error| format!("channel {channel}: {error}"))?;
            counts.push(history.events.len());
            match history.stopped {
                Some(Stopped::Problem(..) | Stopped::Cut(_)) => {
                    verdict = Verdict::Error;
                    streams_end(&server.url, channel, log)?;
                }
                None if history.events.len() < log.len() && verdict == Verdict::Whole => {
                    verdict = Verdict::Less
                }
                None => {}
            }
        }
        let log = server.kill();
        match verdict {
            Verdict::Error => named(&log, "a read failed")?,
            Verdict::Less => self.is_beginning_of_all(&counts)?,
            _ => {}
        }
        Ok(verdict)
    }

    /// So many of each channel: is there a moment at which exactly those had been published?
    fn is_beginning_of_all(&self, counts: &[usize]) -> Result<()> {
        let total = counts.iter().sum::<usize>();
        let at_that_moment: Vec<_> = (0..counts.len())
            .map(|channel| self.order[..total].iter().filter(|other| **other == channel).count())
            .collect();
        if at_that_moment == counts {
            return Ok(());
        }
        Err(format!(
            "it serves {counts:?} events of the channels, which is no beginning of what was published"
        ))
    }
}

fn is_beginning(got: &[Logged], log: &[Logged]) -> Result<()> {
    let differs = got.iter().zip(log).position(|(got, expected)| got != expected);
    match differs {
        Some(place) => {
            let (got, expected) = (&got[place], &log[place]);
            Err(crate::event::shorten(&format!("event {place} is served as {got:?}, was {expected:?}")))
        }
        None if got.len() > log.len() => Err(format!("{} events of {}", got.len(), log.len())),
        None => Ok(()),
    }
}

/// Streams over what cannot be read give its beginning and end, or do not begin.
fn streams_end(server: &str, channel: &str, log: &[Logged]) -> Result<()> {
    for over in ["ws", "sse"] {
        let since = Some("earliest".to_owned());
        let ask = Ask { channels: vec![channel.to_owned()], since, ..Ask::default() };
        let Ok(Connected::Client(mut client)) = (client::transport(over)?.connect)(server, &ask) else {
            continue;
        };
        let mut expected = log.iter();
        loop {
            let next = client.next(Instant::now() + Duration::from_secs(10));
            match (next, expected.next()) {
                (Ok(Item::Event(seen)), Some(logged))
                    if seen.id.as_ref() == Some(&logged.id)
                        && super::body::mark_of(&seen.data) == logged.mark => {}
                (Ok(Item::Closed(..)) | Err(_), _) => break,
                (other, logged) => {
                    let shown = crate::event::shorten(&format!("{other:?}, expected {logged:?} or the end"));
                    return Err(format!("{channel} over {over}: {shown}"));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_beginning_is_noticed() {
        let logged = |id: &str| Logged { id: id.into(), mark: "a".into(), ..Logged::default() };
        let log = [logged("e-1"), logged("e-2")];
        is_beginning(&[], &log).expect("a beginning");
        is_beginning(&log, &log).expect("all of it");
        assert!(is_beginning(&log[1..], &log).is_err());
        assert!(is_beginning(&[Logged { mark: "b".into(), ..logged("e-1") }], &log).is_err());
        assert!(is_beginning(&[logged("e-1"), logged("e-2"), logged("e-3")], &log).is_err());
    }
}
