//! From sources to settings: gathers them, lays one over the other, has them checked, and puts together what the
//! checked values say. Must not know how options are spelled but by name, nor keep any secret that it reads.

use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use tidewire_core::limits::Limits;

use super::forms;
use super::log::{LogFormat, LogLevel, LogSettings};
use super::mistakes::{Mistakes, Origin};
use super::options::{LOG_LEVEL, ROOT};
use super::source::{self, Body, Raw};
use super::values::{Data, Table};
use super::{Flags, Settings, access, channels, tls};
use crate::access::settings::Secret;
use crate::backplane::BackplaneSettings;
use crate::traces::TraceSettings;

/// The largest configuration, secret or schema that is read.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// All that a configuration is made of.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// The file's name as it was given, and its text.
    pub(super) file: Option<(PathBuf, String)>,
    /// The environment, options or not: it may hold secrets under any name.
    pub(super) variables: Vec<(String, String)>,
    pub(super) flags: Flags,
}

/// Settings and the values that they are made of.
#[derive(Debug)]
pub(super) struct Configuration {
    pub(super) settings: Settings,
    pub(super) table: Table,
}

impl Sources {
    pub(super) fn gather(path: Option<&Path>, flags: &Flags) -> anyhow::Result<Self> {
        let file = match path {
            None => None,
            Some(path) => {
                let text = read_file(path).with_context(|| format!("cannot read {}", path.display()))?;
                let text =
                    String::from_utf8(text).with_context(|| format!("{} is not TOML", path.display()))?;
                Some((path.to_owned(), text))
            }
        };
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let mut variables: Vec<_> =
            std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect();
        variables.sort();
        Ok(Self { file, variables, flags: flags.clone() })
    }

    /// An environment variable, also one that is empty.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn lay_flags_over(&self, tree: &mut Raw) {
        let mut put = |name: &str, flag: &'static str, body: Body| {
            tree.put(&[name], Raw { body, origin: Origin::Flag(flag) });
        };
        if let Some(listen) = self.flags.listen {
            put("listen", "--listen", Body::Text(listen.to_string()));
        }
        if let Some(data) = &self.flags.data {
            put("data", "--data", Body::Text(data.to_string_lossy().into_owned()));
        }
        if self.flags.no_demo {
            put("demo", "--no-demo", Body::Truth(false));
        }
    }
}

/// Reads, checks and puts together.
///
/// # Errors
/// All that is wrong.
pub(super) fn read(sources: &Sources) -> anyhow::Result<Configuration> {
    let mut checks = Checks { mistakes: Mistakes::default(), sources };
    let mut tree = match &sources.file {
        Some((path, text)) => source::file(&path.display().to_string(), text)?,
        None => Raw::empty(),
    };
    source::environment(&mut tree, &sources.variables, &mut checks.mistakes);
    sources.lay_flags_over(&mut tree);
    let mut table = Table::root(tree, &mut checks.mistakes);
    let settings = settings(&mut table, &mut checks);
    let mut mistakes = checks.mistakes;
    if !mistakes.is_empty() {
        return Err(mistakes.into_error());
    }
    Ok(Configuration {
        settings: Settings { warnings: std::mem::take(&mut mistakes.warnings), ..settings },
        table,
    })
}

fn settings(root: &mut Table, checks: &mut Checks<'_>) -> Settings {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    root.settle("shards", Data::Number(cores() as u64));
    let access = access::access(root, checks);
    let authenticates = access::authenticates(root, checks.sources);
    let listen = address(root, "listen").unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8080)));
    let of_tls = address(root.table("tls"), "listen").map(|listen| (root.table("tls"), listen));
    for (table, listen) in [(&*root, listen)].into_iter().chain(of_tls) {
        if listen.ip().is_loopback() || authenticates || checks.sources.flags.insecure {
            continue;
        }
        checks.mistakes.add(
            table.origin("listen"),
            format!(
                "listen = \"{listen}\" would let anybody in, as no authentication is configured: listen on a loopback \
                 address behind a proxy that checks who comes, configure auth.issuers or auth.admin_key_file, or pass \
                 --insecure"
            ),
        );
    }
    if checks.sources.flags.memory && checks.sources.flags.data.is_some() {
        let what = "--memory and --data say opposite things; pass one of them";
        checks.mistakes.add(&Origin::Default, what);
    }
    let data = checks.sources.flags.data.clone().or_else(|| checks.path(root, "data"));
    let data = data.filter(|_| !checks.sources.flags.memory);
    let backplane = root.text("backplane").and_then(|text| forms::brokers(text).ok());
    let backplane = backplane.map(|urls| BackplaneSettings { urls });
    // Several servers may be started in one directory.
    let is_said = root.is_said("data") || checks.sources.flags.data.is_some();
    let data = data.filter(|_| backplane.is_none() || is_said);
    let tls = tls::tls(root.table("tls"), listen, data.as_deref(), checks);
    let bounds = root.table("limits");
    let limits = Limits::by_name(|name| bounds.number(name));
    let demo = root.truth("demo");
    let channels = channels::Channels::read(root, &limits, demo, authenticates, checks);
    channels.settle(root);
    Settings {
        listen,
        tls,
        shards: root.number("shards").and_then(|shards| usize::try_from(shards).ok()).unwrap_or(1),
        demo,
        reuse_port: root.truth("reuse_port"),
        may_leave_loopback: authenticates || checks.sources.flags.insecure,
        h2c: root.truth("h2c"),
        data,
        backplane,
        limits,
        warnings: Vec::new(),
        access: Arc::new(access),
        traces: traces(root.table("traces"), authenticates, checks),
        log: log(root.table("log")),
        by_pattern: channels.by_pattern,
        otherwise: channels.otherwise,
        own: channels.own,
        presence: channels.presence,
    }
}

