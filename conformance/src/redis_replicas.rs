//! Several Redis that stand in for one another, for a test: a master and replicas that Sentinels watch, or a cluster. All
//! on free ports, and real. Must not know what is kept in them.

use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::broker::{ADDRESS, Broker, Daemon, Replicas, free_port};
use crate::redis::{Redis, say};
use crate::scratch::Scratch;
use crate::server::wait_until;

/// How long it takes them to find that one is gone.
const DOWN_MS: u32 = 1_000;
/// How long they have to agree on anything.
const AGREED: Duration = Duration::from_secs(30);
const SYNCS: [&str; 8] =
    ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--replica-announce-ip", ADDRESS];

/// Masters and their replicas.
#[derive(Debug)]
pub struct Replicated {
    nodes: Vec<Redis>,
    sentinels: Vec<Sentinel>,
}

#[derive(Debug)]
struct Sentinel {
    authority: String,
    _daemon: Daemon,
    _directory: Scratch,
}

impl Replicated {
    /// A master, two replicas, and three Sentinels that call them `main`.
    ///
    /// # Errors
    /// When they do not find one another.
    pub fn watched() -> Result<Self> {
        let master = Redis::with(&SYNCS)?;
        let (host, port) = parts(&master.authority());
        let follows = [&SYNCS[..], &["--replicaof", &host, &port]].concat();
        let nodes = vec![Redis::with(&follows)?, Redis::with(&follows)?, master];
        let sentinels = (0..3).map(|_| Sentinel::start(&port)).collect::<Result<Vec<_>>>()?;
        let watched = Self { nodes, sentinels };
        wait_until("the sentinels know all of them", AGREED, || {
            watched.sentinels.iter().all(|sentinel| {
                say(&sentinel.authority, &["SENTINEL", "MASTER", "main"]).is_ok_and(|said| {
                    let has = |name: &str, value: &str| {
                        said.contains(&format!("{name}\r\n${}\r\n{value}\r\n", value.len()))
                    };
                    has("num-slaves", "2") && has("num-other-sentinels", "2") && has("flags", "master")
                })
            })
        })?;
        watched.are_in_step(watched.replicas())?;
        Ok(watched)
    }

    /// A cluster of three masters with a replica each.
    ///
    /// # Errors
    /// When they do not become one.
    pub fn cluster() -> Result<Self> {
        let mut nodes = Vec::new();
        let mut buses = Vec::new();
        for _ in 0..6 {
            let (bus, down) = (free_port()?.to_string(), DOWN_MS.to_string());
            let own = [
                ["--cluster-enabled", "yes"],
                ["--cluster-port", &bus],
                ["--cluster-node-timeout", &down],
                ["--cluster-announce-ip", ADDRESS],
            ]
            .concat();
            nodes.push(Redis::with(&[&SYNCS[..], &own[..]].concat())?);
            buses.push(bus);
        }
        let (host, port) = parts(&nodes[0].authority());
        for (index, node) in nodes.iter().enumerate() {
            if index > 0 {
                node.command(&["CLUSTER", "MEET", &host, &port, &buses[0]])?;
            }
            if index < 3 {
                let (from, to) = (index * 16_384 / 3, (index + 1) * 16_384 / 3 - 1);
                node.command(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()])?;
            }
        }
        for index in 0..3 {
            let said = nodes[index].command(&["CLUSTER", "MYID"])?;
            let id = said.lines().nth(1).unwrap_or_default().to_owned();
            wait_until("a replica has its master", AGREED, || {
                nodes[index + 3]
                    .command(&["CLUSTER", "REPLICATE", &id])
                    .is_ok_and(|said| said.starts_with("+OK"))
            })?;
        }
        let cluster = Self { nodes, sentinels: Vec::new() };
        wait_until("the cluster is one", AGREED, || {
            cluster.nodes.iter().all(|node| {
                node.command(&["CLUSTER", "INFO"]).is_ok_and(|said| {
                    said.contains("cluster_state:ok") && said.contains("cluster_known_nodes:6")
                })
            })
        })?;
        cluster.are_in_step(cluster.replicas())?;
        Ok(cluster)
    }

    /// All masters have so many replicas, and what they stored is there.
    fn are_in_step(&self, replicas: usize) -> Result<()> {
        wait_until("the replicas are in step", AGREED, || {
            self.nodes.iter().all(|node| match node.command(&["INFO", "replication"]) {
                Ok(said) if said.contains("role:master") => said.matches("state=online").count() == replicas,
                Ok(said) => said.contains("master_link_status:up"),
                Err(_) => false,
            })
        })
    }

    /// How many replicas each master has.
    fn replicas(&self) -> usize {
        if self.sentinels.is_empty() { 1 } else { 2 }
    }

    fn master_of(&mut self, key: &str) -> Result<&mut Redis> {
        let master = self.nodes.iter_mut().find(|node| {
            node.command(&["ROLE"]).is_ok_and(|said| said.contains("master"))
                && node.command(&["EXISTS", key]).is_ok_and(|said| said.starts_with(':'))
        });
        master.ok_or_else(|| format!("no master has {key}"))
    }
}

impl Replicas for Replicated {
    fn url(&self, prefix: &str) -> String {
        let ends = format!("?prefix={prefix}&replicas=1");
        if self.sentinels.is_empty() {
            let all: Vec<_> = self.nodes.iter().map(Redis::authority).collect();
            format!("redis+cluster://{}{ends}", all.join(","))
        } else {
            let all: Vec<_> = self.sentinels.iter().map(|sentinel| &*sentinel.authority).collect();
            format!("redis+sentinel://{}/main{ends}", all.join(","))
        }
    }

    fn lose_leader(&mut self, channel: &str) -> Result<()> {
        // Which prefix it has does not matter to where it is.
        let key = format!("test:{{{channel}}}:n");
        self.master_of(&key)?.kill();
        wait_until("another one is the master", AGREED, || self.master_of(&key).is_ok())
    }

    fn heal(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(Redis::ensure_up)?;
        self.are_in_step(self.replicas())
    }

    fn may_have_lost(&self) -> bool {
        true
    }
}

impl Sentinel {
    fn start(master_port: &str) -> Result<Self> {
        let directory = Scratch::new("sentinel")?;
        let (port, file) = (free_port()?, directory.join("sentinel.conf"));
        let config = format!(
            "port {port}\nbind {ADDRESS}\ndir {}\nsentinel announce-ip {ADDRESS}\nsentinel monitor main {ADDRESS} {master_port} 2\n\
             sentinel down-after-milliseconds main {DOWN_MS}\nsentinel failover-timeout main 5000\n",
            directory.join("").display()
        );
        std::fs::write(&file, config).map_err(|error| error.to_string())?;
        let mut daemon = Daemon::default();
        daemon.run(Command::new("redis-server").arg(&file).arg("--sentinel"))?;
        let sentinel =
            Self { authority: format!("{ADDRESS}:{port}"), _daemon: daemon, _directory: directory };
        wait_until("a sentinel answers", Duration::from_secs(20), || {
            say(&sentinel.authority, &["PING"]).is_ok_and(|said| said.starts_with("+PONG"))
        })?;
        Ok(sentinel)
    }
}

fn parts(authority: &str) -> (String, String) {
    let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
    (host.to_owned(), port.to_owned())
}
