//! Accepts connections and hands them to shards, in turn. Must not read from them.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token, Waker};

use crate::server::spawn;
use crate::shard::{Message, Shared};

const LISTENER: Token = Token(0);
const WAKE: Token = Token(1);
/// How long to wait when the system has no more file descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(20);
/// How many connections over the limit may be told so at a time. Further ones are just closed.
pub(crate) const REFUSALS_MAX: usize = 256;

/// The accepting thread.
#[derive(Debug)]
pub(crate) struct Handle {
    stopping: Arc<AtomicBool>,
    waker: Waker,
    thread: JoinHandle<()>,
}

impl Handle {
    /// Stops accepting and closes the port.
    pub(crate) fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        let _ = self.waker.wake();
        let _ = self.thread.join();
    }
}

pub(crate) fn start(socket: TcpListener, shared: &Arc<Shared>) -> anyhow::Result<Handle> {
    socket.set_nonblocking(true)?;
    let mut socket = mio::net::TcpListener::from_std(socket);
    let poll = Poll::new()?;
    poll.registry().register(&mut socket, LISTENER, Interest::READABLE)?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    let stopping = Arc::new(AtomicBool::new(false));
    let acceptor =
        Acceptor { socket, poll, shared: Arc::clone(shared), stopping: Arc::clone(&stopping), next: 0 };
    let thread = spawn("acceptor", move || acceptor.run())?;
    Ok(Handle { stopping, waker, thread })
}

struct Acceptor {
    socket: mio::net::TcpListener,
    poll: Poll,
    shared: Arc<Shared>,
    stopping: Arc<AtomicBool>,
    /// The shard that gets the next connection.
    next: usize,
}

impl Acceptor {
    fn run(mut self) {
        let mut events = Events::with_capacity(8);
        let mut timeout = None;
        while !self.stopping.load(Ordering::Relaxed) {
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != io::ErrorKind::Interrupted
            {
                eprintln!("tidewire: the acceptor's poll failed, no more connections are accepted: {error}");
                return;
            }
            timeout = self.accept_all();
        }
    }

    /// Accepts until nobody waits. When the system is out of resources, says how long to wait for some.
    fn accept_all(&mut self) -> Option<Duration> {
        while !self.stopping.load(Ordering::Relaxed) {
            match self.socket.accept() {
                Ok((socket, _)) => self.hand_over(socket),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if is_passing(&error) => {}
                Err(_) => return Some(EXHAUSTED_PAUSE),
            }
        }
        None
    }

    fn hand_over(&mut self, socket: mio::net::TcpStream) {
        // Frames are complete when they are written; waiting for more would only delay them.
        let _ = socket.set_nodelay(true);
        let gauges = &self.shared.gauges;
        let open = gauges.connections.fetch_add(1, Ordering::Relaxed);
        let limit = gauges.connections_max;
        if open >= limit + REFUSALS_MAX {
            gauges.connections.fetch_sub(1, Ordering::Relaxed);
            gauges.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let inboxes = self.shared.hub.inboxes();
        let inbox = &inboxes[self.next % inboxes.len()];
        self.next = self.next.wrapping_add(1);
        if open >= limit {
            gauges.refused.fetch_add(1, Ordering::Relaxed);
            inbox.push(Message::Refuse(socket));
        } else {
            inbox.push(Message::Connection(socket));
        }
    }
}

/// The connection failed, not the listener.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
