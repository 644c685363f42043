//! One request after the other: finds its route and answers it, or turns the connection into a stream.
//! Must not know sockets: answers go to `out`.

use tidewire_core::cursor::Start;
use tidewire_core::http1::{BodyLength, Method, Query, Request, if_none_match};
use tidewire_core::websocket::CloseCode;
use tidewire_core::{ChannelName, Code, Problem};

use super::Shard;
use super::connection::{Goodbye, Protocol};
use super::listing::Listing;
use super::long_poll::Reply;
use super::visitors::{Held, Visit};
use super::watch::announced;
use crate::access::identity::Action;
use crate::access::{Who, origin};
use crate::http::answer::Exchange;
use crate::http::pages::{self, Page};
use crate::http::read::{begin, parse_since};
use crate::http::route::{AdminRoute, ReadRequest, Route};
use crate::{metrics, operators};

impl Shard {
    /// Acts on a request; `rest` is what follows its head. False if it must wait, and is to be looked at again.
    pub(super) fn handle_request(&mut self, id: u32, request: &Request<'_, '_>, rest: &mut &[u8]) -> bool {
        let mut route = Route::of(request.path);
        let Some(Visit { mut who, cors }) = self.visit(id, request, route.as_ref().ok()) else {
            return false;
        };
        if self.hub.has_backplane()
            && let (Ok(route), Ok(known)) = (&route, &who)
        {
            match self.follow_for_request(id, request, route, &known.clone()) {
                Ok(()) => {}
                Err(Held::Waits) => return false,
                Err(Held::Refused(problem)) => who = Err(problem),
            }
        }
        if self.hub.has_backplane()
            && let (Ok(Route::Admin(route)), Ok(known)) = (&route, &who)
        {
            match self.announce_first(id, request, route, known.clone().as_deref()) {
                Ok(()) => {}
                Err(Held::Waits) => return false,
                Err(Held::Refused(problem)) => who = Err(problem),
            }
        }
        if matches!(route, Ok(Route::Metrics)) && !self.is_surveyed(id) {
            return false;
        }
        if let (Ok(Route::Admin(AdminRoute::Channels(page))), Ok(who)) = (&mut route, &who) {
            match self.listed(id, request, who.as_deref()) {
                Listing::Waits => return false,
                Listing::Done(listed) => *page = listed,
            }
        }
        self.connections[id as usize].decisions = None;
        self.connections[id as usize].protocol = self.between_requests();
        self.counters.requests.add(1);
        let mut exchange = Exchange {
            keep_alive: request.keep_alive && self.may_stay(id),
            version: request.version,
            head_only: request.method == Method::Head,
            private: false,
            cors,
        };
        let publishes = request.method == Method::Post
            && matches!(route, Ok(Route::ChannelEvents(_) | Route::Presence(_)));
        if request.body != BodyLength::Known(0) && !publishes {
            // Nobody wants this body; not reading it is simpler than skipping it.
            exchange.keep_alive = false;
        }
        let on_admin_port = self.connections[id as usize].on_admin_port;
        let has_admin_port = self.settings.access.admin_listen.is_some();
        let tries = on_admin_port && is_of_admin(&who);
        let outcome = match route {
            Ok(Route::Other) if self.page(request.path).is_none() && request.path != "*" => {
                Err(not_found(request.path))
            }
            Ok(route)
                if !(route.is_here(on_admin_port, has_admin_port) || (tries && route.is_of_channels())) =>
            {
                Err(not_found(request.path))
            }
            Ok(route) if route.has(request.method) => {
                who.and_then(|who| self.handle_route(id, route, request, (exchange.clone(), who), rest))
            }
            Ok(route) => {
                self.refuse_method(id, &route, exchange);
                return true;
            }
            Err(problem) => Err(problem),
        };
        if let Err(problem) = outcome {
            exchange.keep_alive &= !publishes;
            if self.connections[id as usize].owed > 0 {
                self.owe_problem(id, exchange, problem);
                return true;
            }
            self.connections[id as usize].end_stream();
            self.counters.note_refused(&problem);
            self.log_refused(id, &problem);
            if problem.is_about_load() && request.method == Method::Get && request.accepts_event_stream() {
                exchange.keep_alive = false;
                exchange.end_of_stream(&mut self.out, &problem);
            } else {
                exchange.problem(&mut self.out, &problem, &[]);
            }
            self.after_answer(id, exchange.keep_alive);
        }
        true
    }

