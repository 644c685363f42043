//! A way between a client and one or several servers, that a test can cut or hold up: each connection goes to the next
//! server in turn, as behind a load balancer that knows nothing of sessions. Must not know what is said.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::Result;
use crate::server::pause;

/// How often whoever reads looks whether the way is held up. It also bounds how long a thread outlives the relay.
const LOOK: Duration = Duration::from_millis(100);

/// A way that is open until it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    targets: Mutex<Vec<String>>,
    open: Mutex<Vec<TcpStream>>,
    turn: AtomicUsize,
    cut: AtomicBool,
    held: AtomicBool,
    /// By how much each piece is late.
    delay_ms: AtomicU64,
    ended: AtomicBool,
}

impl Relay {
    /// Opens a way to these `HOST:PORT`.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn to(targets: &[&str]) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || accept(&listener, &shared));
        let relay = Self { address, state };
        relay.lead_to(targets);
        Ok(relay)
    }

    /// `HOST:PORT` of its near end.
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// `http://HOST:PORT` of its near end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// New connections go to these from now on.
    pub fn lead_to(&self, targets: &[&str]) {
        let targets = targets.iter().map(|target| (*target).to_owned()).collect();
        *self.state.targets.lock().unwrap_or_else(PoisonError::into_inner) = targets;
    }

    /// Ends all connections, and takes no new ones until it is mended.
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::SeqCst);
        for stream in self.state.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets nothing through, and tells nobody: as a cable that is cut.
    pub fn hold(&self) {
        self.state.held.store(true, Ordering::SeqCst);
    }

    /// Lets each piece through so much later, in either direction.
    pub fn slow_down(&self, delay: Duration) {
        self.state.delay_ms.store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    /// All is well again.
    pub fn mend(&self) {
        self.slow_down(Duration::ZERO);
        self.state.cut.store(false, Ordering::SeqCst);
        self.state.held.store(false, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.cut();
        // So that whoever accepts looks up.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for near in listener.incoming().flatten() {
        if state.ended.load(Ordering::SeqCst) {
            return;
        }
        let target = {
            let targets = state.targets.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = state.turn.fetch_add(1, Ordering::SeqCst);
            targets.get(turn % targets.len().max(1)).cloned()
        };
        if state.cut.load(Ordering::SeqCst) {
            continue;
        }
        let Some(Ok(far)) = target.map(TcpStream::connect) else { continue };
        let pairs = [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))];
        for (from, to) in pairs {
            let (Ok(from), Ok(to)) = (from, to) else { continue };
            if let Ok(known) = from.try_clone() {
                let mut open = state.open.lock().unwrap_or_else(PoisonError::into_inner);
                open.retain(|stream| stream.peer_addr().is_ok());
                open.push(known);
            }
            let state = Arc::clone(state);
            std::thread::spawn(move || pass(from, to, &state));
        }
    }
}

/// Passes bytes on in one direction, until either end is gone.
fn pass(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let _ = from.set_nodelay(true);
    let _ = to.set_nodelay(true);
    let _ = from.set_read_timeout(Some(LOOK));
    let mut buffer = vec![0; 64 << 10];
    loop {
        if state.ended.load(Ordering::SeqCst) {
            break;
        }
        if state.held.load(Ordering::SeqCst) {
            pause();
            continue;
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                while state.held.load(Ordering::SeqCst) && !state.ended.load(Ordering::SeqCst) {
                    pause();
                }
                std::thread::sleep(Duration::from_millis(state.delay_ms.load(Ordering::SeqCst)));
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
