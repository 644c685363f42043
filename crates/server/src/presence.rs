//! Who is present in which channel, by what they are held, and what is said of it: joins, changes and leaves are events
//! of a channel of the server's own, whose keyed state is who is there now. Must not know sockets, nor who may enter.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::value::RawValue;
use tidewire_core::limits::{HOLDS_PER_MEMBER, PRESENCE_ENDS_AT_ONCE};
use tidewire_core::rate::Limited;
use tidewire_core::{ChannelName, Code, NewEvent, Payload, Problem, Timestamp};

use crate::clock::wall_clock;
use crate::hub::Hub;
use crate::server::Gauges;

/// Channels rarely meet on one lock.
const STRIPES: usize = 64;
/// When somebody who is there too often may try again.
const HELD_RETRY_MS: u64 = 30_000;
/// Where the end of somebody's presence could not be told, for how long it is put off.
const AGAIN_MS: u64 = 1_000;

/// All who are present. Locks one stripe at a time, and within it whatever publishing locks.
#[derive(Debug)]
pub(crate) struct Presence {
    hub: Arc<Hub>,
    stripes: Vec<Mutex<Stripe>>,
    hasher: RandomState,
    gauges: Arc<Gauges>,
    holders: AtomicU64,
}

#[derive(Debug, Default)]
struct Stripe {
    rooms: HashMap<ChannelName, HashMap<Box<str>, Member>>,
    /// The holds that end by themselves, in that order, by their numbers.
    ends: BTreeMap<(u64, u64), (ChannelName, Box<str>)>,
    numbers: u64,
}

/// Somebody who is there, by at least one hold.
#[derive(Debug)]
struct Member {
    since: Timestamp,
    data: Box<str>,
    holds: Vec<Hold>,
}

/// One reason for which somebody is there.
#[derive(Debug)]
struct Hold {
    holder: Holder,
    number: u64,
    /// When it ends, if nobody says otherwise.
    ends_ms: Option<u64>,
}

/// What holds a member: a tab, a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A connection, for as long as it is open, by a number of its own.
    Connection(u64),
    /// One that calls itself so, and comes back in time.
    Instance(Box<str>),
}

/// Somebody who is to be present.
#[derive(Debug)]
pub(crate) struct Entry<'e> {
    pub(crate) channel: &'e ChannelName,
    pub(crate) member: &'e str,
    pub(crate) holder: Holder,
    /// How long that lasts, if it does not last as long as a connection.
    pub(crate) lasts_ms: Option<u64>,
    /// What is shown, as JSON.
    pub(crate) data: &'e str,
}

impl Presence {
    pub(crate) fn new(hub: Arc<Hub>, gauges: Arc<Gauges>) -> Self {
        Self {
            hub,
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            gauges,
            holders: AtomicU64::new(0),
        }
    }

    /// Somebody enters, or stays and shows something else. Gives since when they are there.
    ///
    /// # Errors
    /// `state_full` if nobody more can be present; `too_many_requests` if the same one is there too often;
    /// what publishing may say.
    pub(crate) fn enter(&self, entry: Entry<'_>) -> Result<Timestamp, Problem> {
        let Entry { channel, member, holder, lasts_ms, data } = entry;
        let now = wall_clock();
        let ends_ms = lasts_ms.map(|lasts_ms| self.now_ms() + lasts_ms);
        let mut stripe = self.stripe(channel);
        let present = stripe.rooms.get_mut(channel.as_str()).and_then(|room| room.get_mut(member));
        let since = match present {
            None => {
                self.tell(channel, "join", member, Some((now, data)))?;
                let room = stripe.rooms.entry(channel.clone()).or_default();
                room.insert(member.into(), Member { since: now, data: data.into(), holds: Vec::new() });
                self.gauges.members.fetch_add(1, Ordering::Relaxed);
                now
            }
            Some(present) => {
                let is_new = present.holds.iter().all(|hold| hold.holder != holder);
                if is_new && present.holds.len() >= HOLDS_PER_MEMBER {
                    return Err(Problem::limited(Limited {
                        limit: "holds of a member",
                        quota: HOLDS_PER_MEMBER as u32,
                        window_seconds: None,
                        retry_after_ms: HELD_RETRY_MS,
                    }));
                }
                if *present.data != *data {
                    self.tell(channel, "update", member, Some((present.since, data)))?;
                    present.data = data.into();
                }
                present.since
            }
        };
        stripe.set_hold(channel, member, holder, ends_ms);
        Ok(since)
    }

