//! What is wrong with a configuration is named with its place.

use super::*;

/// What is wrong with a text, and nothing else is.
fn only_mistake(text: &str) -> String {
    let error = settings(text).expect_err(text);
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{text:?} gave {error}");
    assert_eq!(lines[0], "the configuration is not right:");
    lines[1].trim().to_owned()
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    for (text, place, what) in [
        ("colour = 1", "1:1", "colour is unknown; possible outside of tables are listen,"),
        ("[limits]\n\n  event_bites = 1", "3:3", "limits.event_bites is unknown; did you mean event_bytes?"),
        ("limits.event_bites = 1", "1:8", "did you mean event_bytes?"),
        ("[limit]\nevent_bytes = 1", "1:2", "limit is unknown; did you mean limits?"),
        ("event_bytes = 1", "1:1", "event_bytes is unknown here; did you mean limits.event_bytes?"),
        ("[auth]\nsecret_file = \"x\"", "2:1", "did you mean auth.issuers.secret_file?"),
        (
            "[limits]\nevent_bytes = 0",
            "2:15",
            "limits.event_bytes = 0 is out of range; 1 to 268435456 are possible",
        ),
        ("[limits]\nconnections = 99999999999999999999", "2:15", "= 99999999999999999999 is out of range"),
        ("[limits]\nconnections = -1", "2:15", "= -1 is out of range"),
        ("[limits]\nconnections = \"1\"", "2:15", "must be a whole number, not a text"),
        ("[limits]\nconnections = 1.5", "2:15", "must be a whole number, not a number with a point"),
        ("[history]\nevents = 0", "2:10", "history.events = 0 is out of range"),
        ("shards = 0", "1:10", "shards = 0 is out of range"),
        ("demo = 1", "1:8", "demo must be true or false, not a number"),
        ("limits = 1", "1:10", "limits must be a table, not a number"),
        ("channels = 1", "1:12", "write [[channels]]"),
        ("channels = [1]", "1:13", "channels must be a table, not a number"),
        ("[channels]\npattern = \"a\"", "1:1", "write [[channels]]"),
        ("[[channels]]\nstate = \"last\"", "1:1", "channels needs pattern"),
        ("[[channels]]\npattern = \"a*b\"", "2:11", "\"a*b\" is not a pattern"),
        (
            "[[channels]]\npattern = \"a\"\ndurability = \"\"",
            "3:14",
            "channels.durability = \"\" is not \"disk\"",
        ),
        (
            "[[channels]]\npattern = \"a\"\nhistory.event = 1",
            "3:9",
            "channels.history.event is unknown; did you mean events?",
        ),
        ("durability = \"backplane\"", "1:14", "durability = \"backplane\" cannot be without one"),
        (
            "backplane = \"redis://h\"\ndurability = \"memory\"",
            "2:14",
            "durability must be \"backplane\" or \"none\" where there is a backplane",
        ),
        (
            "backplane = \"http://u:secret@h\"",
            "1:13",
            "backplane is not a URL as in \"redis://127.0.0.1:6379\"",
        ),
        (
            "backplane = \"redis://h?prefix=-\"",
            "1:13",
            "the prefix in redis://h may have letters and digits only",
        ),
        ("backplane = \"redis://h,redis://h\"", "1:13", "it names one broker twice"),
        (
            "durability = \"paper\"",
            "1:14",
            "durability = \"paper\" is not \"disk\", \"memory\", \"none\" or \"backplane\"",
        ),
        ("state = \"keyd\"", "1:9", "did you mean \"keyed\"?"),
        ("[log]\nlevel = \"inof\"", "2:9", "did you mean \"info\"?"),
        ("listen = \"localhost\"", "1:10", "is not an address and a port as in"),
        ("listen = \"0.0.0.0:80\"", "1:10", "--insecure"),
        ("[history]\nbytes = 5", "2:9", "history.bytes = 5 is less than limits.event_bytes = 1048576"),
        ("origins = [\n\"https://a\",\n\"https://a/b\"]", "3:1", "no path"),
        ("origins = [1]", "1:12", "origins must have texts in it, not a number"),
        ("[proxies]\ntrusted = \"10.0.0.1/8\"", "2:11", "bits beyond its first 8"),
    ] {
        let mistake = only_mistake(text);
        assert!(mistake.starts_with(&format!("tidewire.toml:{place}: ")), "{text:?}, {place}: {mistake}");
        assert!(mistake.contains(what), "{text:?}, {what}: {mistake}");
    }
}

