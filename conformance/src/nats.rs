//! A NATS for a test: a real nats-server with JetStream, alone or three of them as a cluster. It can be killed, started
//! again, stopped in its tracks, and lose what it had. Must not know what is kept in it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::Result;
use crate::broker::{ADDRESS, Broker, Daemon, Replicas, free_port};
use crate::relay::Relay;
use crate::scratch::{self, Scratch};
use crate::server::wait_until;

/// How long one has to start.
const STARTED: Duration = Duration::from_secs(20);
/// How long they have to agree on anything.
const AGREED: Duration = Duration::from_secs(60);

/// A running NATS.
#[derive(Debug)]
pub struct Nats {
    port: u16,
    /// What stands in its configuration beside where it listens and keeps its data.
    config: String,
    daemon: Daemon,
    directory: Scratch,
    /// It has on its disk, once killed, what it had when it was told to keep it.
    is_forgetful: bool,
}

impl Nats {
    /// Starts one that loses nothing which it has answered for.
    ///
    /// # Errors
    /// When it does not answer within 20 s.
    pub fn start() -> Result<Self> {
        Self::with(String::new(), free_port()?, false)
    }

    /// Starts one that, killed, has what it was told to keep.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn forgetful() -> Result<Self> {
        Self::with(String::new(), free_port()?, true)
    }

    fn with(config: String, port: u16, is_forgetful: bool) -> Result<Self> {
        let directory = Scratch::new("nats")?;
        let mut nats = Self { port, config, daemon: Daemon::default(), directory, is_forgetful };
        nats.up()?;
        Ok(nats)
    }

    /// `HOST:PORT`.
    pub fn authority(&self) -> String {
        format!("{ADDRESS}:{}", self.port)
    }

    fn spawn(&mut self) -> Result<()> {
        let (file, store) = (self.directory.join("nats.conf"), self.directory.join("store"));
        let config = format!(
            "listen: \"{}\"\nmax_payload: 2MB\njetstream {{ store_dir: \"{}\", sync_interval: always }}\n{}\n",
            self.authority(),
            store.display(),
            self.config
        );
        scratch::write(&file, config)?;
        self.daemon.run(Command::new(program()).arg("-c").arg(&file))
    }

    /// Asks the JetStream API.
    fn api(&self, call: &str) -> Result<Value> {
        ask(&self.authority(), &format!("$JS.API.{call}"))
    }

    fn answers(&self) -> bool {
        self.api("INFO").is_ok_and(|said| said.get("error").is_none())
    }
}

impl Broker for Nats {
    fn up(&mut self) -> Result<()> {
        self.spawn()?;
        wait_until("nats answers", STARTED, || self.answers())
    }

    fn kill(&mut self) {
        self.daemon.kill();
        if self.is_forgetful {
            // Without a copy, there is nothing that it was to keep.
            let _ = scratch::copy(&self.directory.join("kept"), &self.directory.join("store"));
        }
    }

    fn pause(&self) -> Result<()> {
        self.daemon.signal("-STOP")
    }

    fn resume(&self) -> Result<()> {
        self.daemon.signal("-CONT")
    }

    fn keep(&mut self) -> Result<()> {
        self.pause()?;
        let copied = scratch::copy(&self.directory.join("store"), &self.directory.join("kept"));
        self.resume()?;
        copied
    }

    fn url(&self, prefix: &str) -> String {
        format!("nats://{}?prefix={prefix}", self.authority())
    }

    fn way(&self, prefix: &str) -> Result<(Relay, String)> {
        let way = Relay::to(&[&self.authority()])?;
        let url = format!("nats://{}?prefix={prefix}", way.authority());
        Ok((way, url))
    }
}

/// Three that are one cluster, and have everything three times.
#[derive(Debug)]
pub struct Cluster {
    all: Vec<Nats>,
    /// Whoever leads is not killed, but asked to let another one.
    is_gentle: bool,
}

