//! Keys that are fetched: found, rotated, away, and never asked for more often than is decent.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::rsa::KeySize;

use super::identity::{Answer, Identity};
use super::*;

const RS: Algorithm = Algorithm::Rs256;
/// What must happen happens before.
const PATIENCE: Duration = Duration::from_secs(20);

fn jwk(signer: &Signer, kid: &str) -> Value {
    let mut jwk = signer.jwk();
    jwk["kid"] = json!(kid);
    jwk["use"] = json!("sig");
    jwk
}

/// An issuer whose keys are at `/keys`.
fn fetched(identity: &Identity, pause_seconds: u64) -> IssuerSettings {
    IssuerSettings {
        fetch_pause_seconds: pause_seconds,
        ..issuer(&[RS], KeySource::KeySet(format!("{}/keys", identity.url)))
    }
}

/// An issuer that is discovered.
fn discovered(issuer_url: &str) -> IssuerSettings {
    IssuerSettings { issuer: Some(issuer_url.to_owned()), ..issuer(&[RS], KeySource::Discovery) }
}

/// Nobody may listen any more.
fn done_with<T>(done: &mpsc::Sender<T>, what: T) {
    let _ = done.send(what);
}

/// Asks for keys and waits until it is told.
fn fetch(verifier: &Verifier) {
    let (done, told) = mpsc::channel();
    verifier.fetch(0, Box::new(move || done_with(&done, ())));
    told.recv_timeout(PATIENCE).expect("whoever waits is told");
}

/// As a connection does it: once more, after a fetch, if keys are wanted.
fn verify(verifier: &Verifier, token: &str) -> Result<Claims, Refusal> {
    match verifier.verify(token, NOW_MS) {
        Err(Refusal::KeysWanted(0)) => {
            fetch(verifier);
            verifier.verify_after_fetch(token, NOW_MS)
        }
        verdict => verdict,
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what} does not come about");
        thread::sleep(Duration::from_millis(5));
    }
}

fn old_and_new() -> (&'static Signer, &'static Signer) {
    (Signer::for_algorithm(RS), Signer::other_for(RS))
}

#[test]
fn keys_are_there_without_being_asked_for() {
    let identity = Identity::start();
    identity.answer("/keys", Answer::keys(&[jwk(old_and_new().0, "1")]));
    let verifier = verifier(vec![fetched(&identity, 10)]);
    let good = token(old_and_new().0, RS, Some("1"), &good_claims());
    eventually("the first fetch", || verifier.verify(&good, NOW_MS).is_ok());
    assert_eq!(identity.requests(), 1);
    let unnamed = token(old_and_new().0, RS, None, &good_claims());
    assert!(verifier.verify(&unnamed, NOW_MS).is_ok());
}

#[test]
fn discovery_finds_the_keys() {
    let identity = Identity::start();
    let url = format!("{}/realm", identity.url);
    let document = json!({"issuer": url, "jwks_uri": format!("{}/certs", identity.url)});
    identity.answer("/realm/.well-known/openid-configuration", Answer::text(document.to_string()));
    identity.answer("/certs", Answer::keys(&[jwk(old_and_new().0, "1")]));
    let verifier = verifier(vec![discovered(&url)]);
    let mut claims = good_claims();
    claims["iss"] = json!(url);
    assert!(verify(&verifier, &token(old_and_new().0, RS, Some("1"), &claims)).is_ok());
    claims["iss"] = json!(format!("{url}/"));
    let other = token(old_and_new().0, RS, Some("1"), &claims);
    assert_eq!(verify(&verifier, &other), Err(Refusal::Issuer));
}

#[test]
fn rotated_keys_come_with_the_first_token_and_old_ones_go() {
    let identity = Identity::start();
    let (old, new) = old_and_new();
    identity.answer("/keys", Answer::keys(&[jwk(old, "1")]));
    let verifier = verifier(vec![fetched(&identity, 0)]);
    let before = token(old, RS, Some("1"), &good_claims());
    assert!(verify(&verifier, &before).is_ok());
    identity.answer("/keys", Answer::keys(&[jwk(new, "2"), jwk(old, "1")]));
    assert_eq!(
        verifier.verify(&token(new, RS, Some("2"), &good_claims()), NOW_MS),
        Err(Refusal::KeysWanted(0))
    );
    assert!(verify(&verifier, &token(new, RS, Some("2"), &good_claims())).is_ok());
    assert!(verifier.verify(&before, NOW_MS).is_ok(), "both are good while both are there");
    identity.answer("/keys", Answer::keys(&[jwk(new, "2")]));
    fetch(&verifier);
    // Its signature was found good before, which counts no more.
    assert_eq!(verify(&verifier, &before), Err(Refusal::UnknownKey));
    identity.answer("/keys", Answer::keys(&[]));
    fetch(&verifier);
    assert_eq!(verify(&verifier, &token(new, RS, Some("2"), &good_claims())), Err(Refusal::UnknownKey));
}

