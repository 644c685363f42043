//! Users who have streams open, or have just sent something, over all shards: where they are, how many subscriptions
//! they hold, how much they send. Must not know how a user is found out, nor how a connection is closed.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;
use tidewire_core::limits::Limits;
use tidewire_core::rate::{Bucket, Limited, Rate};

use crate::metrics::Transport;

/// How many parts the table has, so that shards seldom wait for each other.
const PARTS: usize = 32;
/// How many entries are looked at to find one that can be forgotten.
const LOOKS: usize = 16;
/// Those beyond a bound on how many there are at a time are told to come back then.
const RETRY_AFTER_MS: u64 = 5_000;
/// How many users without a stream are remembered, for what they sent.
const SENDERS_MAX: usize = 100_000;

/// Where a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) shard: u16,
    pub(crate) connection: u32,
    /// Tells it from a later one of the same number.
    pub(crate) serial: u32,
    pub(crate) transport: Transport,
    /// Since when, in Unix seconds.
    pub(crate) since_seconds: u32,
}

/// A user as the admin API shows one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) user: Arc<str>,
    pub(crate) connections: usize,
    pub(crate) subscriptions: u32,
}

/// All users of whom something is known.
#[derive(Debug)]
pub(crate) struct Users {
    connections_max: u32,
    subscriptions_max: u32,
    messages: Option<Rate>,
    bytes: Option<Rate>,
    hasher: RandomState,
    parts: Vec<Mutex<Part>>,
    /// Other servers are told how much each has here.
    is_shared: bool,
}

/// Some of them.
#[derive(Debug, Default)]
struct Part {
    entries: HashMap<Arc<str>, Entry>,
    /// What users have on other servers.
    elsewhere: HashMap<Arc<str>, Held>,
    /// Who has something else here than when that was last looked at.
    changed: HashSet<Arc<str>>,
}

/// How much a user has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Held {
    pub(crate) connections: u32,
    pub(crate) subscriptions: u32,
}

#[derive(Debug, Default)]
struct Entry {
    places: SmallVec<[Place; 1]>,
    subscriptions: u32,
    messages: Bucket,
    bytes: Bucket,
}

/// A stream of a user that is counted; dropping it ends that, its subscriptions included.
#[derive(Debug)]
pub(crate) struct Membership {
    users: Arc<Users>,
    user: Arc<str>,
    place: Place,
    subscriptions: u32,
}

impl Users {
    pub(crate) fn new(limits: &Limits, has_peers: bool) -> Self {
        let is_limited = limits.connections_per_user > 0 || limits.subscriptions_per_user > 0;
        Self {
            is_shared: has_peers && is_limited,
            connections_max: limits.connections_per_user,
            subscriptions_max: limits.subscriptions_per_user,
            messages: Rate::new(limits.user_messages_per_second, 1000),
            bytes: Rate::new(limits.user_message_bytes_per_second, 1000),
            hasher: RandomState::new(),
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
        }
    }

    /// A user opens a stream.
    ///
    /// # Errors
    /// They have as many as they may.
    pub(crate) fn join(self: &Arc<Self>, user: &Arc<str>, place: Place) -> Result<Membership, Limited> {
        let mut part = self.part(user);
        let elsewhere = part.elsewhere(user).connections as usize;
        let entry = part.entries.entry(Arc::clone(user)).or_default();
        if self.connections_max > 0 && entry.places.len() + elsewhere >= self.connections_max as usize {
            self.forget_if_gone(&mut part, user);
            return Err(reached("connections_per_user", self.connections_max));
        }
        entry.places.push(place);
        self.note_changed(&mut part, user);
        drop(part);
        Ok(Membership { users: Arc::clone(self), user: Arc::clone(user), place, subscriptions: 0 })
    }

