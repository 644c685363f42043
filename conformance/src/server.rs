//! The server under test: started on a free port from the real binary, or running already (`TIDEWIRE_URL`).
//! Stopped by its process id when dropped.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Result;
use crate::broker::{Broker, Kind};
use crate::launch::{Ended, Launch, Launched};
use crate::relay::Relay;
use crate::scratch::Scratch;

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// `http://HOST:PORT`, without a slash at the end.
    pub url: String,
    child: Option<Child>,
    log: Arc<Mutex<String>>,
    /// Fills the log until the process is gone.
    reader: Option<JoinHandle<()>>,
}

const PATIENCE: Duration = Duration::from_secs(20);

impl Server {
    /// Starts the binary with the given configuration, with nothing on disk.
    ///
    /// # Errors
    /// When it does not say where it listens within 20 s.
    pub fn start(config: &str) -> Result<Self> {
        Launch::in_memory().config(config).serve()
    }

    /// Runs a command until it says where it listens, or ends.
    pub(crate) fn spawn(command: &mut Command) -> Result<Launched> {
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| format!("cannot start the server: {error}"))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let log = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&log);
        let reader = std::thread::spawn(move || keep(stderr, &kept));
        let mut server = Self { url: String::new(), child: Some(child), log, reader: Some(reader) };
        let Some(line) = server.first_line(stdout)? else {
            let status = server.wait()?;
            return Ok(Launched::Ended(Ended { status, log: server.log() }));
        };
        let address = line.strip_prefix("listening on ").ok_or(format!("first line was {line:?}"))?;
        address.clone_into(&mut server.url);
        Ok(Launched::Serving(server))
    }

    /// The server that `TIDEWIRE_URL` names, if it is set.
    pub fn from_environment() -> Option<Self> {
        let url = std::env::var("TIDEWIRE_URL").ok().filter(|url| !url.is_empty())?;
        Some(Self {
            url: url.trim_end_matches('/').to_owned(),
            child: None,
            log: Arc::default(),
            reader: None,
        })
    }

    /// `HOST:PORT`.
    pub fn authority(&self) -> &str {
        self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest)
    }

    /// The process id, when it was started here.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What the process holds in memory, in bytes.
    ///
    /// # Errors
    /// When `/proc` does not say.
    pub fn resident_bytes(&self) -> Result<usize> {
        let pid = self.pid().ok_or("the server was not started here")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| e.to_string())?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let kib = line.trim().trim_end_matches(" kB").parse::<usize>().map_err(|e| e.to_string())?;
        Ok(kib * 1024)
    }

    /// What the server wrote to stderr so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Kills it as a power cut would, without a last word. Returns what it wrote to stderr.
    pub fn kill(&mut self) -> String {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.whole_log()
    }

    /// Asks it to end, and returns what it wrote to stderr.
    ///
    /// # Errors
    /// When it does not end well, or not in time.
    pub fn stop(&mut self) -> Result<String> {
        let pid = self.pid().ok_or("the server was not started here")?.to_string();
        Command::new("kill").args(["-TERM", &pid]).status().map_err(|error| error.to_string())?;
        let status = self.wait()?;
        let log = self.log();
        if status.success() { Ok(log) } else { Err(format!("the server ended with {status}; stderr: {log}")) }
    }

    /// Waits until the process has ended and all that it said is in the log.
    fn wait(&mut self) -> Result<ExitStatus> {
        let child = self.child.as_mut().ok_or("the server was not started here")?;
        let mut status = None;
        wait_until("the server ends", PATIENCE, || {
            status = child.try_wait().ok().flatten();
            status.is_some()
        })?;
        self.whole_log();
        status.ok_or("no status".to_owned())
    }

    fn whole_log(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.log()
    }

    /// The first line on stdout; none when it ends without one.
    fn first_line(&self, stdout: Option<impl Read + Send + 'static>) -> Result<Option<String>> {
        let stdout = stdout.ok_or("no stdout")?;
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines();
            let _ = sender.send(lines.next());
            // The pipe stays open so that the server can never fail to write.
            lines.for_each(drop);
        });
        match receiver.recv_timeout(PATIENCE) {
            Ok(Some(Ok(line))) => Ok(Some(line)),
            Ok(None) => Ok(None),
            other => Err(format!("no address on stdout ({other:?}); stderr: {}", self.log())),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The servers of a run: one for each configuration, started when first needed.
#[derive(Debug, Default)]
pub struct Servers {
    running: Mutex<HashMap<(String, Log), Running>>,
    brokers: Mutex<HashMap<Kind, Box<dyn Broker>>>,
}

/// Where a server's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Log {
    /// In memory.
    Memory,
    /// On disk, in a directory of its own.
    Disk,
    /// At a broker that two servers share, to which connections go in turn.
    At(Kind),
}