#[test]
fn keys_are_fetched_again_when_they_are_old() {
    let identity = Identity::start();
    let (old, new) = old_and_new();
    identity.answer("/keys", Answer::keys(&[jwk(old, "1")]));
    let verifier = verifier(vec![IssuerSettings { refresh_seconds: 1, ..fetched(&identity, 1) }]);
    assert!(verify(&verifier, &token(old, RS, Some("1"), &good_claims())).is_ok());
    identity.answer("/keys", Answer::keys(&[jwk(new, "2")]));
    let after = token(new, RS, Some("2"), &good_claims());
    eventually("the refresh", || verifier.verify(&after, NOW_MS).is_ok());
}

#[test]
fn an_outage_changes_nothing() {
    let identity = Identity::start();
    let (old, new) = old_and_new();
    identity.answer("/keys", Answer::keys(&[jwk(old, "1")]));
    let verifier = verifier(vec![fetched(&identity, 0)]);
    let good = token(old, RS, Some("1"), &good_claims());
    let unknown = token(new, RS, Some("2"), &good_claims());
    assert!(verify(&verifier, &good).is_ok());
    for answer in [
        Answer::Nothing,
        Answer::Whole(500, "", b"{\"keys\":[]}".to_vec()),
        Answer::Whole(204, "", Vec::new()),
        Answer::text("<html>back soon</html>"),
        Answer::text(""),
    ] {
        identity.answer("/keys", answer);
        assert_eq!(verify(&verifier, &unknown), Err(Refusal::UnknownKey));
        let another =
            token(old, RS, Some("1"), &json!({"exp": NOW + 1, "jti": identity.requests().to_string()}));
        assert!(verifier.verify(&another, NOW_MS).is_ok());
    }
    let counters = verifier.counters();
    assert_eq!(counters.fetch_failures.load(Ordering::Relaxed), 5);
    assert_eq!(counters.fetches.load(Ordering::Relaxed), 6);
}

#[test]
fn an_issuer_that_is_away_at_the_start_holds_up_nobody() {
    let identity = Identity::start();
    identity.answer("/keys", Answer::Nothing);
    let started = Instant::now();
    let verifier = verifier(vec![fetched(&identity, 1)]);
    assert!(started.elapsed() < Duration::from_secs(2));
    let good = token(old_and_new().0, RS, Some("1"), &good_claims());
    assert_eq!(verify(&verifier, &good), Err(Refusal::KeysUnavailable));
    assert!(Refusal::KeysUnavailable.is_temporary());
    identity.answer("/keys", Answer::keys(&[jwk(old_and_new().0, "1")]));
    eventually("the fetch once it is back", || verifier.verify(&good, NOW_MS).is_ok());
}