    /// A user sends something.
    ///
    /// # Errors
    /// They sent too much lately.
    pub(crate) fn take_message(&self, user: &Arc<str>, bytes: usize, now_ms: u64) -> Result<(), Limited> {
        if self.messages.is_none() && self.bytes.is_none() {
            return Ok(());
        }
        let mut part = self.part(user);
        let entries = &mut part.entries;
        if !entries.contains_key(user) && entries.len() >= SENDERS_MAX / PARTS {
            make_room(entries, now_ms);
        }
        let entry = entries.entry(Arc::clone(user)).or_default();
        take(&mut entry.messages, self.messages, 1, now_ms, "user_messages_per_second")?;
        take(&mut entry.bytes, self.bytes, bytes, now_ms, "user_message_bytes_per_second")
    }

    /// Where a user is.
    pub(crate) fn places(&self, user: &str) -> Vec<Place> {
        self.part(user).entries.get(user).map(|entry| entry.places.to_vec()).unwrap_or_default()
    }

    /// Up to `most` users with streams, in the order of their names, after `after`.
    pub(crate) fn page(&self, after: &str, most: usize) -> Vec<Seen> {
        let mut found: Vec<Seen> = Vec::new();
        for part in &self.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            let entries = part.entries.iter();
            let here = entries.filter(|(user, entry)| &***user > after && !entry.places.is_empty());
            found.extend(here.map(|(user, entry)| Seen {
                user: Arc::clone(user),
                connections: entry.places.len(),
                subscriptions: entry.subscriptions,
            }));
            // Not all of them at once in memory, however many there are.
            if found.len() > 2 * most {
                found.select_nth_unstable_by(most, |a, b| a.user.cmp(&b.user));
                found.truncate(most);
            }
        }
        found.sort_unstable_by(|a, b| a.user.cmp(&b.user));
        found.truncate(most);
        found
    }

    /// How many users have streams.
    pub(crate) fn count(&self) -> usize {
        let count = |part: &Mutex<Part>| {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.entries.values().filter(|entry| !entry.places.is_empty()).count()
        };
        self.parts.iter().map(count).sum()
    }

    fn note_changed(&self, part: &mut Part, user: &Arc<str>) {
        if self.is_shared {
            part.changed.insert(Arc::clone(user));
        }
    }

    /// Forgets a user without a stream, unless what they sent must still count when they come back at once.
    fn forget_if_gone(&self, part: &mut Part, user: &Arc<str>) {
        let is_gone = part.entries.get(user).is_some_and(|entry| entry.places.is_empty());
        if is_gone && self.messages.is_none() && self.bytes.is_none() {
            part.entries.remove(user);
        }
    }

    fn part(&self, user: &str) -> MutexGuard<'_, Part> {
        let part = &self.parts[self.hasher.hash_one(user) as usize % PARTS];
        // Nothing in here panics half-way.
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What other servers say, and are told.
impl Users {
    /// A user has so much more on other servers, and so much less.
    pub(crate) fn note_elsewhere(&self, user: &str, more: Held, less: Held) {
        let mut part = self.part(user);
        let Held { connections, subscriptions } = part.elsewhere(user);
        let change = |has: u32, more: u32, less: u32| has.saturating_add(more).saturating_sub(less);
        let held = Held {
            connections: change(connections, more.connections, less.connections),
            subscriptions: change(subscriptions, more.subscriptions, less.subscriptions),
        };
        if held == Held::default() {
            part.elsewhere.remove(user);
        } else {
            part.elsewhere.insert(user.into(), held);
        }
    }

    /// Who has something else here than when this was called last, and what.
    pub(crate) fn take_changes(&self, mut each: impl FnMut(&str, Held)) {
        for part in &self.parts {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            for user in std::mem::take(&mut part.changed) {
                let held = part.entries.get(&user).map(|entry| Held {
                    connections: entry.places.len() as u32,
                    subscriptions: entry.subscriptions,
                });
                each(&user, held.unwrap_or_default());
            }
        }
    }
}

impl Part {
    fn elsewhere(&self, user: &str) -> Held {
        self.elsewhere.get(user).copied().unwrap_or_default()
    }
}