impl Cluster {
    /// Starts them, to be treated gently or not.
    ///
    /// # Errors
    /// When they do not find one another.
    pub fn start(is_gentle: bool) -> Result<Self> {
        let routes: Vec<u16> = (0..3).map(|_| free_port()).collect::<Result<_>>()?;
        let all: Vec<String> = routes.iter().map(|port| format!("\"nats://{ADDRESS}:{port}\"")).collect();
        let mut cluster = Self { all: Vec::new(), is_gentle };
        for (index, route) in routes.iter().enumerate() {
            let config = format!(
                "server_name: s{index}\ncluster {{ name: test, listen: \"{ADDRESS}:{route}\", routes: [{}] }}",
                all.join(", ")
            );
            let directory = Scratch::new("nats")?;
            let (port, daemon) = (free_port()?, Daemon::default());
            let mut nats = Nats { port, config, daemon, directory, is_forgetful: false };
            nats.spawn()?;
            cluster.all.push(nats);
        }
        wait_until("the cluster has a leader", AGREED, || cluster.all.iter().all(Nats::answers))?;
        Ok(cluster)
    }

    /// How the log's cluster is, as any of them says.
    fn log(&self) -> Option<Value> {
        let said = self.all.iter().filter(|nats| nats.daemon.is_running());
        said.filter_map(|nats| nats.api("STREAM.INFO.test-log").ok())
            .find(|said| said["cluster"]["leader"].is_string())
    }
}

impl Replicas for Cluster {
    fn url(&self, prefix: &str) -> String {
        let all: Vec<String> = self.all.iter().map(Nats::authority).collect();
        format!("nats://{}?prefix={prefix}&replicas=3", all.join(","))
    }

    fn lose_leader(&mut self, _: &str) -> Result<()> {
        let leader = |said: Value| said["cluster"]["leader"].as_str().map(str::to_owned);
        let lost = self.log().and_then(leader).ok_or("nobody leads the log")?;
        let index = lost.trim_start_matches('s').parse::<usize>().map_err(|error| error.to_string())?;
        if self.is_gentle {
            self.all[index].api("STREAM.LEADER.STEPDOWN.test-log")?;
        } else {
            self.all[index].kill();
        }
        wait_until("another one leads the log", AGREED, || {
            self.log().and_then(leader).is_some_and(|leader| leader != lost)
        })
    }

    fn heal(&mut self) -> Result<()> {
        for nats in self.all.iter_mut().filter(|nats| !nats.daemon.is_running()) {
            nats.spawn()?;
        }
        wait_until("they are in step", AGREED, || {
            self.all.iter().all(Nats::answers)
                && self.log().is_some_and(|said| {
                    let others = said["cluster"]["replicas"].as_array().cloned().unwrap_or_default();
                    others.len() == 2 && others.iter().all(|other| other["current"] == true)
                })
        })
    }

    fn may_have_lost(&self) -> bool {
        false
    }
}

/// `TIDEWIRE_NATS_SERVER`, or the one that `./test install` brings, or any on the path.
fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("TIDEWIRE_NATS_SERVER") {
        return program.into();
    }
    let installed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/nats-server");
    if installed.exists() { installed } else { "nats-server".into() }
}

/// Asks something at `HOST:PORT` and gives the JSON that is answered.
fn ask(authority: &str, subject: &str) -> Result<Value> {
    let wrong = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(authority).map_err(wrong)?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).map_err(wrong)?;
    let mut lines = BufReader::new(stream.try_clone().map_err(wrong)?);
    let said = format!("CONNECT {{\"verbose\":false}}\r\nSUB answer 1\r\nPUB {subject} answer 0\r\n\r\n");
    stream.write_all(said.as_bytes()).map_err(wrong)?;
    let mut line = String::new();
    loop {
        line.clear();
        if lines.read_line(&mut line).map_err(wrong)? == 0 {
            return Err("nats has closed the connection".to_owned());
        }
        if line.starts_with("MSG ") {
            line.clear();
            lines.read_line(&mut line).map_err(wrong)?;
            return serde_json::from_str(&line).map_err(|error| format!("{error}: {line}"));
        }
    }
}
