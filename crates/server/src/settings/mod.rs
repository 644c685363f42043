//! Settings: `tidewire.toml`, the environment and the flags, checked and merged before a port is bound.
//! Must not know what the settings do; a value that gets past here is usable.

mod access;
mod channels;
mod definition;
mod forms;
mod issuers;
mod kinds;
mod load;
mod log;
mod mistakes;
mod options;
mod reference;
mod schema;
mod show;
mod source;
#[cfg(test)]
mod tests;
mod tls;
mod values;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidewire_core::channel::{PRESENCE, is_reserved};
use tidewire_core::limits::{Limits, Policy};

use crate::access::identity::ChannelAccess;
use crate::access::pattern::{Fit, Pattern};
use crate::access::settings::{AccessSettings, Allowed, ChannelRights};
use crate::backplane::BackplaneSettings;
use crate::certificates::CertificateFiles;
use crate::schema::Schema;
use crate::traces::TraceSettings;
pub(crate) use log::{LogFormat, LogLevel, LogSettings};

/// Checked settings.
#[derive(Debug)]
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// TLS, if there is any.
    pub(crate) tls: Option<TlsSettings>,
    /// How many shards serve connections.
    pub shards: usize,
    /// Whether the demo page is served and this machine's figures are published on `host`.
    pub demo: bool,
    /// Whether other servers may listen on the same port.
    pub(crate) reuse_port: bool,
    /// Whether others than this machine may come.
    pub(crate) may_leave_loopback: bool,
    /// Whether HTTP/2 is spoken without TLS.
    pub(crate) h2c: bool,
    /// Where the log on disk is. `None` keeps everything in memory.
    pub data: Option<PathBuf>,
    /// The brokers that are shared with other servers.
    pub backplane: Option<BackplaneSettings>,
    /// All bounds.
    pub limits: Limits,
    /// What can be used, and should be known all the same: a line each.
    pub warnings: Vec<String>,
    /// Who is who, and whom to ask.
    #[allow(dead_code, reason = "what acts on it is not there yet")]
    pub(crate) access: Arc<AccessSettings>,
    /// What is traced, if anything is.
    pub(crate) traces: Option<TraceSettings>,
    /// What is logged.
    #[allow(dead_code, reason = "nothing is logged yet")]
    pub(crate) log: LogSettings,
    /// What holds for the channels of a pattern; the first that fits decides.
    by_pattern: Vec<(Pattern, Arc<Rule>)>,
    /// What holds where no pattern fits.
    otherwise: Arc<Rule>,
    /// What holds for the server's own channels, whatever patterns fit.
    own: Arc<Rule>,
    /// What holds for the channels that say who is present in others.
    presence: Arc<Rule>,
}

/// Where TLS is spoken, and where the certificate comes from.
#[derive(Debug, Clone)]
pub(crate) struct TlsSettings {
    pub(crate) listen: SocketAddr,
    pub(crate) source: CertificateSource,
}

/// Where a certificate comes from.
#[derive(Debug, Clone)]
pub(crate) enum CertificateSource {
    Files(CertificateFiles),
    Acme(AcmeSettings),
}

/// An authority that gives certificates by ACME; its terms are agreed to.
#[derive(Debug, Clone)]
pub(crate) struct AcmeSettings {
    /// In lower case, none twice.
    pub(crate) domains: Vec<String>,
    pub(crate) contact: Option<String>,
    /// The URL of the authority's directory.
    pub(crate) directory: String,
    /// A file with the certificates by which the authority itself is known; nothing is as the machine has it.
    pub(crate) authority: Option<PathBuf>,
    /// The directory with what is kept.
    pub(crate) state: PathBuf,
}

/// What the command line says.
#[derive(Debug, Clone, Default)]
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

/// What holds for some channels.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    /// Its place among [`Settings::rules`].
    pub(crate) number: usize,
    /// What is kept, and where.
    pub(crate) policy: Arc<Policy>,
    /// Who may do what.
    pub(crate) rights: ChannelRights,
    /// What the data of an event must be.
    pub(crate) schema: Option<Arc<Schema>>,
}

