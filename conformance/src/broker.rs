//! The brokers that servers share, for tests: what can be done to any of them, and which there are. All are real, on
//! free ports of an address of their own, with their data in a directory of theirs. Must not know what is kept in them.

use std::fmt::Debug;
use std::process::{Child, Command, Stdio};

use crate::Result;
use crate::kafka::{self, Kafka};
use crate::nats::{self, Nats};
use crate::redis::Redis;
use crate::redis_replicas;
use crate::relay::Relay;

/// Where brokers listen: an address of this machine on which nothing else does, so that a port that was free a moment
/// ago still is.
pub const ADDRESS: &str = "127.0.0.9";

/// What the test wants of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Redis.
    Redis,
    /// NATS JetStream.
    Nats,
    /// Kafka.
    Kafka,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Redis, Self::Nats, Self::Kafka];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "Redis",
            Self::Nats => "NATS",
            Self::Kafka => "Kafka",
        }
    }

    /// Starts one that loses nothing which it has answered for.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn start(self) -> Result<Box<dyn Broker>> {
        Ok(match self {
            Self::Redis => Box::new(Redis::start()?),
            Self::Nats => Box::new(Nats::start()?),
            Self::Kafka => Box::new(Kafka::start()?),
        })
    }

    /// Starts one that, killed, has lost what came since [`Broker::keep`], as after a power cut one that syncs late.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_forgetful(self) -> Result<Box<dyn Broker>> {
        Ok(match self {
            Self::Redis => Box::new(Redis::forgetful()?),
            Self::Nats => Box::new(Nats::forgetful()?),
            Self::Kafka => Box::new(Kafka::forgetful()?),
        })
    }
}

/// A running broker; killed when dropped.
pub trait Broker: Debug + Send {
    /// Starts it again where it was, with what it has kept.
    ///
    /// # Errors
    /// When it does not answer in time.
    fn up(&mut self) -> Result<()>;

    /// Kills it as a power cut would.
    fn kill(&mut self);

    /// Has it do nothing, with all its connections open.
    ///
    /// # Errors
    /// When `kill` cannot be run.
    fn pause(&self) -> Result<()>;

    /// Has it go on.
    ///
    /// # Errors
    /// When `kill` cannot be run.
    fn resume(&self) -> Result<()>;

    /// What it has now it has after it was killed, where it is a forgetful one.
    ///
    /// # Errors
    /// When it cannot.
    fn keep(&mut self) -> Result<()>;

    /// Its URL, with this prefix.
    fn url(&self, prefix: &str) -> String;

    /// A way to it that can be cut, and its URL by that way.
    ///
    /// # Errors
    /// When there is no free port.
    fn way(&self, prefix: &str) -> Result<(Relay, String)>;
}

/// Several that stand in for one another.
pub trait Replicas: Debug + Send {
    /// Their URL, for events that are acknowledged once they survive the loss of one of them.
    fn url(&self, prefix: &str) -> String;

    /// Kills the one that matters most to a channel, and waits until another one has taken over.
    ///
    /// # Errors
    /// When none does.
    fn lose_leader(&mut self, channel: &str) -> Result<()>;

    /// Starts all that are not running, and waits until they are in step again.
    ///
    /// # Errors
    /// When they are not in time.
    fn heal(&mut self) -> Result<()>;

    /// Whether subscribers are told of a gap though nothing was lost, as nobody can know.
    fn may_have_lost(&self) -> bool;
}

/// Ways to have several of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// A Redis that Sentinels watch.
    Sentinel,
    /// A Redis Cluster.
    RedisCluster,
    /// Three NATS.
    NatsCluster,
    /// Three NATS of which none dies, but another one leads.
    GentleNatsCluster,
    /// Three Kafkas.
    Kafka,
}

impl Replication {
    /// Starts them, in step.
    ///
    /// # Errors
    /// When they do not find one another.
    pub fn start(self) -> Result<Box<dyn Replicas>> {
        Ok(match self {
            Self::Sentinel => Box::new(redis_replicas::Replicated::watched()?),
            Self::RedisCluster => Box::new(redis_replicas::Replicated::cluster()?),
            Self::NatsCluster => Box::new(nats::Cluster::start(false)?),
            Self::GentleNatsCluster => Box::new(nats::Cluster::start(true)?),
            Self::Kafka => Box::new(kafka::Cluster::start()?),
        })
    }
}

/// The process of a broker; killed when dropped.
#[derive(Debug, Default)]
pub(crate) struct Daemon(Option<Child>);

impl Daemon {
    /// Runs a command that says nothing.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<()> {
        let silent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = silent.spawn().map_err(|error| {
            let program = silent.get_program().to_string_lossy().into_owned();
            format!("cannot run {program} ({error}); `./test install` brings it on Debian")
        })?;
        self.0 = Some(child);
        Ok(())
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.0.is_some()
    }

    /// Sends a signal: `-STOP`, `-CONT`.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        let pid = self.0.as_ref().map(Child::id).ok_or("the broker is not running")?.to_string();
        Command::new("kill").args([name, &pid]).status().map(drop).map_err(|error| error.to_string())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port of [`ADDRESS`] that is free.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    let free = std::net::TcpListener::bind((ADDRESS, 0)).and_then(|listener| listener.local_addr());
    free.map(|address| address.port()).map_err(|error| format!("no free port on {ADDRESS}: {error}"))
}

/// A test of each of these functions with each kind of broker; `Outcome` and `Kind` are at hand where it is used.
#[macro_export]
macro_rules! with_each_broker {
    ($($test:ident)*) => {
        $crate::with_each_broker!(redis Redis: $($test)*);
        $crate::with_each_broker!(nats Nats: $($test)*);
        $crate::with_each_broker!(kafka Kafka: $($test)*);
    };
    ($module:ident $kind:ident: $($test:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $test() -> super::Outcome {
                    super::$test(super::Kind::$kind)
                }
            )*
        }
    };
}
