//! The reconnect storm: many clients at once resume over the same missed events.
//! Set against the baseline sending as many bytes to as many sockets in one `send` each.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::{CommonArgs, connect};
use crate::fleet::{Fleet, FleetPlan, Pace};
use crate::layout::Layout;
use crate::procfs::cpu_time;
use crate::progress::Progress;
use crate::report::{Column, Report, Sample};
use crate::targets::process::request;
use crate::targets::{Event, Kind, Server, Target, Via};
use crate::wire::websocket::server_header_bytes;

const COLUMNS: &[Column] = &[
    Column::new("cpu_us", "CPU µs/client", 1),
    Column::new("ratio", "÷ bare send", 2),
    Column::new("connect_us", "of it connecting", 1),
    Column::new("replay_us", "of it replay", 1),
    Column::new("replay_ratio", "replay ÷ bare send", 2),
    Column::new("seconds", "seconds until all caught up", 2),
    Column::new("deliveries", "deliveries", 0),
    Column::new("lost", "lost", 0),
    Column::new("repeated", "repeated", 0),
    Column::new("reordered", "reordered", 0),
    Column::new("client_kib", "KiB/client", 1),
];
/// The baseline sends the same bytes several times over, as CPU time is read in steps of 10 ms.
const BARE_TURNS_PER_S: f64 = 4.0;
const BARE_FOR: Duration = Duration::from_secs(2);
/// The whole storm must be over by then.
const STORM_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct ReconnectArgs {
    /// Clients that resume
    #[arg(long, default_value_t = 5_000)]
    clients: u32,
    /// Events that each has missed
    #[arg(long, default_value_t = 100)]
    missed: u32,
    #[command(flatten)]
    common: CommonArgs,
}

impl ReconnectArgs {
    pub(super) fn run(&self) -> Result<()> {
        let clients = self.common.or_quick(self.clients, 200);
        let mut report = Report::new("reconnect storm", COLUMNS, "cpu_us");
        report.parameter("clients", clients);
        report.parameter("missed events", self.missed);
        self.common.describe(&mut report);
        self.common.each_turn(|target, progress| {
            let resumes = matches!(target.kind, Kind::Tidewire | Kind::TidewireDisk);
            ensure!(resumes, "{target}: only tidewire resumes by event id");
            let mut sample =
                self.storm(target, clients, progress).with_context(|| format!("measuring {target}"))?;
            let connect = connect::measure(target, clients, &self.common, progress)?;
            let base = self.bare_sends(clients, &sample, progress).context("measuring the baseline")?;
            let (cpu_us, connect_us, base_us) = (sample["cpu_us"], connect["cpu_us"], base["cpu_us"]);
            sample.insert("connect_us", connect_us);
            sample.insert("replay_us", cpu_us - connect_us);
            sample.insert("ratio", cpu_us / base_us);
            sample.insert("replay_ratio", (cpu_us - connect_us) / base_us);
            report.add(&target.to_string(), None, &sample);
            report.add(&format!("baseline for {target}"), None, &base);
            Ok(())
        })?;
        report.publish(&self.common.report)
    }

    /// Connects everybody with the position before the missed events.
    fn storm(&self, target: &Target, clients: u32, progress: &Progress) -> Result<Sample> {
        let server = target.start(&self.common.target)?;
        let roots = server.roots().context("a server of its own")?;
        let position = self.publish_missed(target, &server, progress)?;
        let plan = FleetPlan { since: Some(position), ..self.plan(target, clients, 0) };
        let mut fleet = Fleet::new(plan, &server)?;
        fleet.publisher.sequences.fill(1 + self.missed);
        let expected = u64::from(clients) * u64::from(self.missed);
        let (before, begin_ns) = (cpu_time(roots)?, fleet.now_ns());
        fleet.connect(progress)?;
        fleet.receive(expected, STORM_WITHIN, progress)?;
        let seconds = (fleet.now_ns() - begin_ns) as f64 / 1e9;
        let cpu = cpu_time(roots)?.since(before);
        let faults = fleet.faults();
        Ok(Sample::from([
            ("cpu_us", cpu.total_s() * 1e6 / f64::from(clients)),
            ("seconds", seconds),
            ("deliveries", fleet.tally().deliveries as f64),
            ("lost", faults.lost as f64),
            ("repeated", faults.repeated as f64),
            ("reordered", faults.reordered as f64),
            ("client_kib", fleet.tally().event_bytes as f64 / 1024.0 / f64::from(clients)),
        ]))
    }

    /// Publishes one event that everybody has seen, then those that are missed; the first one's id.
    fn publish_missed(&self, target: &Target, server: &Server, progress: &Progress) -> Result<String> {
        let mut seen = Vec::new();
        let event = Event { channel: 0, audience: 0..0, data: b"{\"seen\":true}" };
        server.dialect.write_publish(Via::Http, &event, &mut seen);
        let (status, body) = request(server.publish_address(0), &seen)?;
        ensure!(status == 201, "publishing gave {status}: {}", String::from_utf8_lossy(&body));
        let answer: serde_json::Value = serde_json::from_slice(&body)?;
        let position = answer["id"].as_str().context("a publish was answered without an id")?.to_owned();
        let mut fleet = Fleet::new(self.plan(target, 0, 1), server)?;
        fleet.connect(progress)?;
        let events_per_s = 10_000.0;
        let duration = Duration::from_secs_f64(f64::from(self.missed) / events_per_s);
        fleet.run(Pace::Schedule { events_per_s, burst: 1 }, duration, progress)?;
        ensure!(fleet.publisher.acknowledged == u64::from(self.missed), "not all publishes were taken");
        Ok(position)
    }

    /// The baseline sends each client as many bytes as it got, in one piece.
    fn bare_sends(&self, clients: u32, sample: &Sample, progress: &Progress) -> Result<Sample> {
        let server = Target::BASELINE.start(&self.common.target)?;
        let roots = server.roots().context("a server of its own")?;
        let client_bytes = (sample["client_kib"] * 1024.0).round() as usize;
        let payload_bytes = client_bytes.saturating_sub(server_header_bytes(client_bytes));
        let plan = FleetPlan { payload_bytes, first_sequence: 0, ..self.plan(&Target::BASELINE, clients, 1) };
        let mut fleet = Fleet::new(plan, &server)?;
        fleet.connect(progress)?;
        let before = cpu_time(roots)?;
        fleet.run(Pace::Schedule { events_per_s: BARE_TURNS_PER_S, burst: 1 }, BARE_FOR, progress)?;
        let cpu = cpu_time(roots)?.since(before);
        let deliveries = fleet.tally().deliveries.max(1) as f64;
        Ok(Sample::from([
            ("cpu_us", cpu.total_s() * 1e6 / deliveries),
            ("deliveries", deliveries),
            ("lost", fleet.faults().lost as f64),
            ("client_kib", fleet.tally().event_bytes as f64 / 1024.0 / deliveries),
        ]))
    }

    fn plan(&self, target: &Target, clients: u32, lines: usize) -> FleetPlan {
        FleetPlan {
            layout: Layout::fan_out(clients),
            transport: target.transport,
            deflate: target.deflate,
            since: None,
            // Sequence number 0 stands for the event that everybody has seen.
            first_sequence: 1,
            stalled_every: None,
            payload_bytes: self.common.size,
            via: Via::Http,
            lines,
        }
    }
}
