//! `tidewire sub`: drives a transport and begins anew after each loss, from where the session stands.
//! Must not know what a transport sends, nor how events are printed.

use std::collections::HashSet;
use std::io::Stdout;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::Failure;
use super::arguments::{SubscribeArguments, TransportName};
use super::backoff::Backoff;
use super::cursor_file::CursorFile;
use super::endpoint::Endpoint;
use super::position::Position;
use super::report::Reporter;
use super::session::{Ending, Session};
use super::transport::{EventStream, Interruption, Poll, Transport, Waiting, WebSocket};
use super::watcher::{self, locked, locked_in_time};

/// The first wait after a loss is at most this.
const BACKOFF_BASE: Duration = Duration::from_millis(250);

/// No wait after a loss is longer, unless the server asks for it.
const BACKOFF_CAP: Duration = Duration::from_secs(10);

/// A connection that lasted this long was a good one, even if no event came over it.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);

type Shared = Arc<Mutex<Session<Stdout>>>;

/// Runs the command.
pub(super) fn run(arguments: &SubscribeArguments) -> Result<ExitCode, Failure> {
    let endpoint = Endpoint::of(&arguments.server).map_err(Failure::Usage)?;
    let mut known = HashSet::new();
    let channels: Vec<String> =
        arguments.channels.iter().filter(|&channel| known.insert(channel)).cloned().collect();
    let file = arguments.cursor_file.clone().map(CursorFile::open).transpose().map_err(Failure::Failed)?;
    let kept = file.as_ref().and_then(CursorFile::cursor).map(str::to_owned);
    let position = Position::new(channels, kept.or_else(|| arguments.since.clone()));
    let reporter = Reporter::new(arguments.quiet);
    let session =
        Session::new(position, arguments.format, arguments.count, file, reporter, std::io::stdout());
    let session: Shared = Arc::new(Mutex::new(session));
    let deadline = arguments.timeout.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
    let name = arguments.transport;
    let mut transport = transport(name, endpoint, Duration::from_secs_f64(arguments.interval));
    let (sender, endings) = mpsc::channel();
    watcher::listen(&sender)
        .map_err(|error| Failure::Failed(format!("cannot listen for signals: {error}")))?;
    let shared = Arc::clone(&session);
    // The transport may be blocked for long when the end comes from elsewhere, so it has its own thread.
    let worker = thread::spawn(move || {
        let outcome = follow(&mut *transport, name, &shared, reporter);
        transport.close();
        outcome
    });
    thread::spawn(move || {
        let fault = |_| Err(Failure::Failed("a fault of this client".to_owned()));
        sender.send(worker.join().unwrap_or_else(fault))
    });
    let outcome = watcher::wait(&session, &endings, deadline);
    let Some(mut session) = locked_in_time(&session) else {
        return Err(Failure::Failed("ended while nobody took the output".to_owned()));
    };
    match outcome {
        Ok(ending) => Ok(session.finish(ending, Instant::now())),
        Err(failure) => {
            session.abandon(Instant::now());
            Err(failure)
        }
    }
}

fn transport(name: TransportName, endpoint: Endpoint, interval: Duration) -> Box<dyn Transport + Send> {
    match name {
        TransportName::Ws => Box::new(WebSocket::new(endpoint)),
        TransportName::Sse => Box::new(EventStream::new(endpoint)),
        TransportName::LongPoll => Box::new(Poll::new(endpoint, Waiting::Server)),
        TransportName::Poll => Box::new(Poll::new(endpoint, Waiting::Client(interval))),
    }
}

/// Connects again and again, until the session has its end.
fn follow(
    transport: &mut dyn Transport,
    name: TransportName,
    session: &Shared,
    reporter: Reporter,
) -> Result<Ending, Failure> {
    let mut backoff = Backoff::new(BACKOFF_BASE, BACKOFF_CAP);
    loop {
        let (began, printed) = (Instant::now(), locked(session).printed());
        let (reason, after) = match connection(transport, name, session, reporter)? {
            Ok(ending) => return Ok(ending),
            Err(Interruption::Refused(message)) => return Err(Failure::Failed(message)),
            Err(Interruption::Lost { reason, after }) => (reason, after),
        };
        if locked(session).printed() > printed || began.elapsed() >= GOOD_CONNECTION {
            backoff.reset();
        }
        let wait = backoff.next(after, fastrand::f64());
        reporter.say(&format!("{reason}; next attempt in {:.1} s", wait.as_secs_f64()));
        thread::sleep(wait);
    }
}

/// One connection, from its begin to the end of the session or to its loss.
fn connection(
    transport: &mut dyn Transport,
    name: TransportName,
    session: &Shared,
    reporter: Reporter,
) -> Result<Result<Ending, Interruption>, Failure> {
    let position = locked(session).position.clone();
    if let Err(interruption) = transport.open(&position) {
        return Ok(Err(interruption));
    }
    let mut connected = false;
    loop {
        let wanted = locked(session).wanted();
        let signals = match transport.next(wanted) {
            Ok(signals) => signals,
            Err(interruption) => {
                if connected {
                    locked(session).handle_loss();
                }
                return Ok(Err(interruption));
            }
        };
        if !std::mem::replace(&mut connected, true) {
            reporter.say(&format!("connected ({})", name.name()));
        }
        if let Some(ending) = locked(session).handle_signals(signals)? {
            return Ok(Ok(ending));
        }
    }
}
