//! The JSON answers of polls, snapshots and publishes, and the gap object that all transports share.
//! Must not know HTTP: no status, no header.

use std::sync::Arc;

use super::json;
use crate::event::Event;
use crate::id::EventId;
use crate::time::Timestamp;

/// What a poll found.
#[derive(Debug)]
pub struct Page<'a> {
    /// The channels asked for, in the order of the request.
    pub channels: &'a [&'a str],
    /// Whether the answer is that of `/v1/events`, where events name their channel.
    pub several: bool,
    /// The events, in order.
    pub events: &'a [Arc<Event>],
    /// Where to go on.
    pub cursor: &'a str,
    /// Whether there is more after `cursor` already.
    pub more: bool,
    /// The gap object, if there is one.
    pub gap: Option<&'a [u8]>,
}

impl Page<'_> {
    /// The body of the answer.
    pub fn to_json(&self) -> Vec<u8> {
        let data: usize = self.events.iter().map(|event| event.json().len() + 1).sum();
        let mut out = Vec::with_capacity(data + self.cursor.len() + 128);
        out.push(b'{');
        push_channels(&mut out, self.channels, self.several);
        out.extend_from_slice(b",\"events\":[");
        for (index, event) in self.events.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            if self.several {
                json::push_with_channel(&mut out, event);
            } else {
                json::push_alone(&mut out, event);
            }
        }
        out.extend_from_slice(b"],\"cursor\":\"");
        out.extend_from_slice(self.cursor.as_bytes());
        out.extend_from_slice(if self.more { b"\",\"more\":true" } else { b"\",\"more\":false" });
        out.extend_from_slice(b",\"gap\":");
        out.extend_from_slice(self.gap.unwrap_or(b"null"));
        out.push(b'}');
        out
    }
}

fn push_channels(out: &mut Vec<u8>, channels: &[&str], several: bool) {
    let names: Vec<String> = channels.iter().map(|name| format!("\"{name}\"")).collect();
    let member = if several {
        format!("\"channels\":[{}]", names.join(","))
    } else {
        format!("\"channel\":{}", names[0])
    };
    out.extend_from_slice(member.as_bytes());
}

/// A gap: in one channel, or (`several`) in those named. `requested` is the cursor as the client gave it.
pub fn gap(channels: &[&str], several: bool, requested: &str, resumed_from: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(96 + requested.len() + resumed_from.len());
    out.push(b'{');
    push_channels(&mut out, channels, several);
    out.extend_from_slice(b",\"requested\":");
    json::push_string_bytes(&mut out, requested);
    out.extend_from_slice(b",\"resumed_from\":\"");
    out.extend_from_slice(resumed_from.as_bytes());
    out.extend_from_slice(b"\"}");
    out
}

/// The answer to a publish.
pub fn published(channel: &str, id: EventId, time: Timestamp, duplicate: bool) -> Vec<u8> {
    format!("{{\"channel\":\"{channel}\",\"id\":\"{id}\",\"time\":\"{time}\",\"duplicate\":{duplicate}}}")
        .into_bytes()
}

/// What a snapshot shows of a channel.
#[derive(Debug, Clone)]
pub enum State {
    /// One event, or nothing.
    Last(Option<Arc<Event>>),
    /// The latest event of each key.
    Keyed(Vec<Arc<Event>>),
}

/// A snapshot: the state, and the position right after everything that made it. `retained` is how many events
/// of how many bytes the log has.
pub fn snapshot(channel: &str, cursor: EventId, state: &State, retained: (usize, usize)) -> Vec<u8> {
    let mut out = format!("{{\"channel\":\"{channel}\",\"cursor\":\"{cursor}\",\"state\":").into_bytes();
    match state {
        State::Last(Some(event)) => json::push_alone(&mut out, event),
        State::Last(None) => out.extend_from_slice(b"null"),
        State::Keyed(events) => {
            out.push(b'[');
            for (index, event) in events.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                json::push_alone(&mut out, event);
            }
            out.push(b']');
        }
    }
    let (events, bytes) = retained;
    out.extend_from_slice(format!(",\"events\":{events},\"bytes\":{bytes}}}").as_bytes());
    out
}