impl Settings {
    /// Reads the file, if any, and lays the environment over it, and the flags over that.
    ///
    /// # Errors
    /// All that is wrong, each with its place and what would be right.
    pub fn load(path: Option<&Path>, flags: &Flags) -> anyhow::Result<Self> {
        let sources = load::Sources::gather(path, flags)?;
        Ok(load::read(&sources)?.settings)
    }

    /// Reads the files with keys that the settings name.
    ///
    /// # Errors
    /// Says which is wrong, and what would be right.
    pub fn check_keys(&self) -> anyhow::Result<()> {
        if let Some(tls) = &self.tls {
            crate::certificates::Certificates::check(tls)?;
        }
        crate::access::token::Verifier::new(&self.access).map(drop)
    }

    /// Starts logging as the settings say, for this whole process, until the guard is dropped.
    ///
    /// # Errors
    /// If somebody else in this process has taken the log.
    pub fn start_log(&self) -> anyhow::Result<crate::LogGuard> {
        crate::log::start(self.log)
    }

    /// The effective values as TOML, each with where it comes from, and no secret.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn show(path: Option<&Path>, flags: &Flags) -> anyhow::Result<String> {
        let sources = load::Sources::gather(path, flags)?;
        Ok(show::show(&load::read(&sources)?, &sources))
    }

    /// A JSON Schema of `tidewire.toml`.
    pub fn schema() -> String {
        format!("{:#}\n", schema::schema())
    }

    /// The reference page, `docs/configuration.md`.
    pub fn reference() -> String {
        reference::reference()
    }

    /// What `--help` says of a flag that is also an option: what the reference says.
    pub fn help(option: &str) -> String {
        load::help(option)
    }

    /// What holds for a channel: the first rule whose pattern fits, else what holds for all; and how it fits.
    pub(crate) fn rule_of<'c>(&self, channel: &'c str) -> (&Arc<Rule>, Fit<'c>) {
        if channel.starts_with(PRESENCE) {
            return (&self.presence, Fit::Yes);
        }
        if is_reserved(channel) {
            return (&self.own, Fit::Yes);
        }
        for (pattern, rule) in &self.by_pattern {
            match pattern.fit(channel) {
                Fit::No => {}
                fit => return (rule, fit),
            }
        }
        (&self.otherwise, Fit::Yes)
    }

    /// What is kept of a channel.
    pub fn policy_of(&self, channel: &str) -> &Arc<Policy> {
        &self.rule_of(channel).0.policy
    }

    /// Who may do what on a channel, at most.
    pub(crate) fn access_of<'c>(&self, channel: &'c str) -> ChannelAccess<'c> {
        let (rule, fit) = self.rule_of(channel);
        ChannelAccess { rights: rule.rights, fit }
    }

    /// Whether everybody may do everything, on all channels.
    pub(crate) fn opens_everything(&self) -> bool {
        let everything = ChannelRights::all(Allowed::Anyone);
        let is_open =
            |(pattern, rule): &(Pattern, Arc<Rule>)| rule.rights == everything && !pattern.has_owner();
        !self.access.authenticates()
            && self.otherwise.rights == everything
            && self.by_pattern.iter().all(is_open)
    }

    /// Whether there is something to do here for those who do not say who they are.
    pub(crate) fn lets_strangers_in(&self) -> bool {
        let is_open = |rule: &Arc<Rule>| {
            let ChannelRights { subscribe, history, publish, presence } = rule.rights;
            [subscribe, history, publish, presence].contains(&Allowed::Anyone)
        };
        self.rules().any(is_open)
    }

    /// Whether the data on any channel must be something.
    pub(crate) fn has_schemas(&self) -> bool {
        self.rules().any(|rule| rule.schema.is_some())
    }

    /// All rules by their number; the last one holds where no pattern fits.
    pub(crate) fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.by_pattern.iter().map(|(_, rule)| rule).chain([&self.otherwise])
    }

    /// The longest time for which any channel remembers idempotency keys.
    pub fn idempotency_ms(&self) -> u64 {
        self.rules().map(|rule| rule.policy.retention.idempotency_ms).max().unwrap_or(0)
    }
}
