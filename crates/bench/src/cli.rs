//! The command line.

use std::net::SocketAddr;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::plan::PlanArgs;
use crate::rolling::RollingArgs;
use crate::scenario::Scenario;
use crate::targets::baseline;

/// Load generator for Tidewire and its peers.
///
/// Starts the servers itself on loopback, measures them in turns beside a bare send() loop, and tells
/// medians, ranges and ratios.
#[derive(Debug, Parser)]
#[command(name = "tidewire-bench", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure a scenario
    Run {
        #[command(subcommand)]
        scenario: Box<Scenario>,
    },
    /// Show rolling restarts behind HAProxy: who comes back when, and that nobody misses anything
    Rolling(RollingArgs),
    /// Say how large a cluster must be, and what it does when a zone is lost
    Plan(PlanArgs),
    /// Serve as the baseline: the bare send() loop (scenarios start it by themselves)
    Baseline {
        #[arg(long, value_name = "ADDRESS")]
        listen: SocketAddr,
    },
}

impl Cli {
    pub(crate) fn run(self) -> Result<()> {
        match self.command {
            Command::Run { scenario } => scenario.run(),
            Command::Rolling(arguments) => arguments.run(),
            Command::Plan(arguments) => arguments.run(),
            Command::Baseline { listen } => baseline::server::run(listen),
        }
    }
}
