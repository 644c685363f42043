//! A stream of an HTTP/2 connection as a socket of its own, on which HTTP/1.1 is spoken: so every rule and every
//! transport is the same over both. It holds no more than one frame in each direction; what the peer's window does
//! not take is not taken here. Must not know what is asked or answered.

use std::io;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::Request;

use super::translate::{self, Body, Framing};

/// The longest head of an answer.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// One stream.
pub(crate) struct Stream {
    /// The number of the connection that carries it.
    pub(crate) carrier: u32,
    incoming: Incoming,
    outgoing: Outgoing,
    is_shut: bool,
    /// Wakes whoever serves the stream.
    waker: Waker,
}

struct Incoming {
    /// What is to be read next.
    text: Bytes,
    body: RecvStream,
    framing: Framing,
    /// The body has come whole.
    ended: bool,
}

enum Outgoing {
    /// The head of the answer, as far as it has come.
    Head {
        respond: SendResponse<Bytes>,
        head: Vec<u8>,
        is_bodiless: bool,
    },
    Body {
        stream: SendStream<Bytes>,
        body: Body,
    },
    /// All of it is out.
    Complete,
}

impl Stream {
    /// A stream whose request has come; the error says what is wrong with it.
    pub(crate) fn new(
        carrier: u32,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        waker: Waker,
    ) -> Result<Self, (SendResponse<Bytes>, &'static str)> {
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, ());
        let ended = body.is_end_stream();
        let translated = match translate::request(&request, ended) {
            Ok(translated) => translated,
            Err(wrong) => return Err((respond, wrong)),
        };
        let is_bodiless = request.method() == http::Method::HEAD;
        Ok(Self {
            carrier,
            incoming: Incoming { text: translated.head.into(), body, framing: translated.framing, ended },
            outgoing: Outgoing::Head { respond, head: Vec::new(), is_bodiless },
            is_shut: false,
            waker,
        })
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let text = &mut self.incoming.text;
            if text.has_remaining() {
                let taken = text.remaining().min(buffer.len());
                text.copy_to_slice(&mut buffer[..taken]);
                return Ok(taken);
            }
            if self.incoming.ended {
                return self.read_end();
            }
            match self.incoming.body.poll_data(&mut Context::from_waker(&self.waker)) {
                Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
                Poll::Ready(Some(Ok(data))) => {
                    self.incoming.take(data)?;
                    if self.is_shut {
                        self.incoming.text = Bytes::new();
                    }
                }
                Poll::Ready(Some(Err(error))) => return Err(broken(error)),
                Poll::Ready(None) => {
                    self.incoming.ended = true;
                    if self.incoming.framing == Framing::Chunked && !self.is_shut {
                        self.incoming.text = Bytes::from_static(b"0\r\n\r\n");
                    }
                }
            }
        }
    }

    /// A request ends where its body does, and waits for its answer; only then is the peer done.
    fn read_end(&mut self) -> io::Result<usize> {
        let mut context = Context::from_waker(&self.waker);
        let reset = match &mut self.outgoing {
            Outgoing::Complete => return Ok(0),
            _ if self.incoming.framing == Framing::Tunnel => return Ok(0),
            Outgoing::Head { respond, .. } => respond.poll_reset(&mut context),
            Outgoing::Body { stream, .. } => stream.poll_reset(&mut context),
        };
        match reset {
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            Poll::Ready(_) => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.outgoing {
            Outgoing::Head { .. } => self.write_head(bytes),
            Outgoing::Body { .. } => self.write_body(bytes),
            // There is no more to an answer than its head said.
            Outgoing::Complete => Ok(bytes.len()),
        }
    }

    fn write_head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Outgoing::Head { respond, head, is_bodiless } = &mut self.outgoing else { return Ok(0) };
        let before = head.len();
        head.extend_from_slice(bytes);
        let Some(end) = memchr::memmem::find(head, b"\r\n\r\n").map(|end| end + 4) else {
            return if head.len() > HEAD_BYTES_MAX { Err(unfit()) } else { Ok(bytes.len()) };
        };
        let (answer, body) = translate::answer(&head[..end], *is_bodiless).map_err(|_| unfit())?;
        let is_all = body == Body::Known(0);
        let stream = respond.send_response(answer, is_all).map_err(broken)?;
        self.outgoing = if is_all { Outgoing::Complete } else { Outgoing::Body { stream, body } };
        Ok(end - before)
    }

    fn write_body(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Outgoing::Body { stream, body } = &mut self.outgoing else { return Ok(0) };
        let mut context = Context::from_waker(&self.waker);
        if stream.poll_reset(&mut context).is_ready() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let wanted = match body {
            Body::Known(left) => bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX)),
            Body::Open => bytes.len(),
        };
        stream.reserve_capacity(wanted);
        while stream.capacity() == 0 {
            match stream.poll_capacity(&mut context) {
                Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Err(broken(error)),
                Poll::Ready(None) => return Err(io::ErrorKind::ConnectionReset.into()),
            }
        }
        let taken = stream.capacity().min(wanted);
        let mut is_last = false;
        if let Body::Known(left) = body {
            *left -= taken as u64;
            is_last = *left == 0;
        }
        stream.send_data(Bytes::copy_from_slice(&bytes[..taken]), is_last).map_err(broken)?;
        if is_last {
            self.outgoing = Outgoing::Complete;
        }
        Ok(taken)
    }

    pub(super) fn shut_down(&mut self) {
        match &mut self.outgoing {
            Outgoing::Body { stream, body: Body::Open } => {
                // Whoever has reset the stream needs no end.
                let _ = stream.send_data(Bytes::new(), true);
            }
            Outgoing::Body { stream, .. } => stream.send_reset(h2::Reason::INTERNAL_ERROR),
            Outgoing::Head { respond, .. } => respond.send_reset(h2::Reason::CANCEL),
            Outgoing::Complete => {}
        }
        self.outgoing = Outgoing::Complete;
        // The rest of the request is read to its end and dropped: some clients, when their upload is cut short, do not
        // look at the answer that they have.
        self.is_shut = true;
        self.incoming.text = Bytes::new();
    }
}

impl Incoming {
    /// The peer may send as much again once this is read, and it is read before the next is taken.
    fn take(&mut self, data: Bytes) -> io::Result<()> {
        self.body.flow_control().release_capacity(data.len()).map_err(broken)?;
        self.text = match self.framing {
            Framing::Chunked if !data.is_empty() => {
                let mut chunk = format!("{:x}\r\n", data.len()).into_bytes();
                chunk.extend_from_slice(&data);
                chunk.extend_from_slice(b"\r\n");
                chunk.into()
            }
            _ => data,
        };
        Ok(())
    }
}

fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

fn unfit() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an answer that HTTP/2 has no words for")
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Stream").field("carrier", &self.carrier).finish_non_exhaustive()
    }
}