    fn handle_route(
        &mut self,
        id: u32,
        route: Route,
        request: &Request<'_, '_>,
        (exchange, who): (Exchange, Who),
        rest: &mut &[u8],
    ) -> Result<(), Problem> {
        if request.method == Method::Options {
            self.answer_options(&route, request, &exchange);
            self.after_answer(id, exchange.keep_alive);
            return Ok(());
        }
        match route {
            Route::ChannelEvents(channel) if request.method == Method::Post => {
                self.check(who.as_deref(), Action::Publish, &channel)?;
                self.take_message(id, who.as_deref(), announced(request))?;
                return self.handle_publish(id, request, (exchange, who), channel, rest);
            }
            Route::Presence(channel) => {
                self.check(who.as_deref(), Action::Presence, &channel)?;
                match request.method {
                    Method::Post => {
                        self.take_message(id, who.as_deref(), announced(request))?;
                        return self.handle_entry(id, request, (exchange, who), channel, rest);
                    }
                    Method::Delete => self.answer_leaving(request, &exchange, who.as_deref(), &channel)?,
                    _ => return self.answer_snapshot(id, request, exchange, channel.presence()?),
                }
            }
            Route::ChannelEvents(channel) => {
                return self.handle_read(id, request, exchange, who, Some(channel));
            }
            Route::Events => return self.handle_read(id, request, exchange, who, None),
            Route::WebSocket => return self.open_websocket(id, request, who, None),
            Route::ChannelWebSocket(channel) => return self.open_websocket(id, request, who, Some(channel)),
            Route::Channel(channel) if request.method == Method::Delete => {
                self.check(who.as_deref(), Action::Delete, &channel)?;
                Query::parse(request.query, &[])?;
                return self.delete(id, &channel, exchange);
            }
            Route::Channel(channel) => {
                self.check(who.as_deref(), Action::History, &channel)?;
                return self.answer_snapshot(id, request, exchange, channel);
            }
            Route::Tickets => {
                self.take_message(id, who.as_deref(), 0)?;
                self.answer_ticket(request, &exchange, who)?;
            }
            Route::Admin(AdminRoute::Statistics) => {
                self.check_admin(who.as_deref())?;
                let channel = ChannelName::new(operators::CHANNEL)?;
                return self.handle_read(id, request, exchange, who, Some(channel));
            }
            Route::AdminPage => self.answer_admin_page(request, &exchange)?,
            Route::Admin(route) => self.answer_admin(request, &exchange, who.as_deref(), route)?,
            Route::Health | Route::Ready | Route::Metrics => {
                self.answer_status(&route, request, &exchange)?
            }
            Route::Other => self.answer_page(request, &exchange)?,
        }
        self.after_answer(id, exchange.keep_alive);
        Ok(())
    }

    /// `OPTIONS`, which browsers ask before they let a page send what is not simple (Fetch, "CORS-preflight").
    fn answer_options(&mut self, route: &Route, request: &Request<'_, '_>, exchange: &Exchange) {
        let mut fields = vec![("Allow", route.allow())];
        let is_preflight = request.headers("access-control-request-method").next().is_some();
        if is_preflight && exchange.cors.names_page() {
            fields.extend([
                ("Access-Control-Allow-Methods", route.allow()),
                ("Access-Control-Allow-Headers", origin::ALLOW_HEADERS),
                ("Access-Control-Max-Age", origin::PREFLIGHT_SECONDS),
            ]);
        }
        exchange.answer(&mut self.out, 204, &fields, b"");
    }

    /// `POST /v1/tickets`: something for a URL in place of the token that came in a header.
    fn answer_ticket(
        &mut self,
        request: &Request<'_, '_>,
        exchange: &Exchange,
        who: Who,
    ) -> Result<(), Problem> {
        Query::parse(request.query, &[])?;
        if who.is_none() && self.access.authenticates() {
            let detail = "a ticket stands for a token: send that, in Authorization or the cookie";
            return Err(Problem::new(Code::Unauthenticated, detail));
        }
        let ticket = self.access.tickets.issue(who, self.now_ms)?;
        let body =
            format!("{{\"ticket\":\"{ticket}\",\"expires_in_ms\":{}}}", self.access.tickets.ticket_ms());
        exchange.json(&mut self.out, 201, &[("Cache-Control", "no-store")], body.as_bytes());
        Ok(())
    }

    /// Polls and streams of server-sent events.
    fn handle_read(
        &mut self,
        id: u32,
        request: &Request<'_, '_>,
        mut exchange: Exchange,
        who: Who,
        channel: Option<ChannelName>,
    ) -> Result<(), Problem> {
        let read = ReadRequest::parse(request, channel, &self.settings.limits)?;
        if request.accepts_event_stream() {
            return self.open_event_stream(id, request, exchange, who, read);
        }
        for channel in &read.channels {
            self.check(who.as_deref(), Action::History, channel)?;
            if read.wait_ms.is_some() {
                self.check(who.as_deref(), Action::Subscribe, channel)?;
            }
        }
        exchange.private = self.is_private(&read.channels);
        let since = parse_since(read.since.as_deref())?;
        let default = if read.wait_ms.is_some() { Start::Latest } else { Start::Earliest };
        let found = begin(&self.hub, &read.channels, since.as_ref(), default)?;
        let reply = Reply::new(exchange, &read, since.as_ref(), default);
        let if_none_match = request.header("if-none-match")?.map(str::to_owned);
        self.answer_poll_or_hold(id, read, found, reply, if_none_match, who)
    }