    /// One that held somebody does so no more. Whoever is held by nothing leaves.
    ///
    /// # Errors
    /// What publishing may say; they are still there then.
    pub(crate) fn leave(&self, channel: &ChannelName, member: &str, holder: &Holder) -> Result<(), Problem> {
        let mut stripe = self.stripe(channel);
        let Some(present) = stripe.rooms.get(channel.as_str()).and_then(|room| room.get(member)) else {
            return Ok(());
        };
        if present.holds.iter().all(|hold| hold.holder == *holder) {
            self.tell(channel, "leave", member, None)?;
        }
        stripe.drop_hold(channel, member, |hold| hold.holder == *holder);
        self.forget_unheld(&mut stripe, channel, member);
        Ok(())
    }

    /// A connection that held somebody is gone: it may come back before `grace_ms` are over.
    fn release(&self, channel: &ChannelName, member: &str, holder: Holder, grace_ms: u64) {
        let ends_ms = self.now_ms() + grace_ms;
        self.stripe(channel).change_hold(channel, member, &holder, ends_ms);
    }

    /// Ends what is over. Called about once a second.
    pub(crate) fn tick(&self) {
        let now_ms = self.now_ms();
        for stripe in &self.stripes {
            let mut stripe = lock(stripe);
            for _ in 0..PRESENCE_ENDS_AT_ONCE {
                let Some(first) = stripe.ends.first_entry().filter(|first| first.key().0 <= now_ms) else {
                    break;
                };
                let ((_, number), (channel, member)) = first.remove_entry();
                let present = stripe.rooms.get(channel.as_str()).and_then(|room| room.get(&member));
                let is_last = present.is_some_and(|present| present.holds.len() == 1);
                if is_last && let Err(problem) = self.tell(&channel, "leave", &member, None) {
                    eprintln!("tidewire: nobody could be told that somebody left: {}", problem.detail);
                    stripe.put_off(&channel, &member, number, now_ms + AGAIN_MS);
                    continue;
                }
                stripe.drop_hold(&channel, &member, |hold| hold.number == number);
                self.forget_unheld(&mut stripe, &channel, &member);
            }
        }
    }

    fn forget_unheld(&self, stripe: &mut Stripe, channel: &ChannelName, member: &str) {
        let Some(room) = stripe.rooms.get_mut(channel.as_str()) else { return };
        if room.get(member).is_some_and(|present| present.holds.is_empty()) {
            room.remove(member);
            self.gauges.members.fetch_sub(1, Ordering::Relaxed);
        }
        if room.is_empty() {
            stripe.rooms.remove(channel.as_str());
        }
    }

    /// Publishes what became of a member. One that left has no data, which takes it out of the state.
    fn tell(
        &self,
        channel: &ChannelName,
        what: &str,
        member: &str,
        shown: Option<(Timestamp, &str)>,
    ) -> Result<(), Problem> {
        let text = match shown {
            None => "null".to_owned(),
            Some((since, data)) => {
                let name = serde_json::Value::from(member);
                format!("{{\"member\":{name},\"since\":\"{since}\",\"data\":{data}}}")
            }
        };
        let payload = Payload::declared(Some("application/json"), Bytes::from(text))?;
        let event = NewEvent::new(payload).with(Some(what), Some(member), None)?;
        self.hub.publish(&channel.presence()?, event, wall_clock(), None, || None).map(drop)
    }

    fn stripe(&self, channel: &ChannelName) -> MutexGuard<'_, Stripe> {
        lock(&self.stripes[self.hasher.hash_one(channel.as_str()) as usize % STRIPES])
    }

    fn now_ms(&self) -> u64 {
        self.hub.clock().now_ms()
    }
}

impl Stripe {
    fn member(&mut self, channel: &ChannelName, member: &str) -> Option<&mut Member> {
        self.rooms.get_mut(channel.as_str())?.get_mut(member)
    }

    /// A member is held until then, or until that is changed.
    fn set_hold(&mut self, channel: &ChannelName, member: &str, holder: Holder, ends_ms: Option<u64>) {
        self.drop_hold(channel, member, |hold| hold.holder == holder);
        self.numbers += 1;
        let number = self.numbers;
        let Some(present) = self.member(channel, member) else { return };
        present.holds.push(Hold { holder, number, ends_ms });
        if let Some(ends_ms) = ends_ms {
            self.ends.insert((ends_ms, number), (channel.clone(), member.into()));
        }
    }

