//! Saturation: a publisher as fast as its window lets it, and what arrives per second.
//! Not open loop, and so no latencies worth comparing; order and loss are checked for every event.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::CommonArgs;
use super::load::{Load, measure_with_baseline};
use crate::fleet::Pace;
use crate::layout::Layout;
use crate::report::{Column, Report};
use crate::targets::{Target, Via};

/// One latency in so many, as a flood has no use for more.
const SAMPLE_EVERY: u32 = 64;

const COLUMNS: &[Column] = &[
    Column::new("deliveries_per_s", "deliveries/s", 0),
    Column::new("rate_ratio", "÷ baseline", 2),
    Column::new("cpu_us", "CPU µs/delivery", 3),
    Column::new("cpu_ratio", "÷ baseline", 3),
    Column::new("deliveries", "deliveries", 0),
    Column::new("lost", "lost", 0),
    Column::new("repeated", "repeated", 0),
    Column::new("reordered", "reordered", 0),
    Column::new("closed", "closed", 0),
    Column::new("rss_growth_mib", "RSS growth MiB", 1),
    Column::new("generator_cpu", "generator CPU %", 0),
];

#[derive(Debug, Args)]
pub(crate) struct SaturationArgs {
    /// Subscribers of the one channel; several numbers are measured one after the other
    #[arg(long, value_delimiter = ',', default_value = "100,1000")]
    subscribers: Vec<u32>,
    /// Publishes that may be unacknowledged
    #[arg(long, default_value_t = 256)]
    window: usize,
    /// Events that subscribers may lag behind on average before the publisher waits for them
    #[arg(long, default_value_t = 2_048)]
    behind: u64,
    /// How the publisher publishes (default: WebSocket where the target has it)
    #[arg(long, value_enum)]
    publish_via: Option<Via>,
    /// Seconds measured in each turn
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    duration: f64,
    /// Seconds of the same load before measuring
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    warm_up: f64,
    #[command(flatten)]
    common: CommonArgs,
}

impl SaturationArgs {
    pub(super) fn run(&self) -> Result<()> {
        let mut report = Report::new("saturation", COLUMNS, "deliveries_per_s");
        report.parameter("window", self.window);
        report.parameter("behind at most", self.behind);
        self.common.describe(&mut report);
        self.common.each_turn(|target, progress| {
            for &subscribers in &self.subscribers {
                let load = self.load(target, self.common.or_quick(subscribers, 200));
                let (sample, base) = measure_with_baseline(target, &load, &self.common.target, progress)?;
                let subscribers = load.layout.connections;
                report.add(&format!("{target}, {subscribers} subscribers"), None, &sample);
                if let Some(base) = base {
                    report.add(&format!("baseline for {target}, {subscribers} subscribers"), None, &base);
                }
            }
            Ok(())
        })?;
        report.publish(&self.common.report)
    }

    fn load(&self, target: &Target, subscribers: u32) -> Load {
        Load {
            layout: Layout::fan_out(subscribers),
            pace: Pace::Window { unacknowledged_max: self.window.max(1), behind_max: self.behind.max(1) },
            warm_up: Duration::from_secs_f64(self.common.or_quick(self.warm_up, 0.3)),
            duration: Duration::from_secs_f64(self.common.or_quick(self.duration, 1.0)),
            payload_bytes: self.common.size,
            via: self.publish_via.unwrap_or(target.fastest_via()),
            lines: 1,
            stalled_every: None,
            sample_every: SAMPLE_EVERY,
        }
    }
}