impl Membership {
    /// The user subscribes to one more channel.
    ///
    /// # Errors
    /// They have as many subscriptions as they may.
    pub(crate) fn subscribe(&mut self) -> Result<(), Limited> {
        let mut part = self.users.part(&self.user);
        let most = self.users.subscriptions_max;
        let elsewhere = part.elsewhere(&self.user).subscriptions;
        let Some(entry) = part.entries.get_mut(&self.user) else { return Ok(()) };
        if most > 0 && entry.subscriptions.saturating_add(elsewhere) >= most {
            return Err(reached("subscriptions_per_user", most));
        }
        entry.subscriptions += 1;
        self.subscriptions += 1;
        self.users.note_changed(&mut part, &self.user);
        Ok(())
    }

    /// And to one less.
    pub(crate) fn unsubscribe(&mut self) {
        let mut part = self.users.part(&self.user);
        let less = self.subscriptions.min(1);
        self.subscriptions -= less;
        if let Some(entry) = part.entries.get_mut(&self.user) {
            entry.subscriptions -= less;
        }
        self.users.note_changed(&mut part, &self.user);
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut part = self.users.part(&self.user);
        let Some(entry) = part.entries.get_mut(&self.user) else { return };
        entry.subscriptions -= self.subscriptions;
        if let Some(found) = entry.places.iter().position(|place| *place == self.place) {
            entry.places.swap_remove(found);
        }
        self.users.forget_if_gone(&mut part, &self.user);
        self.users.note_changed(&mut part, &self.user);
    }
}

/// Takes out of a bucket that may be unlimited.
pub(crate) fn take(
    bucket: &mut Bucket,
    rate: Option<Rate>,
    amount: usize,
    now_ms: u64,
    limit: &'static str,
) -> Result<(), Limited> {
    let Some(rate) = rate else { return Ok(()) };
    let amount = u32::try_from(amount).unwrap_or(u32::MAX);
    bucket.take(now_ms, amount, rate).map_err(|after_ms| rate.limited(limit, after_ms))
}

fn reached(limit: &'static str, quota: u32) -> Limited {
    Limited { limit, quota, window_seconds: None, retry_after_ms: RETRY_AFTER_MS }
}

