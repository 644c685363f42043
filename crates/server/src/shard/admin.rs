//! The admin API: users with streams, their disconnection, and the revocation of their tokens. Must not know how
//! users are counted (`access::users`), nor let anybody in without the admin key.

use tidewire_core::http1::{Method, Query, Request};
use tidewire_core::websocket::CloseCode;
use tidewire_core::wire::sse;
use tidewire_core::{Code, Problem, Timestamp};

use super::connection::{Goodbye, Protocol};
use super::visitors::Held;
use super::{Message, Shard};
use crate::access::Access;
use crate::access::identity::Identity;
use crate::access::revocations::Noted;
use crate::clock::wall_clock;
use crate::http::answer::Exchange;
use crate::http::route::{AdminRoute, number};
use crate::hub::{Hub, Keeper};
use crate::metrics;

/// How many users a page has that does not say.
const USERS_DEFAULT: usize = 100;
/// The largest page of users.
const USERS_MAX: f64 = 1000.0;
/// When those whom the application disconnects may be back.
const RECONNECT_AFTER_MS: [u64; 2] = [500, 3000];

/// Why the application ends a user's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expulsion {
    /// They may come back as they are.
    Disconnected,
    /// Their tokens are not good any more.
    Revoked,
}

impl Shard {
    pub(super) fn answer_admin(
        &mut self,
        request: &Request<'_, '_>,
        exchange: &Exchange,
        who: Option<&Identity>,
        route: AdminRoute,
    ) -> Result<(), Problem> {
        self.check_admin(who)?;
        let body = match route {
            AdminRoute::Start => {
                Query::parse(request.query, &[])?;
                serde_json::json!({
                    "version": env!("CARGO_PKG_VERSION"),
                    "on_admin_port": self.settings.access.admin_listen.is_some(),
                })
            }
            // Read like any channel, before this.
            AdminRoute::Statistics => serde_json::Value::Null,
            AdminRoute::Channels(listed) => {
                self.wanted(request)?;
                let listed = listed.transpose()?;
                serde_json::to_value(listed).unwrap_or_default()
            }
            AdminRoute::Tickets => {
                let body = self.mint(request)?;
                exchange.json(
                    &mut self.out,
                    201,
                    &[("Cache-Control", "no-store")],
                    body.to_string().as_bytes(),
                );
                return Ok(());
            }
            AdminRoute::Drain => {
                Query::parse(request.query, &[])?;
                self.gauges.drain.ask();
                serde_json::json!({"draining": true})
            }
            AdminRoute::Servers => {
                Query::parse(request.query, &[])?;
                self.servers()
            }
            AdminRoute::Users => self.page_of_users(request)?,
            AdminRoute::User(user) => {
                Query::parse(request.query, &[])?;
                self.user(&user)
            }
            AdminRoute::Disconnect(user) => {
                Query::parse(request.query, &[])?;
                let connections = self.expel(&user, Expulsion::Disconnected);
                let told = self.others();
                serde_json::json!({"user": user, "connections": connections, "servers_told": told})
            }
            AdminRoute::Revoke(user) => {
                Query::parse(request.query, &[])?;
                let now = wall_clock();
                self.access.revocations.revoke(&user, now.0)?;
                let connections = self.expel(&user, Expulsion::Revoked);
                let told = self.others();
                serde_json::json!({
                    "user": user,
                    "connections": connections,
                    "servers_told": told,
                    "revoked_at": now.to_string(),
                })
            }
        };
        exchange.json(&mut self.out, 200, &[("Cache-Control", "no-store")], body.to_string().as_bytes());
        Ok(())
    }

    pub(super) fn check_admin(&self, who: Option<&Identity>) -> Result<(), Problem> {
        match who {
            Some(who) if who.is_admin => Ok(()),
            Some(_) => Err(Problem::new(Code::Forbidden, "the admin API takes the admin key, and no token")),
            None if self.settings.access.admin_key.is_none() => {
                let detail =
                    "there is no admin key: configure auth.admin_key_file, or set TIDEWIRE_ADMIN_KEY";
                Err(Problem::new(Code::Forbidden, detail))
            }
            None => {
                let detail = "the admin API takes the admin key: send Authorization: Bearer with it";
                Err(Problem::new(Code::Unauthenticated, detail))
            }
        }
    }

    fn page_of_users(&self, request: &Request<'_, '_>) -> Result<serde_json::Value, Problem> {
        let query = Query::parse(request.query, &["limit", "after"])?;
        let limit = number(query.one("limit")?, "limit", 1.0, USERS_MAX)?;
        let limit = limit.map_or(USERS_DEFAULT, |limit| limit as usize);
        let page = self.access.users.page(query.one("after")?.unwrap_or_default(), limit + 1);
        let shown = &page[..page.len().min(limit)];
        let users: Vec<_> = shown
            .iter()
            .map(|seen| {
                serde_json::json!({
                    "user": &*seen.user,
                    "connections": seen.connections,
                    "subscriptions": seen.subscriptions,
                })
            })
            .collect();
        let more = page.len() > limit;
        Ok(serde_json::json!({"users": users, "count": self.access.users.count(), "more": more}))
    }

