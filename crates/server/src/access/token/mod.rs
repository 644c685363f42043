//! Whether a token is good, and what it says. Must not know connections: a token and the time come in, claims or a
//! refusal go out, on the caller's thread and without waiting for anything.
//!
//! A token is taken apart (`compact`) and its claims judged (`claims`) before its signature, which is the dear
//! part: `issuer` has the keys, `key` binds each to the algorithms that it may be used with.

mod algorithm;
mod cache;
mod claims;
mod command;
mod compact;
mod fetcher;
mod issuer;
mod json;
mod key;
mod key_set;
mod pem;
mod refusal;
mod remote;
mod ring;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(crate) use claims::Claims;
pub use command::check_token;
pub(crate) use refusal::Refusal;
pub(crate) use ring::Counters;

use super::settings::AccessSettings;
use algorithm::Kind;
use cache::fingerprint_of;
use claims::Rules;
use compact::Compact;
use fetcher::Fetcher;
use issuer::{Attempt, Issuer};
use ring::Ring;

/// The most signatures that are checked for one token: for those that name no key.
const CHECKS_MAX: usize = 8;

/// Checks tokens. Threads share one.
pub(crate) struct Verifier {
    ring: Arc<Ring>,
    rules: Rules,
    token_bytes_max: usize,
    /// Nothing if no keys are fetched.
    fetcher: Option<Fetcher>,
}

impl Verifier {
    /// Reads the keys that are in files, and has the others fetched, without waiting for them.
    ///
    /// # Errors
    /// Says which issuer or file is wrong, and what would be right.
    pub(crate) fn new(settings: &AccessSettings) -> anyhow::Result<Self> {
        let issuers = settings.issuers.iter().map(Issuer::new).collect::<anyhow::Result<Vec<_>>>()?;
        let ring = Arc::new(Ring { issuers, ..Ring::default() });
        let tokens = &settings.tokens;
        Ok(Self {
            fetcher: Fetcher::start(&ring, &settings.issuers)?,
            ring,
            rules: Rules {
                leeway_ms: tokens.leeway_seconds.saturating_mul(1000),
                rights_claim: tokens.rights_claim.clone(),
            },
            token_bytes_max: tokens.token_bytes,
        })
    }

    /// Checks a token. `now_ms` is the wall clock's.
    ///
    /// # Errors
    /// Says why it is refused. [`Refusal::KeysWanted`] is no last word: fetch, then verify after that.
    pub(crate) fn verify(&self, token: &str, now_ms: u64) -> Result<Claims, Refusal> {
        let verdict = self.judge(token, now_ms, false);
        self.count(&verdict);
        verdict
    }

    /// Checks a token whose keys have been asked for, whatever came of it.
    ///
    /// # Errors
    /// Says why it is refused, but never [`Refusal::KeysWanted`].
    pub(crate) fn verify_after_fetch(&self, token: &str, now_ms: u64) -> Result<Claims, Refusal> {
        let verdict = self.judge(token, now_ms, true);
        self.count(&verdict);
        verdict
    }

    fn count(&self, verdict: &Result<Claims, Refusal>) {
        let counter = match verdict {
            Ok(_) => &self.ring.counters.verified,
            Err(Refusal::KeysWanted(_)) => return,
            Err(_) => &self.ring.counters.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn judge(&self, token: &str, now_ms: u64, has_fetched: bool) -> Result<Claims, Refusal> {
        if token.len() > self.token_bytes_max {
            return Err(Refusal::TooLong(self.token_bytes_max));
        }
        let compact = Compact::parse(token)?;
        let issuer = claims::issuer(&compact.claims)?;
        let claims = self.rules.read(&compact.claims, now_ms)?;
        let mut attempt = Attempt { checks_left: CHECKS_MAX, has_fetched };
        let mut nearest = Refusal::Issuer;
        for (place, issuer) in self.trusted(issuer) {
            match self.check(place, issuer, token, &compact, &mut attempt) {
                Ok(()) => return Ok(claims),
                Err(refusal) if refusal.nearness() >= nearest.nearness() => nearest = refusal,
                Err(_) => {}
            }
        }
        Err(nearest)
    }

    /// Gets the keys of an issuer anew. `done` is called once they are there or cannot be had, on another thread,
    /// or at once on this one if they were got just now.
    pub(crate) fn fetch(&self, issuer: usize, done: Box<dyn FnOnce() + Send>) {
        match &self.fetcher {
            Some(fetcher) => fetcher.fetch(issuer, done),
            None => done(),
        }
    }

    /// Fetches no more. Who waits is told at once; a fetch that is under way is not waited for.
    pub(crate) fn stop(&self) {
        if let Some(fetcher) = &self.fetcher {
            fetcher.stop();
        }
    }

    /// What was done so far.
    pub(crate) fn counters(&self) -> &Counters {
        &self.ring.counters
    }

    /// Who may have issued a token: those of that name, or else those without one.
    fn trusted<'v>(&'v self, name: Option<&'v str>) -> impl Iterator<Item = (usize, &'v Issuer)> {
        let named =
            self.ring.issuers.iter().any(|issuer| issuer.name.is_some() && issuer.name.as_deref() == name);
        let name = if named { name } else { None };
        self.ring.issuers.iter().enumerate().filter(move |(_, issuer)| issuer.name.as_deref() == name)
    }

    fn check(
        &self,
        place: usize,
        issuer: &Issuer,
        token: &str,
        compact: &Compact<'_>,
        attempt: &mut Attempt,
    ) -> Result<(), Refusal> {
        let algorithm = issuer.accepts(algorithm::parse(&compact.algorithm), &compact.claims)?;
        let keys = issuer.keys();
        if algorithm::kind(algorithm) == Kind::Secret {
            // An HMAC costs no more than the fingerprint.
            return issuer.check(place, &keys, compact, algorithm, attempt);
        }
        let fingerprint = fingerprint_of(token.as_bytes());
        if self.ring.cache.contains(&fingerprint, (place, keys.generation)) {
            return Ok(());
        }
        issuer.check(place, &keys, compact, algorithm, attempt)?;
        self.ring.cache.insert(fingerprint, (place, keys.generation));
        Ok(())
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Verifier").field("counters", &self.ring.counters).finish_non_exhaustive()
    }
}
