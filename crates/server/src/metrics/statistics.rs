//! What is counted as one JSON value: how it stands, and what became of it in the time since the last one. It must say
//! the same as the exposition. Must not know who reads it.

use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Map, Value, json};
use tidewire_core::Code;

use super::histogram::Total;
use super::process::{self, Taken};
use super::{Counter, LIMITS, QUEUES, SLOW, ShardCounters, Sources, TRANSPORTS};
use crate::clock::wall_clock;
use crate::listener::REFUSALS;

/// What was seen last time, to tell rates from.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    at_us: u64,
    totals: Vec<u64>,
    busy_us: Vec<u64>,
    delivery: Total,
    cpu_us: u64,
}

/// All that is counted, at `now_us`; `seen` is what it was before, and becomes what it is now.
pub(crate) fn statistics(sources: Sources<'_>, now_us: u64, seen: &mut Seen) -> Map<String, Value> {
    let Sources { gauges, hub, access } = sources;
    let sum = |of: &dyn Fn(&ShardCounters) -> &Counter| -> u64 {
        gauges.shards.iter().map(|shard| of(shard).get()).sum()
    };
    let delivered: Map<String, Value> = TRANSPORTS
        .iter()
        .map(|(transport, name)| {
            ((*name).to_owned(), sum(&|shard| &shard.delivered[*transport as usize]).into())
        })
        .collect();
    let refused: Map<String, Value> = Code::ALL
        .iter()
        .map(|code| (code.as_str().to_owned(), sum(&|shard| &shard.refused.0[*code as usize])))
        .filter(|(_, count)| *count > 0)
        .map(|(code, count)| (code, count.into()))
        .collect();
    let limited: Map<String, Value> = (0..LIMITS.len())
        .map(|place| (LIMITS[place].to_owned(), sum(&|shard| &shard.limited[place])))
        .filter(|(_, count)| *count > 0)
        .map(|(limit, count)| (limit, count.into()))
        .collect();
    let slow: Map<String, Value> = SLOW
        .iter()
        .map(|(why, name)| ((*name).to_owned(), sum(&|shard| &shard.slow[*why as usize]).into()))
        .collect();
    let all = |map: &Map<String, Value>| map.values().filter_map(Value::as_u64).sum::<u64>();
    let totals = [
        ("published", sum(&|shard| &shard.published)),
        ("repeated", sum(&|shard| &shard.repeated)),
        ("delivered", all(&delivered)),
        ("requests", sum(&|shard| &shard.requests)),
        ("opened", sum(&|shard| &shard.opened)),
        ("read_bytes", sum(&|shard| &shard.read_bytes)),
        ("written_bytes", sum(&|shard| &shard.written_bytes)),
        ("gaps", sum(&|shard| &shard.gaps)),
        ("slow", all(&slow)),
        ("refused", all(&refused)),
        ("silent", sum(&|shard| &shard.silent)),
    ];
    let mut delivery = Total::default();
    gauges.shards.iter().for_each(|shard| delivery.add(&shard.delivery));
    let busy_us: Vec<u64> = gauges.shards.iter().map(|shard| shard.busy_us.get()).collect();
    let taken = process::taken();
    let seconds = now_us.saturating_sub(seen.at_us) as f64 / 1e6;
    let is_first = seen.totals.is_empty();
    let per_second = |now: u64, before: u64| (now.saturating_sub(before)) as f64 / seconds.max(0.001);
    let rates: Map<String, Value> = totals
        .iter()
        .zip(&seen.totals)
        .map(|((name, now), before)| ((*name).to_owned(), per_second(*now, *before).into()))
        .collect();
    let lately = delivery.since(&seen.delivery);
    let shards = shards(sources, &busy_us, seen, seconds);
    let cpu = taken.cpu_us.filter(|_| !is_first).map(|cpu_us| per_second(cpu_us, seen.cpu_us) / 1e6);
    let quantile = |percent| lately.quantile_ms(percent).filter(|_| !is_first);
    let (channels, held_bytes) = hub.usage();
    let held = hub.history();
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| out.insert(name.to_owned(), value);
    put("interval_ms", if is_first { Value::Null } else { ((seconds * 1000.0) as u64).into() });
    put("server", server(sources, taken, cpu));
    put("connections", connections(sources));
    put("users", access.users.count().into());
    put("subscriptions", sum(&|shard| &shard.survey.subscriptions).into());
    put("behind", sum(&|shard| &shard.survey.behind).into());
    let lag = gauges.shards.iter().map(|shard| shard.survey.lag_events.get()).max().unwrap_or(0);
    put("lag_events", lag.into());
    let plain: Map<String, Value> =
        totals.iter().map(|(name, count)| ((*name).to_owned(), (*count).into())).collect();
    put("totals", plain.into());
    put("rates", if is_first { Value::Null } else { rates.into() });
    put("delivered_by_transport", delivered.into());
    put("refused_by_code", refused.into());
    put("limited_by", limited.into());
    put("slow_by_reason", slow.into());
    put(
        "delivery",
        json!({
            "batches": delivery.count(),
            "p50_ms": quantile(50),
            "p95_ms": quantile(95),
            "p99_ms": quantile(99),
        }),
    );
    put("shards", shards);
    put(
        "history",
        json!({
            "channels": channels,
            "channels_limit": hub.limits().channels,
            "events": held.memory.events.load(Relaxed) + held.disk.events.load(Relaxed),
            "bytes": held.memory.bytes.load(Relaxed) + held.disk.bytes.load(Relaxed),
            "memory_bytes": held_bytes,
            "memory_limit_bytes": hub.limits().history_bytes,
            "disk_bytes": hub.disk().map(|disk| disk.bytes.load(Relaxed)),
            "disk_failed": hub.disk().map(|disk| disk.failure().is_some()),
        }),
    );
    *seen = Seen {
        at_us: now_us,
        totals: totals.iter().map(|(_, count)| *count).collect(),
        busy_us,
        delivery,
        cpu_us: taken.cpu_us.unwrap_or(0),
    };
    out
}

