//! Settings: `tidewire.toml` read, checked and merged with flags before a port is bound.
//! Must not know what the settings do; a value that gets past here is usable.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::access::identity::ChannelAccess;
use crate::access::pattern::Fit;
use crate::access::settings::{AccessSettings, Allowed, ChannelRights};
use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use tidewire_core::limits::{Durability, Limits, Policy, Retention, StateKind};

/// Where the log is, if nothing else is said.
const DATA_DEFAULT: &str = "tidewire-data";
/// The demo's channel.
const HOST: &str = "host";

/// Checked settings.
#[derive(Debug)]
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// How many shards serve connections.
    pub shards: usize,
    /// Whether the demo page is served and this machine's figures are published on `host`.
    pub demo: bool,
    /// Where the log on disk is. `None` keeps everything in memory.
    pub data: Option<PathBuf>,
    /// All bounds.
    pub limits: Limits,
    /// Who may do what.
    pub(crate) access: Arc<AccessSettings>,
    policy: Arc<Policy>,
    by_pattern: Vec<(String, Arc<Policy>)>,
}

/// What the command line says.
#[derive(Debug, Default)]
pub struct Flags {
    /// `--listen`.
    pub listen: Option<SocketAddr>,
    /// `--insecure`.
    pub insecure: bool,
    /// `--no-demo`.
    pub no_demo: bool,
    /// `--data`.
    pub data: Option<PathBuf>,
    /// `--memory`.
    pub memory: bool,
}

