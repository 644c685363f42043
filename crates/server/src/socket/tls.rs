//! TLS over a TCP socket, as bytes in and bytes out. What it holds is bounded: nothing more is encrypted before what
//! was has gone out. Must not know certificates (`certificates`).

use std::io::{self, Read, Write};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::{ServerConfig, ServerConnection};

use crate::certificates::CHALLENGE_PROTOCOL;

/// The most that is encrypted at once.
const PLAIN_BYTES_MAX: usize = 64 << 10;

/// A TLS connection.
pub(crate) struct Tls {
    tcp: TcpStream,
    session: ServerConnection,
}

impl Tls {
    /// Nothing is sent before the client begins.
    ///
    /// # Errors
    /// If the configuration makes no sense to the library.
    pub(crate) fn new(tcp: TcpStream, config: &Arc<ServerConfig>) -> io::Result<Self> {
        let mut session = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        session.set_buffer_limit(Some(PLAIN_BYTES_MAX));
        Ok(Self { tcp, session })
    }

    pub(super) fn tcp(&mut self) -> &mut TcpStream {
        &mut self.tcp
    }

    /// What both sides agreed to speak, once they have.
    pub(crate) fn protocol(&self) -> Option<&[u8]> {
        self.session.alpn_protocol()
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The peer ended without saying so within TLS; what is above finds out itself what is incomplete.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                outcome => return outcome,
            }
            self.session.read_tls(&mut self.tcp)?;
            if let Err(error) = self.session.process_new_packets() {
                // The alert says why; whoever does not read it learns nothing.
                let _ = self.flush();
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            self.flush()?;
            // All that an authority wanted to see was the handshake.
            if self.protocol() == Some(CHALLENGE_PROTOCOL) && !self.session.is_handshaking() {
                return Ok(0);
            }
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.flush()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = self.session.writer().write(bytes)?;
        self.flush()?;
        Ok(taken)
    }

    pub(super) fn flush(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.tcp) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    pub(super) fn has_some(&self) -> bool {
        self.session.wants_write()
    }

    pub(super) fn say_end(&mut self) {
        self.session.send_close_notify();
        let _ = self.flush();
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tls").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}
