//! The servers that can be measured: how each is started, and how it is spoken to.
//! Knows no event loop and no statistics.

pub(crate) mod baseline;
mod custom;
mod nchan;
mod node;
pub(crate) mod process;
pub(crate) mod shared;
mod tidewire;

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use crate::wire::Framing;
use process::Process;

/// How events reach a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Transport {
    /// WebSocket.
    Ws,
    /// Server-sent events.
    Sse,
    /// Long poll.
    LongPoll,
}

/// How events are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Via {
    /// HTTP requests on kept-alive connections.
    Http,
    /// Messages on a WebSocket.
    Ws,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tidewire,
    /// With its log on disk.
    TidewireDisk,
    /// Servers that share a backplane.
    TidewireShared,
    Nchan,
    Ws,
    SocketIo,
    Baseline,
    Custom,
}

/// A server and the way to subscribe to it: `NAME[/TRANSPORT][+deflate]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) kind: Kind,
    pub(crate) transport: Transport,
    pub(crate) deflate: bool,
}

/// Where the targets are found, and what a custom one expects.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TargetOptions {
    /// Release binary of Tidewire
    #[arg(long, value_name = "PATH")]
    pub(crate) tidewire: Option<PathBuf>,
    /// Configuration file handed to Tidewire
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Folder of the Node peers, filled by its `setup` script
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/peers"))]
    pub(crate) peers: PathBuf,
    #[command(flatten)]
    pub(crate) shared: shared::SharedOptions,
    #[command(flatten)]
    pub(crate) custom: custom::CustomOptions,
}

/// One subscriber connection as a dialect sees it.
#[derive(Debug, Clone)]
pub(crate) struct Seat<'a> {
    pub(crate) index: u32,
    pub(crate) channels: Range<u32>,
    pub(crate) transport: Transport,
    pub(crate) deflate: bool,
    pub(crate) since: Option<&'a str>,
}

/// One event to publish.
#[derive(Debug)]
pub(crate) struct Event<'a> {
    pub(crate) channel: u32,
    pub(crate) audience: Range<u32>,
    pub(crate) data: &'a [u8],
}

/// What a message that is no event meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// One of the replies that the greeting waits for.
    Reply,
    /// A publish was taken.
    Published,
    /// Nothing of note.
    Nothing,
}