/// `tidewire.toml`, unchecked. Unknown keys are errors. Each key is documented in `docs/configuration.md`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    listen: Option<SocketAddr>,
    demo: Option<bool>,
    shards: Option<usize>,
    data: Option<PathBuf>,
    durability: Option<FileDurability>,
    state: Option<FileState>,
    history: History,
    channels: Vec<ChannelRule>,
    limits: FileLimits,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct History {
    events: Option<usize>,
    bytes: Option<usize>,
    age_seconds: Option<u64>,
    idempotency_seconds: Option<u64>,
    idempotency_keys: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FileDurability {
    Disk,
    Memory,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FileState {
    None,
    Last,
    Keyed,
}

impl From<FileState> for StateKind {
    fn from(chosen: FileState) -> Self {
        match chosen {
            FileState::None => Self::None,
            FileState::Last => Self::Last,
            FileState::Keyed => Self::Keyed,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChannelRule {
    pattern: String,
    #[serde(default)]
    durability: Option<FileDurability>,
    #[serde(default)]
    state: Option<FileState>,
    #[serde(default)]
    history: History,
}

/// Makes the file's `[limits]` from the fields of [`Limits`], so that no limit can be left out of one.
macro_rules! file_limits {
    ($($name:ident: $type:ty, $min:expr, $max:expr;)*) => {
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct FileLimits { $($name: Option<$type>,)* }

        impl FileLimits {
            fn checked(&self) -> anyhow::Result<Limits> {
                let defaults = Limits::default();
                $(if let Some(value) = self.$name {
                    ensure!(($min..=$max).contains(&value), "limits.{} = {value} is out of range; {} to {} are possible",
                        stringify!($name), $min, $max);
                })*
                Ok(Limits { $($name: self.$name.unwrap_or(defaults.$name),)* })
            }
        }
    };
}

const DAY_MS: u64 = 86_400_000;

file_limits! {
    event_bytes: usize, 1, 256 << 20;
    head_bytes: usize, 512, 64 << 10;
    head_fields: usize, 4, 64;
    head_timeout_ms: u64, 50, DAY_MS;
    body_timeout_ms: u64, 50, DAY_MS;
    idle_timeout_ms: u64, 50, DAY_MS;
    heartbeat_ms: u64, 50, DAY_MS;
    stall_timeout_ms: u64, 50, DAY_MS;
    lag_events: u64, 1, u64::MAX;
    close_timeout_ms: u64, 50, DAY_MS;
    wait_ms: u64, 0, DAY_MS;
    connections: usize, 1, 10_000_000;
    channels_per_connection: usize, 1, 100_000;
    channels_per_request: usize, 1, tidewire_core::Cursor::IDS_MAX;
    page_events: usize, 1, 100_000;
    page_bytes: usize, 1024, 256 << 20;
    channels: usize, 1, 100_000_000;
    history_bytes: usize, 1024, usize::MAX;
    state_keys: usize, 1, 10_000_000;
    state_bytes: usize, 1024, 256 << 20;
    backlog_events: u64, 1, u64::MAX;
}

impl Settings {
    /// Reads the file, if any, and lets the flags have the last word.
    ///
    /// # Errors
    /// Says which key of which file is wrong and what would be right.
    pub fn load(path: Option<&Path>, flags: &Flags) -> anyhow::Result<Self> {
        let file = match path {
            None => File::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                toml::from_str(&text).with_context(|| format!("{} is not right", path.display()))?
            }
        };
        let settings = Self::checked(file, flags);
        match path {
            Some(path) => settings.with_context(|| format!("{} is not right", path.display())),
            None => settings,
        }
    }

    fn checked(file: File, flags: &Flags) -> anyhow::Result<Self> {
        let listen = flags.listen.or(file.listen).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)));
        if !listen.ip().is_loopback() && !flags.insecure {
            bail!(
                "there is no authentication yet, so {listen} would let anybody in: listen on a loopback address \
                 behind a proxy that checks who comes, or pass --insecure"
            );
        }
        let shards =
            file.shards.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        ensure!((1..=1024).contains(&shards), "shards = {shards} is out of range; 1 to 1024 are possible");
        let limits = file.limits.checked()?;
        let demo = file.demo.unwrap_or(true) && !flags.no_demo;
        ensure!(
            !flags.memory || flags.data.is_none(),
            "--memory and --data say opposite things; pass one of them"
        );
        let data = flags.data.clone().or(file.data).unwrap_or_else(|| PathBuf::from(DATA_DEFAULT));
        let data = (!flags.memory).then_some(data);
        let durability = durability(file.durability, "durability", data.is_some())?;
        let state = file.state.map_or(StateKind::default(), StateKind::from);
        let retention = file.history.over(&Retention::default(), limits.event_bytes)?;
        let mut by_pattern = Vec::new();
        for rule in file.channels {
            let stem = rule.pattern.strip_suffix('*').unwrap_or(&rule.pattern);
            ensure!(
                (stem.is_empty() && rule.pattern == "*") || tidewire_core::ChannelName::check(stem).is_ok(),
                "channels.pattern = {:?} is neither a channel name nor the beginning of one with a * at its end",
                rule.pattern
            );
            let durability = match rule.durability {
                None => durability,
                chosen => self::durability(chosen, "channels.durability", data.is_some())?,
            };
            let state = rule.state.map_or(state, StateKind::from);
            let policy = Policy::new(durability, state, rule.history.over(&retention, limits.event_bytes)?);
            by_pattern.push((rule.pattern, Arc::new(policy)));
        }
        if demo && !by_pattern.iter().any(|(pattern, _)| pattern == HOST) {
            // This machine's figures, every second: of no use after a restart.
            by_pattern.insert(
                0,
                (
                    HOST.to_owned(),
                    Arc::new(Policy::new(Durability::Memory, StateKind::Last, retention.clone())),
                ),
            );
        }
        Ok(Self {
            listen,
            shards,
            demo,
            data,
            limits,
            access: Arc::default(),
            policy: Arc::new(Policy::new(durability, state, retention)),
            by_pattern,
        })
    }

    /// What is kept of a channel: what the first pattern that fits says, else what holds for all.
    pub fn policy_of(&self, channel: &str) -> &Arc<Policy> {
        let fits = |pattern: &str| match pattern.strip_suffix('*') {
            Some(stem) => channel.starts_with(stem),
            None => channel == pattern,
        };
        let found = self.by_pattern.iter().find(|(pattern, _)| fits(pattern));
        found.map_or(&self.policy, |(_, policy)| policy)
    }

    pub(crate) fn opens_everything(&self) -> bool {
        true
    }

    pub(crate) fn lets_strangers_in(&self) -> bool {
        true
    }

    pub(crate) fn access_of<'c>(&self, _channel: &'c str) -> ChannelAccess<'c> {
        ChannelAccess { rights: ChannelRights::all(Allowed::Anyone), fit: Fit::Yes }
    }

    /// The longest time for which any channel remembers idempotency keys.
    pub fn idempotency_ms(&self) -> u64 {
        let all = self.by_pattern.iter().map(|(_, policy)| policy).chain([&self.policy]);
        all.map(|policy| policy.retention.idempotency_ms).max().unwrap_or(0)
    }
}

