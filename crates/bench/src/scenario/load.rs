//! One measurement of deliveries at a given pace: start, connect, warm up, measure, stop.
//! Every delivering scenario is this with other numbers; the baseline goes through it unchanged.

use std::time::Duration;

use anyhow::{Context, Result};

use super::enter_ratio;
use crate::fleet::{Fleet, FleetPlan, Pace};
use crate::layout::Layout;
use crate::payload::PAYLOAD_BYTES_MIN;
use crate::procfs::{CpuTime, anonymous_bytes, cpu_time, own_cpu_time};
use crate::progress::Progress;
use crate::report::{Column, Sample};
use crate::targets::{Target, TargetOptions, Via};
use crate::wire::websocket::server_header_bytes;

/// Time for a server to finish what connecting left to do.
const SETTLE: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) layout: Layout,
    pub(super) pace: Pace,
    pub(super) warm_up: Duration,
    pub(super) duration: Duration,
    pub(super) payload_bytes: usize,
    pub(super) via: Via,
    /// Publishing connections; none means that subscribers publish.
    pub(super) lines: usize,
    pub(super) stalled_every: Option<u32>,
    /// Latency is taken of one event in so many.
    pub(super) sample_every: u32,
}

/// The columns of a load on a schedule. Its samples hold more, which the JSON report shows.
pub(super) const COLUMNS: &[Column] = &[
    Column::new("cpu_us", "CPU µs/delivery", 2),
    Column::new("cpu_ratio", "÷ baseline", 2),
    Column::new("user_us", "user µs", 2),
    Column::new("system_us", "system µs", 2),
    Column::new("p50_ms", "p50 ms", 2),
    Column::new("p99_ms", "p99 ms", 2),
    Column::new("p99_ratio", "÷ baseline", 2),
    Column::new("lost", "lost", 0),
    Column::new("repeated", "repeated", 0),
    Column::new("reordered", "reordered", 0),
    Column::new("closed", "closed", 0),
    Column::new("wire_bytes", "B/delivery", 0),
    Column::new("generator_cpu", "generator CPU %", 0),
];

impl Load {
    fn plan(&self, target: &Target) -> FleetPlan {
        FleetPlan {
            layout: self.layout,
            transport: target.transport,
            deflate: target.deflate,
            since: None,
            first_sequence: 0,
            stalled_every: self.stalled_every,
            payload_bytes: self.payload_bytes,
            via: self.via,
            lines: self.lines,
        }
    }

    /// The same load with frames as large as those that `sample` saw.
    pub(super) fn for_baseline(&self, sample: &Sample) -> Load {
        let frame_bytes = sample.get("wire_bytes").map_or(self.payload_bytes, |bytes| bytes.round() as usize);
        let payload_bytes =
            frame_bytes.saturating_sub(server_header_bytes(frame_bytes)).max(PAYLOAD_BYTES_MIN);
        Load { payload_bytes, lines: self.lines.max(1), ..self.clone() }
    }
}

/// Measures `target`, then the baseline with frames of the same size.
pub(super) fn measure_with_baseline(
    target: &Target,
    load: &Load,
    options: &TargetOptions,
    progress: &Progress,
) -> Result<(Sample, Option<Sample>)> {
    let mut sample = measure(target, load, options, progress)?;
    if *target == Target::BASELINE {
        return Ok((sample, None));
    }
    let base = measure(&Target::BASELINE, &load.for_baseline(&sample), options, progress)?;
    enter_ratio(&mut sample, &base, "cpu_us", "cpu_ratio");
    enter_ratio(&mut sample, &base, "p99_ms", "p99_ratio");
    enter_ratio(&mut sample, &base, "deliveries_per_s", "rate_ratio");
    Ok((sample, Some(base)))
}

/// Measures one target once.
pub(super) fn measure(
    target: &Target,
    load: &Load,
    options: &TargetOptions,
    progress: &Progress,
) -> Result<Sample> {
    run(target, load, options, progress).with_context(|| format!("measuring {target}"))
}

fn run(target: &Target, load: &Load, options: &TargetOptions, progress: &Progress) -> Result<Sample> {
    let server = target.start(options)?;
    let mut fleet = Fleet::new(load.plan(target), &server)?;
    fleet.sample_every(load.sample_every);
    fleet.connect(progress)?;
    fleet.listen(SETTLE)?;
    progress.begin("warming up", load.warm_up.as_millis() as u64);
    if !load.warm_up.is_zero() {
        fleet.run(load.pace, load.warm_up, progress)?;
    }
    fleet.reset_counts();
    progress.begin("measuring", load.duration.as_millis() as u64);
    let usage = |roots: Option<&[u32]>| roots.map(cpu_time).transpose();
    let memory = |roots: Option<&[u32]>| roots.map(anonymous_bytes).transpose();
    let (cpu_before, memory_before) = (usage(server.roots())?, memory(server.roots())?);
    let own_before = own_cpu_time()?;
    let wall_before_ns = fleet.now_ns();
    let span = fleet.run(load.pace, load.duration, progress)?;
    let wall_s = (fleet.now_ns() - wall_before_ns) as f64 / 1e9;
    let own = own_cpu_time()?.since(own_before);
    let mut sample = Sample::new();
    if let (Some(before), Some(after)) = (cpu_before, usage(server.roots())?) {
        enter_cpu(&mut sample, after.since(before), fleet.tally().deliveries);
    }
    if let (Some(before), Some(after)) = (memory_before, memory(server.roots())?) {
        sample.insert("rss_growth_mib", (after as f64 - before as f64) / f64::from(1 << 20));
    }
    sample.insert("generator_cpu", own.total_s() / wall_s * 100.0);
    sample.insert("deliveries_per_s", fleet.tally().deliveries as f64 / span.seconds().max(1e-9));
    enter_counts(&mut sample, &fleet);
    Ok(sample)
}

fn enter_cpu(sample: &mut Sample, cpu: CpuTime, deliveries: u64) {
    let deliveries = deliveries.max(1) as f64;
    sample.insert("cpu_us", cpu.total_s() * 1e6 / deliveries);
    sample.insert("user_us", cpu.user_s * 1e6 / deliveries);
    sample.insert("system_us", cpu.system_s * 1e6 / deliveries);
}

fn enter_counts(sample: &mut Sample, fleet: &Fleet<'_>) {
    let tally = fleet.tally();
    let latency_ms = |quantile| tally.latency_ns.value_at_quantile(quantile) as f64 / 1e6;
    sample.insert("p50_ms", latency_ms(0.5));
    sample.insert("p99_ms", latency_ms(0.99));
    sample.insert("max_ms", tally.latency_ns.max() as f64 / 1e6);
    sample.insert("deliveries", tally.deliveries as f64);
    sample.insert("wire_bytes", tally.event_bytes as f64 / tally.deliveries.max(1) as f64);
    let faults = fleet.faults();
    sample.insert("lost", faults.lost as f64);
    sample.insert("repeated", faults.repeated as f64 + tally.misdelivered as f64);
    sample.insert("reordered", faults.reordered as f64);
    sample.insert("closed", f64::from(fleet.closed));
    if let Some(close) = fleet.first_close() {
        eprintln!("note: {close} ({} in all)", fleet.closed);
    }
}
