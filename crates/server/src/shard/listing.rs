//! What the admin page asks besides the statistics: pages of all channels, which another thread makes, and tickets for
//! one channel. Must not know how a page is made (`hub::looks`).

use tidewire_core::http1::{Query, Request};
use tidewire_core::{ChannelName, Code, Problem};

use super::Shard;
use crate::access::identity::{Action, Identity};
use crate::clock::wall_clock;
use crate::http::route::number;
use crate::hub::{Listed, Wanted};

/// How many channels a page has that does not say, and at the most.
const CHANNELS_DEFAULT: usize = 100;
const CHANNELS_MAX: f64 = 1000.0;
/// How long a stream lasts that began with a ticket for one channel.
const MINTED_MS: u64 = 3_600_000;

/// How far a page is.
#[derive(Debug)]
pub(super) enum Listing {
    /// It is being made, and the request must be looked at again.
    Waits,
    /// It is there, unless the request is to be refused.
    Done(Option<Result<Listed, Problem>>),
}

impl Shard {
    /// The page of the channels that a request wants.
    pub(super) fn listed(&mut self, id: u32, request: &Request<'_, '_>, who: Option<&Identity>) -> Listing {
        if !who.is_some_and(|who| who.is_admin) {
            return Listing::Done(None);
        }
        let decisions = self.connections[id as usize].decisions.as_mut();
        if let Some(listed) = decisions.and_then(|decisions| decisions.listed.take()) {
            return Listing::Done(Some(listed));
        }
        let Ok(wanted) = self.wanted(request) else { return Listing::Done(None) };
        let serial = self.connections[id as usize].serial;
        if let Err(problem) = self.operators.list(wanted, self.index, id, serial) {
            return Listing::Done(Some(Err(problem)));
        }
        self.await_decisions(id, 1);
        Listing::Waits
    }

    pub(super) fn handle_listed(&mut self, id: u32, serial: u32, listed: Result<Listed, Problem>) {
        let Some(connection) = self.connections.get_mut(id as usize) else { return };
        if let Some(decisions) = connection.decisions.as_mut().filter(|_| connection.serial == serial) {
            decisions.listed = Some(listed);
        }
        self.handle_decided(id, serial, None);
    }

    /// Which page of the channels a request wants.
    ///
    /// # Errors
    /// `invalid_parameter`.
    pub(super) fn wanted(&self, request: &Request<'_, '_>) -> Result<Wanted, Problem> {
        let query = Query::parse(request.query, &["prefix", "limit", "after"])?;
        let limit = number(query.one("limit")?, "limit", 1.0, CHANNELS_MAX)?;
        Ok(Wanted {
            prefix: query.one("prefix")?.unwrap_or_default().to_owned(),
            after: query.one("after")?.unwrap_or_default().to_owned(),
            limit: limit.map_or(CHANNELS_DEFAULT, |limit| limit as usize),
        })
    }

    /// `POST /v1/admin/tickets`: a ticket for some rights on one channel. In a URL, and so in a proxy's log, it is
    /// worth less than one that stands for the admin key.
    pub(super) fn mint(&mut self, request: &Request<'_, '_>) -> Result<serde_json::Value, Problem> {
        let query = Query::parse(request.query, &["channel", "may"])?;
        let Some(channel) = query.one("channel")? else {
            let detail = "name the channel that the ticket is for: ?channel=NAME&may=subscribe";
            return Err(Problem::new(Code::InvalidParameter, detail));
        };
        let channel = ChannelName::new(channel)?;
        if channel.is_reserved() {
            return Identity::check_reserved(None, Action::Delete).map(|()| serde_json::Value::Null);
        }
        let mut actions = Vec::new();
        for name in query.all("may") {
            let known = [Action::Subscribe, Action::History, Action::Publish];
            let Some(action) = known.into_iter().find(|action| action.as_str() == name) else {
                let detail = "may is subscribe, history or publish, each as a parameter of its own";
                return Err(Problem::new(Code::InvalidParameter, detail));
            };
            actions.push(action);
        }
        let who = Identity::minted(&channel, &actions, wall_clock().0 + MINTED_MS);
        let ticket = self.access.tickets.issue(Some(std::sync::Arc::new(who)), self.now_ms)?;
        Ok(serde_json::json!({
            "ticket": ticket,
            "expires_in_ms": self.access.tickets.ticket_ms(),
            "channel": channel.as_str(),
            "may": actions.iter().map(|action| action.as_str()).collect::<Vec<_>>(),
        }))
    }
}