#[test]
fn what_an_issuer_may_not_answer() {
    let identity = Identity::start();
    let realm = format!("{}/realm", identity.url);
    let (document, keys) = ("/realm/.well-known/openid-configuration", "/realm/keys");
    let good_keys = Answer::keys(&[jwk(old_and_new().0, "1")]);
    let names =
        |issuer: &str, keys: &str| Answer::text(json!({"issuer": issuer, "jwks_uri": keys}).to_string());
    let here = format!("{realm}/keys");
    let mut large = json!({"keys": []}).to_string();
    large.push_str(&" ".repeat(1 << 20));
    let many: Vec<Value> = (0..101).map(|number| jwk(old_and_new().0, &number.to_string())).collect();
    let Ok(Answer::Whole(.., twice)) = Ok::<_, ()>(good_keys.clone()) else { panic!("it is whole") };
    let twice = format!("{{\"keys\":[],{}", &String::from_utf8_lossy(&twice)[1..]);
    identity.answer("/elsewhere", good_keys.clone());
    for (what, at_document, at_keys) in [
        ("no document", Answer::Whole(404, "", Vec::new()), good_keys.clone()),
        ("another issuer", names("https://a.example", &here), good_keys.clone()),
        ("nearly the issuer", names(&format!("{realm}/"), &here), good_keys.clone()),
        ("no keys", Answer::text(json!({ "issuer": realm }).to_string()), good_keys.clone()),
        ("keys in the clear", names(&realm, "http://id.example/keys"), good_keys.clone()),
        ("a file", names(&realm, "file:///etc/passwd"), good_keys.clone()),
        (
            "two issuers",
            Answer::text(format!("{{\"issuer\":\"{realm}\",\"issuer\":\"x\"}}")),
            good_keys.clone(),
        ),
        ("a redirect", names(&realm, &here), Answer::Whole(302, "Location: /elsewhere\r\n", Vec::new())),
        ("a large answer", names(&realm, &here), Answer::text(large)),
        ("many keys", names(&realm, &here), Answer::keys(&many)),
        ("members twice", names(&realm, &here), Answer::text(twice)),
        ("an array", names(&realm, &here), Answer::text("[]")),
    ] {
        identity.answer(document, at_document);
        identity.answer(keys, at_keys);
        let verifier = verifier(vec![discovered(&realm)]);
        let mut claims = good_claims();
        claims["iss"] = json!(realm);
        let good = token(old_and_new().0, RS, Some("1"), &claims);
        assert_eq!(verify(&verifier, &good), Err(Refusal::KeysUnavailable), "{what}");
        assert_eq!(verifier.counters().fetch_failures.load(Ordering::Relaxed), 1, "{what}");
    }
}

#[test]
fn what_cannot_be_used_of_a_fetched_set_is_left_out() {
    let identity = Identity::start();
    let Signer::Secret(secret) = Signer::for_algorithm(Algorithm::Hs256) else { panic!("it is a secret") };
    let mut private = jwk(Signer::other_for(RS), "private");
    private["d"] = json!("AQAB");
    let small =
        Signer::Rsa(aws_lc_rs::signature::RsaKeyPair::generate(KeySize::Rsa2048).expect("keys can be made"));
    let mut exponent = jwk(&small, "exponent");
    exponent["e"] = json!("AQ");
    identity.answer(
        "/keys",
        Answer::keys(&[
            json!({"kty": "oct", "kid": "secret", "k": encode(secret)}),
            json!({"kty": "RSA", "kid": "broken"}),
            json!(7),
            private,
            exponent,
            jwk(old_and_new().0, "1"),
        ]),
    );
    let verifier = verifier(vec![fetched(&identity, 0)]);
    assert!(verify(&verifier, &token(old_and_new().0, RS, Some("1"), &good_claims())).is_ok());
    for (signer, algorithm, kid) in [
        (Signer::for_algorithm(Algorithm::Hs256), Algorithm::Hs256, "secret"),
        (Signer::other_for(RS), RS, "private"),
        (&small, RS, "exponent"),
    ] {
        let forged = token(signer, algorithm, Some(kid), &good_claims());
        let refusal = verify(&verifier, &forged).expect_err("its key is not taken");
        assert!(matches!(refusal, Refusal::UnknownKey | Refusal::Algorithm(_)), "{refusal:?}");
    }
}

#[test]
fn a_fetch_takes_five_seconds_at_most() {
    let identity = Identity::start();
    identity.answer("/keys", Answer::Dripping);
    let started = Instant::now();
    let verifier = verifier(vec![fetched(&identity, 10)]);
    let good = token(old_and_new().0, RS, Some("1"), &good_claims());
    assert_eq!(verify(&verifier, &good), Err(Refusal::KeysUnavailable));
    let took = started.elapsed();
    assert!(took > Duration::from_secs(4) && took < Duration::from_secs(9), "{took:?}");
}

