//! The scenarios that publish on a schedule: fan-out, many channels, wide sockets, slow consumers
//! and the round trip. Each only turns its parameters into a load.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::load::{COLUMNS, Load, measure, measure_with_baseline};
use super::{CommonArgs, enter_ratio};
use crate::fleet::Pace;
use crate::layout::Layout;
use crate::report::{Column, Report};
use crate::targets::Via;

/// What matters of slow consumers: what the others feel, and what the server keeps for them.
const SLOW_COLUMNS: [Column; 8] = [
    Column::new("p50_ms", "p50 ms", 2),
    Column::new("p99_ms", "p99 ms", 2),
    Column::new("p99_ratio", "÷ all reading", 2),
    Column::new("cpu_us", "CPU µs/delivery", 2),
    Column::new("rss_growth_mib", "RSS growth MiB", 1),
    Column::new("lost", "lost", 0),
    Column::new("repeated", "repeated", 0),
    Column::new("reordered", "reordered", 0),
];

/// About what a stalled reader's socket takes at both ends before it takes no more.
const STALL_BYTES: f64 = 262_144.0;

/// The schedule.
#[derive(Debug, Clone, Args)]
pub(super) struct ScheduleArgs {
    /// Seconds measured in each turn
    #[arg(long, value_name = "SECONDS", default_value_t = 8.0)]
    pub(super) duration: f64,
    /// Seconds of the same load before measuring
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub(super) warm_up: f64,
    /// Events published at once, at so much longer intervals
    #[arg(long, value_name = "EVENTS", default_value_t = 1)]
    pub(super) burst: u32,
    /// How the publisher publishes
    #[arg(long, value_enum, default_value = "http")]
    pub(super) publish_via: Via,
}

