//! How a server is started: on which directory, with which settings and environment, and whether it serves at
//! all or ends with a word on why. Must not know what it does afterwards.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::Result;
use crate::server::{Server, binary};

/// What a server is started with.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    data: Data,
    config: String,
    environment: Vec<(String, OsString)>,
    address: Option<String>,
}

#[derive(Debug, Clone, Default)]
enum Data {
    #[default]
    Memory,
    At(PathBuf),
    /// Not here: at the backplane with this URL.
    Backplane(String),
    /// Not said; the process runs in this directory.
    Below(PathBuf),
}

/// What came of it.
#[derive(Debug)]
pub enum Launched {
    /// It serves.
    Serving(Server),
    /// It ended before it served.
    Ended(Ended),
}

/// A server that would not serve.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stderr.
    pub log: String,
}

impl Launch {
    /// With nothing on disk.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// With its log in this directory.
    pub fn on(data: &Path) -> Self {
        Self { data: Data::At(data.to_owned()), ..Self::default() }
    }

    /// With its log at a backplane that it may share.
    pub fn sharing(backplane: &str) -> Self {
        Self { data: Data::Backplane(backplane.to_owned()), ..Self::default() }
    }

    /// Without a word on where the log shall be, in this working directory.
    pub fn below(directory: &Path) -> Self {
        Self { data: Data::Below(directory.to_owned()), ..Self::default() }
    }

    /// With these settings.
    #[must_use]
    pub fn config(mut self, config: &str) -> Self {
        config.clone_into(&mut self.config);
        self
    }

    /// Where it listens, rather than on a port that is free.
    #[must_use]
    pub fn listen(mut self, authority: &str) -> Self {
        self.address = Some(authority.to_owned());
        self
    }

    /// With this in its environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Starts it and waits until it serves or ends.
    ///
    /// # Errors
    /// When it does neither within 20 s.
    pub fn run(&self) -> Result<Launched> {
        self.with_command(Server::spawn)
    }

    /// Starts a server that must serve.
    ///
    /// # Errors
    /// When it does not, with what it said.
    pub fn serve(&self) -> Result<Server> {
        match self.run()? {
            Launched::Serving(server) => Ok(server),
            Launched::Ended(Ended { status, log }) => {
                Err(format!("the server ended with {status} instead of serving; stderr: {log}"))
            }
        }
    }

    /// Starts a server that must end with a bad status and a word on why.
    ///
    /// # Errors
    /// When it serves, ends well or says nothing.
    pub fn refuse(&self) -> Result<String> {
        match self.run()? {
            Launched::Serving(_) => Err("the server serves where it must refuse to start".to_owned()),
            Launched::Ended(Ended { status, log }) => match status.code() {
                None => Err(format!("expected a refusal, the server died of {status}: {log}")),
                Some(0) | Some(101) => {
                    Err(format!("expected a refusal, the server ended with {status}: {log}"))
                }
                Some(_) if log.trim().is_empty() => Err("the server refused without a word".to_owned()),
                Some(_) => Ok(log),
            },
        }
    }

    /// Starts a server and kills it a moment later, whether it serves by then or is still finding its log.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn kill_after(&self, moment: Duration) -> Result<()> {
        self.with_command(|command| {
            let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let mut child = spawned.map_err(|error| format!("cannot start the server: {error}"))?;
            std::thread::sleep(moment);
            let _ = child.kill();
            child.wait().map(drop).map_err(|error| error.to_string())
        })
    }

    fn with_command<T>(&self, run: impl FnOnce(&mut Command) -> Result<T>) -> Result<T> {
        let mut command = Command::new(binary()?);
        let address = self.address.as_deref().unwrap_or("127.0.0.1:0");
        command.args(["serve", "--listen", address, "--no-demo"]);
        match &self.data {
            Data::Memory => command.arg("--memory"),
            Data::Backplane(url) => command.env("TIDEWIRE_BACKPLANE", url),
            Data::At(data) => command.arg("--data").arg(data),
            Data::Below(directory) => command.current_dir(directory),
        };
        let file = config_file(&self.config)?;
        if let Some(file) = &file {
            command.arg("--config").arg(file);
        }
        command
            .env("TIDEWIRE_LOG__LEVEL", "warn")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        let outcome = run(&mut command);
        if let Some(file) = file {
            let _ = std::fs::remove_file(file);
        }
        outcome
    }
}

fn config_file(config: &str) -> Result<Option<PathBuf>> {
    if config.is_empty() {
        return Ok(None);
    }
    let name = format!("tidewire-test-{}-{}.toml", std::process::id(), crate::random::clock());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, config).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Some(path))
}
