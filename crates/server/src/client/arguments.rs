//! The options of `tidewire pub`, `sub` and `history`, as clap reads them.
//! Must hold no logic: what an option means is decided where it is used.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Publish events to a channel: one given as an argument, or one for each line of standard input.
#[derive(Debug, Args)]
pub struct PublishArguments {
    /// The channel to publish to.
    pub(super) channel: String,
    /// The data of one event. `-`, or nothing where standard input is not a terminal: each line of
    /// standard input is an event.
    #[arg(allow_negative_numbers = true)]
    pub(super) data: Option<String>,
    /// The whole of this file is the data of one event; `-` is standard input.
    #[arg(long, value_name = "PATH", conflicts_with = "data")]
    pub(super) file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) server: ServerArguments,
    /// The event's name.
    #[arg(long, value_name = "NAME")]
    pub(super) event: Option<String>,
    /// The event's key.
    #[arg(long)]
    pub(super) key: Option<String>,
    /// Publish once under this key, however often the command runs (one event only). Without it each
    /// event gets a key of its own, so that a repeated attempt never doubles it.
    #[arg(long, value_name = "KEY")]
    pub(super) idempotency_key: Option<String>,
    /// What the data is. Without it the server looks: JSON if it parses, else text if it is UTF-8,
    /// else bytes.
    #[arg(long, value_name = "TYPE")]
    pub(super) content_type: Option<String>,
    /// How long an event is tried again while the server cannot be reached or is not available; 0: never.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(super) retry_for: u32,
    /// Print no event ids and no progress.
    #[arg(long, short)]
    pub(super) quiet: bool,
}

/// Print the events of channels, one on a line, and go on exactly where it was after a lost connection.
#[derive(Debug, Args)]
pub struct SubscribeArguments {
    /// The channels to read.
    #[arg(required = true, value_name = "CHANNEL")]
    pub(super) channels: Vec<String>,
    #[command(flatten)]
    pub(super) server: ServerArguments,
    /// How events come here.
    #[arg(long, value_enum, default_value_t = TransportName::Ws)]
    pub(super) transport: TransportName,
    /// Where to begin: an event id or cursor, `earliest` (all that is retained) or `latest` (from now on,
    /// the default).
    #[arg(long, value_name = "ID|earliest|latest")]
    pub(super) since: Option<String>,
    /// `data`: what was published (JSON on one line, text as it is, bytes as base64).
    /// `json`: the event as a JSON object with its channel, id and time.
    #[arg(long, value_enum, default_value_t = Format::Data)]
    pub(super) format: Format,
    /// End after this many events.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,
    /// End after this time. That is a failure only if `--count` asked for more events than came.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) timeout: Option<f64>,
    /// The pause between two polls that found nothing new (`--transport poll` only).
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(super) interval: f64,
    /// Begin at the cursor in this file, if there is one, and keep it up to date, so that the next run
    /// goes on exactly there. Written once a second at most, and at the end; after a crash, events of
    /// the last second may come again.
    #[arg(long, value_name = "PATH")]
    pub(super) cursor_file: Option<PathBuf>,
    /// Say nothing on standard error but errors.
    #[arg(long, short)]
    pub(super) quiet: bool,
}

/// List the events that a channel holds, oldest first; or write them out as JSON lines, or read such lines in.
#[derive(Debug, Args)]
pub struct HistoryArguments {
    /// The channel.
    pub(super) channel: String,
    #[command(flatten)]
    pub(super) server: ServerArguments,
    /// Where to begin: right after an event id or cursor, or with the oldest event (`earliest`).
    #[arg(long, value_name = "ID|earliest", default_value = "earliest", conflicts_with = "import")]
    pub(super) since: String,
    /// End after this many events.
    #[arg(long, value_name = "N", conflicts_with_all = ["export", "import"], value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) limit: Option<u64>,
    /// Go on with the events to come, as `tidewire sub` does.
    #[arg(long, short, conflicts_with_all = ["export", "import"])]
    pub(super) follow: bool,
    /// Print each event as a JSON object on a line, as an export has it.
    #[arg(long, conflicts_with_all = ["export", "import"])]
    pub(super) json: bool,
    /// Print all events as JSON lines, which `--import` takes. Missing events are a failure.
    #[arg(long, conflicts_with = "import")]
    pub(super) export: bool,
    /// Export what is left where events are missing, and say so.
    #[arg(long, requires = "export")]
    pub(super) allow_gaps: bool,
    /// Publish the events of an export, in its order; `-`, or no file, is standard input. They get ids and
    /// times of their own. Each is published under an idempotency key made of its old id, so that an
    /// import that was interrupted can be run again, as long as the server remembers the keys.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub(super) import: Option<PathBuf>,
    /// How long a request is tried again while the server cannot be reached or is not available; 0: never.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, conflicts_with = "follow")]
    pub(super) retry_for: u32,
    /// Say nothing on standard error but errors.
    #[arg(long, short)]
    pub(super) quiet: bool,
}

/// Which server, and who asks it. A token has no option of its own, as everybody on the machine could read it there.
#[derive(Debug, Clone, Args)]
pub(super) struct ServerArguments {
    /// Where the server is.
    #[arg(long, env = "TIDEWIRE_URL", default_value = "http://127.0.0.1:8080")]
    pub(super) url: String,
    /// The token, or the admin key, is in this file; `-` is standard input. Without it, the environment variable
    /// TIDEWIRE_TOKEN is used if it is set.
    #[arg(long, value_name = "PATH")]
    pub(super) token_file: Option<PathBuf>,
}

/// How events come to `tidewire sub`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TransportName {
    /// One WebSocket for all channels.
    Ws,
    /// Server-sent events.
    Sse,
    /// One request at a time, held by the server until there is something.
    LongPoll,
    /// A request every `--interval` seconds.
    Poll,
}

impl TransportName {
    /// The name as it is given on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Sse => "sse",
            Self::LongPoll => "long-poll",
            Self::Poll => "poll",
        }
    }
}

/// What is printed of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The data alone.
    Data,
    /// The whole event as one JSON object.
    Json,
    /// As `Json`, with the white space in the data as it was published.
    #[value(skip)]
    Exact,
    /// Id, time, name, key and the beginning of the data, for people.
    #[value(skip)]
    Line,
}

/// The longest time that an option may name: longer than any run, short enough for every clock.
const SECONDS_MAX: f64 = 1e9;

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.001..=SECONDS_MAX).contains(&value) => Ok(value),
        _ => Err("a number of seconds from 0.001 is expected".to_owned()),
    }
}
