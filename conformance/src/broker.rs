//! A Redis for a test: a real one, on a free port, with its data in a directory of its own, that syncs each write
//! before it answers. It can be killed, started again, and stopped in its tracks. Must not know what is kept in it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Result;
use crate::scratch::Scratch;
use crate::server::wait_until;

/// Where brokers listen: an address of this machine on which nothing else does, so that a port that was free a moment
/// ago still is.
pub const ADDRESS: &str = "127.0.0.9";

/// A running Redis.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    options: Vec<String>,
    child: Option<Child>,
    directory: Scratch,
}

impl Redis {
    /// Starts one that loses nothing which it has answered for.
    ///
    /// # Errors
    /// When it does not answer within 20 s.
    pub fn start() -> Result<Self> {
        Self::with(&["--appendonly", "yes", "--appendfsync", "always", "--save", ""])
    }

    /// Starts one with these options.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn with(options: &[&str]) -> Result<Self> {
        let free = TcpListener::bind((ADDRESS, 0)).and_then(|listener| listener.local_addr());
        let port = free.map_err(|error| format!("no free port on {ADDRESS}: {error}"))?.port();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut redis = Self { port, options, child: None, directory: Scratch::new("redis")? };
        redis.up()?;
        Ok(redis)
    }

    /// Starts it again where it was, with what it has kept.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn up(&mut self) -> Result<()> {
        let spawned = Command::new("redis-server")
            .args(["--bind", ADDRESS, "--port", &self.port.to_string(), "--dir"])
            .arg(self.directory.join(""))
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = spawned.map_err(|error| {
            format!("cannot run redis-server ({error}); `./test install` brings it on Debian")
        })?;
        self.child = Some(child);
        wait_until("redis answers", Duration::from_secs(20), || {
            self.command(&["PING"]).is_ok_and(|said| said.starts_with("+PONG"))
        })
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Has it do nothing, with all its connections open.
    ///
    /// # Errors
    /// When `kill` cannot be run.
    pub fn pause(&self) -> Result<()> {
        self.signal("-STOP")
    }

    /// Has it go on.
    ///
    /// # Errors
    /// When `kill` cannot be run.
    pub fn resume(&self) -> Result<()> {
        self.signal("-CONT")
    }

    fn signal(&self, name: &str) -> Result<()> {
        let pid = self.child.as_ref().map(Child::id).ok_or("redis is not running")?.to_string();
        Command::new("kill").args([name, &pid]).status().map(drop).map_err(|error| error.to_string())
    }

    /// `HOST:PORT`.
    pub fn authority(&self) -> String {
        format!("{ADDRESS}:{}", self.port)
    }

    /// Its URL, with keys of this prefix.
    pub fn url(&self, prefix: &str) -> String {
        format!("redis://{}?prefix={prefix}", self.authority())
    }

    /// Says a command, and gives the first line of the answer with its sign, or all of it if it is short.
    ///
    /// # Errors
    /// When it does not answer within a second.
    pub fn command(&self, words: &[&str]) -> Result<String> {
        say(&self.authority(), words)
    }

    /// Starts it again if it does not run.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn ensure_up(&mut self) -> Result<()> {
        if self.child.is_some() { Ok(()) } else { self.up() }
    }
}

/// Says a command to the Redis at `HOST:PORT`, and gives what comes first of the answer.
///
/// # Errors
/// When it does not answer within a second.
pub fn say(authority: &str, words: &[&str]) -> Result<String> {
    let wrong = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(authority).map_err(wrong)?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).map_err(wrong)?;
    let mut text = format!("*{}\r\n", words.len());
    words.iter().for_each(|word| text.push_str(&format!("${}\r\n{word}\r\n", word.len())));
    stream.write_all(text.as_bytes()).map_err(wrong)?;
    let mut answer = [0; 8192];
    let length = stream.read(&mut answer).map_err(wrong)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
