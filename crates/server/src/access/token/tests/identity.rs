//! An identity server that does what a test says, well or badly. Must not know what is fetched, or why.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// What is answered at a path.
#[derive(Clone)]
pub(super) enum Answer {
    /// Status, headers and body.
    Whole(u16, &'static str, Vec<u8>),
    /// The same of 200, after this long.
    Late(Duration, Vec<u8>),
    /// A byte now and then, for ever.
    Dripping,
    /// The connection ends.
    Nothing,
}

impl Answer {
    pub(super) fn keys(keys: &[Value]) -> Self {
        Self::Whole(200, "", json!({ "keys": keys }).to_string().into_bytes())
    }

    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Whole(200, "", text.into().into_bytes())
    }
}

pub(super) struct Identity {
    pub(super) url: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    answers: Mutex<HashMap<String, Answer>>,
    requests: AtomicUsize,
    is_gone: AtomicBool,
}

impl Identity {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if own.is_gone.load(Ordering::Relaxed) {
                    return;
                }
                let own = Arc::clone(&own);
                let Ok(stream) = stream else { continue };
                thread::spawn(move || own.serve(stream));
            }
        });
        Self { url: format!("http://{address}"), shared }
    }

    pub(super) fn answer(&self, path: &str, answer: Answer) {
        self.shared.answers.lock().expect("no test panics here").insert(path.to_owned(), answer);
    }

    /// How many requests there were.
    pub(super) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        self.shared.is_gone.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
        let Some(request) = lines.next() else { return };
        lines.take_while(|line| !line.is_empty()).for_each(drop);
        self.requests.fetch_add(1, Ordering::Relaxed);
        let path = request.split(' ').nth(1).unwrap_or_default();
        let answer = self.answers.lock().expect("no test panics here").get(path).cloned();
        // Whoever asked may have gone.
        let _ = match answer.unwrap_or(Answer::Whole(404, "", Vec::new())) {
            Answer::Nothing => Ok(()),
            Answer::Whole(status, headers, body) => write_whole(&mut stream, status, headers, &body),
            Answer::Late(wait, body) => {
                thread::sleep(wait);
                write_whole(&mut stream, 200, "", &body)
            }
            Answer::Dripping => drip(&mut stream),
        };
    }
}

fn write_whole(stream: &mut TcpStream, status: u16, headers: &str, body: &[u8]) -> std::io::Result<()> {
    let length = body.len();
    write!(stream, "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n")?;
    stream.write_all(body)
}

fn drip(stream: &mut TcpStream) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n")?;
    loop {
        stream.write_all(b" ")?;
        thread::sleep(Duration::from_millis(50));
    }
}
