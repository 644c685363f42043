//! Rolling restarts, shown: clients behind HAProxy, publishers that never stop, a server that is replaced again and
//! again, alone or one of several that share a backplane. What counts is that every client has every event once, and when each one came back.

mod clients;
mod plot;
mod publishers;
mod site;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::layout::Layout;
use crate::progress::Progress;
use crate::report::{Column, Report, ReportOptions, Sample};
use clients::Clients;
use publishers::Publishers;
use site::{Site, SitePlan};

use crate::targets::shared::BrokerOptions;

const COLUMNS: &[Column] = &[
    Column::new("back", "clients back", 0),
    Column::new("drain_s", "drained after s", 2),
    Column::new("away_s", "nobody accepts s", 2),
    Column::new("last_s", "last one back s", 2),
    Column::new("uneven", "fullest ÷ mean tenth", 2),
    Column::new("untold", "came back untold", 0),
    Column::new("retries", "tried again", 0),
    Column::new("published", "events", 0),
    Column::new("publish_max_ms", "longest publish ms", 0),
    Column::new("lost", "lost", 0),
    Column::new("repeated", "repeated", 0),
    Column::new("reordered", "reordered", 0),
    Column::new("gaps", "gaps", 0),
];
/// Parts of the window that are compared.
const TENTHS: usize = 10;
/// A restart must be over so long after its window.
const GRACE: Duration = Duration::from_secs(60);
/// How long what is still under way may take at the end.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct RollingArgs {
    /// Clients, each on a WebSocket through HAProxy
    #[arg(long, default_value_t = 5_000)]
    clients: u32,
    /// Clients that hold the same channel
    #[arg(long, default_value_t = 10)]
    audience: u32,
    /// Publishers, each with one request under way at all times
    #[arg(long, default_value_t = 2)]
    publishers: u32,
    /// Servers; several share a backplane
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    nodes: u32,
    /// What several servers share (default: a broker that is started for them)
    #[command(flatten)]
    broker: BrokerOptions,
    /// Restarts, one after the other, of the servers in turn
    #[arg(long, default_value_t = 10)]
    restarts: u32,
    /// Seconds over which clients are told to come back
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    window: u64,
    /// Seconds between everybody's return and the next restart
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    pause: u64,
    /// Bytes of an event's data
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    size: usize,
    /// Release binary of Tidewire
    #[arg(long, value_name = "PATH")]
    tidewire: PathBuf,
    /// HAProxy's configuration, of which only addresses, paths and the check are changed
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/haproxy.cfg"))]
    haproxy: PathBuf,
    #[command(flatten)]
    report: ReportOptions,
}

