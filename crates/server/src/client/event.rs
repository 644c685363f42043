//! An event as the wire shows it, read from its JSON and binary forms, and as `sub` prints it.
//! Must not know which transport it came over: all give the same event.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use tidewire_core::Timestamp;

use super::arguments::Format;

/// The first byte of a binary frame that delivers an event (PROTOCOL.md section 3.1).
const BINARY_EVENT: u8 = 0x01;

/// How much of an event's data is shown to people.
const SHOWN_CHARS: usize = 100;

/// An event over several channels (PROTOCOL.md section 2.4). The members stand in the order in which
/// they are printed.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(super) struct Event {
    pub(super) channel: String,
    pub(super) id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    time: String,
}

/// Reads a member that is there. Plain `Option` would take the event `null` for no data at all.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

/// Events that a cursor asks for and that are no longer there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Gap {
    #[serde(default)]
    channel: Option<String>,
    #[serde(default)]
    channels: Vec<String>,
    #[serde(default)]
    requested: String,
    #[serde(default)]
    resumed_from: String,
}

impl Gap {
    /// A sentence for a person.
    pub(super) fn describe(&self) -> String {
        let channels = self.channel.iter().chain(&self.channels).map(String::as_str).collect::<Vec<_>>();
        format!(
            "gap on {}: events after {} are no longer there; continues from {}",
            channels.join(", "),
            self.requested,
            self.resumed_from
        )
    }
}

impl Event {
    /// Reads the payload of a binary WebSocket message.
    pub(super) fn from_binary(message: &[u8]) -> Result<Self, &'static str> {
        let mut header = Header(message);
        if header.take(1)? != [BINARY_EVENT] {
            return Err("a binary message of an unknown kind");
        }
        let (channel, id, event) = (header.short()?, header.short()?, header.short()?);
        let key_bytes = header.length::<2>()?;
        let (key, content_type) = (header.text(key_bytes)?, header.short()?);
        let time_ms = header.length::<8>()?;
        Ok(Self {
            channel: channel.to_owned(),
            id: id.to_owned(),
            event: given(event),
            key: given(key),
            data: None,
            data_base64: Some(STANDARD.encode(header.0)),
            content_type: given(content_type),
            time: Timestamp(time_ms).to_string(),
        })
    }

    /// Appends the event to `out` as `format` wants it, with a line feed.
    pub(super) fn print(&mut self, format: Format, out: &mut Vec<u8>) -> serde_json::Result<()> {
        match (format, &self.data) {
            (Format::Exact, _) => serde_json::to_writer(&mut *out, self)?,
            (Format::Line, _) => out.extend_from_slice(self.line().as_bytes()),
            (Format::Json, _) => {
                if let Some(data) = self.data.take() {
                    self.data = Some(RawValue::from_string(compact(data.get()).into_owned())?);
                }
                serde_json::to_writer(&mut *out, self)?;
            }
            (Format::Data, Some(data)) if data.get().starts_with('"') => {
                out.extend_from_slice(text_of(data.get()).as_bytes());
            }
            (Format::Data, Some(data)) => out.extend_from_slice(compact(data.get()).as_bytes()),
            (Format::Data, None) => {
                out.extend_from_slice(self.data_base64.as_deref().unwrap_or_default().as_bytes())
            }
        }
        out.push(b'\n');
        Ok(())
    }

    /// The event on one line for people: what is not there is a `-`.
    fn line(&self) -> String {
        let data = match (&self.data, &self.data_base64) {
            (Some(data), _) if data.get().starts_with('"') && self.is_text() => {
                let text = text_of(data.get());
                shortened(&text, text.len())
            }
            (Some(data), _) => shortened(&compact(data.get()), data.get().len()),
            (None, Some(base64)) => shortened(&format!("base64:{base64}"), base64.len() / 4 * 3),
            (None, None) => String::new(),
        };
        let (name, key) = (self.event.as_deref().unwrap_or("-"), self.key.as_deref().unwrap_or("-"));
        format!("{}  {}  {name}  {key}  {data}", self.id, self.time)
    }

    /// Whether a string in `data` is text. Where it is JSON its content type says so.
    fn is_text(&self) -> bool {
        self.content_type.as_deref().is_none_or(|content_type| content_type.starts_with("text/"))
    }
}

/// The beginning of a text that shows data of so many bytes, without what would leave the line or move a
/// terminal's cursor.
fn shortened(text: &str, bytes: usize) -> String {
    let mut out = String::new();
    for character in text.chars().take(SHOWN_CHARS) {
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    if text.chars().nth(SHOWN_CHARS).is_some() {
        out.push_str(&format!("... ({bytes} bytes)"));
    }
    out
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// What a JSON string says. One that escapes half of a surrogate pair says nothing that UTF-8 has; it is
/// given as it stands.
fn text_of(json: &str) -> Cow<'_, str> {
    serde_json::from_str::<Text<'_>>(json).map_or(Cow::Borrowed(json), |text| text.0)
}

/// An empty text in a binary header means that the member is not there.
fn given(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// JSON without the white space between its tokens. Everything else, such as the digits of numbers and
/// the order of members, stays as it was published.
fn compact(json: &str) -> Cow<'_, str> {
    let (mut in_string, mut escaped) = (false, false);
    let mut keep = |character: char| {
        let space = matches!(character, ' ' | '\t' | '\n' | '\r');
        let kept = in_string || !space;
        if in_string && !escaped && character == '\\' {
            escaped = true;
        } else {
            if character == '"' && !escaped {
                in_string = !in_string;
            }
            escaped = false;
        }
        kept
    };
    if json.bytes().any(|byte| byte.is_ascii_whitespace()) {
        Cow::Owned(json.chars().filter(|&character| keep(character)).collect())
    } else {
        Cow::Borrowed(json)
    }
}

/// What is left of a binary message.
struct Header<'a>(&'a [u8]);

