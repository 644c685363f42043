//! Why a token is not taken, in words for the one who sent it. Must never hold any part of a token.

use std::fmt;

use tidewire_core::{Code, Problem};

use super::algorithm;
use super::compact::Flaw;
use crate::access::settings::Algorithm;

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is longer than so many bytes.
    TooLong(usize),
    /// It is not formed as a token must be.
    Flawed(Flaw),
    /// A claim is missing or not what it must be.
    Claim(&'static str, &'static str),
    /// It expired so many seconds ago.
    Expired(u64),
    /// It is good in so many seconds only (`nbf`).
    Early(u64),
    /// It says that it was issued so many seconds from now (`iat`).
    Future(u64),
    /// Nobody who is trusted issued it.
    Issuer,
    /// It is for somebody else.
    Audience,
    /// Its algorithm is none of these, which its issuer uses.
    Algorithm(Vec<Algorithm>),
    /// No key of its issuer made this signature.
    Signature,
    /// It names no key, and its issuer has more than are tried.
    NoKeyId,
    /// The keys of this issuer (its place in the settings) do not tell, but newer ones may: fetch them, and verify
    /// again with [`super::Verifier::verify_after_fetch`], which never says this.
    KeysWanted(usize),
    /// It names a key that its issuer does not have.
    UnknownKey,
    /// The keys of its issuer cannot be had now: a fault of neither the client nor the token.
    KeysUnavailable,
}

impl Refusal {
    /// Whether the same token may be taken later: 503 rather than 401.
    pub(crate) fn is_temporary(&self) -> bool {
        matches!(self, Self::KeysWanted(_) | Self::KeysUnavailable)
    }

    /// How near a token came to being taken. Where several issuers refuse it, the nearest has the word; and a
    /// fetch that may help goes before all.
    pub(super) fn nearness(&self) -> u8 {
        match self {
            Self::KeysWanted(_) => 6,
            Self::KeysUnavailable => 5,
            Self::UnknownKey => 4,
            Self::Signature | Self::NoKeyId => 3,
            Self::Audience => 2,
            Self::Algorithm(_) => 1,
            _ => 0,
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let code = if refusal.is_temporary() { Code::Unavailable } else { Code::Unauthenticated };
        Self::new(code, refusal.to_string())
    }
}

impl From<Flaw> for Refusal {
    fn from(flaw: Flaw) -> Self {
        Self::Flawed(flaw)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(bytes) => {
                write!(formatter, "the token is longer than {bytes} bytes; get one with fewer claims")
            }
            Self::Flawed(flaw) => write!(formatter, "{flaw}"),
            Self::Claim(claim, wanted) => write!(formatter, "the token's claim {claim} must be {wanted}"),
            Self::Expired(seconds) => write!(formatter, "the token expired {seconds} s ago; get a new one"),
            Self::Early(seconds) => {
                write!(formatter, "the token is good in {seconds} s only (nbf); wait, or compare the clocks")
            }
            Self::Future(seconds) => write!(
                formatter,
                "the token was issued {seconds} s from now (iat); compare the issuer's clock with this server's"
            ),
            Self::Issuer => formatter.write_str(
                "the token's issuer (iss) is not one that this server trusts; get a token from one that is",
            ),
            Self::Audience => formatter
                .write_str("the token is for another audience (aud); ask its issuer for one for this server"),
            Self::Algorithm(accepted) => write!(
                formatter,
                "the token's algorithm (alg) is not taken from its issuer; sign with one of {}",
                algorithm::names(accepted)
            ),
            Self::Signature => formatter.write_str(
                "the token's signature does not fit its issuer's keys; get a new token from there",
            ),
            Self::NoKeyId => formatter.write_str(
                "the token names no key (kid), and its issuer has many; name the one it is signed with",
            ),
            Self::KeysWanted(_) | Self::KeysUnavailable => formatter
                .write_str("the keys of the token's issuer cannot be had now; try again in a few seconds"),
            Self::UnknownKey => formatter
                .write_str("the token is signed with a key that its issuer does not have; get a new token"),
        }
    }
}