/// Where events are kept, as chosen; by default on disk, if there is one.
fn durability(chosen: Option<FileDurability>, key: &str, has_disk: bool) -> anyhow::Result<Durability> {
    match chosen {
        Some(FileDurability::Disk) if !has_disk => {
            bail!("{key} = \"disk\" cannot be with --memory; pass --data DIR, or choose \"memory\"")
        }
        Some(FileDurability::Disk) => Ok(Durability::Disk),
        Some(FileDurability::Memory) => Ok(Durability::Memory),
        Some(FileDurability::None) => Ok(Durability::None),
        None => Ok(if has_disk { Durability::Disk } else { Durability::Memory }),
    }
}

impl History {
    fn over(&self, base: &Retention, event_bytes: usize) -> anyhow::Result<Retention> {
        let seconds =
            |value: Option<u64>, base_ms| value.map_or(base_ms, |seconds| seconds.saturating_mul(1000));
        let retention = Retention {
            events: self.events.unwrap_or(base.events),
            // A larger event limit makes room for itself, unless the file says otherwise.
            bytes: self.bytes.unwrap_or(base.bytes.max(event_bytes)),
            age_ms: seconds(self.age_seconds, base.age_ms),
            idempotency_ms: seconds(self.idempotency_seconds, base.idempotency_ms),
            idempotency_keys: self.idempotency_keys.unwrap_or(base.idempotency_keys),
        };
        ensure!(retention.events > 0, "history.events = 0 would keep nothing to deliver; use 1 or more");
        ensure!(
            retention.bytes >= event_bytes,
            "history.bytes = {} is less than limits.event_bytes = {event_bytes}, so the largest events would be \
             dropped before they are delivered",
            retention.bytes
        );
        ensure!(retention.age_ms > 0, "history.age_seconds = 0 would keep nothing to deliver; use 1 or more");
        Ok(retention)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Settings, String> {
        let file = toml::from_str(text).map_err(|error| error.to_string())?;
        Settings::checked(file, &Flags::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_fitting_pattern_decides() {
        let text = "[history]\nevents = 5\n[[channels]]\npattern = \"chat:*\"\nhistory.events = 7\n\
                    [[channels]]\npattern = \"chat:1\"\nhistory.events = 9";
        let settings = settings(text).expect("right");
        for (channel, events) in [("chat:1", 7), ("chat", 5), ("x", 5)] {
            assert_eq!(settings.policy_of(channel).retention.events, events, "{channel}");
        }
    }

    #[test]
    fn durability_goes_by_pattern() {
        let text = "durability = \"memory\"\n[[channels]]\npattern = \"a:*\"\ndurability = \"disk\"\n\
                    [[channels]]\npattern = \"b\"\ndurability = \"none\"";
        let of = |settings: &Settings, channel: &str| settings.policy_of(channel).durability;
        let on_disk = settings(text).expect("right");
        assert_eq!(of(&on_disk, "a:1"), Durability::Disk);
        assert_eq!(of(&on_disk, "b"), Durability::None);
        assert_eq!(of(&on_disk, "c"), Durability::Memory);
        let all = settings("").expect("right");
        assert_eq!((of(&all, "c"), of(&all, HOST)), (Durability::Disk, Durability::Memory));
        let flags = Flags { memory: true, ..Flags::default() };
        let in_memory = Settings::checked(File::default(), &flags).expect("right");
        assert_eq!((of(&in_memory, "c"), in_memory.data), (Durability::Memory, None));
        let file = toml::from_str(text).expect("TOML");
        let error = Settings::checked(file, &flags).expect_err("a contradiction").to_string();
        assert!(error.contains("--memory"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("colour = 1", "colour"),
            ("[limits]\nevent_bites = 1", "event_bytes"),
            ("[limits]\nevent_bytes = 0", "limits.event_bytes = 0"),
            ("[history]\nevents = 0", "history.events"),
            ("listen = \"0.0.0.0:80\"", "--insecure"),
            ("[[channels]]\npattern = \"a*b\"", "a*b"),
            ("shards = 0", "shards"),
            ("durability = \"paper\"", "paper"),
            ("state = \"all\"", "all"),
            ("[[channels]]\npattern = \"a\"\ndurability = \"\"", "durability"),
            ("[history]\nbytes = 5", "limits.event_bytes"),
        ] {
            let error = settings(text).expect_err(text);
            assert!(error.contains(part), "{text:?} gave {error:?}");
        }
    }
}
