//! A subscription or listing: takes in signals, prints events, keeps its place and its counts.
//! Must not know a transport, nor wait for anything but its output.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use super::Failure;
use super::arguments::Format;
use super::cursor_file::CursorFile;
use super::position::{Position, Recent};
use super::report::{self, Reporter};
use super::transport::Signal;

/// Output is handed on when this much of it has come together, and at the end of each batch.
const OUTPUT_BYTES: usize = 64 << 10;

/// Why it ends well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// As many events as were asked for are printed.
    Count,
    /// Everything that was there is printed.
    Complete,
    /// The time that was given is over.
    Timeout,
    /// Somebody asked for the end.
    Signal,
    /// Nobody reads the output any more.
    ReaderGone,
}

/// The state of `sub` and `history`.
#[derive(Debug)]
pub(super) struct Session<W> {
    pub(super) position: Position,
    recent: Recent,
    format: Format,
    wanted: Option<u64>,
    cursor_file: Option<CursorFile>,
    reporter: Reporter,
    output: W,
    buffer: Vec<u8>,
    printed: u64,
    repeated: u64,
    gaps: u64,
    lost: u64,
    finished: bool,
}

impl<W: Write> Session<W> {
    /// Begins at `position`. `wanted` is how many events are to be printed at most.
    pub(super) fn new(
        position: Position,
        format: Format,
        wanted: Option<u64>,
        cursor_file: Option<CursorFile>,
        reporter: Reporter,
        output: W,
    ) -> Self {
        Self {
            position,
            recent: Recent::default(),
            format,
            wanted,
            cursor_file,
            reporter,
            output,
            buffer: Vec::new(),
            printed: 0,
            repeated: 0,
            gaps: 0,
            lost: 0,
            finished: false,
        }
    }

    /// How many events are still wanted at most.
    pub(super) fn wanted(&self) -> Option<u64> {
        self.wanted
    }

    /// How many events have been printed.
    pub(super) fn printed(&self) -> u64 {
        self.printed
    }

    /// A connection was lost.
    pub(super) fn handle_loss(&mut self) {
        self.lost += 1;
    }

    /// Takes in what came together. Some if that was the end.
    pub(super) fn handle_signals(&mut self, signals: Vec<Signal>) -> Result<Option<Ending>, Failure> {
        if self.finished {
            return Ok(Some(Ending::Signal));
        }
        let printed = self.print_all(signals).and_then(|()| self.flush());
        match printed {
            Ok(()) if self.wanted == Some(0) => Ok(Some(Ending::Count)),
            Ok(()) => Ok(None),
            Err(error) => {
                // Events of this batch may not have arrived, so that this place must not be kept.
                self.cursor_file = None;
                match error.kind() {
                    io::ErrorKind::BrokenPipe => Ok(Some(Ending::ReaderGone)),
                    _ => Err(Failure::Failed(format!("cannot print an event: {error}"))),
                }
            }
        }
    }

    fn print_all(&mut self, signals: Vec<Signal>) -> io::Result<()> {
        for signal in signals {
            match signal {
                Signal::Event(_) if self.wanted == Some(0) => break,
                Signal::Event(mut event) => {
                    if !self.recent.handle_event(&event.channel, &event.id) {
                        self.repeated += 1;
                        continue;
                    }
                    self.position.reached(&event.channel, &event.id);
                    event.print(self.format, &mut self.buffer)?;
                    self.printed += 1;
                    self.wanted = self.wanted.map(|wanted| wanted - 1);
                    if self.buffer.len() >= OUTPUT_BYTES {
                        self.flush()?;
                    }
                }
                Signal::Standing { channel, id } => self.position.reached(&channel, &id),
                Signal::StandingAll(cursor) => self.position.reached_all(&cursor),
                Signal::Gap(gap) => {
                    self.gaps += 1;
                    self.reporter.say(&gap.describe());
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.output.write_all(&self.buffer)?;
            self.buffer.clear();
            self.output.flush()?;
        }
        Ok(())
    }

    /// Writes the cursor file, if there is one and the time has come.
    pub(super) fn keep_place(&mut self, now: Instant) -> Result<(), String> {
        match (&mut self.cursor_file, self.position.cursor()) {
            (Some(file), Some(cursor)) if file.is_due(now) => file.write(&cursor, now),
            _ => Ok(()),
        }
    }

    /// Ends the subscription: keeps its place and tells the counts. Only the first call does.
    pub(super) fn finish(&mut self, ending: Ending, now: Instant) -> ExitCode {
        if std::mem::replace(&mut self.finished, true) {
            return ExitCode::SUCCESS;
        }
        if ending == Ending::ReaderGone {
            return ExitCode::SUCCESS;
        }
        let kept = self.keep_last_place(now);
        self.reporter.say(&self.summary());
        if let Err(message) = kept {
            report::error(&message);
            return ExitCode::FAILURE;
        }
        match (ending, self.wanted) {
            (Ending::Timeout, Some(missing)) if missing > 0 => {
                report::error(&format!(
                    "the time is over, and {missing} of the events asked for did not come"
                ));
                ExitCode::FAILURE
            }
            _ => ExitCode::SUCCESS,
        }
    }

    /// After a failure: keeps the place, so that the next run loses nothing.
    pub(super) fn abandon(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.finished, true) {
            if let Err(message) = self.keep_last_place(now) {
                report::error(&message);
            }
            if self.printed > 0 {
                self.reporter.say(&self.summary());
            }
        }
    }

    fn keep_last_place(&mut self, now: Instant) -> Result<(), String> {
        match (&mut self.cursor_file, self.position.cursor()) {
            (Some(file), Some(cursor)) => file.write(&cursor, now),
            _ => Ok(()),
        }
    }

    fn summary(&self) -> String {
        let mut text = counted(self.printed, "event");
        for (count, what) in [(self.gaps, "gap"), (self.lost, "lost connection"), (self.repeated, "repeat")] {
            if count > 0 {
                text.push_str(", ");
                text.push_str(&counted(count, what));
            }
        }
        if let Some(cursor) = self.position.cursor() {
            text.push_str(&format!("; go on with --since {cursor}"));
        }
        text
    }
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
