//! `tidewire bench`: the four patterns side by side over the user's own path, at the user's rate and size.
//! Must not look into the server: what a client can measure is what its users get.

mod patterns;
mod verdict;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use clap::Args;

use super::Failure;
use super::endpoint::Endpoint;
use super::report::Reporter;
use patterns::{Pattern, Tally};
use wire::Wire;

/// How long the last events may be under way after the last one was sent.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// How long the patterns may take to be connected.
const READY_MAX: Duration = Duration::from_secs(15);

/// Measure the four patterns against a running server: latency, bytes and requests per event, and what
/// speaks for which.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// Where the server is, as its users reach it: through their proxies.
    #[arg(env = "TIDEWIRE_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// The token is in this file; without it, the environment variable TIDEWIRE_TOKEN is used if it is set.
    #[arg(long, value_name = "PATH")]
    token_file: Option<PathBuf>,
    /// Events per second.
    #[arg(long, default_value_t = 10.0, value_parser = rate)]
    rate: f64,
    /// Bytes of an event's data.
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u32).range(48..=1_000_000))]
    size: u32,
    /// For how long to publish.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    duration: u64,
    /// How often the short poll asks.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = rate)]
    interval: f64,
    /// The channel to use; by default a new one for each run.
    #[arg(long)]
    channel: Option<String>,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.01..=10_000.0).contains(&number) => Ok(number),
        _ => Err("must be a number from 0.01 to 10000".to_owned()),
    }
}

/// What all threads of a run share.
#[derive(Debug)]
struct Run {
    endpoint: Endpoint,
    channel: String,
    start: Instant,
    interval: Duration,
    stopping: AtomicBool,
}

impl Run {
    /// Microseconds since the run began: the time in an event's data.
    fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

pub(super) fn run(arguments: &BenchArguments) -> Result<ExitCode, Failure> {
    let endpoint =
        Endpoint::with_token(&arguments.url, arguments.token_file.as_deref()).map_err(Failure::Usage)?;
    let channel =
        arguments.channel.clone().unwrap_or_else(|| format!("tidewire-bench:{:016x}", fastrand::u64(..)));
    let run = Arc::new(Run {
        endpoint,
        channel,
        start: Instant::now(),
        interval: Duration::from_secs_f64(arguments.interval),
        stopping: AtomicBool::new(false),
    });
    let (ready, readiness) = channel_of_readiness();
    let readers: Vec<_> = Pattern::ALL
        .map(|pattern| {
            let (run, ready) = (Arc::clone(&run), ready.clone());
            std::thread::spawn(move || patterns::read(pattern, &run, &ready))
        })
        .into();
    drop(ready);
    wait_until_ready(&readiness, readers.len());
    Reporter::new(false).say(&format!("publishing {} events/s for {} s", arguments.rate, arguments.duration));
    let published = publish(&run, arguments).map_err(Failure::Failed);
    std::thread::sleep(drain_time(&run));
    run.stopping.store(true, Ordering::Relaxed);
    let tallies: Vec<Tally> = readers.into_iter().filter_map(|reader| reader.join().ok()).collect();
    verdict::print(&tallies, published?, arguments.rate, arguments.interval);
    Ok(ExitCode::SUCCESS)
}

fn channel_of_readiness() -> (std::sync::mpsc::Sender<()>, Receiver<()>) {
    channel()
}

/// A pattern that does not work on this path says so in its tally; the others are not kept waiting.
fn wait_until_ready(readiness: &Receiver<()>, count: usize) {
    let deadline = Instant::now() + READY_MAX;
    for _ in 0..count {
        let left = deadline.saturating_duration_since(Instant::now());
        if readiness.recv_timeout(left).is_err() {
            return;
        }
    }
}

/// The short poll sees the last event one interval late, and nobody much later than that.
fn drain_time(run: &Run) -> Duration {
    (run.interval + Duration::from_millis(500)).min(DRAIN_MAX)
}

/// Publishes on a fixed schedule; an event carries the time at which it was due, so that a slow publish
/// counts as the latency that it is. Gives how many were published.
fn publish(run: &Run, arguments: &BenchArguments) -> Result<u64, String> {
    let mut wire = Wire::connect(&run.endpoint)?;
    let count = (arguments.rate * arguments.duration as f64).ceil() as u64;
    let begin_us = run.now_us();
    for number in 0..count {
        let due_us = begin_us + (number as f64 / arguments.rate * 1e6) as u64;
        let wait_us = due_us.saturating_sub(run.now_us());
        std::thread::sleep(Duration::from_micros(wait_us));
        let mut data = format!("{{\"n\":{number},\"us\":{due_us},\"pad\":\"");
        let pad = (arguments.size as usize).saturating_sub(data.len() + 2);
        data.extend(std::iter::repeat_n('x', pad));
        data.push_str("\"}");
        let path = format!("/v1/channels/{}/events", run.channel);
        wire.request(
            "POST",
            &run.endpoint.path(&path),
            "Content-Type: application/json\r\n",
            data.as_bytes(),
        )?;
        let (status, body) = wire.answer(Duration::from_secs(10))?;
        if status != 201 {
            return Err(format!(
                "the server refused a publish with {status}: {}",
                String::from_utf8_lossy(&body)
            ));
        }
    }
    Ok(count)
}
