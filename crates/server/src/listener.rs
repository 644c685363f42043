//! Accepts connections for the shard that owns it, which serves some itself and passes on the others, in
//! turn: half a storm's connections of two shards thus cross no thread. Must not read from them.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::ServerConfig;
use tidewire_core::rate::Limited;

use crate::access::addresses::Admission;

use crate::server::Gauges;
use crate::shard::{Inbox, Message, Shared};
use crate::socket::{Socket, Tls};

/// How long to wait when the system has no more file descriptors or memory.
pub(crate) const EXHAUSTED_PAUSE_MS: u64 = 20;
/// How many connections over the limit may be told so at a time. Further ones are just closed.
pub(crate) const REFUSALS_MAX: usize = 256;
/// How many connections are accepted before those that are there have their turn.
const ACCEPTS: usize = 64;

/// The listening socket and what decides where a connection goes.
pub(crate) struct Listener {
    socket: mio::net::TcpListener,
    shared: Arc<Shared>,
    inboxes: Vec<Arc<Inbox>>,
    port: Port,
    /// The shard that gets the next connection. Shard 0 is the owner.
    next: usize,
}

/// What a port is for.
#[derive(Debug, Clone)]
pub(crate) enum Port {
    /// Clients.
    Plain,
    /// Clients, over TLS.
    Tls(Arc<ServerConfig>),
    /// The admin API.
    Admin,
}

/// What is left to do after some were accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Nobody waits; the next to come is announced.
    Nobody,
    /// Others may wait.
    Others,
    /// Others wait, and the system is out of resources.
    Exhausted,
}

/// A connection for the owner.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) socket: Socket,
    /// Who is at its other end.
    pub(crate) address: SocketAddr,
    /// It came to the port of the admin API.
    pub(crate) on_admin_port: bool,
    /// Counts it among those of its address.
    pub(crate) admission: Option<Admission>,
    /// Why it is to be told that it cannot stay.
    pub(crate) refused: Option<Refused>,
}

/// Why connections are refused as soon as they come, as metrics say it.
pub(crate) const REFUSALS: [&str; 2] = ["full", "address"];

/// A connection that is served only to be told why it cannot stay; there may be few of those at a time.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) why: Refusal,
    gauges: Arc<Gauges>,
}

impl Refused {
    fn new(why: Refusal, gauges: &Arc<Gauges>) -> Option<Self> {
        let reason = match why {
            Refusal::Full => 0,
            Refusal::Limited(_) => 1,
        };
        gauges.refused[reason].fetch_add(1, Ordering::Relaxed);
        let refused = Self { why, gauges: Arc::clone(gauges) };
        // Counted first, so that dropping it takes off what was put on.
        let others = gauges.refusals.fetch_add(1, Ordering::Relaxed);
        (others < REFUSALS_MAX).then_some(refused)
    }
}

impl Drop for Refused {
    fn drop(&mut self) {
        self.gauges.refusals.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a connection cannot stay.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// There are as many as there may be.
    Full,
    /// Its address has reached a limit.
    Limited(Limited),
}

impl Listener {
    /// Takes over a bound socket whose `TCP_NODELAY` is set, which connections inherit: frames are complete
    /// when they are written, and waiting for more would only delay them.
    pub(crate) fn new(socket: TcpListener, shared: Arc<Shared>, port: Port) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let inboxes = shared.hub.inboxes().to_vec();
        Ok(Self { socket: mio::net::TcpListener::from_std(socket), shared, inboxes, port, next: 0 })
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.socket, token, Interest::READABLE)
    }

    /// Accepts some of those who wait. Those for the owner come in `own`, the others go to their shard.
    pub(crate) fn accept(&mut self, own: &mut Vec<Accepted>) -> Waiting {
        for _ in 0..ACCEPTS {
            match self.socket.accept() {
                Ok((socket, address)) => self.hand_over(socket, address, own),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Waiting::Nobody,
                Err(error) if is_passing(&error) => {}
                Err(_) => return Waiting::Exhausted,
            }
        }
        Waiting::Others
    }

    fn hand_over(&mut self, socket: TcpStream, address: SocketAddr, own: &mut Vec<Accepted>) {
        let is_admin = matches!(self.port, Port::Admin);
        let socket = match &self.port {
            Port::Plain | Port::Admin => Socket::Tcp(socket),
            Port::Tls(config) => match Tls::new(socket, config) {
                Ok(tls) => Socket::Tls(Box::new(tls)),
                Err(_) => return,
            },
        };
        let gauges = &self.shared.gauges;
        let open = gauges.connections.fetch_add(1, Ordering::Relaxed);
        let (admission, refusal) = match self.admit(address.ip().to_canonical()) {
            // Whoever runs the server gets in when it is full, too.
            _ if is_admin => (None, None),
            _ if open >= gauges.connections_max => (None, Some(Refusal::Full)),
            Ok(admission) => (admission, None),
            Err(limited) => (None, Some(Refusal::Limited(limited))),
        };
        let refused = match refusal {
            None => None,
            Some(why) => match Refused::new(why, gauges) {
                Some(refused) => Some(refused),
                None => {
                    gauges.connections.fetch_sub(1, Ordering::Relaxed);
                    return;
                }
            },
        };
        let accepted = Accepted { socket, address, on_admin_port: is_admin, admission, refused };
        let shard = self.next;
        self.next = (shard + 1) % self.inboxes.len();
        match shard {
            0 => own.push(accepted),
            _ => self.inboxes[shard].push(Message::Connection(accepted)),
        }
    }

    /// Counts a connection among those of its address. One of a proxy is not its own: whose it is, the proxy says.
    fn admit(&self, address: IpAddr) -> Result<Option<Admission>, Limited> {
        let access = &self.shared.access;
        if access.settings.proxies.trusts(address) {
            return Ok(None);
        }
        access.addresses.admit(address, self.shared.clock.now_ms())
    }

    /// The port is closed: everybody else may stop too.
    pub(crate) fn close(self) {
        drop(self.socket);
        self.inboxes[1..].iter().for_each(|inbox| inbox.push(Message::Stop));
    }
}

/// The connection failed, not the listener.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
