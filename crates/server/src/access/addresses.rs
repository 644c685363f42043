//! What is remembered of addresses: how many connections each has, and how often it came. Bounded, whoever comes.
//! Must not know how an address is found out.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidewire_core::limits::Limits;
use tidewire_core::rate::{Bucket, Limited, Rate};

/// How many parts the table has, so that shards seldom wait for each other.
const PARTS: usize = 16;
/// How many entries are looked at to find one that can be forgotten.
const LOOKS: usize = 16;
/// Those beyond a bound on how many there are at a time are told to come back then.
const RETRY_AFTER_MS: u64 = 5_000;

/// All addresses of which something is known.
#[derive(Debug)]
pub(crate) struct Addresses {
    connections_max: u32,
    attempts: Option<Rate>,
    entries_max: usize,
    hasher: RandomState,
    parts: Vec<Mutex<Part>>,
    /// Other servers are told how many connections each has here.
    is_shared: bool,
}

/// Some of them.
#[derive(Debug, Default)]
struct Part {
    entries: HashMap<u128, Entry>,
    /// How many connections addresses have on other servers.
    elsewhere: HashMap<u128, u32>,
    /// Which have another number here than when that was last looked at.
    changed: HashSet<u128>,
}

#[derive(Debug, Default)]
struct Entry {
    connections: u32,
    attempts: Bucket,
}

/// A connection that is counted; dropping it ends that.
#[derive(Debug)]
pub(crate) struct Admission {
    addresses: Arc<Addresses>,
    key: u128,
}

