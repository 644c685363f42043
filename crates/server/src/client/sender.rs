//! Publishes one event, over HTTP where that can carry it, with as many attempts as the time for it allows.
//! Must not know where events come from: a command line, a line of text or an export.

use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tidewire_core::event::Kind;
use ureq::Agent;

use super::backoff::Backoff;
use super::endpoint::Endpoint;
use super::report::Reporter;
use super::transport::Interruption;
use super::{http, socket_sender};

/// The first wait before another attempt is at most this.
const BACKOFF_BASE: Duration = Duration::from_millis(100);

/// No wait before another attempt is longer, unless the server asks for it.
const BACKOFF_CAP: Duration = Duration::from_secs(5);

/// The bounds of one attempt: it ends with the time for all attempts, but is given a fair chance.
const ATTEMPT_MIN: Duration = Duration::from_secs(5);
const ATTEMPT_MAX: Duration = Duration::from_secs(30);

/// Makes an attempt again and again while its failures may pass, for `retry_for` at most. Each attempt is
/// told how long it may take.
pub(super) fn retried<T>(
    retry_for: Duration,
    reporter: Reporter,
    mut attempt: impl FnMut(Duration) -> Result<T, Interruption>,
) -> Result<T, String> {
    let mut backoff = Backoff::new(BACKOFF_BASE, BACKOFF_CAP);
    let deadline = Instant::now() + retry_for;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let (reason, after) = match attempt(left.clamp(ATTEMPT_MIN, ATTEMPT_MAX)) {
            Ok(done) => return Ok(done),
            Err(Interruption::Refused(message)) => return Err(message),
            Err(Interruption::Lost { reason, after }) => (reason, after),
        };
        let wait = backoff.next(after, fastrand::f64());
        let left = deadline.saturating_duration_since(Instant::now());
        if wait >= left {
            return Err(format!("{reason}; given up after {} s", retry_for.as_secs()));
        }
        reporter.say(&format!("{reason}; next attempt in {:.1} s", wait.as_secs_f64()));
        thread::sleep(wait);
    }
}

/// An event to publish.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outgoing<'a> {
    pub(super) data: &'a [u8],
    pub(super) event: Option<&'a str>,
    pub(super) key: Option<&'a str>,
    pub(super) content_type: Option<&'a str>,
    pub(super) idempotency_key: &'a str,
}

/// The server's word that an event is in the log.
#[derive(Debug, Deserialize)]
pub(super) struct Published {
    pub(super) id: String,
    /// The event had been published before, under the same idempotency key.
    pub(super) duplicate: bool,
}

/// A channel to publish to, over one connection that is kept alive.
#[derive(Debug)]
pub(super) struct Sender {
    agent: Agent,
    endpoint: Endpoint,
    channel: String,
    retry_for: Duration,
    reporter: Reporter,
}

impl Sender {
    pub(super) fn new(endpoint: &Endpoint, channel: &str, retry_for: Duration, reporter: Reporter) -> Self {
        let (endpoint, channel) = (endpoint.clone(), channel.to_owned());
        Self { agent: http::agent(ATTEMPT_MAX, &endpoint), endpoint, channel, retry_for, reporter }
    }

    /// Publishes one event.
    pub(super) fn publish(&self, outgoing: Outgoing<'_>) -> Result<Published, String> {
        retried(self.retry_for, self.reporter, |time| self.attempt(outgoing, time))
    }

    /// Publishes one event whose name, key or kind HTTP cannot carry.
    pub(super) fn publish_over_websocket(
        &self,
        outgoing: Outgoing<'_>,
        kind: Kind,
    ) -> Result<Published, String> {
        let attempt = |_| socket_sender::publish(&self.endpoint, &self.channel, outgoing, kind);
        retried(self.retry_for, self.reporter, attempt)
    }

    fn attempt(&self, outgoing: Outgoing<'_>, time: Duration) -> Result<Published, Interruption> {
        let url = self.endpoint.publish(&self.channel);
        let mut request = self.agent.post(&url).header("idempotency-key", outgoing.idempotency_key);
        let headers = [
            ("tidewire-event", outgoing.event),
            ("tidewire-key", outgoing.key),
            ("content-type", outgoing.content_type),
        ];
        for (name, value) in headers {
            if let Some(value) = value {
                request = request.header(name, value.as_bytes());
            }
        }
        let request = request.config().timeout_global(Some(time)).build();
        let mut response = request.send(outgoing.data).map_err(|error| http::interruption(&error))?;
        let body = response.body_mut().with_config().limit(http::BODY_BYTES_MAX).read_to_vec();
        let body = body.map_err(|error| http::interruption(&error))?;
        if !response.status().is_success() {
            return Err(http::refusal(response.status(), response.headers(), &body));
        }
        serde_json::from_slice(&body)
            .map_err(|error| Interruption::Refused(format!("not the answer of a Tidewire server: {error}")))
    }
}
