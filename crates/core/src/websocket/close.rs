//! Close codes and what breaks the protocol. Must not know when Tidewire closes; see `liveness` for that.

use std::fmt;

/// A close code (RFC 6455 section 7.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The purpose is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// The endpoint goes away.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer broke the protocol.
    pub const PROTOCOL: Self = Self(1002);
    /// Text was not UTF-8, or compressed data did not inflate.
    pub const INVALID_DATA: Self = Self(1007);
    /// The peer's message is refused.
    pub const POLICY: Self = Self(1008);
    /// The message is larger than allowed.
    pub const TOO_BIG: Self = Self(1009);
    /// Our own fault.
    pub const INTERNAL: Self = Self(1011);
    /// The subscriber fell too far behind; it may resume.
    pub const SLOW_CONSUMER: Self = Self(4001);
    /// Nothing was heard of the peer for too long; it may resume.
    pub const NO_SIGN_OF_LIFE: Self = Self(4002);
    /// Raw mode cannot tell of a gap in another way.
    pub const GAP: Self = Self(4003);
    /// The token has expired: connect again with a new one, and resume.
    pub const TOKEN_EXPIRED: Self = Self(4004);
    /// The user's tokens are not good any more: do not come again with the same.
    pub const REVOKED: Self = Self(4005);
    /// More messages than may be: connect again later, and resume.
    pub const TOO_MUCH: Self = Self(4007);
    /// The application ended the connection: connect again, and resume.
    pub const DISCONNECTED: Self = Self(4006);

    /// Whether a peer may send this code: the registered ones and the ranges for libraries and
    /// applications, without those that stand for "no code".
    pub fn may_be_received(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CloseCode({})", self.0)
    }
}

/// A close frame's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseFrame<'a> {
    /// Why.
    pub code: CloseCode,
    /// The same for people.
    pub reason: &'a str,
}

/// The peer broke a rule; the connection must be closed with this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer broke the WebSocket protocol ({}): {reason}", code.0)]
pub struct Violation {
    /// The code to close with.
    pub code: CloseCode,
    /// Which rule was broken.
    pub reason: &'static str,
}

impl Violation {
    pub(super) fn protocol(reason: &'static str) -> Self {
        Self { code: CloseCode::PROTOCOL, reason }
    }

    pub(super) fn data(reason: &'static str) -> Self {
        Self { code: CloseCode::INVALID_DATA, reason }
    }

    pub(super) fn too_big() -> Self {
        Self { code: CloseCode::TOO_BIG, reason: "the message is larger than allowed" }
    }
}
