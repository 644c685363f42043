//! What a connection reads from and writes to: a TCP socket, TLS over one, or a stream of an HTTP/2 connection. It is
//! never waited for. Must not know
//! what the bytes mean.

mod carrier;
mod stream;
mod tls;
mod translate;

use std::io::{self, Read, Write};
use std::net::Shutdown;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

pub(crate) use carrier::{Carrier, Opened};
pub(crate) use stream::Stream;
pub(crate) use tls::Tls;

/// The peer's end of the wire.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Tls(Box<Tls>),
    Stream(Box<Stream>),
}

impl Socket {
    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self.tcp() {
            Some(tcp) => registry.register(tcp, token, Interest::READABLE | Interest::WRITABLE),
            // It is woken by what carries it.
            None => Ok(()),
        }
    }

    fn tcp(&mut self) -> Option<&mut TcpStream> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::Tls(tls) => Some(tls.tcp()),
            Self::Stream(_) => None,
        }
    }

    /// The number of the connection that carries it, if one does.
    pub(crate) fn carrier(&self) -> Option<u32> {
        match self {
            Self::Stream(stream) => Some(stream.carrier),
            Self::Tcp(_) | Self::Tls(_) => None,
        }
    }

    /// Whether both sides agreed to speak HTTP/2.
    pub(crate) fn agreed_on_http2(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.protocol() == Some(b"h2"))
    }

    /// Reads what has come; 0 at the end of the peer's bytes.
    ///
    /// # Errors
    /// `WouldBlock` where nothing has.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
            Self::Stream(stream) => stream.read(buffer),
        }
    }

    /// Looks at what has come below TLS, and leaves it there.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) fn peek(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tcp().map_or(Ok(0), |tcp| tcp.peek(buffer))
    }

    /// Takes what has come below TLS.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) fn read_below(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tcp().map_or(Ok(0), |tcp| tcp.read(buffer))
    }

    /// Whether TLS is spoken on it.
    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Takes as much as there is room for.
    ///
    /// # Errors
    /// `WouldBlock` where there is none.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
            Self::Stream(stream) => stream.write(bytes),
        }
    }

    /// Passes on what it took and still has. False if it still has some.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        match self {
            Self::Tcp(_) | Self::Stream(_) => Ok(true),
            Self::Tls(tls) => tls.flush(),
        }
    }

    /// Whether it took bytes that have not gone out.
    pub(crate) fn has_some(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Stream(_) => false,
            Self::Tls(tls) => tls.has_some(),
        }
    }

    /// Whether a read that filled only a part of its buffer has got all that there was (epoll(7)).
    pub(crate) fn is_emptied_by_short_reads(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Our side is complete; the peer may still send.
    pub(crate) fn shut_down(&mut self) {
        match self {
            Self::Tcp(_) => {}
            Self::Tls(tls) => tls.say_end(),
            Self::Stream(stream) => stream.shut_down(),
        }
        if let Some(tcp) = self.tcp() {
            // A peer that has gone already needs no end.
            let _ = tcp.shutdown(Shutdown::Write);
        }
    }
}