fn traces(table: &Table, authenticates: bool, checks: &mut Checks<'_>) -> Option<TraceSettings> {
    if !table.is_said("endpoint") {
        return None;
    }
    let authorization = checks.secret_of_file(table, "authorization_file", 1);
    if let Some(secret) = &authorization
        && !secret.0.iter().all(|byte| (0x20..0x7f).contains(byte))
    {
        checks.wrong(
            table,
            "authorization_file",
            "holds what cannot stand in a header: one line of ASCII is right",
        );
    }
    let url = table.text("endpoint")?;
    access::warn_of_public_http(table, "endpoint", url, "reads traces", checks);
    Some(TraceSettings {
        url: url.to_owned(),
        authorization,
        per_million: table.number("per_million")?,
        per_second: table.number("per_second").and_then(|count| u32::try_from(count).ok())?,
        service: table.text("service")?.to_owned(),
        wants_identity: authenticates,
    })
}

fn log(table: &Table) -> LogSettings {
    let levels = [LogLevel::Off, LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug];
    let format = if table.text("format") == Some("json") { LogFormat::Json } else { LogFormat::Human };
    LogSettings { level: choice(table, "level", LOG_LEVEL, &levels).unwrap_or_default(), format }
}

/// The value for which a choice stands: both lists have the same order.
pub(super) fn choice<T: Copy>(table: &Table, name: &str, choices: &[&str], values: &[T]) -> Option<T> {
    let chosen = table.text(name)?;
    let at = choices.iter().position(|choice| *choice == chosen)?;
    values.get(at).copied()
}

/// An address that was checked to be one.
pub(super) fn address(table: &Table, name: &str) -> Option<SocketAddr> {
    table.text(name)?.parse().ok()
}

/// What the checks that look at several values share.
pub(super) struct Checks<'s> {
    pub(super) mistakes: Mistakes,
    pub(super) sources: &'s Sources,
}

impl Checks<'_> {
    pub(super) fn wrong(&mut self, table: &Table, name: &str, what: impl std::fmt::Display) {
        self.mistakes.add(table.origin(name), format!("{} {what}", table.path(name)));
    }

    /// A path; in the file, it is relative to the file's directory.
    pub(super) fn path(&self, table: &Table, name: &str) -> Option<PathBuf> {
        let path = PathBuf::from(table.text(name)?);
        let directory = match (table.origin(name), &self.sources.file) {
            (Origin::File { .. }, Some((file, _))) => file.parent(),
            _ => None,
        };
        Some(directory.map_or_else(|| path.clone(), |directory| directory.join(&path)))
    }

    /// A path of a file that can be read.
    pub(super) fn readable(&mut self, table: &Table, name: &str) -> Option<PathBuf> {
        let path = self.path(table, name)?;
        self.content(table, name, &path).map(|_| path)
    }

    pub(super) fn content(&mut self, table: &Table, name: &str, path: &Path) -> Option<Vec<u8>> {
        let error = match read_file(path) {
            Ok(content) => return Some(content),
            Err(error) => error,
        };
        self.wrong(table, name, format!("= {:?} cannot be read: {error}", path.display().to_string()));
        None
    }

    /// A secret from the file that an option names; never too short.
    pub(super) fn secret_of_file(&mut self, table: &Table, name: &str, least: usize) -> Option<Secret> {
        let path = self.path(table, name)?;
        let content = match read_file(&path) {
            Ok(content) => content,
            // The path is not repeated: where one was expected, somebody may have written the secret.
            Err(error) => {
                self.wrong(table, name, format!("names a file that cannot be read: {error}"));
                return None;
            }
        };
        if let Ok(mode) = std::fs::metadata(&path).map(|found| found.permissions().mode())
            && mode & 0o077 != 0
        {
            let path = path.display();
            let what = format!("{path} can be used by others than its owner; run: chmod 600 {path}");
            self.mistakes.warn(table.origin(name), what);
        }
        let secret = content.trim_ascii();
        if secret.len() < least {
            self.wrong(table, name, too_short("the secret in the file", secret.len(), least));
            return None;
        }
        Some(Secret(secret.to_vec()))
    }

    /// A secret from the environment variable that an option names; never too short.
    pub(super) fn secret_of_variable(&mut self, table: &Table, name: &str, least: usize) -> Option<Secret> {
        let variable = table.text(name)?;
        let Some(secret) = self.sources.variable(variable).map(str::trim_ascii) else {
            self.wrong(table, name, "names a variable that is not in the environment");
            return None;
        };
        if secret.len() < least {
            self.wrong(table, name, too_short("the secret in that variable", secret.len(), least));
            return None;
        }
        Some(Secret(secret.as_bytes().to_vec()))
    }
}

pub(super) fn too_short(what: &str, bytes: usize, least: usize) -> String {
    format!("is not right: {what} has {bytes} bytes; it needs at least {least}")
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let read = std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(content)
}

/// What `--help` says of a flag that mirrors an option: its meaning and default.
pub(super) fn help(name: &str) -> String {
    let Some(entry) = ROOT.option(name) else { return String::new() };
    format!("{} [default: {}]", entry.told().meaning, entry.standard.shown())
}
