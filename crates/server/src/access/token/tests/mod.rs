//! Tokens against the verifier, good and hostile. The keys are made anew for each run.

mod configuration;
mod fetching;
mod forged;
mod identity;
mod signer;

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use signer::{Signer, encode, token};

use super::*;
use crate::access::settings::{Algorithm, IssuerSettings, KeySource, Secret};

/// The time at which all tests happen, as Unix seconds.
const NOW: u64 = 1_800_000_000;
const NOW_MS: u64 = NOW * 1000;

const ASYMMETRIC: [Algorithm; 9] = [
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::EdDsa,
];
const SYMMETRIC: [Algorithm; 3] = [Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512];

/// An issuer without a name, for any audience.
fn issuer(algorithms: &[Algorithm], keys: KeySource) -> IssuerSettings {
    IssuerSettings {
        issuer: None,
        audience: Vec::new(),
        algorithms: algorithms.to_vec(),
        keys,
        refresh_seconds: 3600,
        fetch_pause_seconds: 10,
    }
}

fn settings(issuers: Vec<IssuerSettings>) -> AccessSettings {
    AccessSettings { issuers, ..AccessSettings::default() }
}

fn verifier(issuers: Vec<IssuerSettings>) -> Verifier {
    Verifier::new(&settings(issuers)).expect("the settings are good")
}

/// A file that lives as long as the test.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("there is room for a directory"))
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).expect("there is room for a file");
        path
    }

    fn key_set(&self, keys: &[Value]) -> KeySource {
        KeySource::KeySetFile(self.file("keys.json", json!({ "keys": keys }).to_string()))
    }
}

fn good_claims() -> Value {
    json!({"sub": "u1", "exp": NOW + 60})
}

#[test]
fn every_algorithm_and_no_key_for_another() {
    let scratch = Scratch::new();
    for algorithm in ASYMMETRIC.into_iter().chain(SYMMETRIC) {
        let signer = Signer::for_algorithm(algorithm);
        let keys = match &signer {
            Signer::Secret(secret) => KeySource::Secret(Secret(secret.clone())),
            _ => KeySource::PublicKey(scratch.file("key.pem", signer.pem())),
        };
        let verifier = verifier(vec![issuer(&[algorithm], keys)]);
        let good = token(signer, algorithm, None, &good_claims());
        let claims = verifier.verify(&good, NOW_MS).expect("it is good");
        assert_eq!(claims.user.as_deref(), Some("u1"));
        for other in ASYMMETRIC.into_iter().chain(SYMMETRIC).filter(|other| *other != algorithm) {
            let foreign = token(Signer::for_algorithm(other), other, None, &good_claims());
            let accepted = vec![algorithm];
            assert_eq!(verifier.verify(&foreign, NOW_MS), Err(Refusal::Algorithm(accepted)), "{other:?}");
        }
        let wrong = token(Signer::other_for(algorithm), algorithm, None, &good_claims());
        assert_eq!(verifier.verify(&wrong, NOW_MS), Err(Refusal::Signature), "{algorithm:?}");
    }
}

