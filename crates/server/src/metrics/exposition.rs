//! All metrics in the Prometheus text format; what each means is in docs/monitoring.md. Must not count anything.

use std::sync::atomic::Ordering;

use tidewire_core::Code;

use super::histogram::seconds;
use super::page::Page;
use super::{Counter, LIMITS, QUEUES, SLOW, ShardCounters, TRANSPORTS, Transport, process};
use crate::access::Access;
use crate::access::callback::Callback;
use crate::backplane::Backplane;
use crate::clock::wall_clock;
use crate::hub::{Hub, Keeper};
use crate::listener::REFUSALS;
use crate::server::Gauges;

/// Those who count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources<'s> {
    pub(crate) gauges: &'s Gauges,
    pub(crate) hub: &'s Hub,
    pub(crate) access: &'s Access,
}

/// All metrics.
pub(crate) fn exposition(sources: Sources<'_>) -> String {
    let mut page = Page::default();
    connections(&mut page, sources);
    events(&mut page, sources.gauges);
    subscriptions(&mut page, sources.gauges);
    refusals(&mut page, sources.gauges);
    shards(&mut page, sources);
    history(&mut page, sources.hub);
    peers(&mut page, sources.gauges);
    access(&mut page, sources);
    traces(&mut page, sources.gauges);
    certificates(&mut page, sources.gauges);
    page.gauge("tidewire_build_info", "1, and which build this is.").at(
        "version",
        env!("CARGO_PKG_VERSION"),
        1,
    );
    process::write(&mut page, sources.gauges.started);
    page.into_text()
}

fn sum(gauges: &Gauges, of: impl Fn(&ShardCounters) -> &Counter) -> u64 {
    gauges.shards.iter().map(|shard| of(shard).get()).sum()
}

fn connections(page: &mut Page, Sources { gauges, .. }: Sources<'_>) {
    let mut family = page.gauge("tidewire_connections", "Open connections by what they are at the moment.");
    for (transport, name) in TRANSPORTS {
        family.at("transport", name, sum(gauges, |shard| &shard.connections[transport as usize]));
    }
    page.gauge("tidewire_connections_limit", "The most connections at a time.").is(gauges.connections_max);
    page.counter("tidewire_connections_opened_total", "Connections accepted.")
        .is(sum(gauges, |shard| &shard.opened));
    let mut family =
        page.counter("tidewire_connections_refused_total", "Connections refused as soon as they came.");
    for (reason, name) in REFUSALS.iter().enumerate() {
        family.at("reason", name, gauges.refused[reason].load(Ordering::Relaxed));
    }
    let silent = sum(gauges, |shard| &shard.silent);
    page.counter("tidewire_silent_peers_total", "WebSockets closed without a sign of life.").is(silent);
}

fn events(page: &mut Page, gauges: &Gauges) {
    let requests = sum(gauges, |shard| &shard.requests);
    page.counter("tidewire_requests_total", "HTTP requests, upgrades included.").is(requests);
    let published = sum(gauges, |shard| &shard.published);
    page.counter("tidewire_events_published_total", "Events accepted from clients.").is(published);
    let repeated = sum(gauges, |shard| &shard.repeated);
    page.counter("tidewire_events_repeated_total", "Publishes that were a retry of an event that was there.")
        .is(repeated);
    let mut family = page.counter("tidewire_events_delivered_total", "Events handed to sockets.");
    for (transport, name) in TRANSPORTS {
        family.at("transport", name, sum(gauges, |shard| &shard.delivered[transport as usize]));
    }
    let read = sum(gauges, |shard| &shard.read_bytes);
    page.counter("tidewire_read_bytes_total", "Bytes taken from sockets.").is(read);
    let written = sum(gauges, |shard| &shard.written_bytes);
    page.counter("tidewire_written_bytes_total", "Bytes handed to sockets.").is(written);
    page.histogram(
        "tidewire_delivery_seconds",
        "From when a batch's oldest event was accepted to when the batch was handed to all caught-up sockets of a shard.",
        gauges.shards.iter().map(|shard| &shard.delivery),
    );
}

