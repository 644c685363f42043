//! The options outside of access: what each is, its default, cost and danger. This is the one place that says so;
//! the reference page is made of it. Must not know how options are read or what they do.

mod access;
mod tls;

use tidewire_core::limits::Limits;

use super::definition::{Entry, Kind, Section, Standard, options};
use super::forms::Form;
pub(super) use access::{ALGORITHMS, ALLOWED, FORWARDED_BY};

/// For what only the format bounds (TOML has no larger integers).
const ANY: u64 = i64::MAX as u64;
/// The most seconds of which the milliseconds can still be counted.
const SECONDS: u64 = ANY / 1000;

/// The choices where events are kept.
pub(super) const DURABILITY: &[&str] = &["disk", "memory", "none", "backplane"];
/// The choices what a channel's state is.
pub(super) const STATE: &[&str] = &["none", "last", "keyed"];
/// The choices of what is logged.
pub(super) const LOG_LEVEL: &[&str] = &["off", "error", "warn", "info", "debug"];

/// `tidewire.toml`.
pub(super) const ROOT: Section = Section {
    name: "",
    many: false,
    needs: &[],
    text: "",
    options: options! {
        /// The address and port to listen on. Beyond this machine it is only taken where authentication is
        /// configured, or with `--insecure`.
        /// Danger: whoever reaches the address reaches the server; there is no TLS on it, so tokens can be read on
        /// the way unless a proxy in front ends it; see `[tls]`.
        listen: Kind::Text(Form::Address), Standard::Text("127.0.0.1:8080");
        /// Whether to serve the demo page at `/`, and publish this machine's figures on the channel `host`, which
        /// is then in memory.
        /// Cost: a page of memory, and one event a second.
        /// Danger: whoever may subscribe to `host` sees this machine's load.
        demo: Kind::Truth, Standard::Truth(true);
        /// The directory of the log on disk; made if it is not there. `--memory` keeps no log on disk at all.
        data: Kind::Text(Form::Path), Standard::Text("tidewire-data");
        /// The broker that several servers share, so that all have the same channels with the same ids: a Redis, as
        /// `redis://[USER:PASSWORD@]HOST:PORT[/DATABASE][?prefix=PREFIX]`, a NATS with JetStream, as
        /// `nats://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...][?replicas=1..5&prefix=PREFIX]`, a Kafka, as
        /// `kafka://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...][?replicas=N&prefix=PREFIX]`, or several with commas
        /// between them, each with a part of the channels. A password is sent, and never shown; in the environment it
        /// is not in a file.
        /// Cost: each event makes a round trip to the broker before it is acknowledged.
        /// Danger: what the broker loses is lost; see docs/scaling.md for its settings. Whoever reaches it reads and
        /// writes all channels.
        backplane: Kind::Text(Form::Brokers), Standard::Words("not set: this server is alone");
        /// Where events are kept. `disk`: acknowledged and delivered once they are synced; `memory`: gone with the
        /// process; `none`: delivered to those who are there, and never replayed; `backplane`: acknowledged and
        /// delivered once the broker has them. With a `backplane`, only the last two can be.
        /// Cost: `disk` adds the time of one sync to each event, shared by all that wait for it.
        /// Danger: `memory` and `none` lose acknowledged events when the process ends.
        durability: Kind::Choice(DURABILITY), Standard::Words("`disk`; `memory` with `--memory`; `backplane` with one");
        /// What a channel's snapshot shows: the `last` event, `keyed` (the latest of each key, which outlives the
        /// log's retention), or `none`.
        /// Cost: `keyed` holds up to `limits.state_bytes` for each channel.
        state: Kind::Choice(STATE), Standard::Text("last");
        /// How many threads serve connections.
        /// Cost: more than there are cores take time from each other.
        shards: Kind::Number { least: 1, most: 1024 }, Standard::Words("one for each core");
        /// Whether another server may listen on the same ports (`SO_REUSEPORT`), so that a new one can take over
        /// before the old one drains. A log on disk is still one server's at a time.
        /// Danger: a server that is started twice by mistake gets half of the connections.
        reuse_port: Kind::Truth, Standard::Truth(false);
        /// Whether HTTP/2 is spoken on `listen` to clients that begin with it ("h2c", with prior knowledge). Over TLS
        /// it is offered always.
        h2c: Kind::Truth, Standard::Truth(false);
        /// The web pages that may use this server with a browser's cookies or tokens: scheme, host and port are
        /// compared exactly; `https://*.example.com` is any host below it, `null` what has no origin (files,
        /// sandboxed frames), `*` all, without cookies. The server's own
        /// pages always may where it was asked for by address or as `localhost`; any other name can be made to point
        /// here by whoever owns it.
        /// Danger: a page that is allowed acts with the rights of whoever looks at it; `*` and `null` allow
        /// everybody's pages, and a wildcard all that anybody may host below it.
        origins: Kind::Texts { form: Form::Origin, most: 1000 }, Standard::Texts(&[]);
    },
    sections: &[
        HISTORY,
        CHANNELS,
        access::RIGHTS,
        access::AUTH,
        access::CALLBACK,
        access::PROXIES,
        access::ADMIN,
        tls::TLS,
        LIMITS,
        LOG,
        TRACES,
    ],
};

