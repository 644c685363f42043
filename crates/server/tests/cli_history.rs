//! `tidewire history` as a shell sees it: the real binary against a real server, and against one that
//! refuses for a while. Must not know how pages are asked for, only that nothing is missing or doubled.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::Message;

/// A server of this test's own.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start() -> Self {
        Self::with(&[])
    }

    fn with(more: &[&str]) -> Self {
        let arguments = [&["serve", "--listen", "127.0.0.1:0", "--memory", "--no-demo"], more].concat();
        let mut process = tidewire(&arguments).stdout(Stdio::piped()).spawn().expect("the server starts");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("its output is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        let url = line.trim().strip_prefix("listening on ").expect("the first line").to_owned();
        Self { process, url }
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Output {
        run(&self.url, arguments, input)
    }

    fn publish(&self, channel: &str, lines: &str) {
        succeed(self.run(&["pub", channel, "-"], lines.as_bytes()));
    }

    /// The export of a channel.
    fn export(&self, channel: &str) -> String {
        succeed(self.run(&["history", channel, "--export"], b""))
    }

    /// The first messages of a channel's raw WebSocket: data as it was published, and whether it is bytes.
    fn raw(&self, channel: &str, count: usize) -> Vec<Message> {
        let address = self.url.trim_start_matches("http://");
        let stream = TcpStream::connect(address).expect("a connection");
        let url = format!("ws://{address}/v1/channels/{channel}/ws?since=earliest");
        let (mut socket, _) = tungstenite::client(url, stream).expect("a WebSocket");
        (0..count).map(|_| socket.read().expect("a message")).collect()
    }

    /// Publishes over a WebSocket.
    fn send(&self, messages: Vec<Message>) {
        let url = format!("{}/v1/ws", self.url.replace("http://", "ws://"));
        let stream = TcpStream::connect(self.url.trim_start_matches("http://")).expect("a connection");
        let (mut socket, _) = tungstenite::client(url, stream).expect("a WebSocket");
        for message in messages {
            socket.send(message).expect("sent");
            let reply = socket.read().expect("a reply").into_text().expect("text");
            assert!(reply.contains("\"published\""), "{reply}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn tidewire(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidewire"));
    command
        .args(arguments)
        .env_remove("TIDEWIRE_URL")
        .env_remove("TIDEWIRE_CONFIG")
        .env("TIDEWIRE_LOG__LEVEL", "warn");
    command
}

fn start(url: &str, arguments: &[&str]) -> Child {
    let mut command = tidewire(arguments);
    command.env("TIDEWIRE_URL", url).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the client starts")
}

fn run(url: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut process = start(url, arguments);
    let mut stdin = process.stdin.take().expect("its input is piped");
    let input = input.to_vec();
    // A client that takes no input may have ended already.
    let writer = thread::spawn(move || stdin.write_all(&input));
    let output = process.wait_with_output().expect("the client ends");
    let _ = writer.join().expect("no panic");
    output
}

fn succeed(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < give_up, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("tidewire-history-{}-{name}", std::process::id()))
}

fn numbers(range: std::ops::Range<u32>) -> String {
    range.map(|number| format!("{number}\n")).collect()
}

/// The data of an export whose events are numbers.
fn data(export: &str) -> String {
    let of = |line: &str| Some(line.split_once("\"data\":")?.1.split_once(',')?.0.to_owned());
    export.lines().map(|line| of(line).unwrap_or_else(|| panic!("{line}")) + "\n").collect()
}

/// What an import has to keep of an export: all but channel, id and time.
fn kept(export: &str) -> Vec<&str> {
    let of = |line| {
        let line: &str = line;
        let (_, rest) = line.split_once("\"id\":\"")?;
        let (_, rest) = rest.split_once("\",")?;
        Some(rest.rsplit_once(",\"time\":\"")?.0)
    };
    export.lines().map(|line| of(line).unwrap_or_else(|| panic!("{line}"))).collect()
}

#[test]
fn lists_events_oldest_first_on_a_line_each() {
    let server = Server::start();
    server.publish("news", "plain\n{\"b\" : [1, 2]}\n\n");
    succeed(server.run(&["pub", "news", "--file", "-", "--event", "raw", "--key", "k"], b"\x00\x01\xff"));
    succeed(server.run(&["pub", "news", "--file", "-"], &[&b"two\nlines \x1b"[..], &[b'x'; 500]].concat()));
    let output = server.run(&["history", "news"], b"");
    assert!(stderr(&output).contains("5 events; go on with --since "), "{output:?}");
    let text = succeed(output);
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.splitn(5, "  ").collect()).collect();
    let shown: Vec<_> = rows.iter().map(|row| row[2..].join("|")).collect();
    let long = format!("-|-|two\\nlines \\u{{1b}}{}... (511 bytes)", "x".repeat(89));
    assert_eq!(shown, ["-|-|plain", "-|-|{\"b\":[1,2]}", "-|-|", "raw|k|base64:AAH/", &long]);
    assert!(rows.iter().all(|row| row[1].ends_with('Z') && row[1].starts_with("20")), "{text}");

    let first = rows[0][0];
    let part = succeed(server.run(&["history", "news", "--since", first, "--limit", "2", "--quiet"], b""));
    assert_eq!(part, text.lines().skip(1).take(2).map(|line| format!("{line}\n")).collect::<String>());
    let json = succeed(server.run(&["history", "news", "--json"], b""));
    assert_eq!(json, server.export("news"));
    assert!(
        json.starts_with(&format!("{{\"channel\":\"news\",\"id\":\"{first}\",\"data\":\"plain\",")),
        "{json}"
    );
}

