//! How channels stand, what they have had, and what their states are. What has expired is deleted on the way, and a
//! channel that nobody has published to begins. Must not know who asks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tidewire_core::limits::{Durability, Policy, StateKind};
use tidewire_core::{ChannelName, Epoch, Event};

use super::index::{Held, weight};
use super::library::{Library, Newest};
use super::office::Office;
use super::streams::index_name;
use super::words::{Head, Message, event, token};
use super::{EMPTY_MS, ledger};
use crate::backplane::broker::{Arrival, BrokerError, Extent, Standing, StateAt};
use crate::clock::wall_clock;

/// How often somebody looks again whom others were faster than, or whom a server misled that lags.
const TRIES: usize = 20;
/// After how many times a state that is off by the same is what there is.
const SAME_TIMES: usize = 5;
const PAUSE: Duration = Duration::from_millis(25);
/// How much is read at once.
const READ_MESSAGES: usize = 256;
const READ_MESSAGES_FIRST: usize = 32;
const READ_BYTES: usize = 1 << 20;

/// How a channel stands.
pub(super) async fn look(
    office: &Office,
    name: &ChannelName,
    policy: &Policy,
) -> Result<Standing, BrokerError> {
    let library = &office.library;
    let is_keyed = policy.state == StateKind::Keyed;
    for _ in 0..TRIES {
        let now = wall_clock().0;
        let newest = library.newest(name, is_keyed).await?;
        let known = newest.as_ref().map(|newest| &newest.message.head);
        let ends_ms = known.map_or(0, |head| head.time.saturating_add(head.ttl_ms));
        let expected = newest.as_ref().map_or(0, |newest| newest.expected);
        // What is followed must not be forgotten.
        if expected == 0 || ends_ms < now + EMPTY_MS / 2 {
            let head = ledger::mark(known, office.node, library.meta.base(), now);
            let data = head.encode(&[]);
            library.wire.store(library.subject(name), data, Some(expected), head.ttl_ms).await?.sequence()?;
            continue;
        }
        let Some(Newest { message, .. }) = newest else { continue };
        return standing(library, name, policy, message, now).await;
    }
    Err(BrokerError(format!("{name} changes faster than it can be looked at")))
}

async fn standing(
    library: &Library,
    name: &ChannelName,
    policy: &Policy,
    message: Message,
    now: u64,
) -> Result<Standing, BrokerError> {
    let mut extent = extent(library, name, policy, &message, now).await?;
    let epoch = library.epoch(name);
    let newest = message.entries.len().checked_sub(1).filter(|_| extent.retained.0 > 0);
    let latest = newest.map(|index| message.arrival(name, epoch, index)).transpose()?;
    let latest = latest.map(|arrival| Arrival { extent: None, ..arrival });
    if extent.retained.0 == 0 {
        // Whoever follows it looks again before it is forgotten.
        extent.expires_ms = now + EMPTY_MS / 4;
    }
    let Head { head, seams, .. } = message.head;
    let seams = seams.into_iter().filter(|seam| seam.to >= extent.floor).collect();
    Ok(Standing { head, extent, seams, latest })
}

/// How much is retained now. What has expired is deleted, but for the newest message and what may not be in the index.
async fn extent(
    library: &Library,
    name: &ChannelName,
    policy: &Policy,
    newest: &Message,
    now: u64,
) -> Result<Extent, BrokerError> {
    let head = &newest.head;
    let mut extent =
        Extent { expires_ms: head.oldest.saturating_add(policy.retention.age_ms), ..head.extent() };
    if head.first == 0 || extent.expires_ms > now {
        return Ok(extent);
    }
    let is_over = |time: u64| time.saturating_add(policy.retention.age_ms) <= now;
    let nothing = Extent { floor: head.head, ..Extent::default() };
    let mut from = library.meta.sequence(head.first);
    let first = loop {
        if is_over(head.time) {
            extent = nothing;
            break newest.sequence;
        }
        let to = newest.sequence;
        let found = library.messages(name, (from, to), READ_MESSAGES_FIRST, READ_BYTES).await?;
        let Some(last) = found.last().map(|message| message.sequence) else { break from };
        if let Some(first) =
            found.iter().find(|message| !is_over(message.head.time) && !message.entries.is_empty())
        {
            extent = remaining(head, first, name, library.epoch(name), policy)?;
            break first.sequence;
        }
        if last >= to {
            extent = nothing;
            break to;
        }
        from = last + 1;
    };
    let indexed = library.meta.sequence(head.indexed).saturating_add(1);
    library.purge_log(name, first.min(newest.sequence).min(indexed)).await?;
    Ok(extent)
}

