//! What checking and fetching share: the issuers with their keys, the cache, and what was done. Must not know either.

use std::sync::atomic::AtomicU64;

use super::cache::Cache;
use super::issuer::Issuer;

/// The issuers, by their place in the settings.
#[derive(Default)]
pub(super) struct Ring {
    pub(super) issuers: Vec<Issuer>,
    pub(super) cache: Cache,
    pub(super) counters: Counters,
}

/// What was done so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Tokens that were taken.
    pub(crate) verified: AtomicU64,
    /// Tokens that were refused.
    pub(crate) refused: AtomicU64,
    /// Fetches of keys that were begun.
    pub(crate) fetches: AtomicU64,
    /// Those of them that brought none.
    pub(crate) fetch_failures: AtomicU64,
}
