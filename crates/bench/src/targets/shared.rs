//! Servers of Tidewire that share a backplane: one that runs already, or a broker of their own. Knows nothing of what they
//! tell each other.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use super::process::{Process, Scratch, accepts, free_address};
use super::tidewire::{self, Log};
use super::{Server, TargetOptions};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SharedOptions {
    /// Servers that tidewire-shared has
    #[arg(long, default_value_t = 1)]
    nodes: u32,
    #[command(flatten)]
    broker: BrokerOptions,
}

/// What servers share.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BrokerOptions {
    /// A backplane that runs already (default: a broker that is started)
    #[arg(long, value_name = "URL")]
    backplane: Option<String>,
    /// The kind of broker that is started
    #[arg(long, value_enum, value_name = "KIND", default_value = "redis")]
    broker: Kind,
    /// When it syncs what it stores: always, everysec (every second or so), or no
    #[arg(long, value_name = "WHEN", default_value = "everysec", value_parser = ["always", "everysec", "no"])]
    broker_syncs: String,
    /// The program of NATS
    #[arg(long, value_name = "PATH", default_value = "nats-server")]
    nats_server: PathBuf,
    /// The folder with Kafka's jars
    #[arg(long, value_name = "PATH", default_value = "target/test-tools/kafka")]
    kafka: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Redis,
    Nats,
    Kafka,
}

/// A broker, which ends when it is dropped if it was started here.
pub(crate) struct Broker {
    pub(crate) url: String,
    process: Option<Process>,
}

impl BrokerOptions {
    pub(crate) fn start(&self) -> Result<Broker> {
        let (url, process) = match (&self.backplane, self.broker) {
            (Some(url), _) => return Ok(Broker { url: url.clone(), process: None }),
            (None, Kind::Redis) => self.start_redis()?,
            (None, Kind::Nats) => self.start_nats()?,
            (None, Kind::Kafka) => self.start_kafka()?,
        };
        Ok(Broker { url, process: Some(process) })
    }

    fn start_redis(&self) -> Result<(String, Process)> {
        let address = free_address()?;
        let folder = Scratch::new()?;
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--port", &address.port().to_string()]);
        command.arg("--dir").arg(folder.path());
        match &*self.broker_syncs {
            "no" => command.args(["--appendonly", "no"]),
            syncs => command.args(["--appendonly", "yes", "--appendfsync", syncs]),
        };
        let mut process = Process::start(&mut command, folder)?;
        process.wait_until("a connection to redis", || accepts(address))?;
        Ok((format!("redis://{address}"), process))
    }

    fn start_nats(&self) -> Result<(String, Process)> {
        let address = free_address()?;
        let folder = Scratch::new()?;
        let sync = match &*self.broker_syncs {
            "always" => "always",
            "everysec" => "1s",
            _ => "1h",
        };
        let config = folder.path().join("nats.conf");
        let store = folder.path().join("store");
        let text = format!(
            "listen: \"{address}\"\njetstream {{ store_dir: \"{}\", sync_interval: {sync} }}\n",
            store.display()
        );
        std::fs::write(&config, text)?;
        let mut process = Process::start(Command::new(&self.nats_server).arg("-c").arg(&config), folder)?;
        process.wait_until("a connection to NATS", || accepts(address))?;
        Ok((format!("nats://{address}"), process))
    }

    /// One that is broker and controller.
    fn start_kafka(&self) -> Result<(String, Process)> {
        let (address, control) = (free_address()?, free_address()?);
        let folder = Scratch::new()?;
        let sync = match &*self.broker_syncs {
            "always" => "log.flush.interval.messages=1",
            "everysec" => "log.flush.interval.ms=1000",
            _ => "",
        };
        let config = folder.path().join("kafka.properties");
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@{control}\n\
             listeners=PLAINTEXT://{address},CONTROLLER://{control}\ncontroller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             log.dirs={}\noffsets.topic.replication.factor=1\nauto.create.topics.enable=false\n{sync}\n",
            folder.path().join("data").display()
        );
        std::fs::write(&config, text)?;
        let java = |class: &str| {
            let mut command = Command::new("java");
            command.arg("-cp").arg(self.kafka.join("*")).arg(class);
            command
        };
        let format = ["format", "-t", "dGlkZXdpcmUtYmVuY2gtMQ", "-c"];
        let formatted = java("kafka.tools.StorageTool").args(format).arg(&config).output()?;
        ensure!(
            formatted.status.success(),
            "Kafka's storage cannot be formatted: {}",
            String::from_utf8_lossy(&formatted.stderr)
        );
        let mut process = Process::start(java("kafka.Kafka").arg(&config), folder)?;
        process.wait_until("a connection to Kafka", || accepts(address))?;
        Ok((format!("kafka://{address}"), process))
    }
}

pub(super) fn start(options: &TargetOptions) -> Result<Server> {
    let shared = &options.shared;
    ensure!(shared.nodes > 0, "no server is no target: --nodes 1 or more");
    let broker = shared.broker.start()?;
    let log = Log::Shared(broker.url);
    let mut addresses = Vec::new();
    let mut processes = Vec::new();
    for _ in 0..shared.nodes {
        let (address, process) = tidewire::launch(options, &log)?;
        addresses.push(address);
        processes.push(process);
    }
    Ok(Server {
        dialect: tidewire::dialect(addresses[0]),
        subscribe_addresses: addresses.clone(),
        publish_addresses: addresses,
        roots: processes.iter().map(Process::pid).collect(),
        // The servers end before what they need.
        _processes: processes.into_iter().chain(broker.process).collect(),
    })
}
