//! The server under test: started on a free port from the real binary, or running already (`TIDEWIRE_URL`).
//! Stopped by its process id when dropped.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::Result;

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// `http://HOST:PORT`, without a slash at the end.
    pub url: String,
    child: Option<Child>,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// Starts the binary with the given configuration.
    ///
    /// # Errors
    /// When it does not say where it listens within 20 s.
    pub fn start(config: &str) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.args(["serve", "--listen", "127.0.0.1:0", "--memory", "--no-demo"]);
        let file = config_file(config)?;
        if let Some(file) = &file {
            command.arg("--config").arg(file);
        }
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| format!("cannot start the server: {error}"))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let log = Arc::new(Mutex::new(String::new()));
        let mut server = Self { url: String::new(), child: Some(child), log: Arc::clone(&log) };
        std::thread::spawn(move || keep(stderr, &log));
        let url = server.read_address(stdout);
        if let Some(file) = file {
            let _ = std::fs::remove_file(file);
        }
        server.url = url?;
        Ok(server)
    }

    /// The server that `TIDEWIRE_URL` names, if it is set.
    pub fn from_environment() -> Option<Self> {
        let url = std::env::var("TIDEWIRE_URL").ok().filter(|url| !url.is_empty())?;
        Some(Self { url: url.trim_end_matches('/').to_owned(), child: None, log: Arc::default() })
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

    fn read_address(&self, stdout: Option<impl Read + Send + 'static>) -> Result<String> {
        let stdout = stdout.ok_or("no stdout")?;
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines();
            let _ = sender.send(lines.next());
            // The pipe stays open so that the server can never fail to write.
            lines.for_each(drop);
        });
        let line = match receiver.recv_timeout(Duration::from_secs(20)) {
            Ok(Some(Ok(line))) => line,
            other => return Err(format!("no address on stdout ({other:?}); stderr: {}", self.log())),
        };
        let address = line.strip_prefix("listening on ").ok_or(format!("first line was {line:?}"))?;
        Ok(address.to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The servers of a run: one for each configuration, started when first needed.
#[derive(Debug, Default)]
pub struct Servers {
    running: Mutex<HashMap<String, Arc<Server>>>,
}

impl Servers {
    /// The server with this configuration.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn with(&self, config: &str) -> Result<Arc<Server>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = running.get(config) {
            return Ok(Arc::clone(server));
        }
        let outside = config.is_empty().then(Server::from_environment).flatten();
        let server = Arc::new(outside.map_or_else(|| Server::start(config), Ok)?);
        running.insert(config.to_owned(), Arc::clone(&server));
        Ok(server)
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

fn config_file(config: &str) -> Result<Option<PathBuf>> {
    if config.is_empty() {
        return Ok(None);
    }
    let name = format!("tidewire-test-{}-{}.toml", std::process::id(), crate::random::clock());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, config).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Some(path))
}

/// `TIDEWIRE_BIN`, else the debug binary beside the running test, built first.
fn binary() -> Result<PathBuf> {
    static BINARY: OnceLock<Result<PathBuf>> = OnceLock::new();
    BINARY.get_or_init(|| std::env::var_os("TIDEWIRE_BIN").map_or_else(build, |path| Ok(path.into()))).clone()
}

fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo).args(["build", "--quiet", "--package", "tidewire"]).status();
    if !built.map_err(|error| format!("cannot run cargo: {error}"))?.success() {
        return Err("cargo build --package tidewire failed".to_owned());
    }
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = own.parent().and_then(|deps| deps.parent()).ok_or("no target directory")?;
    Ok(target.join("tidewire"))
}
