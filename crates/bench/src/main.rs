//! Load generator for Tidewire and its peers. It speaks only the wire: nothing here depends on the
//! server's code, and what is measured is always another process.

mod cli;
mod clock;
mod fleet;
mod layout;
mod ledger;
mod payload;
mod plan;
mod procfs;
mod progress;
mod report;
mod rolling;
mod scenario;
mod targets;
mod wire;

use clap::Parser;

fn main() -> anyhow::Result<()> {
    cli::Cli::parse().run()
}
