//! What a server says of itself to those that share its backplane, in a few words. It must say the same as the
//! statistics. Must not know who reads it.

use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Counter, ShardCounters, Sources, process};
use crate::clock::wall_clock;
use crate::hub::Keeper;

/// How a server stands. What one of another version does not say is taken for nothing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Brief {
    /// Its host and port.
    pub(crate) name: Box<str>,
    pub(crate) version: Box<str>,
    pub(crate) started: Box<str>,
    pub(crate) uptime_seconds: u64,
    pub(crate) draining: bool,
    pub(crate) backplane_away: bool,
    pub(crate) connections: usize,
    pub(crate) published: u64,
    pub(crate) delivered: u64,
    /// Since the time before; none the first time.
    pub(crate) published_per_second: Option<f64>,
    pub(crate) delivered_per_second: Option<f64>,
    /// How many cores it uses.
    pub(crate) cpu: Option<f64>,
    pub(crate) memory_bytes: Option<u64>,
}

/// What was seen the time before, to tell rates from.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Glance {
    at_us: u64,
    published: u64,
    delivered: u64,
    cpu_us: u64,
}

/// How this server stands at `now_us`; `before` becomes what is seen now.
pub(crate) fn brief(sources: Sources<'_>, now_us: u64, before: &mut Glance) -> Brief {
    let Sources { gauges, hub, .. } = sources;
    let sum = |of: &dyn Fn(&ShardCounters) -> u64| gauges.shards.iter().map(|shard| of(shard)).sum::<u64>();
    let published = sum(&|shard| shard.published.get());
    let delivered = sum(&|shard| shard.delivered.iter().map(Counter::get).sum());
    let (cpu_us, memory_bytes) = process::cpu_and_memory();
    let seconds = now_us.saturating_sub(before.at_us) as f64 / 1e6;
    let rate = |now: u64, then: u64| {
        (before.at_us > 0 && seconds > 0.0).then(|| now.saturating_sub(then) as f64 / seconds)
    };
    let is_away = match hub.keeper() {
        Some(Keeper::Backplane(backplane)) => backplane.health().any(|health| health.is_away),
        _ => false,
    };
    let shown = Brief {
        name: gauges.name.as_str().into(),
        version: env!("CARGO_PKG_VERSION").into(),
        started: gauges.started.to_string().into(),
        uptime_seconds: wall_clock().0.saturating_sub(gauges.started.0) / 1000,
        draining: gauges.drain.is_asked(),
        backplane_away: is_away,
        connections: gauges.connections.load(Relaxed),
        published,
        delivered,
        published_per_second: rate(published, before.published),
        delivered_per_second: rate(delivered, before.delivered),
        cpu: cpu_us.and_then(|cpu_us| rate(cpu_us, before.cpu_us)).map(|us| us / 1e6),
        memory_bytes,
    };
    *before = Glance { at_us: now_us, published, delivered, cpu_us: cpu_us.unwrap_or(0) };
    shown
}

/// All servers together.
pub(crate) fn together<'b>(briefs: impl Iterator<Item = &'b Brief> + Clone) -> Value {
    let count = |of: &dyn Fn(&Brief) -> u64| briefs.clone().map(of).sum::<u64>();
    let rate = |of: &dyn Fn(&Brief) -> Option<f64>| briefs.clone().filter_map(of).sum::<f64>();
    json!({
        "servers": briefs.clone().count(),
        "draining": count(&|brief| u64::from(brief.draining)),
        "connections": count(&|brief| brief.connections as u64),
        "published": count(&|brief| brief.published),
        "delivered": count(&|brief| brief.delivered),
        "published_per_second": rate(&|brief| brief.published_per_second),
        "delivered_per_second": rate(&|brief| brief.delivered_per_second),
        "cpu": rate(&|brief| brief.cpu),
        "memory_bytes": count(&|brief| brief.memory_bytes.unwrap_or(0)),
    })
}