#[test]
fn a_key_set_has_all_kinds_and_each_is_found() {
    let scratch = Scratch::new();
    let all: Vec<Algorithm> = ASYMMETRIC.into_iter().chain(SYMMETRIC).collect();
    let keys: Vec<Value> = all
        .iter()
        .map(|algorithm| {
            let mut jwk = Signer::for_algorithm(*algorithm).jwk();
            jwk["kid"] = json!(algorithm::name(*algorithm));
            jwk["alg"] = json!(algorithm::name(*algorithm));
            jwk["use"] = json!("sig");
            jwk
        })
        .collect();
    let verifier = verifier(vec![issuer(&all, scratch.key_set(&keys))]);
    for algorithm in &all {
        let signer = Signer::for_algorithm(*algorithm);
        let named = token(signer, *algorithm, Some(algorithm::name(*algorithm)), &good_claims());
        assert!(verifier.verify(&named, NOW_MS).is_ok(), "{algorithm:?}");
        let unnamed = token(signer, *algorithm, None, &good_claims());
        assert!(verifier.verify(&unnamed, NOW_MS).is_ok(), "{algorithm:?}");
    }
    // The key is the right one, but it is for RS256 only.
    let rsa = Signer::for_algorithm(Algorithm::Rs256);
    let crossed = token(rsa, Algorithm::Ps256, Some("RS256"), &good_claims());
    assert_eq!(verifier.verify(&crossed, NOW_MS), Err(Refusal::Signature));
    let unknown = token(rsa, Algorithm::Rs256, Some("RS257"), &good_claims());
    assert_eq!(verifier.verify(&unknown, NOW_MS), Err(Refusal::UnknownKey));
    // RFC 9864's name for the same.
    let named = json!({"alg": "Ed25519"});
    let renamed =
        signer::token_with(Signer::for_algorithm(Algorithm::EdDsa), Algorithm::EdDsa, &named, &good_claims());
    assert!(verifier.verify(&renamed, NOW_MS).is_ok());
}

#[test]
fn the_issuer_decides_which_keys_count() {
    let scratch = Scratch::new();
    let (first, second) = (Signer::for_algorithm(Algorithm::Rs256), Signer::other_for(Algorithm::Rs256));
    let source = |name, signer: &Signer| KeySource::PublicKey(scratch.file(name, signer.pem()));
    let named = |name: &str, keys| IssuerSettings {
        issuer: Some(name.to_owned()),
        audience: vec!["tidewire".to_owned()],
        ..issuer(&[Algorithm::Rs256], keys)
    };
    let secret = b"a secret of the application's own".to_vec();
    let verifier = verifier(vec![
        named("https://a.example", source("a.pem", first)),
        named("https://b.example", source("b.pem", second)),
        issuer(&[Algorithm::Hs256], KeySource::Secret(Secret(secret.clone()))),
    ]);
    let own = &*Box::leak(Box::new(Signer::Secret(secret)));
    let claims = |issuer: Option<&str>, audience: Value| {
        let mut claims = good_claims();
        claims["aud"] = audience;
        if let Some(issuer) = issuer {
            claims["iss"] = json!(issuer);
        }
        claims
    };
    let (a, b) = (Some("https://a.example"), Some("https://b.example"));
    let rs = Algorithm::Rs256;
    for (signer, algorithm, claims, expected) in [
        (first, rs, claims(a, json!("tidewire")), None),
        (second, rs, claims(b, json!(["x", "tidewire"])), None),
        (first, rs, claims(b, json!("tidewire")), Some(Refusal::Signature)),
        (first, rs, claims(a, json!("other")), Some(Refusal::Audience)),
        (own, Algorithm::Hs256, claims(a, json!("tidewire")), Some(Refusal::Algorithm(vec![rs]))),
        (own, Algorithm::Hs256, claims(None, json!("any")), None),
        (own, Algorithm::Hs256, claims(Some("https://a.example/"), json!("any")), None),
        (first, rs, claims(None, json!("tidewire")), Some(Refusal::Algorithm(vec![Algorithm::Hs256]))),
    ] {
        let verdict = verifier.verify(&token(signer, algorithm, None, &claims), NOW_MS);
        assert_eq!(verdict.as_ref().err(), expected.as_ref(), "{claims}");
    }
    let mut numbered = good_claims();
    numbered["iss"] = json!(7);
    let verdict = verifier.verify(&token(first, rs, None, &numbered), NOW_MS);
    assert_eq!(verdict, Err(Refusal::Claim("iss", "text")));
}