fn subscriptions(page: &mut Page, gauges: &Gauges) {
    let count = sum(gauges, |shard| &shard.survey.subscriptions);
    page.gauge("tidewire_subscriptions", "Subscriptions of streams and held polls.").is(count);
    let behind = sum(gauges, |shard| &shard.survey.behind);
    page.gauge("tidewire_subscriptions_behind", "Those that have yet to get events that others have.")
        .is(behind);
    let lag = gauges.shards.iter().map(|shard| shard.survey.lag_events.get()).max().unwrap_or(0);
    page.gauge("tidewire_lag_events", "By how many events the furthest of them is behind.").is(lag);
    let gaps = sum(gauges, |shard| &shard.gaps);
    page.counter("tidewire_gaps_total", "Gaps that clients were told of.").is(gaps);
    let mut family = page.counter("tidewire_slow_consumers_total", "Subscribers closed for being behind.");
    for (why, name) in SLOW {
        family.at("reason", name, sum(gauges, |shard| &shard.slow[why as usize]));
    }
}

fn refusals(page: &mut Page, gauges: &Gauges) {
    let mut family =
        page.counter("tidewire_refused_total", "Requests and messages refused, by their error's code.");
    for code in Code::ALL {
        family.at("code", code.as_str(), sum(gauges, |shard| &shard.refused.0[code as usize]));
    }
    let mut family =
        page.counter("tidewire_limited_total", "Requests and messages refused, by the limit they reached.");
    for (place, name) in LIMITS.iter().enumerate() {
        family.at("limit", name, sum(gauges, |shard| &shard.limited[place]));
    }
}

fn shards(page: &mut Page, Sources { gauges, hub, .. }: Sources<'_>) {
    let mut family = page.counter(
        "tidewire_shard_busy_seconds_total",
        "Time in which a shard did not wait for something to do.",
    );
    for (number, shard) in gauges.shards.iter().enumerate() {
        family.at("shard", number, seconds(shard.busy_us.get()));
    }
    let mut family =
        page.gauge("tidewire_shard_connections", "Open connections of a shard, whatever they are.");
    for (number, shard) in gauges.shards.iter().enumerate() {
        family.at("shard", number, shard.connections.iter().map(Counter::get).sum::<u64>());
    }
    let mut family = page.gauge("tidewire_shard_queue", "What waits in a shard, by what for.");
    for (number, (shard, inbox)) in gauges.shards.iter().zip(hub.inboxes()).enumerate() {
        for (queue, name) in QUEUES {
            let length = shard.survey.queues[queue as usize].get();
            family.at_both([("shard", &number), ("queue", &name)], length);
        }
        family.at_both([("shard", &number), ("queue", &"inbox")], inbox.len());
    }
}

fn history(page: &mut Page, hub: &Hub) {
    let (channels, held_bytes) = hub.usage();
    page.gauge("tidewire_channels", "Channels that the server knows.").is(channels);
    page.gauge("tidewire_channels_limit", "The most channels at a time.").is(hub.limits().channels);
    let held = hub.history();
    let kinds = [("memory", &held.memory), ("disk", &held.disk)];
    let mut family =
        page.gauge("tidewire_history_events", "Events retained in channels, by where they are kept.");
    for (name, amount) in kinds {
        family.at("durability", name, amount.events.load(Ordering::Relaxed));
    }
    let mut family =
        page.gauge("tidewire_history_bytes", "Data of the events retained, by where they are kept.");
    for (name, amount) in kinds {
        family.at("durability", name, amount.bytes.load(Ordering::Relaxed));
    }
    page.gauge("tidewire_history_memory_bytes", "Data of events held in memory, also of those on disk.")
        .is(held_bytes);
    page.gauge("tidewire_history_memory_limit_bytes", "The most data of events in memory.")
        .is(hub.limits().history_bytes);
    if let Some(Keeper::Backplane(backplane)) = hub.keeper() {
        return at_backplane(page, backplane);
    }
    let Some(disk) = hub.disk() else { return };
    page.gauge("tidewire_disk_bytes", "Size of the log's files.").is(disk.bytes.load(Ordering::Relaxed));
    page.gauge("tidewire_disk_failed", "1 while the disk takes nothing, else 0.")
        .is(u8::from(disk.failure().is_some()));
    page.gauge("tidewire_disk_waiting_bytes", "Bytes of publishes that wait to be written.")
        .is(disk.commits.bytes());
    page.histogram(
        "tidewire_disk_commit_seconds",
        "How long a commit took, its sync included.",
        std::iter::once(&disk.commits.duration),
    );
}

