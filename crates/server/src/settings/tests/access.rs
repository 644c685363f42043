//! What a configuration says of access.

use std::path::Path;

use super::*;
use crate::access::settings::{Algorithm, Allowed, ForwardedBy, KeySource};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A directory with a file for each name, all of which hold a secret, and the configuration in it.
fn in_directory(text: &str, files: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Settings, String> {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a directory");
    for (name, content) in files {
        let path = directory.path().join(name);
        std::fs::write(&path, content).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("permissions");
    }
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let sources = Sources {
        file: Some((directory.path().join("tidewire.toml"), text.to_owned())),
        variables: variables.iter().map(owned).collect(),
        ..Sources::default()
    };
    read(&sources).map(|configuration| configuration.settings).map_err(|error| format!("{error:#}"))
}

#[test]
fn everything_about_access_can_be_said() {
    let text = r#"
        listen = "0.0.0.0:1"
        origins = ["https://App.example", "https://app.example:443", "null"]
        [auth]
        admin_key_file = "key"
        cookie = "session"
        rights_claim = "rights"
        leeway_seconds = 1
        token_bytes = 100
        grace_seconds = 2
        ticket_seconds = 3
        tickets = 4
        revocation_seconds = 5
        revocations = 6
        [[auth.issuers]]
        issuer = "https://id.example"
        audience = "tidewire"
        algorithms = ["RS256", "EdDSA"]
        discovery = true
        refresh_seconds = 7
        fetch_pause_seconds = 8
        [[auth.issuers]]
        secret_file = "secret"
        [[auth.issuers]]
        issuer = "b"
        key_set_file = "keys"
        algorithms = ["ES256"]
        [callback]
        url = "http://127.0.0.1:3000/x"
        on = ["subscribe"]
        secret_env = "S"
        timeout_ms = 10
        cache_seconds = 2
        cache_entries = 3
        concurrency = 4
        on_failure = "allow"
        forward_headers = ["Cookie", "X-A"]
        [proxies]
        trusted = ["127.0.0.1", "10.0.0.0/8"]
        header = "x-forwarded-for"
        proxy_protocol = true
        [admin]
        listen = "127.0.0.1:2"
        [log]
        level = "debug"
        format = "json"
        [limits]
        connections_per_ip = 5
    "#;
    let files = [("key", " 0123456789abcdef\n"), ("secret", SECRET), ("keys", "{}")];
    let settings = in_directory(text, &files, &[("S", SECRET)]).expect("right");
    assert_eq!(settings.warnings, Vec::<String>::new());
    let access = &settings.access;
    assert_eq!(access.admin_key.as_ref().map(|key| key.0.as_slice()), Some(&b"0123456789abcdef"[..]));
    assert_eq!(access.admin_listen, "127.0.0.1:2".parse().ok());
    assert_eq!(access.origins, ["https://app.example", "null"]);
    let tokens = &access.tokens;
    assert_eq!((tokens.cookie.as_deref(), tokens.rights_claim.as_str()), (Some("session"), "rights"));
    assert_eq!((tokens.leeway_seconds, tokens.token_bytes, tokens.grace_ms), (1, 100, 2000));
    assert_eq!((tokens.ticket_ms, tokens.tickets), (3000, 4));
    assert_eq!((tokens.revocation_ms, tokens.revocations), (5000, 6));
    let [found, shared, own] = &access.issuers[..] else { panic!("{access:?}") };
    assert!(matches!(found.keys, KeySource::Discovery));
    assert_eq!((found.audience.as_slice(), found.refresh_seconds), (&["tidewire".to_owned()][..], 7));
    assert_eq!(
        (found.algorithms.as_slice(), found.fetch_pause_seconds),
        (&[Algorithm::Rs256, Algorithm::EdDsa][..], 8)
    );
    assert!(matches!(&shared.keys, KeySource::Secret(secret) if secret.0 == SECRET.as_bytes()));
    assert_eq!((shared.issuer.as_deref(), shared.algorithms.as_slice()), (None, &[Algorithm::Hs256][..]));
    assert!(matches!(&own.keys, KeySource::KeySetFile(path) if path.is_absolute()));
    let callback = access.callback.as_ref().expect("there is one");
    assert_eq!((callback.timeout_ms, callback.cache_ms, callback.cache_entries), (10, 2000, 3));
    assert_eq!((callback.concurrency, callback.allow_on_failure), (4, true));
    assert!(callback.asks_about.subscribe && !callback.asks_about.connect && !callback.asks_about.publish);
    assert_eq!(
        (callback.forward_headers.as_slice(), callback.secret.is_some()),
        (&["cookie".to_owned(), "x-a".to_owned()][..], true)
    );
    assert_eq!((access.proxies.trusted.len(), access.proxies.header), (2, ForwardedBy::XForwardedFor));
    assert!(access.proxies.proxy_protocol);
    assert_eq!((settings.log.level, settings.log.format), (log::LogLevel::Debug, log::LogFormat::Json));
    assert_eq!(settings.limits.connections_per_ip, 5);
}

#[test]
fn rules_fall_back_and_are_never_laxer_on_the_past_than_on_what_comes() {
    let text = r#"
        rights.publish = "nobody"
        [[auth.issuers]]
        secret_env = "S"
        [[channels]]
        pattern = "user:{sub}:*"
        schema = "schema"
        [[channels]]
        pattern = "open:*"
        rights = { subscribe = "anyone", history = "anyone", publish = "authenticated" }
        [[channels]]
        pattern = "half-open:*"
        rights.subscribe = "anyone"
        [[channels]]
        pattern = "*"
        rights.subscribe = "nobody"
    "#;
    let settings =
        in_directory(text, &[("schema", "{\"type\":\"object\"}")], &[("S", SECRET)]).expect("right");
    let rights =
        |subscribe, history, publish, presence| ChannelRights { subscribe, history, publish, presence };
    use Allowed::{Anyone, Authenticated, Granted, Nobody};
    for (channel, expected) in [
        ("user:7:x", rights(Granted, Granted, Nobody, Granted)),
        ("open:1", rights(Anyone, Anyone, Authenticated, Granted)),
        ("half-open:1", rights(Anyone, Granted, Nobody, Granted)),
        ("else", rights(Nobody, Nobody, Nobody, Nobody)),
        // The demo's own rule is about where its events are, not about who sees them.
        ("host", rights(Nobody, Nobody, Nobody, Nobody)),
    ] {
        assert_eq!(settings.rule_of(channel).0.rights, expected, "{channel}");
    }
    let (rule, fit) = settings.rule_of("user:7:x");
    assert_eq!(fit, Fit::Owned("7"));
    let schema = rule.schema.as_ref().expect("there is one");
    assert!(schema.check(&tidewire_core::Payload::sniffed("{}".into())).is_ok());
    assert!(schema.check(&tidewire_core::Payload::sniffed("[]".into())).is_err());
    let numbers: Vec<_> = settings.rules().map(|rule| rule.number).collect();
    assert_eq!(numbers, (0..6).collect::<Vec<_>>());
    assert_eq!(
        with("", &[], &Flags::default()).expect("right").rule_of("x").0.rights,
        ChannelRights::all(Anyone)
    );
}

#[test]
fn authentication_or_a_flag_opens_other_addresses() {
    let listen = "listen = \"0.0.0.0:80\"\n";
    let insecure = Flags { insecure: true, ..Flags::default() };
    assert!(with(listen, &[], &insecure).is_ok());
    assert!(with(listen, &[("TIDEWIRE_ADMIN_KEY", SECRET)], &Flags::default()).is_ok());
    let asked = |on: &str| {
        with(
            &format!("{listen}callback = {{ url = \"http://localhost\", on = {on:?} }}"),
            &[],
            &Flags::default(),
        )
    };
    assert!(asked("connect").is_ok());
    assert!(asked("publish").is_err());
    let flag = Flags { listen: "0.0.0.0:80".parse().ok(), ..Flags::default() };
    let error = with("", &[], &flag).expect_err("not safe");
    assert!(error.contains("\n  --listen: "), "{error}");
}

#[test]
fn what_is_doubtful_is_a_warning() {
    let text = "origins = \"*\"\n[auth]\nadmin_key_file = \"key\"\n[[auth.issuers]]\nsecret_env = \"S\"\n\
                [[auth.issuers]]\nissuer = \"a\"\nkey_set_url = \"http://id.example\"\nalgorithms = \"RS256\"\n\
                [callback]\nurl = \"http://a.example\"\n[proxies]\ntrusted = \"::1\"";
    let settings = in_directory(text, &[("key", SECRET)], &[("S", "0123456789abcdef")]).expect("right");
    let warned = |what: &str| settings.warnings.iter().any(|warning| warning.contains(what));
    for what in [
        "origins has \"*\"",
        "16 bytes",
        "key_set_url is not https",
        "callback.url is not https",
        "does nothing",
    ] {
        assert!(warned(what), "{what}: {:?}", settings.warnings);
    }
    for (patterns, is_hidden) in [
        (["chat:*", "chat:1"], true),
        (["*", "user:{sub}:*"], true),
        (["a", "a"], true),
        (["chat:1", "chat:*"], false),
        (["user:{sub}:*", "user:7:x"], false),
        (["chat", "chat:*"], false),
        (["chat:*", "chat"], false),
    ] {
        let text = patterns.map(|pattern| format!("[[channels]]\npattern = {pattern:?}\n")).concat();
        let settings = with(&text, &[], &Flags::default()).expect("right");
        let hidden = settings.warnings.iter().any(|warning| warning.starts_with("tidewire.toml:4:11: "));
        assert_eq!(hidden, is_hidden, "{patterns:?}: {:?}", settings.warnings);
    }
    let directory = tempfile::tempdir().expect("a directory");
    let key = directory.path().join("key");
    std::fs::write(&key, SECRET).expect("a file");
    for (mode, warnings) in [(0o600, 0), (0o640, 1), (0o604, 1)] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).expect("permissions");
        let text = format!("auth.admin_key_file = {:?}", Path::new(&key));
        let settings = with(&text, &[], &Flags::default()).expect("right");
        assert_eq!(settings.warnings.len(), warnings, "{mode:o}: {:?}", settings.warnings);
    }
}