#[test]
fn two_entries_of_one_issuer_are_both_asked() {
    let scratch = Scratch::new();
    let entry = |algorithm, name, signer: &Signer| IssuerSettings {
        issuer: Some("i".to_owned()),
        ..issuer(&[algorithm], KeySource::PublicKey(scratch.file(name, signer.pem())))
    };
    let (rsa, ec) = (Signer::for_algorithm(Algorithm::Rs256), Signer::for_algorithm(Algorithm::Es256));
    let verifier =
        verifier(vec![entry(Algorithm::Rs256, "rsa.pem", rsa), entry(Algorithm::Es256, "ec.pem", ec)]);
    let claims = json!({"iss": "i", "exp": NOW + 1});
    assert!(verifier.verify(&token(rsa, Algorithm::Rs256, None, &claims), NOW_MS).is_ok());
    assert!(verifier.verify(&token(ec, Algorithm::Es256, None, &claims), NOW_MS).is_ok());
    let wrong = token(Signer::other_for(Algorithm::Es256), Algorithm::Es256, None, &claims);
    assert_eq!(verifier.verify(&wrong, NOW_MS), Err(Refusal::Signature));
    let nobody = Verifier::new(&AccessSettings::default()).expect("there is nothing to read");
    assert_eq!(nobody.verify(&wrong, NOW_MS), Err(Refusal::Issuer));
}

#[test]
fn a_token_that_comes_again_is_judged_again() {
    let scratch = Scratch::new();
    let signer = Signer::for_algorithm(Algorithm::Es256);
    let keys = KeySource::PublicKey(scratch.file("key.pem", signer.pem()));
    let verifier = verifier(vec![issuer(&[Algorithm::Es256], keys)]);
    let good = token(signer, Algorithm::Es256, None, &good_claims());
    for _ in 0..3 {
        assert!(verifier.verify(&good, NOW_MS).is_ok());
    }
    assert!(verifier.verify(&good, NOW_MS + 89_999).is_ok());
    assert_eq!(verifier.verify(&good, NOW_MS + 95_000), Err(Refusal::Expired(35)));
    let counters = verifier.counters();
    assert_eq!((counters.verified.load(Ordering::Relaxed), counters.refused.load(Ordering::Relaxed)), (4, 1));
}

#[test]
fn it_is_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Verifier>();
}

/// What the cache is worth: `cargo test --release -p tidewire --lib what_a_token_costs -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn what_a_token_costs() {
    let scratch = Scratch::new();
    const ROUNDS: u32 = 2000;
    for algorithm in
        [Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa]
    {
        let signer = Signer::for_algorithm(algorithm);
        let keys = KeySource::PublicKey(scratch.file("key.pem", signer.pem()));
        let verifier = verifier(vec![issuer(&[algorithm], keys)]);
        let mut claims = good_claims();
        claims["tidewire"] = json!({"subscribe": ["chat:*", "user:1:*"], "publish": ["chat:1"]});
        let tokens: Vec<String> = (0..ROUNDS)
            .map(|number| {
                claims["jti"] = json!(number.to_string());
                token(signer, algorithm, None, &claims)
            })
            .collect();
        let all = || {
            let clock = crate::clock::Clock::start();
            for token in &tokens {
                assert!(verifier.verify(token, NOW_MS).is_ok());
            }
            (clock.now_ms() - 1) * 1000 / u64::from(ROUNDS)
        };
        let (first, again) = (all(), all());
        println!("{algorithm:?}: {first} us the first time, {again} us again, {} bytes", tokens[0].len());
    }
    let secret = Signer::for_algorithm(Algorithm::Hs256);
    let Signer::Secret(bytes) = secret else { return };
    let verifier = verifier(vec![issuer(&[Algorithm::Hs256], KeySource::Secret(Secret(bytes.clone())))]);
    let one = token(secret, Algorithm::Hs256, None, &good_claims());
    let clock = crate::clock::Clock::start();
    for _ in 0..ROUNDS * 10 {
        assert!(verifier.verify(&one, NOW_MS).is_ok());
    }
    println!("Hs256: {} us for ten", (clock.now_ms() - 1) * 1000 / u64::from(ROUNDS));
}
