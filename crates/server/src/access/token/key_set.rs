//! JSON Web Key Sets (RFC 7517): the keys of an issuer. Must not know where a set comes from, but whether it was
//! given with the configuration or by somebody else.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::algorithm::{self, Kind};
use super::json;
use super::key::{Key, Material};
use crate::access::settings::Algorithm;

/// The most keys of an issuer. Beyond: the set is refused.
const KEYS_MAX: usize = 100;

/// The keys of an issuer at a time.
#[derive(Default)]
pub(super) struct KeySet {
    pub(super) keys: Vec<Key>,
    /// Changes with the keys; what was checked with other ones counts no more.
    pub(super) generation: u64,
    /// Whether this is what the issuer has: not before the first fetch.
    pub(super) is_known: bool,
}

/// Who gave a set, which decides what may be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Giver {
    /// A file of the configuration: secrets are fine, and what cannot be used is an error.
    File,
    /// The issuer, over the network: secrets are not taken, and what cannot be used is left out, as RFC 7517
    /// section 5 wants it.
    Issuer,
}

/// Reads a set, and takes from it what is for one of these algorithms.
///
/// # Errors
/// Says why it is none.
pub(super) fn parse(bytes: &[u8], algorithms: &[Algorithm], giver: Giver) -> Result<Vec<Key>, String> {
    let set = json::object(bytes).ok_or("this is no JSON Web Key Set: it must be a JSON object")?;
    let Some(Value::Array(members)) = set.get("keys") else {
        return Err("this is no JSON Web Key Set: it must have an array of keys".to_owned());
    };
    if members.len() > KEYS_MAX {
        return Err(format!("this set has {} keys; {KEYS_MAX} are the most", members.len()));
    }
    let mut keys = Vec::new();
    for (at, member) in members.iter().enumerate() {
        match (read(member, algorithms, giver), giver) {
            (Ok(key), _) => keys.extend(key),
            (Err(_), Giver::Issuer) => {}
            (Err(problem), Giver::File) => return Err(format!("key {} of the set: {problem}", at + 1)),
        }
    }
    if keys.is_empty() && giver == Giver::File {
        return Err(format!("this set has no key for any of {}", algorithm::names(algorithms)));
    }
    Ok(keys)
}

/// Reads a key; nothing if it is for something else.
fn read(member: &Value, algorithms: &[Algorithm], giver: Giver) -> Result<Option<Key>, String> {
    let Value::Object(jwk) = member else { return Err("it must be a JSON object".to_owned()) };
    if !is_for_verifying(jwk)? {
        return Ok(None);
    }
    let Some(material) = material(jwk)? else { return Ok(None) };
    match (material.kind(), giver) {
        (Kind::Secret, Giver::Issuer) => return Err("a shared secret is nothing to publish".to_owned()),
        (Kind::Secret, Giver::File) => {}
        _ if jwk.contains_key("d") => {
            return Err("it is a private key (it has d); give the public one only".to_owned());
        }
        _ => {}
    }
    let named = text(jwk, "alg")?;
    let is_named = |algorithm| named.is_none_or(|named| algorithm::parse(named) == Some(algorithm));
    let of_kind: Vec<Algorithm> = algorithms
        .iter()
        .copied()
        .filter(|algorithm| is_named(*algorithm) && algorithm::kind(*algorithm) == material.kind())
        .collect();
    let fitting: Vec<Algorithm> =
        of_kind.iter().copied().filter(|algorithm| material.fits(*algorithm).is_ok()).collect();
    match (of_kind.first(), fitting.is_empty()) {
        (None, _) => Ok(None),
        (Some(algorithm), true) => material.fits(*algorithm).map(|()| None),
        (Some(_), false) => Key::new(text(jwk, "kid")?.map(Into::into), &material, &fitting).map(Some),
    }
}

/// Whether `use` and `key_ops` allow to check signatures with it.
fn is_for_verifying(jwk: &Map<String, Value>) -> Result<bool, String> {
    let by_use = text(jwk, "use")?.is_none_or(|purpose| purpose == "sig");
    let by_operations = match jwk.get("key_ops") {
        None => true,
        Some(Value::Array(operations)) => operations.iter().any(|operation| operation == "verify"),
        Some(_) => return Err("key_ops must be an array".to_owned()),
    };
    Ok(by_use && by_operations)
}

/// What the key is made of; nothing if it is of a kind that no algorithm takes.
fn material(jwk: &Map<String, Value>) -> Result<Option<Material>, String> {
    let kind = text(jwk, "kty")?.ok_or("it must say what it is (kty)")?;
    let curve = text(jwk, "crv")?;
    Ok(Some(match (kind, curve) {
        ("oct", _) => Material::Secret(bytes(jwk, "k")?),
        ("RSA", _) => Material::Rsa(number(jwk, "n")?, number(jwk, "e")?),
        ("EC", Some("P-256")) => Material::P256(point(jwk, 32)?),
        ("EC", Some("P-384")) => Material::P384(point(jwk, 48)?),
        ("OKP", Some("Ed25519")) => Material::Ed25519(bytes(jwk, "x")?),
        _ => return Ok(None),
    }))
}

fn text<'j>(jwk: &'j Map<String, Value>, name: &str) -> Result<Option<&'j str>, String> {
    match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{name} must be text")),
    }
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let text = text(jwk, name)?.ok_or_else(|| format!("{name} is missing"))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("{name} must be base64url without padding"))
}

/// A number. Some write it with zeros before it, which is wrong but not ambiguous.
fn number(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let bytes = bytes(jwk, name)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Ok(bytes[zeros..].to_vec())
}

/// An uncompressed point (SEC 1 section 2.3.3) of coordinates of exactly so many bytes (RFC 7518 section 6.2.1).
fn point(jwk: &Map<String, Value>, coordinate_bytes: usize) -> Result<Vec<u8>, String> {
    let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
    if x.len() != coordinate_bytes || y.len() != coordinate_bytes {
        return Err(format!("x and y must have {coordinate_bytes} bytes each"));
    }
    Ok([&[4][..], &x, &y].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_taken_from_a_file_only() {
        let set = br#"{"keys":[{"kty":"oct","k":"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}]}"#;
        let count = |giver| parse(set, &[Algorithm::Hs256], giver).map(|keys| keys.len());
        assert_eq!((count(Giver::File), count(Giver::Issuer)), (Ok(1), Ok(0)));
    }
}
