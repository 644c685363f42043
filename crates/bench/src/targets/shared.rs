//! Servers of Tidewire that share a backplane: one that runs already, or a Redis of their own. Knows nothing of what they
//! tell each other.

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
    /// The backplane of tidewire-shared (default: a Redis that is started for it)
    #[arg(long, value_name = "URL")]
    backplane: Option<String>,
    /// When that Redis syncs what it stores: always, everysec, or no (nothing on disk)
    #[arg(long, value_name = "WHEN", default_value = "everysec", value_parser = ["always", "everysec", "no"])]
    redis_syncs: String,
}

pub(super) fn start(options: &TargetOptions) -> Result<Server> {
    let shared = &options.shared;
    ensure!(shared.nodes > 0, "no server is no target: --nodes 1 or more");
    let (backplane, redis) = match &shared.backplane {
        Some(url) => (url.clone(), None),
        None => {
            let (url, redis) = start_redis(&shared.redis_syncs)?;
            (url, Some(redis))
        }
    };
    let log = Log::Shared(backplane);
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
        _processes: processes.into_iter().chain(redis).collect(),
    })
}

fn start_redis(syncs: &str) -> Result<(String, Process)> {
    let address = free_address()?;
    let folder = Scratch::new()?;
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--port", &address.port().to_string()]);
    command.arg("--dir").arg(folder.path());
    match syncs {
        "no" => command.args(["--appendonly", "no"]),
        syncs => command.args(["--appendonly", "yes", "--appendfsync", syncs]),
    };
    let mut process = Process::start(&mut command, folder)?;
    process.wait_until("a connection to redis", || accepts(address))?;
    Ok((format!("redis://{address}"), process))
}
