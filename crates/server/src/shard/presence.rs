//! Entering and leaving, over a WebSocket and by requests of those who have none. Must not know how presence is kept.

use serde_json::json;
use tidewire_core::http1::{Query, Request};
use tidewire_core::wire::message::{MessageId, server};
use tidewire_core::{ChannelName, Code, Problem};

use super::Shard;
use super::connection::Protocol;
use super::upload::Purpose;
use super::visitors::Held;
use crate::access::Who;
use crate::access::identity::{Action, Identity};
use crate::http::answer::Exchange;
use crate::presence::{Entry, Holder, Present, shown};

/// The longest name that a tab or device may give itself.
const INSTANCE_BYTES_MAX: usize = 64;

/// What the head of an entry says.
#[derive(Debug)]
pub(super) struct HttpEntry {
    exchange: Exchange,
    channel: ChannelName,
    member: Box<str>,
    instance: Box<str>,
}

impl Shard {
    /// `enter`: somebody is present for as long as the connection is open.
    pub(super) fn handle_enter(
        &mut self,
        id: u32,
        channel: &ChannelName,
        member: Option<&str>,
        data: &str,
        message_id: MessageId<'_>,
    ) -> Result<(), Held> {
        self.check(self.holder(id), Action::Presence, channel)?;
        let member = self.member(self.holder(id), member, Code::InvalidMessage)?;
        let limits = &self.settings.limits;
        let (most, grace_ms) = (limits.channels_per_connection, limits.presence_grace_ms);
        let data = shown(data.as_bytes(), limits.member_bytes)?;
        self.ask_about_message(id, Action::Subscribe, &channel.presence()?)?;
        let Protocol::WebSocket(websocket) = &mut self.connections[id as usize].protocol else {
            return Ok(());
        };
        let present =
            websocket.present.get_or_insert_with(|| Box::new(Present::new(&self.presence, grace_ms)));
        if present.channels().len() >= most && present.channels().all(|entered| entered != channel) {
            let detail =
                format!("a connection may be present in {most} channels; leave one, or open another");
            return Err(Problem::new(Code::TooManyChannels, detail).into());
        }
        let since = present.enter(channel, &member, data)?;
        self.push_text(&server::entered(channel.as_str(), &member, since, message_id));
        Ok(())
    }

    /// `leave`.
    pub(super) fn handle_leave(
        &mut self,
        id: u32,
        channel: &ChannelName,
        message_id: MessageId<'_>,
    ) -> Result<(), Problem> {
        if let Protocol::WebSocket(websocket) = &mut self.connections[id as usize].protocol
            && let Some(present) = &mut websocket.present
        {
            present.leave(channel)?;
        }
        self.push_text(&server::left(channel.as_str(), message_id));
        Ok(())
    }

    /// Leaves those channels in which the connection's new rights let nobody be.
    pub(super) fn leave_refused(&mut self, id: u32) {
        let Protocol::WebSocket(websocket) = &self.connections[id as usize].protocol else { return };
        let entered: Vec<ChannelName> =
            websocket.present.iter().flat_map(|present| present.channels().cloned()).collect();
        for channel in entered {
            if let Err(problem) = self.check(self.holder(id), Action::Presence, &channel) {
                self.push_text(&server::error(&problem, None));
                if let Err(problem) = self.handle_leave(id, &channel, None) {
                    self.push_text(&server::error(&problem, None));
                }
            }
        }
    }

    /// `POST /v1/channels/{channel}/presence`: somebody is present for some time.
    pub(super) fn handle_entry(
        &mut self,
        id: u32,
        request: &Request<'_, '_>,
        (exchange, who): (Exchange, Who),
        channel: ChannelName,
        rest: &mut &[u8],
    ) -> Result<(), Problem> {
        let (member, instance) = self.who_enters(request, who.as_deref())?;
        let entry = HttpEntry { exchange, channel, member, instance };
        self.begin_upload(id, request, who, Purpose::Enter(entry), rest)
    }

    /// The body of an entry has come.
    pub(super) fn finish_entry(
        &mut self,
        id: u32,
        entry: &HttpEntry,
        body: &[u8],
        counted: Result<(), Problem>,
    ) {
        let HttpEntry { exchange, channel, member, instance } = entry;
        let limits = &self.settings.limits;
        let lasts_ms = limits.presence_ms;
        let outcome = counted.and_then(|()| shown(body, limits.member_bytes)).and_then(|data| {
            let (holder, lasts_ms) = (Holder::Instance(instance.clone()), Some(lasts_ms));
            self.presence.enter(Entry { channel, member, holder, lasts_ms, data })
        });
        match outcome {
            Ok(since) => {
                let body = json!({
                    "channel": channel.as_str(),
                    "member": member,
                    "since": since.to_string(),
                    "expires_in_ms": lasts_ms,
                });
                let fields = [("Cache-Control", "no-store")];
                exchange.json(&mut self.out, 200, &fields, body.to_string().as_bytes());
            }
            Err(problem) => {
                self.counters.note_refused(&problem);
                exchange.problem(&mut self.out, &problem, &[]);
            }
        }
        self.after_answer(id, exchange.keep_alive);
    }

    /// `DELETE /v1/channels/{channel}/presence`.
    pub(super) fn answer_leaving(
        &mut self,
        request: &Request<'_, '_>,
        exchange: &Exchange,
        who: Option<&Identity>,
        channel: &ChannelName,
    ) -> Result<(), Problem> {
        let (member, instance) = self.who_enters(request, who)?;
        self.presence.leave(channel, &member, &Holder::Instance(instance))?;
        exchange.answer(&mut self.out, 204, &[], b"");
        Ok(())
    }

    fn who_enters(
        &self,
        request: &Request<'_, '_>,
        who: Option<&Identity>,
    ) -> Result<(Box<str>, Box<str>), Problem> {
        let query = Query::parse(request.query, &["instance", "member"])?;
        let member = self.member(who, query.one("member")?, Code::InvalidParameter)?;
        let instance = query.one("instance")?.unwrap_or_default();
        let is_right = |byte: u8| byte.is_ascii_graphic();
        if instance.is_empty() || instance.len() > INSTANCE_BYTES_MAX || !instance.bytes().all(is_right) {
            let detail =
                "name the tab or device: instance must be 1 to 64 visible ASCII characters of its own choice";
            return Err(Problem::new(Code::InvalidParameter, detail));
        }
        Ok((member, instance.into()))
    }

    /// As whom somebody is present: the user that they have shown to be. The application itself names anybody, and
    /// where nobody can show who they are, everybody names themselves.
    fn member(&self, who: Option<&Identity>, named: Option<&str>, code: Code) -> Result<Box<str>, Problem> {
        let may_choose = who.map_or(!self.access.authenticates(), |who| who.is_admin);
        match (who.and_then(|who| who.user.as_deref()), named) {
            (Some(user), None) => Ok(user.into()),
            (Some(user), Some(named)) if user == named => Ok(user.into()),
            (None, Some(named)) if may_choose && !named.is_empty() => Ok(named.into()),
            (None, _) if may_choose => {
                Err(Problem::new(code, "say who enters: member must have 1 to 256 bytes of UTF-8"))
            }
            (Some(_), Some(_)) => {
                let detail = "somebody who has shown who they are enters as themselves; leave member out";
                Err(Problem::new(Code::Forbidden, detail))
            }
            (None, _) if who.is_none() => {
                Err(Problem::new(Code::Unauthenticated, "say who you are to be present: send a token"))
            }
            (None, _) => {
                let detail = "the token has no sub, so nobody would know who is present";
                Err(Problem::new(Code::Forbidden, detail))
            }
        }
    }
}
