//! What a stream of somebody known lives on: it ends with their token, and moves to the next one. Must not know
//! how tokens are checked (`access`).

use std::num::NonZeroU64;
use std::sync::Arc;

use tidewire_core::websocket::CloseCode;
use tidewire_core::wire::message::{MessageId, server};
use tidewire_core::wire::sse;
use tidewire_core::{Code, Problem, Timestamp};

use super::Shard;
use super::connection::{Goodbye, Protocol};
use super::visitors::Held;
use crate::access::identity::{Action, Identity};
use crate::access::users::Membership;
use crate::access::{Stopped, Who, tickets};
use crate::clock::wall_clock;
use crate::metrics::Transport;

/// When an event stream whose token has expired should come back: by then its cookie is a newer one.
const RECONNECT_AFTER_MS: [u64; 2] = [0, 1000];

/// Who a stream belongs to, and for how long.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) who: Arc<Identity>,
    /// When it ends, in monotonic milliseconds.
    pub(super) ends_ms: Option<u64>,
    /// The client was told so, and has some time to send a new token.
    is_told: bool,
    /// Counts it among those of its user.
    pub(super) membership: Option<Membership>,
}

impl Shard {
    /// The connection becomes a stream of `who`, if they may have one more.
    ///
    /// # Errors
    /// `too_many_requests`.
    pub(super) fn begin_stream_of(&mut self, id: u32, who: Who, transport: Transport) -> Result<(), Problem> {
        let membership = self.admit_stream(id, who.as_deref(), transport)?;
        let Some(who) = who else { return Ok(()) };
        // Once more, now that a revocation would find the stream: it may have come in between.
        self.access.revocations.check(&who)?;
        self.log_identified(id, &who, transport);
        let ends_ms = self.lease_end(&who);
        let lease = Lease { who, ends_ms, is_told: false, membership };
        self.connections[id as usize].lease = Some(Box::new(lease));
        if let Some(ends_ms) = ends_ms {
            self.arm_at(id, ends_ms);
        }
        Ok(())
    }

    /// The connection counts as what it has become.
    pub(super) fn become_stream(&mut self, id: u32, transport: Transport) {
        self.counters.change(Transport::Http, transport);
        self.connections[id as usize].record.transport = transport;
    }

    fn lease_end(&self, who: &Identity) -> Option<u64> {
        let left_ms = |ends_ms: u64| ends_ms.saturating_sub(wall_clock().0);
        who.expires_at_ms.map(|ends_ms| self.now_ms.saturating_add(left_ms(ends_ms.get())))
    }

    /// Who the stream belongs to, if somebody.
    pub(super) fn holder(&self, id: u32) -> Option<&Identity> {
        self.connections[id as usize].lease.as_ref().map(|lease| &*lease.who)
    }

    /// The token has expired: a WebSocket is told and has some time to send a new one, all others end in a way
    /// from which they resume.
    pub(super) fn end_lease(&mut self, id: u32) {
        let (now_ms, grace_ms) = (self.now_ms, self.settings.access.tokens.grace_ms);
        let connection = &mut self.connections[id as usize];
        let Some(lease) = &mut connection.lease else { return };
        let can_refresh = matches!(&connection.protocol, Protocol::WebSocket(socket) if socket.raw.is_none());
        if can_refresh && !lease.is_told && grace_ms > 0 {
            lease.is_told = true;
            lease.ends_ms = Some(now_ms + grace_ms);
            self.arm_at(id, now_ms + grace_ms);
            self.push_text(&server::expired(grace_ms));
            return self.send_answers(Some(id));
        }
        match &connection.protocol {
            Protocol::WebSocket(_) => {
                self.start_closing(id, Goodbye::frame(CloseCode::TOKEN_EXPIRED, "token_expired"));
            }
            Protocol::EventStream { .. } => {
                let mut last = Vec::new();
                sse::reconnect(&mut last, RECONNECT_AFTER_MS, "token_expired");
                self.start_closing(id, Goodbye { last: last.into(), code: CloseCode::TOKEN_EXPIRED });
            }
            Protocol::LongPoll(_) => self.end_long_poll(id),
            _ => self.start_closing(id, Goodbye::quiet(CloseCode::TOKEN_EXPIRED)),
        }
    }

    /// A client goes on with a new token.
    pub(super) fn handle_refresh(
        &mut self,
        id: u32,
        token: &str,
        message_id: MessageId<'_>,
    ) -> Result<(), Held> {
        let last_try = self.is_decided(id);
        let Some(user) = self.holder(id).filter(|who| !who.is_admin).map(|who| who.user.clone()) else {
            let detail =
                "the connection began without a token, so there is none to refresh; connect with one";
            return Err(Problem::new(Code::Forbidden, detail).into());
        };
        let who = match self.access.identify_token(token, wall_clock().0, last_try) {
            Ok(who) => who,
            Err(Stopped::Refused(problem)) => return Err(problem.into()),
            Err(Stopped::KeysWanted(issuer)) => {
                self.await_keys(id, issuer);
                return Err(Held::Waits);
            }
            // Of a token, it never says so.
            Err(Stopped::Spends(_)) => return Err(tickets::refused().into()),
        };
        if who.user != user {
            return Err(
                Problem::new(Code::Forbidden, "the new token is another user's; connect with it").into()
            );
        }
        let expires_at = Timestamp(who.expires_at_ms.map_or(0, NonZeroU64::get));
        let ends_ms = self.lease_end(&who);
        if let Some(lease) = &mut self.connections[id as usize].lease {
            (lease.who, lease.ends_ms, lease.is_told) = (who, ends_ms, false);
        }
        if let Some(ends_ms) = ends_ms {
            self.arm_at(id, ends_ms);
        }
        self.push_text(&server::refreshed(expires_at, message_id));
        self.drop_refused(id);
        self.leave_refused(id);
        Ok(())
    }

    /// Ends those subscriptions that the connection's new rights do not cover.
    fn drop_refused(&mut self, id: u32) {
        let mut slot = 0;
        while let Some(subscription) = self.connections[id as usize].subscriptions.get(slot as usize) {
            let name = self.channels[subscription.channel as usize].channel.name().clone();
            match self.check(self.holder(id), Action::Subscribe, &name) {
                Ok(()) => slot += 1,
                Err(problem) => {
                    self.unsubscribe(id, slot);
                    self.push_text(&server::error(&problem, None));
                    self.push_text(&server::unsubscribed(name.as_str(), None));
                }
            }
        }
    }
}
