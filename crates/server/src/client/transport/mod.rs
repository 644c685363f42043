//! The one seam between a subscription and the four ways in which events come.
//! A transport only carries: places, retries and output are the business of the parent modules.

mod event_stream;
mod poll;
mod websocket;

use std::time::Duration;

pub(super) use event_stream::EventStream;
pub(super) use poll::{Poll, Waiting, page, signals};
pub(super) use websocket::{WebSocket, connect, interruption, refused};

use super::event::{Event, Gap};
use super::position::Position;

/// Silence of this length means that the peer is gone: a server sends a heartbeat every 25 s by default.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(60);

/// One thing that a server says to a subscriber.
#[derive(Debug)]
pub(super) enum Signal {
    /// An event; boxed, as it is many times larger than the others.
    Event(Box<Event>),
    /// One channel stands at this id.
    Standing { channel: String, id: String },
    /// All channels together stand at this cursor, after what came before.
    StandingAll(String),
    /// Events are missing.
    Gap(Gap),
}

/// Why a connection, or an attempt to get one, ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Interruption {
    /// It may work again: after `after` at least, where the server said so.
    Lost { reason: String, after: Option<Duration> },
    /// It would fail in the same way again.
    Refused(String),
}

impl Interruption {
    pub(super) fn lost(reason: impl Into<String>) -> Self {
        Self::Lost { reason: reason.into(), after: None }
    }
}

/// A way in which events come.
pub(super) trait Transport {
    /// Begins anew at `position`. What there was of an earlier connection is dropped.
    fn open(&mut self, position: &Position) -> Result<(), Interruption>;

    /// Waits for the next signals, which belong together; none means only that the peer lives.
    /// `wanted` is how many events are of use at most.
    fn next(&mut self, wanted: Option<u64>) -> Result<Vec<Signal>, Interruption>;

    /// Takes leave of the server, where the transport has a way to.
    fn close(&mut self) {}
}

/// The wait that `after_ms` of a `reconnect` asks for: a number, or the two ends of a range out of which
/// each client takes its own, so that not all come back at once.
fn chosen_wait(after_ms: &serde_json::Value) -> Option<Duration> {
    let number = |value: &serde_json::Value| value.as_u64();
    let (low, high) = match after_ms.as_array() {
        Some(range) => (range.first().and_then(number)?, range.last().and_then(number)?),
        None => (number(after_ms)?, number(after_ms)?),
    };
    Some(Duration::from_millis(fastrand::u64(low..=high.max(low))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_wait_out_of_a_number_or_a_range() {
        for (json, range) in [("2000", Some(2000..=2000)), ("[5,9]", Some(5..=9)), ("[9,5]", Some(9..=9))] {
            let wait = chosen_wait(&serde_json::from_str(json).expect("JSON")).map(|wait| wait.as_millis());
            assert_eq!(wait.zip(range).map(|(wait, range)| range.contains(&wait)), Some(true), "{json}");
        }
        for json in ["null", "[]", "-1", "\"x\""] {
            assert_eq!(chosen_wait(&serde_json::from_str(json).expect("JSON")), None, "{json}");
        }
    }
}