/// Forgets somebody without a stream: one who has not sent for long, or else any.
fn make_room(part: &mut HashMap<Arc<str>, Entry>, now_ms: u64) {
    let mut found = None;
    for (user, entry) in part.iter().filter(|(_, entry)| entry.places.is_empty()).take(LOOKS) {
        found = Some(Arc::clone(user));
        if entry.messages.is_full(now_ms) && entry.bytes.is_full(now_ms) {
            break;
        }
    }
    if let Some(user) = found {
        part.remove(&user);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(connection: u32) -> Place {
        Place { shard: 0, connection, serial: 0, transport: Transport::WebSocket, since_seconds: 0 }
    }

    fn users(limits: Limits) -> Arc<Users> {
        Arc::new(Users::new(&limits, true))
    }

    #[test]
    fn who_is_where() {
        let all = users(Limits { connections_per_user: 2, ..Limits::default() });
        let (ann, bob): (Arc<str>, Arc<str>) = ("ann".into(), "bob".into());
        let first = all.join(&ann, place(1)).expect("room");
        let second = all.join(&ann, place(2)).expect("room");
        assert_eq!(all.join(&ann, place(3)).expect_err("full").limit, "connections_per_user");
        let other = all.join(&bob, place(3)).expect("room");
        assert_eq!(all.places("ann"), [place(1), place(2)]);
        assert_eq!((all.count(), all.places("eve").len()), (2, 0));
        let page: Vec<_> = all.page("", 10).into_iter().map(|seen| (seen.user, seen.connections)).collect();
        assert_eq!(page, [(ann, 2), (bob, 1)]);
        assert_eq!(all.page("ann", 10).len(), 1);
        drop((first, second, other));
        assert_eq!(all.count(), 0);
        assert!(all.parts.iter().all(|part| part.lock().expect("sound").entries.is_empty()));
    }

    #[test]
    fn what_they_have_on_other_servers_counts_as_well() {
        let limits = Limits { connections_per_user: 3, subscriptions_per_user: 2, ..Limits::default() };
        let all = users(limits);
        let ann: Arc<str> = "ann".into();
        let (none, one) = (Held::default(), Held { connections: 2, subscriptions: 1 });
        all.note_elsewhere("ann", one, none);
        let mut first = all.join(&ann, place(1)).expect("room");
        assert!(all.join(&ann, place(2)).is_err());
        assert!(first.subscribe().is_ok() && first.subscribe().is_err());
        let mut told = Vec::new();
        all.take_changes(|user, held| told.push((user.to_owned(), held)));
        assert_eq!(told, [("ann".to_owned(), Held { connections: 1, subscriptions: 1 })]);
        all.note_elsewhere("ann", none, one);
        let second = all.join(&ann, place(2)).expect("room again");
        assert!(first.subscribe().is_ok());
        drop((first, second));
        told.clear();
        all.take_changes(|user, held| told.push((user.to_owned(), held)));
        assert_eq!(told, [("ann".to_owned(), none)]);
        all.take_changes(|_, _| unreachable!("nothing has changed"));
        assert!(all.parts.iter().all(|part| part.lock().expect("sound").elsewhere.is_empty()));
        // Whom nobody here lets in is not remembered here.
        all.note_elsewhere("bob", Held { connections: 3, ..none }, none);
        assert!(all.join(&"bob".into(), place(1)).is_err());
        assert!(all.parts.iter().all(|part| part.lock().expect("sound").entries.is_empty()));
    }

    #[test]
    fn pages_are_whole_however_many_there_are() {
        let all = users(Limits::default());
        let names: Vec<Arc<str>> = (0..500).map(|number| format!("{number:03}").into()).collect();
        let _held: Vec<_> = names.iter().map(|name| all.join(name, place(1)).expect("room")).collect();
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = all.page(&after, 7);
            let Some(last) = page.last() else { break };
            after = last.user.to_string();
            seen.extend(page.into_iter().map(|seen| seen.user));
        }
        assert_eq!(seen, names);
    }

    #[test]
    fn subscriptions_are_counted_over_all_streams() {
        let all = users(Limits { subscriptions_per_user: 3, ..Limits::default() });
        let ann: Arc<str> = "ann".into();
        let mut first = all.join(&ann, place(1)).expect("room");
        let mut second = all.join(&ann, place(2)).expect("room");
        assert!(first.subscribe().is_ok() && first.subscribe().is_ok() && second.subscribe().is_ok());
        assert_eq!(second.subscribe().expect_err("full").limit, "subscriptions_per_user");
        first.unsubscribe();
        assert!(second.subscribe().is_ok() && second.subscribe().is_err());
        drop(first);
        assert!(second.subscribe().is_ok() && second.subscribe().is_err());
    }

    #[test]
    fn what_is_sent_counts_over_all_streams_and_after_them() {
        let all = users(Limits {
            user_messages_per_second: 3,
            user_message_bytes_per_second: 100,
            ..Limits::default()
        });
        let ann: Arc<str> = "ann".into();
        drop(all.join(&ann, place(1)).expect("room"));
        assert!((0..3).all(|_| all.take_message(&ann, 10, 0).is_ok()));
        assert_eq!(all.take_message(&ann, 1, 0).expect_err("too many").limit, "user_messages_per_second");
        drop(all.join(&ann, place(1)).expect("room"));
        assert!(all.take_message(&ann, 1, 0).is_err());
        assert!(all.take_message(&ann, 100, 2000).is_ok());
        assert_eq!(
            all.take_message(&ann, 9, 2000).expect_err("bytes").limit,
            "user_message_bytes_per_second"
        );
    }

    #[test]
    fn senders_are_forgotten_and_streams_are_not() {
        let all = users(Limits { user_messages_per_second: 3, ..Limits::default() });
        let _held = all.join(&"held".into(), place(1)).expect("room");
        for number in 0..2 * SENDERS_MAX {
            all.take_message(&number.to_string().into(), 1, 0).expect("the first");
        }
        let entries: usize = all.parts.iter().map(|part| part.lock().expect("sound").entries.len()).sum();
        assert!(entries <= SENDERS_MAX + PARTS, "{entries}");
        assert_eq!(all.places("held").len(), 1);
    }
}
