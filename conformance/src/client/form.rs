//! The JSON and binary forms of events and gaps (PROTOCOL.md sections 2.2 and 3.1), read strictly:
//! a member that the protocol does not name is an error.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::Gap;
use crate::Result;
use crate::event::{Data, Seen};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventForm<'a> {
    #[serde(rename = "type")]
    _type: Option<String>,
    channel: Option<String>,
    id: String,
    event: Option<String>,
    key: Option<String>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
    content_type: Option<String>,
    time: String,
}

/// A plain `Option` would take `null` for nothing at all.
pub(crate) fn even_null<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// Reads an event in its JSON form, which must begin with the given member.
pub(super) fn event(json: &str, first: &str) -> Result<Seen> {
    let wrong = |why: String| format!("{why} in {}", crate::event::shorten(json));
    if !json.starts_with(&format!("{{\"{first}\":")) {
        return Err(wrong(format!("{first:?} is not the first member")));
    }
    let form: EventForm<'_> = serde_json::from_str(json).map_err(|error| wrong(error.to_string()))?;
    let data = match (form.data, form.data_base64) {
        (Some(value), None) => Data::Json(value.get().to_owned()),
        (None, Some(text)) => Data::Bytes(base64(&text)?),
        _ => return Err(wrong("not one of data and data_base64".to_owned())),
    };
    crate::pattern::check_time(&form.time)?;
    let (channel, id, event, key) = (form.channel, Some(form.id), form.event, form.key);
    Ok(Seen { channel, id, event, key, content_type: form.content_type, time: Some(form.time), data })
}

/// Reads a gap of whatever form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GapForm {
    #[serde(rename = "type")]
    _type: Option<String>,
    channel: Option<String>,
    channels: Option<Vec<String>>,
    requested: String,
    resumed_from: String,
}

impl GapForm {
    pub(super) fn gap(self) -> Gap {
        let channels = self.channels.unwrap_or_else(|| self.channel.into_iter().collect());
        Gap { channels, requested: self.requested, resumed_from: self.resumed_from }
    }
}

pub(super) fn base64(text: &str) -> Result<Vec<u8>> {
    STANDARD.decode(text).map_err(|error| format!("not base64 ({error}): {}", crate::event::shorten(text)))
}

/// Reads the server's binary frame.
pub(super) fn binary_event(frame: &[u8]) -> Result<Seen> {
    let mut rest = frame;
    if take(&mut rest, 1)? != [1] {
        return Err(format!("a binary frame of type {:?}", frame.first()));
    }
    let channel = string(&mut rest, 1)?;
    let id = string(&mut rest, 1)?;
    let event = string(&mut rest, 1)?;
    let key = string(&mut rest, 2)?;
    let content_type = string(&mut rest, 1)?;
    let mut time = [0; 8];
    time.copy_from_slice(take(&mut rest, 8)?);
    let set = |text: String| (!text.is_empty()).then_some(text);
    Ok(Seen {
        channel: Some(channel),
        id: Some(id),
        event: set(event),
        key: set(key),
        content_type: set(content_type),
        time: Some(crate::pattern::time_from_ms(u64::from_be_bytes(time))),
        data: Data::Bytes(rest.to_vec()),
    })
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count).ok_or("a binary frame ends too early")?;
    *rest = left;
    Ok(taken)
}

fn string(rest: &mut &[u8], length_bytes: usize) -> Result<String> {
    let length = take(rest, length_bytes)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    String::from_utf8(take(rest, length)?.to_vec()).map_err(|error| format!("binary frame: {error}"))
}

/// The parts of the client's binary frame.
#[derive(Debug, Default)]
pub struct BinaryPublish<'a> {
    /// The channel.
    pub channel: &'a str,
    /// The message id.
    pub id: &'a str,
    /// The event name.
    pub event: &'a str,
    /// The key.
    pub key: &'a str,
    /// The content type.
    pub content_type: &'a str,
    /// The idempotency key.
    pub idempotency_key: &'a str,
    /// The data.
    pub data: &'a [u8],
}

impl BinaryPublish<'_> {
    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2];
        let parts = [
            (self.channel, 1),
            (self.id, 1),
            (self.event, 1),
            (self.key, 2),
            (self.content_type, 1),
            (self.idempotency_key, 2),
        ];
        for (text, length_bytes) in parts {
            frame.extend_from_slice(&(text.len() as u16).to_be_bytes()[2 - length_bytes..]);
            frame.extend_from_slice(text.as_bytes());
        }
        frame.extend_from_slice(self.data);
        frame
    }
}
