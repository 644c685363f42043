//! What was seen: findings, what works, what was measured, and what could not be found out.
//! Must not know how it is looked for, nor how it is shown.

use serde::Serialize;

use super::faults::{Fault, Weight};

/// A way in which events come, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    WebSocket,
    /// With the subprotocol `tidewire.v1`.
    WebSocketSubprotocol,
    Sse,
    LongPoll,
    Poll,
    /// Whatever way is taken.
    All,
}

impl Way {
    /// Those that are ways by themselves.
    pub(super) const EACH: [Self; 5] =
        [Self::WebSocket, Self::WebSocketSubprotocol, Self::Sse, Self::LongPoll, Self::Poll];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::WebSocketSubprotocol => "websocket-subprotocol",
            Self::Sse => "sse",
            Self::LongPoll => "long-poll",
            Self::Poll => "poll",
            Self::All => "all",
        }
    }
}

/// One thing that is wrong, or worth knowing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) fault: Fault,
    pub(super) way: Way,
    /// A sentence, with figures.
    pub(super) observed: String,
}

/// What could not be found out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Unchecked {
    pub(super) what: String,
    pub(super) why: String,
}

/// How a way did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    Works,
    Broken,
    Unchecked,
}

/// The record of one visit.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) findings: Vec<Finding>,
    pub(super) unchecked: Vec<Unchecked>,
    /// What was seen of a way that works.
    seen: Vec<(Way, String)>,
    /// The longest time between two heartbeats.
    pub(super) heartbeat_ms: Option<u64>,
}

impl Record {
    pub(super) fn find(&mut self, fault: Fault, way: Way, observed: impl Into<String>) {
        self.findings.push(Finding { fault, way, observed: observed.into() });
    }

    pub(super) fn skip(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.unchecked.push(Unchecked { what: what.into(), why: why.into() });
    }

    pub(super) fn see(&mut self, way: Way, what: impl Into<String>) {
        self.seen.push((way, what.into()));
    }

    /// Whether events came in this way.
    pub(super) fn has_seen(&self, way: Way) -> bool {
        self.seen.iter().any(|(seen, _)| *seen == way)
    }

    pub(super) fn has_found(&self, fault: Fault) -> bool {
        self.findings.iter().any(|finding| finding.fault == fault)
    }

    pub(super) fn state(&self, way: Way) -> State {
        let is_wrong = |finding: &Finding| finding.way == way && finding.fault.weight() == Weight::Problem;
        match (self.findings.iter().any(is_wrong), self.has_seen(way)) {
            (true, _) => State::Broken,
            (false, true) => State::Works,
            (false, false) => State::Unchecked,
        }
    }

    /// What was seen of `way`, in the order in which it was.
    pub(super) fn details(&self, way: Way) -> Vec<&str> {
        self.seen.iter().filter(|(seen, _)| *seen == way).map(|(_, what)| what.as_str()).collect()
    }

    pub(super) fn is_fine(&self) -> bool {
        self.findings.iter().all(|finding| finding.fault.weight() == Weight::Note)
    }
}
