//! How large a cluster must be: from what is wanted and what was measured to servers, memory, descriptors, brokers and
//! network, and what happens when a zone is lost. Starts no server; must not know how anything was measured.

mod costs;
mod sizing;
mod storm;

use std::fmt::Write;

use anyhow::Result;
use clap::Args;

use costs::Costs;
use sizing::Sizing;
use storm::{Outcome, Storm};

/// What is wanted. The defaults are the plan of docs/scaling.md.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlanArgs {
    /// Clients that are connected
    #[arg(long, default_value_t = 10_000_000)]
    connections: u64,
    /// Deliveries per second
    #[arg(long, default_value_t = 1_000_000)]
    deliveries: u64,
    /// Clients that get each event, on average
    #[arg(long, default_value_t = 10)]
    audience: u64,
    /// Channels that each client holds alone
    #[arg(long, default_value_t = 1)]
    own_channels: u64,
    /// Channels that each client holds with others
    #[arg(long, default_value_t = 2)]
    common_channels: u64,
    /// How many such channels there are
    #[arg(long, default_value_t = 100_000)]
    common: u64,
    /// Bytes of an event on the wire, with its frame
    #[arg(long, default_value_t = 400)]
    event_bytes: u64,
    /// Availability zones; one may be lost
    #[arg(long, default_value_t = 3)]
    zones: u64,
    /// Servers in each zone
    #[arg(long, default_value_t = 20)]
    servers: u64,
    /// Cores of a server
    #[arg(long, default_value_t = 8)]
    cores: u64,
    /// GiB of memory of a server
    #[arg(long, default_value_t = 16)]
    memory_gib: u64,
    /// Redis brokers, over all zones
    #[arg(long, default_value_t = 12)]
    brokers: u64,
    /// TLS ends at the servers
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    tls: bool,
    /// Of the dice
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl PlanArgs {
    pub(crate) fn run(&self) -> Result<()> {
        print!("{}", self.told()?);
        Ok(())
    }

    /// The plan in words and figures.
    fn told(&self) -> Result<String> {
        let costs = Costs::known();
        let all = Sizing::of(self, &costs, self.zones);
        let mut told = String::new();
        writeln!(told, "| | all zones | one zone lost | bound |\n|---|---|---|---|")?;
        let less = Sizing::of(self, &costs, self.zones.saturating_sub(1).max(1));
        for (row, after) in all.rows(self).iter().zip(less.rows(self)) {
            writeln!(told, "| {} | {} | {} | {} |", row.what, row.value, after.value, row.bound)?;
        }
        writeln!(
            told,
            "\n| what happens | attempts for each client | half are back | 99 % | all | longest queue of a server | \
             refused by brokers |\n|---|---|---|---|---|---|---|"
        )?;
        for (what, storm) in self.storms(&all, &less, &costs) {
            writeln!(told, "{}", row_of(what, &storm, &storm.run(self.seed)))?;
        }
        Ok(told)
    }

    /// What can happen to many clients at once.
    fn storms(&self, all: &Sizing, less: &Sizing, costs: &Costs) -> Vec<(&'static str, Storm)> {
        let lost = all.connections_each * all.servers / self.zones / less.servers.max(1);
        let zone = Storm::of(self, less, costs, lost);
        let server = Storm {
            clients: all.connections_each / (all.servers - 1).max(1),
            ..Storm::of(self, all, costs, 0)
        };
        let at_once = Storm { spreads: false, ..zone.clone() };
        vec![
            ("a zone is lost; clients come back as the SDK does", zone),
            ("the same with clients that come back at once, and again every second", at_once),
            ("one server is lost", server),
        ]
    }
}

fn row_of(what: &str, storm: &Storm, outcome: &Outcome) -> String {
    let seconds =
        |at_ms: Option<u64>| at_ms.map_or("never".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1e3));
    format!(
        "| {what} | {:.2} | {} | {} | {} | {} | {:.1} % |",
        outcome.attempts as f64 / storm.clients.max(1) as f64,
        seconds(outcome.back_ms(0.5)),
        seconds(outcome.back_ms(0.99)),
        seconds(outcome.back_ms(1.0)),
        outcome.queue_most,
        outcome.refused as f64 / storm.clients.max(1) as f64 * 100.0,
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::PlanArgs;

    #[derive(Parser)]
    struct Plan {
        #[command(flatten)]
        arguments: PlanArgs,
    }

    fn told(arguments: &str) -> String {
        let arguments = std::iter::once("plan").chain(arguments.split_whitespace());
        Plan::parse_from(arguments).arguments.told().expect("a plan")
    }

    #[test]
    fn the_document_has_the_plan_that_is_computed() {
        let document = include_str!("../../../../docs/scaling.md");
        let plan = told("");
        assert!(document.contains(&plan), "docs/scaling.md is not what `tidewire-bench plan` says:\n{plan}");
    }

    #[test]
    fn the_plan_holds_and_a_smaller_one_does_not() {
        assert!(!told("").contains("too"), "{}", told(""));
        assert!(!told("").contains("never"), "{}", told(""));
        let small = told("--servers 2 --brokers 2 --memory-gib 8");
        assert!(small.contains("too"), "{small}");
    }
}
