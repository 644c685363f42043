//! Traces of OpenTelemetry: which publishes are traced, and the spans of those that are. A publish that is not traced
//! costs a look at an `Option`. Must not know how spans leave this process (`export`), nor what they are about.

mod export;
mod otlp;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tidewire_core::Problem;
use tidewire_core::rate::{Bucket, Rate};
use tidewire_core::trace_context::{TraceContext, trace_state};

use crate::access::settings::Secret;
use crate::clock::{Clock, ms_of};

/// Spans that wait to be sent. Beyond: they are dropped, and counted.
const WAITING_MAX: usize = 4096;
const MILLION: u64 = 1_000_000;

/// What is traced, and where spans go.
#[derive(Debug, Clone)]
pub(crate) struct TraceSettings {
    /// The collector's OTLP endpoint over HTTP.
    pub(crate) url: String,
    /// Sent as `Authorization`.
    pub(crate) authorization: Option<Secret>,
    /// Of a million publishes that come without a context, how many are traced.
    pub(crate) per_million: u64,
    pub(crate) per_second: u32,
    /// `service.name`.
    pub(crate) service: String,
    /// Whether contexts count only from those who show who they are.
    pub(crate) wants_identity: bool,
}

/// Decides what is traced, and takes the spans.
#[derive(Debug)]
pub(crate) struct Tracer {
    settings: TraceSettings,
    rate: Option<Rate>,
    clock: Clock,
    spans: SyncSender<Parcel>,
    used: Mutex<Bucket>,
    pub(crate) counts: Counts,
}

/// What became of spans, and of traces that were not to be.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) exported: AtomicU64,
    /// There was no room for more.
    pub(crate) overflowed: AtomicU64,
    /// The collector did not take them.
    pub(crate) undelivered: AtomicU64,
    /// Publishes that were not traced, as there had been too many within the second.
    pub(crate) skipped: AtomicU64,
}

#[derive(Debug)]
enum Parcel {
    Span(Span),
    Stop,
}

/// Something that took its time.
#[derive(Debug)]
struct Span {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    parent: Option<[u8; 8]>,
    state: Option<Arc<str>>,
    name: &'static str,
    kind: Kind,
    /// By the monotonic clock.
    begin_us: u64,
    end_us: u64,
    attributes: Vec<(&'static str, Value)>,
    /// The code of what went wrong.
    error: Option<&'static str>,
}

/// OTLP's `SpanKind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Internal = 1,
    Server = 2,
}

/// What an attribute says.
#[derive(Debug)]
pub(crate) enum Value {
    Text(String),
    Number(u64),
}

/// A publish that is traced; its own span ends with its answer.
#[derive(Debug)]
pub(crate) struct Trace {
    tracer: Arc<Tracer>,
    trace_id: [u8; 16],
    span_id: [u8; 8],
    parent: Option<[u8; 8]>,
    state: Option<Arc<str>>,
    transport: &'static str,
    begin_us: u64,
}

/// What a client says of the trace that it belongs to, unread.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Said<'t> {
    pub(crate) parent: Option<&'t str>,
    pub(crate) state: Option<&'t str>,
}

impl Tracer {
    /// Starts the thread that sends spans.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(crate) fn start(
        settings: &TraceSettings,
        clock: Clock,
    ) -> anyhow::Result<(Arc<Self>, JoinHandle<()>)> {
        let (spans, parcels): (_, Receiver<Parcel>) = sync_channel(WAITING_MAX);
        let tracer = Arc::new(Self {
            settings: settings.clone(),
            rate: Rate::new(settings.per_second, 1000),
            clock,
            spans,
            used: Mutex::default(),
            counts: Counts::default(),
        });
        let exporter = export::Exporter::new(Arc::clone(&tracer), parcels);
        let thread = crate::server::spawn("traces", move || exporter.run())?;
        Ok((tracer, thread))
    }

    /// Sends what there is, and then nothing more.
    pub(crate) fn stop(&self) {
        // The other end is gone only if its thread is.
        let _ = self.spans.send(Parcel::Stop);
    }

    /// Whether a publish is traced: as its context says, or as chance has it.
    pub(crate) fn begin(
        self: &Arc<Self>,
        said: Said<'_>,
        shows_identity: bool,
        transport: &'static str,
    ) -> Option<Arc<Trace>> {
        let believed = shows_identity || !self.settings.wants_identity;
        let parent = said.parent.filter(|_| believed).and_then(TraceContext::parse);
        let wanted = match parent {
            Some(parent) => parent.sampled,
            None => self.settings.per_million > 0 && fastrand::u64(..MILLION) < self.settings.per_million,
        };
        if !wanted {
            return None;
        }
        let begin_us = self.clock.now_us();
        let room = self.rate.is_none_or(|rate| {
            let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            used.take(ms_of(begin_us), 1, rate).is_ok()
        });
        if !room {
            self.counts.skipped.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Arc::new(Trace {
            tracer: Arc::clone(self),
            trace_id: parent.map_or_else(|| fastrand::u128(1..).to_be_bytes(), |parent| parent.trace_id),
            span_id: new_span_id(),
            parent: parent.map(|parent| parent.span_id),
            // A state says something of its parent only.
            state: parent.and(said.state).and_then(trace_state).map(Arc::from),
            transport,
            begin_us,
        }))
    }

    fn take(&self, span: Span) {
        if let Err(TrySendError::Full(_)) = self.spans.try_send(Parcel::Span(span)) {
            self.counts.overflowed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Trace {
    /// The time by the clock of spans.
    pub(crate) fn now_us(&self) -> u64 {
        self.tracer.clock.now_us()
    }

    /// A part of it that began at `begin_us` is over.
    pub(crate) fn add_part(&self, name: &'static str, begin_us: u64, attributes: Vec<(&'static str, Value)>) {
        self.tracer.take(Span {
            trace_id: self.trace_id,
            span_id: new_span_id(),
            parent: Some(self.span_id),
            state: self.state.clone(),
            name,
            kind: Kind::Internal,
            begin_us,
            end_us: self.now_us(),
            attributes,
            error: None,
        });
    }

    /// The publish is answered: with an event's id and whether it was there already, or a problem.
    pub(crate) fn end_publish(&self, channel: &str, outcome: Result<(String, bool), &Problem>) {
        let mut attributes = vec![
            ("messaging.system", Value::Text("tidewire".to_owned())),
            ("messaging.operation.name", Value::Text("publish".to_owned())),
            ("messaging.operation.type", Value::Text("send".to_owned())),
            ("messaging.destination.name", Value::Text(channel.to_owned())),
            ("network.protocol.name", Value::Text(self.transport.to_owned())),
        ];
        let error = match outcome {
            Ok((id, is_duplicate)) => {
                attributes.push(("messaging.message.id", Value::Text(id)));
                attributes.push(("tidewire.duplicate", Value::Text(is_duplicate.to_string())));
                None
            }
            Err(problem) => {
                attributes.push(("error.type", Value::Text(problem.code.as_str().to_owned())));
                Some(problem.code.as_str())
            }
        };
        self.tracer.take(Span {
            trace_id: self.trace_id,
            span_id: self.span_id,
            parent: self.parent,
            state: self.state.clone(),
            name: "publish",
            kind: Kind::Server,
            begin_us: self.begin_us,
            end_us: self.now_us(),
            attributes,
            error,
        });
    }
}

fn new_span_id() -> [u8; 8] {
    fastrand::u64(1..).to_be_bytes()
}
