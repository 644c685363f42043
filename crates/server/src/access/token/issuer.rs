//! One who issues tokens: its keys, and whether they made a signature. Must not know how keys are fetched.

use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, anyhow, ensure};
use serde_json::{Map, Value};

use super::algorithm::{self, Kind};
use super::claims;
use super::compact::Compact;
use super::key::{Key, Material};
use super::key_set::{self, Giver, KeySet};
use super::pem;
use super::refusal::Refusal;
use crate::access::settings::{Algorithm, IssuerSettings, KeySource, Secret};

/// What is left to try for one token.
pub(super) struct Attempt {
    /// How many more signatures may be checked: what one token can cost is bounded.
    pub(super) checks_left: usize,
    /// Whether the issuer's keys were asked for already.
    pub(super) has_fetched: bool,
}

/// One who issues tokens.
pub(super) struct Issuer {
    /// What `iss` must be.
    pub(super) name: Option<String>,
    pub(super) algorithms: Vec<Algorithm>,
    audience: Vec<String>,
    /// Whether its keys are fetched, so that new ones may come.
    pub(super) is_remote: bool,
    keys: RwLock<Arc<KeySet>>,
}

impl Issuer {
    /// Reads its keys, if they are not fetched.
    pub(super) fn new(settings: &IssuerSettings) -> anyhow::Result<Self> {
        let keys = read_keys(settings).with_context(|| {
            format!("the issuer {}", settings.issuer.as_deref().unwrap_or("without a name"))
        })?;
        let is_remote = keys.is_none();
        let keys = KeySet { is_known: !is_remote, generation: 0, keys: keys.unwrap_or_default() };
        Ok(Self {
            name: settings.issuer.clone(),
            algorithms: settings.algorithms.clone(),
            audience: settings.audience.clone(),
            is_remote,
            keys: RwLock::new(Arc::new(keys)),
        })
    }

    /// Its keys as they are now.
    pub(super) fn keys(&self) -> Arc<KeySet> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes these keys and no others from now on.
    pub(super) fn replace(&self, keys: Vec<Key>) {
        let mut held = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        *held = Arc::new(KeySet { keys, generation: held.generation + 1, is_known: true });
    }

    /// Whether a token is for one of those that this issuer's tokens are taken for, by an algorithm of its own.
    pub(super) fn accepts(
        &self,
        algorithm: Option<Algorithm>,
        claims: &Map<String, Value>,
    ) -> Result<Algorithm, Refusal> {
        let accepted = algorithm.filter(|algorithm| self.algorithms.contains(algorithm));
        let algorithm = accepted.ok_or_else(|| Refusal::Algorithm(self.algorithms.clone()))?;
        if claims::is_for(claims, &self.audience)? { Ok(algorithm) } else { Err(Refusal::Audience) }
    }

    /// Whether one of these keys made the signature.
    ///
    /// # Errors
    /// `KeysWanted(place)` if other keys might have, and can still be fetched.
    pub(super) fn check(
        &self,
        place: usize,
        set: &KeySet,
        compact: &Compact<'_>,
        algorithm: Algorithm,
        attempt: &mut Attempt,
    ) -> Result<(), Refusal> {
        let (mut is_named, mut is_tried) = (false, false);
        for key in &set.keys {
            match (&compact.key_id, &key.id) {
                (Some(wanted), Some(id)) if **wanted != **id => continue,
                (Some(_), Some(_)) => is_named = true,
                _ => {}
            }
            if !key.takes(algorithm) {
                continue;
            }
            attempt.checks_left = attempt.checks_left.checked_sub(1).ok_or(Refusal::NoKeyId)?;
            is_tried = true;
            if key.verifies(algorithm, compact.signed, &compact.signature) {
                return Ok(());
            }
        }
        Err(match compact.key_id {
            _ if is_named => Refusal::Signature,
            _ if self.is_remote && !attempt.has_fetched => Refusal::KeysWanted(place),
            _ if !set.is_known => Refusal::KeysUnavailable,
            Some(_) if !is_tried => Refusal::UnknownKey,
            _ => Refusal::Signature,
        })
    }
}

/// The keys that the configuration holds or names a file for; nothing if they are to be fetched.
fn read_keys(settings: &IssuerSettings) -> anyhow::Result<Option<Vec<Key>>> {
    let algorithms = &settings.algorithms;
    ensure!(!algorithms.is_empty(), "name the algorithms that its tokens are signed with");
    let one = |material: &Material| Ok(Some(vec![Key::new(None, material, algorithms)?]));
    match &settings.keys {
        KeySource::Secret(secret) => shared_secret(secret)
            .and_then(|material| one(&material))
            .map_err(|problem: String| anyhow!(problem)),
        KeySource::PublicKey(path) => {
            let read = |bytes: &[u8]| {
                let text = str::from_utf8(bytes).map_err(|_| {
                    "this is no PEM; convert DER with openssl pkey -pubin -inform DER -in FILE".to_owned()
                })?;
                pem::public_key(text).and_then(|material| one(&material))
            };
            read_file(path, read)
        }
        KeySource::KeySetFile(path) => {
            read_file(path, |bytes| key_set::parse(bytes, algorithms, Giver::File).map(Some))
        }
        KeySource::KeySet(_) | KeySource::Discovery => {
            let secret = algorithms.iter().find(|one| algorithm::kind(**one) == Kind::Secret);
            match secret {
                Some(secret) => Err(anyhow!(
                    "{} needs a shared secret, which is never fetched; give it in the configuration",
                    algorithm::name(*secret)
                )),
                None => Ok(None),
            }
        }
    }
}

/// A public key that is taken for a secret is known to everybody, who then can sign.
fn shared_secret(secret: &Secret) -> Result<Material, String> {
    if secret.0.trim_ascii_start().starts_with(b"-----BEGIN ") {
        return Err(
            "the shared secret is a key in PEM; give it as a public key, with its own algorithms".to_owned()
        );
    }
    Ok(Material::Secret(secret.0.clone()))
}

fn read_file<T>(path: &std::path::Path, read: impl FnOnce(&[u8]) -> Result<T, String>) -> anyhow::Result<T> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    read(&bytes).map_err(|problem| anyhow!("{}: {problem}", path.display()))
}
