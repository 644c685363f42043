//! Channels at the backplane must be followed by this node before anybody reads them here: requests and messages wait
//! for that, unread. Must not know how a channel is followed.

use tidewire_core::ChannelName;
use tidewire_core::cursor::{Since, Start};
use tidewire_core::http1::{Method, Request};

use super::Shard;
use super::visitors::Held;
use crate::access::Who;
use crate::access::identity::Action;
use crate::http::read::parse_since;
use crate::http::route::{ReadRequest, Route};

impl Shard {
    /// Sees to it that the channels that a request reads are followed. What is wrong with the request is said by those
    /// who act on it.
    pub(super) fn follow_for_request(
        &mut self,
        id: u32,
        request: &Request<'_, '_>,
        route: &Route,
        who: &Who,
    ) -> Result<(), Held> {
        // Whoever begins now must not get what was acknowledged before; whoever asks for what is there must get that.
        let mut is_fresh = false;
        let (channels, since) = match route {
            _ if !matches!(request.method, Method::Get | Method::Head) => return Ok(()),
            Route::ChannelEvents(channel) => {
                let limits = &self.settings.limits;
                let Ok(read) = ReadRequest::parse(request, Some(channel.clone()), limits) else {
                    return Ok(());
                };
                is_fresh = read.wait_ms.is_none() && !request.accepts_event_stream();
                (read.channels, read.since)
            }
            Route::Events => {
                let Ok(read) = ReadRequest::parse(request, None, &self.settings.limits) else {
                    return Ok(());
                };
                is_fresh = read.wait_ms.is_none() && !request.accepts_event_stream();
                (read.channels, read.since)
            }
            Route::Channel(channel) => {
                is_fresh = true;
                (vec![channel.clone()], None)
            }
            Route::ChannelWebSocket(channel) => {
                let since = tidewire_core::http1::Query::parse(request.query, &["since", "ticket"]);
                let since = since.ok().and_then(|query| query.one("since").ok().flatten().map(str::to_owned));
                (vec![channel.clone()], since)
            }
            Route::Presence(channel) => {
                let Ok(presence) = channel.presence() else { return Ok(()) };
                is_fresh = true;
                (vec![presence], None)
            }
            _ => return Ok(()),
        };
        let last_seen =
            request.header("last-event-id").ok().flatten().filter(|_| request.accepts_event_stream());
        let since = parse_since(last_seen.or(since.as_deref())).ok().flatten();
        let may = |action| channels.iter().all(|name| self.check(who.as_deref(), action, name).is_ok());
        if !may(Action::Subscribe) && !may(Action::History) {
            return Ok(());
        }
        self.follow_channels(id, &channels, since.as_ref(), is_fresh)
    }

    /// As [`Self::follow_for_request`] for a WebSocket's message.
    pub(super) fn follow_channels(
        &mut self,
        id: u32,
        channels: &[ChannelName],
        since: Option<&Since>,
        is_fresh: bool,
    ) -> Result<(), Held> {
        let is_fresh = is_fresh || since.is_none_or(|since| *since == Since::Latest);
        let decisions = self.connections[id as usize].decisions.as_mut();
        let (asked_again, unreachable) = match decisions {
            Some(decisions) => (decisions.asked_again, decisions.unreachable.take()),
            None => (false, None),
        };
        let (shard, serial) = (self.index, self.connections[id as usize].serial);
        let mut count = 0;
        let mut asks_again = false;
        for name in channels {
            let Some(backplane) = self.hub.backplane_of(name.as_str()) else { continue };
            if let Some(channel) = self.hub.followed(name) {
                let epoch = channel.epoch();
                let start =
                    since.map_or(Start::Latest, |since| since.in_channel(epoch, &[epoch], Start::Latest));
                let start = match since {
                    Some(Since::Cursor(cursor)) => cursor.offset_in(epoch).map_or(start, Start::After),
                    _ => start,
                };
                let is_behind = channel.is_behind(start);
                let is_away = unreachable.is_some() || backplane.is_away(name.as_str());
                // While the broker is away, what is here is the newest that can be had.
                if !is_behind && (asked_again || !is_fresh || is_away) || (asked_again && !is_away) {
                    continue;
                }
                asks_again = true;
            }
            if let Some(problem) = unreachable {
                return Err(problem.into());
            }
            asks_again |= is_fresh;
            backplane.visit(name, shard, id, serial)?;
            count += 1;
        }
        if count == 0 {
            return Ok(());
        }
        self.await_decisions(id, count);
        if let Some(decisions) = &mut self.connections[id as usize].decisions {
            decisions.asked_again |= asks_again;
        }
        Err(Held::Waits)
    }

    /// A channel is followed, or cannot be.
    pub(super) fn handle_followed(
        &mut self,
        id: u32,
        serial: u32,
        outcome: Result<(), tidewire_core::Problem>,
    ) {
        let Some(connection) = self.connections.get_mut(id as usize) else { return };
        if connection.serial != serial {
            return;
        }
        if let (Some(decisions), Err(problem)) = (&mut connection.decisions, outcome) {
            decisions.unreachable = Some(problem);
        }
        self.handle_decided(id, serial, None);
    }
}
