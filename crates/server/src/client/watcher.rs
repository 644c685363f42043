//! Ends a subscription from outside: on a signal, when its time is over or when nobody reads its output;
//! and keeps its cursor file fresh while nothing comes. Must not know what the subscription waits for.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::process;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::report;
use super::session::{Ending, Session};

/// How often the cursor file is looked after.
const TICK: Duration = Duration::from_millis(500);

/// How long a batch that is being printed may take to end once the end is asked for.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a shell gives for a program that a SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Locks the session. A thread that panicked with it leaves a state that is still whole enough to end.
pub(super) fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watches over `session` until the process ends. Signals are taken from now on.
pub(super) fn start<W>(session: Arc<Mutex<Session<W>>>, deadline: Option<Instant>) -> io::Result<()>
where
    W: Write + Send + 'static,
{
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let (sender, receiver) = mpsc::channel();
    let reader_gone = sender.clone();
    // Where the output cannot be watched (a file cannot), a write will tell.
    thread::spawn(move || {
        wait_for_reader_to_go().is_ok_and(|()| reader_gone.send(Ending::ReaderGone).is_ok())
    });
    thread::spawn(move || {
        let mut pending = signals.forever();
        if pending.next().is_some() {
            // The receiver lives as long as the process.
            let _ = sender.send(Ending::Signal);
        }
        // Whoever asks twice does not want to wait.
        if pending.next().is_some() {
            process::exit(INTERRUPTED);
        }
    });
    thread::spawn(move || {
        let ending = wait(&session, &receiver, deadline);
        let code = match locked_in_time(&session) {
            Some(mut session) => {
                let code = session.finish(ending, Instant::now());
                // Still locked: nothing may be printed after the summary.
                i32::from(code != process::ExitCode::SUCCESS)
            }
            None => INTERRUPTED,
        };
        process::exit(code);
    });
    Ok(())
}

fn wait<W: Write>(
    session: &Mutex<Session<W>>,
    endings: &Receiver<Ending>,
    deadline: Option<Instant>,
) -> Ending {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ending::Timeout;
        }
        match endings.recv_timeout(left.unwrap_or(TICK).min(TICK)) {
            Ok(ending) => return ending,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ending::Signal,
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

fn locked_in_time<T>(shared: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
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
