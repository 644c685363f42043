//! Tokens as attackers make them. Each is refused, and the refusal shows nothing of the token.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::access::token::compact::Flaw;
use crate::access::token::tests::signer::{signed, token_with};

const RS: Algorithm = Algorithm::Rs256;
const HS: Algorithm = Algorithm::Hs256;

/// Takes RS256, ES256 and EdDSA from a key set, and HS256 with a secret from the issuer `own`.
fn guarded(scratch: &Scratch) -> Verifier {
    let algorithms = [RS, Algorithm::Es256, Algorithm::EdDsa];
    let keys: Vec<Value> = algorithms
        .iter()
        .map(|algorithm| {
            let mut jwk = Signer::for_algorithm(*algorithm).jwk();
            jwk["kid"] = json!(algorithm::name(*algorithm));
            jwk
        })
        .collect();
    let Signer::Secret(secret) = Signer::for_algorithm(HS) else { panic!("HS256 takes a secret") };
    verifier(vec![
        issuer(&algorithms, scratch.key_set(&keys)),
        IssuerSettings {
            issuer: Some("own".to_owned()),
            ..issuer(&[HS], KeySource::Secret(Secret(secret.clone())))
        },
    ])
}

#[test]
fn a_public_key_is_no_secret() {
    let scratch = Scratch::new();
    let guarded = guarded(&scratch);
    for algorithm in [RS, Algorithm::Es256, Algorithm::EdDsa] {
        let signer = Signer::for_algorithm(algorithm);
        let der = signer.der();
        for public in [signer.pem().into_bytes(), signer.pem().trim_end().as_bytes().to_vec(), der] {
            let forger = Signer::Secret(public);
            for claims in [good_claims(), json!({"iss": "own", "sub": "u1", "exp": NOW + 60})] {
                for kid in [None, Some(algorithm::name(algorithm))] {
                    let forged = token(&forger, HS, kid, &claims);
                    assert!(guarded.verify(&forged, NOW_MS).is_err(), "{algorithm:?} {kid:?}");
                }
                // Signed with a secret, but called by the key's own algorithm.
                let header = json!({"alg": algorithm::name(algorithm)});
                let forged = token_with(&forger, HS, &header, &claims);
                assert!(guarded.verify(&forged, NOW_MS).is_err());
            }
        }
    }
}

#[test]
fn a_header_brings_no_key() {
    let scratch = Scratch::new();
    let guarded = guarded(&scratch);
    let attacker = Signer::other_for(RS);
    for header in [
        json!({"alg": "RS256", "jwk": attacker.jwk()}),
        json!({"alg": "RS256", "kid": "RS256", "jwk": attacker.jwk()}),
        json!({"alg": "RS256", "jku": "http://127.0.0.1:1/keys", "kid": "RS256"}),
        json!({"alg": "RS256", "x5u": "http://127.0.0.1:1/cert", "x5t": "x"}),
        json!({"alg": "RS256", "x5c": [encode(attacker.der())]}),
    ] {
        let forged = token_with(attacker, RS, &header, &good_claims());
        assert_eq!(guarded.verify(&forged, NOW_MS), Err(Refusal::Signature), "{header}");
    }
    for kid in ["../../../dev/null", "'; select", "RS256\0", "", &"k".repeat(2000)] {
        let forged = token(attacker, RS, Some(kid), &good_claims());
        assert_eq!(guarded.verify(&forged, NOW_MS), Err(Refusal::UnknownKey), "{kid}");
    }
}

#[test]
fn the_algorithm_is_one_that_was_agreed_on() {
    let scratch = Scratch::new();
    let guarded = guarded(&scratch);
    let signer = Signer::for_algorithm(RS);
    for name in ["none", "None", "NONE", "nOnE"] {
        for signature in ["", "c2ln"] {
            let header = encode(json!({ "alg": name }).to_string());
            let forged = format!("{header}.{}.{signature}", encode(good_claims().to_string()));
            assert_eq!(guarded.verify(&forged, NOW_MS), Err(Refusal::Flawed(Flaw::Unsigned)), "{name}");
        }
    }
    for name in
        ["rs256", "RS256 ", "RS1", "RS512", "PS256", "HS256", "HS512", "ES256K", "ES512", "dir", "", "\u{0}"]
    {
        let forged = token_with(signer, RS, &json!({ "alg": name }), &good_claims());
        assert!(matches!(guarded.verify(&forged, NOW_MS), Err(Refusal::Algorithm(_))), "{name:?}");
    }
    // What is signed with PSS is not taken as PKCS #1 and the other way round.
    let forged = token_with(signer, Algorithm::Ps256, &json!({"alg": "RS256"}), &good_claims());
    assert_eq!(guarded.verify(&forged, NOW_MS), Err(Refusal::Signature));
}

