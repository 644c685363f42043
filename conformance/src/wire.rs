//! Bytes on a socket, for tests that must send what no client library would.
//! Knows enough of HTTP/1 to cut answers apart; must not be used where a library would do.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::Result;
use crate::http::Answer;
use crate::server::Server;

/// A connection.
pub struct Wire {
    stream: TcpStream,
    bytes: Vec<u8>,
    ended: bool,
}

impl Wire {
    /// Connects.
    ///
    /// # Errors
    /// When it cannot.
    pub fn connect(server: &Server) -> Result<Self> {
        let stream =
            TcpStream::connect(server.authority()).map_err(|error| format!("cannot connect: {error}"))?;
        Self::over(stream)
    }

    /// Connects to a `HOST:PORT` from this address of the machine: another client, as far as anybody can tell.
    ///
    /// # Errors
    /// When it cannot.
    pub fn connect_from(client: IpAddr, authority: &str) -> Result<Self> {
        let to: SocketAddr = authority.parse().map_err(|error| format!("{authority}: {error}"))?;
        let connect = || {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(client, 0).into())?;
            socket.connect(&to.into())?;
            Ok(socket.into())
        };
        Self::over(
            connect().map_err(|error: std::io::Error| format!("cannot connect from {client}: {error}"))?,
        )
    }

    fn over(stream: TcpStream) -> Result<Self> {
        stream.set_write_timeout(Some(Duration::from_secs(5))).map_err(|error| error.to_string())?;
        Ok(Self { stream, bytes: Vec::new(), ended: false })
    }

    /// Sends. That the peer has closed already is no error: what it said is still to be read.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The next whole answer.
    ///
    /// # Errors
    /// When it does not come in time or is no HTTP.
    pub fn answer(&mut self) -> Result<Answer> {
        self.answer_to("GET")
    }

    /// The next whole answer to a request with this method: one to HEAD has no body.
    ///
    /// # Errors
    /// When it does not come in time or is no HTTP.
    pub fn answer_to(&mut self, method: &str) -> Result<Answer> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some((answer, length)) = parse(&self.bytes, method, self.ended)? {
                self.bytes.drain(..length);
                return Ok(answer);
            }
            if self.ended || Instant::now() > deadline {
                let got = String::from_utf8_lossy(&self.bytes).into_owned();
                let how = if self.ended { "the end of the connection" } else { "nothing more" };
                return Err(format!("expected an answer, got {how} after {got:?}"));
            }
            self.read(deadline);
        }
    }

    /// Waits until the peer closes; what came since the last answer is returned.
    ///
    /// # Errors
    /// When it does not close in time.
    pub fn end(&mut self, within: Duration) -> Result<Vec<u8>> {
        let deadline = Instant::now() + within;
        while !self.ended {
            if Instant::now() > deadline {
                return Err(format!("the connection is still open after {within:?}"));
            }
            self.read(deadline);
        }
        Ok(std::mem::take(&mut self.bytes))
    }

    /// Reads until these bytes are there so many times.
    ///
    /// # Errors
    /// When they are not within 8 s, or the peer closes before.
    pub fn read_until(&mut self, mark: &[u8], times: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(8);
        while memchr::memmem::find_iter(&self.bytes, mark).count() < times {
            if self.ended || Instant::now() > deadline {
                let (mark, got) = (String::from_utf8_lossy(mark), String::from_utf8_lossy(&self.bytes));
                return Err(format!("expected {mark:?} {times} times in {got:?}"));
            }
            self.read(deadline);
        }
        Ok(())
    }

    /// Reads what comes until there is some, the end or the deadline.
    pub fn read(&mut self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let _ = self.stream.set_read_timeout(Some(left));
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.ended = true,
            Ok(count) => self.bytes.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.ended = true,
        }
    }

    /// What came and was not taken.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the peer closed.
    pub fn ended(&self) -> bool {
        self.ended
    }
}

/// An answer at the beginning of the bytes and its length, if it is whole.
fn parse(bytes: &[u8], method: &str, ended: bool) -> Result<Option<(Answer, usize)>> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status =
        first.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|text| text.parse().ok());
    let status: u16 = status.ok_or(format!("no status line: {first:?}"))?;
    let head: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut answer = Answer { status, head, body: Vec::new() };
    let length = match answer.field("content-length") {
        _ if method == "HEAD" || status < 200 || status == 304 => 0,
        Some(length) => length.parse::<usize>().map_err(|error| error.to_string())?,
        None if ended => bytes.len() - end - 4,
        None => return Ok(None),
    };
    let whole = end + 4 + length;
    if bytes.len() < whole {
        return Ok(None);
    }
    answer.body = bytes[end + 4..whole].to_vec();
    Ok(Some((answer, whole)))
}

/// Checks that the server serves others: health, a publish and a poll that shows it.
///
/// # Errors
/// What it does not do.
pub fn check_healthy(server: &Server) -> Result<()> {
    let agent = crate::http::agent(Duration::from_secs(5));
    let url = |path: &str| format!("{}{path}", server.url);
    let unwell =
        |error: String| format!("the server is unwell afterwards: {error}; its log: {}", server.log());
    let ask = |method: &str, path: &str, body: Option<&[u8]>| {
        crate::http::exchange(&agent, method, &url(path), &[], body).map_err(unwell)
    };
    let text = format!("{}", crate::random::clock());
    let health = ask("GET", "/healthz", None)?;
    let published = ask("POST", "/v1/channels/healthy/events", Some(text.as_bytes()))?;
    let state = ask("GET", "/v1/channels/healthy", None)?;
    let same = state.json()?["state"]["data"] == text.parse::<u64>().unwrap_or_default();
    if health.status != 200 || published.status != 201 || !same {
        return Err(unwell(format!("{} {} {}", health.text(), published.text(), state.text())));
    }
    Ok(())
}
