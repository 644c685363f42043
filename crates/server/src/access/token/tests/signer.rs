//! Makes keys and tokens. Shares nothing with what checks them but the library of the cryptography.

use std::sync::LazyLock;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::access::settings::Algorithm;
use crate::access::token::algorithm;

/// A key that signs.
pub(super) enum Signer {
    Secret(Vec<u8>),
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// One of each kind; making RSA keys takes long.
struct Signers {
    secret: Signer,
    rsa: Signer,
    p256: Signer,
    p384: Signer,
    ed: Signer,
}

static SIGNERS: LazyLock<Signers> = LazyLock::new(|| Signers::new(b's'));
static OTHERS: LazyLock<Signers> = LazyLock::new(|| Signers::new(b'o'));

impl Signers {
    fn new(byte: u8) -> Self {
        let ec = |method| Signer::Ec(EcdsaKeyPair::generate(method).expect("keys can be made"));
        Self {
            secret: Signer::Secret(vec![byte; 64]),
            rsa: Signer::rsa(KeySize::Rsa2048),
            p256: ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            p384: ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            ed: Signer::Ed(Ed25519KeyPair::generate().expect("keys can be made")),
        }
    }

    fn of(&'static self, algorithm: Algorithm) -> &'static Signer {
        match algorithm {
            Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => &self.secret,
            Algorithm::Es256 => &self.p256,
            Algorithm::Es384 => &self.p384,
            Algorithm::EdDsa => &self.ed,
            _ => &self.rsa,
        }
    }
}

impl Signer {
    pub(super) fn for_algorithm(algorithm: Algorithm) -> &'static Self {
        SIGNERS.of(algorithm)
    }

    /// Another key of the same kind.
    pub(super) fn other_for(algorithm: Algorithm) -> &'static Self {
        OTHERS.of(algorithm)
    }

    pub(super) fn rsa(size: KeySize) -> Self {
        Self::Rsa(RsaKeyPair::generate(size).expect("keys can be made"))
    }

    pub(super) fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Secret(secret) => {
                let method = match algorithm {
                    Algorithm::Hs384 => hmac::HMAC_SHA384,
                    Algorithm::Hs512 => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                hmac::sign(&hmac::Key::new(method, secret), message).as_ref().to_vec()
            }
            Self::Rsa(pair) => {
                let encoding: &'static dyn RsaEncoding = match algorithm {
                    Algorithm::Rs384 => &signature::RSA_PKCS1_SHA384,
                    Algorithm::Rs512 => &signature::RSA_PKCS1_SHA512,
                    Algorithm::Ps256 => &signature::RSA_PSS_SHA256,
                    Algorithm::Ps384 => &signature::RSA_PSS_SHA384,
                    Algorithm::Ps512 => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signature).expect("it can sign");
                signature
            }
            Self::Ec(pair) => pair.sign(&random, message).expect("it can sign").as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// Its public half as a SubjectPublicKeyInfo.
    pub(super) fn der(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = match self {
            Self::Secret(_) => panic!("a secret has no public half"),
            Self::Rsa(pair) => pair.public_key().as_der(),
            Self::Ec(pair) => pair.public_key().as_der(),
            Self::Ed(pair) => pair.public_key().as_der(),
        }
        .expect("it can be written");
        der.as_ref().to_vec()
    }

    pub(super) fn pem(&self) -> String {
        pem("PUBLIC KEY", &self.der())
    }

    /// As a JSON Web Key without any of the optional members.
    pub(super) fn jwk(&self) -> Value {
        match self {
            Self::Secret(secret) => json!({"kty": "oct", "k": encode(secret)}),
            Self::Rsa(pair) => json!({
                "kty": "RSA",
                "n": encode(pair.public_key().modulus().big_endian_without_leading_zero()),
                "e": encode(pair.public_key().exponent().big_endian_without_leading_zero()),
            }),
            Self::Ec(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)})
            }
            Self::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key())}),
        }
    }
}

pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

pub(super) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token as it should be.
pub(super) fn token(signer: &Signer, algorithm: Algorithm, key_id: Option<&str>, claims: &Value) -> String {
    let mut header = json!({"alg": algorithm::name(algorithm), "typ": "JWT"});
    if let Some(key_id) = key_id {
        header["kid"] = json!(key_id);
    }
    token_with(signer, algorithm, &header, claims)
}

/// A token with any header, signed by `algorithm` whatever the header says.
pub(super) fn token_with(signer: &Signer, algorithm: Algorithm, header: &Value, claims: &Value) -> String {
    signed(signer, algorithm, &header.to_string(), &claims.to_string())
}

/// A token of any two texts.
pub(super) fn signed(signer: &Signer, algorithm: Algorithm, header: &str, claims: &str) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = signer.sign(algorithm, message.as_bytes());
    format!("{message}.{}", encode(signature))
}
