//! Who is present in which channel, by what they are held, and what is said of it: joins, changes and leaves are events
//! of a channel of the server's own, whose keyed state is who is there now. Where servers share a backplane, whom any of
//! them holds is there, and each tells its own readers. Must not know sockets, nor who may enter, nor how others are heard.

mod present;
mod room;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidewire_core::limits::{HOLDS_PER_MEMBER, PEERS_GONE_INSTANCES, PRESENCE_ENDS_AT_ONCE};
use tidewire_core::rate::Limited;
use tidewire_core::{ChannelName, Code, NewEvent, Payload, Problem, Timestamp};

pub(crate) use present::Present;
pub(crate) use room::{Holder, Shown};
use room::{Name, Stripe};

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
    /// Other servers are told of changes.
    is_shared: bool,
    /// Instances that left, wherever they entered; other servers have yet to be told.
    gone: Mutex<Vec<Gone>>,
}

/// An instance that holds a member of a channel no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gone {
    pub(crate) channel: Box<str>,
    pub(crate) member: Box<str>,
    pub(crate) instance: Box<str>,
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
        let is_shared = hub.has_backplane();
        Self {
            hub,
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            gauges,
            holders: AtomicU64::new(0),
            is_shared,
            gone: Mutex::default(),
        }
    }

    /// Somebody enters, or stays and shows something else. Gives since when they are there.
    ///
    /// # Errors
    /// `state_full` if nobody more can be present; `too_many_requests` if the same one is there too often;
    /// what publishing may say.
    pub(crate) fn enter(&self, entry: Entry<'_>) -> Result<Timestamp, Problem> {
        let Entry { channel, member, holder, lasts_ms, data } = entry;
        let ends_ms = lasts_ms.map(|lasts_ms| self.now_ms() + lasts_ms);
        let mut stripe = self.stripe(channel);
        let own = match stripe.find(channel, member) {
            None => enters(None, data),
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
                enters(present.known(), data)
            }
        };
        let since = own.since;
        if let Err(problem) = self.say(&mut stripe, channel, member, Some(own)) {
            stripe.tidy(channel, member);
            return Err(problem);
        }
        stripe.set_hold(channel, member, holder, ends_ms);
        Ok(since)
    }

    /// One that held somebody does so no more. Whoever is held by nothing leaves.
    ///
    /// # Errors
    /// What publishing may say; they are still there then.
    pub(crate) fn leave(&self, channel: &ChannelName, member: &str, holder: &Holder) -> Result<(), Problem> {
        self.let_go(channel, member, holder)?;
        if let Holder::Instance(instance) = holder
            && self.is_shared
        {
            // It may have entered on another server.
            let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
            if gone.len() < PEERS_GONE_INSTANCES {
                let (channel, member) = (channel.as_str().into(), member.into());
                gone.push(Gone { channel, member, instance: instance.clone() });
            }
        }
        Ok(())
    }

    fn let_go(&self, channel: &ChannelName, member: &str, holder: &Holder) -> Result<(), Problem> {
        let mut stripe = self.stripe(channel);
        let Some(present) = stripe.find(channel, member) else { return Ok(()) };
        if present.holds.iter().all(|hold| hold.holder == *holder) {
            self.say(&mut stripe, channel, member, None)?;
        }
        stripe.drop_hold(channel, member, |hold| hold.holder == *holder);
        stripe.tidy(channel, member);
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
                let is_last = stripe.find(&channel, &member).is_some_and(|present| present.holds.len() == 1);
                if is_last && let Err(problem) = self.say(&mut stripe, &channel, &member, None) {
                    eprintln!("tidewire: nobody could be told that somebody left: {}", problem.detail);
                    stripe.put_off(&channel, &member, number, now_ms + AGAIN_MS);
                    continue;
                }
                stripe.drop_hold(&channel, &member, |hold| hold.number == number);
                stripe.tidy(&channel, &member);
            }
            let untold: Vec<Name> = stripe.untold.iter().take(PRESENCE_ENDS_AT_ONCE).cloned().collect();
            for (channel, member) in untold {
                self.settle(&mut stripe, &channel, &member);
            }
        }
    }

    /// This server says this of a member from now on, or nothing any more; its readers are told.
    fn say(
        &self,
        stripe: &mut Stripe,
        channel: &ChannelName,
        member: &str,
        own: Option<Shown>,
    ) -> Result<(), Problem> {
        let now_ms = self.now_ms();
        let present = stripe.open(channel, member);
        let wanted = present.with(own.as_ref());
        let waits = present.waits(wanted.as_ref(), now_ms);
        if !waits {
            self.tell_change(channel, member, present.told.as_ref(), wanted.as_ref())?;
            present.told = wanted;
        }
        match (present.own.is_some(), own.is_some()) {
            (false, true) => drop(self.gauges.members.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.gauges.members.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        let is_new = present.own != own;
        present.own = own;
        if waits {
            stripe.untold.insert((channel.clone(), member.into()));
        }
        if self.is_shared && is_new {
            stripe.changed.insert((channel.clone(), member.into()));
        }
        Ok(())
    }

    /// Has readers told what is so, if it is not what they were told; if that cannot be now, later.
    fn settle(&self, stripe: &mut Stripe, channel: &ChannelName, member: &str) {
        let name = (channel.clone(), Box::from(member));
        let now_ms = self.now_ms();
        let is_told = stripe.find_mut(channel, member).is_none_or(|present| {
            let wanted = present.wanted();
            if present.waits(wanted.as_ref(), now_ms)
                || self.tell_change(channel, member, present.told.as_ref(), wanted.as_ref()).is_err()
            {
                return false;
            }
            present.told = wanted;
            true
        });
        if is_told {
            stripe.untold.remove(&name);
        } else {
            stripe.untold.insert(name);
        }
        stripe.tidy(channel, member);
    }

    fn tell_change(
        &self,
        channel: &ChannelName,
        member: &str,
        told: Option<&Shown>,
        wanted: Option<&Shown>,
    ) -> Result<(), Problem> {
        match (told, wanted) {
            (None, Some(shown)) => self.tell(channel, "join", member, Some(shown)),
            (Some(_), None) => self.tell(channel, "leave", member, None),
            (Some(told), Some(shown)) if !told.looks_like(shown) => {
                self.tell(channel, "update", member, Some(shown))
            }
            _ => Ok(()),
        }
    }

    /// Publishes what became of a member. One that left has no data, which takes it out of the state.
    fn tell(
        &self,
        channel: &ChannelName,
        what: &str,
        member: &str,
        shown: Option<&Shown>,
    ) -> Result<(), Problem> {
        let text = match shown {
            None => "null".to_owned(),
            Some(Shown { since, data, .. }) => {
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

/// What other servers say, and are told.
impl Presence {
    /// Another server says this of a member, or nothing any more.
    pub(crate) fn note_other(&self, server: u64, channel: &ChannelName, member: &str, shown: Option<Shown>) {
        let mut stripe = self.stripe(channel);
        if shown.is_none() && stripe.find(channel, member).is_none() {
            return;
        }
        let present = stripe.open(channel, member);
        present.note_other(server, shown);
        // What is newer is said by all who hold the member: it stays whoever goes first.
        let wanted = present.wanted();
        if present.own.is_some() && present.own != wanted {
            present.own = wanted;
            stripe.changed.insert((channel.clone(), member.into()));
        }
        self.settle(&mut stripe, channel, member);
    }

    /// An instance left on another server. Where that cannot be told now, it ends by itself.
    pub(crate) fn note_gone(&self, gone: Gone) {
        let Ok(channel) = ChannelName::new(&gone.channel) else { return };
        let _ = self.let_go(&channel, &gone.member, &Holder::Instance(gone.instance));
    }

    /// Which instances left since this was called last.
    pub(crate) fn take_gone(&self) -> Vec<Gone> {
        std::mem::take(&mut *self.gone.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Of whom this server says something else than when this was called last, and what.
    pub(crate) fn take_changes(&self, mut each: impl FnMut(&ChannelName, &str, Option<&Shown>)) {
        for stripe in &self.stripes {
            let mut stripe = lock(stripe);
            for (channel, member) in std::mem::take(&mut stripe.changed) {
                let own = stripe.find(&channel, &member).and_then(|present| present.own.as_ref());
                each(&channel, &member, own);
            }
        }
    }
}

/// What a member shows who enters: who is there already stays since then, and what is said last counts.
fn enters(known: Option<Shown>, data: &str) -> Shown {
    let now = wall_clock();
    match known {
        None => Shown { since: now, at_ms: now.0, data: data.into() },
        Some(known) if *known.data == *data => known,
        Some(known) => Shown { at_ms: now.0.max(known.at_ms + 1), data: data.into(), ..known },
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
