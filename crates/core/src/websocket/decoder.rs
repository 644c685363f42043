//! From bytes to messages: frames, fragments, masks, limits (RFC 6455 section 5).
//! Must not know what messages mean, nor send anything: the caller answers pings and closes.

use super::close::{CloseCode, CloseFrame, Violation};
use super::deflate::Inflater;
use super::frame::{CONTROL_BYTES_MAX, HEADER_BYTES_MAX, Header, OpCode, unmask};
use super::utf8::Utf8Check;

/// Which end of the connection decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Frames must be masked.
    Server,
    /// Frames must not be masked.
    Client,
}

/// A message, borrowed from wherever it came to lie.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Text.
    Text(&'a str),
    /// Bytes.
    Binary(&'a [u8]),
    /// Must be answered with a pong of the same payload.
    Ping(&'a [u8]),
    /// The answer to a ping.
    Pong(&'a [u8]),
    /// The peer closes; must be answered with a close, unless one was sent.
    Close(Option<CloseFrame<'a>>),
}

/// Bytes from the socket, consumed from the front. They are changed: payloads are unmasked in place.
#[derive(Debug)]
pub struct Input<'i> {
    bytes: &'i mut [u8],
    at: usize,
}

impl<'i> Input<'i> {
    /// Bytes as the socket gave them.
    pub fn new(bytes: &'i mut [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The bytes that are left.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// Consumes `length` bytes, unmasked from the mask's byte `phase` on; gives where they are.
    fn take(&mut self, length: usize, mask: Option<[u8; 4]>, phase: u64) -> std::ops::Range<usize> {
        let range = self.at..self.at + length;
        self.at = range.end;
        if let Some(mask) = mask {
            unmask(&mut self.bytes[range.clone()], mask, (phase % 4) as usize);
        }
        range
    }
}

/// Decodes one connection's bytes. Between messages it holds no memory but itself.
///
/// `next` takes bytes in and gives messages out until it gives `None`; what is left of the input then
/// is kept for the next call. After a [`Violation`] or a [`Message::Close`] it gives nothing more.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    deflate: bool,
    ended: bool,
    /// What has come of a message that is not complete.
    partial: Option<Box<Partial>>,
}

#[derive(Debug, Default)]
struct Partial {
    header: [u8; HEADER_BYTES_MAX],
    header_bytes: usize,
    /// The frame under way and how much of its payload has come.
    frame: Option<(Header, u64)>,
    /// The payload of a control frame under way.
    control: Vec<u8>,
    /// The message under way: what it is, whether it is compressed, what has come of it.
    message: Option<(OpCode, bool)>,
    data: Vec<u8>,
    utf8: Utf8Check,
    /// What is given out may lie here, so it is cleared at the next call.
    given: Option<Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Control,
    Data,
}

/// Where a complete message lies.
enum Found {
    Input(OpCode, std::ops::Range<usize>),
    Partial(OpCode, Place),
    Inflated(OpCode),
}

impl Decoder {
    /// A decoder for a connection that has just shaken hands.
    pub fn new(role: Role, deflate: bool) -> Self {
        Self { role, deflate, ended: false, partial: None }
    }

    /// The next complete message.
    ///
    /// # Errors
    /// The peer broke a rule, or the message has more than `bytes_max` bytes (inflated): close with the code.
    pub fn next<'a>(
        &'a mut self,
        input: &'a mut Input<'_>,
        inflater: &'a mut Inflater,
        bytes_max: usize,
    ) -> Result<Option<Message<'a>>, Violation> {
        if self.ended {
            return Ok(None);
        }
        self.clear_given();
        let found = match self.find(input, inflater, bytes_max) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(violation) => {
                self.end();
                return Err(violation);
            }
        };
        let (opcode, place) = match &found {
            Found::Input(opcode, _) | Found::Inflated(opcode) => (*opcode, None),
            Found::Partial(opcode, place) => (*opcode, Some(*place)),
        };
        self.ended = opcode == OpCode::Close;
        let bytes: &[u8] = match (found, &mut self.partial) {
            (Found::Input(_, range), _) => &input.bytes[range],
            (Found::Inflated(_), _) => inflater.output(),
            (Found::Partial(..), Some(partial)) => {
                partial.given = place;
                if place == Some(Place::Control) { &partial.control } else { &partial.data }
            }
            (Found::Partial(..), None) => &[],
        };
        match opcode {
            OpCode::Text => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Some(Message::Text(text))),
                Err(_) => Err(not_utf8()),
            },
            OpCode::Binary | OpCode::Continuation => Ok(Some(Message::Binary(bytes))),
            OpCode::Ping => Ok(Some(Message::Ping(bytes))),
            OpCode::Pong => Ok(Some(Message::Pong(bytes))),
            OpCode::Close => parse_close(bytes).map(|frame| Some(Message::Close(frame))),
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.partial = None;
    }

    fn clear_given(&mut self) {
        let Some(partial) = &mut self.partial else { return };
        match partial.given.take() {
            Some(Place::Control) => partial.control = Vec::new(),
            Some(Place::Data) => partial.data = Vec::new(),
            None => {}
        }
        if partial.message.is_none() && partial.frame.is_none() && partial.header_bytes == 0 {
            self.partial = None;
        }
    }

    fn find(
        &mut self,
        input: &mut Input<'_>,
        inflater: &mut Inflater,
        bytes_max: usize,
    ) -> Result<Option<Found>, Violation> {
        loop {
            let begun = self.partial.as_mut().and_then(|partial| partial.frame.take());
            // A frame that is begun has left its mark in the partial message, and must go on there.
            let is_new = begun.is_none();
            let (header, received) = match begun {
                Some(frame) => frame,
                None => match self.header(input)? {
                    Some(header) => {
                        self.check(&header, bytes_max)?;
                        (header, 0)
                    }
                    None => return Ok(None),
                },
            };
            let left = header.payload_bytes - received;
            let whole = is_new && left <= input.remaining() as u64;
            if whole
                && (header.opcode.is_control() || (header.is_final && header.opcode != OpCode::Continuation))
            {
                let range = input.take(left as usize, header.mask, 0);
                return self.whole_frame(&header, range, input, inflater, bytes_max).map(Some);
            }
            let length = left.min(input.remaining() as u64) as usize;
            let range = input.take(length, header.mask, received);
            let found = self.piece(header, received, &input.bytes[range], inflater, bytes_max)?;
            if found.is_some() {
                return Ok(found);
            }
            if (length as u64) < left {
                return Ok(None);
            }
        }
    }

    /// The next frame's header, from what was left over and the input.
    fn header(&mut self, input: &mut Input<'_>) -> Result<Option<Header>, Violation> {
        if self.partial.as_ref().is_none_or(|partial| partial.header_bytes == 0) {
            if let Some(header) = Header::parse(input.rest())? {
                input.at += header.header_bytes;
                return Ok(Some(header));
            }
            if input.remaining() == 0 {
                return Ok(None);
            }
        }
        let partial = self.partial.get_or_insert_default();
        while let Some(&byte) = input.rest().first() {
            partial.header[partial.header_bytes] = byte;
            partial.header_bytes += 1;
            input.at += 1;
            // At the fourteenth byte at the latest there is a header or a violation.
            if let Some(header) = Header::parse(&partial.header[..partial.header_bytes])? {
                partial.header_bytes = 0;
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    /// Rules about a frame in its place: roles, extensions, fragments, sizes.
    fn check(&self, header: &Header, bytes_max: usize) -> Result<(), Violation> {
        match (self.role, header.mask) {
            (Role::Server, None) => return Err(Violation::protocol("a client's frame is not masked")),
            (Role::Client, Some(_)) => return Err(Violation::protocol("a server's frame is masked")),
            _ => {}
        }
        if header.opcode.is_control() {
            debug_assert!(header.payload_bytes <= CONTROL_BYTES_MAX);
            return Ok(());
        }
        let in_message = self.partial.as_ref().is_some_and(|partial| partial.message.is_some());
        match (header.opcode == OpCode::Continuation, in_message) {
            (true, false) => return Err(Violation::protocol("a continuation continues nothing")),
            (false, true) => return Err(Violation::protocol("a message begins within another")),
            _ => {}
        }
        if header.is_compressed && (!self.deflate || header.opcode == OpCode::Continuation) {
            return Err(Violation::protocol("a frame is compressed where none may be"));
        }
        let before = self.partial.as_ref().map_or(0, |partial| partial.data.len() as u64);
        if header.payload_bytes > (bytes_max as u64).saturating_sub(before) {
            return Err(Violation::too_big());
        }
        Ok(())
    }

    /// A control frame or an unfragmented message that lies in the input as a whole.
    fn whole_frame(
        &mut self,
        header: &Header,
        range: std::ops::Range<usize>,
        input: &Input<'_>,
        inflater: &mut Inflater,
        bytes_max: usize,
    ) -> Result<Found, Violation> {
        if header.is_compressed {
            return inflated(header.opcode, &input.bytes[range], inflater, bytes_max);
        }
        Ok(Found::Input(header.opcode, range))
    }

    /// A piece of a frame's payload.
    fn piece(
        &mut self,
        header: Header,
        received: u64,
        piece: &[u8],
        inflater: &mut Inflater,
        bytes_max: usize,
    ) -> Result<Option<Found>, Violation> {
        let partial = self.partial.get_or_insert_default();
        let received = received + piece.len() as u64;
        let complete = received == header.payload_bytes;
        if !complete {
            partial.frame = Some((header, received));
        }
        if header.opcode.is_control() {
            partial.control.extend_from_slice(piece);
            return Ok(complete.then_some(Found::Partial(header.opcode, Place::Control)));
        }
        let first = (header.opcode, header.is_compressed);
        let (opcode, compressed) = *partial.message.get_or_insert(first);
        let text = opcode == OpCode::Text && !compressed;
        if text {
            partial.utf8.feed(piece).map_err(|_| not_utf8())?;
        }
        partial.data.extend_from_slice(piece);
        if !(complete && header.is_final) {
            return Ok(None);
        }
        partial.message = None;
        if text {
            partial.utf8.finish().map_err(|_| not_utf8())?;
        }
        if compressed {
            let data = std::mem::take(&mut partial.data);
            return inflated(opcode, &data, inflater, bytes_max).map(Some);
        }
        Ok(Some(Found::Partial(opcode, Place::Data)))
    }
}

fn inflated(
    opcode: OpCode,
    data: &[u8],
    inflater: &mut Inflater,
    bytes_max: usize,
) -> Result<Found, Violation> {
    inflater.inflate(data, bytes_max)?;
    Ok(Found::Inflated(opcode))
}

fn not_utf8() -> Violation {
    Violation::data("a text message is not UTF-8")
}

fn parse_close(payload: &[u8]) -> Result<Option<CloseFrame<'_>>, Violation> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [_] => return Err(Violation::protocol("a close frame has one byte")),
        [high, low, reason @ ..] => (CloseCode(u16::from_be_bytes([*high, *low])), reason),
    };
    if !code.may_be_received() {
        return Err(Violation::protocol("a close code is not one that may be sent"));
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Violation::data("a close reason is not UTF-8"))?;
    Ok(Some(CloseFrame { code, reason }))
}
