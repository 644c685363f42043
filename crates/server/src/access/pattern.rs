//! Patterns of channel names, as the configuration and tokens write them. Must not know what they decide.

use std::fmt;

use tidewire_core::ChannelName;

/// The place of the user in a pattern.
const USER: &str = "{sub}";

/// Which channels are meant: `chat:1` is one channel, `chat:*` all that begin with `chat:`, `user:{sub}:*` those
/// that begin with `user:`, one segment, and `:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// What comes before the user, or everything.
    stem: Box<str>,
    /// What follows the user's segment, if there is one.
    rest: Option<Box<str>>,
    /// Whether the name may go on.
    open: bool,
}

/// How a channel fits a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit<'c> {
    /// It does not.
    No,
    /// It does.
    Yes,
    /// It does, and belongs to this user.
    Owned(&'c str),
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (body, open) = match text.strip_suffix('*') {
            Some(body) => (body, true),
            None => (text, false),
        };
        let (stem, rest) = match body.split_once(USER) {
            Some((stem, rest)) => (stem, Some(rest)),
            None => (body, None),
        };
        let named = |part: &str| part.is_empty() || ChannelName::check(part).is_ok();
        let whole_segment = (stem.is_empty() || stem.ends_with(':'))
            && rest.is_none_or(|rest| rest.starts_with(':') || (rest.is_empty() && !open));
        let something = open || !body.is_empty();
        if !(named(stem) && rest.is_none_or(named) && something && (rest.is_none() || whole_segment)) {
            return Err(format!(
                "{text:?} is not a pattern: write a channel name, or the beginning of one with a * at its end; \
                 one segment may be {USER}, as in user:{USER}:*"
            ));
        }
        Ok(Self { stem: stem.into(), rest: rest.map(Into::into), open })
    }

    /// Whether its channels belong to users.
    pub(crate) fn has_owner(&self) -> bool {
        self.rest.is_some()
    }

    /// Whether a channel is meant, and whose it is.
    pub(crate) fn fit<'c>(&self, channel: &'c str) -> Fit<'c> {
        let Some(after) = channel.strip_prefix(&*self.stem) else { return Fit::No };
        let Some(rest) = &self.rest else {
            return if self.open || after.is_empty() { Fit::Yes } else { Fit::No };
        };
        let user = &after[..after.find(':').unwrap_or(after.len())];
        let after = &after[user.len()..];
        let goes_on = if self.open { after.starts_with(&**rest) } else { after == &**rest };
        if goes_on && !user.is_empty() { Fit::Owned(user) } else { Fit::No }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = if self.rest.is_some() { USER } else { "" };
        let (rest, star) = (self.rest.as_deref().unwrap_or_default(), if self.open { "*" } else { "" });
        write!(formatter, "{}{user}{rest}{star}", self.stem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits() {
        for (pattern, channel, fit) in [
            ("chat:1", "chat:1", Fit::Yes),
            ("chat:1", "chat:12", Fit::No),
            ("chat:*", "chat:12", Fit::Yes),
            ("chat:*", "chat", Fit::No),
            ("*", "x", Fit::Yes),
            ("user:{sub}:*", "user:7:inbox", Fit::Owned("7")),
            ("user:{sub}:*", "user:7:", Fit::Owned("7")),
            ("user:{sub}:*", "user:7", Fit::No),
            ("user:{sub}:*", "user::x", Fit::No),
            ("user:{sub}", "user:7", Fit::Owned("7")),
            ("user:{sub}", "user:7:x", Fit::No),
            ("{sub}", "7", Fit::Owned("7")),
            ("u:{sub}:a:*", "u:7:a:b", Fit::Owned("7")),
            ("u:{sub}:a:*", "u:7:b:a:", Fit::No),
        ] {
            assert_eq!(Pattern::parse(pattern).expect(pattern).fit(channel), fit, "{pattern} {channel}");
            assert_eq!(Pattern::parse(pattern).expect(pattern).to_string(), pattern);
        }
    }

    #[test]
    fn what_is_no_pattern() {
        for text in ["", "a*b", "a b", "**", "u{sub}", "u:{sub}x", "u:{sub}*", "{sub}:{sub}", "u:{user}"] {
            assert!(Pattern::parse(text).is_err(), "{text:?}");
        }
    }
}
