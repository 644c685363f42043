//! How an authority is asked: over https, bounded in size and time, by the client that keys are fetched with. Must not
//! know what is asked. It blocks, so what awaits it never has to be woken: [`wait_for`] needs no runtime.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Method, Request};
use http_body_util::BodyExt;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use ureq::Agent;
use ureq::tls::TlsConfig;

/// The largest answer; chains of certificates have some 10 KiB. Beyond: the request fails.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// How long a request may take, in all. Beyond: it fails.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const AGENT: &str = concat!("tidewire/", env!("CARGO_PKG_VERSION"), " instant-acme");

/// The client, and what the authority said about when to come back.
#[derive(Debug, Clone)]
pub(super) struct Http {
    agent: Agent,
    /// For how many seconds the authority wants to be left alone, as it said last; 0: it did not.
    pause_seconds: Arc<AtomicU64>,
}

impl Http {
    pub(super) fn new(trust: TlsConfig) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .https_only(true)
            .max_redirects(0)
            .tls_config(trust)
            .proxy(None)
            .timeout_global(Some(REQUEST_TIMEOUT))
            .build()
            .new_agent();
        Self { agent, pause_seconds: Arc::default() }
    }

    /// For how long the authority wants to be left alone, if it said so since it was last looked.
    pub(super) fn take_pause_seconds(&self) -> u64 {
        self.pause_seconds.swap(0, Ordering::Relaxed)
    }

    fn send(&self, request: Request<Vec<u8>>) -> Result<BytesResponse, Error> {
        let (mut parts, body) = request.into_parts();
        parts.headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let shown = format!("{}{}", parts.uri.host().unwrap_or_default(), parts.uri.path());
        let wrong = |what: String| Error::Other(format!("{shown}: {what}").into());
        let outcome = match parts.method {
            Method::POST => self.agent.run(Request::from_parts(parts, body)),
            _ => self.agent.run(Request::from_parts(parts, ())),
        };
        let (parts, mut body) = outcome.map_err(|error| wrong(error.to_string()))?.into_parts();
        let field = |name| parts.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let is_problem = field(CONTENT_TYPE).is_some_and(|kind| kind.contains("json"));
        if !parts.status.is_success() {
            let seconds = field(RETRY_AFTER).and_then(|seconds| seconds.trim().parse().ok());
            self.pause_seconds.store(seconds.unwrap_or(0), Ordering::Relaxed);
        }
        if !parts.status.is_success() && !is_problem {
            return Err(wrong(format!("it answers with status {}", parts.status.as_u16())));
        }
        let content = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let content = content.map_err(|error| wrong(error.to_string()))?;
        Ok(BytesResponse { parts, body: Box::new(Bytes::from(content)) })
    }
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let http = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let Ok(body) = body.collect().await;
            http.send(Request::from_parts(parts, body.to_bytes().to_vec()))
        })
    }
}

/// The outcome of what only waits for [`Http`].
pub(super) fn wait_for<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(outcome) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return outcome;
        }
        // Nothing in it waits for anything else; if that changes, it is slow and not stuck.
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
