//! A server that was away: while it stands still, others publish to channels that its clients hold; then it goes on. How
//! long its clients take to have everything, and what an event on another channel takes meanwhile.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use super::CommonArgs;
use super::line::{Line, Probe, enter, publish, subscribe};
use crate::report::{Column, Report, Sample};
use crate::targets::{Kind, Server, Target};

const COLUMNS: &[Column] = &[
    Column::new("missed", "events missed", 0),
    Column::new("seconds", "seconds until all have them", 2),
    Column::new("per_s", "events/s", 0),
    Column::new("calm_p50_ms", "event p50 ms, before", 2),
    Column::new("calm_p99_ms", "p99 ms", 2),
    Column::new("event_p50_ms", "event p50 ms, meanwhile", 2),
    Column::new("event_p99_ms", "p99 ms", 2),
];
const CALM_FOR: Duration = Duration::from_secs(3);
/// The whole of it must be over by then.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(60);
/// Publishes under way at a time.
const UNDER_WAY: u32 = 256;

#[derive(Debug, Args)]
pub(crate) struct OutageArgs {
    /// Channels that are published to, a client on each
    #[arg(long, default_value_t = 100)]
    channels: u32,
    /// Events that each misses; a channel retains 10,000 of them
    #[arg(long, default_value_t = 2_000)]
    missed: u32,
    #[command(flatten)]
    common: CommonArgs,
}

impl OutageArgs {
    pub(super) fn run(&self) -> Result<()> {
        let mut report = Report::new("outage", COLUMNS, "seconds");
        report.parameter("channels", self.common.or_quick(self.channels, 10));
        report.parameter("missed on each", self.common.or_quick(self.missed, 100));
        self.common.describe(&mut report);
        self.common.each_turn(|target, progress| {
            ensure!(target.kind == Kind::TidewireShared, "{target}: only tidewire-shared has two servers");
            progress.begin("measuring", 1);
            let sample = self.measure(target).with_context(|| format!("measuring {target}"))?;
            report.add(&target.to_string(), None, &sample);
            Ok(())
        })?;
        report.publish(&self.common.report)
    }

    fn measure(&self, target: &Target) -> Result<Sample> {
        let server = target.start(&self.common.target)?;
        let away = *server.roots().and_then(|roots| roots.get(1)).context("two servers: --nodes 2")?;
        let channels = self.common.or_quick(self.channels, 10);
        let missed = self.common.or_quick(self.missed, 100);
        let mut lines = Vec::new();
        for channel in 0..channels {
            let mut line = Line::open(server.subscribe_address(1))?;
            line.say(&[subscribe(channel)])?;
            line.hear(b"{\"type\":\"subscribed\"")?;
            lines.push(line);
        }
        let mut probe = Probe::open(&server, self.common.size)?;
        let mut sample = Sample::from([("missed", f64::from(channels) * f64::from(missed))]);
        enter(&mut sample, ["calm_p50_ms", "calm_p99_ms"], &probe.run(CALM_FOR, || false)?);
        let stopped = Stopped::new(away)?;
        self.publish(&server, channels, missed)?;
        drop(stopped);
        let (begin, left) = (Instant::now(), AtomicU32::new(channels));
        let (seconds, events) = thread::scope(|scope| {
            let readers: Vec<_> = lines
                .iter_mut()
                .map(|line| {
                    let left = &left;
                    scope.spawn(move || {
                        let outcome = (0..missed).try_for_each(|_| line.hear(b"{\"type\":\"event\""));
                        left.fetch_sub(1, Ordering::Relaxed);
                        outcome.map(|()| begin.elapsed().as_secs_f64())
                    })
                })
                .collect();
            let events = probe.run(CAUGHT_UP_WITHIN, || left.load(Ordering::Relaxed) == 0)?;
            let mut last = 0.0_f64;
            for reader in readers {
                last = last.max(reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??);
            }
            anyhow::Ok((last, events))
        })?;
        enter(&mut sample, ["event_p50_ms", "event_p99_ms"], &events);
        sample.insert("seconds", seconds);
        sample.insert("per_s", sample["missed"] / seconds);
        Ok(sample)
    }

    /// Publishes to all channels in turn, on the server that is there.
    fn publish(&self, server: &Server, channels: u32, missed: u32) -> Result<()> {
        let mut line = Line::open(server.publish_address(0))?;
        let messages: Vec<String> = (0..channels).map(|channel| publish(channel, self.common.size)).collect();
        let (total, mut sent, mut answered) = (channels * missed, 0, 0);
        while answered < total {
            let many = (total - sent).min(UNDER_WAY - (sent - answered));
            let next: Vec<String> =
                (sent..sent + many).map(|number| messages[(number % channels) as usize].clone()).collect();
            line.say(&next)?;
            sent += many;
            for _ in 0..(sent - answered).div_ceil(2) {
                line.hear(b"{\"type\":\"published\"")?;
                answered += 1;
            }
        }
        Ok(())
    }
}

/// A process that stands still until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: u32) -> Result<Stopped> {
        let pid = Pid::from_raw(pid as i32).context("a process has an id")?;
        kill_process(pid, Signal::STOP)?;
        Ok(Stopped(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Should it be gone, there is nothing to do.
        let _ = kill_process(self.0, Signal::CONT);
    }
}
