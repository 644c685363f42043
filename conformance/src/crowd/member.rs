//! One thin subscriber: a socket, the head of an answer, then numbers in the bytes that follow.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use socket2::{Domain, SockRef, Socket, Type};

use super::Ids;
use crate::Result;
use crate::random::Random;

/// The transports that hold a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// `/v1/ws`.
    WebSocket,
    /// Server-sent events.
    Sse,
    /// Long polls, one after another.
    LongPoll,
}

impl Over {
    /// One of them.
    pub fn any(random: &mut Random) -> Self {
        [Self::WebSocket, Self::Sse, Self::LongPoll][random.below(3)]
    }
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With this WebSocket close code.
    Closed(u16),
    /// It just ended.
    Cut,
}

/// One subscriber.
pub struct Member {
    stream: mio::net::TcpStream,
    over: Over,
    /// The number of the last event seen.
    pub seen: usize,
    /// How the connection ended, if it did.
    pub end: Option<End>,
    /// What was read and not understood yet.
    bytes: Vec<u8>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    /// So many bytes of a long poll's answer are still to come.
    Answer(usize),
    Stream,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "over {:?} ({:?}) after event {}", self.over, self.stage, self.seen)
    }
}

impl Member {
    /// Connects, having seen everything up to `seen`.
    pub(super) fn connect(server: &str, channel: &str, over: Over, seen: usize, ids: &Ids) -> Result<Self> {
        let stream = TcpStream::connect(server).map_err(|error| format!("cannot connect: {error}"))?;
        Self::over_stream(stream, server, channel, over, seen, ids)
    }

