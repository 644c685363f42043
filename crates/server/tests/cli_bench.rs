//! `tidewire bench` against a real server: all four patterns see every event, and a broken path is named.
//! Must not look at times: they are the machine's.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

const TIDEWIRE: &str = env!("CARGO_BIN_EXE_tidewire");

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve() -> (Server, String) {
    let mut child = Command::new(TIDEWIRE)
        .args(["serve", "--listen", "127.0.0.1:0", "--memory", "--no-demo"])
        .env("TIDEWIRE_LOG__LEVEL", "warn")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let url = line.trim().strip_prefix("listening on ").expect("its address").to_owned();
    (Server(child), url)
}

fn bench(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(TIDEWIRE).arg("bench").args(arguments).output().expect("it runs");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

#[test]
fn all_four_patterns_see_every_event() {
    let (_server, url) = serve();
    let (code, text) =
        bench(&[&url, "--duration", "1", "--rate", "40", "--interval", "0.2", "--size", "300"]);
    assert_eq!(code, Some(0), "{text}");
    for pattern in ["short poll", "long poll", "SSE", "WebSocket"] {
        let row = text
            .lines()
            .find(|line| line.starts_with(pattern))
            .unwrap_or_else(|| panic!("{pattern}: {text}"));
        let figures: Vec<&str> = row[pattern.len()..].split_whitespace().collect();
        assert_eq!(&figures[..2], ["40", "0"], "{row}");
    }
    assert!(!text.contains("out of order"), "{text}");
    assert!(text.contains("both ways") && text.contains("to the client only"), "{text}");
}

#[test]
fn nothing_there_is_a_failure() {
    let (code, text) = bench(&["http://127.0.0.1:1", "--duration", "1"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("127.0.0.1:1"), "{text}");
}