fn at_backplane(page: &mut Page, backplane: &Backplane) {
    let mut family = page.gauge("tidewire_backplane_away", "1 while this broker is away, else 0.");
    for (server, health) in backplane.health().enumerate() {
        family.at("server", server, u8::from(health.is_away));
    }
    let mut family = page
        .gauge("tidewire_backplane_waiting_bytes", "Bytes of publishes that this broker has yet to answer.");
    for (server, health) in backplane.health().enumerate() {
        family.at("server", server, health.waiting_bytes);
    }
    page.histogram(
        "tidewire_backplane_answer_seconds",
        "How long the brokers took to answer for publishes, those sent as one counted once.",
        backplane.health().map(|health| health.answers),
    );
}

fn peers(page: &mut Page, gauges: &Gauges) {
    let Some(peers) = &gauges.peers else { return };
    page.gauge("tidewire_servers", "Servers of the backplane that this one knows, itself included.")
        .is(peers.others() + 1);
    page.gauge(
        "tidewire_peers_oldest_seconds",
        "Since the one of them was heard that has been silent longest.",
    )
    .is(peers.oldest_ms() as f64 / 1000.0);
    let ways = [("sent", &peers.counts.sent), ("heard", &peers.counts.heard)];
    let mut family = page.counter("tidewire_peers_messages_total", "Messages to and from other servers.");
    for (way, count) in ways {
        family.at("way", way, count.messages.load(Ordering::Relaxed));
    }
    let mut family = page.counter("tidewire_peers_bytes_total", "What they had.");
    for (way, count) in ways {
        family.at("way", way, count.bytes.load(Ordering::Relaxed));
    }
    page.counter(
        "tidewire_peers_asked_total",
        "How often another server was asked for all that it tells of.",
    )
    .is(peers.counts.asked.load(Ordering::Relaxed));
}

fn traces(page: &mut Page, gauges: &Gauges) {
    let Some(tracer) = &gauges.tracer else { return };
    let (counts, read) =
        (&tracer.counts, |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed));
    page.counter("tidewire_trace_spans_exported_total", "Spans that the collector took.")
        .is(read(&counts.exported));
    let mut family = page.counter("tidewire_trace_spans_dropped_total", "Spans that it did not get.");
    family.at("reason", "queue", read(&counts.overflowed));
    family.at("reason", "collector", read(&counts.undelivered));
    page.counter("tidewire_traces_skipped_total", "Publishes not traced, as others were within the second.")
        .is(read(&counts.skipped));
}

fn access(page: &mut Page, Sources { access, gauges, .. }: Sources<'_>) {
    let tokens = access.token_counters();
    let (asked, failed) = access.callback.as_ref().map(Callback::counts).unwrap_or_default();
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    page.counter("tidewire_tokens_verified_total", "Tokens that were taken.").is(read(&tokens.verified));
    page.counter("tidewire_tokens_refused_total", "Tokens that were refused.").is(read(&tokens.refused));
    page.counter("tidewire_key_fetches_total", "Fetches of issuers' keys.").is(read(&tokens.fetches));
    page.counter("tidewire_key_fetch_failures_total", "Those that failed.").is(read(&tokens.fetch_failures));
    page.counter("tidewire_callbacks_total", "Questions to the application.").is(asked);
    page.counter("tidewire_callback_failures_total", "Those without a proper answer.").is(failed);
    page.gauge("tidewire_users", "Users with a stream.").is(access.users.count());
    let members = gauges.members.load(Ordering::Relaxed);
    page.gauge("tidewire_present_members", "Who is present, once for each channel.").is(members);
}

fn certificates(page: &mut Page, gauges: &Gauges) {
    let Some(shown) = &gauges.certificates else { return };
    let left = |ends_at_ms: u64| (ends_at_ms as f64 - wall_clock().0 as f64) / 1000.0;
    let left = if shown.is_there() { shown.ends_at_ms().map(left) } else { Some(0.0) };
    if let Some(seconds) = left {
        page.gauge(
            "tidewire_certificate_expiry_seconds",
            "Until the certificate that TLS clients are shown ends; 0 if there is none.",
        )
        .is(seconds);
    }
    page.counter("tidewire_certificate_changes_total", "Certificates that were taken after the start.")
        .is(shown.changes.load(Ordering::Relaxed));
    page.counter("tidewire_certificate_failures_total", "Certificates that could not be got or read.")
        .is(shown.failures.load(Ordering::Relaxed));
}

/// A scrape finds each connection once, whatever it is.
const _: () = assert!(TRANSPORTS.len() == Transport::WebSocket as usize + 1);
