//! A child process with a scratch folder: started, watched until it is ready, and ended by its id.
//! Knows nothing of what it runs.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

const READY_WITHIN: Duration = Duration::from_secs(20);
const END_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Enough of a failed child's last words to see why it failed.
const LAST_WORDS_BYTES: usize = 2000;

/// A running child; dropping it ends it.
pub(crate) struct Process {
    child: Child,
    folder: Scratch,
}

/// A folder that goes when it is dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Result<Scratch> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tidewire-bench-{}-{count}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Scratch(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A folder that stays behind in the temporary directory harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Process {
    /// Starts `command`; what it says on standard error is kept for [`Process::wait_until`].
    pub(crate) fn start(command: &mut Command, folder: Scratch) -> Result<Process> {
        let words = File::create(folder.path().join("stderr"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(words)
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
        Ok(Process { child, folder })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` says so, but not for ever and not for a dead child.
    pub(crate) fn wait_until(&mut self, what: &str, ready: impl Fn() -> bool) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < READY_WITHIN {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended before {what} ({status}): {}", self.last_words());
            }
            if ready() {
                return Ok(());
            }
            thread::sleep(LOOK_EVERY);
        }
        bail!("no {what} within {READY_WITHIN:?}: {}", self.last_words())
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) -> Result<()> {
        let pid = Pid::from_raw(self.child.id() as i32).context("a process has an id")?;
        Ok(kill_process(pid, Signal::TERM)?)
    }

    /// How it ended, if it has.
    pub(crate) fn try_end(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    fn last_words(&self) -> String {
        let words = fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default();
        let start = words.ceil_char_boundary(words.len().saturating_sub(LAST_WORDS_BYTES));
        words[start..].trim().to_owned()
    }

    fn end(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            // It may have ended just now; the wait below finds out.
            let _ = kill_process(pid, Signal::TERM);
        }
        let begin = Instant::now();
        while begin.elapsed() < END_WITHIN {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(LOOK_EVERY);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A loopback address that nobody listened on a moment ago.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// True if `address` accepts connections.
pub(crate) fn accepts(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}

/// One blocking request on a connection of its own: status and body. For set-up, never for measuring.
pub(crate) fn request(address: SocketAddr, request: &[u8]) -> Result<(u16, Vec<u8>)> {
    const ANSWER_BYTES_MAX: usize = 4 << 20;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 16 << 10];
    while answer.len() < ANSWER_BYTES_MAX {
        let count = stream.read(&mut buffer).context("no whole answer")?;
        answer.extend_from_slice(&buffer[..count]);
        if let Some((response, _)) = crate::wire::http::cut_response(&answer)? {
            return Ok((response.status, response.body.to_vec()));
        }
        if count == 0 {
            bail!("the answer broke off");
        }
    }
    bail!("an answer of more than {ANSWER_BYTES_MAX} bytes")
}

/// True if `GET path` answers 200.
pub(crate) fn answers_ok(address: SocketAddr, path: &str) -> bool {
    let get = crate::wire::http::get("bench", path, "Connection: close\r\n");
    request(address, &get).is_ok_and(|(status, _)| status == 200)
}
