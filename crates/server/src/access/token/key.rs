//! A key, bound to the algorithms that it may be used with. Must not know where it comes from, nor who may use it.
//!
//! The binding is made once, when the key is read: there is nothing to check an HMAC with in a public key, and
//! nothing to check RS256 with in a key for PS256. So no header can bring a key and an algorithm together.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{self, ParsedPublicKey, RsaPublicKeyComponents};

use super::algorithm::{self, Kind, Method};
use crate::access::settings::Algorithm;

/// RSA keys outside of these bounds are refused (RFC 7518 section 3.3; beyond, one check takes milliseconds).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// What a key is made of.
pub(super) enum Material {
    Secret(Vec<u8>),
    /// Modulus and exponent, without leading zeros.
    Rsa(Vec<u8>, Vec<u8>),
    /// An uncompressed point.
    P256(Vec<u8>),
    /// An uncompressed point.
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// A key and what it can check.
pub(super) struct Key {
    /// What tokens name it by.
    pub(super) id: Option<Box<str>>,
    checks: Vec<(Algorithm, Check)>,
}

enum Check {
    Hmac(Box<hmac::Key>),
    Signature(ParsedPublicKey),
}

impl Material {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Secret(_) => Kind::Secret,
            Self::Rsa(..) => Kind::Rsa,
            Self::P256(_) => Kind::P256,
            Self::P384(_) => Kind::P384,
            Self::Ed25519(_) => Kind::Ed25519,
        }
    }

    /// Whether it is good for this algorithm, and if not, what would be.
    pub(super) fn fits(&self, algorithm: Algorithm) -> Result<(), String> {
        let (kind, name) = (self.kind(), algorithm::name(algorithm));
        if algorithm::kind(algorithm) != kind {
            return Err(format!("{name} does not take {}; use {}", kind.describe(), kind.algorithms()));
        }
        let (Self::Secret(secret), Method::Hmac(method)) = (self, Method::of(algorithm)) else {
            return Ok(());
        };
        let bytes_min = method.digest_algorithm().output_len();
        if secret.len() < bytes_min {
            return Err(format!(
                "{name} takes a secret of at least {bytes_min} bytes, and this one has {} (RFC 7518 section 3.2)",
                secret.len()
            ));
        }
        Ok(())
    }

    /// Whether it is a sound key at all.
    fn check(&self) -> Result<(), String> {
        let Self::Rsa(modulus, exponent) = self else { return Ok(()) };
        let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
        if !RSA_BITS.contains(&bits) {
            return Err(format!(
                "an RSA key must have {} to {} bits, and this one has {bits}",
                RSA_BITS.start(),
                RSA_BITS.end()
            ));
        }
        // With an exponent of 1 everything is signed. Larger ones than 4 bytes only make checks slow.
        let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
        if !is_odd(exponent) || !is_odd(modulus) || exponent[..] == [1] || exponent.len() > 4 {
            return Err("this is no RSA key: its exponent must be odd, from 3 to 4294967295".to_owned());
        }
        Ok(())
    }
}

impl Key {
    /// Binds a key to algorithms, all of which must fit.
    pub(super) fn new(
        id: Option<Box<str>>,
        material: &Material,
        algorithms: &[Algorithm],
    ) -> Result<Self, String> {
        material.check()?;
        let mut checks = Vec::with_capacity(algorithms.len());
        for &algorithm in algorithms {
            material.fits(algorithm)?;
            checks.push((algorithm, Check::new(material, algorithm)?));
        }
        Ok(Self { id, checks })
    }

    /// Whether it can check signatures of this algorithm.
    pub(super) fn takes(&self, algorithm: Algorithm) -> bool {
        self.checks.iter().any(|(own, _)| *own == algorithm)
    }

    /// Whether the signature was made with it, by this algorithm.
    pub(super) fn verifies(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        let check = self.checks.iter().find(|(own, _)| *own == algorithm);
        check.is_some_and(|(_, check)| match check {
            // Compares in constant time.
            Check::Hmac(key) => hmac::verify(key, signed, signature).is_ok(),
            Check::Signature(key) => key.verify_sig(signed, signature).is_ok(),
        })
    }
}

impl Check {
    fn new(material: &Material, algorithm: Algorithm) -> Result<Self, String> {
        let parsed = match (material, Method::of(algorithm)) {
            (Material::Secret(secret), Method::Hmac(method)) => {
                return Ok(Self::Hmac(Box::new(hmac::Key::new(method, secret))));
            }
            (Material::Rsa(modulus, exponent), Method::Rsa(parameters)) => {
                RsaPublicKeyComponents { n: modulus, e: exponent }.to_parsed_public_key(parameters)
            }
            (Material::P256(point), Method::P256(method)) | (Material::P384(point), Method::P384(method)) => {
                ParsedPublicKey::new(method, point)
            }
            (Material::Ed25519(point), Method::Ed25519) => ParsedPublicKey::new(&signature::ED25519, point),
            // What `fits` has refused; said again, so that no key is ever used for anything else.
            _ => return Err(format!("{} does not take this kind of key", algorithm::name(algorithm))),
        };
        parsed.map(Self::Signature).map_err(|_| format!("this is not {}", material.kind().describe()))
    }
}
