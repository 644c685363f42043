//! How the cost of a delivery changes with the number of subscribers, and with that of channels.
//! A sweep for a plot: flat or falling lines are what is wanted.

use anyhow::Result;
use clap::Args;

use super::CommonArgs;
use super::load::{COLUMNS, Load, measure_with_baseline};
use super::spread::ScheduleArgs;
use crate::layout::Layout;
use crate::report::Report;

/// More events a second than this would measure publishing.
const EVENTS_PER_S_MAX: f64 = 1_000.0;

#[derive(Debug, Args)]
pub(crate) struct LinearArgs {
    /// Numbers of subscribers of one channel
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000,5000,10000,19000")]
    subscribers: Vec<u32>,
    /// Numbers of channels that the subscribers of the second sweep share out
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000,10000")]
    channels: Vec<u32>,
    /// Subscribers in the second sweep; a multiple of each number of channels
    #[arg(long, default_value_t = 10_000)]
    channel_subscribers: u32,
    /// Deliveries per second that each step aims at
    #[arg(long, default_value_t = 100_000.0)]
    deliveries_per_s: f64,
    #[command(flatten)]
    schedule: ScheduleArgs,
    #[command(flatten)]
    common: CommonArgs,
}

impl LinearArgs {
    pub(super) fn run(&self) -> Result<()> {
        let mut report = Report::new("linear cost", COLUMNS, "cpu_us");
        report.parameter("aimed at deliveries/s", self.deliveries_per_s);
        self.common.describe(&mut report);
        let steps = self.steps();
        self.common.each_turn(|target, progress| {
            for (name, x, load) in &steps {
                let (sample, base) = measure_with_baseline(target, load, &self.common.target, progress)?;
                report.add(&format!("{target}, {name}"), Some(f64::from(*x)), &sample);
                if let Some(base) = base {
                    report.add(&format!("baseline, {name}"), Some(f64::from(*x)), &base);
                }
            }
            Ok(())
        })?;
        report.publish(&self.common.report)
    }

    fn steps(&self) -> Vec<(&'static str, u32, Load)> {
        let steps_max = if self.common.quick { 2 } else { usize::MAX };
        let subscribers = self.subscribers.iter().take(steps_max).map(|&subscribers| {
            // What few subscribers cannot make up in rate, they make up in their smaller cost.
            let rate = (self.deliveries_per_s / f64::from(subscribers.max(1))).min(EVENTS_PER_S_MAX);
            ("subscribers", subscribers, self.schedule.load(Layout::fan_out(subscribers), rate, &self.common))
        });
        let all = self.common.or_quick(self.channel_subscribers, 100);
        let channels =
            self.channels.iter().filter(move |&&channels| channels > 0 && all.is_multiple_of(channels));
        let channels = channels.take(steps_max).map(|&channels| {
            let group = all / channels;
            let layout = Layout { connections: all, channels_each: 1, group };
            // With few subscribers a channel, publishing is what limits, and what is measured too.
            let rate = (self.deliveries_per_s / f64::from(group)).min(10.0 * EVENTS_PER_S_MAX);
            ("channels", channels, self.schedule.load(layout, rate, &self.common))
        });
        subscribers.chain(channels).collect()
    }
}
