//! What HTTP requests of both clients share: the agent, its limits, and the reading of failures.
//! Must not know what is published or subscribed.

use std::time::Duration;

use serde::Deserialize;
use ureq::http::header::AUTHORIZATION;
use ureq::http::{HeaderMap, HeaderValue, StatusCode};
use ureq::middleware::MiddlewareNext;
use ureq::{Agent, Error, SendBody};

use super::endpoint::Endpoint;
use super::transport::Interruption;

/// The longest body that is taken from a server: a poll's answer has about 1 MiB of data, but one event
/// may be larger where the server's limit was raised.
pub(super) const BODY_BYTES_MAX: u64 = 64 << 20;

/// How long a connection may take to come about.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(10);

/// An HTTP agent that keeps connections alive and shows the endpoint's token. `silence_max` bounds each read.
pub(super) fn agent(silence_max: Duration, endpoint: &Endpoint) -> Agent {
    let authorization = endpoint.authorization().and_then(|value| HeaderValue::try_from(value).ok());
    let identify = move |mut request: ureq::http::Request<SendBody<'_>>, next: MiddlewareNext<'_>| {
        if let Some(value) = &authorization {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        next.handle(request)
    };
    Agent::config_builder()
        .middleware(identify)
        .tls_config(crate::trust::of_the_machine())
        // The token is for this server, not for whomever it points to.
        .max_redirects(0)
        .http_status_as_error(false)
        // The WebSocket has no way through a proxy of the environment, so that no transport takes one.
        .proxy(None)
        .timeout_resolve(Some(CONNECT_MAX))
        .timeout_connect(Some(CONNECT_MAX))
        .timeout_per_read(Some(silence_max))
        .timeout_per_write(Some(silence_max))
        .user_agent(concat!("tidewire/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent()
}

/// What an error of the agent means for the next attempt.
pub(super) fn interruption(error: &Error) -> Interruption {
    match error {
        Error::Io(io) => Interruption::lost(io.to_string()),
        Error::Timeout(_) => Interruption::lost("no answer in time"),
        Error::HostNotFound => Interruption::lost("the host name is not known"),
        Error::ConnectionFailed => Interruption::lost("no connection"),
        Error::Protocol(_) => Interruption::lost(format!("no proper HTTP answer: {error}")),
        Error::BodyExceedsLimit(limit) => {
            Interruption::Refused(format!("an answer is larger than {limit} bytes"))
        }
        _ => Interruption::Refused(error.to_string()),
    }
}

/// What an answer that is no success means for the next attempt.
pub(super) fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Interruption {
    let detail = match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => format!("{} ({}, status {})", problem.detail, problem.code, status.as_u16()),
        Err(_) => format!("the server answered with status {status}"),
    };
    match status.as_u16() {
        408 | 425 | 429 | 500 | 502 | 503 | 504 | 507 => {
            let seconds =
                headers.get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
            Interruption::Lost { reason: detail, after: seconds.map(Duration::from_secs) }
        }
        _ => Interruption::Refused(detail),
    }
}

/// RFC 9457, as far as it is shown.
#[derive(Deserialize)]
struct Problem {
    code: String,
    detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_is_worth_another_attempt() {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "3".parse().expect("a header value"));
        let body = br#"{"type":"t","title":"t","status":503,"code":"unavailable","detail":"draining"}"#;
        let lost = refusal(StatusCode::SERVICE_UNAVAILABLE, &headers, body);
        let reason = "draining (unavailable, status 503)".to_owned();
        assert_eq!(lost, Interruption::Lost { reason, after: Some(Duration::from_secs(3)) });
        for status in [400, 401, 403, 404, 413, 422, 426, 501] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert!(matches!(refusal(status, &headers, b"<html>"), Interruption::Refused(_)), "{status}");
        }
    }
}
