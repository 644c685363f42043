//! The few error codes that the wire knows, with their HTTP status: PROTOCOL.md section 6 as code.
//! Must not know which transport carries an error; transports ask for the form they need.

use std::borrow::Cow;

use crate::rate::Limited;

/// A stable error code. Codes are part of the protocol: they are added, never renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// Not HTTP/1.x, or against its rules.
    InvalidRequest,
    /// Not a channel name.
    InvalidChannel,
    /// `since` or `Last-Event-ID` is no cursor.
    InvalidCursor,
    /// A query parameter or header is unknown, repeated or out of range.
    InvalidParameter,
    /// Declared as JSON, but does not parse.
    InvalidJson,
    /// Declared as text, but is not UTF-8.
    InvalidUtf8,
    /// A WebSocket message lacks a member or has one of a wrong type.
    InvalidMessage,
    /// A WebSocket message of unknown `type`.
    UnknownType,
    /// The connection is subscribed to that channel already.
    AlreadySubscribed,
    /// No credentials, or none that are good.
    Unauthenticated,
    /// Known, but without the right.
    Forbidden,
    /// Asked for by a page that may not use the server.
    OriginNotAllowed,
    /// No such route.
    NotFound,
    /// The route exists, the method does not.
    MethodNotAllowed,
    /// The request did not arrive in time.
    RequestTimeout,
    /// An event or a message over the limit.
    PayloadTooLarge,
    /// A charset other than UTF-8.
    UnsupportedMediaType,
    /// The idempotency key was used with another event.
    IdempotencyConflict,
    /// The data does not fit the channel's schema.
    SchemaViolation,
    /// The route speaks WebSocket only.
    UpgradeRequired,
    /// More channels than a request or a connection may name.
    TooManyChannels,
    /// Too many connections, subscriptions or messages of one address, user or connection.
    TooManyRequests,
    /// The request head is over its limit.
    HeadersTooLarge,
    /// Our own fault.
    Internal,
    /// A transfer coding that we do not speak.
    NotImplemented,
    /// Too many connections, or draining.
    Unavailable,
    /// Not HTTP/1.0 or 1.1.
    HttpVersion,
    /// The bound on channels or history is reached.
    HistoryFull,
    /// The bound on a channel's state is reached.
    StateFull,
    /// The disk is full: nothing was stored.
    StorageFull,
    /// The disk failed: it is not known whether anything was stored.
    StorageFailed,
    /// What is stored cannot be read.
    StorageDamaged,
    /// The backplane is away: it is not known whether anything was stored.
    BackplaneUnavailable,
}

impl Code {
    /// All codes, in the order of their declaration.
    pub const ALL: [Self; 33] = [
        Self::InvalidRequest,
        Self::InvalidChannel,
        Self::InvalidCursor,
        Self::InvalidParameter,
        Self::InvalidJson,
        Self::InvalidUtf8,
        Self::InvalidMessage,
        Self::UnknownType,
        Self::AlreadySubscribed,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::OriginNotAllowed,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::IdempotencyConflict,
        Self::SchemaViolation,
        Self::UpgradeRequired,
        Self::TooManyChannels,
        Self::TooManyRequests,
        Self::HeadersTooLarge,
        Self::Internal,
        Self::NotImplemented,
        Self::Unavailable,
        Self::HttpVersion,
        Self::HistoryFull,
        Self::StateFull,
        Self::StorageFull,
        Self::StorageFailed,
        Self::StorageDamaged,
        Self::BackplaneUnavailable,
    ];

    /// The code as the wire writes it.
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status (RFC 9110) that goes with the code.
    pub fn status(self) -> u16 {
        self.row().1
    }

