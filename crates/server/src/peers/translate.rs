//! What servers tell of, as names and values, and as what it is here: how much users and addresses have, who is present.
//! Must not know how it is told.

use serde_json::value::{RawValue, to_raw_value};
use tidewire_core::{ChannelName, Timestamp};

use super::Parties;
use super::own::Own;
use super::table::News;
use crate::access::users::Held;
use crate::presence::Shown;

/// How names begin.
const USER: &str = "u:";
const ADDRESS: &str = "a:";
const MEMBER: &str = "m:";

/// Tells of what has changed here.
pub(super) fn collect(parties: &Parties, own: &mut Own) {
    let mut set = |name: String, value: Option<Box<RawValue>>| {
        if !own.set(&name, value) {
            eprintln!(
                "tidewire: other servers hear no more of users, addresses and members: there are more than they may \
                 be told of"
            );
        }
    };
    parties.access.users.take_changes(|user, held| {
        let value = (held != Held::default()).then(|| raw(&(held.connections, held.subscriptions)));
        set(format!("{USER}{user}"), value.flatten());
    });
    parties.access.addresses.take_changes(|key, connections| {
        let value = (connections > 0).then(|| raw(&connections));
        set(format!("{ADDRESS}{key:x}"), value.flatten());
    });
    parties.presence.take_changes(|channel, member, shown| {
        let value = shown.and_then(|Shown { since, at_ms, data }| {
            let data: &RawValue = serde_json::from_str(data).ok()?;
            raw(&(since.0, at_ms, data))
        });
        set(format!("{MEMBER}{channel} {member}"), value);
    });
}

/// What another server says is so here as well.
pub(super) fn apply(parties: &Parties, news: News) {
    let News { server, name, before, after } = news;
    let (before, after) = (before.as_deref().map(RawValue::get), after.as_deref().map(RawValue::get));
    if let Some(user) = name.strip_prefix(USER) {
        parties.access.users.note_elsewhere(user, held(after), held(before));
    } else if let Some(key) = name.strip_prefix(ADDRESS) {
        let Ok(key) = u128::from_str_radix(key, 16) else { return };
        parties.access.addresses.note_elsewhere(key, count(after), count(before));
    } else if let Some((channel, member)) = name.strip_prefix(MEMBER).and_then(|name| name.split_once(' ')) {
        let Ok(channel) = ChannelName::new(channel) else { return };
        parties.presence.note_other(server, &channel, member, after.and_then(shown));
    }
}

fn raw(value: &impl serde::Serialize) -> Option<Box<RawValue>> {
    to_raw_value(value).ok()
}

fn held(value: Option<&str>) -> Held {
    let read = value.and_then(|value| serde_json::from_str(value).ok());
    read.map_or_else(Held::default, |(connections, subscriptions)| Held { connections, subscriptions })
}

fn count(value: Option<&str>) -> u32 {
    value.and_then(|value| serde_json::from_str(value).ok()).unwrap_or(0)
}

fn shown(value: &str) -> Option<Shown> {
    let (since, at_ms, data): (u64, u64, &RawValue) = serde_json::from_str(value).ok()?;
    Some(Shown { since: Timestamp(since), at_ms, data: data.get().into() })
}