impl RollingArgs {
    pub(crate) fn run(&self) -> Result<()> {
        let layout = Layout { connections: self.clients, channels_each: 1, group: self.audience.max(1) };
        ensure!(
            self.clients > 0 && self.clients.is_multiple_of(layout.group),
            "--audience divides --clients"
        );
        let broker = if self.nodes > 1 { Some(self.broker.start()?) } else { None };
        let plan = SitePlan {
            tidewire: &self.tidewire,
            haproxy: &self.haproxy,
            window: Duration::from_secs(self.window),
            nodes: self.nodes as usize,
            backplane: broker.as_ref().map(|broker| broker.url.as_str()),
        };
        let mut site = Site::start(&plan)?;
        let mut clients = Clients::new(layout, site.address())?;
        let progress = Progress::new();
        progress.title(format!("{} clients", self.clients));
        clients.run_until(GRACE, "all are subscribed", |clients| Ok(clients.all_here()))?;
        let publishers = Publishers::start(
            layout.channel_count(),
            self.publishers,
            self.size,
            site.address(),
            clients.clock(),
        )?;
        let mut report = Report::new("rolling restarts behind HAProxy", COLUMNS, "last_s");
        report.parameter("clients", self.clients);
        report.parameter("servers", self.nodes);
        report.parameter("channels", layout.channel_count());
        report.parameter("publishers", self.publishers);
        report.parameter("window", format!("{} s", self.window));
        let mut returns = Vec::new();
        for number in 1..=self.restarts {
            progress.title(format!("restart {number} of {}", self.restarts));
            let (sample, times_s) =
                self.restart(number as usize - 1, &mut site, &mut clients, &publishers)?;
            report.add("tidewire/ws", None, &sample);
            returns.push(times_s);
        }
        self.settle(&mut clients, publishers, &mut report)?;
        progress.clear();
        if let Some(path) = &self.report.svg {
            let title =
                format!("{} clients come back after each of {} restarts", self.clients, self.restarts);
            std::fs::write(path, plot::render(&title, &returns, self.window as f64))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        report.publish(&ReportOptions { svg: None, ..self.report.clone() })
    }

    /// Replaces a server once; what it took, and when after the signal each client of it was subscribed again.
    fn restart(
        &self,
        turn: usize,
        site: &mut Site,
        clients: &mut Clients,
        publishers: &Publishers,
    ) -> Result<(Sample, Vec<f64>)> {
        let paused = Instant::now() + Duration::from_secs(self.pause);
        clients.run_until(GRACE, "the pause is over", |_| Ok(Instant::now() >= paused))?;
        publishers.begin_count();
        let published_before = publishers.accepted();
        let begin_ns = clients.begin_returns();
        site.end_server(turn)?;
        let within = Duration::from_secs(self.window) + GRACE;
        clients.run_until(within, "everybody is back", |clients| {
            site.replace_when_ended()?;
            let everybody = if site.is_alone() { clients.all_back() } else { clients.all_here() };
            Ok(site.is_replaced() && everybody)
        })?;
        let times_s: Vec<f64> = clients.returns().iter().map(|&ns| (ns - begin_ns) as f64 / 1e9).collect();
        let last_s = times_s.iter().copied().fold(0.0, f64::max);
        let (drain_s, away_s) = site.took();
        let sample = Sample::from([
            ("back", times_s.len() as f64),
            ("drain_s", drain_s),
            ("away_s", away_s),
            ("last_s", last_s),
            ("uneven", unevenness(&times_s, self.window as f64)),
            ("untold", f64::from(clients.untold())),
            ("retries", f64::from(clients.retries())),
            ("published", (publishers.accepted() - published_before) as f64),
            ("publish_max_ms", publishers.longest_ms()),
        ]);
        Ok((sample, times_s))
    }

    /// Ends publishing, waits for what is under way, and enters what went wrong in all.
    fn settle(&self, clients: &mut Clients, publishers: Publishers, report: &mut Report) -> Result<()> {
        let published = publishers.end()?;
        let events: u64 = published.iter().map(|&count| u64::from(count)).sum();
        let wanted = events * u64::from(self.audience.max(1));
        let deadline = Instant::now() + CATCH_UP_WITHIN;
        clients.run_until(2 * CATCH_UP_WITHIN, "everything has come", |clients| {
            Ok(clients.deliveries() >= wanted || Instant::now() >= deadline)
        })?;
        let faults = clients.faults(&published);
        report.parameter("events in all", events);
        report.parameter("deliveries in all", clients.deliveries());
        let sample = [("lost", faults.lost), ("repeated", faults.repeated), ("reordered", faults.reordered)];
        let mut sample: Sample = sample.map(|(key, count)| (key, count as f64)).into();
        sample.insert("gaps", f64::from(clients.gaps()));
        report.add("tidewire/ws", None, &sample);
        Ok(())
    }
}

/// How many came in the fullest tenth of the time in which they came, over how many a tenth has on average.
fn unevenness(times_s: &[f64], window_s: f64) -> f64 {
    let mut counts = [0_u32; TENTHS];
    let first_s = times_s.iter().copied().fold(window_s, f64::min);
    for &time_s in times_s {
        let part = (time_s - first_s) / (window_s - first_s).max(1e-3) * TENTHS as f64;
        counts[(part as usize).min(TENTHS - 1)] += 1;
    }
    let fullest = counts.iter().copied().max().unwrap_or(0);
    f64::from(fullest) * TENTHS as f64 / times_s.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_return_has_no_fullest_part() {
        let even: Vec<f64> = (0..1000).map(|number| 0.5 + f64::from(number) * 0.0095).collect();
        assert!((unevenness(&even, 10.0) - 1.0).abs() < 0.03, "{}", unevenness(&even, 10.0));
        assert!((unevenness(&[1.0; 50], 10.0) - 10.0).abs() < 1e-9);
    }
}
