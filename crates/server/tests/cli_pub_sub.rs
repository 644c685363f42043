//! `tidewire pub` and `tidewire sub` as a shell sees them: the real binary against a real server, and
//! through a forwarder that cuts connections.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const TRANSPORTS: [&str; 4] = ["ws", "sse", "long-poll", "poll"];

/// A server of this test's own.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start() -> Self {
        let mut process = tidewire(&["serve", "--listen", "127.0.0.1:0", "--memory", "--no-demo"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("its output is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        let url = line.trim().strip_prefix("listening on ").expect("the first line").to_owned();
        Self { process, url }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run(&self.url, arguments, "")
    }

    /// Publishes `lines`, one event each.
    fn publish(&self, channel: &str, lines: &[&str]) {
        let output = run(&self.url, &["pub", channel, "-"], &(lines.join("\n") + "\n"));
        assert!(output.status.success(), "{output:?}");
        assert_eq!(stdout(&output).lines().count(), lines.len(), "an id for each line");
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

fn client(url: &str, arguments: &[&str]) -> Command {
    let mut command = tidewire(arguments);
    command.env("TIDEWIRE_URL", url).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(url: &str, arguments: &[&str], input: &str) -> Output {
    let mut process = client(url, arguments).spawn().expect("the client starts");
    // A client that takes no input may have ended already.
    let _ = process.stdin.take().expect("its input is piped").write_all(input.as_bytes());
    process.wait_with_output().expect("the client ends")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits for the end of `process`, but not forever.
fn ended(process: &mut Child) -> Option<i32> {
    let give_up = Instant::now() + Duration::from_secs(20);
    while Instant::now() < give_up {
        if let Some(status) = process.try_wait().expect("a child") {
            return status.code();
        }
        thread::sleep(Duration::from_millis(10));
    }
    let _ = process.kill();
    panic!("the client did not end");
}

/// Passes bytes on between its own port and `target`, and can cut all connections at once.
struct Forwarder {
    url: String,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    accepted: Arc<AtomicU64>,
}

impl Forwarder {
    fn start(target: &str) -> Self {
        let target: SocketAddr = target.strip_prefix("http://").expect("a URL").parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let forwarder = Self { url, connections: Arc::default(), accepted: Arc::default() };
        let (connections, accepted) = (Arc::clone(&forwarder.connections), Arc::clone(&forwarder.accepted));
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(target) else { return };
                for (mut from, mut to) in [(&near, &far), (&far, &near)].map(|(a, b)| (copy(a), copy(b))) {
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                connections.lock().expect("no panic").extend([near, far]);
                accepted.fetch_add(1, Ordering::SeqCst);
            }
        });
        forwarder
    }

    fn cut(&self) {
        for connection in self.connections.lock().expect("no panic").drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn copy(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("another handle")
}

fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("tidewire-cli-{}-{name}", std::process::id()))
}

#[test]
fn an_argument_is_one_event_and_its_id_is_printed() {
    let server = Server::start();
    let output = server.run(&["pub", "news", "hello there"]);
    assert!(output.status.success(), "{output:?}");
    let id = stdout(&output).trim().to_owned();
    assert!(!id.is_empty());
    let seen =
        stdout(&server.run(&["sub", "news", "--since", "earliest", "--count", "1", "--format", "json"]));
    assert!(
        seen.starts_with(&format!(r#"{{"channel":"news","id":"{id}","data":"hello there","time":""#)),
        "{seen}"
    );
    let quiet = server.run(&["pub", "news", "-1", "--quiet"]);
    assert_eq!((quiet.status.code(), quiet.stdout.len(), quiet.stderr.len()), (Some(0), 0, 0), "{quiet:?}");
}

#[test]
fn each_transport_prints_the_same_lines_in_order() {
    let server = Server::start();
    server.publish("news", &["plain", r#"{"b" : [1, 2],"a":"x  y"}"#, "", "null", "1e400"]);
    let bytes = client(&server.url, &["pub", "news", "--file", "-", "--event", "raw", "--key", "k"]).spawn();
    let mut bytes = bytes.expect("the client starts");
    bytes.stdin.take().expect("piped").write_all(b"\x00\x01\xff").expect("written");
    assert!(bytes.wait_with_output().expect("ends").status.success());
    let mut objects = Vec::new();
    for transport in TRANSPORTS {
        let common = ["sub", "news", "--since", "earliest", "--count", "6", "--transport", transport];
        let output = server.run(&common);
        assert_eq!(
            stdout(&output),
            "plain\n{\"b\":[1,2],\"a\":\"x  y\"}\n\nnull\n1e400\nAAH/\n",
            "{transport}"
        );
        assert!(stderr(&output).contains("6 events; go on with --since "), "{transport}: {output:?}");
        objects.push(stdout(&server.run(&[&common[..], &["--format", "json", "--quiet"]].concat())));
    }
    assert!(
        objects[0].contains(r#""event":"raw","key":"k","data_base64":"AAH/","time":""#),
        "{}",
        objects[0]
    );
    assert!(objects.iter().all(|lines| lines == &objects[0]), "{objects:#?}");
}

#[test]
fn since_and_a_cursor_file_go_on_exactly_there() {
    for transport in TRANSPORTS {
        let server = Server::start();
        server.publish("a", &["1", "2", "3", "4", "5"]);
        server.publish("b", &["6"]);
        let file = temporary(transport);
        let path = file.to_str().expect("UTF-8");
        let mut seen = String::new();
        for count in ["1", "2", "2"] {
            let output = server.run(&[
                "sub",
                "a",
                "--since",
                "earliest",
                "--count",
                count,
                "--transport",
                transport,
                "--cursor-file",
                path,
                "--timeout",
                "10",
            ]);
            assert!(output.status.success(), "{transport}: {output:?}");
            seen += &stdout(&output);
        }
        assert_eq!(seen, "1\n2\n3\n4\n5\n", "{transport}");
        std::fs::remove_file(&file).expect("was written");

        let both =
            server.run(&["sub", "a", "b", "--since", "earliest", "--count", "6", "--transport", transport]);
        let errors = stderr(&both);
        let cursor = errors.trim().rsplit(' ').next().expect("a cursor");
        server.publish("b", &["later"]);
        let rest =
            server.run(&["sub", "a", "b", "--since", cursor, "--count", "1", "--transport", transport]);
        assert_eq!(stdout(&rest), "later\n", "{transport}: {cursor}");
    }
}

#[test]
fn what_cannot_work_ends_with_a_message_and_is_not_tried_again() {
    let server = Server::start();
    for transport in TRANSPORTS {
        for arguments in [["sub", "no such name", "--since", "latest"], ["sub", "news", "--since", "!"]] {
            let output = server.run(&[&arguments[..], &["--transport", transport]].concat());
            assert_eq!(output.status.code(), Some(1), "{transport}: {output:?}");
            assert!(stderr(&output).contains("invalid_c"), "{transport}: {output:?}");
        }
        let late = server.run(&["sub", "news", "--count", "1", "--timeout", "0.2", "--transport", transport]);
        assert_eq!(late.status.code(), Some(1), "{transport}: {late:?}");
        let over = server.run(&["sub", "news", "--timeout", "0.2", "--transport", transport]);
        assert_eq!(over.status.code(), Some(0), "{transport}: {over:?}");
    }
    for (arguments, code, part) in [
        (&["pub", "no such name", "x"][..], 1, "invalid_channel"),
        (&["pub", "news", "{", "--content-type", "application/json"], 1, "invalid_json"),
        (&["pub", "news", "-", "--idempotency-key", "k"], 2, "one event"),
        (&["pub", "news", "x", "--url", "ftp://127.0.0.1"], 2, "https://"),
        (&["pub", "news", "x", "--url", "http://127.0.0.1:9", "--retry-for", "0"], 1, "given up"),
        (&["sub", "news", "--url", "127.0.0.1"], 2, "https://"),
        (&["sub"], 2, "CHANNEL"),
    ] {
        let output = server.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        assert!(stderr(&output).contains(part), "{arguments:?}: {output:?}");
    }
    let first = server.run(&["pub", "news", "x", "--idempotency-key", "k"]);
    assert_eq!(first.stdout, server.run(&["pub", "news", "x", "--idempotency-key", "k"]).stdout);
    let conflict = server.run(&["pub", "news", "y", "--idempotency-key", "k"]);
    assert!(stderr(&conflict).contains("idempotency_conflict"), "{conflict:?}");
}

#[test]
fn a_subscription_survives_cut_connections_without_loss_or_repeat() {
    let server = Server::start();
    for transport in TRANSPORTS {
        let forwarder = Forwarder::start(&server.url);
        let mut subscriber = client(
            &forwarder.url,
            &[
                "sub",
                transport,
                "--transport",
                transport,
                "--interval",
                "0.05",
                "--count",
                "9",
                "--timeout",
                "60",
            ],
        );
        let mut subscriber = subscriber.spawn().expect("the client starts");
        let mut errors = BufReader::new(subscriber.stderr.take().expect("piped"));
        let mut lines = BufReader::new(subscriber.stdout.take().expect("piped")).lines();
        let mut line = String::new();
        errors.read_line(&mut line).expect("its state");
        assert!(line.contains("connected"), "{transport}: {line}");
        for round in 0..3 {
            let expected: Vec<_> = (0..3).map(|number| format!("{round}.{number}")).collect();
            server.publish(transport, &[&expected[0], &expected[1]]);
            let mut seen: Vec<_> = lines.by_ref().take(1).map(|line| line.expect("a line")).collect();
            forwarder.cut();
            server.publish(transport, &[&expected[2]]);
            seen.extend(lines.by_ref().take(2).map(|line| line.expect("a line")));
            assert_eq!(seen, expected, "{transport}");
        }
        assert_eq!(ended(&mut subscriber), Some(0), "{transport}");
        let mut rest = String::new();
        errors.read_to_string(&mut rest).expect("the rest");
        assert!(rest.contains("9 events") && !rest.contains("repeat"), "{transport}: {rest}");
        assert!(forwarder.accepted.load(Ordering::SeqCst) > 1, "{transport} connected again");
    }
}

#[test]
fn published_lines_are_not_doubled_by_cut_connections() {
    let server = Server::start();
    let forwarder = Forwarder::start(&server.url);
    let mut publisher = client(&forwarder.url, &["pub", "n", "-"]).spawn().expect("the client starts");
    let mut input = publisher.stdin.take().expect("piped");
    let mut ids = BufReader::new(publisher.stdout.take().expect("piped")).lines();
    let expected: String = (0..60).map(|number| format!("{number}\n")).collect();
    for number in 0..60 {
        writeln!(input, "{number}").expect("written");
        if number % 7 == 3 {
            forwarder.cut();
        }
        if number % 2 == 0 {
            ids.next();
        }
    }
    drop(input);
    ids.for_each(drop);
    assert_eq!(ended(&mut publisher), Some(0));
    let seen = server.run(&["sub", "n", "--since", "earliest", "--timeout", "2", "--transport", "poll"]);
    assert_eq!(stdout(&seen), expected);
}

#[test]
fn a_reader_that_goes_away_ends_the_subscription_quietly() {
    let server = Server::start();
    server.publish("news", &["1", "2"]);
    for transport in TRANSPORTS {
        let arguments = ["sub", "news", "--since", "earliest", "--transport", transport, "--quiet"];
        let mut subscriber = client(&server.url, &arguments).spawn().expect("the client starts");
        let mut line = String::new();
        BufReader::new(subscriber.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        assert_eq!(line, "1\n", "{transport}");
        assert_eq!(ended(&mut subscriber), Some(0), "{transport}");
        let mut errors = String::new();
        subscriber.stderr.take().expect("piped").read_to_string(&mut errors).expect("UTF-8");
        assert_eq!(errors, "", "{transport}");
    }
}
