//! What cannot be used is found when the server starts, by name, with what would be right.

use aws_lc_rs::rsa::KeySize;

use super::*;
use crate::access::token::tests::signer::pem;

/// What is wrong with one issuer, which must say so.
fn problem(entry: IssuerSettings) -> String {
    match Verifier::new(&settings(vec![entry])) {
        Ok(_) => panic!("this should not be taken"),
        Err(error) => format!("{error:#}"),
    }
}

fn assert_says(problem: &str, words: &[&str]) {
    for word in words {
        assert!(problem.contains(word), "{problem:?} does not say {word:?}");
    }
}

#[test]
fn a_file_must_hold_a_public_key_of_the_right_kind() {
    let scratch = Scratch::new();
    let rsa = Signer::for_algorithm(Algorithm::Rs256);
    let two = rsa.pem() + &rsa.pem();
    let broken = rsa.pem().replace("MII", "M!I");
    let empty = pem("PUBLIC KEY", b"\x30\x00");
    let mut off_curve = Signer::for_algorithm(Algorithm::Es256).der();
    if let Some(last) = off_curve.last_mut() {
        *last ^= 1;
    }
    let off_curve = pem("PUBLIC KEY", &off_curve);
    let private = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----";
    let encrypted =
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIB\n-----END RSA PRIVATE KEY-----";
    let rs = Algorithm::Rs256;
    for (name, content, algorithms, words) in [
        ("private.pem", private, &[rs][..], &["private key", "openssl pkey -in PRIVATE.pem -pubout"][..]),
        ("encrypted.pem", encrypted, &[rs], &["private key", "-pubout"]),
        ("cert.pem", &pem("CERTIFICATE", b"x"), &[rs], &["certificate", "-pubkey"]),
        ("csr.pem", &pem("CERTIFICATE REQUEST", b"x"), &[rs], &["no public key"]),
        ("empty.pem", "", &[rs], &["no PEM", "BEGIN PUBLIC KEY"]),
        ("two.pem", &two, &[rs], &["more than one", "JSON Web Key Set"]),
        ("broken.pem", &broken, &[rs], &["base64"]),
        ("none.pem", &empty, &[rs], &["not supported", "P-256"]),
        ("curve.pem", &off_curve, &[Algorithm::Es256], &["not a key on the curve P-256"]),
        ("rsa.pem", &rsa.pem(), &[rs, Algorithm::Es256], &["ES256 does not take an RSA key", "RS256"]),
        ("rsa.pem", &rsa.pem(), &[Algorithm::Hs256], &["HS256 does not take an RSA key"]),
        (
            "p256.pem",
            &Signer::for_algorithm(Algorithm::Es256).pem(),
            &[Algorithm::Es384],
            &["ES384", "P-256", "use ES256"],
        ),
        (
            "ed.pem",
            &Signer::for_algorithm(Algorithm::EdDsa).pem(),
            &[Algorithm::Es256],
            &["ES256", "use EdDSA"],
        ),
    ] {
        let source = KeySource::PublicKey(scratch.file(name, content));
        let problem = problem(issuer(algorithms, source));
        assert_says(&problem, words);
        assert_says(&problem, &["the issuer without a name", name]);
    }
    let missing = KeySource::PublicKey("/nowhere/key.pem".into());
    assert_says(&problem(issuer(&[rs], missing)), &["cannot read /nowhere/key.pem"]);
    let der = KeySource::PublicKey(scratch.file("key.der", rsa.der()));
    assert_says(&problem(issuer(&[rs], der)), &["key.der", "no PEM", "openssl"]);
    let nothing = IssuerSettings { issuer: Some("i".to_owned()), ..issuer(&[], KeySource::Discovery) };
    assert_says(&problem(nothing), &["the issuer i", "algorithms"]);
}

#[test]
fn text_around_a_key_and_other_line_ends_are_fine() {
    let scratch = Scratch::new();
    let signer = Signer::for_algorithm(Algorithm::EdDsa);
    let content = format!("made on Monday\r\n{}\r\n# the end", signer.pem().replace('\n', "\r\n"));
    let source = KeySource::PublicKey(scratch.file("key.pem", content));
    let good = token(signer, Algorithm::EdDsa, None, &good_claims());
    assert!(verifier(vec![issuer(&[Algorithm::EdDsa], source)]).verify(&good, NOW_MS).is_ok());
}

#[test]
fn short_keys_are_refused() {
    let scratch = Scratch::new();
    let secret = |bytes: &[u8]| KeySource::Secret(Secret(bytes.to_vec()));
    for (algorithm, bytes_min) in [(Algorithm::Hs256, 32), (Algorithm::Hs384, 48), (Algorithm::Hs512, 64)] {
        assert!(Verifier::new(&settings(vec![issuer(&[algorithm], secret(&vec![1; bytes_min]))])).is_ok());
        let short = problem(issuer(&[algorithm], secret(&vec![1; bytes_min - 1])));
        assert_says(&short, &[algorithm::name(algorithm), &format!("at least {bytes_min} bytes"), "7518"]);
    }
    let both = issuer(&[Algorithm::Hs256, Algorithm::Hs512], secret(&[1; 40]));
    assert_says(&problem(both), &["HS512", "at least 64"]);
    let public = Signer::for_algorithm(Algorithm::Rs256).pem();
    let public = problem(issuer(&[Algorithm::Hs256], secret(public.as_bytes())));
    assert_says(&public, &["PEM", "public key"]);
    let mixed = problem(issuer(&[Algorithm::Rs256], secret(&[1; 64])));
    assert_says(&mixed, &["RS256 does not take a shared secret"]);
    for keys in [KeySource::Discovery, KeySource::KeySet("https://a.example/keys".to_owned())] {
        let fetched = problem(issuer(&[Algorithm::Rs256, Algorithm::Hs256], keys));
        assert_says(&fetched, &["HS256", "never fetched"]);
    }
    let small = RSA_1024;
    assert_says(
        &problem(issuer(&[Algorithm::Rs256], KeySource::PublicKey(scratch.file("small.pem", small)))),
        &["small.pem", "2048 to 8192 bits", "1024"],
    );
    let large = Signer::rsa(KeySize::Rsa3072);
    let keys = KeySource::PublicKey(scratch.file("large.pem", large.pem()));
    let good = token(&large, Algorithm::Ps384, None, &good_claims());
    assert!(verifier(vec![issuer(&[Algorithm::Ps384], keys)]).verify(&good, NOW_MS).is_ok());
}

