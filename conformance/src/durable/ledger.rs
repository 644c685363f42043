//! What publishers know of their events, and whether a log can be the truth about it.
//! Must not know how events are published or the log is read.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::history::Logged;
use crate::Result;
use crate::event::shorten;

/// The books of one channel, shared by all its publishers.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<Books>>);

#[derive(Debug, Default)]
struct Books {
    entries: Vec<Entry>,
    by_mark: HashMap<String, usize>,
    /// The highest acknowledged offset.
    highest: Option<u64>,
    acknowledged: usize,
    refused: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct Entry {
    mark: String,
    /// The connection of each time that it was sent.
    sent: Vec<(usize, usize)>,
    /// The highest offset that was acknowledged before it was first sent.
    floor: Option<u64>,
    /// Whether it may be in the log without an acknowledgement.
    uncertain: bool,
    fate: Fate,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Open,
    Refused,
    Acknowledged(String),
}

/// The parts of an id, `EPOCH-OFFSET`. Clients must not look into ids; a test of the log may.
///
/// # Errors
/// When it has another form.
pub fn parts(id: &str) -> Result<(&str, u64)> {
    let wrong = || format!("{id:?} is not an event id");
    let (epoch, offset) = id.rsplit_once('-').ok_or_else(wrong)?;
    Ok((epoch, offset.parse().map_err(|_| wrong())?))
}

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new event, before it is sent. Its mark must be its own.
    pub fn begin(&self, mark: String) -> usize {
        let mut books = self.books();
        let number = books.entries.len();
        books.by_mark.insert(mark.clone(), number);
        let (sent, floor, fate) = (Vec::new(), None, Fate::Open);
        books.entries.push(Entry { mark, sent, floor, uncertain: false, fate });
        number
    }

    /// It is about to be sent, over a connection that numbers tell from all others.
    pub fn sent(&self, entry: usize, connection: (usize, usize)) {
        let mut books = self.books();
        let highest = books.highest;
        let entry = &mut books.entries[entry];
        if entry.sent.is_empty() {
            entry.floor = highest;
        }
        entry.sent.push(connection);
        entry.fate = Fate::Open;
    }

    /// Nobody can say what became of it: the connection broke, or the server could not say either.
    pub fn lost(&self, entry: usize, code: Option<&str>) {
        let mut books = self.books();
        books.entries[entry].uncertain = true;
        if let Some(code) = code {
            *books.refused.entry(code.to_owned()).or_default() += 1;
        }
    }

    /// The server refused it: this time it did not get into the log.
    pub fn refuse(&self, entry: usize, code: &str) {
        let mut books = self.books();
        *books.refused.entry(code.to_owned()).or_default() += 1;
        books.entries[entry].fate = Fate::Refused;
    }

    /// The server took it.
    ///
    /// # Errors
    /// When it cannot have taken it like that.
    pub fn acknowledge(&self, entry: usize, id: &str, duplicate: bool) -> Result<()> {
        let (_, offset) = parts(id)?;
        let mut books = self.books();
        let acknowledged = &mut books.entries[entry];
        if duplicate && !acknowledged.uncertain {
            return Err(format!("{id} is called a duplicate: {}", describe(acknowledged)));
        }
        acknowledged.fate = Fate::Acknowledged(id.to_owned());
        books.highest = books.highest.max(Some(offset));
        books.acknowledged += 1;
        Ok(())
    }

    /// How many were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.books().acknowledged
    }

    /// How many were begun so far.
    pub fn begun(&self) -> usize {
        self.books().entries.len()
    }

    /// Which of the entries from `first` on were acknowledged, for messages.
    pub fn acknowledged_from(&self, first: usize) -> Vec<String> {
        let books = self.books();
        let taken = |entry: &&Entry| matches!(entry.fate, Fate::Acknowledged(_));
        books.entries[first..].iter().filter(taken).map(describe).collect()
    }

    /// How often any code came instead.
    pub fn refusals(&self) -> BTreeMap<String, usize> {
        self.books().refused.clone()
    }

    /// Checks that a log is what publishers were told: everything that was acknowledged is there once under its
    /// id, in an order that agrees with who waited for whom, and nothing else but what may have arrived unheard.
    ///
    /// # Errors
    /// The first thing that cannot be.
    pub fn check(&self, log: &[Logged]) -> Result<()> {
        let books = self.books();
        let mut found = HashSet::new();
        let mut before: Option<(&str, u64)> = None;
        let mut last_of = HashMap::new();
        for logged in log {
            let (epoch, offset) = parts(&logged.id)?;
            if let Some((epoch_before, offset_before)) = before
                && (epoch != epoch_before || offset <= offset_before)
            {
                return Err(format!("{} follows {epoch_before}-{offset_before} in the log", logged.id));
            }
            before = Some((epoch, offset));
            let number = books.by_mark.get(&logged.mark);
            let number =
                *number.ok_or_else(|| format!("nobody published {}", shorten(&format!("{logged:?}"))))?;
            let entry = &books.entries[number];
            if !found.insert(number) {
                return Err(format!("twice in the log, again as {}: {}", logged.id, describe(entry)));
            }
            check_entry(entry, &logged.id, offset)?;
            // Sent once, over one connection: what was sent there before it comes before it.
            if let [connection] = entry.sent[..]
                && let Some(last) = last_of.insert(connection, number)
                && last > number
            {
                return Err(format!("{} overtook on its connection: {}", logged.id, describe(entry)));
            }
        }
        let missing =
            books.entries.iter().enumerate().find(|(number, entry)| {
                matches!(entry.fate, Fate::Acknowledged(_)) && !found.contains(number)
            });
        match missing {
            Some((_, entry)) => Err(format!("acknowledged, but not in the log: {}", describe(entry))),
            None => Ok(()),
        }
    }
}