impl<'a> Header<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) =
            self.0.split_at_checked(length).ok_or("a binary message that ends within its header")?;
        self.0 = rest;
        Ok(taken)
    }

    /// A big-endian number of `N` bytes.
    fn length<const N: usize>(&mut self) -> Result<u64, &'static str> {
        Ok(self.take(N)?.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn short(&mut self) -> Result<&'a str, &'static str> {
        let length = self.length::<1>()?;
        self.text(length)
    }

    fn text(&mut self, length: u64) -> Result<&'a str, &'static str> {
        let bytes = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        std::str::from_utf8(bytes).map_err(|_| "a binary message whose header is not UTF-8")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(json: &str, format: Format) -> String {
        let mut out = Vec::new();
        serde_json::from_str::<Event>(json).expect("an event").print(format, &mut out).expect("printable");
        String::from_utf8(out).expect("UTF-8")
    }

    fn event(members: &str) -> String {
        format!(r#"{{"channel":"a","id":"e-1",{members},"time":"2026-11-23T05:14:04.123Z"}}"#)
    }

    #[test]
    fn prints_data_on_one_line_and_changes_nothing_else() {
        for (members, expected) in [
            (
                r#""data":{ "b" : 1.0e2,  "a":[ 1 , 2 ],"t":" x \" y " }"#,
                r#"{"b":1.0e2,"a":[1,2],"t":" x \" y "}"#,
            ),
            (r#""data":"text as\tit is""#, "text as\tit is"),
            (r#""data":"""#, ""),
            (r#""data":null"#, "null"),
            (r#""data":12345678901234567890123"#, "12345678901234567890123"),
            (r#""data":"\\""#, "\\"),
            (r#""data":"half \ud800""#, r#""half \ud800""#),
            (r#""data_base64":"AAH/""#, "AAH/"),
        ] {
            assert_eq!(printed(&event(members), Format::Data), format!("{expected}\n"));
        }
    }

    #[test]
    fn prints_the_event_object_in_the_order_of_a_poll() {
        let full = event(r#""event":"tick","key":"k","data":null,"content_type":"application/a+json""#);
        assert_eq!(printed(&full, Format::Json), format!("{full}\n"));
        let with_type = full.replace(r#"{"channel""#, r#"{"type":"event","channel""#);
        assert_eq!(printed(&with_type, Format::Json), format!("{full}\n"));
        let spaced = event(r#""data":[ 1,  "  " ]"#);
        assert_eq!(printed(&spaced, Format::Json), format!("{}\n", event(r#""data":[1,"  "]"#)));
    }

    #[test]
    fn prints_a_line_for_people_that_stays_on_its_line() {
        let long = format!(r#""data":"{}""#, "ä".repeat(SHOWN_CHARS + 1));
        let cut = format!("-  -  {}... (202 bytes)", "ä".repeat(SHOWN_CHARS));
        for (members, expected) in [
            (r#""event":"tick","key":"k","data":{ "b" : 1 }"#, r#"tick  k  {"b":1}"#),
            (r#""data":"two\nlines \u001b[2J""#, r"-  -  two\nlines \u{1b}[2J"),
            (r#""data":"text","content_type":"application/json""#, r#"-  -  "text""#),
            (r#""data_base64":"AAH/""#, "-  -  base64:AAH/"),
            (r#""data":"""#, "-  -  "),
            (&long, &cut),
        ] {
            let expected = format!("e-1  2026-11-23T05:14:04.123Z  {expected}\n");
            assert_eq!(printed(&event(members), Format::Line), expected);
        }
    }

    #[test]
    fn an_export_keeps_the_white_space_in_data() {
        let spaced = event(r#""data":[ 1,  "  " ]"#);
        assert_eq!(printed(&spaced, Format::Exact), format!("{spaced}\n"));
    }

    #[test]
    fn reads_a_binary_event_and_refuses_every_cut_of_its_header() {
        let mut message = b"\x01\x01a\x03e-1\x04tick\x00\x01k\x09image/png".to_vec();
        message.extend_from_slice(&1_795_410_844_123_u64.to_be_bytes());
        let header_bytes = message.len();
        message.extend_from_slice(b"\x00\x01\xff");
        let mut out = Vec::new();
        Event::from_binary(&message).expect("an event").print(Format::Json, &mut out).expect("printable");
        let expected = event(r#""event":"tick","key":"k","data_base64":"AAH/","content_type":"image/png""#);
        assert_eq!(String::from_utf8_lossy(&out).trim_end(), expected);
        for end in 0..header_bytes {
            assert!(Event::from_binary(&message[..end]).is_err(), "{end}");
        }
        assert!(Event::from_binary(b"\x02").is_err());
    }

    #[test]
    fn describes_gaps_of_one_and_of_several_channels() {
        for (json, channels) in [(r#"{"channel":"a""#, "a"), (r#"{"channels":["a","b"]"#, "a, b")] {
            let json = format!(r#"{json},"requested":"e-1","resumed_from":"f-9"}}"#);
            let gap: Gap = serde_json::from_str(&json).expect("a gap");
            let expected =
                format!("gap on {channels}: events after e-1 are no longer there; continues from f-9");
            assert_eq!(gap.describe(), expected);
        }
    }
}
