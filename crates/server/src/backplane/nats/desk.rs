//! A channel's appends, one message after the other: what waits meanwhile is the next message. Each is appended only if
//! the newest one is the one that this server knows; else what is newer is read first. Must not know other channels.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use tidewire_core::limits::StateKind;
use tidewire_core::{ChannelName, Code, Problem};
use tokio::sync::Notify;

use super::draft::{Draft, Outcome};
use super::index::{self, Used};
use super::ledger::{self, Oldest, Summary};
use super::office::{Job, Office, take};
use super::tail::{Tail, Unindexed};
use super::wire::{Stored, lock};
use super::words::Message;
use crate::backplane::broker::{Appended, BrokerError};
use crate::clock::wall_clock;

/// How often a message is made anew because others were faster.
const TRIES: usize = 200;
/// How many messages may have something that is not in the index before the next one waits.
const UNINDEXED_MOST: usize = 64;
/// How many of other servers' messages may wait for these to put them into the index.
const LEFT_TO_OTHERS_MOST: usize = 32;
/// How many writes of a message into the index are under way at a time.
const WRITES_UNDER_WAY: usize = 32;
/// How many dropped events are worth being deleted.
const DROPPED_EVENTS: u64 = 64;

/// The desk of a channel.
pub(super) struct Desk {
    name: ChannelName,
    state: Mutex<State>,
    shared: Arc<Writing>,
}

/// What those who write into the index know.
#[derive(Default)]
struct Writing {
    /// Something came into it.
    written: Notify,
    /// Which sequences it has of keys of the state.
    sequences: Mutex<HashMap<String, u64>>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Somebody is at it.
    is_busy: bool,
    tail: Option<Tail>,
}

impl Desk {
    pub(super) fn new(name: ChannelName) -> Self {
        Self { name, state: Mutex::default(), shared: Arc::default() }
    }

    /// Whether nobody is at it.
    pub(super) fn is_idle(&self) -> bool {
        !lock(&self.state).is_busy
    }

    /// Takes a job. True if somebody must come to do it.
    pub(super) fn put(&self, job: Job) -> bool {
        let mut state = lock(&self.state);
        state.jobs.push_back(job);
        !std::mem::replace(&mut state.is_busy, true)
    }

    /// Does what there is to do.
    pub(super) async fn work(self: Arc<Self>, office: Office) {
        let mut tail = lock(&self.state).tail.take();
        loop {
            let mut jobs = {
                let mut state = lock(&self.state);
                if office.is_closed.load(Ordering::Relaxed) {
                    state.jobs.clear();
                }
                let jobs = take(&mut state.jobs);
                if jobs.is_empty() {
                    state.is_busy = false;
                    state.tail = tail;
                    return;
                }
                jobs
            };
            if let Err(error) = self.serve(&office, &mut tail, &mut jobs).await {
                tail = None;
                jobs.into_iter().for_each(|job| job.fail(&error));
                office.give_up(&error);
            }
        }
    }

    async fn serve(
        &self,
        office: &Office,
        tail: &mut Option<Tail>,
        jobs: &mut VecDeque<Job>,
    ) -> Result<(), BrokerError> {
        while let Some(first) = jobs.front() {
            let is_keyed = match first {
                Job::Append { append, .. } => append.policy.state == StateKind::Keyed,
                Job::Delete { .. } => true,
            };
            if tail.is_none() {
                let mut opened = Tail::open(&office.library, &self.name, is_keyed).await?;
                self.write_what_others_left(office, &mut opened, 0);
                *tail = Some(opened);
            }
            let Some(known) = tail else { continue };
            self.wait_for_index(office, known, UNINDEXED_MOST).await?;
            if let Job::Delete { .. } = first {
                let head = self.delete(office, known, is_keyed).await?;
                if let Some(Job::Delete { answer }) = jobs.pop_front() {
                    let _ = answer.send(Ok(head));
                }
            } else {
                self.append(office, known, jobs).await?;
            }
        }
        Ok(())
    }