#[test]
fn however_many_ask_there_is_one_fetch_and_then_a_pause() {
    let identity = Identity::start();
    let body = json!({"keys": [jwk(old_and_new().0, "1")]}).to_string().into_bytes();
    identity.answer("/keys", Answer::Late(Duration::from_millis(300), body));
    let verifier = Arc::new(verifier(vec![fetched(&identity, 60)]));
    let good = token(old_and_new().0, RS, Some("1"), &good_claims());
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let (verifier, good) = (Arc::clone(&verifier), good.clone());
            thread::spawn(move || assert!(verify(&verifier, &good).is_ok()))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("each is told and gets in"));
    assert_eq!(identity.requests(), 1);
    let unknown = token(old_and_new().1, RS, Some("2"), &good_claims());
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let (verifier, unknown) = (Arc::clone(&verifier), unknown.clone());
            thread::spawn(move || {
                for _ in 0..100 {
                    assert_eq!(verify(&verifier, &unknown), Err(Refusal::UnknownKey));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("each is told"));
    assert_eq!(identity.requests(), 1, "the pause holds");
    assert_eq!(verifier.counters().refused.load(Ordering::Relaxed), 1600);
}

#[test]
fn those_who_wait_are_bounded_and_nobody_is_forgotten() {
    let identity = Identity::start();
    identity.answer("/keys", Answer::Late(Duration::from_secs(2), b"{\"keys\":[]}".to_vec()));
    let verifier = verifier(vec![fetched(&identity, 60)]);
    let (done, told) = mpsc::channel();
    for number in 0..10_500 {
        let done = done.clone();
        verifier.fetch(0, Box::new(move || done_with(&done, number)));
    }
    drop(done);
    let at_once: Vec<i32> = told.try_iter().collect();
    assert_eq!(at_once, (10_000..10_500).collect::<Vec<_>>());
    assert_eq!(told.iter().count(), 10_000);
    assert_eq!(identity.requests(), 1);
}

#[test]
fn a_slow_issuer_does_not_keep_others_from_their_turn() {
    let (slow, quick) = (Identity::start(), Identity::start());
    slow.answer("/keys", Answer::Late(Duration::from_millis(300), b"{\"keys\":[]}".to_vec()));
    quick.answer("/keys", Answer::keys(&[jwk(old_and_new().0, "1")]));
    let named =
        |name: &str, identity| IssuerSettings { issuer: Some(name.to_owned()), ..fetched(identity, 0) };
    let verifier = Arc::new(verifier(vec![named("slow", &slow), named("quick", &quick)]));
    fn again(verifier: Arc<Verifier>, left: u32) {
        if left > 0 {
            let own = Arc::clone(&verifier);
            verifier.fetch(0, Box::new(move || again(own, left - 1)));
        }
    }
    again(Arc::clone(&verifier), 6);
    let good = token(old_and_new().0, RS, Some("1"), &json!({"iss": "quick", "exp": NOW + 1}));
    eventually("the turn of the other", || verifier.verify(&good, NOW_MS).is_ok());
    assert!(slow.requests() <= 2, "{}", slow.requests());
}

#[test]
fn stopping_waits_for_nothing_and_leaves_nothing() {
    let identity = Identity::start();
    identity.answer("/keys", Answer::Late(Duration::from_secs(3), b"{\"keys\":[]}".to_vec()));
    let verifier = verifier(vec![fetched(&identity, 0)]);
    let ring = Arc::downgrade(&verifier.ring);
    eventually("the first fetch", || identity.requests() == 1);
    let (done, told) = mpsc::channel();
    let first = done.clone();
    verifier.fetch(0, Box::new(move || done_with(&first, 1)));
    let started = Instant::now();
    verifier.stop();
    assert_eq!(told.try_recv(), Ok(1));
    verifier.fetch(0, Box::new(move || done_with(&done, 2)));
    assert_eq!(told.try_recv(), Ok(2));
    drop(verifier);
    assert!(started.elapsed() < Duration::from_secs(1));
    eventually("the end of the thread", || ring.upgrade().is_none());
    assert_eq!(identity.requests(), 1);
}

#[test]
fn a_verifier_that_is_dropped_ends_its_thread() {
    let identity = Identity::start();
    let verifier = verifier(vec![fetched(&identity, 10)]);
    let ring = Arc::downgrade(&verifier.ring);
    drop(verifier);
    eventually("the end of the thread", || ring.upgrade().is_none());
}

#[test]
fn urls_are_judged_at_the_start() {
    for (entry, words) in [
        (
            issuer(&[RS], KeySource::KeySet("http://id.example/keys".to_owned())),
            "the URL of the keys of the issuer without a name must be https",
        ),
        (issuer(&[RS], KeySource::Discovery), "needs its URL as its name"),
        (discovered("http://id.example"), "http://id.example must be https"),
        (discovered("acme"), "must be absolute"),
    ] {
        let error = Verifier::new(&settings(vec![entry])).expect_err("it is not taken");
        assert!(format!("{error:#}").contains(words), "{error:#}");
    }
}
