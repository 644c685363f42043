//! Who somebody is and what their token grants, and the decision whether they may do a thing on a channel.
//! Must not know how they showed who they are.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tidewire_core::{ChannelName, Code, Problem};

use super::pattern::{Fit, Pattern};
use super::settings::{Allowed, ChannelRights};

/// The most patterns that a token may grant for one action.
const PATTERNS_MAX: usize = 256;
/// How many different grants are remembered to be shared.
const RECENT_MAX: usize = 32;

/// What somebody wants to do on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Get events as they come.
    Subscribe,
    /// Read what was published before.
    History,
    /// Publish.
    Publish,
    /// See who is there, and be seen.
    Presence,
    /// Delete all that the channel has.
    Delete,
}

impl Action {
    /// The action as tokens, the configuration and callbacks name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::History => "history",
            Self::Publish => "publish",
            Self::Presence => "presence",
            Self::Delete => "delete",
        }
    }
}

/// Somebody who has shown who they are.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    /// The user, if the token names one.
    pub(crate) user: Option<Arc<str>>,
    /// The application itself, which may do everything.
    pub(crate) is_admin: bool,
    /// Somebody whom the application itself gave exactly these rights, whatever the configuration says of a channel.
    pub(crate) is_minted: bool,
    /// What the token grants; nothing is said there if `None`.
    pub(crate) grants: Option<Arc<Grants>>,
    /// When the token ends, in Unix milliseconds.
    pub(crate) expires_at_ms: Option<NonZeroU64>,
    /// When it was issued, in Unix milliseconds; 0 if that is not known.
    pub(crate) issued_at_ms: u64,
}

impl Identity {
    /// Whoever has the admin key.
    pub(crate) fn admin() -> Self {
        Self { is_admin: true, ..Self::default() }
    }

    /// Somebody who may do these things on one channel, and nothing else, for whoever has the admin key.
    pub(crate) fn minted(channel: &ChannelName, actions: &[Action], expires_at_ms: u64) -> Self {
        let list = |action: Action| {
            let named = Pattern::parse(channel.as_str()).ok().filter(|_| actions.contains(&action));
            Some(named.into_iter().collect())
        };
        let grants = Grants {
            subscribe: list(Action::Subscribe),
            history: list(Action::History),
            publish: list(Action::Publish),
            presence: list(Action::Presence),
        };
        Self {
            is_minted: true,
            grants: Some(Arc::new(grants)),
            expires_at_ms: NonZeroU64::new(expires_at_ms),
            ..Self::default()
        }
    }

    /// Whether somebody may do something on the server's own channels: reading them is for the admin key, and nobody
    /// but the server itself says anything there.
    ///
    /// # Errors
    /// `unauthenticated` if credentials could help, else `forbidden`.
    pub(crate) fn check_reserved(who: Option<&Self>, action: Action) -> Result<(), Problem> {
        let reads = matches!(action, Action::Subscribe | Action::History);
        match who {
            Some(who) if who.is_admin && reads => Ok(()),
            None if reads => {
                let detail = format!(
                    "to {} there takes the admin key: channels tidewire.* are the server's own",
                    verb(action)
                );
                Err(Problem::new(Code::Unauthenticated, detail))
            }
            _ => {
                let detail = "channels tidewire.* are the server's own: it alone publishes there, and reading \
                              them is for the admin key";
                Err(Problem::new(Code::Forbidden, detail))
            }
        }
    }
}

/// The channels that a token names for each action. `None`: it says nothing of that action.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Grants {
    subscribe: Option<Box<[Pattern]>>,
    history: Option<Box<[Pattern]>>,
    publish: Option<Box<[Pattern]>>,
    presence: Option<Box<[Pattern]>>,
}

impl Grants {
    /// Reads the claim that holds the rights, such as `{"subscribe":["chat:*"],"publish":["chat:1"]}`.
    /// Whoever is granted `subscribe` and nothing is said of `history` is granted that too.
    ///
    /// # Errors
    /// Says what is wrong with the claim: a right that cannot be read must not become one that is not there.
    pub(crate) fn of_claim(claim: Option<&Value>) -> Result<Self, String> {
        let members = match claim {
            None | Some(Value::Null) => return Ok(Self::default()),
            Some(Value::Object(members)) => members,
            Some(_) => return Err("the claim with the rights must be an object".to_owned()),
        };
        let known = ["subscribe", "history", "publish", "presence"];
        if let Some(name) = members.keys().find(|name| !known.contains(&name.as_str())) {
            let shown: String = name.chars().take(32).collect();
            return Err(format!("the right {shown:?} is unknown; known are {}", known.join(", ")));
        }
        let subscribe = patterns(members.get("subscribe"), "subscribe")?;
        let history = patterns(members.get("history"), "history")?;
        let publish = patterns(members.get("publish"), "publish")?;
        let presence = patterns(members.get("presence"), "presence")?;
        Ok(Self { subscribe, history, publish, presence })
    }

