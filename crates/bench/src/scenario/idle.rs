//! Idle: anonymous memory of the server per connection that is subscribed and silent, and what heartbeats cost.
//! One event at the end shows that each of them was truly subscribed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::CommonArgs;
use crate::fleet::{Fleet, FleetPlan, Pace};
use crate::layout::Layout;
use crate::procfs::{anonymous_bytes, cpu_time};
use crate::progress::Progress;
use crate::report::{Column, Report, Sample};
use crate::targets::Target;

const COLUMNS: &[Column] = &[
    Column::new("rss_kib", "RssAnon KiB/connection", 2),
    Column::new("rss_before_mib", "before MiB", 1),
    Column::new("rss_after_mib", "after MiB", 1),
    Column::new("cpu_percent", "CPU % of a core", 2),
    Column::new("rss_event_kib", "after one event KiB/connection", 2),
    Column::new("deliveries", "delivered", 0),
    Column::new("lost", "lost", 0),
];

#[derive(Debug, Args)]
pub(crate) struct IdleArgs {
    /// Connections
    #[arg(long, default_value_t = 15_000)]
    connections: u32,
    /// Each subscribes to a channel of its own, rather than all to one
    #[arg(long)]
    own: bool,
    /// Seconds of silence before memory is read
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    settle: f64,
    /// Seconds of silence in which CPU time is read; longer than the heartbeat
    #[arg(long, value_name = "SECONDS", default_value_t = 50.0)]
    watch: f64,
    #[command(flatten)]
    common: CommonArgs,
}

impl IdleArgs {
    pub(super) fn run(&self) -> Result<()> {
        let connections = self.common.or_quick(self.connections, 1_000);
        let mut report = Report::new("idle connections", COLUMNS, "rss_kib");
        report.parameter("connections", connections);
        report.parameter("channels", if self.own { connections } else { 1 });
        self.common.describe(&mut report);
        self.common.each_turn(|target, progress| {
            let sample = self.measure(target, connections, progress);
            report.add(&target.to_string(), None, &sample.with_context(|| format!("measuring {target}"))?);
            Ok(())
        })?;
        report.publish(&self.common.report)
    }

    fn measure(&self, target: &Target, connections: u32, progress: &Progress) -> Result<Sample> {
        let server = target.start(&self.common.target)?;
        let pid = server.roots().context("memory can only be read of a process that is known: give --pid")?;
        let layout = if self.own { Layout::own(connections, 1) } else { Layout::fan_out(connections) };
        let plan = FleetPlan {
            layout,
            transport: target.transport,
            deflate: target.deflate,
            since: None,
            first_sequence: 0,
            stalled_every: None,
            payload_bytes: self.common.size,
            // One that stays open in the silence, where there is one.
            via: target.fastest_via(),
            lines: 1,
        };
        let settle = Duration::from_secs_f64(self.common.or_quick(self.settle, 0.5));
        let mut fleet = Fleet::new(plan, &server)?;
        std::thread::sleep(Duration::from_millis(300));
        let before = anonymous_bytes(pid)? as f64;
        fleet.connect(progress)?;
        fleet.listen(settle)?;
        let after = anonymous_bytes(pid)? as f64;
        let watch = Duration::from_secs_f64(self.common.or_quick(self.watch, 1.0));
        let cpu_before = cpu_time(pid)?;
        fleet.listen(watch)?;
        let cpu = cpu_time(pid)?.since(cpu_before);
        ensure!(
            fleet.closed == 0,
            "{} connections were closed: {}",
            fleet.closed,
            fleet.first_close().unwrap_or("nobody knows why")
        );

        let events_per_s = f64::from(layout.channel_count()).max(10.0);
        let duration = Duration::from_secs_f64(f64::from(layout.channel_count()) / events_per_s);
        fleet.run(Pace::Schedule { events_per_s, burst: 1 }, duration, progress)?;
        fleet.listen(settle)?;
        let after_event = anonymous_bytes(pid)? as f64;
        let mib = f64::from(1 << 20);
        let each_kib = |bytes: f64| (bytes - before) / 1024.0 / f64::from(connections);
        Ok(Sample::from([
            ("rss_kib", each_kib(after)),
            ("rss_before_mib", before / mib),
            ("rss_after_mib", after / mib),
            ("cpu_percent", 100.0 * cpu.total_s() / watch.as_secs_f64()),
            ("rss_event_kib", each_kib(after_event)),
            ("deliveries", fleet.tally().deliveries as f64),
            ("lost", fleet.faults().lost as f64),
        ]))
    }
}
