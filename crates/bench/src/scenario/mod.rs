//! What can be measured: each scenario is a plan of loads and a table of what they gave.
//! The loop over rounds and targets stands here once, for all of them.

mod churn;
mod connect;
mod idle;
mod line;
mod linear;
mod load;
mod outage;
mod publish;
mod reconnect;
mod spread;
mod throughput;

use anyhow::{Result, ensure};
use clap::Subcommand;

use crate::progress::Progress;
use crate::report::{Report, ReportOptions, Sample};
use crate::targets::{Target, TargetOptions};

#[derive(Debug, Subcommand)]
pub(crate) enum Scenario {
    /// One channel, many subscribers, a fixed rate
    Fanout(spread::FanoutArgs),
    /// Many channels with one subscriber each
    ManyChannels(spread::ManyChannelsArgs),
    /// Connections that hold many channels each
    Wide(spread::WideArgs),
    /// Fan-out while some subscribers do not read
    Slow(spread::SlowArgs),
    /// A publisher flat out: deliveries per second
    Saturation(throughput::SaturationArgs),
    /// Publishes per second and their latency, nobody subscribed
    Publish(publish::PublishArgs),
    /// From a client over the server back to itself
    Roundtrip(spread::RoundtripArgs),
    /// Connecting and subscribing, as fast as it goes
    Connect(connect::ConnectArgs),
    /// Many clients at once resume over missed events
    Reconnect(reconnect::ReconnectArgs),
    /// Memory per idle connection
    Idle(idle::IdleArgs),
    /// Many channels held while subscriptions come and go
    Churn(churn::ChurnArgs),
    /// A server that was away catches up, while others go on
    Outage(outage::OutageArgs),
    /// CPU per delivery over numbers of subscribers and of channels
    Linear(linear::LinearArgs),
}

/// What all scenarios take.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CommonArgs {
    /// What to measure: NAME[/TRANSPORT][+deflate], with NAME one of tidewire, tidewire-disk,
    /// tidewire-shared (several servers at one broker), nchan, ws, socketio,
    /// custom, baseline and TRANSPORT one of ws, sse, long-poll
    #[arg(long, value_delimiter = ',', value_name = "TARGET", default_value = "tidewire/ws")]
    pub(crate) targets: Vec<Target>,
    /// Rounds; the targets take turns in each
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: u32,
    /// A smoke run of a few seconds: one round, small and short
    #[arg(long)]
    pub(crate) quick: bool,
    /// Bytes of an event's data
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    pub(crate) size: usize,
    #[command(flatten)]
    pub(crate) target: TargetOptions,
    #[command(flatten)]
    pub(crate) report: ReportOptions,
}

impl Scenario {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Scenario::Fanout(args) => args.run(),
            Scenario::ManyChannels(args) => args.run(),
            Scenario::Wide(args) => args.run(),
            Scenario::Slow(args) => args.run(),
            Scenario::Saturation(args) => args.run(),
            Scenario::Publish(args) => args.run(),
            Scenario::Roundtrip(args) => args.run(),
            Scenario::Connect(args) => args.run(),
            Scenario::Reconnect(args) => args.run(),
            Scenario::Idle(args) => args.run(),
            Scenario::Churn(args) => args.run(),
            Scenario::Outage(args) => args.run(),
            Scenario::Linear(args) => args.run(),
        }
    }
}

impl CommonArgs {
    /// Rounds to make.
    fn rounds(&self) -> u32 {
        if self.quick { 1 } else { self.rounds.max(1) }
    }

    /// `full`, or `quick` in a smoke run where that is less.
    fn or_quick<T: PartialOrd>(&self, full: T, quick: T) -> T {
        if self.quick && quick < full { quick } else { full }
    }

    /// Goes through all rounds: in each, every target has its turn.
    fn each_turn(&self, mut turn: impl FnMut(&Target, &Progress) -> Result<()>) -> Result<()> {
        ensure!(!self.targets.is_empty(), "no target to measure");
        let progress = Progress::new();
        for round in 1..=self.rounds() {
            for target in &self.targets {
                progress.title(format!("{round}/{} {target}", self.rounds()));
                turn(target, &progress)?;
            }
        }
        progress.clear();
        Ok(())
    }

    /// Notes what every report names.
    fn describe(&self, report: &mut Report) {
        report.parameter("rounds", self.rounds());
        report.parameter("event data", format!("{} B", self.size));
    }
}

/// Enters `ratio` as the quotient of two samples' figures, where both are there and the base is not nought.
fn enter_ratio(sample: &mut Sample, base: &Sample, key: &str, ratio: &'static str) {
    if let (Some(&value), Some(&base)) = (sample.get(key), base.get(key))
        && base > 0.0
    {
        sample.insert(ratio, value / base);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_needs_both_figures() {
        let mut sample = Sample::from([("cpu", 6.0)]);
        enter_ratio(&mut sample, &Sample::from([("cpu", 4.0)]), "cpu", "ratio");
        assert_eq!(sample.get("ratio"), Some(&1.5));
        let mut sample = Sample::from([("cpu", 6.0)]);
        enter_ratio(&mut sample, &Sample::from([("cpu", 0.0)]), "cpu", "ratio");
        assert_eq!(sample.get("ratio"), None);
    }
}
