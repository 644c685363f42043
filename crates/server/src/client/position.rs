//! How far a subscription has come on each of its channels, and which events it has seen lately.
//! Pure state; must not know a transport. Ids are opaque here, as PROTOCOL.md section 1 demands.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// How many ids of a channel are remembered to tell a repeated event from a new one. A correct server
/// never repeats; this keeps "exactly once" where something between here and there does.
const REMEMBERED: usize = 1024;

/// Where a subscription stands.
#[derive(Debug, Clone)]
pub(super) struct Position {
    channels: Vec<String>,
    since: Option<String>,
    /// What the server last gave as the cursor over all channels.
    whole: Option<String>,
    /// The id reached on single channels since `whole`.
    ids: HashMap<String, String>,
}

impl Position {
    /// Before the first answer: at `since`, a cursor or one of the words, or at the default.
    pub(super) fn new(channels: Vec<String>, since: Option<String>) -> Self {
        Self { channels, since, whole: None, ids: HashMap::new() }
    }

    /// The channels, each once.
    pub(super) fn channels(&self) -> &[String] {
        &self.channels
    }

    /// One channel stands right after `id`.
    pub(super) fn reached(&mut self, channel: &str, id: &str) {
        self.ids.insert(channel.to_owned(), id.to_owned());
    }

    /// All channels together stand at `cursor`.
    pub(super) fn reached_all(&mut self, cursor: &str) {
        self.ids.clear();
        self.whole = Some(cursor.to_owned());
    }

    /// What to ask for on one channel.
    pub(super) fn since_of(&self, channel: &str) -> Option<String> {
        self.ids.get(channel).or(self.whole.as_ref()).or(self.since.as_ref()).cloned()
    }

    /// What to ask for on all channels at once. While the ids of some are not known, the last cursor over
    /// all of them: that may repeat events, which [`Recent`] tells, but loses none.
    pub(super) fn since_of_all(&self) -> Option<String> {
        self.cursor().or_else(|| self.since.clone())
    }

    /// The cursor at which another run can go on, once the server has given one over all channels: what
    /// the user gave may be no cursor at all.
    pub(super) fn cursor(&self) -> Option<String> {
        self.joined().or_else(|| self.whole.clone())
    }

    fn joined(&self) -> Option<String> {
        let ids: Option<Vec<&str>> =
            self.channels.iter().map(|channel| self.ids.get(channel).map(String::as_str)).collect();
        ids.map(|ids| ids.join("."))
    }
}

/// The events seen lately.
#[derive(Debug, Default)]
pub(super) struct Recent(HashMap<String, Seen>);

#[derive(Debug, Default)]
struct Seen {
    order: VecDeque<Arc<str>>,
    ids: HashSet<Arc<str>>,
}

impl Recent {
    /// Takes in an event's id. False if this event has been seen already.
    pub(super) fn handle_event(&mut self, channel: &str, id: &str) -> bool {
        if !self.0.contains_key(channel) {
            self.0.insert(channel.to_owned(), Seen::default());
        }
        self.0.get_mut(channel).is_some_and(|seen| seen.insert(id))
    }
}

impl Seen {
    fn insert(&mut self, id: &str) -> bool {
        let id: Arc<str> = Arc::from(id);
        if !self.ids.insert(Arc::clone(&id)) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(channels: &[&str], since: Option<&str>) -> Position {
        Position::new(channels.iter().map(|&name| name.to_owned()).collect(), since.map(str::to_owned))
    }

    #[test]
    fn one_channel_stands_at_its_last_event() {
        let mut position = position(&["a"], Some("earliest"));
        assert_eq!(position.since_of_all().as_deref(), Some("earliest"));
        assert_eq!(position.cursor(), None);
        position.reached_all("e-0");
        position.reached("a", "e-1");
        assert_eq!(position.cursor().as_deref(), Some("e-1"));
    }

    #[test]
    fn several_channels_join_their_ids_once_all_are_known() {
        let mut position = position(&["a", "b"], Some("x-1.y-2"));
        position.reached("a", "x-5");
        assert_eq!(position.since_of("a").as_deref(), Some("x-5"));
        assert_eq!(position.since_of("b").as_deref(), Some("x-1.y-2"));
        assert_eq!(position.since_of_all().as_deref(), Some("x-1.y-2"), "b may not lose its place");
        assert_eq!(position.cursor(), None);
        position.reached("b", "y-7");
        assert_eq!(position.cursor().as_deref(), Some("x-5.y-7"));
        position.reached_all("x-9.y-9");
        assert_eq!(position.cursor().as_deref(), Some("x-9.y-9"));
        position.reached("b", "y-10");
        assert_eq!(position.cursor().as_deref(), Some("x-9.y-9"), "which part is b's is not known here");
    }

    #[test]
    fn tells_repeated_events_of_each_channel_within_a_bound() {
        let mut recent = Recent::default();
        assert!(recent.handle_event("a", "e-0"));
        assert!(!recent.handle_event("a", "e-0"));
        assert!(recent.handle_event("b", "e-0"));
        for number in 1..=REMEMBERED {
            assert!(recent.handle_event("a", &format!("e-{number}")));
        }
        assert_eq!(recent.0["a"].ids.len(), REMEMBERED);
        assert!(recent.handle_event("a", "e-0"), "forgotten after {REMEMBERED} others");
    }
}
