//! The members of some channels: what holds each here, what other servers say of each, and what was told last. Must not
//! know how anything is told.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use tidewire_core::{ChannelName, Timestamp};

/// How long readers see what nobody says any more, until those who hold the member say it.
const OUTDATED_MS: u64 = 1_000;

/// What is shown of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Since when they are there.
    pub(crate) since: Timestamp,
    /// When they said what they show, in Unix milliseconds: of what several servers have, the newest is shown.
    pub(crate) at_ms: u64,
    /// What they show, as JSON.
    pub(crate) data: Arc<str>,
}

impl Shown {
    /// What all servers show that have both: whichever they heard of first, it is the same.
    fn merge(self, other: &Self) -> Self {
        let since = self.since.min(other.since);
        if (self.at_ms, &self.data) >= (other.at_ms, &other.data) {
            Self { since, ..self }
        } else {
            Self { since, ..other.clone() }
        }
    }

    /// Whether somebody who looks sees another thing.
    pub(super) fn looks_like(&self, other: &Self) -> bool {
        self.since == other.since && self.data == other.data
    }
}

/// Somebody who is there, or of whom that is still to be taken back.
#[derive(Debug, Default)]
pub(super) struct Member {
    /// What holds them here.
    pub(super) holds: Vec<Hold>,
    /// What this server says of them, as long as something holds them here.
    pub(super) own: Option<Shown>,
    /// What others say, by their numbers.
    pub(super) others: Vec<(u64, Shown)>,
    /// What the channel's readers were told.
    pub(super) told: Option<Shown>,
    /// Since when what is said is older than that; 0 if it is not.
    outdated_since_ms: u64,
}

/// One reason for which somebody is there.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) holder: Holder,
    pub(super) number: u64,
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

/// A member of a channel.
pub(super) type Name = (ChannelName, Box<str>);

/// Some of the channels.
#[derive(Debug, Default)]
pub(super) struct Stripe {
    rooms: HashMap<ChannelName, HashMap<Box<str>, Member>>,
    /// The holds that end by themselves, in that order, by their numbers.
    pub(super) ends: BTreeMap<(u64, u64), Name>,
    numbers: u64,
    /// Of whom this server says something else than when that was last looked at.
    pub(super) changed: HashSet<Name>,
    /// Of whom readers could not be told.
    pub(super) untold: HashSet<Name>,
}

impl Member {
    /// What is to be shown, with this for what this server says.
    pub(super) fn with(&self, own: Option<&Shown>) -> Option<Shown> {
        let mut all = own.into_iter().chain(self.others.iter().map(|(_, shown)| shown));
        let first = all.next()?.clone();
        Some(all.fold(first, Shown::merge))
    }

    /// What is to be shown.
    pub(super) fn wanted(&self) -> Option<Shown> {
        self.with(self.own.as_ref())
    }

    /// What is known of them, told or not.
    pub(super) fn known(&self) -> Option<Shown> {
        let wanted = self.wanted()?;
        Some(match &self.told {
            Some(told) => wanted.merge(told),
            None => wanted,
        })
    }

    /// Whether readers are not told of this yet, as it is older than what they were told: whoever said that is gone,
    /// and others that hold the member say it, too, as soon as they have heard it.
    pub(super) fn waits(&mut self, wanted: Option<&Shown>, now_ms: u64) -> bool {
        let is_outdated = match (&self.told, wanted) {
            (Some(told), Some(wanted)) => wanted.at_ms < told.at_ms || wanted.since > told.since,
            _ => false,
        };
        if !is_outdated {
            self.outdated_since_ms = 0;
        } else if self.outdated_since_ms == 0 {
            self.outdated_since_ms = now_ms;
        }
        is_outdated && now_ms < self.outdated_since_ms + OUTDATED_MS
    }

    /// Another server says this of them, or nothing any more.
    pub(super) fn note_other(&mut self, server: u64, shown: Option<Shown>) {
        self.others.retain(|(other, _)| *other != server);
        self.others.extend(shown.map(|shown| (server, shown)));
    }

