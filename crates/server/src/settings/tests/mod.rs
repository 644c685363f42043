//! What a configuration says, as settings: sources over each other, rules of channels, and no panic.

mod access;
mod mistakes;

use proptest::prelude::*;
use tidewire_core::limits::Durability;

use super::load::{Sources, read};
use super::*;

fn with(text: &str, variables: &[(&str, &str)], flags: &Flags) -> Result<Settings, String> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let sources = Sources {
        file: Some(("tidewire.toml".into(), text.to_owned())),
        variables: variables.iter().map(owned).collect(),
        flags: flags.clone(),
    };
    read(&sources).map(|configuration| configuration.settings).map_err(|error| format!("{error:#}"))
}

fn settings(text: &str) -> Result<Settings, String> {
    with(text, &[], &Flags::default())
}

#[test]
fn the_first_fitting_pattern_decides() {
    let text = "[history]\nevents = 5\n[[channels]]\npattern = \"chat:*\"\nhistory.events = 7\n\
                [[channels]]\npattern = \"chat:1\"\nhistory.events = 9";
    let settings = settings(text).expect("right");
    for (channel, events) in [("chat:1", 7), ("chat", 5), ("x", 5)] {
        assert_eq!(settings.policy_of(channel).retention.events, events, "{channel}");
    }
}

#[test]
fn durability_goes_by_pattern() {
    let text = "durability = \"memory\"\n[[channels]]\npattern = \"a:*\"\ndurability = \"disk\"\n\
                [[channels]]\npattern = \"b\"\ndurability = \"none\"";
    let of = |settings: &Settings, channel: &str| settings.policy_of(channel).durability;
    let on_disk = settings(text).expect("right");
    assert_eq!(of(&on_disk, "a:1"), Durability::Disk);
    assert_eq!(of(&on_disk, "b"), Durability::None);
    assert_eq!(of(&on_disk, "c"), Durability::Memory);
    let all = settings("").expect("right");
    assert_eq!((of(&all, "c"), of(&all, "host")), (Durability::Disk, Durability::Memory));
    let flags = Flags { memory: true, ..Flags::default() };
    let in_memory = with("", &[], &flags).expect("right");
    assert_eq!((of(&in_memory, "c"), in_memory.data), (Durability::Memory, None));
    let error = with(text, &[], &flags).expect_err("a contradiction");
    assert!(error.contains("--memory"), "{error}");
}

#[test]
fn certificates_are_kept_where_the_data_is_or_where_it_is_said() {
    let text = "[tls]\nlisten = \"127.0.0.1:1\"\nacme.domains = [\"Live.Example\", \"b.example\"]\nacme.accept_terms = true";
    let acme = |text: &str, flags: &Flags| {
        with(text, &[], flags).map(|settings| match settings.tls.expect("it is spoken").source {
            CertificateSource::Acme(acme) => acme,
            CertificateSource::Files(files) => panic!("{files:?}"),
        })
    };
    let found = acme(text, &Flags::default()).expect("right");
    assert_eq!(found.domains, ["live.example", "b.example"]);
    assert_eq!((found.state, found.contact), ("tidewire-data/acme".into(), None));
    assert!(found.directory.starts_with("https://acme-v02.api.letsencrypt.org/"));
    let elsewhere = Flags { data: Some("/d".into()), ..Flags::default() };
    assert_eq!(acme(text, &elsewhere).expect("right").state, std::path::Path::new("/d/acme"));
    let in_memory = Flags { memory: true, ..Flags::default() };
    let error = acme(text, &in_memory).expect_err("nowhere to keep it");
    assert!(error.contains("tls.acme.state is needed with --memory"), "{error}");
    let said = format!("{text}\nacme.state = \"kept\"");
    assert_eq!(acme(&said, &in_memory).expect("right").state, std::path::Path::new("kept"));
    let variables = [
        ("TIDEWIRE_TLS__LISTEN", "127.0.0.1:1"),
        ("TIDEWIRE_TLS__ACME__DOMAINS", "a.b"),
        ("TIDEWIRE_TLS__ACME__ACCEPT_TERMS", "true"),
    ];
    assert!(with("", &variables, &Flags::default()).expect("right").tls.is_some());
    assert!(with("", &[], &Flags::default()).expect("right").tls.is_none());
}

