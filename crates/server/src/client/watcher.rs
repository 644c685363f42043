//! Waits for the end of a subscription: its own, a signal, its time being over or nobody reading its
//! output; and keeps its cursor file fresh meanwhile. Must not know what the subscription waits for.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::session::{Ending, Session};
use super::{Failure, report};

/// How often the cursor file is looked after.
const TICK: Duration = Duration::from_millis(500);

/// How long a batch that is being printed may take to end once the end is asked for.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a subscription ends.
pub(super) type Outcome = Result<Ending, Failure>;

/// Locks the session. A thread that panicked with it leaves a state that is still whole enough to end.
pub(super) fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As [`locked`], but gives up on a thread that cannot get rid of its output.
pub(super) fn locked_in_time<T>(shared: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match shared.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() >= give_up => return None,
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Has signals, and a reader that goes away, told to `endings` from now on.
pub(super) fn listen(endings: &Sender<Outcome>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let (by_signal, by_reader) = (endings.clone(), endings.clone());
    // Where the receiver is gone already the process is about to end.
    thread::spawn(move || signals.forever().next().map(|_| by_signal.send(Ok(Ending::Signal))));
    // Where the output cannot be watched (a file cannot), a write will tell.
    thread::spawn(move || wait_for_reader_to_go().map(|()| by_reader.send(Ok(Ending::ReaderGone))));
    Ok(())
}

/// Waits for the first ending, or for `deadline`.
pub(super) fn wait<W: Write>(
    session: &Mutex<Session<W>>,
    endings: &Receiver<Outcome>,
    deadline: Option<Instant>,
) -> Outcome {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match endings.recv_timeout(left.unwrap_or(TICK).min(TICK)) {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Disconnected) => return Ok(Ending::Signal),
            Err(RecvTimeoutError::Timeout) if left.is_some_and(|left| left <= TICK) => {
                return Ok(Ending::Timeout);
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        // Where a batch is being printed the next tick will do.
        if let Ok(mut session) = session.try_lock()
            && let Err(message) = session.keep_place(Instant::now())
        {
            report::error(&message);
        }
    }
}

/// Returns once the other end of standard output is closed. Without it `sub ... | head -1` would end only
/// when the next event is written.
fn wait_for_reader_to_go() -> io::Result<()> {
    let mut poll = Poll::new()?;
    let output = io::stdout().as_raw_fd();
    // The interest does not matter: errors are told whatever it is, and this one is otherwise silent.
    poll.registry().register(&mut SourceFd(&output), Token(0), Interest::READABLE)?;
    let mut events = Events::with_capacity(1);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ if events.iter().any(|event| event.is_error() || event.is_write_closed()) => return Ok(()),
            _ => {}
        }
    }
}
