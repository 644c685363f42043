//! One non-blocking connection: what came in and is not yet a whole message, what could not be sent yet.
//! Knows no protocol. Input is read into a buffer shared by all, so an idle connection holds none.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

/// Largest message that is put together; larger ones are an error of the target.
const CARRY_BYTES_MAX: usize = 4 << 20;

const NARROW_RECEIVE_BYTES: usize = 4096;
const NARROW_SEGMENT_BYTES: u32 = 536;

pub(crate) struct Pipe {
    stream: TcpStream,
    carry: Vec<u8>,
    out: Vec<u8>,
}

/// What one read brought.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    /// Bytes in the scratch buffer: those carried over and those just read.
    pub(crate) length: usize,
    /// The other side has ended the connection.
    pub(crate) ended: bool,
    /// The buffer was filled, so there may be more.
    pub(crate) more: bool,
}

impl Pipe {
    /// Begins to connect. A `narrow` socket holds little, at this end and at the other: a stalled reader
    /// would otherwise let megabytes pile up in the kernel before the server notices.
    pub(crate) fn connect(
        address: SocketAddr,
        registry: &Registry,
        token: Token,
        narrow: bool,
    ) -> Result<Pipe> {
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        // Ends with a reset: thousands of connections in TIME_WAIT would use up the ports.
        socket.set_linger(Some(std::time::Duration::ZERO))?;
        if narrow {
            socket.set_recv_buffer_size(NARROW_RECEIVE_BYTES)?;
            // The other end sizes its send buffer by the segment size, which on loopback is 64 KiB.
            socket.set_tcp_mss(NARROW_SEGMENT_BYTES)?;
        }
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error.into());
            }
            _ => {}
        }
        let mut stream = TcpStream::from_std(socket.into());
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Pipe { stream, carry: Vec::new(), out: Vec::new() })
    }

    /// Whether the connection stands; an error if it was refused.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        if let Some(error) = SockRef::from(&self.stream).take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Where what is to be sent is appended, before [`Pipe::flush`].
    pub(crate) fn outbox(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Sends what the socket takes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.out.len() {
            match self.stream.write(&self.out[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.drain(..sent);
        Ok(())
    }

    /// Reads once into `scratch`, behind what was carried over.
    pub(crate) fn receive(&mut self, scratch: &mut [u8]) -> Result<Received> {
        let carried = self.carry.len();
        ensure!(carried < scratch.len() / 2, "a message of more than {carried} bytes is not joined");
        scratch[..carried].copy_from_slice(&self.carry);
        self.carry.clear();
        let (count, ended) = loop {
            match self.stream.read(&mut scratch[carried..]) {
                Ok(count) => break (count, count == 0),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break (0, false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break (0, true),
                Err(error) => return Err(error.into()),
            }
        };
        Ok(Received { length: carried + count, ended, more: carried + count == scratch.len() })
    }

    /// Keeps the front of a message that is not complete.
    pub(crate) fn keep(&mut self, rest: &[u8]) -> Result<()> {
        ensure!(rest.len() <= CARRY_BYTES_MAX, "a message of more than {CARRY_BYTES_MAX} bytes");
        self.carry.extend_from_slice(rest);
        Ok(())
    }
}
