//! What all probes share: where the server is, how to ask it, and the record that they write.
//! Must not know what any probe looks for.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::line::{Answer, Head, Line, Request, Trouble};
use super::record::Record;
use crate::client::endpoint::{Endpoint, encoded};

/// How long the doctor waits for what should come at once. What is slower is as good as broken to its users.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// What comes later than this after it was published was held back.
pub(super) const LATE: Duration = Duration::from_secs(1);

/// A visit to a server.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) endpoint: Endpoint,
    pub(super) channel: String,
    pub(super) record: Record,
    /// How many requests the path serves at once, where that is less than was tried.
    pub(super) room: Option<usize>,
    /// Where the channel stood when the visit began; `None` if the doctor may not read it.
    pub(super) start: Option<String>,
    /// Whether the doctor may publish.
    pub(super) publishes: bool,
    limit: u32,
    number: u32,
}

/// An event that the doctor published.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) id: String,
    /// When the server says that this was.
    pub(super) time: String,
    pub(super) head: Head,
    /// When it was sent, and when it was acknowledged.
    pub(super) asked: Instant,
    pub(super) known: Instant,
}

/// Why a publish failed.
#[derive(Debug, Clone)]
pub(super) enum Unsent {
    /// The server said no, in these words.
    Refused(String),
    Failed(String),
}

/// A poll's answer, as far as it counts here.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    events: Vec<PageEvent>,
    pub(super) cursor: String,
}

#[derive(Debug, Deserialize)]
struct PageEvent {
    id: String,
}

impl Page {
    pub(super) fn has(&self, id: &str) -> bool {
        self.events.iter().any(|event| event.id == id)
    }
}

/// An answer of the server's own that says no (RFC 9457).
#[derive(Debug, Deserialize)]
pub(super) struct Problem {
    pub(super) code: String,
    pub(super) detail: String,
}

impl Visit {
    pub(super) fn new(endpoint: Endpoint, channel: String) -> Self {
        Self {
            endpoint,
            channel,
            record: Record::default(),
            room: None,
            start: None,
            publishes: false,
            // Two visits to one channel should not meet each other's answers in a cache.
            limit: fastrand::u32(100..900),
            number: 0,
        }
    }

    /// The path of the channel's events, with a query whose parameters are joined by `&`.
    pub(super) fn events(&self, query: &str) -> String {
        let mark = if query.is_empty() { "" } else { "?" };
        format!("/v1/channels/{}/events{mark}{query}", encoded(&self.channel))
    }

    /// A `limit` that was not used lately: what makes an address one that no cache knows.
    pub(super) fn fresh_limit(&mut self) -> u32 {
        self.limit = if self.limit >= 1000 { 100 } else { self.limit + 1 };
        self.limit
    }

    /// A GET of `path`.
    pub(super) fn get(&self, path: &str, fields: &str) -> Result<Answer, Trouble> {
        self.exchange(&Request { method: "GET", path, fields, ..Request::default() })
    }

    /// Whether two requests at once have room.
    pub(super) fn has_room_for_two(&self) -> bool {
        self.room.is_none_or(|room| room >= 2)
    }

    /// One request on a connection of its own. Where there is little room, the place of the last one may not be
    /// free yet, so that it is asked again until it is.
    pub(super) fn exchange(&self, request: &Request<'_>) -> Result<Answer, Trouble> {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = Line::ask(&self.endpoint, request)?.answer(Instant::now() + PATIENCE);
            match &answer {
                Ok(answer) if self.is_refusal(answer.head.status) && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => return answer,
            }
        }
    }

    fn is_refusal(&self, status: u16) -> bool {
        self.room.is_some() && matches!(status, 429 | 503)
    }

    /// Opens a request whose answer is read piece by piece, and takes its head.
    pub(super) fn open(&self, request: &Request<'_>) -> Result<(Line, Result<Head, Trouble>), Trouble> {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut line = Line::ask(&self.endpoint, request)?;
            let head = line.head(Instant::now() + PATIENCE);
            match &head {
                Ok(head) if self.is_refusal(head.status) && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => return Ok((line, head)),
            }
        }
    }

    /// Deletes the channel, if the server lets one: it is nobody else's.
    pub(super) fn tidy(&self) {
        let path = format!("/v1/channels/{}", encoded(&self.channel));
        let request = Request { method: "DELETE", path: &path, ..Request::default() };
        drop(self.exchange(&request));
    }

    /// What the channel holds after `since`, past all caches.
    pub(super) fn page(&mut self, since: &str) -> Result<Page, String> {
        let limit = self.fresh_limit();
        let path = self.events(&format!("since={since}&limit={limit}"));
        let answer = self.get(&path, "").map_err(|trouble| trouble.to_string())?;
        page(&answer)
    }

    /// The data of the next event.
    pub(super) fn data(&mut self) -> Value {
        self.number += 1;
        json!({"tidewire": "doctor", "number": self.number})
    }

    /// Publishes an event.
    pub(super) fn publish(&mut self) -> Result<Sent, Unsent> {
        let data = self.data().to_string();
        self.publish_data(data.as_bytes())
    }

    /// Publishes this JSON.
    pub(super) fn publish_data(&self, data: &[u8]) -> Result<Sent, Unsent> {
        #[derive(Deserialize)]
        struct Published {
            id: String,
            time: String,
        }
        let (asked, path) = (Instant::now(), self.events(""));
        let fields = "Content-Type: application/json\r\n";
        let request = Request { method: "POST", path: &path, fields, body: Some(data), anonymous: false };
        let answer = self.exchange(&request).map_err(|trouble| Unsent::Failed(trouble.to_string()))?;
        if answer.head.status != 201 {
            let said = describe(&answer);
            let is_own = problem(&answer).is_some();
            return Err(if is_own { Unsent::Refused(said) } else { Unsent::Failed(said) });
        }
        let Published { id, time } = serde_json::from_slice(&answer.body)
            .map_err(|_| Unsent::Failed("a 201 that is not Tidewire's".to_owned()))?;
        Ok(Sent { id, time, head: answer.head, asked, known: Instant::now() })
    }
}

/// A poll's answer, or what there is instead.
pub(super) fn page(answer: &Answer) -> Result<Page, String> {
    if answer.head.status != 200 {
        return Err(describe(answer));
    }
    serde_json::from_slice(&answer.body).map_err(|_| "a 200 that is no poll's answer".to_owned())
}

/// What the server says of why not; `None` if it is not the server that answers.
pub(super) fn problem(answer: &Answer) -> Option<Problem> {
    serde_json::from_slice(&answer.body).ok()
}

/// An answer that is no success, in words.
pub(super) fn describe(answer: &Answer) -> String {
    let status = answer.head.status;
    match problem(answer) {
        Some(problem) => format!("status {status}, {}: {}", problem.code, problem.detail),
        None => format!("status {status}{}", by(&answer.head)),
    }
}

/// Who answered, where the head says so.
pub(super) fn by(head: &Head) -> String {
    head.field("server").map(|name| format!(" by {name}")).unwrap_or_default()
}

/// A time in words.
pub(super) fn seconds(time: Duration) -> String {
    match time.as_secs_f64() {
        short if short < 0.01 => format!("{:.1} ms", short * 1000.0),
        short if short < 1.0 => format!("{:.0} ms", short * 1000.0),
        long => format!("{long:.1} s"),
    }
}