#[derive(Debug, Args)]
pub(crate) struct FanoutArgs {
    /// Subscribers of the one channel
    #[arg(long, default_value_t = 10_000)]
    subscribers: u32,
    /// Events per second
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    #[command(flatten)]
    schedule: ScheduleArgs,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ManyChannelsArgs {
    /// Channels, each with one subscriber on a connection of its own
    #[arg(long, default_value_t = 10_000)]
    channels: u32,
    /// Events per second over all channels
    #[arg(long, default_value_t = 10_000.0)]
    rate: f64,
    #[command(flatten)]
    schedule: ScheduleArgs,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WideArgs {
    /// Connections
    #[arg(long, default_value_t = 1_000)]
    connections: u32,
    /// Channels that each holds
    #[arg(long, default_value_t = 100)]
    channels: u32,
    /// Each holds channels of its own, rather than all the same
    #[arg(long)]
    own: bool,
    /// Events per second over all channels (default: 100, or 10,000 with --own)
    #[arg(long)]
    rate: Option<f64>,
    #[command(flatten)]
    schedule: ScheduleArgs,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SlowArgs {
    /// Subscribers of the one channel
    #[arg(long, default_value_t = 500)]
    subscribers: u32,
    /// One subscriber in so many stops to read
    #[arg(long, default_value_t = 10)]
    stalled_every: u32,
    /// Events per second
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    #[command(flatten)]
    schedule: ScheduleArgs,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RoundtripArgs {
    /// Clients, each publishing to a channel that it alone holds
    #[arg(long, default_value_t = 100)]
    clients: u32,
    /// Events per second over all clients
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
    /// Seconds measured in each turn
    #[arg(long, value_name = "SECONDS", default_value_t = 8.0)]
    duration: f64,
    /// Seconds of the same load before measuring
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    warm_up: f64,
    #[command(flatten)]
    common: CommonArgs,
}

impl ScheduleArgs {
    pub(super) fn load(&self, layout: Layout, events_per_s: f64, common: &CommonArgs) -> Load {
        Load {
            layout,
            pace: Pace::Schedule { events_per_s, burst: self.burst },
            warm_up: Duration::from_secs_f64(common.or_quick(self.warm_up, 0.5)),
            duration: Duration::from_secs_f64(common.or_quick(self.duration, 1.5)),
            payload_bytes: common.size,
            via: self.publish_via,
            lines: 1,
            stalled_every: None,
            sample_every: 1,
        }
    }
}

impl FanoutArgs {
    pub(super) fn run(&self) -> Result<()> {
        let subscribers = self.common.or_quick(self.subscribers, 500);
        let load = self.schedule.load(Layout::fan_out(subscribers), self.rate, &self.common);
        let mut report = Report::new("fan-out", COLUMNS, "cpu_us");
        report.parameter("subscribers", subscribers);
        report.parameter("events/s", self.rate);
        compare(&self.common, report, |_| load.clone())
    }
}

impl ManyChannelsArgs {
    pub(super) fn run(&self) -> Result<()> {
        let channels = self.common.or_quick(self.channels, 500);
        let rate = self.common.or_quick(self.rate, 2_000.0);
        let load = self.schedule.load(Layout::own(channels, 1), rate, &self.common);
        let mut report = Report::new("many channels", COLUMNS, "cpu_us");
        report.parameter("channels with one subscriber each", channels);
        report.parameter("events/s", rate);
        compare(&self.common, report, |_| load.clone())
    }
}

impl WideArgs {
    pub(super) fn run(&self) -> Result<()> {
        let rate = self.rate.unwrap_or(if self.own { 10_000.0 } else { 100.0 });
        let connections = self.common.or_quick(self.connections, 50);
        let make = if self.own { Layout::own } else { Layout::shared };
        let layout = make(connections, self.channels);
        let load = self.schedule.load(layout, rate, &self.common);
        let mut report = Report::new("wide sockets", COLUMNS, "cpu_us");
        report.parameter("connections", connections);
        report.parameter(
            "channels each",
            format!("{}{}", self.channels, if self.own { " of its own" } else { "" }),
        );
        report.parameter("events/s", rate);
        compare(&self.common, report, |_| load.clone())
    }
}

impl SlowArgs {
    /// Every target twice, with and without stalled subscribers: the difference is what counts.
    pub(super) fn run(&self) -> Result<()> {
        let subscribers = self.common.or_quick(self.subscribers, 200);
        let mut all = self.schedule.load(Layout::fan_out(subscribers), self.rate, &self.common);
        // The warm-up must fill the stalled sockets, or the measurement is over before they stall.
        let fill_s = STALL_BYTES / self.common.size as f64 / self.rate;
        all.warm_up = all.warm_up.max(Duration::from_secs_f64(fill_s));
        let some_stalled = Load { stalled_every: Some(self.stalled_every.max(2)), ..all.clone() };
        let mut report = Report::new("slow consumers", &SLOW_COLUMNS, "p99_ms");
        report.parameter("subscribers", subscribers);
        report.parameter("stalled", format!("1 in {}", self.stalled_every));
        report.parameter("events/s", self.rate);
        self.common.describe(&mut report);
        self.common.each_turn(|target, progress| {
            let base = measure(target, &all, &self.common.target, progress)?;
            let mut sample = measure(target, &some_stalled, &self.common.target, progress)?;
            enter_ratio(&mut sample, &base, "p99_ms", "p99_ratio");
            report.add(&format!("{target}, all reading"), None, &base);
            report.add(&format!("{target}, some stalled"), None, &sample);
            Ok(())
        })?;
        report.publish(&self.common.report)
    }
}

impl RoundtripArgs {
    pub(super) fn run(&self) -> Result<()> {
        let clients = self.common.or_quick(self.clients, 50);
        let schedule =
            ScheduleArgs { duration: self.duration, warm_up: self.warm_up, burst: 1, publish_via: Via::Ws };
        let load = schedule.load(Layout::own(clients, 1), self.rate, &self.common);
        let mut report = Report::new("round trip", COLUMNS, "p50_ms");
        report.parameter("clients", clients);
        report.parameter("events/s", self.rate);
        // The baseline cannot be published to by its subscribers; it keeps its one line.
        compare(&self.common, report, |is_baseline| Load { lines: usize::from(is_baseline), ..load.clone() })
    }
}

/// Rounds over all targets, each followed by the baseline with frames of the same size.
fn compare(common: &CommonArgs, mut report: Report, load: impl Fn(bool) -> Load) -> Result<()> {
    if let Pace::Schedule { burst: burst @ 2.., .. } = load(false).pace {
        report.parameter("burst", burst);
    }
    common.describe(&mut report);
    common.each_turn(|target, progress| {
        let load = load(*target == crate::targets::Target::BASELINE);
        let (sample, base) = measure_with_baseline(target, &load, &common.target, progress)?;
        report.add(&target.to_string(), None, &sample);
        if let Some(base) = base {
            report.add(&format!("baseline for {target}"), None, &base);
        }
        Ok(())
    })?;
    report.publish(&common.report)
}