    /// The claim of which these were made.
    pub(crate) fn to_claim(&self) -> Value {
        let all = [Action::Subscribe, Action::History, Action::Publish, Action::Presence];
        let own = [&self.subscribe, &self.history, &self.publish, &self.presence];
        let named = all.into_iter().zip(own).filter_map(|(action, patterns)| {
            let list = patterns.as_ref()?.iter().map(|pattern| Value::from(pattern.to_string())).collect();
            Some((action.as_str().to_owned(), Value::Array(list)))
        });
        Value::Object(named.collect())
    }

    fn of(&self, action: Action) -> Option<&[Pattern]> {
        match action {
            Action::Subscribe => self.subscribe.as_deref(),
            Action::History => self.history.as_deref().or(self.subscribe.as_deref()),
            Action::Publish => self.publish.as_deref(),
            Action::Presence => self.presence.as_deref(),
            Action::Delete => None,
        }
    }
}

/// Grants that were made lately: users of one application have the same ones more often than not, and each stream
/// holds its own for as long as it is open.
#[derive(Debug, Default)]
pub(crate) struct RecentGrants(Mutex<VecDeque<Arc<Grants>>>);

impl RecentGrants {
    /// As [`Grants::of_claim`], shared with others who have the same.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn of_claim(&self, claim: Option<&Value>) -> Result<Option<Arc<Grants>>, String> {
        let grants = Grants::of_claim(claim)?;
        if grants == Grants::default() {
            return Ok(None);
        }
        // Nothing in here panics half-way.
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = recent.iter().find(|same| ***same == grants) {
            return Ok(Some(Arc::clone(same)));
        }
        let grants = Arc::new(grants);
        if recent.len() >= RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(Arc::clone(&grants));
        Ok(Some(grants))
    }
}

fn patterns(member: Option<&Value>, name: &str) -> Result<Option<Box<[Pattern]>>, String> {
    let Some(member) = member else { return Ok(None) };
    let wrong = || format!("the right {name} must be a list of up to {PATTERNS_MAX} patterns of channels");
    let list = member.as_array().filter(|list| list.len() <= PATTERNS_MAX).ok_or_else(wrong)?;
    let read = |item: &Value| item.as_str().ok_or_else(wrong).and_then(Pattern::parse);
    list.iter().map(read).collect::<Result<_, _>>().map(Some)
}

/// What the configuration says of a channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChannelAccess<'c> {
    /// Who may do what there, at most.
    pub(crate) rights: ChannelRights,
    /// How the channel fits its rule: it may belong to a user.
    pub(crate) fit: Fit<'c>,
}

impl ChannelAccess<'_> {
    fn allowed(&self, action: Action) -> Allowed {
        match action {
            Action::Subscribe => self.rights.subscribe,
            Action::History => self.rights.history,
            Action::Publish => self.rights.publish,
            Action::Presence => self.rights.presence,
            Action::Delete => Allowed::Nobody,
        }
    }

    /// Whether everybody may, so that an answer may be kept by caches for all.
    pub(crate) fn is_public(&self, action: Action) -> bool {
        self.allowed(action) == Allowed::Anyone && self.fit == Fit::Yes
    }

    /// Whether somebody may do it: the stricter of the configuration and the token decides.
    ///
    /// # Errors
    /// `unauthenticated` if credentials could help, else `forbidden`; both say what is missing, and neither
    /// depends on whether there is such a channel.
    pub(crate) fn check(&self, action: Action, channel: &str, who: Option<&Identity>) -> Result<(), Problem> {
        if who.is_some_and(|who| who.is_admin) {
            return Ok(());
        }
        if let Some(who) = who.filter(|who| who.is_minted) {
            let granted = who.grants.as_ref().and_then(|grants| grants.of(action));
            return match granted.is_some_and(|patterns| names(patterns, channel, who)) {
                true => Ok(()),
                false => {
                    let detail =
                        format!("the ticket is not for this: it does not grant to {} there", verb(action));
                    Err(Problem::new(Code::Forbidden, detail))
                }
            };
        }
        let allowed = self.allowed(action);
        if allowed == Allowed::Nobody {
            let detail =
                format!("only the application itself may {} there, with its admin key", verb(action));
            return Err(Problem::new(Code::Forbidden, detail));
        }
        let is_owned = matches!(self.fit, Fit::Owned(_));
        let Some(who) = who else {
            if allowed == Allowed::Anyone && !is_owned {
                return Ok(());
            }
            let detail = format!("say who you are to {} there: send a token", verb(action));
            return Err(Problem::new(Code::Unauthenticated, detail));
        };
        if let Fit::Owned(owner) = self.fit
            && who.user.as_deref() != Some(owner)
        {
            let detail =
                format!("to {} there, the token's sub must be the user that the channel names", verb(action));
            return Err(Problem::new(Code::Forbidden, detail));
        }
        let granted = who
            .grants
            .as_ref()
            .and_then(|grants| grants.of(action))
            .map(|patterns| names(patterns, channel, who));
        match (granted, allowed) {
            (Some(true), _) | (None, Allowed::Anyone | Allowed::Authenticated) => Ok(()),
            (Some(false), _) | (None, Allowed::Granted | Allowed::Nobody) => {
                let detail = format!(
                    "the token does not grant to {} there: its right {:?} must name the channel",
                    verb(action),
                    action.as_str()
                );
                Err(Problem::new(Code::Forbidden, detail))
            }
        }
    }
}

