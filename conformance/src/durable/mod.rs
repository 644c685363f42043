//! Publishers and readers that outlive the server: it is killed, its disk fails, and they come back and compare
//! what they were told with what is in the log. Speaks the wire only; must not know what is on the disk.

pub mod body;
pub mod crew;
pub mod fault;
pub mod history;
pub mod ledger;
pub mod publish;
pub mod publisher;
pub mod reader;
pub mod sample;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Result;

/// Where the server is at the moment, and whether to go on.
#[derive(Debug, Clone, Default)]
pub struct Place(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    /// Where it serves, while it does.
    url: Option<String>,
    /// How often it has been started.
    starts: usize,
    /// Requests may be told to come back, as what the servers share may be away.
    may_refuse: bool,
    /// Connections may end at any time, as servers come and go behind what leads to them.
    restless: bool,
    /// No new events: publishers finish what they have begun.
    finishing: bool,
    /// The last event of all, when it is known.
    goal: Option<(String, Instant)>,
    /// Something failed; nobody needs to wait for anything.
    over: bool,
}

/// A server to visit, until it is killed.
#[derive(Debug, Clone)]
pub struct Visit {
    /// Where it serves.
    pub url: String,
    /// The number of its start.
    pub start: usize,
}

/// What those say who end because another failed.
const GIVEN_UP: &str = "given up, as another failed";

/// What the others say of one who ended before his time.
const ENDED: &str = "somebody ended while waiting for this";

/// Readers have so long to get the last event once it is known.
const CATCH_UP: Duration = Duration::from_secs(40);

impl Place {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.0.1.notify_all();
    }

    /// A server serves.
    pub fn up(&self, url: &str) {
        self.change(|state| {
            state.url = Some(url.to_owned());
            state.starts += 1;
        });
    }

    /// The server is about to be killed. Said before, so that whoever hears no more from it knows why.
    pub fn down(&self) {
        self.change(|state| state.url = None);
    }

    /// From now on, readers that are told to come back do so.
    pub fn may_refuse(&self) {
        self.change(|state| state.may_refuse = true);
    }

    /// From now on, or no longer, connections may end at any time, and requests find nobody.
    pub fn set_restless(&self, restless: bool) {
        self.change(|state| state.restless = restless);
    }

    /// Whether they may.
    pub fn is_restless(&self) -> bool {
        self.state().restless
    }

    /// Whether an error is no more than that.
    pub fn excuses(&self, error: &str) -> bool {
        self.state().may_refuse && error.contains("refused") && error.contains("status: Some(503)")
    }

    /// Publishers shall end when everything that they have begun is acknowledged.
    pub fn finish(&self) {
        self.change(|state| state.finishing = true);
    }

    /// Readers shall end when they have this event.
    pub fn goal(&self, id: &str) {
        self.change(|state| state.goal = Some((id.to_owned(), Instant::now() + CATCH_UP)));
    }

    /// All shall end.
    pub fn give_up(&self) {
        self.change(|state| state.over = true);
    }

    /// The server, once there is one.
    ///
    /// # Errors
    /// When there will be none.
    pub fn visit(&self) -> Result<Visit> {
        let mut state = self.state();
        loop {
            if state.over {
                return Err(GIVEN_UP.to_owned());
            }
            if let Some(url) = &state.url {
                return Ok(Visit { url: url.clone(), start: state.starts });
            }
            state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether the server still serves: then an error is its own, and no consequence of its death.
    pub fn stands(&self, visit: &Visit) -> bool {
        let state = self.state();
        !state.over && !state.restless && state.url.is_some() && state.starts == visit.start
    }

    /// Whether publishers shall begin no more.
    pub fn is_finishing(&self) -> bool {
        self.state().finishing
    }

    /// Whether a reader that stands at this event is done.
    ///
    /// # Errors
    /// When it should be by now.
    pub fn is_done(&self, last: Option<&str>) -> Result<bool> {
        let state = self.state();
        match &state.goal {
            _ if state.over => Err(GIVEN_UP.to_owned()),
            Some((goal, _)) if last == Some(goal) => Ok(true),
            Some((goal, until)) if Instant::now() > *until => {
                Err(format!("stands at {last:?}, {goal} did not come within {CATCH_UP:?}"))
            }
            _ => Ok(false),
        }
    }
}