/// What is retained if a message is the oldest that has any.
fn remaining(
    head: &Head,
    first: &Message,
    name: &ChannelName,
    epoch: Epoch,
    policy: &Policy,
) -> Result<Extent, BrokerError> {
    // Some of its events may have been dropped before, for their number.
    for index in 0..first.entries.len() {
        let (count, total) = first.totals(index)?;
        if count > head.floor_count {
            let before = if index == 0 { None } else { Some(first.totals(index - 1)?.1) };
            let size = first.event(name, epoch, index)?.size_bytes() as u64;
            let total = before.unwrap_or_else(|| total.saturating_sub(size));
            return Ok(Extent {
                floor: first.prev(index),
                retained: ((head.count - count + 1) as usize, head.total.saturating_sub(total) as usize),
                expires_ms: first.head.time.saturating_add(policy.retention.age_ms),
                first: first.offset(index),
            });
        }
    }
    Ok(Extent { floor: head.head, ..Extent::default() })
}

/// Events after an offset up to another one.
pub(super) async fn read(
    library: &Library,
    name: &ChannelName,
    (after, last): (u64, u64),
    events_max: usize,
    bytes_max: usize,
) -> Result<Vec<Arrival>, BrokerError> {
    let (mut arrivals, mut bytes) = (Vec::new(), 0);
    let Some(Newest { message: newest, expected }) = library.newest(name, false).await? else {
        return Ok(arrivals);
    };
    let epoch = library.epoch(name);
    let floor = newest.head.floor;
    let mut next = library.meta.sequence(after.max(floor));
    let mut at_once = events_max.min(READ_MESSAGES_FIRST);
    while next <= expected && arrivals.len() < events_max && bytes < bytes_max {
        let found = if after >= newest.head.prev.max(floor) {
            vec![newest.clone()]
        } else {
            let room = (bytes_max - bytes).min(READ_BYTES);
            library.messages(name, (next, expected), at_once, room).await?
        };
        next = found.last().map_or(u64::MAX, |message| message.sequence + 1);
        at_once = READ_MESSAGES.min(events_max);
        for message in &found {
            for index in 0..message.entries.len() {
                let offset = message.offset(index);
                if offset <= after.max(floor) {
                    continue;
                }
                if offset > last || arrivals.len() >= events_max || bytes >= bytes_max {
                    return Ok(arrivals);
                }
                let arrival = message.arrival(name, epoch, index)?;
                bytes += arrival.event.size_bytes();
                // What is retained was so when it was written.
                arrivals.push(Arrival { extent: None, ..arrival });
            }
        }
    }
    Ok(arrivals)
}

