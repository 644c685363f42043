//! Which signatures were found good, so that a token that comes again costs no second check. Must not know what
//! tokens say: their claims are read and judged each time.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};

/// The most tokens that are remembered, at about 100 bytes each. Beyond: those go that were not asked for lately.
const TOKENS_MAX: usize = 65_536;

/// SHA-256. Of a token it is taken with the signature, so that another one is another token.
pub(super) type Fingerprint = [u8; 32];

/// Tokens whose signatures are good.
#[derive(Default)]
pub(super) struct Cache {
    halves: Mutex<Halves>,
}

/// Whose keys were used: the issuer's place, and the generation of its keys. With the next generation, what was
/// checked with this one is found no more, also if it is put in only then.
pub(super) type Checked = (usize, u64);

/// New and asked-for tokens are in the young half. When it is full it becomes the old one, which is dropped.
#[derive(Default)]
struct Halves {
    young: HashMap<Fingerprint, Checked>,
    old: HashMap<Fingerprint, Checked>,
}

pub(super) fn fingerprint_of(bytes: &[u8]) -> Fingerprint {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest(&SHA256, bytes).as_ref());
    fingerprint
}

impl Cache {
    /// Whether the token's signature was found good with just these keys.
    pub(super) fn contains(&self, token: &Fingerprint, checked: Checked) -> bool {
        let mut halves = self.lock();
        if let Some(known) = halves.young.get(token) {
            return *known == checked;
        }
        match halves.old.remove(token) {
            Some(known) if known == checked => {
                halves.insert(*token, checked);
                true
            }
            _ => false,
        }
    }

    /// Remembers a token whose signature is good.
    pub(super) fn insert(&self, token: Fingerprint, checked: Checked) {
        self.lock().insert(token, checked);
    }

    fn lock(&self) -> MutexGuard<'_, Halves> {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Halves {
    fn insert(&mut self, token: Fingerprint, checked: Checked) {
        if self.young.len() >= TOKENS_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(token, checked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_token_and_keys_count() {
        let cache = Cache::default();
        let (one, other) = (fingerprint_of(b"a.b.c"), fingerprint_of(b"a.b.d"));
        cache.insert(one, (0, 1));
        assert!(cache.contains(&one, (0, 1)));
        assert!(
            !cache.contains(&one, (0, 2)) && !cache.contains(&one, (1, 1)) && !cache.contains(&other, (0, 1))
        );
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_asked_for() {
        let cache = Cache::default();
        let favourite = fingerprint_of(b"favourite");
        cache.insert(favourite, (0, 0));
        for number in 0..TOKENS_MAX * 2 {
            cache.insert(fingerprint_of(number.to_string().as_bytes()), (0, 0));
            if number % 1000 == 0 {
                assert!(cache.contains(&favourite, (0, 0)));
            }
        }
        let halves = cache.lock();
        assert!(halves.young.len() + halves.old.len() <= TOKENS_MAX);
    }
}