    async fn append(
        &self,
        office: &Office,
        tail: &mut Tail,
        jobs: &mut VecDeque<Job>,
    ) -> Result<(), BrokerError> {
        let library = &office.library;
        let Some(Job::Append { append, .. }) = jobs.front() else { return Ok(()) };
        let policy = Arc::clone(&append.policy);
        let mut asked = HashSet::new();
        tail.forget_keys();
        for _ in 0..TRIES {
            tail.look_up(library, &self.name, jobs, &self.shared.sequences, &mut asked).await?;
            let now = wall_clock().0;
            let mut draft = Draft::new(tail, office, jobs.iter(), &policy, now);
            if draft.entries.is_empty() {
                answer(&self.name, office, jobs, draft.outcomes, Ok(None));
                return Ok(());
            }
            let own = Summary::own(&draft.head, &draft.totals);
            while !ledger::trim(&mut draft.head, &tail.oldest, &own, &policy, now) {
                tail.read_oldest(library, &self.name).await?;
            }
            draft.head.indexed = tail.indexed();
            let highest = lock(&library.witness).highest();
            let data = draft.head.encode(&draft.entries);
            let ttl_ms = draft.head.ttl_ms;
            let stored =
                library.wire.store(library.subject(&self.name), data, Some(tail.expected), ttl_ms).await?;
            let sequence = match stored {
                Stored::At(sequence) => sequence,
                Stored::Full(error) => {
                    answer(&self.name, office, jobs, draft.outcomes, Err(&error));
                    return Ok(());
                }
                Stored::Outrun => {
                    if tail.catch_up(library, &self.name, policy.state == StateKind::Keyed).await? {
                        asked.clear();
                    }
                    office.check()?;
                    continue;
                }
            };
            if sequence <= highest {
                return Err(BrokerError("it has lost what it had".to_owned()));
            }
            let Draft { mut head, entries, outcomes, .. } = draft;
            head.settle(sequence);
            lock(&library.witness).note(sequence, head.nonce);
            let message = Message { sequence, head, entries };
            tail.note(library, &self.name, &message)?;
            tail.take(sequence, message.head.clone(), Summary::of(&message)?);
            answer(&self.name, office, jobs, outcomes, Ok(Some(&message)));
            if let Some(last) = tail.unindexed.back_mut().filter(|last| last.sequence == sequence) {
                self.write(office, last);
            }
            self.write_what_others_left(office, tail, LEFT_TO_OTHERS_MOST);
            self.purge(office, tail);
            return Ok(());
        }
        Err(BrokerError(format!("{} changes faster than it can be appended to", self.name)))
    }

    async fn delete(&self, office: &Office, tail: &mut Tail, is_keyed: bool) -> Result<u64, BrokerError> {
        let library = &office.library;
        // What is written into the index later than it is emptied would stay there.
        self.wait_for_index(office, tail, 1).await?;
        for _ in 0..TRIES {
            let Some(head) = &tail.head else { return Ok(0) };
            let mut head = ledger::deletion(head, office.node, library.meta.base(), wall_clock().0);
            let data = head.encode(&[]);
            let stored = library
                .wire
                .store(library.subject(&self.name), data, Some(tail.expected), head.ttl_ms)
                .await?;
            let Some(sequence) = stored.sequence()? else {
                tail.catch_up(library, &self.name, is_keyed).await?;
                office.check()?;
                continue;
            };
            head.settle(sequence);
            lock(&library.witness).note(sequence, head.nonce);
            let newest = head.head;
            *tail =
                Tail { expected: sequence, deleted: head.count, oldest: Oldest::none(), ..Tail::default() };
            tail.head = Some(head);
            lock(&self.shared.sequences).clear();
            let (prefix, token) = (&library.prefix, super::words::token(&self.name));
            let numbers = library.numbers(&self.name);
            library.purge_log(&self.name, sequence).await?;
            for filter in
                [format!("{prefix}.receipt.{token}.*"), format!("{prefix}.state.{token}.*"), numbers]
            {
                library.purge_index(&filter).await?;
            }
            return Ok(newest);
        }
        Err(BrokerError(format!("{} changes faster than it can be deleted", self.name)))
    }