    fn user(&self, user: &str) -> serde_json::Value {
        let places = self.access.users.places(user);
        let connections: Vec<_> = places
            .iter()
            .map(|place| {
                serde_json::json!({
                    "connection": format!("{}-{}", place.shard, place.serial),
                    "transport": place.transport.as_str(),
                    "since": Timestamp(u64::from(place.since_seconds) * 1000).to_string(),
                })
            })
            .collect();
        serde_json::json!({"user": user, "connections": connections})
    }

    /// How many servers there are beside this one.
    fn others(&self) -> usize {
        self.gauges.peers.as_ref().map_or(0, |peers| peers.others())
    }

    /// All servers that share the backplane; without one, this one is alone.
    fn servers(&self) -> serde_json::Value {
        let Some(peers) = &self.gauges.peers else {
            let sources = metrics::Sources { gauges: &self.gauges, hub: &self.hub, access: &self.access };
            let alone = metrics::brief(sources, self.now_ms * 1000, &mut metrics::Glance::default());
            let sums = metrics::together(std::iter::once(&alone));
            return serde_json::json!({"servers": [alone], "cluster": sums});
        };
        peers.view()
    }

    fn expel(&mut self, user: &str, why: Expulsion) -> usize {
        expel(&self.hub, &self.access, user, why)
    }

    /// Has all other servers do the same, before this one does it and says so.
    pub(super) fn announce_first(
        &mut self,
        id: u32,
        request: &Request<'_, '_>,
        route: &AdminRoute,
        who: Option<&Identity>,
    ) -> Result<(), Held> {
        let (subject, what, is_kept) = match route {
            AdminRoute::Disconnect(user) => (format!("{DISCONNECTED}{user}"), String::new(), false),
            AdminRoute::Revoke(user) => (format!("{REVOKED}{user}"), wall_clock().0.to_string(), true),
            _ => return Ok(()),
        };
        if request.method != Method::Post || self.check_admin(who).is_err() {
            return Ok(()); // whoever answers says so
        }
        let connection = &mut self.connections[id as usize];
        if let Some(outcome) = connection.decisions.as_mut().and_then(|decisions| decisions.announced.take())
        {
            return Ok(outcome?);
        }
        let place = (self.index, id, connection.serial);
        if let Some(Keeper::Backplane(backplane)) = self.hub.keeper() {
            backplane.announce((subject, what), is_kept, place)?;
            self.await_decisions(id, 1);
            return Err(Held::Waits);
        }
        Ok(())
    }

    /// All servers know, or the backplane is away.
    pub(super) fn handle_announced(&mut self, id: u32, serial: u32, outcome: Result<(), Problem>) {
        let Some(connection) = self.connections.get_mut(id as usize) else { return };
        if let Some(decisions) = connection.decisions.as_mut().filter(|_| connection.serial == serial) {
            decisions.announced = Some(outcome);
            self.handle_decided(id, serial, None);
        }
    }

    /// The application ends a stream of this shard.
    pub(super) fn handle_expulsion(&mut self, id: u32, serial: u32, why: Expulsion) {
        let Some(connection) = self.connections.get(id as usize) else { return };
        if connection.serial != serial || connection.lease.is_none() {
            return;
        }
        let (code, reason) = match why {
            Expulsion::Disconnected => (CloseCode::DISCONNECTED, "disconnected"),
            Expulsion::Revoked => (CloseCode::REVOKED, "revoked"),
        };
        match &connection.protocol {
            Protocol::WebSocket(_) => self.start_closing(id, Goodbye::frame(code, reason)),
            Protocol::EventStream { .. } if why == Expulsion::Disconnected => {
                let mut last = Vec::new();
                sse::reconnect(&mut last, RECONNECT_AFTER_MS, reason);
                self.start_closing(id, Goodbye { last: last.into(), code });
            }
            Protocol::EventStream { .. } | Protocol::LongPoll(_) => {
                self.start_closing(id, Goodbye::quiet(code))
            }
            _ => {}
        }
    }
}

/// Ends all streams of a user, on whichever shard they are; gives how many there are.
fn expel(hub: &Hub, access: &Access, user: &str, why: Expulsion) -> usize {
    let places = access.users.places(user);
    for place in &places {
        let (connection, serial) = (place.connection, place.serial);
        let inbox = &hub.inboxes()[usize::from(place.shard)];
        inbox.push(Message::Expel { connection, serial, why });
    }
    places.len()
}

/// How subjects begin that are announced, before the user.
const DISCONNECTED: &str = "disconnected:";
const REVOKED: &str = "revoked:";

/// Does here what another server announced. False if it is too old to matter.
pub(crate) fn heed(hub: &Hub, access: &Access, subject: &str, what: &str) -> bool {
    if let Some(user) = subject.strip_prefix(DISCONNECTED) {
        expel(hub, access, user, Expulsion::Disconnected);
    } else if let (Some(user), Ok(at_ms)) = (subject.strip_prefix(REVOKED), what.parse()) {
        match access.revocations.note(user, at_ms, wall_clock().0) {
            Noted::New => {
                expel(hub, access, user, Expulsion::Revoked);
            }
            Noted::Known => {}
            Noted::Outdated => return false,
        }
    }
    true
}

impl AdminRoute {
    /// Whether the route changes something.
    pub(crate) fn method(&self) -> Method {
        match self {
            Self::Start
            | Self::Statistics
            | Self::Channels(_)
            | Self::Servers
            | Self::Users
            | Self::User(_) => Method::Get,
            Self::Tickets | Self::Drain | Self::Disconnect(_) | Self::Revoke(_) => Method::Post,
        }
    }
}
