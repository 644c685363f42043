//! Subscribers that outlive the server: each writes down what it got, checks that ids rise, and comes back with
//! nothing but its last id. What was told them must be the log, so a gap is an error.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::body::mark_of;
use super::history::Logged;
use super::ledger::parts;
use super::{Place, Visit};
use crate::Result;
use crate::client::{self, Ask, Client, Connected, Item};
use crate::server::pause;

/// The transports that readers use, one reader each.
pub const OVER: [&str; 5] = ["ws", "sse", "long-poll", "sse-last-event-id", "poll"];

/// A subscriber on a thread of its own.
#[derive(Debug)]
pub struct Reader {
    /// Its transport.
    pub over: &'static str,
    seen: Arc<Mutex<Vec<(String, String)>>>,
}

impl Reader {
    /// Starts one, from the beginning of the channel.
    ///
    /// # Errors
    /// When there is no such transport.
    pub fn start(over: &'static str, place: &Place, channel: &str) -> Result<(Self, JoinHandle<Result<()>>)> {
        client::transport(over)?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (place, channel, kept) = (place.clone(), channel.to_owned(), Arc::clone(&seen));
        let thread = std::thread::spawn(move || {
            read(over, &place, &channel, &kept).map_err(|error| format!("reader over {over}: {error}"))
        });
        Ok((Self { over, seen }, thread))
    }

    /// How many events it has.
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Checks that it got the log, all of it and nothing else.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self, log: &[Logged]) -> Result<()> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        same(&seen, log).map_err(|error| format!("reader over {}: {error}", self.over))
    }
}

fn same(seen: &[(String, String)], log: &[Logged]) -> Result<()> {
    for (number, ((id, mark), logged)) in seen.iter().zip(log).enumerate() {
        if (id, mark) != (&logged.id, &logged.mark) {
            let shown = crate::event::shorten(&format!("{id} {mark}; the log has {logged:?}"));
            return Err(format!("event {} was {shown}", number + 1));
        }
    }
    if seen.len() != log.len() {
        return Err(format!("{} events, the log has {}", seen.len(), log.len()));
    }
    Ok(())
}

fn read(over: &str, place: &Place, channel: &str, seen: &Mutex<Vec<(String, String)>>) -> Result<()> {
    let transport = client::transport(over)?;
    loop {
        let visit = place.visit()?;
        let last = seen.lock().unwrap_or_else(PoisonError::into_inner).last().map(|(id, _)| id.clone());
        let since = Some(last.unwrap_or_else(|| "earliest".to_owned()));
        let ask = Ask { channels: vec![channel.to_owned()], since, ..Ask::default() };
        let outcome = match (transport.connect)(&visit.url, &ask) {
            Ok(Connected::Client(client)) => read_one(client, &visit, place, seen),
            Ok(Connected::Refused(refusal)) => Err(format!("refused: {refusal:?} with {ask:?}")),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => return Ok(()),
            Err(error) if error.starts_with(WRONG) => return Err(error),
            Err(error) if place.excuses(&error) => pause(),
            Err(error) if place.stands(&visit) => return Err(error),
            // The server was killed or goes: what broke off is asked for again.
            Err(_) => pause(),
        }
    }
}

/// How an error begins that the death of the server does not excuse.
const WRONG: &str = "wrong: ";

fn read_one(
    mut client: Box<dyn Client>,
    visit: &Visit,
    place: &Place,
    seen: &Mutex<Vec<(String, String)>>,
) -> Result<()> {
    loop {
        match client.next(Instant::now() + Duration::from_millis(100))? {
            Item::Event(event) => {
                let id = event.id.ok_or("an event without an id")?;
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                let last = seen.last().map(|(id, _)| id.as_str());
                follows(last, &id).map_err(|error| format!("{WRONG}{error}"))?;
                seen.push((id, mark_of(&event.data)));
            }
            Item::Gap(gap) => return Err(format!("{WRONG}start {}: a gap, {gap:?}", visit.start)),
            Item::Closed(code, reason) => return Err(format!("closed: {code:?} {reason}")),
            Item::Snapshot(state) => return Err(format!("{WRONG}nobody asked for {state}")),
            Item::Reconnect(_) => {}
            Item::Nothing => {
                let last =
                    seen.lock().unwrap_or_else(PoisonError::into_inner).last().map(|(id, _)| id.clone());
                if place.is_done(last.as_deref())? {
                    return Ok(());
                }
            }
        }
    }
}

fn follows(last: Option<&str>, id: &str) -> Result<()> {
    let (epoch, offset) = parts(id)?;
    match last.map(parts).transpose()? {
        Some((before, _)) if before != epoch => {
            Err(format!("{id} has another epoch than {last:?} before it"))
        }
        Some((_, before)) if before >= offset => Err(format!("{id} after {last:?}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_twice_out_of_order_or_of_another_epoch_are_noticed() {
        follows(None, "e-5").expect("the first");
        follows(Some("e-9"), "e-10").expect("rises, if not as text");
        for id in ["e-9", "e-8", "f-10"] {
            assert!(follows(Some("e-9"), id).is_err(), "{id}");
        }
    }

    #[test]
    fn a_reader_that_has_not_the_log_is_noticed() {
        let pair = |id: &str, mark: &str| (id.to_owned(), mark.to_owned());
        let log: Vec<_> = [("e-1", "a"), ("e-2", "b")]
            .map(|(id, mark)| Logged { id: id.into(), mark: mark.into(), ..Logged::default() })
            .into();
        same(&[pair("e-1", "a"), pair("e-2", "b")], &log).expect("the log");
        let others = [
            vec![pair("e-1", "a")],
            vec![pair("e-2", "b")],
            vec![pair("e-1", "a"), pair("e-2", "c")],
            vec![pair("e-1", "a"), pair("e-2", "b"), pair("e-3", "c")],
        ];
        for seen in others {
            assert!(same(&seen, &log).is_err(), "{seen:?}");
        }
    }
}
