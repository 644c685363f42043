//! Channel names: what is one and what is not. Must not know what channels hold or who may use them.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::error::{Code, Problem};

/// A valid channel name: 1 to 200 characters of `[A-Za-z0-9_.:~-]`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

impl ChannelName {
    /// The longest name, in bytes (which are characters, as all are ASCII).
    pub const BYTES_MAX: usize = 200;

    /// Checks `name` and takes it.
    ///
    /// # Errors
    /// [`Code::InvalidChannel`], saying which rule the name breaks.
    pub fn new(name: &str) -> Result<Self, Problem> {
        Self::check(name)?;
        Ok(Self(name.into()))
    }

    /// Checks `name` without keeping it.
    ///
    /// # Errors
    /// As [`ChannelName::new`].
    pub fn check(name: &str) -> Result<(), Problem> {
        let refuse = |detail: String| Err(Problem::new(Code::InvalidChannel, detail));
        if name.is_empty() {
            return refuse("a channel name is empty; it needs 1 to 200 characters".into());
        }
        if name.len() > Self::BYTES_MAX {
            return refuse(format!("a channel name has {} bytes; at most 200 are allowed", name.len()));
        }
        match name.char_indices().find(|(_, c)| !(c.is_ascii() && is_name_byte(*c as u8))) {
            None => Ok(()),
            Some((at, c)) => refuse(format!(
                "a channel name has {c:?} at position {at}; allowed are A-Z a-z 0-9 _ . : ~ -"
            )),
        }
    }

    /// Whether the name is one of the server's own: what it says there of itself is for those who run it.
    pub fn is_reserved(&self) -> bool {
        is_reserved(self.as_str())
    }

    /// The channel of the server's own that says who is present in this one.
    ///
    /// # Errors
    /// `invalid_channel` if this name leaves no room for it, or is one of the server's own.
    pub fn presence(&self) -> Result<Self, Problem> {
        if self.is_reserved() || self.0.len() > Self::BYTES_MAX - PRESENCE.len() {
            let most = Self::BYTES_MAX - PRESENCE.len();
            let detail = format!(
                "nobody is present in {self}: that is for channels whose names have up to {most} characters and do \
                 not begin with tidewire."
            );
            return Err(Problem::new(Code::InvalidChannel, detail));
        }
        Self::new(&format!("{PRESENCE}{self}"))
    }

    /// The channel of which this one says who is present, if it does.
    pub fn subject_of_presence(&self) -> Option<Self> {
        self.0.strip_prefix(PRESENCE).and_then(|subject| Self::new(subject).ok())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How names begin of the channels that say who is present in others.
pub const PRESENCE: &str = "tidewire.presence:";

/// Whether a name is one of the server's own, as event names with the same beginning are.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with("tidewire.")
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':' | b'~' | b'-')
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_protocol_allows() {
        for name in ["a", "chat:room-7", "A.z_9~-", &"x".repeat(200)] {
            assert_eq!(ChannelName::new(name).map(|n| n.to_string()).as_deref(), Ok(name));
        }
    }

    #[test]
    fn refuses_the_rest_with_the_reason() {
        for (name, part) in
            [("", "empty"), ("a b", "' '"), ("ä", "'ä'"), ("a/b", "'/'"), ("x\0", "position 1")]
        {
            let problem = ChannelName::new(name).expect_err(name);
            assert_eq!(problem.code, Code::InvalidChannel);
            assert!(problem.detail.contains(part), "{name:?}: {}", problem.detail);
        }
        assert!(ChannelName::new(&"x".repeat(201)).is_err());
    }
}
