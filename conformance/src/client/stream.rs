//! Server-sent events over the body of a ureq answer.

use std::collections::VecDeque;
use std::io::Read;
use std::time::{Duration, Instant};

use super::{Ask, Client, Connected, Item, form};
use crate::event::{Data, Seen};
use crate::sse::{Block, Parser};
use crate::{Result, http};

pub(super) struct Stream {
    reader: ureq::BodyReader<'static>,
    parser: Parser,
    /// What was read and not taken yet, each with the last event id after it.
    items: VecDeque<(Item, String)>,
    read_id: String,
    position: String,
    many: bool,
    /// The state comes in place of the id at the beginning.
    state_first: bool,
    ended: bool,
}

impl Stream {
    pub(super) fn connect_one(server: &str, ask: &Ask) -> Result<Connected> {
        Self::connect(server, ask, false, false)
    }

    pub(super) fn connect_one_by_header(server: &str, ask: &Ask) -> Result<Connected> {
        Self::connect(server, ask, false, true)
    }

    pub(super) fn connect_many_by_header(server: &str, ask: &Ask) -> Result<Connected> {
        Self::connect(server, ask, true, true)
    }

    pub(super) fn connect_many(server: &str, ask: &Ask) -> Result<Connected> {
        Self::connect(server, ask, true, false)
    }

    /// With `by_header` the cursor goes where a browser that comes back puts it. The words have no place there.
    fn connect(server: &str, ask: &Ask, many: bool, by_header: bool) -> Result<Connected> {
        let mut head = vec![("accept".to_owned(), "text/event-stream".to_owned())];
        let mut ask = ask.clone();
        if let Some(cursor) =
            ask.since.take_if(|since| by_header && *since != "earliest" && *since != "latest")
        {
            head.push(("last-event-id".to_owned(), cursor));
        }
        let state = if ask.snapshot { &[("snapshot", "1".to_owned())][..] } else { &[] };
        let url = format!("{server}{}", super::events_path(&ask, many, state));
        // One agent, one connection: it goes when the reader does.
        let agent = http::agent(http::READ_TIMEOUT);
        let response =
            http::send(&agent, "GET", &url, &head, None).map_err(|error| format!("GET {url}: {error}"))?;
        let status = response.status().as_u16();
        let fields = http::fields(response.headers());
        let mut reader = response.into_body().into_with_config().limit(u64::MAX).reader();
        if status != 200 {
            let mut body = Vec::new();
            reader.read_to_end(&mut body).map_err(|error| error.to_string())?;
            return super::refusal(status, &body).map(Connected::Refused);
        }
        check_head(&fields)?;
        let mut stream = Self {
            reader,
            parser: Parser::default(),
            items: VecDeque::new(),
            read_id: String::new(),
            position: String::new(),
            many,
            state_first: ask.snapshot,
            ended: false,
        };
        stream.read_beginning()?;
        Ok(Connected::Client(Box::new(stream)))
    }

    /// Until `retry` and the first id are there: only then the stream stands somewhere.
    fn read_beginning(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.read_id.is_empty() {
            if self.ended || Instant::now() > deadline {
                return Err("the stream did not begin with an id".to_owned());
            }
            self.read()?;
        }
        match self.parser.retry_ms {
            Some(2000) => Ok(()),
            other => Err(format!("expected retry: 2000 at the beginning, got {other:?}")),
        }
    }

    fn read(&mut self) -> Result<()> {
        let mut bytes = [0; 16 << 10];
        match self.reader.read(&mut bytes) {
            Ok(0) => self.ended = true,
            Ok(count) => {
                for block in self.parser.push(&bytes[..count]) {
                    let id = block.last_event_id.clone();
                    if self.read_id.is_empty() {
                        // The time to reconnect goes first; with the state, in a block of its own.
                        if self.state_first && block.data.is_none() && id.is_empty() {
                            continue;
                        }
                        let is_state = block.event == "tidewire.snapshot";
                        if block.data.is_some() != is_state || is_state != self.state_first || id.is_empty() {
                            return Err(format!(
                                "the first block must have an id, and nothing else or the state, got {block:?}"
                            ));
                        }
                        self.position.clone_from(&id);
                    }
                    self.read_id.clone_from(&id);
                    self.items.extend(item(block, self.many)?.map(|item| (item, id)));
                }
            }
            Err(error) if is_timeout(&error) => {}
            Err(_) => self.ended = true,
        }
        Ok(())
    }
}

impl Client for Stream {
    fn next(&mut self, deadline: Instant) -> Result<Item> {
        loop {
            if let Some((item, id)) = self.items.pop_front() {
                self.position = id;
                return Ok(item);
            }
            if self.ended {
                return Ok(Item::Closed(None, "the stream ended".to_owned()));
            }
            if Instant::now() >= deadline {
                return Ok(Item::Nothing);
            }
            self.read()?;
        }
    }

    fn position(&self) -> Option<String> {
        Some(self.position.clone())
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    error.kind() == std::io::ErrorKind::TimedOut || matches!(inner, Some(ureq::Error::Timeout(_)))
}

fn check_head(fields: &[(String, String)]) -> Result<()> {
    let field = |name: &str| fields.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
    for (name, expected) in [
        ("content-type", Some("text/event-stream")),
        ("cache-control", Some("no-cache")),
        ("x-accel-buffering", Some("no")),
        ("content-length", None),
    ] {
        let got = field(name).map(|value| value.split(';').next().unwrap_or(value));
        if got != expected {
            return Err(format!(
                "field {name} of an event stream: expected {expected:?}, got {:?}",
                field(name)
            ));
        }
    }
    // That it ends with the connection is the server's own doing; a proxy in between may chunk it.
    match field("transfer-encoding") {
        None | Some("chunked") => Ok(()),
        Some(other) => Err(format!("an event stream with the transfer encoding {other:?}")),
    }
}

fn item(block: Block, many: bool) -> Result<Option<Item>> {
    let Some(data) = &block.data else { return Ok(None) };
    match block.event.as_str() {
        "tidewire.gap" => {
            let gap: form::GapForm =
                serde_json::from_str(data).map_err(|error| format!("{error} in {data}"))?;
            Ok(Some(Item::Gap(gap.gap())))
        }
        "tidewire.snapshot" => {
            let state = serde_json::from_str(data).map_err(|error| format!("{error} in {data}"))?;
            Ok(Some(Item::Snapshot(state)))
        }
        "tidewire.reconnect" => Ok(Some(Item::Reconnect(data.clone()))),
        name if name.starts_with("tidewire.") => Err(format!("unknown event {name}")),
        _ if many => many_event(&block, data).map(|seen| Some(Item::Event(seen))),
        _ => one_event(block).map(|seen| Some(Item::Event(seen))),
    }
}

fn many_event(block: &Block, data: &str) -> Result<Seen> {
    let seen = form::event(data, "channel")?;
    let named = (!block.event.is_empty()).then(|| block.event.clone());
    if seen.event != named {
        return Err(format!("event: {named:?} over data with {:?}", seen.event));
    }
    Ok(seen)
}

fn one_event(block: Block) -> Result<Seen> {
    let data = block.data.unwrap_or_default();
    let data = match block.ignored.as_slice() {
        [] => Data::Either(data),
        [(name, value)] if name == "encoding" && value == "base64" => Data::Bytes(form::base64(&data)?),
        other => return Err(format!("fields that the protocol does not name: {other:?}")),
    };
    let event = (!block.event.is_empty()).then_some(block.event);
    let id = Some(block.last_event_id);
    Ok(Seen { channel: None, id, event, key: None, content_type: None, time: None, data })
}