    fn answer_status(
        &mut self,
        route: &Route,
        request: &Request<'_, '_>,
        exchange: &Exchange,
    ) -> Result<(), Problem> {
        Query::parse(request.query, &[])?;
        let fields = [("Cache-Control", "no-store")];
        match route {
            Route::Ready if self.stopping || self.gauges.drain.is_asked() => {
                return Err(Problem::new(Code::Unavailable, "the server is going away"));
            }
            Route::Ready if self.gauges.certificates.as_ref().is_some_and(|shown| !shown.is_there()) => {
                let detail = "there is no certificate for TLS yet; the log says why";
                return Err(Problem::new(Code::Unavailable, detail));
            }
            Route::Health | Route::Ready => {
                exchange.json(&mut self.out, 200, &fields, b"{\"status\":\"ok\"}")
            }
            _ => {
                let (gauges, hub, access) = (&*self.gauges, &*self.hub, &*self.access);
                let text = metrics::exposition(metrics::Sources { gauges, hub, access });
                let fields = [("Content-Type", metrics::CONTENT_TYPE), ("Cache-Control", "no-store")];
                exchange.answer(&mut self.out, 200, &fields, text.as_bytes());
            }
        }
        Ok(())
    }

    fn page(&self, path: &str) -> Option<Page> {
        pages::find(path).filter(|_| self.settings.demo)
    }

    fn answer_page(&mut self, request: &Request<'_, '_>, exchange: &Exchange) -> Result<(), Problem> {
        let page = self.page(request.path).ok_or_else(|| not_found(request.path))?;
        let etag = page.etag();
        if request.header("if-none-match")?.is_some_and(|header| if_none_match(header, &etag)) {
            exchange.not_modified(&mut self.out, &etag, "no-cache");
            return Ok(());
        }
        let fields = [
            ("Content-Type", page.content_type),
            ("ETag", &etag),
            ("Cache-Control", "no-cache"),
            ("Content-Security-Policy", pages::CONTENT_SECURITY_POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
        ];
        exchange.answer(&mut self.out, 200, &fields, page.body);
        Ok(())
    }

    /// The page itself holds nothing that is not for everybody; what it shows takes the admin key.
    fn answer_admin_page(&mut self, request: &Request<'_, '_>, exchange: &Exchange) -> Result<(), Problem> {
        if self.settings.access.admin_key.is_none() {
            return self.check_admin(None);
        }
        let page = pages::find_admin(request.path).ok_or_else(|| not_found(request.path))?;
        let fields = [
            ("Content-Type", page.content_type),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", pages::ADMIN_SECURITY_POLICY),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
        ];
        exchange.answer(&mut self.out, 200, &fields, page.body);
        Ok(())
    }

    fn refuse_method(&mut self, id: u32, route: &Route, exchange: Exchange) {
        let exchange = Exchange { keep_alive: false, ..exchange };
        let problem = Problem::new(Code::MethodNotAllowed, format!("this route has {}", route.allow()));
        exchange.problem(&mut self.out, &problem, &[("Allow", route.allow())]);
        self.counters.note_refused(&problem);
        self.after_answer(id, exchange.keep_alive);
    }

    /// Answers what is no request, or one that cannot be read on: nobody knows where the next one begins.
    pub(super) fn refuse(&mut self, id: u32, problem: &Problem) {
        if self.connections[id as usize].owed > 0 {
            return self.owe_problem(id, Exchange::BROKEN, problem.clone());
        }
        self.counters.note_refused(problem);
        Exchange::BROKEN.problem(&mut self.out, problem, &[]);
        self.after_answer(id, false);
    }

    /// The state of a connection that waits for its next request.
    pub(super) fn between_requests(&self) -> Protocol {
        Protocol::Http { deadline_ms: self.now_ms + self.settings.limits.idle_timeout_ms, begun: false }
    }

    /// An answer is in `out`: the connection waits for the next request, or closes once it is written.
    pub(super) fn after_answer(&mut self, id: u32, keep_alive: bool) {
        if keep_alive && !self.stopping {
            let connection = &mut self.connections[id as usize];
            if !matches!(connection.protocol, Protocol::Http { .. }) {
                let next = self.between_requests();
                self.connections[id as usize].protocol = next;
            }
        } else {
            self.finish_turn(id);
            if self.connections.contains(id as usize) {
                self.start_closing(id, Goodbye::quiet(CloseCode::NORMAL));
            }
        }
    }
}

/// Whether it is the application itself, or whom it gave a ticket for one channel.
fn is_of_admin(who: &Result<Who, Problem>) -> bool {
    who.as_ref().is_ok_and(|who| who.as_ref().is_some_and(|who| who.is_admin || who.is_minted))
}

fn not_found(path: &str) -> Problem {
    let shown: String = path.chars().take(64).collect();
    let detail = format!(
        "there is nothing at {shown}; routes are /v1/channels/CHANNEL, /v1/channels/CHANNEL/events, \
         /v1/channels/CHANNEL/ws, /v1/channels/CHANNEL/presence, /v1/events, /v1/ws, /v1/tickets, /healthz, /readyz and /metrics"
    );
    Problem::new(Code::NotFound, detail)
}
