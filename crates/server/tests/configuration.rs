//! `tidewire config` and the start of a server as a shell sees them, the JSON Schema against what the parser takes,
//! and the reference page against the options.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What all secrets of these tests begin with.
const MARK: &str = "MARKED-SECRET-";

struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("permissions");
        path
    }

    /// Runs the binary here, with this environment and no other.
    fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidewire"));
        command.args(arguments).current_dir(self.0.path()).env_clear().envs(environment.iter().copied());
        command.output().expect("it runs")
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn check_says_ok_or_all_that_is_wrong() {
    let directory = Directory::new();
    let output = directory.run(&["config", "check"], &[]);
    assert_eq!(
        (stdout(&output).as_str(), stderr(&output).as_str(), output.status.code()),
        ("ok\n", "", Some(0))
    );
    directory.write("a.toml", "[limits]\nevent_bites = 1\nchannels = 0\n");
    for (arguments, environment) in [
        (&["config", "check", "--config", "a.toml"][..], &[][..]),
        (&["config", "check"], &[("TIDEWIRE_CONFIG", "a.toml")]),
        (&["config", "show", "--config", "a.toml"], &[]),
        (&["serve", "--memory", "--listen", "127.0.0.1:0", "--config", "a.toml"], &[]),
    ] {
        let output = directory.run(arguments, environment);
        let expected = "tidewire: the configuration is not right:\n  a.toml:2:1: limits.event_bites is unknown; did you \
                        mean event_bytes?\n  a.toml:3:12: limits.channels = 0 is out of range; 1 to 100000000 are \
                        possible\n";
        assert_eq!((stderr(&output).as_str(), output.status.code()), (expected, Some(1)), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    let output = directory.run(&["config", "check"], &[("TIDEWIRE_LIMITS__CHANELS", "1")]);
    assert!(stderr(&output).contains(
        "TIDEWIRE_LIMITS__CHANELS: there is no such option; did you mean TIDEWIRE_LIMITS__CHANNELS?"
    ));
}

#[test]
fn the_file_is_only_read_where_it_is_named() {
    let directory = Directory::new();
    directory.write("tidewire.toml", "nonsense = 1");
    assert!(directory.run(&["config", "check"], &[]).status.success());
    let output = directory.run(&["config", "check", "--config", "none.toml"], &[]);
    assert!(stderr(&output).starts_with("tidewire: cannot read none.toml: "), "{}", stderr(&output));
}

#[test]
fn show_says_what_holds_and_where_it_comes_from() {
    let directory = Directory::new();
    let text = "origins = [\"https://a\"]\n[limits]\nevent_bytes = 5\nchannels = 6\n[[channels]]\npattern = \"user:{sub}:*\"\nrights.publish = \"nobody\"\n";
    directory.write("a.toml", text);
    let arguments = ["config", "show", "--config", "a.toml", "--no-demo", "--data", "x"];
    let output = directory.run(&arguments, &[("TIDEWIRE_LIMITS__CHANNELS", "7")]);
    let shown = stdout(&output);
    for line in [
        "listen = \"127.0.0.1:8080\" # default",
        "demo = false # flag, --no-demo",
        "data = \"x\" # flag, --data",
        "origins = [\"https://a\"] # a.toml:1",
        "event_bytes = 5 # a.toml:3",
        "channels = 7 # environment, TIDEWIRE_LIMITS__CHANNELS",
        "[[channels]] # a.toml:5",
        "pattern = \"user:{sub}:*\" # a.toml:6",
        "publish = \"nobody\" # a.toml:7",
        "subscribe = \"anyone\" # default",
        "# cookie: not set: no cookie is taken",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in:\n{shown}");
    }
    // What is shown is a configuration, and the same one.
    directory.write("b.toml", &shown);
    let again = stdout(&directory.run(&["config", "show", "--config", "b.toml"], &[]));
    let values = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split(" # ").next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(values(&shown), values(&again));
    let in_memory = stdout(&directory.run(&["config", "show", "--memory"], &[]));
    assert!(in_memory.contains("# data: nothing is on disk; flag, --memory\n"), "{in_memory}");
    assert!(in_memory.contains("durability = \"memory\" # default\n"), "{in_memory}");
}

/// Every place from which a secret can come, in a configuration that is right and in one that is not.
#[test]
fn no_output_has_a_secret() {
    let directory = Directory::new();
    let secret = |name: &str| format!("{MARK}{name}-0123456789abcdef0123456789abcdef");
    for name in ["admin", "issuer", "callback"] {
        directory.write(name, &secret(name));
    }
    let sources = [
        ("[auth]\nadmin_key_file = \"admin\"", "secret_file = \"issuer\"", "secret_file = \"callback\""),
        ("", "secret_env = \"TIDEWIRE_ISSUER\"", "secret_env = \"CALLBACK\""),
    ];
    for (admin, issuer, callback) in sources {
        for wrong in ["", "[log]\nlevel = \"x\"\nnonsense = 1\n"] {
            let url = format!("http://127.0.0.1/?key={MARK}");
            let text = format!(
                "{admin}\n[[auth.issuers]]\n{issuer}\n[callback]\nurl = {url:?}\n{callback}\n{wrong}"
            );
            directory.write("a.toml", &text);
            let (issuer, callback, key) = (secret("issuer"), secret("callback"), secret("admin"));
            let all = [("TIDEWIRE_ADMIN_KEY", &*key), ("TIDEWIRE_ISSUER", &issuer), ("CALLBACK", &callback)];
            let environment = if admin.is_empty() { &all[..] } else { &[] };
            for command in ["show", "check"] {
                let output = directory.run(&["config", command, "--config", "a.toml"], environment);
                assert_eq!(output.status.success(), wrong.is_empty(), "{}", stderr(&output));
                let all = stdout(&output) + &stderr(&output);
                assert!(!all.contains(MARK), "{all}");
                if command == "show" && wrong.is_empty() {
                    assert!(all.contains("?[secret]"), "{all}");
                    assert_eq!(all.contains("# admin_key_file: \"[secret]\""), admin.is_empty(), "{all}");
                }
            }
        }
    }
    // Secrets where they do not belong.
    let token = secret("token");
    let options = [
        format!("[callback]\nurl = \"http://user:{token}@a/\""),
        format!("[callback]\nurl = \"ftp://a/{token}\""),
        format!("[auth]\nadmin_key = \"{token}\""),
        format!("[auth]\nadmin_key_file = [\"{token}\"]"),
        format!("[[auth.issuers]]\nsecret = \"{token}\""),
        format!("[[auth.issuers]]\nsecret_file = \"{token}\""),
        format!("[[auth.issuers]]\nsecret_env = \"{token}\""),
        format!("[[auth.issuers]]\nsecret_env = \"{token} {token}\""),
    ];
    for text in options {
        directory.write("a.toml", &text);
        let output =
            directory.run(&["config", "check", "--config", "a.toml"], &[("TIDEWIRE_ADMINKEY", &token)]);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(!stderr(&output).contains(MARK), "{}", stderr(&output));
    }
}

/// All configurations that tests start servers with.
fn configurations_of_tests() -> Vec<(String, String)> {
    let autobahn = root().join("tests/autobahn/tidewire.toml");
    let mut found =
        vec![(autobahn.display().to_string(), std::fs::read_to_string(&autobahn).expect("it is there"))];
    for file in std::fs::read_dir(root().join("conformance/cases")).expect("cases") {
        let path = file.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("text");
        let cases: toml::Table = text.parse().expect("TOML");
        for case in cases["case"].as_array().expect("cases") {
            if let Some(config) = case.get("config").and_then(toml::Value::as_str) {
                found.push((format!("{} of {}", case["name"], path.display()), config.to_owned()));
            }
        }
    }
    found
}

#[test]
fn the_schema_takes_what_the_parser_takes() {
    let directory = Directory::new();
    let schema = stdout(&directory.run(&["config", "schema"], &[]));
    let schema: serde_json::Value = serde_json::from_str(&schema).expect("JSON");
    assert!(jsonschema::meta::is_valid(&schema), "it is a schema");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let page = std::fs::read_to_string(root().join("docs/configuration.md")).expect("it is there");
    let example =
        page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let mut texts = configurations_of_tests();
    assert!(texts.len() > 3, "there are some");
    texts.push(("the page's example".to_owned(), example.to_owned()));
    texts.push(("what is shown".to_owned(), stdout(&directory.run(&["config", "show"], &[]))));
    // The rights of the example need somebody who shows who they are.
    let key = [("TIDEWIRE_ADMIN_KEY", "0123456789abcdef")];
    for (name, text) in texts {
        directory.write("a.toml", &text);
        let output = directory.run(&["config", "check", "--config", "a.toml"], &key);
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        let value: serde_json::Value = toml::from_str(&text).expect("TOML");
        assert!(validator.is_valid(&value), "{name}: {:?}", validator.iter_errors(&value).next());
    }
    for wrong in [
        "colour = 1",
        "limits.event_bites = 1",
        "limits.event_bytes = 0",
        "limits.event_bytes = \"1\"",
        "durability = \"paper\"",
        "origins = [1]",
        "[[channels]]\nstate = \"last\"",
        "[[channels]]\npattern = \"a\"\nhistory.event = 1",
        "[[auth.issuers]]\nalgorithms = [\"none\"]",
        "[callback]\non = \"connect\"",
    ] {
        let value: serde_json::Value = toml::from_str(wrong).expect("TOML");
        assert!(!validator.is_valid(&value), "{wrong}");
        directory.write("a.toml", wrong);
        assert!(!directory.run(&["config", "check", "--config", "a.toml"], &[]).status.success(), "{wrong}");
    }
}

#[test]
fn the_reference_page_is_fresh() {
    let reference = stdout(&Directory::new().run(&["config", "reference"], &[]));
    let page = std::fs::read_to_string(root().join("docs/configuration.md")).expect("it is there");
    let command = "cargo run -p tidewire -- config reference >docs/configuration.md";
    assert!(page == reference, "docs/configuration.md is not what the options say; run: {command}");
    assert!(page.contains(command));
}

#[test]
fn help_says_of_flags_what_the_reference_says_of_options() {
    let directory = Directory::new();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let help = words(&stdout(&directory.run(&["serve", "--help"], &[])));
    let page = words(&std::fs::read_to_string(root().join("docs/configuration.md")).expect("it is there"));
    for meaning in
        ["The address and port to listen on.", "The directory of the log on disk; made if it is not there."]
    {
        assert!(help.contains(meaning) && page.contains(meaning), "{meaning}: {help}");
    }
    assert!(help.contains("[default: \"127.0.0.1:8080\"]"), "{help}");
}