/// Whether one of the patterns names the channel. A `{sub}` in it is the token's own.
fn names(patterns: &[Pattern], channel: &str, who: &Identity) -> bool {
    patterns.iter().any(|pattern| match pattern.fit(channel) {
        Fit::No => false,
        Fit::Yes => true,
        Fit::Owned(owner) => who.user.as_deref() == Some(owner),
    })
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Subscribe => "subscribe",
        Action::History => "read what was published before",
        Action::Publish => "publish",
        Action::Presence => "see who is there, or be seen,",
        Action::Delete => "delete",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn somebody(user: Option<&str>, claim: Value) -> Identity {
        let grants = Grants::of_claim(Some(&claim)).expect("a right claim");
        Identity { user: user.map(Into::into), grants: Some(Arc::new(grants)), ..Identity::default() }
    }

    fn outcome(allowed: Allowed, fit: Fit<'_>, who: Option<&Identity>) -> Option<Code> {
        let access = ChannelAccess { rights: ChannelRights::all(allowed), fit };
        access.check(Action::Subscribe, "a:7:x", who).err().map(|problem| problem.code)
    }

    #[test]
    fn the_stricter_of_configuration_and_token_decides() {
        let silent = somebody(Some("7"), json!({}));
        let granted = somebody(Some("7"), json!({"subscribe": ["b", "a:*"]}));
        let other = somebody(Some("7"), json!({"subscribe": ["b:*"]}));
        let nothing = somebody(Some("7"), json!({"subscribe": []}));
        let (no, ask) = (Some(Code::Forbidden), Some(Code::Unauthenticated));
        for (allowed, expected) in [
            //                      nobody, silent, granted, other, nothing
            (Allowed::Anyone, [None, None, None, no, no]),
            (Allowed::Authenticated, [ask, None, None, no, no]),
            (Allowed::Granted, [ask, no, None, no, no]),
            (Allowed::Nobody, [no, no, no, no, no]),
        ] {
            let all = [None, Some(&silent), Some(&granted), Some(&other), Some(&nothing)];
            let found = all.map(|who| outcome(allowed, Fit::Yes, who));
            assert_eq!(found, expected, "{allowed:?}");
            assert_eq!(outcome(allowed, Fit::Yes, Some(&Identity::admin())), None, "{allowed:?}");
        }
    }

    #[test]
    fn a_users_channel_is_for_that_user() {
        let fit = Pattern::parse("a:{sub}:*").expect("a pattern");
        let fit = fit.fit("a:7:x");
        for allowed in [Allowed::Anyone, Allowed::Authenticated] {
            for (user, expected) in
                [(Some("7"), None), (Some("70"), Some(Code::Forbidden)), (None, Some(Code::Forbidden))]
            {
                let who = somebody(user, json!({}));
                assert_eq!(outcome(allowed, fit, Some(&who)), expected, "{allowed:?} {user:?}");
            }
            assert_eq!(outcome(allowed, fit, None), Some(Code::Unauthenticated));
        }
        let who = somebody(Some("8"), json!({"subscribe": ["a:{sub}:*"]}));
        assert_eq!(outcome(Allowed::Granted, Fit::Yes, Some(&who)), Some(Code::Forbidden));
    }

    #[test]
    fn history_follows_subscribe_unless_said() {
        let access = ChannelAccess { rights: ChannelRights::all(Allowed::Granted), fit: Fit::Yes };
        let may = |claim: Value| access.check(Action::History, "a", Some(&somebody(None, claim))).is_ok();
        assert!(may(json!({"subscribe": ["a"]})));
        assert!(may(json!({"history": ["a"]})));
        assert!(!may(json!({"subscribe": ["a"], "history": []})));
        assert!(!may(json!({"publish": ["a"]})));
    }

    #[test]
    fn presence_follows_nothing_else() {
        let access = ChannelAccess { rights: ChannelRights::all(Allowed::Granted), fit: Fit::Yes };
        let may = |claim: Value| access.check(Action::Presence, "a", Some(&somebody(None, claim))).is_ok();
        assert!(may(json!({"presence": ["a"]})));
        assert!(!may(json!({"subscribe": ["a"], "history": ["a"], "publish": ["a"]})));
    }

    #[test]
    fn a_claim_that_cannot_be_read_is_refused() {
        for claim in [
            json!("*"),
            json!({"subscribe": "*"}),
            json!({"subscribe": [1]}),
            json!({"subscribe": ["a b"]}),
            json!({"subscibe": ["a"]}),
            json!({"publish": vec!["a"; PATTERNS_MAX + 1]}),
        ] {
            assert!(Grants::of_claim(Some(&claim)).is_err(), "{claim}");
        }
        assert_eq!(Grants::of_claim(None), Ok(Grants::default()));
    }
}