const HISTORY: Section = Section {
    name: "history",
    many: false,
    needs: &[],
    text: "How much of each channel is kept; the oldest events are dropped when any bound is passed.",
    options: options! {
        /// The most events of a channel.
        /// Cost: their data, and in memory some 600 bytes more for each.
        events: Kind::Number { least: 1, most: ANY }, Standard::Number(10_000);
        /// The most bytes of a channel's events; at least `limits.event_bytes`.
        /// Cost: this much memory or disk for each channel that is full; see `limits.history_bytes`.
        bytes: Kind::Number { least: 1, most: ANY },
            Standard::Words("8388608, or `limits.event_bytes` if that is more");
        /// The oldest age of an event.
        /// Danger: who is away for longer misses events, and is told of the gap.
        age_seconds: Kind::Number { least: 1, most: SECONDS }, Standard::Number(3_600);
        /// How long an `Idempotency-Key` is remembered.
        /// Cost: some 100 bytes for each key.
        /// Danger: a publisher that tries again later publishes twice.
        idempotency_seconds: Kind::Number { least: 0, most: SECONDS }, Standard::Number(86_400);
        /// How many keys of a channel are remembered at the most: each is forgotten after so many more events.
        /// Cost: some 100 bytes for each key, in memory or on disk as the log is.
        /// Danger: on a channel with more events than that within `idempotency_seconds`, this is the shorter time.
        idempotency_keys: Kind::Number { least: 0, most: ANY },
            Standard::Words("10000, or 1000000 where the log is on disk");
    },
    sections: &[],
};

const CHANNELS: Section = Section {
    name: "channels",
    many: true,
    needs: &["pattern"],
    text: "What holds for channels of a pattern. The first that fits decides alone, so write special ones before \
           general ones; what it leaves out is as `[history]`, `[rights]` and the options above say. \
           `[channels.history]` (or `history.events = …`) takes the options of `[history]`, `[channels.rights]` those \
           of `[rights]`.",
    options: options! {
        /// Which channels: a name (`chat:1`), or the beginning of one with `*` at its end (`chat:*`). One segment may
        /// be `{sub}`, which stands for the user to whom the channel belongs (`user:{sub}:*`).
        pattern: Kind::Text(Form::Pattern), Standard::Words("none: each rule needs one");
        /// Where events of these channels are kept.
        durability: Kind::Choice(DURABILITY), Standard::Words("as `durability` above");
        /// What the snapshots of these channels show.
        state: Kind::Choice(STATE), Standard::Words("as `state` above");
        /// The file of a JSON Schema (draft 2020-12) that the data of each published event must fit.
        /// Cost: each event is parsed and checked before anything else.
        /// Danger: what was published before is not checked again.
        schema: Kind::Text(Form::Path), Standard::Words("not set: any data");
    },
    sections: &[HISTORY, access::RIGHTS],
};

const LIMITS: Section = Section {
    name: "limits",
    many: false,
    needs: &[],
    text: "Every bound, with what happens beyond it.",
    options: &BOUNDS,
    sections: &[],
};

const BOUNDS: [Entry; Limits::ALL.len()] = {
    let mut entries = [Entry::of_bound(&Limits::ALL[0]); Limits::ALL.len()];
    let mut at = 1;
    while at < entries.len() {
        entries[at] = Entry::of_bound(&Limits::ALL[at]);
        at += 1;
    }
    entries
};

const LOG: Section = Section {
    name: "log",
    many: false,
    needs: &[],
    text: "What is written to standard error. Bodies, tokens, tickets, cookies and query strings never are.",
    options: options! {
        /// What is worth a line; each level has those before it too. `info` has the steps of each connection's life.
        /// Cost: `info` writes some lines for each connection, `debug` more.
        level: Kind::Choice(LOG_LEVEL), Standard::Text("info");
        /// `human`, or `json` for one JSON object a line.
        format: Kind::Choice(&["human", "json"]), Standard::Text("human");
    },
    sections: &[],
};

const TRACES: Section = Section {
    name: "traces",
    many: false,
    needs: &["endpoint"],
    text: "Traces of publishes for OpenTelemetry: when each was taken, when it was on disk, and how long each shard \
           took to hand it to its subscribers. A publish with a W3C `traceparent` is traced if that says so.",
    options: options! {
        /// The collector's OTLP endpoint over HTTP, such as `http://127.0.0.1:4318`; `/v1/traces` is added to it.
        endpoint: Kind::Text(Form::Url), Standard::Words("not set: nothing is traced");
        /// The file with what is sent to the collector as `Authorization`, such as `Bearer …`. White space around it
        /// is not part of it.
        authorization_file: Kind::Text(Form::Path), Standard::Words("not set: nothing is sent");
        /// Of a million publishes without a `traceparent`, how many are traced.
        per_million: Kind::Number { least: 0, most: 1_000_000 }, Standard::Number(0);
        /// How many publishes are traced within a second at the most; those beyond are not, and are counted.
        /// Cost: some 10 µs for each.
        per_second: Kind::Number { least: 1, most: 100_000 }, Standard::Number(100);
        /// The name of this service in traces.
        service: Kind::Text(Form::Words), Standard::Text("tidewire");
    },
    sections: &[],
};