    /// Puts into the index what other servers may not have, if that is more than so many messages.
    fn write_what_others_left(&self, office: &Office, tail: &mut Tail, left_most: usize) {
        let left = tail.unindexed.iter().filter(|message| !message.notes.is_empty()).count();
        if left > left_most {
            tail.unindexed.iter_mut().for_each(|message| self.write(office, message));
        }
    }

    /// Begins to put into the index what belongs to a message.
    fn write(&self, office: &Office, message: &mut Unindexed) {
        let notes = std::mem::take(&mut message.notes);
        if notes.is_empty() {
            return;
        }
        let (office, shared, is_written) =
            (office.clone(), Arc::clone(&self.shared), Arc::clone(&message.is_written));
        let writing = async move {
            let writes = notes.into_iter().map(|note| {
                let (library, shared) = (&office.library, &shared);
                async move {
                    let subject = note.subject.clone();
                    let expected = lock(&shared.sequences).get(&subject).copied().unwrap_or(0);
                    let sequence = index::write(library, note, Some(expected)).await?;
                    if let Some(known) = lock(&shared.sequences).get_mut(&subject) {
                        *known = sequence;
                    }
                    Ok::<_, BrokerError>(())
                }
            });
            let mut writes = futures_util::stream::iter(writes).buffer_unordered(WRITES_UNDER_WAY);
            while let Some(written) = writes.next().await {
                if let Err(error) = written {
                    office.give_up(&error);
                    shared.written.notify_waiters();
                    return;
                }
            }
            is_written.store(true, Ordering::Release);
            shared.written.notify_waiters();
        };
        tokio::spawn(writing);
    }

    /// Deletes what is dropped, once that is worth it: nothing that may not be in the index, and never the newest.
    fn purge(&self, office: &Office, tail: &mut Tail) {
        let Some(head) = &tail.head else { return };
        let dropped = head.floor_count - tail.deleted.min(head.floor_count);
        if dropped < DROPPED_EVENTS.max((head.count - head.floor_count) / 8) {
            return;
        }
        let library = office.library.clone();
        let first = if head.first == 0 { tail.expected } else { library.meta.sequence(head.first) };
        let unindexed = tail.unindexed.front().map_or(u64::MAX, |first| first.sequence);
        let before = first.min(unindexed).min(tail.expected);
        tail.deleted = head.floor_count;
        let name = self.name.clone();
        tokio::spawn(async move {
            if let Err(error) = library.purge_log(&name, before).await {
                tracing::warn!(target: "tidewire", channel = name.as_str(), %error, "what is dropped stays in the log");
            }
        });
    }

    /// Waits until fewer messages than that may have something that is not in the index.
    async fn wait_for_index(&self, office: &Office, tail: &mut Tail, most: usize) -> Result<(), BrokerError> {
        loop {
            let written = self.shared.written.notified();
            tail.forget_written();
            if tail.unindexed.len() < most {
                return Ok(());
            }
            self.write_what_others_left(office, tail, 0);
            office.check()?;
            written.await;
        }
    }
}

/// Tells who waits what became of it.
fn answer(
    name: &ChannelName,
    office: &Office,
    jobs: &mut VecDeque<Job>,
    outcomes: Vec<Outcome>,
    message: Result<Option<&Message>, &BrokerError>,
) {
    let epoch = office.library.epoch(name);
    for outcome in outcomes {
        let Some(Job::Append { append, answer, .. }) = jobs.pop_front() else { return };
        let said = match (outcome, message) {
            (Outcome::Refused(problem), _) => Appended::Refused(problem),
            (Outcome::Known(receipt), _) => Appended::Known(receipt),
            (Outcome::Same(index, digest), Ok(Some(message))) => {
                Appended::Known(Used::new(message.offset(index), message.head.time, 0, digest).receipt)
            }
            (Outcome::Stored(index), Ok(Some(message))) => {
                Appended::Stored(message.own_arrival(name, epoch, index, append.new))
            }
            (_, Err(error)) => {
                let detail = format!("the backplane has no room for the event: {error}");
                Appended::Refused(Problem::new(Code::StorageFull, detail))
            }
            // Without a message, nothing was to be stored.
            (_, Ok(None)) => Appended::Refused(Problem::new(Code::Internal, "the event was not stored")),
        };
        let _ = answer.send(Ok(said));
    }
}
