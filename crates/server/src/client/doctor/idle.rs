//! Probe: connections on which nothing happens. How far apart are heartbeats, and what is cut before the next?
//! Must not guess: what was not waited for is said to be unknown.

use std::thread;
use std::time::{Duration, Instant};

use tungstenite::{Error, Message};

use super::faults::Fault;
use super::line::{Line, Piece, Request, Trouble};
use super::record::Way;
use super::socket::{handshake, read, socket};
use super::stream::ACCEPT;
use super::visit::{PATIENCE, Visit, describe, page, seconds};

/// How long Tidewire's own clients let a long poll wait.
const LONG_POLL_WAIT: Duration = Duration::from_secs(25);
/// After so many heartbeats their distance is known, and that nothing cuts sooner.
const BEATS: usize = 2;
/// The close code of a server that hears nothing from its client.
const NO_SIGN_OF_LIFE: u16 = 4002;

/// What came of leaving a connection alone.
#[derive(Debug)]
enum Outcome {
    /// It was still there.
    Held,
    /// It ended without a word, or with this one.
    Cut(String),
    /// The server ended it, and said why.
    Ended(String),
    /// There was no connection to leave alone.
    Absent(String),
    /// What the server sent does not reach it, or the other way round.
    Deaf(String),
}

/// The silences of one connection.
#[derive(Debug)]
struct Silences {
    last: Instant,
    /// The longest that something came after.
    longest: Duration,
    beats: Vec<Instant>,
    /// The one in which it was cut.
    fatal: Duration,
}

impl Silences {
    fn begin() -> Self {
        Self { last: Instant::now(), longest: Duration::ZERO, beats: Vec::new(), fatal: Duration::ZERO }
    }

    /// It was cut.
    fn end(&mut self) {
        self.fatal = self.last.elapsed();
    }

    /// Whether the connection had outlived a silence as long as the one in which it was cut.
    fn was_outlived(&self) -> bool {
        self.fatal < self.longest
    }

    /// Something came.
    fn heard(&mut self, is_beat: bool) {
        let now = Instant::now();
        self.longest = self.longest.max(now - self.last);
        self.last = now;
        if is_beat {
            self.beats.push(now);
        }
    }

    fn interval(&self) -> Option<Duration> {
        self.beats.windows(2).map(|pair| pair[1] - pair[0]).max()
    }
}

/// What was seen of one way.
#[derive(Debug)]
struct Seen {
    way: Way,
    outcome: Outcome,
    silences: Silences,
    took: Duration,
}