    fn is_nobody(&self) -> bool {
        self.own.is_none() && self.others.is_empty() && self.told.is_none()
    }
}

impl Stripe {
    pub(super) fn find(&self, channel: &ChannelName, member: &str) -> Option<&Member> {
        self.rooms.get(channel.as_str())?.get(member)
    }

    pub(super) fn find_mut(&mut self, channel: &ChannelName, member: &str) -> Option<&mut Member> {
        self.rooms.get_mut(channel.as_str())?.get_mut(member)
    }

    pub(super) fn open(&mut self, channel: &ChannelName, member: &str) -> &mut Member {
        let room = self.rooms.entry(channel.clone()).or_default();
        room.entry(member.into()).or_default()
    }

    /// Forgets whom nobody holds, and of whom nobody has to be told.
    pub(super) fn tidy(&mut self, channel: &ChannelName, member: &str) {
        let Some(room) = self.rooms.get_mut(channel.as_str()) else { return };
        if room.get(member).is_some_and(Member::is_nobody) {
            room.remove(member);
        }
        if room.is_empty() {
            self.rooms.remove(channel.as_str());
        }
    }

    /// A member is held until then, or until that is changed.
    pub(super) fn set_hold(
        &mut self,
        channel: &ChannelName,
        member: &str,
        holder: Holder,
        ends_ms: Option<u64>,
    ) {
        self.drop_hold(channel, member, |hold| hold.holder == holder);
        self.numbers += 1;
        let number = self.numbers;
        let Some(present) = self.find_mut(channel, member) else { return };
        present.holds.push(Hold { holder, number, ends_ms });
        if let Some(ends_ms) = ends_ms {
            self.ends.insert((ends_ms, number), (channel.clone(), member.into()));
        }
    }

    pub(super) fn change_hold(&mut self, channel: &ChannelName, member: &str, holder: &Holder, ends_ms: u64) {
        let is_there = |member: &mut Member| member.holds.iter().any(|hold| hold.holder == *holder);
        if self.find_mut(channel, member).is_some_and(is_there) {
            self.set_hold(channel, member, holder.clone(), Some(ends_ms));
        }
    }

    pub(super) fn put_off(&mut self, channel: &ChannelName, member: &str, number: u64, ends_ms: u64) {
        let Some(present) = self.find_mut(channel, member) else { return };
        if let Some(hold) = present.holds.iter_mut().find(|hold| hold.number == number) {
            hold.ends_ms = Some(ends_ms);
            self.ends.insert((ends_ms, number), (channel.clone(), member.into()));
        }
    }

    pub(super) fn drop_hold(&mut self, channel: &ChannelName, member: &str, is_it: impl Fn(&Hold) -> bool) {
        let Some(present) = self.find_mut(channel, member) else { return };
        let Some(at) = present.holds.iter().position(is_it) else { return };
        let hold = present.holds.swap_remove(at);
        if let Some(ends_ms) = hold.ends_ms {
            self.ends.remove(&(ends_ms, hold.number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(since: u64, at_ms: u64, data: &str) -> Shown {
        Shown { since: Timestamp(since), at_ms, data: data.into() }
    }

    #[test]
    fn what_is_shown_does_not_depend_on_who_was_heard_first() {
        let all = [shown(5, 5, "1"), shown(3, 9, "2"), shown(4, 9, "3"), shown(9, 1, "4")];
        let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]];
        for order in orders {
            let mut member = Member::default();
            for at in order {
                member.note_other(at as u64, Some(all[at].clone()));
            }
            assert_eq!(member.wanted(), Some(shown(3, 9, "3")));
            member.note_other(2, None);
            assert_eq!(member.with(Some(&shown(1, 10, "0"))), Some(shown(1, 10, "0")));
            assert_eq!(member.wanted(), Some(shown(3, 9, "2")));
        }
    }
}