/// Dropped in this order: the server ends before its directory goes.
#[derive(Debug)]
struct Running {
    /// Where clients go.
    url: String,
    _relay: Option<Relay>,
    _servers: Vec<Server>,
    _directory: Option<Scratch>,
}

impl Servers {
    /// Where a server with this configuration and its log there is.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn with(&self, config: &str, log: Log) -> Result<String> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = running.get(&(config.to_owned(), log)) {
            return Ok(running.url.clone());
        }
        let outside = config.is_empty().then(Server::from_environment).flatten();
        let number = running.len();
        let new = match (outside, log) {
            (Some(server), _) => Running::alone(server, None),
            (None, Log::Memory) => Running::alone(Server::start(config)?, None),
            (None, Log::Disk) => {
                let directory = Scratch::new("conformance")?;
                let server = Launch::on(&directory.join("data")).config(config).serve()?;
                Running::alone(server, Some(directory))
            }
            (None, Log::At(kind)) => {
                let mut brokers = self.brokers.lock().unwrap_or_else(PoisonError::into_inner);
                let broker = match brokers.entry(kind) {
                    Entry::Occupied(running) => running.into_mut(),
                    Entry::Vacant(none) => none.insert(kind.start()?),
                };
                Running::sharing(config, &broker.url(&format!("run{number}")))?
            }
        };
        let url = new.url.clone();
        running.insert((config.to_owned(), log), new);
        Ok(url)
    }
}

impl Running {
    fn alone(server: Server, directory: Option<Scratch>) -> Self {
        Self { url: server.url.clone(), _relay: None, _servers: vec![server], _directory: directory }
    }

    fn sharing(config: &str, backplane: &str) -> Result<Self> {
        let launch = Launch::sharing(backplane).config(config);
        let servers = vec![launch.serve()?, launch.serve()?];
        let relay = Relay::to(&servers.iter().map(Server::authority).collect::<Vec<_>>())?;
        Ok(Self { url: relay.url(), _relay: Some(relay), _servers: servers, _directory: None })
    }
}

/// Waits until a condition holds.
///
/// # Errors
/// When it does not within the time.
pub fn wait_until(what: &str, within: Duration, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + within;
    while !holds() {
        if Instant::now() > deadline {
            return Err(format!("not within {within:?}: {what}"));
        }
        pause();
    }
    Ok(())
}

/// A short rest between two looks at a condition; never a substitute for one.
pub fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

fn keep(stderr: Option<impl Read>, log: &Mutex<String>) {
    for line in
        stderr.into_iter().flat_map(|stderr| BufReader::new(stderr).lines()).map_while(|line| line.ok())
    {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() < 1 << 20 {
            log.push_str(&line);
            log.push('\n');
        }
    }
}

/// `TIDEWIRE_BIN`, else the debug binary beside the running test, built first.
pub(crate) fn binary() -> Result<PathBuf> {
    static BINARY: OnceLock<Result<PathBuf>> = OnceLock::new();
    BINARY.get_or_init(|| std::env::var_os("TIDEWIRE_BIN").map_or_else(build, |path| Ok(path.into()))).clone()
}

fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo).args(["build", "--quiet", "--package", "tidewire"]).status();
    if !built.map_err(|error| format!("cannot run cargo: {error}"))?.success() {
        return Err("cargo build --package tidewire failed".to_owned());
    }
    Ok(target()?.join("tidewire"))
}

/// Where cargo put what it built, the running test included.
pub(crate) fn target() -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = own.parent().and_then(|deps| deps.parent()).ok_or("no target directory")?;
    Ok(target.to_owned())
}