#[test]
fn values_that_contradict_each_other_name_both() {
    for (text, place, first, second) in [
        (
            "[auth]\ntoken_bytes = 9000\n[limits]\nhead_bytes = 8000",
            "2:15",
            "auth.token_bytes = 9000",
            "limits.head_bytes = 8000",
        ),
        ("[limits]\nhead_bytes = 8000", "2:14", "auth.token_bytes = 8192", "limits.head_bytes = 8000"),
        ("[proxies]\nheader = \"forwarded\"", "2:10", "proxies.header", "proxies.trusted"),
        ("[proxies]\nproxy_protocol = true", "2:18", "proxies.proxy_protocol", "proxies.trusted"),
        ("[admin]\nlisten = \"127.0.0.1:1\"", "2:10", "admin.listen", "auth.admin_key_file"),
        ("[rights]\npublish = \"granted\"", "2:11", "rights.publish = \"granted\"", "auth.issuers"),
        (
            "[[channels]]\npattern=\"a\"\nrights.history = \"authenticated\"",
            "3:18",
            "channels.rights.history",
            "auth.issuers",
        ),
        ("[callback]\ntimeout_ms = 10", "1:1", "callback", "url"),
        ("[callback]\nurl = \"http://localhost\"\non = []", "3:6", "callback.on", "[callback]"),
    ] {
        let mistake = only_mistake(text);
        assert!(mistake.starts_with(&format!("tidewire.toml:{place}: ")), "{text:?}, {place}: {mistake}");
        assert!(mistake.contains(first) && mistake.contains(second), "{text:?}: {mistake}");
    }
}

#[test]
fn issuers_that_cannot_be_are_named() {
    let secret = "0123456789abcdef0123456789abcdef";
    for (text, place, what) in [
        ("issuer = \"a\"", "1:1", "needs one of \"secret_file\""),
        (
            "secret_env = \"S\"\nkey_set_url = \"http://localhost\"",
            "3:15",
            "auth.issuers.key_set_url and auth.issuers.secret_env",
        ),
        ("secret_env = \"NONE\"", "2:14", "names a variable that is not in the environment"),
        ("secret_env = \"SHORT\"", "2:14", "has 5 bytes; it needs at least 16"),
        ("secret_file = \"none\"", "2:15", "names a file that cannot be read"),
        (
            "secret_env = \"S\"\nalgorithms = [\"HS256\",\n\"RS256\"]",
            "4:1",
            "\"RS256\" cannot be with secret_env",
        ),
        (
            "key_set_url = \"https://a\"\nalgorithms = \"HS256\"",
            "3:14",
            "\"HS256\" cannot be with key_set_url",
        ),
        ("key_set_url = \"https://a\"\nalgorithms = \"none\"", "3:14", "\"none\" is not \"HS256\""),
        ("key_set_url = \"https://a\"\nalgorithms = \"rs256\"", "3:14", "did you mean \"RS256\"?"),
        ("key_set_url = \"https://a\"", "1:1", "algorithms needs at least one"),
        ("key_set_url = \"https://u:p@a\"\nalgorithms = \"RS256\"", "2:15", "no user or password"),
        ("discovery = true\nalgorithms = \"RS256\"", "2:13", "needs an issuer"),
        ("discovery = true\nissuer = \"a\"\nalgorithms = \"RS256\"", "3:10", "must be a URL"),
        (
            "secret_env = \"S\"\n[[auth.issuers]]\nsecret_env = \"S\"",
            "3:1",
            "another [[auth.issuers]] without issuer (tidewire.toml:1:1)",
        ),
    ] {
        let text = format!("[[auth.issuers]]\n{text}");
        let error = with(&text, &[("S", secret), ("SHORT", "short")], &Flags::default()).expect_err(&text);
        assert_eq!(error.lines().count(), 2, "{text:?} gave {error}");
        assert!(
            error.contains(&format!("tidewire.toml:{place}: ")) && error.contains(what),
            "{text:?}, {what}: {error}"
        );
    }
}

