//! Who comes: what stands between a request's head and its route. Must not know tokens (`access`) or what routes do.

use std::sync::Arc;

use tidewire_core::http1::{Method, Request};
use tidewire_core::{ChannelName, Problem};

use super::connection::Protocol;
use super::{Message, Shard};
use crate::access::callback::{Key, Verdict};
use crate::access::identity::{Action, Identity};
use crate::access::origin::Origin;
use crate::access::sealed::Opened;
use crate::access::{Identified, Stopped, Who, tickets};
use crate::clock::wall_clock;
use crate::http::answer::Cors;
use crate::http::route::Route;
use crate::hub::Keeper;

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

/// How far the clocks of servers may differ that know each other's tickets.
const TICKET_CLOCKS_MS: u64 = 600_000;

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
        if let Some(problem) = self.refusal(id) {
            return Some(Visit { who: Err(problem), cors: Cors::Silent });
        }
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
        // A preflight comes without credentials, whatever follows it; and where nobody can show who they are, nobody
        // is asked.
        let is_asked = |route: &&Route| route.asks_who() && request.method != Method::Options;
        let route = route.filter(is_asked).filter(|_| self.access.asks_anything());
        let outcome = match route {
            Some(route) => match self.find_client(id, request) {
                Ok(_) => self.find_out(id, request, &origin, route),
                Err(problem) => Err(problem.into()),
            },
            None => Ok(None),
        };
        match outcome {
            Ok(who) => Some(Visit { who: Ok(who), cors }),
            Err(Held::Refused(problem)) => Some(Visit { who: Err(problem), cors }),
            Err(Held::Waits) => None,
        }
    }

    fn find_out(
        &mut self,
        id: u32,
        request: &Request<'_, '_>,
        origin: &Origin,
        route: &Route,
    ) -> Result<Who, Held> {
        let decisions = self.connections[id as usize].decisions.as_ref();
        let identified = match decisions.and_then(|decisions| decisions.identified.clone()) {
            Some(identified) => identified,
            None => self.identify(id, request, origin)?,
        };
        if self.access.callback.is_none() {
            return Ok(identified.who);
        }
        let outcome = self.ask_about_request(id, request, origin, route, &identified);
        if let (Err(Held::Waits), Some(decisions)) = (&outcome, &mut self.connections[id as usize].decisions)
        {
            decisions.identified = Some(identified);
        }
        outcome
    }

    fn identify(&mut self, id: u32, request: &Request<'_, '_>, origin: &Origin) -> Result<Identified, Held> {
        let times = (self.now_ms, wall_clock().0);
        match self.access.identify(request, origin, times, self.is_decided(id)) {
            Ok(identified) => Ok(identified),
            Err(Stopped::Refused(problem)) => Err(problem.into()),
            Err(Stopped::KeysWanted(issuer)) => {
                self.await_keys(id, issuer);
                Err(Held::Waits)
            }
            Err(Stopped::Spends(opened)) => self.spend(id, opened),
        }
    }

    /// Spends a ticket that any server may know: whoever comes first with it has it.
    fn spend(&mut self, id: u32, opened: Opened) -> Result<Identified, Held> {
        let connection = &self.connections[id as usize];
        let spent = connection.decisions.as_ref().and_then(|decisions| decisions.spent.as_ref());
        match spent {
            Some(Ok(true)) => return Ok(Identified { who: opened.who, by_ticket: true }),
            Some(Ok(false)) => return Err(tickets::refused().into()),
            Some(Err(problem)) => return Err(problem.clone().into()),
            None => {}
        }
        let (shard, serial) = (self.index, connection.serial);
        let Some(Keeper::Backplane(backplane)) = self.hub.keeper() else {
            return Err(tickets::refused().into());
        };
        // As long as it is good, and a while longer, as clocks differ.
        let keep_ms = self.access.tickets.ticket_ms() * 2 + TICKET_CLOCKS_MS;
        backplane.spend(opened.number, keep_ms, shard, id, serial)?;
        self.await_decisions(id, 1);
        Err(Held::Waits)
    }

    /// The backplane says whether a ticket was good.
    pub(super) fn handle_spent(&mut self, id: u32, serial: u32, spent: Result<bool, Problem>) {
        let Some(connection) = self.connections.get_mut(id as usize) else { return };
        if let Some(decisions) = connection.decisions.as_mut().filter(|_| connection.serial == serial) {
            decisions.spent = Some(spent);
            self.handle_decided(id, serial, None);
        }
    }

    /// The connection is not read until the keys have been asked for.
    pub(super) fn await_keys(&mut self, id: u32, issuer: usize) {
        self.await_decisions(id, 1);
        let (inbox, serial) = (Arc::clone(&self.inbox), self.connections[id as usize].serial);
        let done = move || inbox.push(Message::Decided { connection: id, serial, verdict: None });
        self.access.fetch_keys(issuer, done);
    }

    /// The connection is not read until others have decided.
    pub(super) fn await_decisions(&mut self, id: u32, count: u32) {
        let deadline = self.now_ms + DECISION_MS;
        let connection = &mut self.connections[id as usize];
        connection.decisions.get_or_insert_default().outstanding += count;
        if let Protocol::Http { deadline_ms, begun } = &mut connection.protocol {
            (*deadline_ms, *begun) = (deadline, false);
        }
    }

    /// Something that a connection waited for has been decided. Once all is, it may be read again.
    pub(super) fn handle_decided(&mut self, id: u32, serial: u32, verdict: Option<(Key, Verdict)>) {
        let Some(connection) = self.connections.get_mut(id as usize) else { return };
        let Some(decisions) = connection.decisions.as_mut().filter(|_| connection.serial == serial) else {
            return;
        };
        decisions.outstanding = decisions.outstanding.saturating_sub(1);
        decisions.verdicts.extend(verdict);
        if decisions.outstanding == 0 {
            self.queue(id);
        }
    }

    /// Whether what the connection's request or message waited for is decided.
    pub(super) fn is_decided(&self, id: u32) -> bool {
        self.connections[id as usize].decisions.as_ref().is_some_and(|decisions| decisions.outstanding == 0)
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
        if let (Action::Subscribe | Action::History, Some(subject)) = (action, channel.subject_of_presence())
        {
            return self.check(who, Action::Presence, &subject);
        }
        if channel.is_reserved() {
            return Identity::check_reserved(who, action);
        }
        if self.access.opens_everything {
            return Ok(());
        }
        self.settings.access_of(channel.as_str()).check(action, channel.as_str(), who)
    }

    /// Whether what these channels hold is not for everybody to read.
    pub(super) fn is_private(&self, channels: &[ChannelName]) -> bool {
        let is_public =
            |name: &ChannelName| self.settings.access_of(name.as_str()).is_public(Action::History);
        !channels.iter().all(|name| (self.access.opens_everything && !name.is_reserved()) || is_public(name))
    }
}