#[test]
fn a_changed_token_is_another_one() {
    let scratch = Scratch::new();
    let guarded = guarded(&scratch);
    for algorithm in [RS, Algorithm::Es256, Algorithm::EdDsa] {
        let whole = token(Signer::for_algorithm(algorithm), algorithm, None, &good_claims());
        assert!(guarded.verify(&whole, NOW_MS).is_ok());
        for at in 0..whole.len() {
            for other in [b'A', b'B', b'_', b'.', b'=', b' '] {
                let mut changed = whole.clone().into_bytes();
                if changed[at] == other {
                    continue;
                }
                changed[at] = other;
                let changed = String::from_utf8(changed).expect("it is ASCII");
                assert!(guarded.verify(&changed, NOW_MS).is_err(), "{at} {other}");
            }
            assert!(guarded.verify(&whole[..at], NOW_MS).is_err());
        }
        let (message, signature) = whole.rsplit_once('.').expect("it has dots");
        let empty = vec![0; 64];
        let mut long = URL_SAFE_NO_PAD.decode(signature).expect("it is base64url");
        long.push(0);
        for signature in [encode(&empty), encode(&empty[..1]), encode(long), encode(vec![0xff; 64])] {
            let forged = format!("{message}.{signature}");
            assert_eq!(guarded.verify(&forged, NOW_MS), Err(Refusal::Signature));
        }
    }
}

