//! What servers that share a backplane say to one another, as JSON. Must not know who sends it, nor what it is made into.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::metrics::Brief;
use crate::presence::Gone;

/// What a server tells of, by names.
pub(super) type Facts = BTreeMap<Box<str>, Box<RawValue>>;

/// A name, and what is so; nothing if it is not any more.
pub(super) type Change = (Box<str>, Option<Box<RawValue>>);

/// A message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Message {
    /// The random number of the server that sends it.
    pub(super) server: u64,
    /// Its messages are numbered from 1 on: whoever misses one knows.
    pub(super) number: u64,
    pub(super) says: Says,
}

/// What it says; what it does not is left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Says {
    /// How the server stands.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) beat: Option<Brief>,
    /// Servers that are asked for all that they tell of.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(super) asks: Vec<u64>,
    /// What has changed.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(super) facts: Vec<Change>,
    /// The facts are all that there are whose names are in it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) range: Option<Range>,
    /// Instances that hold a member no longer, wherever they did.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(super) gone: Vec<Gone>,
    /// It is its last: who was present there may come back for so long.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) goodbye_ms: Option<u64>,
}

/// A range of names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Range {
    /// They come after this one; all do after the empty one.
    pub(super) after: Box<str>,
    /// Up to this one; it ends with the last of all if there is none.
    pub(super) to: Option<Box<str>>,
}

impl Says {
    pub(super) fn is_nothing(&self) -> bool {
        let Self { beat, asks, facts, range, gone, goodbye_ms } = self;
        beat.is_none()
            && asks.is_empty()
            && facts.is_empty()
            && range.is_none()
            && gone.is_empty()
            && goodbye_ms.is_none()
    }
}
