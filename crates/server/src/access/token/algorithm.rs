//! What each signature algorithm is called, and the kind of key that it takes. Must not know keys or tokens.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{self, EcdsaVerificationAlgorithm, RsaParameters};

use crate::access::settings::Algorithm;

/// What a key is. An algorithm takes keys of one kind only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Secret,
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Kind {
    /// In words.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Secret => "a shared secret",
            Self::Rsa => "an RSA key",
            Self::P256 => "a key on the curve P-256",
            Self::P384 => "a key on the curve P-384",
            Self::Ed25519 => "an Ed25519 key",
        }
    }

    /// The algorithms that take it, as the configuration spells them.
    pub(super) fn algorithms(self) -> &'static str {
        match self {
            Self::Secret => "HS256, HS384 and HS512",
            Self::Rsa => "RS256, RS384, RS512, PS256, PS384 and PS512",
            Self::P256 => "ES256",
            Self::P384 => "ES384",
            Self::Ed25519 => "EdDSA",
        }
    }
}

/// The algorithm of this name. `Ed25519` is what RFC 9864 calls the only kind of `EdDSA` that is taken.
pub(super) fn parse(name: &str) -> Option<Algorithm> {
    Some(match name {
        "HS256" => Algorithm::Hs256,
        "HS384" => Algorithm::Hs384,
        "HS512" => Algorithm::Hs512,
        "RS256" => Algorithm::Rs256,
        "RS384" => Algorithm::Rs384,
        "RS512" => Algorithm::Rs512,
        "PS256" => Algorithm::Ps256,
        "PS384" => Algorithm::Ps384,
        "PS512" => Algorithm::Ps512,
        "ES256" => Algorithm::Es256,
        "ES384" => Algorithm::Es384,
        "EdDSA" | "Ed25519" => Algorithm::EdDsa,
        _ => return None,
    })
}

/// Its name.
pub(super) fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Hs256 => "HS256",
        Algorithm::Hs384 => "HS384",
        Algorithm::Hs512 => "HS512",
        Algorithm::Rs256 => "RS256",
        Algorithm::Rs384 => "RS384",
        Algorithm::Rs512 => "RS512",
        Algorithm::Ps256 => "PS256",
        Algorithm::Ps384 => "PS384",
        Algorithm::Ps512 => "PS512",
        Algorithm::Es256 => "ES256",
        Algorithm::Es384 => "ES384",
        Algorithm::EdDsa => "EdDSA",
    }
}

/// How a signature of it is checked, which also says which keys it takes.
pub(super) enum Method {
    Hmac(hmac::Algorithm),
    Rsa(&'static RsaParameters),
    P256(&'static EcdsaVerificationAlgorithm),
    P384(&'static EcdsaVerificationAlgorithm),
    Ed25519,
}

impl Method {
    pub(super) fn of(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Hs256 => Self::Hmac(hmac::HMAC_SHA256),
            Algorithm::Hs384 => Self::Hmac(hmac::HMAC_SHA384),
            Algorithm::Hs512 => Self::Hmac(hmac::HMAC_SHA512),
            Algorithm::Rs256 => Self::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::Rs384 => Self::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::Rs512 => Self::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
            Algorithm::Ps256 => Self::Rsa(&signature::RSA_PSS_2048_8192_SHA256),
            Algorithm::Ps384 => Self::Rsa(&signature::RSA_PSS_2048_8192_SHA384),
            Algorithm::Ps512 => Self::Rsa(&signature::RSA_PSS_2048_8192_SHA512),
            Algorithm::Es256 => Self::P256(&signature::ECDSA_P256_SHA256_FIXED),
            Algorithm::Es384 => Self::P384(&signature::ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDsa => Self::Ed25519,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Hmac(_) => Kind::Secret,
            Self::Rsa(_) => Kind::Rsa,
            Self::P256(_) => Kind::P256,
            Self::P384(_) => Kind::P384,
            Self::Ed25519 => Kind::Ed25519,
        }
    }
}

/// The kind of key that an algorithm takes.
pub(super) fn kind(algorithm: Algorithm) -> Kind {
    Method::of(algorithm).kind()
}

/// Names in a row, for people.
pub(super) fn names(algorithms: &[Algorithm]) -> String {
    let names: Vec<&str> = algorithms.iter().copied().map(name).collect();
    names.join(", ")
}
