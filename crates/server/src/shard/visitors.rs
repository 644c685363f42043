//! Who comes: what stands between a request's head and its route. Must not know tokens (`access`) or what routes do.

use std::sync::Arc;

use tidewire_core::http1::{Method, Request};
use tidewire_core::{ChannelName, Problem};

use super::connection::{Decision, Protocol};
use super::{Message, Shard};
use crate::access::identity::{Action, Identity};
use crate::access::origin::Origin;
use crate::access::{Stopped, Who};
use crate::clock::wall_clock;
use crate::http::answer::Cors;
use crate::http::route::Route;

/// Why a message has no effect yet.
#[derive(Debug)]
pub(super) enum Held {
    /// It is refused.
    Refused(Problem),
    /// Somebody else decides, and it must be looked at again then.
    Waits,
}

impl From<Problem> for Held {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

/// How long a request may wait for what decides about it. Whoever decides has a shorter time of their own.
const DECISION_MS: u64 = 60_000;

/// Who sent a request, and what their browser may be told.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) who: Result<Who, Problem>,
    pub(super) cors: Cors,
}

impl Shard {
    /// Finds out who sent a request. `None`: that takes a while, and the request must be looked at again then.
    pub(super) fn visit(
        &mut self,
        id: u32,
        request: &Request<'_, '_>,
        route: Option<&Route>,
    ) -> Option<Visit> {
        let origin = match self.access.origins.judge(request) {
            Ok(origin) => origin,
            Err(problem) => return Some(Visit { who: Err(problem), cors: Cors::Silent }),
        };
        let cors = match &origin {
            Origin::Absent | Origin::Own if self.access.origins.vary() => Cors::Varies,
            Origin::Absent | Origin::Own => Cors::Silent,
            Origin::Listed(page) => Cors::Page(Arc::clone(page)),
            Origin::Below(page) => Cors::Other(Arc::clone(page)),
            Origin::All => Cors::All,
        };
        // A preflight comes without credentials, whatever follows it.
        if request.method == Method::Options || !route.is_some_and(Route::asks_who) {
            return Some(Visit { who: Ok(None), cors });
        }
        let times = (self.now_ms, wall_clock().0);
        let last_try = self.is_decided(id);
        match self.access.identify(request, &origin, times, last_try) {
            Ok(who) => Some(Visit { who: Ok(who), cors }),
            Err(Stopped::Refused(problem)) => Some(Visit { who: Err(problem), cors }),
            Err(Stopped::KeysWanted(issuer)) => {
                self.await_keys(id, issuer);
                None
            }
        }
    }

    /// The connection is not read until the keys have been asked for.
    pub(super) fn await_keys(&mut self, id: u32, issuer: usize) {
        let deadline_ms = self.now_ms + DECISION_MS;
        let connection = &mut self.connections[id as usize];
        connection.decision = Decision::Awaited;
        if let Protocol::Http { deadline_ms: deadline, begun } = &mut connection.protocol {
            (*deadline, *begun) = (deadline_ms, false);
        }
        let (inbox, serial) = (Arc::clone(&self.inbox), connection.serial);
        self.access.fetch_keys(issuer, move || inbox.push(Message::Decided { connection: id, serial }));
    }

    /// What a connection waited for has been decided: it may be read again.
    pub(super) fn handle_decided(&mut self, id: u32, serial: u32) {
        let Some(connection) = self.connections.get_mut(id as usize) else { return };
        if connection.serial == serial && connection.decision == Decision::Awaited {
            connection.decision = Decision::Made;
            self.queue(id);
        }
    }

    /// Whether what the connection's request or message waited for is decided.
    pub(super) fn is_decided(&self, id: u32) -> bool {
        self.connections[id as usize].decision == Decision::Made
    }

    /// Whether somebody may do something on a channel.
    ///
    /// # Errors
    /// `unauthenticated`, `forbidden`.
    pub(super) fn check(
        &self,
        who: Option<&Identity>,
        action: Action,
        channel: &ChannelName,
    ) -> Result<(), Problem> {
        if self.settings.opens_everything() {
            return Ok(());
        }
        self.settings.access_of(channel.as_str()).check(action, channel.as_str(), who)
    }

    /// Whether what these channels hold is not for everybody to read.
    pub(super) fn is_private(&self, channels: &[ChannelName]) -> bool {
        let is_public =
            |name: &ChannelName| self.settings.access_of(name.as_str()).is_public(Action::History);
        !self.settings.opens_everything() && !channels.iter().all(is_public)
    }
}
