//! A Redis for a test: a real one, that syncs each write before it answers. It can be killed, started again, and stopped
//! in its tracks. Must not know what is kept in it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::broker::{ADDRESS, Broker, Daemon, free_port};
use crate::relay::Relay;
use crate::scratch::Scratch;
use crate::server::wait_until;

/// A running Redis.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    options: Vec<String>,
    daemon: Daemon,
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

    /// Starts one that has nothing on disk but what it is told to.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn forgetful() -> Result<Self> {
        Self::with(&["--appendonly", "no", "--save", ""])
    }

    /// Starts one with these options.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn with(options: &[&str]) -> Result<Self> {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let (port, directory) = (free_port()?, Scratch::new("redis")?);
        let mut redis = Self { port, options, daemon: Daemon::default(), directory };
        redis.up()?;
        Ok(redis)
    }

    /// `HOST:PORT`.
    pub fn authority(&self) -> String {
        format!("{ADDRESS}:{}", self.port)
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
        if self.daemon.is_running() { Ok(()) } else { self.up() }
    }
}

impl Broker for Redis {
    fn up(&mut self) -> Result<()> {
        let mut command = Command::new("redis-server");
        command.args(["--bind", ADDRESS, "--port", &self.port.to_string(), "--dir"]);
        command.arg(self.directory.join("")).args(&self.options);
        self.daemon.run(&mut command)?;
        wait_until("redis answers", Duration::from_secs(20), || {
            self.command(&["PING"]).is_ok_and(|said| said.starts_with("+PONG"))
        })
    }

    fn kill(&mut self) {
        self.daemon.kill();
    }

    fn pause(&self) -> Result<()> {
        self.daemon.signal("-STOP")
    }

    fn resume(&self) -> Result<()> {
        self.daemon.signal("-CONT")
    }

    fn keep(&mut self) -> Result<()> {
        self.command(&["SAVE"]).map(drop)
    }

    fn url(&self, prefix: &str) -> String {
        format!("redis://{}?prefix={prefix}", self.authority())
    }

    fn way(&self, prefix: &str) -> Result<(Relay, String)> {
        let way = Relay::to(&[&self.authority()])?;
        let url = format!("redis://{}?prefix={prefix}", way.authority());
        Ok((way, url))
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