#[test]
fn what_two_readers_could_think_differently_of() {
    let scratch = Scratch::new();
    let guarded = guarded(&scratch);
    let signer = Signer::for_algorithm(RS);
    let exp = NOW + 60;
    for (header, claims, expected) in [
        (r#"{"alg":"HS256","alg":"RS256"}"#.to_owned(), good_claims().to_string(), Flaw::Header),
        (r#"{"alg":"RS256"}"#.to_owned(), format!(r#"{{"exp":1,"exp":{exp}}}"#), Flaw::Claims),
        (
            r#"{"alg":"RS256"}"#.to_owned(),
            format!(r#"{{"exp":{exp},"sub":"a","s\u0075b":"b"}}"#),
            Flaw::Claims,
        ),
        (
            r#"{"alg":"RS256"}"#.to_owned(),
            format!(r#"{{"exp":{exp},"tidewire":{{"a":1,"a":2}}}}"#),
            Flaw::Claims,
        ),
        (r#"{"alg":"RS256"}"#.to_owned(), format!(r#"{{"exp":{exp}}} {{}}"#), Flaw::Claims),
        (r#"{"alg":"RS256"}"#.to_owned(), format!("\u{feff}{{\"exp\":{exp}}}"), Flaw::Claims),
        (r#"{"alg":"RS256","crit":["exp"]}"#.to_owned(), good_claims().to_string(), Flaw::Critical),
        (r#"{"alg":"RS256","cty":"JWT"}"#.to_owned(), good_claims().to_string(), Flaw::Nested),
    ] {
        let forged = signed(signer, RS, &header, &claims);
        assert_eq!(guarded.verify(&forged, NOW_MS), Err(Refusal::Flawed(expected)), "{header} {claims}");
    }
    let plain = signed(signer, RS, r#"{"alg":"RS256","typ":"anything"}"#, &good_claims().to_string());
    assert!(guarded.verify(&plain, NOW_MS).is_ok());
    let nested = signed(signer, RS, r#"{"alg":"RS256"}"#, &format!("\"{plain}\""));
    assert_eq!(guarded.verify(&nested, NOW_MS), Err(Refusal::Flawed(Flaw::Claims)));
    let encrypted = "e30.e30.e30.e30.e30";
    assert_eq!(guarded.verify(encrypted, NOW_MS), Err(Refusal::Flawed(Flaw::Encrypted)));
}

#[test]
fn size_is_looked_at_first() {
    let scratch = Scratch::new();
    let guarded = guarded(&scratch);
    let mut claims = good_claims();
    claims["x"] = json!("x".repeat(8192));
    let long = token(Signer::for_algorithm(RS), RS, None, &claims);
    assert_eq!(guarded.verify(&long, NOW_MS), Err(Refusal::TooLong(8192)));
    assert_eq!(guarded.verify(&".".repeat(8193), NOW_MS), Err(Refusal::TooLong(8192)));
    for text in [
        "",
        ".",
        "..",
        "...",
        "....",
        &".".repeat(8192),
        &"[".repeat(8192),
        &"A".repeat(8000),
        "\u{0}.é.\u{7f}",
    ] {
        assert!(matches!(guarded.verify(text, NOW_MS), Err(Refusal::Flawed(_))), "{text}");
    }
    let deep = format!("{{\"exp\":{},\"a\":{}{}}}", NOW + 60, "[".repeat(1000), "]".repeat(1000));
    let deep = signed(Signer::for_algorithm(RS), RS, r#"{"alg":"RS256"}"#, &deep);
    assert_eq!(guarded.verify(&deep, NOW_MS), Err(Refusal::Flawed(Flaw::Claims)));
}

#[test]
fn a_token_without_a_key_id_costs_few_checks() {
    let scratch = Scratch::new();
    let other = Signer::other_for(RS).jwk();
    let mut keys = vec![other; 20];
    keys.push(Signer::for_algorithm(RS).jwk());
    let many = verifier(vec![issuer(&[RS], scratch.key_set(&keys))]);
    let late = token(Signer::for_algorithm(RS), RS, None, &good_claims());
    assert_eq!(many.verify(&late, NOW_MS), Err(Refusal::NoKeyId));
    keys.swap(3, 20);
    let many = verifier(vec![issuer(&[RS], scratch.key_set(&keys))]);
    assert!(many.verify(&late, NOW_MS).is_ok());
}

#[test]
fn refusals_say_what_would_be_right_and_nothing_of_the_token() {
    let scratch = Scratch::new();
    let guarded = guarded(&scratch);
    let marked = |name: &str| format!("marked-secret-{name}");
    let claims = json!({
        "sub": marked("sub"), "iss": marked("iss"), "aud": marked("aud"), "jti": marked("jti"),
        "tidewire": marked("rights"), "exp": NOW + 60, "nbf": NOW + 3600,
    });
    let mut variants = Vec::new();
    for (name, value) in [
        ("none", json!(null)),
        ("nbf", json!(marked("nbf"))),
        ("exp", json!(1)),
        ("exp", json!(marked("exp"))),
        ("iat", json!(NOW + 7200)),
        ("iss", json!([marked("iss")])),
        ("aud", json!({"a": marked("aud")})),
        ("sub", json!([marked("sub")])),
        ("nbf", json!(1)),
    ] {
        let mut changed = claims.clone();
        changed[name] = value;
        variants.push(changed);
    }
    for claims in variants {
        for header in [
            json!({"alg": "RS256", "kid": marked("kid")}),
            json!({"alg": marked("alg")}),
            json!({"alg": "RS256", "cty": marked("cty")}),
            json!({"alg": "RS256", "crit": [marked("crit")]}),
        ] {
            let forged = token_with(Signer::other_for(RS), RS, &header, &claims);
            let refusal = guarded.verify(&forged, NOW_MS).expect_err("it is forged");
            for shown in [refusal.to_string(), format!("{refusal:?}")] {
                assert!(!shown.contains("marked") && shown.len() < 200, "{shown}");
            }
        }
    }
    let expired = token(Signer::for_algorithm(RS), RS, None, &json!({"exp": NOW - 35}));
    let refusal = guarded.verify(&expired, NOW_MS).expect_err("it is expired");
    assert_eq!(refusal.to_string(), "the token expired 35 s ago; get a new one");
}