/// A channel's state, all of one moment.
pub(super) async fn state(
    library: &Library,
    name: &ChannelName,
    policy: &Policy,
) -> Result<StateAt, BrokerError> {
    let is_keyed = policy.state == StateKind::Keyed;
    let now = wall_clock().0;
    let Some(Newest { message, .. }) = library.newest(name, is_keyed).await? else {
        return Ok(StateAt { head: 0, events: Vec::new(), extent: Extent::default() });
    };
    if !is_keyed || policy.durability == Durability::None {
        let standing = standing(library, name, policy, message, now).await?;
        let events = standing.latest.into_iter().map(|arrival| arrival.event).collect();
        return Ok(StateAt { head: standing.head, events, extent: standing.extent });
    }
    let (mut earlier, mut off_by, mut times) = (message.head, 0, 0);
    for _ in 0..TRIES {
        let mut held = entries(library, name).await?;
        let Some(Newest { message: newest, expected }) = library.newest(name, true).await? else { continue };
        let changes = if expected != 0 && earlier.indexed < newest.head.head {
            changes(library, name, earlier.indexed, &newest).await?
        } else {
            Vec::new()
        };
        for (key, change) in changes {
            if held.get(&key).is_none_or(|known| known.offset < change.offset) {
                held.insert(key, change);
            }
        }
        let head = &newest.head;
        held.retain(|_, held| held.size.is_some() && held.offset > head.born && held.offset <= head.head);
        let sum = held.iter().fold(0, |sum, (key, held)| sum ^ weight(key, held.number));
        // What does not add up comes from a server that lags; or some was lost, and no time makes it come back.
        times = if sum ^ head.sum == off_by { times + 1 } else { 1 };
        off_by = sum ^ head.sum;
        if off_by == 0 || times > SAME_TIMES {
            let extent = extent(library, name, policy, &newest, now).await?;
            let epoch = library.epoch(name);
            return Ok(StateAt { head: head.head, events: events(name, epoch, held)?, extent });
        }
        earlier = newest.head;
        tokio::time::sleep(PAUSE).await;
    }
    Err(BrokerError(format!("the state of {name} changes faster than it can be read")))
}

fn events(
    name: &ChannelName,
    epoch: Epoch,
    held: HashMap<Box<str>, Held>,
) -> Result<Vec<Arc<Event>>, BrokerError> {
    let mut events = Vec::with_capacity(held.len());
    for held in held.into_values() {
        events.push(Arc::new(event(name, epoch, held.offset, held.time, &held.record)?));
    }
    events.sort_by_key(|event| event.id.offset);
    Ok(events)
}

/// What the index has of a channel's state.
async fn entries(library: &Library, name: &ChannelName) -> Result<HashMap<Box<str>, Held>, BrokerError> {
    let subject = format!("{}.state.{}.*", library.prefix, token(name));
    let (stream, epoch) = (index_name(&library.prefix), library.epoch(name));
    let (mut all, mut from) = (HashMap::new(), 1);
    loop {
        let (found, is_all) = library.scan(&stream, &subject, from, READ_MESSAGES, READ_BYTES).await?;
        from = found.last().map_or(u64::MAX, |stored| stored.sequence + 1);
        for stored in found {
            let held = Held::decode(stored.data)?;
            if held.size.is_none() {
                continue;
            }
            let event = event(name, epoch, held.offset, held.time, &held.record)?;
            let Some(key) = event.key else { continue };
            all.insert(key, held);
        }
        if is_all {
            return Ok(all);
        }
    }
}

/// What a channel's messages have changed in its state.
async fn changes(
    library: &Library,
    name: &ChannelName,
    indexed: u64,
    newest: &Message,
) -> Result<Vec<(Box<str>, Held)>, BrokerError> {
    let (mut changes, mut from) = (Vec::new(), library.meta.sequence(indexed));
    let epoch = library.epoch(name);
    while from <= newest.sequence {
        let found = if newest.head.prev <= indexed {
            vec![newest.clone()]
        } else {
            library.messages(name, (from, newest.sequence), READ_MESSAGES, READ_BYTES).await?
        };
        from = found.last().map_or(u64::MAX, |message| message.sequence + 1);
        for message in &found {
            for (index, entry) in message.entries.iter().enumerate().filter(|(_, entry)| entry.is_state) {
                let event = message.event(name, epoch, index)?;
                let Some(key) = event.key.clone() else { continue };
                let (offset, (number, _)) = (message.offset(index), message.totals(index)?);
                let size = (!event.is_tombstone()).then(|| event.size_bytes() as u64);
                changes.push((
                    key,
                    Held { offset, time: message.head.time, number, size, record: entry.record.clone() },
                ));
            }
        }
    }
    Ok(changes)
}
