//! Short and long polls over all channels: requests, one after the other, each from the last cursor.
//! They differ only in who waits when there is nothing new: the client or the server.

use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::Agent;
use ureq::http::StatusCode;

use super::{Interruption, SILENCE_MAX, Signal, Transport};
use crate::client::endpoint::Endpoint;
use crate::client::event::{Event, Gap};
use crate::client::http;
use crate::client::position::Position;

/// How many events an answer may have.
const LIMIT: u64 = 1000;

/// How long the server holds a long poll; under [`SILENCE_MAX`], which bounds the read.
const HOLD_SECONDS: u64 = 25;

/// A long poll that comes back empty sooner than this was not held; then the client waits.
const HELD_MIN: Duration = Duration::from_millis(500);

/// Who waits when there is nothing new.
#[derive(Debug, Clone, Copy)]
pub(in crate::client) enum Waiting {
    /// The server: a long poll.
    Server,
    /// The client, this long.
    Client(Duration),
}

/// Either kind of poll.
#[derive(Debug)]
pub(in crate::client) struct Poll {
    endpoint: Endpoint,
    waiting: Waiting,
    agent: Agent,
    channels: Vec<String>,
    since: String,
    /// The address and the entity tag of the last answer.
    last: Option<(String, String)>,
    /// How long to wait before the next request.
    pause: Duration,
}

/// An answer (PROTOCOL.md sections 2.2 and 2.4).
#[derive(Debug, Deserialize)]
pub(in crate::client) struct Answer {
    pub(in crate::client) events: Vec<Event>,
    pub(in crate::client) cursor: String,
    pub(in crate::client) more: bool,
    pub(in crate::client) gap: Option<Gap>,
}

/// One page of what `channel` holds after `since`: as many events as the server likes to give, or `limit`.
pub(in crate::client) fn page(
    agent: &Agent,
    endpoint: &Endpoint,
    channel: &str,
    since: &str,
    limit: Option<u64>,
) -> Result<Answer, Interruption> {
    let limit = limit.map(|limit| format!("&limit={limit}")).unwrap_or_default();
    let url = endpoint.events(&[channel.to_owned()], since, &limit);
    let answer = ask(agent, &url, &mut None)?;
    answer.ok_or_else(|| Interruption::Refused("a 304 to a request without an entity tag".to_owned()))
}

impl Poll {
    pub(in crate::client) fn new(endpoint: Endpoint, waiting: Waiting) -> Self {
        let agent = http::agent(SILENCE_MAX, &endpoint);
        Self {
            endpoint,
            waiting,
            agent,
            channels: Vec::new(),
            since: String::new(),
            last: None,
            pause: Duration::ZERO,
        }
    }
}

/// One request. None if nothing has changed since `last`, the address and the entity tag of the last answer.
fn ask(
    agent: &Agent,
    url: &str,
    last: &mut Option<(String, String)>,
) -> Result<Option<Answer>, Interruption> {
    let mut request = agent.get(url).header("accept", "application/json");
    if let Some((_, tag)) = last.as_ref().filter(|(last, _)| last == url) {
        request = request.header("if-none-match", tag);
    }
    let mut response = request.call().map_err(|error| http::interruption(&error))?;
    let body = response.body_mut().with_config().limit(http::BODY_BYTES_MAX).read_to_vec();
    let body = body.map_err(|error| http::interruption(&error))?;
    match response.status() {
        StatusCode::NOT_MODIFIED => return Ok(None),
        StatusCode::OK => {}
        status => return Err(http::refusal(status, response.headers(), &body)),
    }
    let tag = response.headers().get("etag").and_then(|tag| tag.to_str().ok());
    *last = tag.map(|tag| (url.to_owned(), tag.to_owned()));
    serde_json::from_slice(&body)
        .map(Some)
        .map_err(|error| Interruption::Refused(format!("not the answer of a Tidewire server: {error}")))
}

impl Transport for Poll {
    fn open(&mut self, position: &Position) -> Result<(), Interruption> {
        self.channels = position.channels().to_vec();
        self.since = position.since_of_all().unwrap_or_else(|| "latest".to_owned());
        self.pause = Duration::ZERO;
        Ok(())
    }

    fn next(&mut self, wanted: Option<u64>) -> Result<Vec<Signal>, Interruption> {
        thread::sleep(self.pause);
        // Asking for no more than is wanted makes the answer's cursor right at the end of the output.
        let mut parameters = format!("&limit={}", wanted.unwrap_or(LIMIT).min(LIMIT));
        // `latest` is asked for without waiting: once the place has an id, a lost connection loses no event.
        let held = matches!(self.waiting, Waiting::Server) && self.since != "latest";
        if held {
            parameters.push_str(&format!("&wait={HOLD_SECONDS}"));
        }
        let url = self.endpoint.events(&self.channels, &self.since, &parameters);
        let asked = Instant::now();
        let answer = ask(&self.agent, &url, &mut self.last)?;
        let news = answer.as_ref().is_some_and(|answer| answer.more || !answer.events.is_empty());
        self.pause = match self.waiting {
            Waiting::Client(pause) if answer.as_ref().is_none_or(|answer| !answer.more) => pause,
            Waiting::Server if held && !news && asked.elapsed() < HELD_MIN => HELD_MIN,
            _ => Duration::ZERO,
        };
        let Some(answer) = answer else {
            return Ok(Vec::new());
        };
        if news && answer.cursor == self.since {
            return Err(Interruption::lost("the server's answers do not get on"));
        }
        self.since.clone_from(&answer.cursor);
        Ok(signals(answer))
    }
}

/// What an answer says.
pub(in crate::client) fn signals(answer: Answer) -> Vec<Signal> {
    let gap = answer.gap.map(Signal::Gap);
    let events = answer.events.into_iter().map(|event| Signal::Event(Box::new(event)));
    gap.into_iter().chain(events).chain([Signal::StandingAll(answer.cursor)]).collect()
}
