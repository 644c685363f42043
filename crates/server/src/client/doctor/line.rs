//! One HTTP/1.1 connection on which nothing is hidden: heads as they came, bodies piece by piece, and when.
//! Must not know what is asked for, nor what an answer means.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use super::framing::Framing;
use crate::client::endpoint::Endpoint;
use crate::client::stream::Stream;

/// How long a connection may take to come about, and a write.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// The largest answer that is taken.
const BODY_BYTES_MAX: usize = 16 << 20;
/// The largest head that is taken.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Why there is no answer, or no whole one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No connection.
    Connect(String),
    /// It was closed this long after the request.
    Closed(Duration),
    /// Nothing came for this long.
    Silent(Duration),
    /// What came is no HTTP/1.x.
    Garbled(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(why) => write!(f, "no connection ({why})"),
            Self::Closed(after) => {
                write!(
                    f,
                    "the connection was closed after {:.1} s without a whole answer",
                    after.as_secs_f64()
                )
            }
            Self::Silent(after) => write!(f, "no whole answer within {:.1} s", after.as_secs_f64()),
            Self::Garbled(what) => write!(f, "the answer is no HTTP/1.x ({what})"),
        }
    }
}

/// The head of an answer, as it came.
#[derive(Debug, Clone, Default)]
pub(super) struct Head {
    /// `HTTP/1.0` or `HTTP/1.1`.
    pub(super) version: String,
    pub(super) status: u16,
    /// Names in lower case.
    fields: Vec<(String, String)>,
}

impl Head {
    fn parse(bytes: &[u8]) -> Result<Self, Trouble> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let mut words = first.split(' ');
        let version = words.next().filter(|version| version.starts_with("HTTP/1.")).map(str::to_owned);
        let status = words.next().and_then(|status| status.parse().ok());
        let (Some(version), Some(status)) = (version, status) else {
            return Err(Trouble::Garbled(format!("{:?}", first.chars().take(60).collect::<String>())));
        };
        let fields = lines.filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        Ok(Self { version, status, fields: fields.collect() })
    }

    /// The first field of this name, which is in lower case.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All fields of this name.
    pub(super) fn fields<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether one of the comma-separated items of this field is `item`, which is in lower case.
    pub(super) fn names(&self, name: &str, item: &str) -> bool {
        self.fields(name)
            .flat_map(|value| value.split(','))
            .any(|found| found.trim().eq_ignore_ascii_case(item))
    }

    /// How the answer is compressed, if it is.
    pub(super) fn compression(&self) -> Option<&str> {
        self.field("content-encoding").filter(|coding| !coding.eq_ignore_ascii_case("identity"))
    }
}

/// A whole answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    pub(super) head: Head,
    pub(super) body: Vec<u8>,
}

/// A request. `fields` are whole lines.
#[derive(Debug, Clone, Default)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) fields: &'a str,
    pub(super) body: Option<&'a [u8]>,
    /// Leaves the token out, which then is shown in another way, or not at all.
    pub(super) anonymous: bool,
}

/// The next of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Bytes(Vec<u8>),
    /// Nothing came until then.
    Nothing,
    /// The body is over, by its own framing or by the connection's end.
    End,
}

/// The connection, with one request on its way.
#[derive(Debug)]
pub(super) struct Line {
    stream: Stream,
    buffer: Vec<u8>,
    framing: Framing,
    asked: Instant,
    ended: bool,
}

impl Line {
    /// Connects and sends `request`.
    pub(super) fn ask(endpoint: &Endpoint, request: &Request<'_>) -> Result<Self, Trouble> {
        let connected = Stream::connect(endpoint, CONNECT_MAX);
        let mut stream = connected.map_err(|error| Trouble::Connect(error.to_string()))?;
        let Request { method, path, fields, body, anonymous } = request;
        let token = endpoint.authorization().filter(|_| !anonymous);
        let token = token.map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
        let length = body.map(|body| format!("Content-Length: {}\r\n", body.len())).unwrap_or_default();
        let (host, agent) = (endpoint.authority(), concat!("tidewire/", env!("CARGO_PKG_VERSION")));
        let path = endpoint.path(path);
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\n{token}{length}{fields}\r\n"
        );
        let asked = Instant::now();
        let bytes = [head.as_bytes(), body.unwrap_or_default()].concat();
        // A server that refuses at once may have closed already; its answer can still be read.
        let _ = stream.write_all(&bytes).and_then(|()| stream.flush());
        Ok(Self { stream, buffer: Vec::new(), framing: Framing::default(), asked, ended: false })
    }

    /// Takes the head of the answer. `Silent` leaves the connection as it is, so that one can wait on.
    pub(super) fn head(&mut self, until: Instant) -> Result<Head, Trouble> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = Head::parse(&self.buffer[..end])?;
                self.buffer.drain(..end + 4);
                // Only 101 is an answer of its own among those that are not the last.
                if (100..200).contains(&head.status) && head.status != 101 {
                    continue;
                }
                self.framing = Framing::of(&head);
                return Ok(head);
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(Trouble::Garbled("a head without an end".to_owned()));
            }
            if self.ended {
                return Err(Trouble::Closed(self.asked.elapsed()));
            }
            if !self.fill(until) {
                return Err(Trouble::Silent(self.asked.elapsed()));
            }
        }
    }

    /// The next bytes of the body, without the framing.
    pub(super) fn piece(&mut self, until: Instant) -> Piece {
        loop {
            let bytes = self.framing.take(&mut self.buffer);
            if !bytes.is_empty() {
                return Piece::Bytes(bytes);
            }
            if self.framing.is_over() || self.ended {
                return Piece::End;
            }
            if !self.fill(until) {
                return Piece::Nothing;
            }
        }
    }

    /// Takes the whole answer.
    pub(super) fn answer(&mut self, until: Instant) -> Result<Answer, Trouble> {
        let head = self.head(until)?;
        self.rest(head, until)
    }

    /// Takes the body that belongs to `head`.
    pub(super) fn rest(&mut self, head: Head, until: Instant) -> Result<Answer, Trouble> {
        let mut body = Vec::new();
        loop {
            match self.piece(until) {
                Piece::Bytes(bytes) => body.extend_from_slice(&bytes),
                Piece::Nothing => return Err(Trouble::Silent(self.asked.elapsed())),
                Piece::End if self.framing.is_whole(self.ended) => return Ok(Answer { head, body }),
                Piece::End => return Err(Trouble::Closed(self.asked.elapsed())),
            }
            if body.len() > BODY_BYTES_MAX {
                return Err(Trouble::Garbled(format!("more than {BODY_BYTES_MAX} bytes")));
            }
        }
    }

    /// What is left for another protocol, with what came of it already.
    pub(super) fn into_parts(self) -> (Stream, Vec<u8>) {
        (self.stream, self.buffer)
    }

    /// Reads once. False if nothing came in time; an end counts as something.
    fn fill(&mut self, until: Instant) -> bool {
        let mut piece = [0; 16 << 10];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let outcome = self.stream.set_read_timeout(left).and_then(|()| self.stream.read(&mut piece));
            match outcome {
                Ok(length) => {
                    self.ended = length == 0;
                    self.buffer.extend_from_slice(&piece[..length]);
                    return true;
                }
                Err(error) if is_no_end(error.kind()) => {}
                Err(_) => {
                    self.ended = true;
                    return true;
                }
            }
        }
    }
}

/// Whether a read that failed so may be tried again.
pub(super) fn is_no_end(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
