//! An HTTP/1.1 connection that counts its bytes, with nothing hidden in a library.
//! Must not know what is measured.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use crate::client::endpoint::Endpoint;
use crate::client::stream::Stream;

/// How long a write may take.
const WRITE_MAX: Duration = Duration::from_secs(60);
/// How long a read waits before the caller may look around.
const TICK: Duration = Duration::from_millis(50);
/// The largest answer that is taken.
const BUFFER_BYTES_MAX: usize = 64 << 20;

/// The connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    host: String,
    /// The header field that says who asks, if anything does.
    authorization: String,
    /// What has come and was not consumed.
    pub(super) buffer: Vec<u8>,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
}

impl Wire {
    pub(super) fn connect(endpoint: &Endpoint) -> Result<Self, String> {
        let connected = Stream::connect(endpoint, WRITE_MAX)
            .and_then(|stream| stream.set_read_timeout(TICK).map(|()| stream));
        let authorization = endpoint.authorization();
        Ok(Self {
            stream: connected.map_err(|error| format!("{}: {error}", endpoint.authority()))?,
            host: endpoint.authority(),
            authorization: authorization
                .map(|value| format!("Authorization: {value}\r\n"))
                .unwrap_or_default(),
            buffer: Vec::new(),
            received_bytes: 0,
            sent_bytes: 0,
        })
    }

    /// Sends a request. `fields` are whole lines.
    pub(super) fn request(
        &mut self,
        method: &str,
        path: &str,
        fields: &str,
        body: &[u8],
    ) -> Result<(), String> {
        let who = &self.authorization;
        let mut bytes =
            format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{who}{fields}", self.host).into_bytes();
        if method == "POST" {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        self.send(&bytes)
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.sent_bytes += bytes.len() as u64;
        self.stream.write_all(bytes).map_err(|error| format!("cannot send: {error}"))
    }

    /// Reads once into the buffer. False if nothing came within a moment.
    pub(super) fn fill(&mut self) -> Result<bool, String> {
        let mut piece = [0; 16 << 10];
        match self.stream.read(&mut piece) {
            Ok(0) => Err("the server, or something before it, closed the connection".to_owned()),
            Ok(_) if self.buffer.len() > BUFFER_BYTES_MAX => Err("an answer is too large".to_owned()),
            Ok(length) => {
                self.received_bytes += length as u64;
                self.buffer.extend_from_slice(&piece[..length]);
                Ok(true)
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(format!("cannot receive: {error}")),
        }
    }

    /// Takes an answer's head out of the buffer: its status and its lines, in lower case.
    pub(super) fn head(&mut self, wait: Duration) -> Result<(u16, String), String> {
        let deadline = Instant::now() + wait;
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
                self.buffer.drain(..end + 4);
                let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
                return status
                    .map(|status| (status, head))
                    .ok_or_else(|| "the answer is not HTTP".to_owned());
            }
            if Instant::now() > deadline {
                return Err(format!("no answer within {} s", wait.as_secs()));
            }
            self.fill()?;
        }
    }

    /// Takes a whole answer with a known length: its status and body.
    pub(super) fn answer(&mut self, wait: Duration) -> Result<(u16, Vec<u8>), String> {
        let deadline = Instant::now() + wait;
        let (status, head) = self.head(wait)?;
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        let length = match length {
            Some(length) => length,
            None if status == 304 => 0,
            None => return Err("something on the path removes Content-Length; measure without it".to_owned()),
        };
        while self.buffer.len() < length {
            if Instant::now() > deadline {
                return Err("an answer stopped half-way".to_owned());
            }
            self.fill()?;
        }
        Ok((status, self.buffer.drain(..length).collect()))
    }
}