    fn change_hold(&mut self, channel: &ChannelName, member: &str, holder: &Holder, ends_ms: u64) {
        let is_there = |member: &mut Member| member.holds.iter().any(|hold| hold.holder == *holder);
        if self.member(channel, member).is_some_and(is_there) {
            self.set_hold(channel, member, holder.clone(), Some(ends_ms));
        }
    }

    fn put_off(&mut self, channel: &ChannelName, member: &str, number: u64, ends_ms: u64) {
        let Some(present) = self.member(channel, member) else { return };
        if let Some(hold) = present.holds.iter_mut().find(|hold| hold.number == number) {
            hold.ends_ms = Some(ends_ms);
            self.ends.insert((ends_ms, number), (channel.clone(), member.into()));
        }
    }

    fn drop_hold(&mut self, channel: &ChannelName, member: &str, is_it: impl Fn(&Hold) -> bool) {
        let Some(present) = self.member(channel, member) else { return };
        let Some(at) = present.holds.iter().position(is_it) else { return };
        let hold = present.holds.swap_remove(at);
        if let Some(ends_ms) = hold.ends_ms {
            self.ends.remove(&(ends_ms, hold.number));
        }
    }
}

/// Whom a connection holds in which channels. They are let go when this is dropped.
#[derive(Debug)]
pub(crate) struct Present {
    presence: Arc<Presence>,
    holder: u64,
    grace_ms: u64,
    entered: Vec<(ChannelName, Box<str>)>,
}

impl Present {
    pub(crate) fn new(presence: &Arc<Presence>, grace_ms: u64) -> Self {
        let holder = presence.holders.fetch_add(1, Ordering::Relaxed);
        Self { presence: Arc::clone(presence), holder, grace_ms, entered: Vec::new() }
    }

    /// The channels in which it holds somebody.
    pub(crate) fn channels(&self) -> impl ExactSizeIterator<Item = &ChannelName> {
        self.entered.iter().map(|(channel, _)| channel)
    }

    /// As [`Presence::enter`]. A connection holds one member of a channel: another takes its place.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn enter(
        &mut self,
        channel: &ChannelName,
        member: &str,
        data: &str,
    ) -> Result<Timestamp, Problem> {
        let place = self.entered.iter().position(|(entered, _)| entered == channel);
        if place.is_some_and(|place| *self.entered[place].1 != *member) {
            self.leave(channel)?;
        }
        let holder = Holder::Connection(self.holder);
        let since = self.presence.enter(Entry { channel, member, holder, lasts_ms: None, data })?;
        if self.entered.iter().all(|(entered, _)| entered != channel) {
            self.entered.push((channel.clone(), member.into()));
        }
        Ok(since)
    }

    /// As [`Presence::leave`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn leave(&mut self, channel: &ChannelName) -> Result<(), Problem> {
        let Some(place) = self.entered.iter().position(|(entered, _)| entered == channel) else {
            return Ok(());
        };
        self.presence.leave(channel, &self.entered[place].1, &Holder::Connection(self.holder))?;
        self.entered.swap_remove(place);
        Ok(())
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        for (channel, member) in &self.entered {
            self.presence.release(channel, member, Holder::Connection(self.holder), self.grace_ms);
        }
    }
}

/// What somebody shows of themselves: JSON, and not much of it.
///
/// # Errors
/// `invalid_json`, `payload_too_large`.
pub(crate) fn shown(data: &[u8], most: usize) -> Result<&str, Problem> {
    if data.is_empty() {
        return Ok("null");
    }
    if data.len() > most {
        let detail = format!("a member shows {most} bytes of itself at the most (limits.member_bytes)");
        return Err(Problem::new(Code::PayloadTooLarge, detail));
    }
    let json: Result<&RawValue, _> = serde_json::from_slice(data);
    json.map(RawValue::get)
        .map_err(|error| Problem::new(Code::InvalidJson, format!("what a member shows is not JSON: {error}")))
}

fn lock(stripe: &Mutex<Stripe>) -> MutexGuard<'_, Stripe> {
    // Nothing in here panics half-way.
    stripe.lock().unwrap_or_else(PoisonError::into_inner)
}
