//! What the clients tell a person, on standard error.
//! Must not write to standard output, which belongs to events and ids.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often a progress line is drawn at most.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// An error: shown even with `--quiet`.
pub(super) fn error(message: &str) {
    // Where standard error is closed there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "tidewire: {message}");
}

/// States, gaps and counts: not shown with `--quiet`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reporter {
    quiet: bool,
}

impl Reporter {
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    pub(super) fn say(self, message: &str) {
        if !self.quiet {
            error(message);
        }
    }
}

/// A line that counts up while somebody watches.
#[derive(Debug)]
pub(super) struct Progress {
    started: Instant,
    drawn: Option<Instant>,
    visible: bool,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Self {
        Self { started: Instant::now(), drawn: None, visible: !quiet && std::io::stderr().is_terminal() }
    }

    pub(super) fn update(&mut self, published: u64) {
        let now = Instant::now();
        if self.visible && self.drawn.is_none_or(|drawn| now - drawn >= PROGRESS_EVERY) {
            self.drawn = Some(now);
            self.draw(published);
        }
    }

    /// Draws the last count and leaves its line.
    pub(super) fn finish(&mut self, published: u64) {
        if self.visible && self.drawn.is_some() {
            self.draw(published);
            let _ = writeln!(std::io::stderr());
        }
    }

    fn draw(&self, published: u64) {
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        let rate = published as f64 / seconds;
        let _ = write!(std::io::stderr(), "\r\x1b[K{published} published, {rate:.0} a second");
    }
}