#[test]
fn an_export_goes_over_all_pages_and_begins_where_it_is_told() {
    let server = Server::start();
    server.publish("many", &numbers(0..350));
    let export = server.export("many");
    assert_eq!(data(&export), numbers(0..350));
    let ids: Vec<&str> = export.lines().filter_map(|line| line.split('"').nth(7)).collect();
    let rest = succeed(server.run(&["history", "many", "--export", "--since", ids[119]], b""));
    assert_eq!(data(&rest), numbers(120..350));
    let limited = succeed(server.run(&["history", "many", "--limit", "230", "--json"], b""));
    assert_eq!(data(&limited), numbers(0..230));
}

#[test]
fn follow_goes_on_live_with_nothing_missing_in_between() {
    let server = Server::start();
    server.publish("live", &numbers(0..3));
    let mut follower = start(&server.url, &["history", "live", "--follow", "--limit", "5", "--json"]);
    let mut lines = BufReader::new(follower.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let mut seen: Vec<String> = lines.by_ref().take(3).collect();
    server.publish("live", &numbers(3..6));
    seen.extend(lines);
    assert!(follower.wait().expect("ends").success());
    let expected: Vec<String> = server.export("live").lines().take(5).map(str::to_owned).collect();
    assert_eq!(seen, expected);
}

#[test]
fn an_import_gives_the_same_names_keys_and_data() {
    let server = Server::start();
    let publish = |arguments: &[&str], body: &[u8]| {
        succeed(server.run(&[&["pub", "from", "--file", "-"], arguments].concat(), body));
    };
    publish(&[], br#"{ "same":1,"same" : 1.0e2,"t":"\u0041 \/" }"#);
    publish(&["--event", "tick", "--key", "k\u{e4}y"], b"null");
    publish(&[], b"12345678901234567890123");
    publish(&[], br#""a JSON string\ud800""#);
    publish(&["--content-type", "application/geo+json"], b"\"also\"");
    publish(&[], "text \u{1f600} \r\n\t\u{7f}\"\\".as_bytes());
    publish(&["--content-type", "text/plain"], b"{\"declared\":\"text\"}");
    publish(&["--content-type", "text/html; charset=utf-8"], b"<p>");
    publish(&[], b"");
    publish(&["--content-type", "application/octet-stream"], b"");
    publish(&["--content-type", "image/png", "--event", "picture"], b"\x89PNG\x00\xff");
    publish(&["--content-type", "text/plain"], &[b'x'; 1 << 20]);
    publish(&["--content-type", "application/octet-stream"], &[0xff; 1 << 20]);
    server.send(vec![
        Message::text(r#"{"type":"publish","channel":"from","event":" n ","key":" k","data":{"a": 1}}"#),
        Message::text(
            r#"{"type":"publish","channel":"from","data_base64":"e30=","content_type":"application/json"}"#,
        ),
        Message::text(r#"{"type":"publish","channel":"from","data_base64":"/w==","event":"n ","content_type":"text/csv"}"#),
        Message::text(r#"{"type":"publish","channel":"from","data":"a JSON string"}"#),
    ]);
    let export = server.export("from");
    assert_eq!(export.lines().count(), 17);
    let followed = ["history", "from", "--follow", "--limit", "17", "--json"];
    assert_eq!(succeed(server.run(&followed, b"")), export, "over a WebSocket the same");
    let output = server.run(&["history", "to", "--import"], export.as_bytes());
    assert!(stderr(&output).contains("17 published"), "{output:?}");
    succeed(output);
    assert_eq!(kept(&server.export("to")), kept(&export));
    assert_eq!(server.raw("to", 17), server.raw("from", 17), "as it is delivered without an envelope");
}

#[test]
fn an_interrupted_import_can_be_run_again() {
    let server = Server::start();
    server.publish("from", &numbers(0..200));
    let export = server.export("from");
    let (first, _) = export.match_indices('\n').nth(79).expect("80 lines");
    let mut import = start(&server.url, &["history", "to", "--import", "-"]);
    let mut input = import.stdin.take().expect("piped");
    // The last line is cut, as it is where an export was itself interrupted.
    input.write_all(&export.as_bytes()[..first + 20]).expect("written");
    wait_until("80 events", || server.export("to").lines().count() == 80);
    import.kill().expect("killed");
    import.wait().expect("ended");

    let file = temporary("export");
    std::fs::write(&file, &export).expect("written");
    let path = file.to_str().expect("UTF-8");
    let again = server.run(&["history", "to", "--import", path], b"");
    assert!(stderr(&again).contains("120 published, 80 were there from an earlier import"), "{again:?}");
    let nothing = server.run(&["history", "to", "--import", path, "--quiet"], b"");
    assert_eq!((nothing.status.code(), nothing.stderr.len()), (Some(0), 0), "{nothing:?}");
    assert_eq!(data(&server.export("to")), numbers(0..200));
    std::fs::remove_file(&file).expect("was written");
}

#[test]
fn an_import_stops_at_the_first_line_that_cannot_be_published() {
    let server = Server::start();
    let large = format!(r#"{{"id":"e-2","data":"{}"}}"#, "x".repeat((1 << 20) + 1));
    for (number, (bad, part)) in [
        (r#"{"id":"e-2","data":"#, "no exported event"),
        (r#"{"data":2}"#, "has no `id`"),
        (r#"{"id":"e-2","event":"tidewire.gap","data":2}"#, "server's own"),
        (r#"{"id":"e-2","data_base64":"*"}"#, "base64"),
        (r#"{"id":"e-1","data":2}"#, "idempotency_conflict"),
        (&large, "payload_too_large"),
    ]
    .into_iter()
    .enumerate()
    {
        let channel = format!("bad{number}");
        let good = r#"{"id":"e-1","data":1}"#;
        let input = format!("{good}\n\n{bad}\n{{\"id\":\"e-3\",\"data\":3}}\n");
        let output = server.run(&["history", &channel, "--import"], input.as_bytes());
        let errors = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains("line 3: ") && errors.contains(part), "{part}: {errors}");
        assert!(errors.contains("1 published"), "{errors}");
        assert_eq!(data(&server.export(&channel)), "1\n", "{part}: nothing after it");
        let corrected = format!("{good}\n{{\"id\":\"e-2\",\"data\":2}}\n{{\"id\":\"e-3\",\"data\":3}}");
        succeed(server.run(&["history", &channel, "--import"], corrected.as_bytes()));
        assert_eq!(data(&server.export(&channel)), "1\n2\n3\n");
    }
}

#[test]
fn a_gap_fails_an_export_unless_gaps_are_allowed() {
    let config = temporary("config.toml");
    std::fs::write(&config, "[history]\nevents = 5\n").expect("written");
    let server = Server::with(&["--config", config.to_str().expect("UTF-8")]);
    server.publish("short", &numbers(0..1));
    let id = server.export("short").split('"').nth(7).expect("an id").to_owned();
    server.publish("short", &numbers(1..20));
    let strict = server.run(&["history", "short", "--export", "--since", &id], b"");
    assert_eq!((strict.status.code(), strict.stdout.len()), (Some(1), 0), "{strict:?}");
    assert!(
        stderr(&strict).contains("gap on short") && stderr(&strict).contains("--allow-gaps"),
        "{strict:?}"
    );
    for (arguments, what) in [(&["--export", "--allow-gaps"][..], "exported"), (&["--json"], "listed")] {
        let all = server.run(&[&["history", "short", "--since", &id], arguments].concat(), b"");
        assert!(stderr(&all).contains("gap on short"), "{what}: {all:?}");
        assert_eq!(data(&succeed(all)), numbers(15..20), "{what}");
    }
    std::fs::remove_file(&config).expect("was written");
}

/// Answers one request after the other with these statuses and bodies. Gives the idempotency keys that came.
fn scripted(answers: &'static [(&str, &str)]) -> (String, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let served = thread::spawn(move || {
        let mut keys = Vec::new();
        for (status, body) in answers {
            let (stream, _) = listener.accept().expect("a connection");
            let mut reader = BufReader::new(&stream);
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).expect("a head");
                let line = line.trim().to_ascii_lowercase();
                keys.extend(line.strip_prefix("idempotency-key: ").map(str::to_owned));
                length = line
                    .strip_prefix("content-length: ")
                    .map_or(length, |text| text.parse().expect("a length"));
                if line.is_empty() {
                    break;
                }
            }
            reader.read_exact(&mut vec![0; length]).expect("a body");
            if status.is_empty() {
                continue; // the connection breaks before an answer
            }
            let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}", body.len());
            write!(&stream, "{head}\r\n\r\n{body}").expect("written");
        }
        keys
    });
    (url, served)
}

#[test]
fn an_import_tries_again_under_the_same_key() {
    let (url, served) = scripted(&[
        ("429 Too Many Requests", ""),
        ("", ""),
        ("503 Service Unavailable", ""),
        ("507 Insufficient Storage", ""),
        ("201 Created", r#"{"id":"f-1","duplicate":false}"#),
        ("200 OK", r#"{"id":"f-2","duplicate":true}"#),
    ]);
    let input = "{\"id\":\"e-1\",\"data\":1}\n{\"id\":\"e-2\",\"data\":2}\n";
    let output = run(&url, &["history", "to", "--import"], input.as_bytes());
    assert!(stderr(&output).contains("1 published, 1 were there"), "{output:?}");
    assert_eq!(stderr(&output).matches("next attempt in").count(), 4, "{output:?}");
    succeed(output);
    let (first, second) = ("import:e-1", "import:e-2");
    assert_eq!(served.join().expect("no panic"), [first, first, first, first, first, second]);
}

#[test]
fn what_cannot_work_ends_with_a_message() {
    let server = Server::start();
    let unknown = server.run(&["history", "nothing-here"], b"");
    assert_eq!((unknown.status.code(), unknown.stdout.len()), (Some(0), 0), "{unknown:?}");
    assert!(stderr(&unknown).contains("0 events"), "{unknown:?}");
    let line = b"{\"id\":\"e-1\",\"data\":1}";
    let unreachable = ["--url", "http://127.0.0.1:9", "--retry-for", "0"];
    let with = |more: &[&'static str]| [&["history", "news"], more, &unreachable].concat();
    for (arguments, code, part) in [
        (with(&[]), 1, "given up"),
        (with(&["--export"]), 1, "given up"),
        (with(&["--import", "-"]), 1, "line 1: "),
        (vec!["history", "no such name"], 1, "invalid_channel"),
        (vec!["history", "no such name", "--import"], 1, "invalid_channel"),
        (vec!["history", "news", "--since", "!"], 1, "invalid_cursor"),
        (vec!["history", "news", "--import", "/no/such/file"], 1, "cannot read /no/such/file"),
        (vec!["history", "news", "--allow-gaps"], 2, "--export"),
        (vec!["history", "news", "--import", "-", "--limit", "3"], 2, "--limit"),
        (vec!["history", "news", "--export", "--follow"], 2, "--follow"),
        (vec!["history", "news", "--follow", "--retry-for", "3"], 2, "--retry-for"),
    ] {
        let output = server.run(&arguments, line);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        assert!(stderr(&output).contains(part), "{arguments:?}: {output:?}");
    }
}
