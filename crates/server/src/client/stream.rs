//! The connection under every protocol of the clients that the HTTP library does not speak: TCP, or TLS over it.
//! Must not know what is said on it.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::endpoint::Endpoint;
use super::http::CONNECT_MAX;

/// What a client of HTTP/1.1 offers; without it, a proxy may choose what it likes.
pub(super) const HTTP_1_1: &[u8] = b"http/1.1";

/// An open connection.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Secure(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// Connects, and speaks HTTP/1.1. Writes and the handshake give up after `silence_max`.
    pub(super) fn connect(endpoint: &Endpoint, silence_max: Duration) -> io::Result<Self> {
        let tcp = tcp(endpoint, silence_max)?;
        if !endpoint.is_secure() {
            return Ok(Self::Plain(tcp));
        }
        // The certificates of the machine are read once.
        static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
        let config = match CONFIG.get() {
            Some(config) => Arc::clone(config),
            None => {
                let config = crate::trust::client(&[HTTP_1_1]).map_err(io::Error::other)?;
                Arc::clone(CONFIG.get_or_init(|| config))
            }
        };
        secured(endpoint, tcp, config).map(Self::Secure)
    }

    /// How long a read waits before it fails with `WouldBlock` or `TimedOut`.
    pub(super) fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        // Zero would mean forever.
        self.tcp().set_read_timeout(Some(timeout.max(Duration::from_millis(1))))
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Secure(tls) => &tls.sock,
        }
    }
}

/// What the other side chooses out of `protocols` (ALPN), if anything.
pub(super) fn negotiated(
    endpoint: &Endpoint,
    protocols: &[&[u8]],
    silence_max: Duration,
) -> io::Result<Option<Vec<u8>>> {
    let config = crate::trust::client(protocols).map_err(io::Error::other)?;
    let tls = secured(endpoint, tcp(endpoint, silence_max)?, config)?;
    Ok(tls.conn.alpn_protocol().map(<[u8]>::to_vec))
}

fn tcp(endpoint: &Endpoint, silence_max: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for address in endpoint.host_and_port().to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_MAX) {
            Ok(tcp) => {
                tcp.set_nodelay(true)?;
                tcp.set_write_timeout(Some(silence_max))?;
                tcp.set_read_timeout(Some(silence_max))?;
                return Ok(tcp);
            }
            Err(error) => last = io::Error::new(error.kind(), format!("{address}: {error}")),
        }
    }
    Err(last)
}

fn secured(
    endpoint: &Endpoint,
    mut tcp: TcpStream,
    config: Arc<ClientConfig>,
) -> io::Result<Box<StreamOwned<ClientConnection, TcpStream>>> {
    let name = ServerName::try_from(endpoint.host_and_port().0.to_owned()).map_err(io::Error::other)?;
    let mut tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
    // At once, so that a certificate that is not good is the failure of connecting.
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp)?;
    }
    Ok(Box::new(StreamOwned::new(tls, tcp)))
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buffer),
            Self::Secure(tls) => match tls.read(buffer) {
                // Many end the connection without taking leave of TLS; what frames the data finds what is missing.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                outcome => outcome,
            },
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(bytes),
            Self::Secure(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Secure(tls) => tls.flush(),
        }
    }
}
