//! The binary frames of `/v1/ws` (PROTOCOL.md section 3.1): a short header, then the data untouched.
//! Must not know WebSocket framing; a frame here is a message's payload.

use crate::error::{Code, Problem};
use crate::event::Event;

const EVENT: u8 = 0x01;
const PUBLISH: u8 = 0x02;

/// The payload of the binary message that delivers an event of kind bytes.
pub fn event(event: &Event) -> Vec<u8> {
    let mut id = Vec::with_capacity(crate::EventId::TOKEN_BYTES_MAX);
    event.id.push_to(&mut id);
    let data = event.payload.data();
    let mut out = Vec::with_capacity(event.size_bytes() + event.channel.as_str().len() + id.len() + 16);
    out.push(EVENT);
    push_short(&mut out, event.channel.as_str().as_bytes());
    push_short(&mut out, &id);
    push_short(&mut out, event.name.as_deref().unwrap_or_default().as_bytes());
    push_long(&mut out, event.key.as_deref().unwrap_or_default().as_bytes());
    push_short(&mut out, event.payload.content_type().unwrap_or_default().as_bytes());
    out.extend_from_slice(&event.time.0.to_be_bytes());
    out.extend_from_slice(data);
    out
}

fn push_short(out: &mut Vec<u8>, text: &[u8]) {
    out.push(u8::try_from(text.len()).expect("names, ids and content types have at most 200 bytes"));
    out.extend_from_slice(text);
}

fn push_long(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&u16::try_from(text.len()).expect("keys have at most 256 bytes").to_be_bytes());
    out.extend_from_slice(text);
}

/// A client's binary publish. Empty texts mean that the member is not given.
#[derive(Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// The channel, unchecked.
    pub channel: &'a str,
    /// The message id to echo.
    pub message_id: &'a str,
    /// The event's name.
    pub event: &'a str,
    /// The event's key.
    pub key: &'a str,
    /// The content type.
    pub content_type: &'a str,
    /// The idempotency key.
    pub idempotency_key: &'a str,
    /// The data.
    pub data: &'a [u8],
}

impl<'a> Publish<'a> {
    /// Reads a client's binary message.
    ///
    /// # Errors
    /// `invalid_message` if the header ends early or is not UTF-8, `unknown_type` for another first byte.
    pub fn parse(message: &'a [u8]) -> Result<Self, Problem> {
        let (&kind, rest) = message.split_first().ok_or_else(truncated)?;
        if kind != PUBLISH {
            let detail = format!("a binary message begins with 0x02 (publish), not {kind:#04x}");
            return Err(Problem::new(Code::UnknownType, detail));
        }
        let mut header = Header(rest);
        Ok(Self {
            channel: header.short()?,
            message_id: header.short()?,
            event: header.short()?,
            key: header.long()?,
            content_type: header.short()?,
            idempotency_key: header.long()?,
            data: header.0,
        })
    }
}

struct Header<'a>(&'a [u8]);

impl<'a> Header<'a> {
    fn short(&mut self) -> Result<&'a str, Problem> {
        let length = usize::from(self.take(1)?[0]);
        self.text(length)
    }

    fn long(&mut self) -> Result<&'a str, Problem> {
        let length = self.take(2)?;
        self.text(usize::from(u16::from_be_bytes([length[0], length[1]])))
    }

    fn text(&mut self, length: usize) -> Result<&'a str, Problem> {
        std::str::from_utf8(self.take(length)?)
            .map_err(|_| Problem::new(Code::InvalidMessage, "the header of the binary message is not UTF-8"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Problem> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(truncated)?;
        self.0 = rest;
        Ok(taken)
    }
}

fn truncated() -> Problem {
    Problem::new(
        Code::InvalidMessage,
        "the binary message ends within its header; see PROTOCOL.md section 3.1",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_publish_and_refuses_every_cut_of_its_header() {
        let message = b"\x02\x01a\x017\x04tick\x00\x01k\x00\x00\x02i1data";
        let publish = Publish::parse(message).expect("a publish");
        assert_eq!((publish.channel, publish.message_id, publish.event), ("a", "7", "tick"));
        assert_eq!((publish.key, publish.content_type, publish.idempotency_key), ("k", "", "i1"));
        assert_eq!(publish.data, b"data");
        for end in 0..message.len() - 4 {
            assert_eq!(
                Publish::parse(&message[..end]).map_err(|p| p.code),
                Err(Code::InvalidMessage),
                "{end}"
            );
        }
        assert_eq!(Publish::parse(b"\x01").map_err(|p| p.code), Err(Code::UnknownType));
    }
}
