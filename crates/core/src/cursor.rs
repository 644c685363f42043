//! Cursors: where a reader stands in one or several channels, and the `since` that names one.
//! Must not know what is retained: whether a position still can be served is the log's to say.

use crate::error::{Code, Problem};
use crate::id::{Epoch, EventId};

/// Positions in one or several channels: ids, joined by `.` on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cursor {
    ids: Vec<EventId>,
}

impl Cursor {
    /// The most ids that one cursor may hold; as many as a request may name channels.
    pub const IDS_MAX: usize = 100;

    /// Reads a cursor.
    ///
    /// # Errors
    /// [`Code::InvalidCursor`] if it is not ids joined by `.`, has too many of them, or two of one epoch.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let refuse = |detail: &'static str| Err(Problem::new(Code::InvalidCursor, detail));
        let mut ids: Vec<EventId> = Vec::new();
        for token in text.split('.') {
            let Some(id) = EventId::parse(token) else {
                return refuse(
                    "since is not a cursor; pass an event id or a cursor as Tidewire gave it, earliest, or latest",
                );
            };
            if ids.len() == Self::IDS_MAX {
                return refuse("the cursor names more than 100 channels");
            }
            if ids.iter().any(|other| other.epoch == id.epoch) {
                return refuse("the cursor names one channel twice");
            }
            ids.push(id);
        }
        Ok(Self { ids })
    }

    /// The position in the channel with `epoch`, if the cursor holds one.
    pub fn offset_in(&self, epoch: Epoch) -> Option<u64> {
        self.ids.iter().find(|id| id.epoch == epoch).map(|id| id.offset)
    }

    /// Whether each id belongs to one of the channels with `epochs`.
    pub fn is_within(&self, epochs: &[Epoch]) -> bool {
        self.ids.iter().all(|id| epochs.contains(&id.epoch))
    }
}

/// Where a reader wants to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// With the oldest retained event.
    Earliest,
    /// From now on.
    Latest,
    /// Right after the events that this cursor has seen.
    Cursor(Cursor),
}

impl Since {
    /// Reads a `since` parameter or a `Last-Event-ID`.
    ///
    /// # Errors
    /// [`Code::InvalidCursor`] as [`Cursor::parse`].
    pub fn parse(text: &str) -> Result<Self, Problem> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            _ => Cursor::parse(text).map(Self::Cursor),
        }
    }

    /// What this asks of one channel out of those with the epochs `asked`; `default` is the
    /// transport's default, for a channel that the cursor says nothing of.
    pub fn in_channel(&self, epoch: Epoch, asked: &[Epoch], default: Start) -> Start {
        match self {
            Self::Earliest => Start::Earliest,
            Self::Latest => Start::Latest,
            Self::Cursor(cursor) => match cursor.offset_in(epoch) {
                Some(offset) => Start::After(offset),
                None if cursor.is_within(asked) => default,
                None => Start::Unknown,
            },
        }
    }
}

/// Where a reader wants to begin in one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the oldest retained event; never a gap.
    Earliest,
    /// After the newest event; never a gap.
    Latest,
    /// After this offset of the channel's epoch.
    After(u64),
    /// After a position that this log knows nothing of: always a gap.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str, offset: u64) -> EventId {
        EventId { epoch: Epoch::derive(1, name), offset }
    }

    #[test]
    fn one_cursor_serves_several_channels() {
        let since = Since::parse(&format!("{}.{}", id("a", 3), id("b", 9))).expect("a cursor");
        let epochs = ["a", "b", "c"].map(|name| Epoch::derive(1, name));
        let start = |name| since.in_channel(Epoch::derive(1, name), &epochs, Start::Latest);
        assert_eq!(start("a"), Start::After(3));
        assert_eq!(start("b"), Start::After(9));
        assert_eq!(start("c"), Start::Latest, "the cursor never spoke of it");
        let fewer = [epochs[0], epochs[2]];
        assert_eq!(
            since.in_channel(epochs[2], &fewer, Start::Latest),
            Start::Unknown,
            "b's id could have been c's"
        );
    }

    #[test]
    fn refuses_what_is_no_cursor() {
        let twice = format!("{}.{}", id("a", 1), id("a", 2));
        let many = (0..101).map(|n| id(&format!("c{n}"), 1).to_string()).collect::<Vec<_>>().join(".");
        for text in ["", "0", "newest", "Latest", "a.b", &format!("{}.", id("a", 1)), &twice, &many] {
            assert_eq!(Since::parse(text).map_err(|p| p.code), Err(Code::InvalidCursor), "{text:?}");
        }
    }
}