fn server(Sources { gauges, .. }: Sources<'_>, taken: Taken, cpu: Option<f64>) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "started": gauges.started.to_string(),
        "uptime_seconds": wall_clock().0.saturating_sub(gauges.started.0) / 1000,
        "connections": gauges.connections.load(Relaxed),
        "draining": gauges.drain.is_asked(),
        "cpu": cpu,
        "memory_bytes": taken.resident_bytes,
        "open_fds": taken.open_fds,
        "max_fds": taken.max_fds,
    })
}

fn connections(Sources { gauges, .. }: Sources<'_>) -> Value {
    let mut all = Map::new();
    for (transport, name) in TRANSPORTS {
        let count: u64 = gauges.shards.iter().map(|shard| shard.connections[transport as usize].get()).sum();
        all.insert(name.to_owned(), count.into());
    }
    let refused: Map<String, Value> = REFUSALS
        .iter()
        .zip(&gauges.refused)
        .map(|(name, count)| ((*name).to_owned(), count.load(Relaxed).into()))
        .collect();
    all.insert("limit".to_owned(), gauges.connections_max.into());
    all.insert("refused".to_owned(), refused.into());
    Value::Object(all)
}

fn shards(Sources { gauges, hub, .. }: Sources<'_>, busy_us: &[u64], seen: &Seen, seconds: f64) -> Value {
    let one = |(number, (shard, inbox)): (usize, (&std::sync::Arc<ShardCounters>, _))| {
        let inbox: &std::sync::Arc<crate::shard::Inbox> = inbox;
        let mut queues: Map<String, Value> = QUEUES
            .iter()
            .map(|(queue, name)| ((*name).to_owned(), shard.survey.queues[*queue as usize].get().into()))
            .collect();
        queues.insert("inbox".to_owned(), inbox.len().into());
        let busy = seen.busy_us.get(number).map(|before| {
            let used = busy_us[number].saturating_sub(*before) as f64 / 1e6 / seconds.max(0.001);
            used.min(1.0)
        });
        json!({
            "busy": busy,
            "connections": shard.connections.iter().map(Counter::get).sum::<u64>(),
            "queues": queues,
        })
    };
    Value::Array(gauges.shards.iter().zip(hub.inboxes()).enumerate().map(one).collect())
}
