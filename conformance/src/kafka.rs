//! A Kafka for a test: real ones (KRaft, each a broker and a controller), that sync each write before they answer. They can
//! be killed, started again, and stopped in their tracks. Must not know what is kept in them.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::Result;
use crate::broker::{ADDRESS, Broker, Daemon, Replicas, free_port};
use crate::relay::Relay;
use crate::scratch::{self, Scratch};
use crate::server::wait_until;

/// How long a Java takes to be up while all others work.
const UP: Duration = Duration::from_secs(90);
/// How long they have to agree on anything.
const AGREED: Duration = Duration::from_secs(60);
/// Any does, as long as all have the same.
const CLUSTER: &str = "dGlkZXdpcmUtdGVzdHMtMQ";
const JAVA: [&str; 5] =
    ["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"];

/// A running Kafka.
#[derive(Debug)]
pub struct Kafka {
    number: usize,
    port: u16,
    daemon: Daemon,
    directory: Scratch,
    forgets: bool,
    /// To a second listener, whose clients come by here again wherever they are sent.
    way: Mutex<Option<Relay>>,
}

impl Kafka {
    /// Starts one that loses nothing which it has answered for.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn start() -> Result<Self> {
        let mut all = Self::cluster(1, false, "WAY:PLAINTEXT", &[])?;
        all.pop().ok_or_else(|| "no Kafka".to_owned())
    }

    /// Starts one that, killed, has what it had when it was told to keep it.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn forgetful() -> Result<Self> {
        let mut all = Self::cluster(1, true, "WAY:PLAINTEXT", &[])?;
        all.pop().ok_or_else(|| "no Kafka".to_owned())
    }

    /// Starts one that lets in by the way only who is `alice` and knows the password `alice's`: by SCRAM, or over TLS, by
    /// PLAIN. Gives the file with its certificate as well.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn guarded(is_tls: bool) -> Result<(Self, PathBuf)> {
        let directory = Scratch::new("kafka-certificate")?;
        let (key, certificate) = (directory.join("key.pem"), directory.join("certificate.pem"));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=kafka"]);
        openssl.args([
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]);
        openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        let made = openssl.output().map_err(|error| format!("cannot run openssl: {error}"))?;
        if !made.status.success() {
            return Err(String::from_utf8_lossy(&made.stderr).into_owned());
        }
        let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| error.to_string());
        let both = directory.join("both.pem");
        std::fs::write(&both, read(&key)? + &read(&certificate)?).map_err(|error| error.to_string())?;
        let login = "sasl.jaas.config=org.apache.kafka.common.security";
        let way_is = if is_tls {
            format!(
                "WAY:SASL_SSL\nssl.keystore.type=PEM\nssl.keystore.location={}\nsasl.enabled.mechanisms=PLAIN\n\
                 listener.name.way.plain.{login}.plain.PlainLoginModule required user_alice=\"alice's\";",
                both.display()
            )
        } else {
            format!(
                "WAY:SASL_PLAINTEXT\nsasl.enabled.mechanisms=SCRAM-SHA-256\n\
                 listener.name.way.scram-sha-256.{login}.scram.ScramLoginModule required;"
            )
        };
        let scram: &[&str] = if is_tls { &[] } else { &["SCRAM-SHA-256=[name=alice,password=alice's]"] };
        let kafka = Self::cluster(1, false, &way_is, scram)?.pop().ok_or("no Kafka")?;
        // The certificate goes with the process of the test.
        let kept = kafka.directory.join("certificate.pem");
        std::fs::copy(&certificate, &kept).map_err(|error| error.to_string())?;
        Ok((kafka, kept))
    }

    fn cluster(count: usize, forgets: bool, way_is: &str, scram: &[&str]) -> Result<Vec<Self>> {
        let ports: Vec<[u16; 3]> =
            (0..count).map(|_| Ok([free_port()?, free_port()?, free_port()?])).collect::<Result<_>>()?;
        let voters: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(n, [.., control])| format!("{}@{ADDRESS}:{control}", n + 1))
            .collect();
        let mut all = Vec::new();
        for (index, [port, by_way, control]) in ports.into_iter().enumerate() {
            let way = Relay::to(&[&format!("{ADDRESS}:{by_way}")])?;
            let (number, directory) = (index + 1, Scratch::new("kafka")?);
            let listeners = format!(
                "node.id={number}\ncontroller.quorum.voters={}\n\
                 listeners=NEAR://{ADDRESS}:{port},WAY://{ADDRESS}:{by_way},CONTROL://{ADDRESS}:{control}\n\
                 advertised.listeners=NEAR://{ADDRESS}:{port},WAY://{}\nlog.dirs={}\n\
                 listener.security.protocol.map=NEAR:PLAINTEXT,CONTROL:PLAINTEXT,{way_is}\n\
                 default.replication.factor={count}\noffsets.topic.replication.factor=1\n",
                voters.join(","),
                way.authority(),
                directory.join("data").display(),
            );
            let properties = format!("{listeners}{}", include_str!("kafka.properties"));
            std::fs::write(directory.join("kafka.properties"), properties).map_err(|e| e.to_string())?;
            let (daemon, way) = (Daemon::default(), Mutex::new(Some(way)));
            let kafka = Self { number, port, daemon, directory, forgets, way };
            kafka.format(scram)?;
            all.push(kafka);
        }
        all.iter_mut().try_for_each(Self::launch)?;
        all.iter().try_for_each(Self::is_up)?;
        Ok(all)
    }

    fn java(&self, class: &str) -> Result<Command> {
        let jars = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-tools/kafka");
        if !jars.is_dir() {
            return Err(format!("no Kafka in {}; `./test install` brings it", jars.display()));
        }
        let mut command = Command::new("java");
        command.args(JAVA).arg("-cp").arg(jars.join("*")).arg(class);
        Ok(command)
    }

    fn properties(&self) -> PathBuf {
        self.directory.join("kafka.properties")
    }

    fn format(&self, scram: &[&str]) -> Result<()> {
        let mut command = self.java("kafka.tools.StorageTool")?;
        command.args(["format", "-t", CLUSTER, "-c"]).arg(self.properties());
        for user in scram {
            command.args(["--add-scram", user]);
        }
        let output = command.stdin(Stdio::null()).output();
        let output =
            output.map_err(|error| format!("cannot run java ({error}); `./test install` brings it"))?;
        let said = || String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(format!("cannot format: {}", said())) }
    }

    fn launch(&mut self) -> Result<()> {
        let mut command = self.java("kafka.Kafka")?;
        self.daemon.run(command.arg(self.properties()))
    }

    fn is_up(&self) -> Result<()> {
        wait_until("kafka answers", UP, || {
            look(&self.authority(), "").is_ok_and(|looked| looked.brokers.contains(&(self.number as i32)))
        })
    }

    fn authority(&self) -> String {
        format!("{ADDRESS}:{}", self.port)
    }
}

