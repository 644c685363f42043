//! A channel's log read back over HTTP, page by page, up to its end or to the error that stands in the way.
//! Must not know what was published.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::body::mark_of;
use crate::client::form::even_null;
use crate::event::{Data, shorten};
use crate::{Result, http};

/// An event of the log, with everything that the server says of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Logged {
    /// Its id.
    pub id: String,
    /// The mark of its data; see [`super::body`].
    pub mark: String,
    /// Its name.
    pub event: Option<String>,
    /// Its key.
    pub key: Option<String>,
    /// Its content type, where its kind does not imply it.
    pub content_type: Option<String>,
    /// Its time.
    pub time: String,
}

/// How far a log could be read.
#[derive(Debug)]
pub struct History {
    /// The events up to there.
    pub events: Vec<Logged>,
    /// What stood in the way of the rest.
    pub stopped: Option<Stopped>,
}

/// Why reading ended early.
#[derive(Debug)]
pub enum Stopped {
    /// The server said that it cannot.
    Problem(u16, String),
    /// The answer broke off.
    Cut(String),
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    events: Vec<Event<'a>>,
    cursor: String,
    more: bool,
    gap: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Event<'a> {
    id: String,
    event: Option<String>,
    key: Option<String>,
    content_type: Option<String>,
    time: String,
    #[serde(borrow, default, deserialize_with = "even_null")]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
}

/// Reads a whole log.
///
/// # Errors
/// When it cannot be read to its end.
pub fn read_all(server: &str, channel: &str) -> Result<Vec<Logged>> {
    let History { events, stopped } = read(server, channel, "earliest")?;
    match stopped {
        None => Ok(events),
        Some(stopped) => Err(format!("{channel}: {stopped:?} after {} events", events.len())),
    }
}

/// Reads a log from some place on, as far as it goes.
///
/// # Errors
/// When the server breaks the protocol: an error that is none, or a gap where there can be none.
pub fn read(server: &str, channel: &str, since: &str) -> Result<History> {
    let agent = http::agent(Duration::from_secs(20));
    let mut history = History { events: Vec::new(), stopped: None };
    let mut since = since.to_owned();
    loop {
        let url = format!("{server}/v1/channels/{channel}/events?since={since}&limit=1000");
        let answer = match http::exchange(&agent, "GET", &url, &[], None) {
            Ok(answer) => answer,
            Err(error) => {
                history.stopped = Some(Stopped::Cut(error));
                return Ok(history);
            }
        };
        if answer.status != 200 {
            history.stopped = Some(problem(&answer)?);
            return Ok(history);
        }
        let page: Page<'_> = serde_json::from_slice(&answer.body)
            .map_err(|error| format!("GET {url}: {error} in {}", shorten(&answer.text())))?;
        if let Some(gap) = page.gap {
            return Err(format!("{channel} has a gap after {since}: {gap}"));
        }
        if page.more && page.events.is_empty() {
            return Err(format!("GET {url}: more, but no events"));
        }
        for event in page.events {
            history.events.push(logged(event)?);
        }
        if !page.more {
            return Ok(history);
        }
        since = page.cursor;
    }
}

fn problem(answer: &http::Answer) -> Result<Stopped> {
    let wrong = || format!("expected a 5xx problem, got {} {}", answer.status, shorten(&answer.text()));
    let code = answer.json().ok().and_then(|problem| problem["code"].as_str().map(str::to_owned));
    match code {
        Some(code) if answer.status >= 500 => Ok(Stopped::Problem(answer.status, code)),
        _ => Err(wrong()),
    }
}

fn logged(event: Event<'_>) -> Result<Logged> {
    let mark = match (event.data, event.data_base64) {
        (Some(json), None) => mark_of(&Data::Json(json.get().to_owned())),
        (None, Some(text)) => format!("bytes:{text}"),
        _ => return Err(format!("{}: not one of data and data_base64", event.id)),
    };
    let Event { id, event, key, content_type, time, .. } = event;
    Ok(Logged { id, mark, event, key, content_type, time })
}
