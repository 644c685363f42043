//! The connect storm: connections with handshake and subscription, as fast as they go.

use anyhow::{Context, Result};
use clap::Args;

use super::{CommonArgs, enter_ratio};
use crate::fleet::{Fleet, FleetPlan};
use crate::layout::Layout;
use crate::procfs::{cpu_time, own_cpu_time};
use crate::progress::Progress;
use crate::report::{Column, Report, Sample};
use crate::targets::{Target, Via};

const COLUMNS: &[Column] = &[
    Column::new("cpu_us", "CPU µs/connection", 1),
    Column::new("cpu_ratio", "÷ bare accept", 2),
    Column::new("user_us", "user µs", 1),
    Column::new("system_us", "system µs", 1),
    Column::new("connections_per_s", "connections/s", 0),
    Column::new("connections", "connections", 0),
    Column::new("generator_cpu", "generator CPU %", 0),
];

#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// Connections
    #[arg(long, default_value_t = 10_000)]
    connections: u32,
    #[command(flatten)]
    common: CommonArgs,
}

impl ConnectArgs {
    pub(super) fn run(&self) -> Result<()> {
        let connections = self.common.or_quick(self.connections, 1_000);
        let mut report = Report::new("connect storm", COLUMNS, "cpu_us");
        report.parameter("connections", connections);
        self.common.describe(&mut report);
        self.common.each_turn(|target, progress| {
            let mut sample = measure(target, connections, &self.common, progress)?;
            let base = measure(&Target::BASELINE, connections, &self.common, progress)?;
            enter_ratio(&mut sample, &base, "cpu_us", "cpu_ratio");
            report.add(&target.to_string(), None, &sample);
            report.add("baseline (accept, read 4 B, answer)", None, &base);
            Ok(())
        })?;
        report.publish(&self.common.report)
    }
}

/// CPU and rate of connecting and subscribing `connections` clients.
pub(super) fn measure(
    target: &Target,
    connections: u32,
    common: &CommonArgs,
    progress: &Progress,
) -> Result<Sample> {
    let server = target.start(&common.target)?;
    let pid = server.roots().context("CPU time can only be read of a process that is known: give --pid")?;
    let plan = FleetPlan {
        layout: Layout::fan_out(connections),
        transport: target.transport,
        deflate: target.deflate,
        since: None,
        first_sequence: 0,
        stalled_every: None,
        payload_bytes: common.size,
        via: Via::Http,
        lines: 0,
    };
    let mut fleet = Fleet::new(plan, &server)?;
    let (before, own_before, begin_ns) = (cpu_time(pid)?, own_cpu_time()?, fleet.now_ns());
    fleet.connect(progress).with_context(|| format!("measuring {target}"))?;
    let elapsed_s = (fleet.now_ns() - begin_ns) as f64 / 1e9;
    let (cpu, own) = (cpu_time(pid)?.since(before), own_cpu_time()?.since(own_before));
    let each_us = |seconds: f64| seconds * 1e6 / f64::from(connections);
    Ok(Sample::from([
        ("cpu_us", each_us(cpu.total_s())),
        ("user_us", each_us(cpu.user_s)),
        ("system_us", each_us(cpu.system_s)),
        ("connections_per_s", f64::from(connections) / elapsed_s),
        ("connections", f64::from(connections)),
        ("generator_cpu", own.total_s() / elapsed_s * 100.0),
    ]))
}