impl Broker for Kafka {
    fn up(&mut self) -> Result<()> {
        self.launch()?;
        self.is_up()
    }

    fn kill(&mut self) {
        self.daemon.kill();
        let kept = self.directory.join("kept");
        if self.forgets && kept.is_dir() {
            // What is missing then, the test finds.
            let _ = scratch::copy(&kept, &self.directory.join("data"));
        }
    }

    fn pause(&self) -> Result<()> {
        self.daemon.signal("-STOP")
    }

    fn resume(&self) -> Result<()> {
        self.daemon.signal("-CONT")
    }

    fn keep(&mut self) -> Result<()> {
        scratch::copy(&self.directory.join("data"), &self.directory.join("kept"))
    }

    fn url(&self, prefix: &str) -> String {
        format!("kafka://{}?prefix={prefix}&partitions=4", self.authority())
    }

    fn way(&self, prefix: &str) -> Result<(Relay, String)> {
        let way = self.way.lock().unwrap_or_else(PoisonError::into_inner).take();
        let way = way.ok_or("there is one way to a Kafka, and somebody has it")?;
        let url = format!("kafka://{}?prefix={prefix}&partitions=4", way.authority());
        Ok((way, url))
    }
}

/// Three that have all of each other's records.
#[derive(Debug)]
pub struct Cluster(Vec<Kafka>);

impl Cluster {
    /// Starts them.
    ///
    /// # Errors
    /// When they do not find one another.
    pub fn start() -> Result<Self> {
        Kafka::cluster(3, false, "WAY:PLAINTEXT", &[]).map(Self)
    }

