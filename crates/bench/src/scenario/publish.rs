//! Publishing with nobody subscribed: how many a second, and how long until they are acknowledged.
//! A closed loop by its window; the latency is that under full load.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::CommonArgs;
use crate::fleet::{Fleet, FleetPlan, Pace};
use crate::layout::Layout;
use crate::procfs::{cpu_time, own_cpu_time};
use crate::progress::Progress;
use crate::report::{Column, Report, Sample};
use crate::targets::{Kind, Target, Via};

const COLUMNS: &[Column] = &[
    Column::new("publishes_per_s", "publishes/s", 0),
    Column::new("cpu_us", "CPU µs/publish", 2),
    Column::new("p50_us", "p50 µs", 0),
    Column::new("p99_us", "p99 µs", 0),
    Column::new("max_ms", "max ms", 1),
    Column::new("publishes", "publishes", 0),
    Column::new("unacknowledged", "unacknowledged", 0),
    Column::new("generator_cpu", "generator CPU %", 0),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// One request at a time on each kept-alive connection
    KeepAlive,
    /// A window of requests on each connection
    Pipelined,
    /// A window of messages on each WebSocket
    Ws,
}

#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// Ways to publish
    #[arg(long, value_enum, value_delimiter = ',', default_value = "keep-alive,pipelined,ws")]
    modes: Vec<Mode>,
    /// Numbers of connections that publish, each to a channel of its own
    #[arg(long, value_delimiter = ',', default_value = "16")]
    connections: Vec<u32>,
    /// Publishes that may be unacknowledged on each connection, where they are pipelined
    #[arg(long, default_value_t = 64)]
    window: usize,
    /// Seconds measured in each turn
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    duration: f64,
    #[command(flatten)]
    common: CommonArgs,
}

impl PublishArgs {
    pub(super) fn run(&self) -> Result<()> {
        let mut report = Report::new("publish", COLUMNS, "publishes_per_s");
        report.parameter("window", self.window);
        self.common.describe(&mut report);
        self.common.each_turn(|target, progress| {
            for &mode in &self.modes {
                if mode == Mode::Ws
                    && !matches!(
                        target.kind,
                        Kind::Tidewire | Kind::TidewireDisk | Kind::TidewireShared | Kind::Ws
                    )
                {
                    continue;
                }
                for &connections in &self.connections {
                    let name = format!("{target}, {mode:?}, {connections} publishers");
                    let sample = self.measure(target, mode, connections.max(1), progress);
                    report.add(&name, None, &sample.with_context(|| format!("measuring {name}"))?);
                }
            }
            Ok(())
        })?;
        report.publish(&self.common.report)
    }

    fn measure(&self, target: &Target, mode: Mode, connections: u32, progress: &Progress) -> Result<Sample> {
        let server = target.start(&self.common.target)?;
        let plan = FleetPlan {
            layout: Layout::unheard(connections),
            transport: target.transport,
            deflate: false,
            since: None,
            first_sequence: 0,
            stalled_every: None,
            payload_bytes: self.common.size,
            via: if mode == Mode::Ws { Via::Ws } else { Via::Http },
            lines: connections as usize,
        };
        let unacknowledged_max = if mode == Mode::KeepAlive { 1 } else { self.window.max(1) };
        let pace = Pace::Window { unacknowledged_max, behind_max: u64::MAX };
        let duration = Duration::from_secs_f64(self.common.or_quick(self.duration, 1.0));
        let mut fleet = Fleet::new(plan, &server)?;
        fleet.connect(progress)?;
        fleet.run(pace, duration / 5, progress)?;
        fleet.reset_counts();
        progress.begin("measuring", duration.as_millis() as u64);
        let own_before = own_cpu_time()?;
        let before = server.roots().map(cpu_time).transpose()?;
        let begin_ns = fleet.now_ns();
        fleet.run(pace, duration, progress)?;
        let elapsed_s = (fleet.now_ns() - begin_ns) as f64 / 1e9;
        let own = own_cpu_time()?.since(own_before);
        let publisher = &fleet.publisher;
        let acknowledged = publisher.acknowledged.max(1) as f64;
        let latency_us = |quantile| publisher.latency_ns.value_at_quantile(quantile) as f64 / 1e3;
        let mut sample = Sample::from([
            ("publishes_per_s", publisher.acknowledged as f64 / elapsed_s),
            ("p50_us", latency_us(0.5)),
            ("p99_us", latency_us(0.99)),
            ("max_ms", publisher.latency_ns.max() as f64 / 1e6),
            ("publishes", publisher.published as f64),
            ("unacknowledged", publisher.in_flight() as f64),
            ("generator_cpu", own.total_s() / elapsed_s * 100.0),
        ]);
        if let (Some(pid), Some(before)) = (server.roots(), before) {
            sample.insert("cpu_us", cpu_time(pid)?.since(before).total_s() * 1e6 / acknowledged);
        }
        Ok(sample)
    }
}