    /// Connects with so small a window that the server notices soon when nobody reads.
    ///
    /// # Errors
    /// When it cannot.
    pub fn connect_narrow(server: &str, channel: &str, over: Over, seen: usize, ids: &Ids) -> Result<Self> {
        let narrow = || -> std::io::Result<TcpStream> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_recv_buffer_size(4096)?;
            let address: SocketAddr = server.parse().map_err(std::io::Error::other)?;
            socket.connect(&address.into())?;
            Ok(socket.into())
        };
        let stream = narrow().map_err(|error| format!("cannot connect: {error}"))?;
        Self::over_stream(stream, server, channel, over, seen, ids)
    }

    fn over_stream(
        mut stream: TcpStream,
        server: &str,
        channel: &str,
        over: Over,
        seen: usize,
        ids: &Ids,
    ) -> Result<Self> {
        let asked = request(server, channel, over, &ids.since(seen));
        stream.write_all(asked.as_bytes()).map_err(|error| error.to_string())?;
        stream.set_nonblocking(true).map_err(|error| error.to_string())?;
        let stream = mio::net::TcpStream::from_std(stream);
        Ok(Self { stream, over, seen, end: None, bytes: Vec::new(), stage: Stage::Head })
    }

    pub(super) fn stream(&mut self) -> &mut mio::net::TcpStream {
        &mut self.stream
    }

    /// Undoes the narrowness of [`Member::connect_narrow`].
    ///
    /// # Errors
    /// When the system does not let it.
    pub fn widen(&self) -> Result<()> {
        SockRef::from(&self.stream).set_recv_buffer_size(1 << 20).map_err(|error| error.to_string())
    }

    /// Whether the server has let it in.
    pub fn is_subscribed(&self) -> bool {
        self.stage == Stage::Stream
    }

    /// Reads what is there, as much as is fair to the other members. True if there may be more.
    ///
    /// # Errors
    /// When something came that must not.
    pub fn read(&mut self, channel: &str, ids: &Ids) -> Result<bool> {
        let mut buffer = [0; 32 << 10];
        for _ in 0..4 {
            if self.end.is_some() {
                return Ok(false);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => self.end = Some(End::Cut),
                Ok(count) => {
                    self.bytes.extend_from_slice(&buffer[..count]);
                    self.understand(channel, ids)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.end = Some(End::Cut),
            }
        }
        Ok(true)
    }

    fn understand(&mut self, channel: &str, ids: &Ids) -> Result<()> {
        loop {
            match self.stage {
                Stage::Head => {
                    let Some(end) = find(&self.bytes, b"\r\n\r\n") else { return Ok(()) };
                    let head = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
                    self.bytes.drain(..end + 4);
                    self.take_head(&head, channel, ids)?;
                }
                Stage::Stream => return self.take_numbers(self.bytes.len()),
                Stage::Answer(length) if self.bytes.len() < length => return Ok(()),
                Stage::Answer(length) => {
                    self.take_numbers(length)?;
                    let asked = request("x", channel, Over::LongPoll, &ids.since(self.seen));
                    self.write(asked.as_bytes())?;
                    self.stage = Stage::Head;
                }
            }
        }
    }

    fn take_head(&mut self, head: &str, channel: &str, ids: &Ids) -> Result<()> {
        let status = head.split(' ').nth(1).unwrap_or_default();
        let length = head.to_ascii_lowercase().lines().find_map(|line| {
            line.strip_prefix("content-length:").and_then(|value| value.trim().parse().ok())
        });
        self.stage = match (self.over, status, length) {
            (Over::WebSocket, "101", _) => {
                let message = format!(
                    r#"{{"type":"subscribe","channel":"{channel}","since":"{}"}}"#,
                    ids.since(self.seen)
                );
                self.write(&masked(message.as_bytes()))?;
                Stage::Stream
            }
            (Over::Sse, "200", None) => Stage::Stream,
            (Over::LongPoll, "200", Some(length)) => Stage::Answer(length),
            _ => return Err(format!("expected an answer, got {head}")),
        };
        Ok(())
    }

    /// Checks the numbers in the first `length` bytes; a number that may go on stays for later.
    fn take_numbers(&mut self, length: usize) -> Result<()> {
        const MARK: &[u8] = b"\"n\":";
        let whole = self.stage != Stage::Stream;
        let mut from = 0;
        while let Some(place) = find(&self.bytes[from..length], MARK) {
            let start = from + place + MARK.len();
            let digits = self.bytes[start..length].iter().take_while(|byte| byte.is_ascii_digit()).count();
            if start + digits == length && !whole {
                break;
            }
            let number = self.bytes[start..start + digits]
                .iter()
                .fold(0, |n, digit| n * 10 + usize::from(digit - b'0'));
            if number != self.seen + 1 {
                return Err(format!("expected event {}, got {number}", self.seen + 1));
            }
            self.seen = number;
            from = start + digits;
        }
        if find(&self.bytes[..length], b"resumed_from").is_some() {
            return Err("a gap".to_owned());
        }
        if whole {
            self.bytes.drain(..length);
        } else {
            self.look_for_close(length);
            // As much as a mark and its number can be cut apart.
            let keep = from.max(length.saturating_sub(40));
            self.bytes.drain(..keep);
        }
        Ok(())
    }

    /// A close frame is the last thing that comes: 0x88, a length, a code from 1000 on.
    fn look_for_close(&mut self, length: usize) {
        let tail = &self.bytes[length.saturating_sub(40)..length];
        let close = tail.windows(4).enumerate().find_map(|(at, frame)| {
            let ends_here = frame[0] == 0x88 && at + 2 + usize::from(frame[1]) == tail.len();
            ends_here.then(|| u16::from_be_bytes([frame[2], frame[3]]))
        });
        if let (Over::WebSocket, Some(code)) = (self.over, close) {
            self.end = Some(End::Closed(code));
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        // A request fits into the socket's buffer, or the peer has gone.
        self.stream.write_all(bytes).map_err(|error| format!("cannot send: {error}"))
    }
}

fn request(server: &str, channel: &str, over: Over, since: &str) -> String {
    let events = format!("/v1/channels/{channel}/events?since={since}");
    let (target, more) = match over {
        Over::WebSocket => (
            "/v1/ws".to_owned(),
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        ),
        Over::Sse => (events, "Accept: text/event-stream\r\n"),
        Over::LongPoll => (format!("{events}&wait=30&limit=1000"), ""),
    };
    format!("GET {target} HTTP/1.1\r\nHost: {server}\r\n{more}\r\n")
}

/// A client's text frame; the mask is zero, which leaves the bytes as they are.
fn masked(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, mark)
}