#[test]
fn flags_are_over_the_environment_and_that_is_over_the_file() {
    let text = "data = \"file\"\ndemo = true\n[limits]\nconnections = 1\nchannels = 1\n[history]\nevents = 1";
    let variables = [
        ("TIDEWIRE_DATA", "environment"),
        ("TIDEWIRE_LISTEN", "127.0.0.1:1"),
        ("TIDEWIRE_LIMITS__CONNECTIONS", "2"),
        ("TIDEWIRE_LIMITS__CHANNELS", ""),
        ("TIDEWIRE_HISTORY__EVENTS", "0x10"),
        ("TIDEWIRE_ORIGINS", "[\"https://a\", \"https://b\"]"),
        ("TIDEWIRE_CHANNELS", "[{pattern = \"a\", history.events = 7}]"),
    ];
    let flags = Flags { data: Some("flag".into()), no_demo: true, ..Flags::default() };
    let settings = with(text, &variables, &flags).expect("right");
    assert_eq!(settings.data, Some("flag".into()));
    assert!(!settings.demo);
    assert_eq!(settings.listen.port(), 1);
    assert_eq!((settings.limits.connections, settings.limits.channels), (2, 1));
    assert_eq!(settings.policy_of("x").retention.events, 16);
    assert_eq!(settings.policy_of("a").retention.events, 7);
    assert_eq!(settings.access.origins, ["https://a", "https://b"]);
    let settings =
        with(text, &[("TIDEWIRE_DATA", "2026"), ("TIDEWIRE_ORIGINS", "https://a")], &Flags::default());
    let settings = settings.expect("right");
    assert_eq!((settings.data, settings.access.origins.len()), (Some("2026".into()), 1));
}

#[test]
fn other_variables_are_left_alone() {
    let others = [
        ("TIDEWIRE_URL", "http://a"),
        ("TIDEWIRE_TOKEN", "x"),
        ("TIDEWIRE_KILLS", "3"),
        ("TIDEWIRE_FAULT_DIR", "/"),
        ("TIDEWIRE_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("TIDEWIRE_MY_SECRET", "0123456789abcdef0123456789abcdef"),
        ("PATH", "/bin"),
    ];
    with("[[auth.issuers]]\nsecret_env = \"TIDEWIRE_MY_SECRET\"", &others, &Flags::default()).expect("right");
    let by_variable = ("TIDEWIRE_AUTH__ISSUERS", "[{secret_env = \"TIDEWIRE_MY_SECRET\"}]");
    with("", &[&others[..], &[by_variable]].concat(), &Flags::default()).expect("right");
}

#[test]
fn paths_in_the_file_are_relative_to_it() {
    let sources = |data: &str| Sources {
        file: Some(("/etc/tidewire/tidewire.toml".into(), format!("data = {data:?}"))),
        ..Sources::default()
    };
    let data = |data: &str| read(&sources(data)).expect("right").settings.data;
    assert_eq!(data("log"), Some("/etc/tidewire/log".into()));
    assert_eq!(data("/log"), Some("/log".into()));
    let environment = Sources { variables: vec![("TIDEWIRE_DATA".into(), "here".into())], ..sources("log") };
    assert_eq!(read(&environment).expect("right").settings.data, Some("here".into()));
}

#[test]
fn defaults_are_those_of_the_types() {
    let settings = with("", &[], &Flags { memory: true, no_demo: true, ..Flags::default() }).expect("right");
    assert_eq!(settings.limits, Limits::default());
    assert_eq!(settings.log, LogSettings::default());
    assert_eq!(settings.policy_of("x").retention, tidewire_core::limits::Retention::default());
    assert_eq!(format!("{:?}", settings.access), format!("{:?}", AccessSettings::default()));
}

fn text(pattern: &str) -> impl Strategy<Value = String> + use<> {
    proptest::string::string_regex(pattern).expect("a pattern")
}

/// Pieces of configurations, right and wrong, to be thrown together.
fn piece() -> impl Strategy<Value = String> {
    let names = "listen|data|limits|history|channels|auth|issuers|rights|callback|on|pattern|url|algorithms|\
                 event_bytes|secret_env|trusted|proxies|origins|level|log";
    let value = prop_oneof![
        Just("{}".to_owned()),
        Just("[[1], {a = 1}]".to_owned()),
        "-?[0-9]{1,40}",
        "\"[a-z:*/.\\[\\]0-9{}-]{0,12}\"",
        "(true|false|nan|1e9|0xff|1979-05-27)",
    ];
    let key = format!("({names})(\\.({names}))?");
    prop_oneof![
        (text(&key), value).prop_map(|(key, value)| format!("{key} = {value}\n")),
        text(&format!("\\[({names})(\\.({names}))?\\]\n")),
        text(&format!("\\[\\[({names})(\\.({names}))?\\]\\]\n")),
        "\\PC{0,20}\n",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

    #[test]
    fn no_text_panics(pieces in prop::collection::vec(piece(), 0..8), variable in "\\PC{0,30}", name in "[A-Z_]{0,20}") {
        let issuers = ("TIDEWIRE_AUTH__ISSUERS", variable.as_str());
        let text = pieces.concat();
        for text in [text.as_str(), ""] {
            let name = format!("TIDEWIRE_{name}");
            let _ = with(text, &[issuers, ("TIDEWIRE_LISTEN", &variable), (&name, &variable)], &Flags::default());
        }
        // One piece at a time is TOML more often.
        for piece in &pieces {
            let _ = settings(piece);
        }
    }
}
