//! What the log is, as all servers know it: its number, its secret, and from where offsets count. Whether the broker has
//! lost what it had, which each server finds by what it has seen itself; then offsets count from further on. Must not
//! know channels.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use tidewire_core::limits::BACKPLANE_SEAMS;

use super::library::Library;
use super::streams::Stream;
use super::wire::{lock, odd};
use crate::access::sealed::Secret;
use crate::backplane::broker::{BrokerError, Known};
use crate::clock::wall_clock;

/// How many messages a server remembers to have seen.
const SEEN_MOST: usize = 16;

/// What is kept of the log as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) number: u64,
    secret: Secret,
    /// From where offsets count, oldest first: each is greater than all that was given when it was made.
    pub(super) bases: Vec<u64>,
}

/// What a server has seen of the log, over all its connections.
#[derive(Debug, Default)]
pub(super) struct Witness {
    base: u64,
    highest: u64,
    /// Sequences and nonces of the newest messages.
    seen: VecDeque<(u64, u64)>,
}

impl Witness {
    /// A message is there.
    pub(super) fn note(&mut self, sequence: u64, nonce: u64) {
        self.highest = self.highest.max(sequence);
        if self.seen.back().is_some_and(|(newest, _)| *newest >= sequence) {
            return;
        }
        self.seen.push_back((sequence, nonce));
        if self.seen.len() > SEEN_MOST {
            self.seen.pop_front();
        }
    }

    /// The stream is as far as that.
    pub(super) fn note_last(&mut self, last: u64) {
        self.highest = self.highest.max(last);
    }

    pub(super) fn highest(&self) -> u64 {
        self.highest
    }
}

impl Meta {
    fn new(known: Option<Known>) -> Result<Self, BrokerError> {
        let bases = vec![wall_clock().0];
        if let Some(Known { number, secret }) = known {
            return Ok(Self { number, secret, bases });
        }
        let mut secret = Secret::default();
        getrandom::fill(&mut secret)
            .map_err(|_| BrokerError("the system gives no random numbers".to_owned()))?;
        Ok(Self { number: fastrand::u64(1..), secret, bases })
    }

    /// Of a log that has yet to be asked.
    pub(super) fn unknown() -> Self {
        Self { number: 0, secret: Secret::default(), bases: Vec::new() }
    }

    pub(super) fn known(&self) -> Known {
        Known { number: self.number, secret: self.secret }
    }

    pub(super) fn base(&self) -> u64 {
        self.bases.last().copied().unwrap_or(0)
    }

    /// In which message of the stream an offset is.
    pub(super) fn sequence(&self, offset: u64) -> u64 {
        let position = offset >> 20;
        let base = self.bases.iter().rev().find(|base| **base <= position);
        base.map_or(1, |base| (position - base).max(1))
    }

    /// Offsets count from beyond all that was ever given.
    fn leap(&mut self, highest: u64) {
        let base = wall_clock().0.max(self.base() + highest + 1);
        self.bases.push(base);
        if self.bases.len() > BACKPLANE_SEAMS {
            // What is so old begins before all of them.
            self.bases.remove(0);
        }
    }
}

/// What the log is, once it is known whether it has lost anything.
pub(super) async fn open(
    library: &Library,
    stream: &Stream,
    known: Option<Known>,
) -> Result<Meta, BrokerError> {
    let (wire, prefix) = (&library.wire, &library.prefix);
    let subject = format!("{prefix}.meta.log");
    let mut has_lost = has_lost(library, stream).await?;
    loop {
        let found = library.find(&subject).await?;
        let expected = found.as_ref().map_or(0, |(sequence, _)| *sequence);
        let mut meta: Meta = match &found {
            Some((_, data)) => serde_json::from_slice(data).map_err(|_| odd("no word on what the log is"))?,
            None => Meta::new(known)?,
        };
        if let Some(Known { number, .. }) = known
            && number != meta.number
        {
            // Ids that clients hold were made of the number that this node has; another log is not theirs.
            let why =
                "it has another log than before, or than the first server; give each a prefix of its own";
            return Err(BrokerError(why.to_owned()));
        }
        let (base, highest) = {
            let witness = lock(&library.witness);
            (witness.base, witness.highest)
        };
        if found.is_some() && base != 0 && meta.base() > base + highest {
            // Another server has found the loss, and all that this one saw is behind it.
            has_lost = false;
        }
        if meta.base() < base {
            // The word on the log is lost as well.
            meta.bases.push(base);
            has_lost = true;
        }
        if has_lost {
            meta.leap(highest);
        }
        if has_lost || found.is_none() {
            let data = serde_json::to_vec(&meta).map_err(|error| BrokerError(error.to_string()))?;
            if wire.store(subject.clone(), data.into(), Some(expected), 0).await?.sequence()?.is_none() {
                continue; // another server was faster
            }
            if has_lost {
                wire.say(format!("{prefix}.leap"), meta.base().to_string().into()).await?;
            }
        }
        *lock(&library.witness) = Witness { base: meta.base(), highest: stream.last, seen: VecDeque::new() };
        return Ok(meta);
    }
}

/// Whether the log has not what this server has seen there.
async fn has_lost(library: &Library, stream: &Stream) -> Result<bool, BrokerError> {
    let (highest, seen) = {
        let witness = lock(&library.witness);
        (witness.highest, witness.seen.clone())
    };
    if stream.last < highest {
        return Ok(true);
    }
    for (sequence, nonce) in seen {
        // One that is not there may have been dropped; but none ever comes in the place of another.
        if library.message(sequence).await?.is_some_and(|message| message.head.nonce != nonce) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::{Meta, Witness};

    #[test]
    fn an_offset_leads_to_its_message() {
        let mut meta = Meta { number: 1, secret: [0; 32], bases: vec![1_000] };
        assert_eq!((meta.sequence(1_007 << 20 | 5), meta.sequence(3)), (7, 1));
        meta.leap(50);
        let base = meta.base();
        assert!(base > 1_050);
        assert_eq!((meta.sequence(1_050 << 20), meta.sequence((base + 51) << 20)), (50, 51));
    }

    #[test]
    fn a_leap_is_beyond_all_that_was_given_whatever_the_clock_says() {
        let future = 1 << 43;
        let mut meta = Meta { number: 1, secret: [0; 32], bases: vec![future] };
        meta.leap(9);
        assert_eq!(meta.base(), future + 10);
    }

    #[test]
    fn a_witness_remembers_the_newest() {
        let mut witness = Witness::default();
        (1..40).for_each(|sequence| witness.note(sequence, sequence));
        witness.note(7, 8);
        assert_eq!((witness.highest(), witness.seen.len()), (39, super::SEEN_MOST));
        assert!(witness.seen.iter().all(|(sequence, nonce)| sequence == nonce && *sequence > 20));
    }
}