/// Leaves a connection of each way alone for `idle` at most.
pub(super) fn examine(visit: &mut Visit, idle: Duration) {
    let ways: Vec<Way> = [Way::WebSocket, Way::Sse, Way::LongPoll]
        .into_iter()
        .filter(|way| visit.record.has_seen(*way))
        .take(visit.room.unwrap_or(usize::MAX))
        .collect();
    for way in [Way::WebSocket, Way::Sse, Way::LongPoll] {
        if !ways.contains(&way) {
            let what = format!("idle timeouts of {}", way.name());
            visit.record.skip(what, "it does not work, or the path has no room for it");
        }
    }
    let wait = idle.min(LONG_POLL_WAIT);
    let stream_path = visit.events("");
    let limit = visit.fresh_limit();
    let poll_path = visit.events(&format!("since=latest&wait={}&limit={limit}", wait.as_secs_f64()));
    let until = Instant::now() + idle;
    let seen: Vec<Seen> = thread::scope(|scope| {
        let visit = &*visit;
        let (stream_path, poll_path) = (stream_path.as_str(), poll_path.as_str());
        let leave = move |way| match way {
            Way::WebSocket => leave_socket(visit, until),
            Way::Sse => leave_stream(visit, stream_path, until),
            _ => leave_poll(visit, poll_path, wait),
        };
        let left: Vec<_> = ways
            .iter()
            .map(|way| {
                scope.spawn(move || {
                    let began = Instant::now();
                    let (outcome, silences) = leave(*way);
                    Seen { way: *way, outcome, silences, took: began.elapsed() }
                })
            })
            .collect();
        left.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let interval = seen.iter().filter_map(|seen| seen.silences.interval()).max();
    visit.record.heartbeat_ms = interval.and_then(|interval| u64::try_from(interval.as_millis()).ok());
    for seen in seen {
        judge(visit, &seen, interval, wait, idle);
    }
}

/// Puts into the record what was seen.
fn judge(visit: &mut Visit, seen: &Seen, interval: Option<Duration>, wait: Duration, idle: Duration) {
    let Seen { way, outcome, silences, took } = seen;
    let what = format!("idle timeouts of {}", way.name());
    let beats = silences.beats.len();
    match outcome {
        Outcome::Absent(why) | Outcome::Ended(why) => visit.record.skip(what, why.clone()),
        Outcome::Deaf(why) => visit.record.find(Fault::TransportFailed, *way, why.clone()),
        Outcome::Cut(how) if *way == Way::LongPoll => {
            let observed = format!(
                "a poll that asked to be held for {} was ended after {}: {how}",
                seconds(wait),
                seconds(*took)
            );
            visit.record.find(Fault::IdleTimeoutShort, *way, observed);
        }
        Outcome::Cut(how) => {
            let apart = match interval {
                Some(interval) => format!("heartbeats are {} apart", seconds(interval)),
                None => "how far apart heartbeats are was not seen; by default 25.0 s".to_owned(),
            };
            let observed = format!(
                "{how} after {} in which nothing came, {} after it was opened, with {beats} heartbeats before; {apart}",
                seconds(silences.fatal),
                seconds(*took)
            );
            // Where a longer silence did no harm, this one was not the reason.
            let fault = if silences.was_outlived() { Fault::StreamCut } else { Fault::IdleTimeoutShort };
            visit.record.find(fault, *way, observed);
        }
        Outcome::Held if *way == Way::LongPoll => {
            visit.record.see(*way, format!("held for {}", seconds(*took)));
        }
        Outcome::Held if beats >= BEATS => {
            let apart = silences.interval().unwrap_or_default();
            visit.record.see(*way, format!("a heartbeat every {}", seconds(apart)));
        }
        Outcome::Held => {
            let why = format!(
                "it was left alone for {}, had {beats} heartbeats and was not cut; what comes later was not waited for \
                 (--idle)",
                seconds(idle)
            );
            visit.record.skip(what, why);
        }
    }
}

fn leave_socket(visit: &Visit, until: Instant) -> (Outcome, Silences) {
    let mut silences = Silences::begin();
    let mut socket = match handshake(visit, "", false) {
        Ok((line, _)) => socket(line),
        Err(refusal) => return (Outcome::Absent(format!("it did not open again: {refusal}")), silences),
    };
    silences = Silences::begin();
    let outcome = loop {
        if silences.beats.len() >= BEATS {
            break Outcome::Held;
        }
        match read(&mut socket, until) {
            Ok(None) => break Outcome::Held,
            Ok(Some(Message::Close(frame))) => {
                let code = frame.as_ref().map_or(1005, |frame| u16::from(frame.code));
                let reason = frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
                let why = format!("the server closed it with {code} {reason}");
                break if code == NO_SIGN_OF_LIFE { Outcome::Deaf(why) } else { Outcome::Ended(why) };
            }
            Ok(Some(message)) => {
                silences.heard(matches!(message, Message::Ping(_)));
                // The answer to a ping goes out now, and not with the next read.
                if let Err(error) = socket.flush() {
                    break cut(&error);
                }
            }
            Err(error) => break cut(&error),
        }
    };
    if matches!(outcome, Outcome::Cut(_)) {
        silences.end();
    } else {
        let _ = socket.close(None).and_then(|()| socket.flush());
    }
    (outcome, silences)
}

fn cut(error: &Error) -> Outcome {
    match error {
        Error::Io(error) => Outcome::Cut(format!("cut ({error})")),
        _ => Outcome::Cut("cut without a close".to_owned()),
    }
}

fn leave_stream(visit: &Visit, path: &str, until: Instant) -> (Outcome, Silences) {
    let mut silences = Silences::begin();
    let request = Request { method: "GET", path, fields: ACCEPT, ..Request::default() };
    let mut line = match visit.open(&request) {
        Ok((line, Ok(head))) if head.status == 200 => line,
        Ok((_, Ok(head))) => {
            return (Outcome::Absent(format!("it did not open again: {}", head.status)), silences);
        }
        Ok((_, Err(trouble))) | Err(trouble) => return (Outcome::Absent(trouble.to_string()), silences),
    };
    silences = Silences::begin();
    let mut ending = String::new();
    loop {
        if silences.beats.len() >= BEATS {
            return (Outcome::Held, silences);
        }
        match line.piece(until) {
            Piece::Nothing => return (Outcome::Held, silences),
            Piece::Bytes(bytes) => {
                // A comment is a heartbeat; the beginning of the stream is none.
                silences.heard(bytes.starts_with(b":"));
                ending = String::from_utf8_lossy(&bytes).into_owned();
            }
            Piece::End if ending.contains("tidewire.reconnect") => {
                return (Outcome::Ended("the server ended it, and asks to reconnect".to_owned()), silences);
            }
            Piece::End => {
                silences.end();
                return (Outcome::Cut("cut".to_owned()), silences);
            }
        }
    }
}

fn leave_poll(visit: &Visit, path: &str, wait: Duration) -> (Outcome, Silences) {
    let silences = Silences::begin();
    let request = Request { method: "GET", path, ..Request::default() };
    let until = Instant::now() + wait + PATIENCE;
    let answer = Line::ask(&visit.endpoint, &request).and_then(|mut line| line.answer(until));
    let outcome = match answer {
        Ok(answer) => match page(&answer) {
            Ok(_) => Outcome::Held,
            Err(_) if matches!(answer.head.status, 408 | 502 | 504) => Outcome::Cut(describe(&answer)),
            Err(why) => Outcome::Deaf(format!("a long poll: {why}")),
        },
        Err(Trouble::Closed(_)) => Outcome::Cut("the connection was closed".to_owned()),
        Err(trouble) => Outcome::Deaf(trouble.to_string()),
    };
    (outcome, silences)
}