    /// What those that run say of a topic.
    fn look(&self, topic: &str) -> Option<Looked> {
        let running = self.0.iter().filter(|kafka| kafka.daemon.is_running());
        running
            .filter_map(|kafka| look(&kafka.authority(), topic).ok())
            .find(|looked| !looked.leaders.is_empty())
    }
}

/// The topic of [`Replicas::url`]'s servers.
const TOPIC: &str = "test-log";

impl Replicas for Cluster {
    fn url(&self, prefix: &str) -> String {
        let all: Vec<String> = self.0.iter().map(Kafka::authority).collect();
        // One partition, so that its leader is each channel's.
        format!("kafka://{}?prefix={prefix}&partitions=1&replicas=3", all.join(","))
    }

    fn lose_leader(&mut self, _channel: &str) -> Result<()> {
        let looked = self.look(TOPIC).ok_or("no Kafka says who leads")?;
        let leader = *looked.leaders.first().ok_or("nobody leads")?;
        let kafka = self.0.iter_mut().find(|kafka| kafka.number as i32 == leader);
        kafka.ok_or("the leader is none of the three")?.kill();
        wait_until("another Kafka leads", AGREED, || {
            self.look(TOPIC)
                .is_some_and(|looked| looked.leaders.iter().all(|new| *new >= 0 && *new != leader))
        })
    }

    fn heal(&mut self) -> Result<()> {
        for kafka in self.0.iter_mut().filter(|kafka| !kafka.daemon.is_running()) {
            kafka.up()?;
        }
        wait_until("all are in step", AGREED, || {
            self.look(TOPIC).is_some_and(|looked| looked.in_sync.iter().all(|count| *count == 3))
        })
    }

    fn may_have_lost(&self) -> bool {
        false
    }
}

/// What a Kafka says: which servers there are, and of each partition of a topic who leads and how many are in step.
#[derive(Debug, Default)]
struct Looked {
    brokers: Vec<i32>,
    leaders: Vec<i32>,
    in_sync: Vec<usize>,
}

/// Asks a Kafka (Metadata, version 1).
fn look(authority: &str, topic: &str) -> Result<Looked> {
    let wrong = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(authority).map_err(wrong)?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).map_err(wrong)?;
    let mut ask = vec![0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff];
    ask.extend_from_slice(&u32::from(!topic.is_empty()).to_be_bytes());
    if !topic.is_empty() {
        ask.extend_from_slice(&(topic.len() as u16).to_be_bytes());
        ask.extend_from_slice(topic.as_bytes());
    }
    stream.write_all(&(ask.len() as u32).to_be_bytes()).map_err(wrong)?;
    stream.write_all(&ask).map_err(wrong)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).map_err(wrong)?;
    let mut answer = vec![0; (u32::from_be_bytes(length) as usize).min(1 << 20)];
    stream.read_exact(&mut answer).map_err(wrong)?;
    let mut words = Words(&answer[4.min(answer.len())..]);
    words.looked().ok_or_else(|| format!("{authority} said something odd"))
}

/// What is left of an answer.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn looked(&mut self) -> Option<Looked> {
        let mut looked = Looked::default();
        for _ in 0..self.number()? {
            looked.brokers.push(self.number()?);
            self.text()?;
            self.number()?;
            self.text()?;
        }
        self.number()?;
        let mut partitions = HashMap::new();
        for _ in 0..self.number()? {
            self.take(2)?;
            self.text()?;
            self.take(1)?;
            for _ in 0..self.number()? {
                self.take(2)?;
                let (index, leader) = (self.number()?, self.number()?);
                let replicas = self.number()?;
                self.take(replicas as usize * 4)?;
                let in_sync = self.number()?;
                self.take(in_sync as usize * 4)?;
                partitions.insert(index, (leader, in_sync as usize));
            }
        }
        (looked.leaders, looked.in_sync) = partitions.into_values().unzip();
        Some(looked)
    }

    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let (taken, left) = self.0.split_at_checked(length)?;
        self.0 = left;
        Some(taken)
    }

    fn number(&mut self) -> Option<i32> {
        self.take(4)?.try_into().ok().map(i32::from_be_bytes)
    }

    /// A text, or none.
    fn text(&mut self) -> Option<()> {
        let length = i16::from_be_bytes(self.take(2)?.try_into().ok()?);
        self.take(usize::try_from(length).unwrap_or(0)).map(drop)
    }
}