    /// The status' reason phrase, which also is the problem's `title`.
    pub fn title(self) -> &'static str {
        reason_phrase(self.status())
    }

    fn row(self) -> (&'static str, u16) {
        match self {
            Self::InvalidRequest => ("invalid_request", 400),
            Self::InvalidChannel => ("invalid_channel", 400),
            Self::InvalidCursor => ("invalid_cursor", 400),
            Self::InvalidParameter => ("invalid_parameter", 400),
            Self::InvalidJson => ("invalid_json", 400),
            Self::InvalidUtf8 => ("invalid_utf8", 400),
            Self::InvalidMessage => ("invalid_message", 400),
            Self::UnknownType => ("unknown_type", 400),
            Self::AlreadySubscribed => ("already_subscribed", 409),
            Self::Unauthenticated => ("unauthenticated", 401),
            Self::Forbidden => ("forbidden", 403),
            Self::OriginNotAllowed => ("origin_not_allowed", 403),
            Self::NotFound => ("not_found", 404),
            Self::MethodNotAllowed => ("method_not_allowed", 405),
            Self::RequestTimeout => ("request_timeout", 408),
            Self::PayloadTooLarge => ("payload_too_large", 413),
            Self::UnsupportedMediaType => ("unsupported_media_type", 415),
            Self::IdempotencyConflict => ("idempotency_conflict", 422),
            Self::SchemaViolation => ("schema_violation", 422),
            Self::UpgradeRequired => ("upgrade_required", 426),
            Self::TooManyChannels => ("too_many_channels", 400),
            Self::TooManyRequests => ("too_many_requests", 429),
            Self::HeadersTooLarge => ("headers_too_large", 431),
            Self::Internal => ("internal", 500),
            Self::NotImplemented => ("not_implemented", 501),
            Self::Unavailable => ("unavailable", 503),
            Self::HttpVersion => ("http_version", 505),
            Self::HistoryFull => ("history_full", 507),
            Self::StateFull => ("state_full", 507),
            Self::StorageFull => ("storage_full", 507),
            Self::StorageFailed => ("storage_failed", 503),
            Self::StorageDamaged => ("storage_damaged", 500),
            Self::BackplaneUnavailable => ("backplane_unavailable", 503),
        }
    }
}

/// The reason phrase of the statuses that Tidewire sends (RFC 9110 section 15).
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Unknown",
    }
}

/// A refusal as the peer is told it: a code for programs, a sentence for people.
///
/// The sentence says what was wrong and what would be right. It must not repeat
/// payloads, tokens or anything else that does not belong in a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", code.as_str())]
pub struct Problem {
    /// The stable code.
    pub code: Code,
    /// What was wrong and what would be right.
    pub detail: Cow<'static, str>,
    /// The limit that was reached, if one was.
    pub limited: Option<Limited>,
}

impl Problem {
    /// Makes a problem from its code and sentence.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), limited: None }
    }

    /// A limit was reached.
    pub fn limited(limited: Limited) -> Self {
        let Limited { limit, quota, retry_after_ms, .. } = limited;
        let detail = match limited.window_seconds {
            Some(seconds) => {
                format!("{limit} is {quota} ({seconds} s): too much; try again in {retry_after_ms} ms")
            }
            None => format!(
                "{limit} is {quota}: as many as may be are there already; end one, or try again later"
            ),
        };
        Self { code: Code::TooManyRequests, detail: detail.into(), limited: Some(limited) }
    }

    /// Whether it is about how much there is, and not about what was asked.
    pub fn is_about_load(&self) -> bool {
        matches!(self.code, Code::TooManyRequests | Code::Unavailable | Code::BackplaneUnavailable)
    }

    /// The body of an RFC 9457 `application/problem+json` answer.
    pub fn to_json(&self) -> String {
        let mut out = String::with_capacity(160 + self.detail.len());
        out.push_str("{\"type\":\"about:blank\",\"title\":\"");
        out.push_str(self.code.title());
        out.push_str("\",\"status\":");
        out.push_str(&self.code.status().to_string());
        out.push_str(",\"code\":\"");
        out.push_str(self.code.as_str());
        out.push_str("\",\"detail\":");
        crate::wire::json::push_string(&mut out, &self.detail);
        out.push('}');
        out
    }
}
