//! Where log lines go and how they look. Must not know what they say.

use std::io::stderr;

use anyhow::Context;
use tracing::Level;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, fmt};

use crate::settings::{LogFormat, LogLevel, LogSettings};

/// How many lines may wait to be written. Beyond, lines are lost rather than connections held up.
const LINES_MAX: usize = 64 << 10;

/// Writes what waits when it is dropped.
#[derive(Debug)]
pub struct LogGuard {
    _worker: Option<WorkerGuard>,
}

/// From now on, log lines of this process go to standard error, by a thread of their own.
///
/// # Errors
/// If somebody else in this process has taken the log.
pub(crate) fn start(settings: LogSettings) -> anyhow::Result<LogGuard> {
    let level = match settings.level {
        LogLevel::Off => return Ok(LogGuard { _worker: None }),
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
    };
    let (writer, worker) = NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX).finish(stderr());
    // Libraries have their say only about what is wrong: what they tell otherwise may hold what nobody should see.
    let filter = Targets::new()
        .with_default(LevelFilter::from_level(Level::WARN.min(level)))
        // This one tells of what peers do wrong, as often as they like.
        .with_target("h2", LevelFilter::OFF)
        .with_target(env!("CARGO_CRATE_NAME"), level);
    let lines = fmt::layer().with_writer(writer).with_target(false).with_ansi(false);
    let lines = match settings.format {
        LogFormat::Human => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter));
    tracing::subscriber::set_global_default(subscriber).context("the log is taken already")?;
    Ok(LogGuard { _worker: Some(worker) })
}
