//! Accepts connections for the shard that owns it, which serves some itself and passes on the others, in
//! turn: half a storm's connections of two shards thus cross no thread. Must not read from them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::shard::{Inbox, Message, Shared};

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
    /// The shard that gets the next connection. Shard 0 is the owner.
    next: usize,
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
    pub(crate) socket: TcpStream,
    /// Who is at its other end.
    pub(crate) address: SocketAddr,
    /// It is over the limit.
    pub(crate) refuse: bool,
}

impl Listener {
    /// Takes over a bound socket whose `TCP_NODELAY` is set, which connections inherit: frames are complete
    /// when they are written, and waiting for more would only delay them.
    pub(crate) fn new(socket: TcpListener, shared: Arc<Shared>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let inboxes = shared.hub.inboxes().to_vec();
        Ok(Self { socket: mio::net::TcpListener::from_std(socket), shared, inboxes, next: 0 })
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
        let gauges = &self.shared.gauges;
        let open = gauges.connections.fetch_add(1, Ordering::Relaxed);
        let limit = gauges.connections_max;
        if open >= limit {
            gauges.refused.fetch_add(1, Ordering::Relaxed);
        }
        if open >= limit + REFUSALS_MAX {
            gauges.connections.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let accepted = Accepted { socket, address, refuse: open >= limit };
        let shard = self.next;
        self.next = (shard + 1) % self.inboxes.len();
        match shard {
            0 => own.push(accepted),
            _ => self.inboxes[shard].push(Message::Connection(accepted)),
        }
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