/// Of 1024 bits; no library at hand makes them any more.
const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----\n\
    MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDJ8cwwy0Moi4/dApJQ+F7kiOri\n\
    SfziR1WxceIIQj1FXfx/iaiwrmRrOsFOZd6XbcLFoPvyznk+nfbVXb98bMAkadk8\n\
    DLczoMED3Pm26ggC05m0fQyCoZRfr8KM/UGuNBgfSVkiZq6hOrJRlyy5A6sVbfxB\n\
    saYwWMElfI5G4AePkwIDAQAB\n\
    -----END PUBLIC KEY-----";

#[test]
fn a_key_set_of_the_configuration_must_be_right() {
    let scratch = Scratch::new();
    let rsa = Signer::for_algorithm(Algorithm::Rs256).jwk();
    let with = |members: Value| {
        let mut jwk = rsa.clone();
        if let (Value::Object(jwk), Value::Object(members)) = (&mut jwk, members) {
            jwk.extend(members);
        }
        jwk
    };
    let rs = Algorithm::Rs256;
    for (keys, words) in [
        (vec![with(json!({"d": "AQAB"}))], &["key 1", "private key"][..]),
        (vec![rsa.clone(), with(json!({"n": "!"}))], &["key 2", "n must be base64url"]),
        (vec![with(json!({"n": encode([0xff; 128])}))], &["2048 to 8192 bits", "1024"]),
        (vec![with(json!({"n": encode(vec![0xff; 2048])}))], &["2048 to 8192 bits"]),
        (vec![with(json!({"n": ""}))], &["2048 to 8192 bits"]),
        (vec![with(json!({"e": "AQ"}))], &["exponent"]),
        (vec![with(json!({"e": "Ag"}))], &["exponent"]),
        (vec![with(json!({"e": ""}))], &["exponent"]),
        (vec![with(json!({"e": encode([1; 5])}))], &["exponent"]),
        (vec![with(json!({"kid": 1}))], &["kid must be text"]),
        (vec![with(json!({"kty": null}))], &["kty must be text"]),
        (vec![json!(1)], &["JSON object"]),
        (vec![], &["no key for any of RS256"]),
        (vec![with(json!({"use": "enc"}))], &["no key for any of RS256"]),
        (vec![with(json!({"key_ops": ["sign", "encrypt"]}))], &["no key for any of RS256"]),
        (vec![with(json!({"alg": "PS256"}))], &["no key for any of RS256"]),
        (vec![with(json!({"alg": "RSA-OAEP"}))], &["no key for any of RS256"]),
        (vec![Signer::for_algorithm(Algorithm::Es256).jwk()], &["no key for any of RS256"]),
        (vec![rsa.clone(); 101], &["101 keys", "100"]),
    ] {
        assert_says(&problem(issuer(&[rs], scratch.key_set(&keys))), words);
    }
    let short = json!({"kty": "oct", "k": encode([1; 31])});
    let short = problem(issuer(&[Algorithm::Hs256], scratch.key_set(&[short])));
    assert_says(&short, &["keys.json", "key 1", "at least 32 bytes"]);
    for content in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#] {
        let source = KeySource::KeySetFile(scratch.file("keys.json", content));
        assert_says(&problem(issuer(&[rs], source)), &["keys.json", "JSON Web Key Set"]);
    }
    let point = json!({"kty": "EC", "crv": "P-256", "x": encode([1; 31]), "y": encode([1; 32])});
    let point = problem(issuer(&[Algorithm::Es256], scratch.key_set(&[point])));
    assert_says(&point, &["32 bytes each"]);
}

#[test]
fn members_that_allow_a_key_are_honoured() {
    let scratch = Scratch::new();
    let signer = Signer::for_algorithm(Algorithm::Rs256);
    let mut jwk = signer.jwk();
    jwk["key_ops"] = json!(["verify"]);
    jwk["use"] = json!("sig");
    jwk["alg"] = json!("RS256");
    // Some write a zero before the modulus.
    if let Signer::Rsa(pair) = signer {
        use aws_lc_rs::signature::KeyPair;
        let modulus = pair.public_key().modulus().big_endian_without_leading_zero();
        jwk["n"] = json!(encode([&[0], modulus].concat()));
    }
    let others = [
        json!({"kty": "RSA", "use": "enc", "n": "!"}),
        json!({"kty": "OKP", "crv": "X25519"}),
        json!({"kty": "EC", "crv": "secp256k1"}),
    ];
    let keys: Vec<Value> = others.into_iter().chain([jwk]).collect();
    let verifier = verifier(vec![issuer(&[Algorithm::Rs256, Algorithm::Rs512], scratch.key_set(&keys))]);
    assert!(verifier.verify(&token(signer, Algorithm::Rs256, None, &good_claims()), NOW_MS).is_ok());
    let crossed = token(signer, Algorithm::Rs512, None, &good_claims());
    assert_eq!(verifier.verify(&crossed, NOW_MS), Err(Refusal::Signature));
}