#[test]
fn there_is_exactly_one_way_to_a_certificate() {
    let right = "[tls]\nlisten = \"127.0.0.1:1\"\n[tls.acme]\naccept_terms = true\n";
    for (text, place, what) in [
        (
            "[tls]\nlisten = \"127.0.0.1:1\"",
            "1:1",
            "tls needs a certificate: certificate_file and key_file, or",
        ),
        ("[tls]\nacme.domains = \"a\"\nacme.accept_terms = true", "1:1", "tls needs listen"),
        (
            &format!("{right}domains = []"),
            "5:11",
            "needs at least one, such as domains = [\"live.example.com\"]",
        ),
        (right, "3:1", "tls.acme needs domains"),
        (&format!("{right}domains = [\"a.b\", \"*.b\"]"), "5:19", "TLS-ALPN-01 cannot prove a wildcard"),
        (&format!("{right}domains = \"10.0.0.1\""), "5:11", "certificates are got for names"),
        (&format!("{right}domains = \"[::1]\""), "5:11", "certificates are got for names"),
        (&format!("{right}domains = \"a_b.c\""), "5:11", "is not a domain as in \"live.example.com\""),
        (&format!("{right}domains = \"a.b.\""), "5:11", "is not a domain"),
        (&format!("{right}domains = \"https://a.b\""), "5:11", "is not a domain"),
        (&format!("{right}domains = \"ü.b\""), "5:11", "IDNs are written as xn--…"),
        (
            &format!("{right}domains = [\"a.b\", \"A.b\"]"),
            "5:19",
            "tls.acme.domains = \"a.b\" is there twice",
        ),
        (&format!("{right}domains = \"a.b\"\ncontact = \"ops@a.b\""), "6:11", "mailto:ops@example.com"),
        (
            &format!("{right}domains = \"a.b\"\ndirectory = \"http://ca.a\""),
            "6:13",
            "directory must be https",
        ),
        (&format!("{right}domains = \"a.b\"\nauthority_file = \"none\""), "6:18", "cannot be read"),
        (
            "[tls]\nlisten = \"127.0.0.1:1\"\nacme.domains = [\"a.b\"]",
            "3:1",
            "tls.acme.accept_terms must be true, by which you agree to the terms of service",
        ),
        (
            "[tls]\nlisten = \"127.0.0.1:1\"\nkey_file = \"k\"\nacme.domains = \"a\"\nacme.accept_terms = true",
            "3:12",
            "tls.key_file and tls.acme are two ways to a certificate; choose one",
        ),
    ] {
        let mistake = only_mistake(text);
        assert!(mistake.starts_with(&format!("tidewire.toml:{place}: ")), "{text:?}, {place}: {mistake}");
        assert!(mistake.contains(what), "{text:?}, {what}: {mistake}");
    }
}

#[test]
fn what_is_wrong_in_the_environment_is_named_by_its_variable() {
    for (name, value, what) in [
        ("TIDEWIRE_LIMITS__EVENT_BITES", "1", "did you mean TIDEWIRE_LIMITS__EVENT_BYTES?"),
        ("TIDEWIRE_LIMITS_EVENT_BYTES", "1", "did you mean TIDEWIRE_LIMITS__EVENT_BYTES?"),
        ("TIDEWIRE_AUTH__ADMIN_KEY", "x", "did you mean TIDEWIRE_AUTH__ADMIN_KEY_FILE?"),
        ("TIDEWIRE_LIMITS", "{}", "a table is set option by option, as in TIDEWIRE_LIMITS__EVENT_BYTES"),
        ("TIDEWIRE_COLOUR", "1", "no such option"),
        ("TIDEWIRE_", "1", "no such option"),
        ("TIDEWIRE_LIMITS__EVENT_BYTES", "many", "limits.event_bytes must be a whole number, not a text"),
        ("TIDEWIRE_LIMITS__EVENT_BYTES", "0", "out of range"),
        ("TIDEWIRE_DEMO", "yes", "demo must be true or false"),
        ("TIDEWIRE_CHANNELS", "[{}]", "channels needs pattern"),
        ("TIDEWIRE_ADMIN_KEY", "short", "has 5 bytes; it needs at least 16"),
        ("TIDEWIRE_ADMIN_KEY", "", "has 0 bytes; it needs at least 16"),
        ("TIDEWIRE_RIGHTS__PUBLISH", "granted", "no authentication is configured"),
    ] {
        let error = with("", &[(name, value)], &Flags::default()).expect_err(name);
        assert!(error.contains(&format!("\n  {name}: ")) && error.contains(what), "{name}={value}: {error}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_but_not_endlessly() {
    let error = settings("a = 1\n[limits]\nb = 1\nconnections = 0\n[auth]\nadmin_key_file = \"none\"")
        .expect_err("wrong");
    for place in ["1:1", "3:1", "4:15", "6:18"] {
        assert!(error.contains(&format!("tidewire.toml:{place}: ")), "{place}: {error}");
    }
    let many: String = (0..50).map(|number| format!("zz{number} = 1\n")).collect();
    let error = settings(&many).expect_err("wrong");
    assert_eq!(error.lines().count(), 22);
    assert!(error.ends_with("and 30 more"), "{error}");
}

#[test]
fn what_is_not_toml_is_shown_as_the_parser_shows_it() {
    let error = settings("demo = true\nlisten = [").expect_err("wrong");
    assert!(error.starts_with("tidewire.toml is not TOML: TOML parse error at line 2, column 11"), "{error}");
    let error = settings("demo = true\ndemo = true").expect_err("wrong");
    assert!(error.contains("line 2") && error.contains("duplicate key"), "{error}");
}
