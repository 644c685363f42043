//! Subscriptions that come and go: many channels held, so many changes a second, and what an event on another channel
//! takes meanwhile. Changes go out at fixed times; each waits for its answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use hdrhistogram::Histogram;

use super::CommonArgs;
use super::line::{LATENCY_US_MAX, Line, Probe, enter, subscribe};
use crate::procfs::{anonymous_bytes, cpu_time};
use crate::report::{Column, Report, Sample};
use crate::targets::{Server, Target, channel_name};

const COLUMNS: &[Column] = &[
    Column::new("held_per_s", "subscribed at first, per s", 0),
    Column::new("changes_per_s", "changes/s", 0),
    Column::new("change_p50_ms", "subscribe p50 ms", 2),
    Column::new("change_p99_ms", "subscribe p99 ms", 2),
    Column::new("calm_p50_ms", "event p50 ms, no changes", 2),
    Column::new("calm_p99_ms", "p99 ms", 2),
    Column::new("event_p50_ms", "event p50 ms, changes", 2),
    Column::new("event_p99_ms", "p99 ms", 2),
    Column::new("server_cpu", "servers CPU %", 0),
    Column::new("channel_kib", "KiB/channel", 2),
];
/// Who changes subscriptions at the same time.
const CHANGERS: u32 = 4;

#[derive(Debug, Args)]
pub(crate) struct ChurnArgs {
    /// Channels that are held at any time
    #[arg(long, default_value_t = 100_000)]
    channels: u32,
    /// Connections that hold them
    #[arg(long, default_value_t = 400)]
    connections: u32,
    /// Subscriptions that change in a second: one channel is left, another one is held
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
    /// Seconds measured, without changes and with them
    #[arg(long, value_name = "SECONDS", default_value_t = 8.0)]
    duration: f64,
    #[command(flatten)]
    common: CommonArgs,
}

/// What somebody who changes subscriptions has of them: a line, and the channels that it holds, oldest first.
struct Holder {
    line: Line,
    held: std::collections::VecDeque<u32>,
}

impl ChurnArgs {
    pub(super) fn run(&self) -> Result<()> {
        let mut report = Report::new("churn", COLUMNS, "change_p99_ms");
        report.parameter("channels", self.common.or_quick(self.channels, 2_000));
        report.parameter("changes per second", self.rate);
        self.common.describe(&mut report);
        self.common.each_turn(|target, progress| {
            progress.begin("measuring", 1);
            let sample = self.measure(target).with_context(|| format!("measuring {target}"))?;
            report.add(&target.to_string(), None, &sample);
            Ok(())
        })?;
        report.publish(&self.common.report)
    }

    fn measure(&self, target: &Target) -> Result<Sample> {
        let server = target.start(&self.common.target)?;
        let roots = server.roots().context("a server of its own")?;
        let channels = self.common.or_quick(self.channels, 2_000);
        let lines = self.common.or_quick(self.connections, 8).max(CHANGERS);
        let duration = Duration::from_secs_f64(self.common.or_quick(self.duration, 1.0));
        let memory_before = anonymous_bytes(roots)?;
        let begin = Instant::now();
        let mut holders = hold(&server, lines, channels)?;
        let mut sample = Sample::from([("held_per_s", f64::from(channels) / begin.elapsed().as_secs_f64())]);
        let memory = anonymous_bytes(roots)?.saturating_sub(memory_before);
        sample.insert("channel_kib", memory as f64 / 1024.0 / f64::from(channels));
        let mut probe = Probe::open(&server, self.common.size)?;
        let calm = probe.run(duration, || false)?;
        enter(&mut sample, ["calm_p50_ms", "calm_p99_ms"], &calm);
        let (before, begin, stop) = (cpu_time(roots)?, Instant::now(), AtomicBool::new(false));
        let share = holders.len().div_ceil(CHANGERS as usize);
        let (changes, events) = thread::scope(|scope| {
            let changers: Vec<_> = holders
                .chunks_mut(share)
                .enumerate()
                .map(|(index, holders)| {
                    let first = channels + index as u32 * (u32::MAX / 16);
                    let rate = self.rate / f64::from(CHANGERS);
                    let stop = &stop;
                    scope.spawn(move || change(holders, first, rate, duration, stop))
                })
                .collect();
            let events = probe.run(duration, || false);
            stop.store(true, Ordering::Relaxed);
            let mut changes = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?;
            for changer in changers {
                let own = changer.join().map_err(|_| anyhow::anyhow!("a changer panicked"))??;
                changes.add(&own)?;
            }
            anyhow::Ok((changes, events?))
        })?;
        let elapsed_s = begin.elapsed().as_secs_f64();
        enter(&mut sample, ["change_p50_ms", "change_p99_ms"], &changes);
        enter(&mut sample, ["event_p50_ms", "event_p99_ms"], &events);
        sample.insert("changes_per_s", changes.len() as f64 / elapsed_s);
        sample.insert("server_cpu", cpu_time(roots)?.since(before).total_s() / elapsed_s * 100.0);
        Ok(sample)
    }
}

/// Connects, and subscribes to all channels, at once on each connection.
fn hold(server: &Server, lines: u32, channels: u32) -> Result<Vec<Holder>> {
    let mut holders = Vec::new();
    for index in 0..lines {
        let mut line = Line::open(server.subscribe_address(index as usize))?;
        let held: std::collections::VecDeque<u32> = (index..channels).step_by(lines as usize).collect();
        line.say(&held.iter().map(|channel| subscribe(*channel)).collect::<Vec<_>>())?;
        holders.push(Holder { line, held });
    }
    for Holder { line, held } in &mut holders {
        for _ in 0..held.len() {
            line.hear(b"{\"type\":\"subscribed\"")?;
        }
    }
    Ok(holders)
}

/// Leaves one channel and subscribes to one that is new, at fixed times; gives how long each took.
fn change(
    holders: &mut [Holder],
    first: u32,
    rate: f64,
    duration: Duration,
    stop: &AtomicBool,
) -> Result<Histogram<u64>> {
    let mut latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?;
    let begin = Instant::now();
    let count = (rate * duration.as_secs_f64()) as u32;
    for number in 0..count {
        let due = begin + Duration::from_secs_f64(f64::from(number) / rate);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let at = number as usize % holders.len();
        let Holder { line, held } = &mut holders[at];
        let (old, new) = (held.pop_front().context("it holds nothing")?, first + number);
        let leave = format!("{{\"type\":\"unsubscribe\",\"channel\":\"{}\"}}", channel_name(old));
        line.say(&[leave, subscribe(new)])?;
        line.hear(b"{\"type\":\"subscribed\"")?;
        held.push_back(new);
        latency_us.saturating_record(due.elapsed().as_micros() as u64);
    }
    Ok(latency_us)
}