impl Addresses {
    pub(crate) fn new(limits: &Limits, has_peers: bool) -> Self {
        Self {
            is_shared: has_peers && limits.connections_per_ip > 0,
            connections_max: limits.connections_per_ip,
            attempts: Rate::new(limits.attempts_per_ip_per_minute, 60_000),
            entries_max: (limits.tracked_ips as usize).div_ceil(PARTS),
            hasher: RandomState::new(),
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Counts a new connection. `None`: nobody wants to know, or all room is taken by addresses that have
    /// connections; so many that the bound on all connections is the one that counts.
    ///
    /// # Errors
    /// The limit that the address has reached.
    pub(crate) fn admit(
        self: &Arc<Self>,
        address: IpAddr,
        now_ms: u64,
    ) -> Result<Option<Admission>, Limited> {
        if self.connections_max == 0 && self.attempts.is_none() {
            return Ok(None);
        }
        let key = key(address);
        let mut part = self.part(key);
        let elsewhere = part.elsewhere.get(&key).copied().unwrap_or(0);
        let entries = &mut part.entries;
        if !entries.contains_key(&key) && entries.len() >= self.entries_max && !make_room(entries, now_ms) {
            return Ok(None);
        }
        let entry = entries.entry(key).or_default();
        if let Some(rate) = self.attempts {
            let taken = entry.attempts.take(now_ms, 1, rate);
            taken.map_err(|after_ms| rate.limited("attempts_per_ip_per_minute", after_ms))?;
        }
        if self.connections_max > 0 && entry.connections.saturating_add(elsewhere) >= self.connections_max {
            if entry.connections == 0 && self.attempts.is_none() {
                entries.remove(&key);
            }
            return Err(Limited {
                limit: "connections_per_ip",
                quota: self.connections_max,
                window_seconds: None,
                retry_after_ms: RETRY_AFTER_MS,
            });
        }
        entry.connections += 1;
        if self.is_shared {
            part.changed.insert(key);
        }
        drop(part);
        Ok(Some(Admission { addresses: Arc::clone(self), key }))
    }

    /// An address has so many more connections on other servers, and so many less.
    pub(crate) fn note_elsewhere(&self, key: u128, more: u32, less: u32) {
        let mut part = self.part(key);
        let has = part.elsewhere.get(&key).copied().unwrap_or(0);
        match has.saturating_add(more).saturating_sub(less) {
            0 => part.elsewhere.remove(&key),
            connections => part.elsewhere.insert(key, connections),
        };
    }

    /// Which addresses have another number of connections here than when this was called last, and how many.
    pub(crate) fn take_changes(&self, mut each: impl FnMut(u128, u32)) {
        for part in &self.parts {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            for key in std::mem::take(&mut part.changed) {
                each(key, part.entries.get(&key).map_or(0, |entry| entry.connections));
            }
        }
    }

    fn part(&self, key: u128) -> MutexGuard<'_, Part> {
        let part = &self.parts[self.hasher.hash_one(key) as usize % PARTS];
        // Nothing in here panics half-way.
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut part = self.addresses.part(self.key);
        if let Some(entry) = part.entries.get_mut(&self.key) {
            entry.connections = entry.connections.saturating_sub(1);
            if entry.connections == 0 && self.addresses.attempts.is_none() {
                part.entries.remove(&self.key);
            }
        }
        if self.addresses.is_shared {
            part.changed.insert(self.key);
        }
    }
}

/// Forgets an address without connections: one that has not come for long, or else any.
fn make_room(part: &mut HashMap<u128, Entry>, now_ms: u64) -> bool {
    let mut found = None;
    for (key, entry) in part.iter().filter(|(_, entry)| entry.connections == 0).take(LOOKS) {
        found = Some(*key);
        if entry.attempts.is_full(now_ms) {
            break;
        }
    }
    found.is_some_and(|key| part.remove(&key).is_some())
}

/// An IPv4 address, or the first half of an IPv6 address: whoever has one of those has all behind it.
fn key(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() & !u128::from(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(limits: Limits) -> Arc<Addresses> {
        Arc::new(Addresses::new(&limits, true))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn connections_are_counted_while_they_last() {
        let all = addresses(Limits { connections_per_ip: 2, ..Limits::default() });
        let one = address("192.0.2.1");
        let first = all.admit(one, 0).expect("room");
        let second = all.admit(address("::ffff:192.0.2.1"), 0).expect("the same, and room");
        assert_eq!(all.admit(one, 0).expect_err("full").limit, "connections_per_ip");
        assert!(all.admit(address("192.0.2.2"), 0).is_ok());
        drop(first);
        let third = all.admit(one, 0).expect("room again");
        assert!(all.admit(one, 0).is_err());
        drop((second, third));
        assert!(all.parts.iter().all(|part| part.lock().expect("sound").entries.is_empty()));
    }

    #[test]
    fn connections_on_other_servers_count_as_well() {
        let all = addresses(Limits { connections_per_ip: 3, ..Limits::default() });
        let one = address("192.0.2.1");
        all.note_elsewhere(key(one), 2, 0);
        let first = all.admit(one, 0).expect("room");
        assert!(all.admit(one, 0).is_err());
        let mut told = Vec::new();
        all.take_changes(|key, connections| told.push((key, connections)));
        assert_eq!(told, [(key(one), 1)]);
        all.note_elsewhere(key(one), 1, 2);
        let second = all.admit(one, 0).expect("room again");
        drop((first, second));
        all.note_elsewhere(key(one), 2, 0);
        assert!(all.admit(one, 0).is_err());
        all.note_elsewhere(key(one), 0, 3);
        let is_empty = |part: &Part| part.entries.is_empty() && part.elsewhere.is_empty();
        assert!(all.parts.iter().all(|part| is_empty(&part.lock().expect("sound"))));
    }

    #[test]
    fn a_network_is_one_address() {
        let all = addresses(Limits { connections_per_ip: 1, ..Limits::default() });
        let _first = all.admit(address("2001:db8:1:1::1"), 0).expect("room");
        assert!(all.admit(address("2001:db8:1:1:ffff::2"), 0).is_err());
        assert!(all.admit(address("2001:db8:1:2::1"), 0).is_ok());
    }

    #[test]
    fn who_comes_too_often_waits() {
        let all = addresses(Limits { attempts_per_ip_per_minute: 60, ..Limits::default() });
        let one = address("192.0.2.1");
        assert!((0..60).all(|_| all.admit(one, 0).is_ok()));
        let limited = all.admit(one, 0).expect_err("too often");
        assert_eq!((limited.limit, limited.retry_after_ms), ("attempts_per_ip_per_minute", 1000));
        assert!(all.admit(one, 1000).is_ok());
    }

    #[test]
    fn the_table_is_bounded_and_who_is_connected_stays_in_it() {
        let limits = Limits {
            connections_per_ip: 1,
            attempts_per_ip_per_minute: 10,
            tracked_ips: 160,
            ..Limits::default()
        };
        let all = addresses(limits);
        let stays = address("203.0.113.7");
        let _stays = all.admit(stays, 0).expect("room");
        for number in 0..10_000u32 {
            drop(all.admit(IpAddr::from(number.to_be_bytes()), 0));
        }
        let entries: usize = all.parts.iter().map(|part| part.lock().expect("sound").entries.len()).sum();
        assert!(entries <= 160, "{entries}");
        assert!(all.admit(stays, 0).is_err());
        // With all of them connected, others are let in uncounted.
        let held: Vec<_> = (0..1000u32).map(|n| all.admit(IpAddr::from(n.to_be_bytes()), 60_000)).collect();
        assert!(held.iter().all(Result::is_ok));
        let entries: usize = all.parts.iter().map(|part| part.lock().expect("sound").entries.len()).sum();
        assert!(entries <= 160, "{entries}");
    }
}
