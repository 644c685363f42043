//! Tickets that hold what they stand for, so that any server that has the same secret knows one: sealed, as they stand in
//! URLs and so in logs. Must not know whether one was spent already.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;

use anyhow::anyhow;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use tidewire_core::{Code, Problem};

use super::Who;
use super::identity::{Identity, RecentGrants};

/// What all servers of a backplane know, and nobody else.
pub(crate) type Secret = [u8; 32];

/// What tells a ticket from all others.
const NUMBER_BYTES: usize = 16;

/// Seals and opens tickets.
pub(super) struct Sealer(RandomizedNonceKey);

/// What is in a ticket.
#[derive(Serialize, Deserialize)]
struct Content {
    number: String,
    ends_at_ms: u64,
    who: Option<Shown>,
}

/// Somebody, in words.
#[derive(Serialize, Deserialize)]
struct Shown {
    user: Option<String>,
    is_admin: bool,
    is_minted: bool,
    grants: Option<serde_json::Value>,
    expires_at_ms: u64,
    issued_at_ms: u64,
}

/// A ticket that is good, if it was not spent already.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Tells it from all others.
    pub(crate) number: String,
    pub(crate) who: Who,
}

impl Sealer {
    /// With what all servers know.
    ///
    /// # Errors
    /// Never, with a secret of this length; the library says so at run time.
    pub(super) fn new(secret: &Secret) -> anyhow::Result<Self> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, secret);
        Ok(Self(key.map_err(|_| anyhow!("the backplane's secret is no key"))?))
    }

    /// A ticket for `who` that is good until then.
    ///
    /// # Errors
    /// `internal` if the system gives no random bytes.
    pub(super) fn seal(&self, who: Who, ends_at_ms: u64) -> Result<String, Problem> {
        let failed = |_| Problem::new(Code::Internal, "the system gives no random numbers");
        let mut number = [0; NUMBER_BYTES];
        getrandom::fill(&mut number).map_err(failed)?;
        let number = URL_SAFE_NO_PAD.encode(number);
        let content = Content { number, ends_at_ms, who: who.as_deref().map(Shown::of) };
        let mut bytes = serde_json::to_vec(&content)
            .map_err(|_| Problem::new(Code::Internal, "the ticket cannot be written"))?;
        let nonce = self.0.seal_in_place_append_tag(Aad::empty(), &mut bytes);
        let nonce = nonce.map_err(|_| Problem::new(Code::Internal, "the ticket cannot be sealed"))?;
        Ok(URL_SAFE_NO_PAD.encode([&nonce.as_ref()[..], &bytes].concat()))
    }

    /// What is in a ticket. `None` if it is none of ours, or has ended.
    pub(super) fn open(&self, ticket: &str, grants: &RecentGrants, now_ms: u64) -> Option<Opened> {
        let bytes = URL_SAFE_NO_PAD.decode(ticket).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let content = self.0.open_in_place(nonce, Aad::empty(), &mut sealed).ok()?;
        let Content { number, ends_at_ms, who } = serde_json::from_slice(content).ok()?;
        if ends_at_ms <= now_ms {
            return None;
        }
        let who = match who {
            None => None,
            Some(shown) => Some(Arc::new(shown.into_identity(grants)?)),
        };
        Some(Opened { number, who })
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

impl Shown {
    fn of(who: &Identity) -> Self {
        Self {
            user: who.user.as_deref().map(str::to_owned),
            is_admin: who.is_admin,
            is_minted: who.is_minted,
            grants: who.grants.as_ref().map(|grants| grants.to_claim()),
            expires_at_ms: who.expires_at_ms.map_or(0, NonZeroU64::get),
            issued_at_ms: who.issued_at_ms,
        }
    }

    fn into_identity(self, grants: &RecentGrants) -> Option<Identity> {
        Some(Identity {
            user: self.user.map(Arc::from),
            is_admin: self.is_admin,
            is_minted: self.is_minted,
            grants: match self.grants {
                None => None,
                Some(claim) => grants.of_claim(Some(&claim)).ok()?,
            },
            expires_at_ms: NonZeroU64::new(self.expires_at_ms),
            issued_at_ms: self.issued_at_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::Action;
    use super::*;
    use tidewire_core::ChannelName;

    fn sealer(first: u8) -> Sealer {
        let mut secret = [7; 32];
        secret[0] = first;
        Sealer::new(&secret).expect("a key")
    }

    #[test]
    fn what_is_sealed_comes_out_where_the_secret_is_known() {
        let (one, other, stranger) = (sealer(1), sealer(1), sealer(2));
        let grants = RecentGrants::default();
        let claim = serde_json::json!({"subscribe": ["chat:*", "user:{sub}:x"], "publish": []});
        let who = Identity {
            user: Some("ann".into()),
            grants: grants.of_claim(Some(&claim)).expect("a claim"),
            expires_at_ms: NonZeroU64::new(50),
            issued_at_ms: 3,
            ..Identity::default()
        };
        let ticket = one.seal(Some(Arc::new(who)), 10).expect("sealed");
        assert!(!ticket.contains("ann"));
        let opened = other.open(&ticket, &grants, 9).expect("good");
        let who = opened.who.expect("somebody");
        assert_eq!((who.user.as_deref(), who.issued_at_ms), (Some("ann"), 3));
        assert_eq!(who.expires_at_ms, NonZeroU64::new(50));
        assert_eq!(who.grants, grants.of_claim(Some(&claim)).expect("a claim"));
        assert!(other.open(&ticket, &grants, 10).is_none(), "it has ended");
        assert!(stranger.open(&ticket, &grants, 9).is_none());
        for wrong in ["", "a", &ticket[1..], &ticket.replace(&ticket[20..21], "_"), &format!("{ticket}A")] {
            assert!(wrong == ticket || other.open(wrong, &grants, 9).is_none(), "{wrong}");
        }
    }

    #[test]
    fn rights_on_one_channel_stay_exactly_these() {
        let channel = ChannelName::new("a").expect("a name");
        let minted = Identity::minted(&channel, &[Action::Subscribe], 50);
        let before = minted.grants.clone();
        let ticket = sealer(1).seal(Some(Arc::new(minted)), 10).expect("sealed");
        let who = sealer(1).open(&ticket, &RecentGrants::default(), 1).expect("good").who.expect("somebody");
        assert!(who.is_minted && !who.is_admin);
        assert_eq!(who.grants, before);
        let nobody = sealer(1).seal(None, 10).expect("sealed");
        assert!(sealer(1).open(&nobody, &RecentGrants::default(), 1).expect("good").who.is_none());
    }
}