/// How a target is spoken to.
pub(crate) trait Dialect {
    /// How the answer to [`Dialect::opening`] is cut into messages.
    fn framing(&self, seat: &Seat<'_>) -> Framing;

    /// What a subscriber sends first.
    fn opening(&self, seat: &Seat<'_>) -> Vec<u8>;

    /// What it sends after the handshake; returns how many replies make it ready.
    fn greet(&self, _seat: &Seat<'_>, _out: &mut Vec<u8>) -> u32 {
        0
    }

    /// Takes a message without events (for long polls, each response) and may answer it.
    fn hear(&self, _seat: &Seat<'_>, _message: &[u8], _out: &mut Vec<u8>) -> Result<Heard> {
        Ok(Heard::Nothing)
    }

    /// How publishers' answers are cut: responses, or frames behind a handshake.
    fn publish_opening(&self, via: Via) -> Result<Vec<u8>>;

    /// Appends the publishing of one event.
    fn write_publish(&self, via: Via, event: &Event<'_>, out: &mut Vec<u8>);

    /// True where a publisher's line speaks single bytes as acknowledgements.
    fn acknowledges_by_byte(&self) -> bool {
        false
    }
}

/// A running target.
pub(crate) struct Server {
    /// Where subscribers go, in turn.
    subscribe_addresses: Vec<SocketAddr>,
    /// Where publishers go, in turn.
    publish_addresses: Vec<SocketAddr>,
    pub(crate) dialect: Box<dyn Dialect>,
    /// Roots of the process trees to account for; none if they are not known.
    roots: Vec<u32>,
    /// Held for their `Drop`, which ends them, in this order.
    _processes: Vec<Process>,
}

impl Server {
    fn owned(address: SocketAddr, dialect: Box<dyn Dialect>, process: Process) -> Server {
        Server {
            subscribe_addresses: vec![address],
            publish_addresses: vec![address],
            dialect,
            roots: vec![process.pid()],
            _processes: vec![process],
        }
    }

    /// Where a subscriber goes.
    pub(crate) fn subscribe_address(&self, index: usize) -> SocketAddr {
        self.subscribe_addresses[index % self.subscribe_addresses.len()]
    }

    /// Where a publisher goes.
    pub(crate) fn publish_address(&self, index: usize) -> SocketAddr {
        self.publish_addresses[index % self.publish_addresses.len()]
    }

    /// The processes to account for, if they are known.
    pub(crate) fn roots(&self) -> Option<&[u32]> {
        Some(&*self.roots).filter(|roots| !roots.is_empty())
    }
}

impl Target {
    pub(crate) const BASELINE: Target =
        Target { kind: Kind::Baseline, transport: Transport::Ws, deflate: false };

    /// Starts it and waits until it is ready.
    pub(crate) fn start(&self, options: &TargetOptions) -> Result<Server> {
        self.check_transport()?;
        match self.kind {
            Kind::Tidewire => tidewire::start(options, tidewire::Log::Memory),
            Kind::TidewireDisk => tidewire::start(options, tidewire::Log::Disk),
            Kind::TidewireShared => shared::start(options),
            Kind::Nchan => nchan::start(self.deflate),
            Kind::Ws => node::start_ws(options),
            Kind::SocketIo => node::start_socketio(options),
            Kind::Baseline => baseline::client::start(),
            Kind::Custom => custom::attach(&options.custom),
        }
        .with_context(|| format!("cannot start {self}"))
    }

    /// The cheapest way to publish to it.
    pub(crate) fn fastest_via(&self) -> Via {
        match self.kind {
            Kind::Tidewire | Kind::TidewireDisk | Kind::TidewireShared | Kind::Ws => Via::Ws,
            Kind::Nchan | Kind::SocketIo | Kind::Baseline | Kind::Custom => Via::Http,
        }
    }

    fn check_transport(&self) -> Result<()> {
        let possible: &[Transport] = match self.kind {
            Kind::Tidewire | Kind::TidewireDisk | Kind::TidewireShared => {
                &[Transport::Ws, Transport::Sse, Transport::LongPoll]
            }
            Kind::Nchan | Kind::Custom => &[Transport::Ws, Transport::Sse],
            Kind::Ws | Kind::SocketIo | Kind::Baseline => &[Transport::Ws],
        };
        if !possible.contains(&self.transport) {
            bail!("{self}: this target cannot be measured over that transport");
        }
        if self.deflate && self.transport != Transport::Ws {
            bail!("{self}: only WebSocket has deflate");
        }
        Ok(())
    }
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Target> {
        let (text, deflate) = match text.strip_suffix("+deflate") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (name, transport) = text.split_once('/').unwrap_or((text, "ws"));
        let kind = match name {
            "tidewire" => Kind::Tidewire,
            "tidewire-disk" => Kind::TidewireDisk,
            "tidewire-shared" => Kind::TidewireShared,
            "nchan" => Kind::Nchan,
            "ws" => Kind::Ws,
            "socketio" => Kind::SocketIo,
            "baseline" => Kind::Baseline,
            "custom" => Kind::Custom,
            _ => {
                bail!(
                    "no target {name:?}: tidewire, tidewire-disk, tidewire-shared, nchan, ws, socketio, baseline or custom"
                )
            }
        };
        let transport = match transport {
            "ws" => Transport::Ws,
            "sse" => Transport::Sse,
            "long-poll" => Transport::LongPoll,
            _ => bail!("no transport {transport:?}: ws, sse or long-poll"),
        };
        Ok(Target { kind, transport, deflate })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.kind {
            Kind::Tidewire => "tidewire",
            Kind::TidewireDisk => "tidewire-disk",
            Kind::TidewireShared => "tidewire-shared",
            Kind::Nchan => "nchan",
            Kind::Ws => "ws",
            Kind::SocketIo => "socketio",
            Kind::Baseline => return formatter.write_str("baseline"),
            Kind::Custom => "custom",
        };
        let transport = match self.transport {
            Transport::Ws => "ws",
            Transport::Sse => "sse",
            Transport::LongPoll => "long-poll",
        };
        let deflate = if self.deflate { "+deflate" } else { "" };
        write!(formatter, "{name}/{transport}{deflate}")
    }
}

/// The name of a channel, the same for all targets.
pub(crate) fn channel_name(channel: u32) -> String {
    format!("bench-{channel}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_reads_as_it_is_written() {
        for text in [
            "tidewire/ws",
            "tidewire/sse",
            "nchan/ws+deflate",
            "socketio/ws",
            "tidewire/long-poll",
            "tidewire-shared/ws",
        ] {
            let target: Target = text.parse().expect("a valid target");
            assert_eq!(target.to_string(), text);
        }
        assert_eq!("baseline".parse::<Target>().expect("valid"), Target::BASELINE);
        assert!("mercure".parse::<Target>().is_err());
        assert!("ws/udp".parse::<Target>().is_err());
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        for text in ["ws/sse", "tidewire/sse+deflate", "nchan/long-poll"] {
            assert!(text.parse::<Target>().expect("it parses").check_transport().is_err(), "{text}");
        }
    }
}
