//! A progress bar on standard error, and none where that is no terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn new() -> Progress {
        // indicatif itself draws nothing where standard error is no terminal.
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(5));
        let style = ProgressStyle::with_template("{prefix:28} {msg:12} [{bar:40}] {percent:>3}%");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        Progress(bar)
    }

    /// Names the measurement that follows.
    pub(crate) fn title(&self, title: String) {
        self.0.set_prefix(title);
    }

    /// Begins one part of it, of `length` steps.
    pub(crate) fn begin(&self, part: &'static str, length: u64) {
        self.0.set_message(part);
        self.0.set_length(length);
        self.0.set_position(0);
    }

    pub(crate) fn at(&self, position: u64) {
        self.0.set_position(position);
    }

    pub(crate) fn end(&self) {
        self.0.set_position(self.0.length().unwrap_or(0));
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}