fn check_entry(entry: &Entry, id: &str, offset: u64) -> Result<()> {
    match &entry.fate {
        Fate::Acknowledged(other) if other != id => Err(format!("in the log as {id}: {}", describe(entry))),
        Fate::Refused if !entry.uncertain => {
            Err(format!("refused, but in the log as {id}: {}", describe(entry)))
        }
        _ if entry.sent.is_empty() => {
            Err(format!("in the log as {id} before it was sent: {}", describe(entry)))
        }
        _ if entry.floor.is_some_and(|floor| offset <= floor) => Err(format!(
            "{id} stands before an event that was acknowledged before it was sent: {}",
            describe(entry)
        )),
        _ => Ok(()),
    }
}

fn describe(entry: &Entry) -> String {
    let Entry { mark, sent, fate, uncertain, .. } = entry;
    format!("{} (sent {} times, {fate:?}, uncertain: {uncertain})", shorten(mark), sent.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(id: &str, mark: &str) -> Logged {
        Logged { id: id.into(), mark: mark.into(), ..Logged::default() }
    }

    /// Three acknowledged, one refused, one unheard of; and the log that goes with it.
    fn sample() -> (Ledger, Vec<Logged>) {
        let ledger = Ledger::default();
        for (number, mark) in ["a", "b", "refused", "lost", "c"].into_iter().enumerate() {
            assert_eq!(ledger.begin(mark.into()), number);
            ledger.sent(number, (0, 0));
            match mark {
                "refused" => ledger.refuse(number, "storage_full"),
                "lost" => ledger.lost(number, None),
                _ => ledger.acknowledge(number, &format!("e-{}", number + 1), false).expect("taken"),
            }
        }
        let log =
            [("e-1", "a"), ("e-2", "b"), ("e-4", "lost"), ("e-5", "c")].map(|(id, mark)| logged(id, mark));
        (ledger, log.to_vec())
    }

    #[test]
    fn the_true_log_passes_with_or_without_what_nobody_heard_of() {
        let (ledger, mut log) = sample();
        ledger.check(&log).expect("true");
        log.remove(2);
        ledger.check(&log).expect("true as well");
    }

    #[test]
    fn each_untrue_log_is_noticed() {
        let (ledger, log) = sample();
        type Change = fn(&mut Vec<Logged>);
        let changes: [(&str, Change); 10] = [
            ("not in the log", |log| drop(log.pop())),
            ("not in the log", |log| drop(log.remove(0))),
            ("not in the log", Vec::clear),
            ("nobody published", |log| log[1].mark.push('x')),
            ("nobody published", |log| log[2].mark.truncate(2)),
            ("twice", |log| log.push(logged("e-6", "a"))),
            ("follows", |log| log.swap(0, 1)),
            ("follows", |log| log[3].id = "f-5".into()),
            ("in the log as e-6", |log| log[3].id = "e-6".into()),
            ("refused", |log| log.push(logged("e-6", "refused"))),
        ];
        for (expected, change) in changes {
            let mut log = log.clone();
            change(&mut log);
            let outcome = ledger.check(&log);
            assert!(outcome.as_ref().is_err_and(|error| error.contains(expected)), "{expected}: {outcome:?}");
        }
    }

    #[test]
    fn an_event_that_overtook_is_noticed() {
        let ledger = Ledger::default();
        for (number, mark) in ["a", "b", "c"].into_iter().enumerate() {
            ledger.begin(mark.into());
            ledger.sent(number, (0, 0));
        }
        ledger.acknowledge(0, "e-5", false).expect("taken");
        let late = ledger.begin("late".into());
        ledger.sent(late, (1, 0));
        let late = [logged("e-4", "late"), logged("e-5", "a")];
        assert!(ledger.check(&late).is_err_and(|error| error.contains("stands before")));
        let swapped = [logged("e-5", "a"), logged("e-6", "c"), logged("e-7", "b")];
        assert!(ledger.check(&swapped).is_err_and(|error| error.contains("overtook")));
    }

    #[test]
    fn a_duplicate_of_nothing_is_noticed() {
        let ledger = Ledger::default();
        let entry = ledger.begin("a".into());
        ledger.sent(entry, (0, 0));
        ledger.refuse(entry, "storage_full");
        ledger.sent(entry, (0, 0));
        assert!(ledger.acknowledge(entry, "e-1", true).is_err());
        ledger.lost(entry, None);
        ledger.sent(entry, (0, 1));
        ledger.acknowledge(entry, "e-1", true).expect("the first may have arrived");
    }
}
