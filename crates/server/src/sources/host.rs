//! This machine's load, memory and network figures, every second, on the channel `host`.
//! Must not know who listens.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Serialize;
use sysinfo::{Networks, System};
use tidewire_core::{ChannelName, NewEvent, Payload};

use crate::clock::wall_clock;
use crate::hub::Hub;
use crate::server::every;

const INTERVAL: Duration = Duration::from_secs(1);
const CHANNEL: &str = "host";
const EVENT_NAME: &str = "sample";

#[derive(Debug, Serialize)]
struct Sample {
    /// When it was sent, in milliseconds since 1970 with a fraction: finer than the event's own time.
    sent_ms: f64,
    host: String,
    cpus: usize,
    /// The load averages over 1, 5 and 15 minutes.
    load: [f64; 3],
    cpu_percent: f32,
    memory: Memory,
    network: Network,
}

#[derive(Debug, Serialize)]
struct Memory {
    used_bytes: u64,
    total_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Network {
    received_bytes_per_second: u64,
    sent_bytes_per_second: u64,
}

pub(crate) fn start(hub: Arc<Hub>, stopping: Arc<AtomicBool>) -> anyhow::Result<JoinHandle<()>> {
    let channel = ChannelName::new(CHANNEL)?;
    let mut probe = Probe {
        system: System::new()?,
        networks: Networks::new_with_refreshed_list()?,
        last: Instant::now(),
    };
    every("host-figures", INTERVAL, stopping, move || {
        let published =
            probe.event().and_then(|event| Ok(hub.publish(&channel, event, wall_clock(), None, || None)?));
        if let Err(error) = published {
            eprintln!("tidewire: this machine's figures could not be published: {error:#}");
        }
    })
}

struct Probe {
    system: System,
    networks: Networks,
    last: Instant,
}

impl Probe {
    fn event(&mut self) -> anyhow::Result<NewEvent> {
        self.system.refresh_cpu_usage();
        self.system.refresh_memory();
        self.networks.refresh(true);
        let seconds = self.last.elapsed().as_secs_f64().max(0.001);
        self.last = Instant::now();
        let per_second = |bytes: u64| (bytes as f64 / seconds) as u64;
        let load = System::load_average()?;
        let sample = Sample {
            sent_ms: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() * 1000.0,
            host: System::host_name()?,
            cpus: self.system.cpus().len(),
            load: [load.one, load.five, load.fifteen],
            cpu_percent: self.system.global_cpu_usage(),
            memory: Memory { used_bytes: self.system.used_memory(), total_bytes: self.system.total_memory() },
            network: Network {
                received_bytes_per_second: per_second(self.networks.values().map(|n| n.received()).sum()),
                sent_bytes_per_second: per_second(self.networks.values().map(|n| n.transmitted()).sum()),
            },
        };
        let payload = Payload::declared(Some("application/json"), Bytes::from(serde_json::to_vec(&sample)?))?;
        Ok(NewEvent::new(payload).with(Some(EVENT_NAME), None, None)?)
    }
}
