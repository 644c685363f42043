//! Sends spans to the collector, in batches, on a thread of its own. What it does not take in time is dropped and
//! counted: a collector that is away harms nobody. Must not know what spans are about.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use ureq::Agent;

use super::otlp::{self, Resource};
use super::{Parcel, Span, Tracer};
use crate::clock::wall_clock;

/// The most spans in one request.
const BATCH_SPANS: usize = 512;
/// How long the first span of a batch waits for others.
const BATCH_FOR: Duration = Duration::from_millis(1000);
/// How long the collector may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How often a batch is sent at the most.
const ATTEMPTS: u32 = 3;
/// The pause before the second attempt; it doubles.
const PAUSE_MS: u64 = 500;

pub(super) struct Exporter {
    tracer: Arc<Tracer>,
    parcels: Receiver<Parcel>,
    agent: Agent,
    url: String,
    resource: Resource,
    /// The collector did not take the last batch; said once.
    is_failing: bool,
    is_stopping: bool,
}

/// Why a batch was not taken.
enum Failure {
    /// It may be later.
    Now(String),
    /// It would not be.
    Ever(String),
}

impl Exporter {
    pub(super) fn new(tracer: Arc<Tracer>, parcels: Receiver<Parcel>) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .tls_config(crate::trust::of_the_machine())
            .max_redirects(0)
            .timeout_global(Some(ANSWER_WITHIN))
            .user_agent(concat!("tidewire/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        let settings = &tracer.settings;
        let url = format!("{}/v1/traces", settings.url.trim_end_matches('/'));
        let instance = format!("{:032x}", fastrand::u128(..));
        let resource = Resource { service: settings.service.clone(), instance };
        Self { agent, url, resource, tracer, parcels, is_failing: false, is_stopping: false }
    }

    pub(super) fn run(mut self) {
        let mut batch = Vec::new();
        while !self.is_stopping {
            self.gather(&mut batch);
            self.send(&batch);
            batch.clear();
        }
    }

    /// Waits for a span, and a little for others.
    fn gather(&mut self, batch: &mut Vec<Span>) {
        let clock = self.tracer.clock;
        let mut until_us = None;
        while batch.len() < BATCH_SPANS {
            let patience = match until_us {
                None => Duration::MAX,
                Some(until_us) => Duration::from_micros(u64::saturating_sub(until_us, clock.now_us())),
            };
            match self.parcels.recv_timeout(patience) {
                Ok(Parcel::Span(span)) => {
                    until_us.get_or_insert_with(|| clock.now_us() + BATCH_FOR.as_micros() as u64);
                    batch.push(span);
                }
                Ok(Parcel::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.is_stopping = true;
                    return;
                }
                Err(RecvTimeoutError::Timeout) => return,
            }
        }
    }

    fn send(&mut self, batch: &[Span]) {
        if batch.is_empty() {
            return;
        }
        let ahead_us = (wall_clock().0 * 1000).saturating_sub(self.tracer.clock.now_us());
        let body = otlp::request(&self.resource, batch, ahead_us);
        // At the end there is no time to wait for better times.
        let attempts = if self.is_stopping { 1 } else { ATTEMPTS };
        let counts = &self.tracer.counts;
        for attempt in 1..=attempts {
            match self.post(&body) {
                Ok(()) => {
                    counts.exported.fetch_add(batch.len() as u64, Ordering::Relaxed);
                    self.is_failing = false;
                    return;
                }
                Err(Failure::Now(_)) if attempt < attempts => {
                    let pause_ms = PAUSE_MS << (attempt - 1);
                    std::thread::sleep(Duration::from_millis(pause_ms / 2 + fastrand::u64(..=pause_ms / 2)));
                }
                Err(Failure::Now(why) | Failure::Ever(why)) => {
                    counts.undelivered.fetch_add(batch.len() as u64, Ordering::Relaxed);
                    if !std::mem::replace(&mut self.is_failing, true) {
                        tracing::warn!(reason = why, "the collector does not take traces; they are dropped");
                    }
                    return;
                }
            }
        }
    }

    fn post(&self, body: &[u8]) -> Result<(), Failure> {
        let mut request = self.agent.post(&self.url).content_type("application/json");
        if let Some(secret) = &self.tracer.settings.authorization {
            request = request.header("authorization", &*secret.0);
        }
        let answer = request.send(body).map_err(|error| Failure::Now(said(&error)))?;
        match answer.status().as_u16() {
            200..300 => Ok(()),
            status @ (429 | 502..=504) => Err(Failure::Now(format!("status {status}"))),
            status => Err(Failure::Ever(format!("status {status}"))),
        }
    }
}

/// Without the URL, in which there may be a secret.
fn said(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => "no answer in time",
        _ => "no connection, or it broke",
    }
    .to_owned()
}
