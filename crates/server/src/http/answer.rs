//! Answers as bytes: heads, problems, caching, what pages may see. Must not know what is asked.

use std::sync::Arc;

use tidewire_core::http1::{ResponseHead, Version};
use tidewire_core::rate::Limited;
use tidewire_core::wire::sse;
use tidewire_core::{Code, Problem};

use crate::access::origin::EXPOSE_HEADERS;

/// When those who came in vain come back at the earliest.
const RETRY_MS: u64 = 2_000;

/// What of a request decides the form of its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exchange {
    /// Whether the connection serves another request afterwards.
    pub(crate) keep_alive: bool,
    /// HTTP/1.0 clients need to be told that it does.
    pub(crate) version: Version,
    /// `HEAD`: no body.
    pub(crate) head_only: bool,
    /// Not everybody would get this answer: caches must not keep it for others.
    pub(crate) private: bool,
    /// The page that may read the answer.
    pub(crate) cors: Cors,
}

/// What browsers are told of who may read an answer (Fetch, "CORS protocol").
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Cors {
    /// Nothing: there are no pages but the server's own.
    #[default]
    Silent,
    /// No page asked, but to one that did the answer would be another.
    Varies,
    /// This page, with what comes of its cookies. There are few: the list names each.
    Page(Arc<str>),
    /// Likewise, but there may be any number.
    Other(Arc<str>),
    /// Any page.
    All,
}

impl Exchange {
    /// The exchange of a request that nobody could read.
    pub(crate) const BROKEN: Self = Self {
        keep_alive: false,
        version: Version::Http11,
        head_only: false,
        private: false,
        cors: Cors::Silent,
    };

    /// Begins an answer. The caller adds fields and ends the head.
    pub(crate) fn head<'o>(&self, out: &'o mut Vec<u8>, status: u16) -> ResponseHead<'o> {
        let head = ResponseHead::new(out, status);
        let head = match (self.keep_alive, self.version) {
            (false, _) => head.field("Connection", "close"),
            (true, Version::Http10) => head.field("Connection", "keep-alive"),
            (true, Version::Http11) => head,
        };
        let (allowed, with_cookies) = match &self.cors {
            Cors::Silent => return head,
            Cors::Varies => return head.field("Vary", "Origin"),
            Cors::Page(origin) | Cors::Other(origin) => (&**origin, true),
            Cors::All => ("*", false),
        };
        let head = head
            .field("Vary", "Origin")
            .field("Access-Control-Allow-Origin", allowed)
            .field("Access-Control-Expose-Headers", EXPOSE_HEADERS);
        if with_cookies { head.field("Access-Control-Allow-Credentials", "true") } else { head }
    }

    /// A whole answer.
    pub(crate) fn answer(&self, out: &mut Vec<u8>, status: u16, fields: &[(&str, &str)], body: &[u8]) {
        let head = fields.iter().fold(self.head(out, status), |head, (name, value)| head.field(name, value));
        // RFC 9110 section 8.6: none with 204.
        if status == 204 {
            return head.end();
        }
        head.content_length(body.len()).end();
        if !self.head_only {
            out.extend_from_slice(body);
        }
    }

    /// A JSON answer.
    pub(crate) fn json(&self, out: &mut Vec<u8>, status: u16, fields: &[(&str, &str)], body: &[u8]) {
        let mut all = vec![("Content-Type", "application/json")];
        all.extend_from_slice(fields);
        self.answer(out, status, &all, body);
    }

    /// `304 Not Modified`.
    pub(crate) fn not_modified(&self, out: &mut Vec<u8>, etag: &str, cache_control: &str) {
        self.head(out, 304).field("ETag", etag).field("Cache-Control", cache_control).end();
    }

    /// An RFC 9457 problem, with the fields that go with its code.
    pub(crate) fn problem(&self, out: &mut Vec<u8>, problem: &Problem, fields: &[(&str, &str)]) {
        let mut all = vec![("Content-Type", "application/problem+json"), ("Cache-Control", "no-store")];
        match problem.code {
            Code::UpgradeRequired => {
                all.extend([("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket")]);
            }
            Code::Unauthenticated => all.push(("WWW-Authenticate", "Bearer")),
            Code::TooManyRequests => {}
            Code::Unavailable | Code::StorageFull | Code::StorageFailed | Code::BackplaneUnavailable => {
                all.push(("Retry-After", "2"))
            }
            _ => {}
        }
        let limits = problem.limited.map(limit_fields).unwrap_or_default();
        all.extend(limits.iter().map(|(name, value)| (*name, value.as_str())));
        all.extend_from_slice(fields);
        self.answer(out, problem.code.status(), &all, problem.to_json().as_bytes());
    }

    /// Says to a reader of event streams that it must come back later. `EventSource` never comes back after any
    /// other status than 200.
    pub(crate) fn end_of_stream(&self, out: &mut Vec<u8>, problem: &Problem) {
        let after_ms = problem.limited.map_or(RETRY_MS, |limited| limited.retry_after_ms.max(RETRY_MS));
        self.head(out, 200)
            .field("Content-Type", "text/event-stream")
            .field("Cache-Control", "no-store")
            .end();
        sse::reconnect(out, [after_ms, 2 * after_ms], problem.code.as_str());
    }
}

impl Cors {
    /// Whether it lets a page read.
    pub(crate) fn names_page(&self) -> bool {
        matches!(self, Self::Page(_) | Self::Other(_) | Self::All)
    }
}

/// What a limit says of itself (RFC 9110 section 10.2.3; draft-ietf-httpapi-ratelimit-headers).
fn limit_fields(limited: Limited) -> Vec<(&'static str, String)> {
    let seconds = limited.retry_after_ms.div_ceil(1000);
    let mut fields = vec![("Retry-After", seconds.to_string())];
    if let Some(window) = limited.window_seconds {
        let (name, quota) = (limited.limit, limited.quota);
        fields.push(("RateLimit-Policy", format!("\"{name}\";q={quota};w={window}")));
        fields.push(("RateLimit", format!("\"{name}\";r=0;t={seconds}")));
    }
    fields
}
