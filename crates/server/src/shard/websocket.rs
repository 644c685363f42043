//! WebSockets of `/v1/ws`: the handshake, and what each message of a client does.
//! Must not know frames (`core::websocket`) or JSON (`core::wire::message`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;
use tidewire_core::cursor::Start;
use tidewire_core::http1::{BodyLength, Method, Query, Request, ResponseHead, Version};
use tidewire_core::limits::Limits;
use tidewire_core::liveness::Liveness;
use tidewire_core::websocket::{
    CloseCode, Decoder, Deflate, Input, Message, OpCode, Role, Window, accept_key, is_valid_key,
    negotiate_deflate, push_header,
};
use tidewire_core::wire::message::{ClientMessage, MessageId, PublishData, PublishMessage, server};
use tidewire_core::wire::{Form, binary, poll};
use tidewire_core::{ChannelName, Code, NewEvent, Payload, Problem, Since};

use super::Shard;
use super::commits::Answer;
use super::connection::{Goodbye, Protocol};
use super::visitors::Held;
use crate::access::Who;
use crate::access::identity::{Action, Identity};
use crate::hub::Published;
use crate::metrics::Transport;
use crate::presence::Present;
use crate::traces::Said;

/// The subprotocol of `/v1/ws`.
const SUBPROTOCOL: &str = "tidewire.v1";

/// The state of a WebSocket.
#[derive(Debug)]
pub(super) struct WebSocket {
    decoder: Decoder,
    pub(super) liveness: Liveness,
    /// The channel of the raw route.
    pub(super) raw: Option<ChannelName>,
    /// Whether events go out compressed, and in which window.
    deflate: Option<Window>,
    /// What to close with, once the disk has answered for what was published before.
    closing: Option<Box<Goodbye>>,
    /// A message whose turn comes once something is decided.
    suspended: Option<Box<Suspended>>,
    /// Where somebody is present by it.
    pub(super) present: Option<Box<Present>>,
}

/// What became of a message that was counted.
enum Counted {
    In,
    /// It is refused, and its sender was told.
    Refused,
    /// It is one too many.
    Enough,
}

/// A message that waits.
#[derive(Debug)]
pub(super) enum Suspended {
    Text(Box<str>),
    Binary(Box<[u8]>),
}

impl WebSocket {
    /// The form in which it gets events.
    pub(super) fn form(&self) -> Form {
        match (&self.raw, self.deflate) {
            (None, None) => Form::WebSocket,
            (None, Some(window)) => Form::WebSocketDeflated(window),
            (Some(_), None) => Form::Raw,
            (Some(_), Some(window)) => Form::RawDeflated(window),
        }
    }
}

impl Shard {
    pub(super) fn open_websocket(
        &mut self,
        id: u32,
        request: &Request<'_, '_>,
        who: Who,
        raw: Option<ChannelName>,
    ) -> Result<(), Problem> {
        let known: &[&str] = if raw.is_some() { &["since", "ticket"] } else { &["ticket"] };
        let query = Query::parse(request.query, known)?;
        let since = query.one("since")?.map(Since::parse).transpose()?;
        let key = check_handshake(request)?;
        let may_read_back = self.check_opening(who.as_deref(), raw.as_ref(), since.as_ref())?;
        let deflate = negotiate_deflate(request.headers("sec-websocket-extensions"));
        self.begin_stream_of(id, who, Transport::WebSocket)?;
        if let Some(channel) = &raw {
            self.subscribe(id, channel)?;
        }
        let mut head = ResponseHead::new(&mut self.out, 101)
            .field("Upgrade", "websocket")
            .field("Connection", "Upgrade")
            .field("Sec-WebSocket-Accept", &accept_key(key));
        if let Some(deflate) = deflate {
            head = head.field("Sec-WebSocket-Extensions", &deflate.response_value());
        }
        if raw.is_none() && request.has_token("sec-websocket-protocol", SUBPROTOCOL) {
            head = head.field("Sec-WebSocket-Protocol", SUBPROTOCOL);
        }
        head.end();
        let is_raw = raw.is_some();
        self.connections[id as usize].protocol = Protocol::WebSocket(Box::new(WebSocket {
            decoder: Decoder::new(Role::Server, deflate.is_some()),
            liveness: Liveness::new(self.now_ms, &self.settings.limits, u64::from(id)),
            raw,
            deflate: deflate.map(Deflate::window),
            closing: None,
            suspended: None,
            present: None,
        }));
        self.become_stream(id, Transport::WebSocket);
        self.arm_at(id, self.now_ms + self.settings.limits.heartbeat_ms / 2);
        if is_raw {
            self.begin_raw(id, since, may_read_back);
        }
        Ok(())
    }

    /// Whether somebody may open a WebSocket; gives whether they may read back on the raw route's channel.
    fn check_opening(
        &self,
        who: Option<&Identity>,
        raw: Option<&ChannelName>,
        since: Option<&Since>,
    ) -> Result<bool, Problem> {
        let Some(channel) = raw else {
            if who.is_none() && !self.access.lets_strangers_in {
                return Err(Problem::new(Code::Unauthenticated, "say who you are to connect: send a token"));
            }
            return Ok(true);
        };
        self.check(who, Action::Subscribe, channel)?;
        match self.check(who, Action::History, channel) {
            Err(problem) if since == Some(&Since::Earliest) => Err(problem),
            outcome => Ok(outcome.is_ok()),
        }
    }

    /// Bytes of a WebSocket: whole messages are acted on, the rest is kept by the decoder.
    pub(super) fn handle_websocket_bytes(&mut self, id: u32, bytes: &mut [u8]) {
        let message_bytes = self.settings.limits.event_bytes;
        let Protocol::WebSocket(websocket) = &mut self.connections[id as usize].protocol else { return };
        websocket.liveness.handle_heard(self.now_ms);
        let raw = websocket.raw.clone();
        // The decoder is small while it holds nothing, and what it holds moves with it.
        let mut decoder = std::mem::replace(&mut websocket.decoder, Decoder::new(Role::Server, false));
        let mut inflater = std::mem::take(&mut self.inflater);
        let mut input = Input::new(bytes);
        let closing = loop {
            match decoder.next(&mut input, &mut inflater, message_bytes) {
                Ok(None) => break None,
                Ok(Some(message)) => {
                    if let Err((code, reason)) = self.handle_message_of(id, message, raw.as_ref()) {
                        break Some(Goodbye::frame(code, &reason));
                    }
                    let Some(connection) = self.connections.get_mut(id as usize) else { break None };
                    if connection.awaits_decision() {
                        connection.input = input.rest().to_vec();
                        break None;
                    }
                }
                Err(violation) => {
                    self.counters.note_code(Code::InvalidMessage);
                    break Some(Goodbye::frame(violation.code, violation.reason));
                }
            }
        };
        self.inflater = inflater;
        if let Some(Protocol::WebSocket(websocket)) =
            self.connections.get_mut(id as usize).map(|c| &mut c.protocol)
        {
            websocket.decoder = decoder;
        }
        if let Some(goodbye) = closing {
            self.close_websocket(id, goodbye);
        }
    }

    /// Says `goodbye` after the answers to what was published before, and its events.
    fn close_websocket(&mut self, id: u32, goodbye: Goodbye) {
        let Some(connection) = self.connections.get_mut(id as usize) else { return };
        if connection.owed > 0
            && let Protocol::WebSocket(websocket) = &mut connection.protocol
        {
            websocket.closing = Some(Box::new(goodbye));
            connection.finishing = true;
            return;
        }
        self.finish_last_turn(id);
        self.start_closing(id, goodbye);
    }

    /// The disk has answered for all that the connection published: closes it, if that is what it waits for.
    pub(super) fn close_if_due(&mut self, id: u32) {
        let Some(connection) = self.connections.get_mut(id as usize) else { return };
        if connection.owed == 0
            && let Protocol::WebSocket(websocket) = &mut connection.protocol
            && let Some(goodbye) = websocket.closing.take()
        {
            self.close_websocket(id, *goodbye);
        }
    }

    /// Acts on a message. The error is the code and reason to close with.
    fn handle_message_of(
        &mut self,
        id: u32,
        message: Message<'_>,
        raw: Option<&ChannelName>,
    ) -> Result<(), (CloseCode, String)> {
        match self.count_message(id, &message, raw.is_some()) {
            Counted::In => {}
            Counted::Refused => return Ok(()),
            Counted::Enough => return Err((CloseCode::TOO_MUCH, "too_many_requests".to_owned())),
        }
        match (message, raw) {
            (Message::Ping(payload), _) => self.push_frame(OpCode::Pong, payload),
            (Message::Pong(_), _) => {}
            (Message::Close(None), _) => return Err((CloseCode::NORMAL, String::new())),
            (Message::Close(Some(frame)), _) => return Err((frame.code, String::new())),
            (Message::Text(text), None) => self.handle_text(id, text),
            (Message::Binary(bytes), None) => self.handle_binary(id, bytes),
            (Message::Text(text), Some(channel)) => {
                let payload = Payload::sniffed(Bytes::copy_from_slice(text.as_bytes()));
                if !self.publish_raw(id, channel, payload)? {
                    self.suspend(id, Suspended::Text(text.into()));
                }
            }
            (Message::Binary(bytes), Some(channel)) => {
                if !self.publish_raw(id, channel, Payload::bytes(Bytes::copy_from_slice(bytes)))? {
                    self.suspend(id, Suspended::Binary(bytes.into()));
                }
            }
        }
        Ok(())
    }

    /// Counts a message against the rates of its sender. One that waited has been counted.
    fn count_message(&mut self, id: u32, message: &Message<'_>, is_raw: bool) -> Counted {
        let (bytes, text) = match message {
            Message::Text(text) => (text.len(), Some(*text)),
            Message::Binary(bytes) => (bytes.len(), None),
            _ => return Counted::In,
        };
        if self.is_decided(id) {
            return Counted::In;
        }
        match self.take_socket_message(id, bytes) {
            Ok(()) => Counted::In,
            Err((problem, is_enough)) if is_enough || is_raw => {
                self.counters.note_refused(&problem);
                Counted::Enough
            }
            Err((problem, _)) => {
                let message_id = text.and_then(|text| ClientMessage::parse(text).0);
                self.push_error(&problem, message_id);
                Counted::Refused
            }
        }
    }

    fn handle_text(&mut self, id: u32, text: &str) {
        let (message_id, message) = ClientMessage::parse(text);
        let outcome = message.map_err(Held::from).and_then(|message| match message {
            ClientMessage::Subscribe { channel, since, snapshot } => {
                self.handle_subscribe(id, &channel, since.as_deref(), snapshot, message_id)
            }
            ClientMessage::Unsubscribe { channel } => {
                if let Some(slot) = self.subscription(id, channel.as_str()) {
                    self.unsubscribe(id, slot);
                }
                self.push_text(&server::unsubscribed(channel.as_str(), message_id));
                Ok(())
            }
            ClientMessage::Publish { channel, publish } => {
                self.handle_publish_message(id, &channel, *publish, message_id)
            }
            ClientMessage::Enter { channel, member, data } => {
                let data = data.map_or("null", RawValue::get);
                self.handle_enter(id, &channel, member.as_deref(), data, message_id)
            }
            ClientMessage::Leave { channel } => {
                self.handle_leave(id, &channel, message_id).map_err(Held::from)
            }
            ClientMessage::Refresh { token } => self.handle_refresh(id, &token, message_id),
            ClientMessage::Ping => {
                self.push_text(&server::pong(message_id));
                Ok(())
            }
        });
        match outcome {
            Ok(()) => {}
            Err(Held::Refused(problem)) => self.push_error(&problem, message_id),
            Err(Held::Waits) => self.suspend(id, Suspended::Text(text.into())),
        }
    }

    /// Keeps a message until what it waits for is decided.
    fn suspend(&mut self, id: u32, message: Suspended) {
        if let Protocol::WebSocket(websocket) = &mut self.connections[id as usize].protocol {
            websocket.suspended = Some(Box::new(message));
        }
    }

    /// Acts on the message that waited, if what it waited for is decided, and then on those behind it.
    pub(super) fn resume_websocket(&mut self, id: u32) {
        let connection = &mut self.connections[id as usize];
        let Protocol::WebSocket(websocket) = &mut connection.protocol else { return };
        if let Some(suspended) = websocket.suspended.take() {
            let raw = websocket.raw.clone();
            let message = match &*suspended {
                Suspended::Text(text) => Message::Text(text),
                Suspended::Binary(bytes) => Message::Binary(bytes),
            };
            if let Err((code, reason)) = self.handle_message_of(id, message, raw.as_ref()) {
                return self.close_websocket(id, Goodbye::frame(code, &reason));
            }
            let Some(connection) = self.connections.get_mut(id as usize) else { return };
            if connection.awaits_decision() {
                return;
            }
            connection.decisions = None;
        }
        let Some(connection) = self.connections.get_mut(id as usize) else { return };
        let mut input = std::mem::take(&mut connection.input);
        if !input.is_empty() {
            self.handle_websocket_bytes(id, &mut input);
        }
    }

    fn handle_subscribe(
        &mut self,
        id: u32,
        name: &ChannelName,
        requested: Option<&str>,
        snapshot: bool,
        message_id: MessageId<'_>,
    ) -> Result<(), Held> {
        let since = requested.map(Since::parse).transpose()?;
        self.check(self.holder(id), Action::Subscribe, name)?;
        let may_read_back = match self.check(self.holder(id), Action::History, name) {
            Err(problem) if snapshot || since == Some(Since::Earliest) => return Err(problem.into()),
            outcome => outcome.is_ok(),
        };
        if self.subscription(id, name.as_str()).is_some() {
            let detail = format!("this connection is subscribed to {name} already; unsubscribe first");
            return Err(Problem::new(Code::AlreadySubscribed, detail).into());
        }
        check_count(self.connections[id as usize].subscriptions.len(), &self.settings.limits)?;
        self.ask_about_message(id, Action::Subscribe, name)?;
        self.follow_channels(id, std::slice::from_ref(name), since.as_ref(), snapshot)?;
        let slot = self.subscribe(id, name)?;
        if snapshot {
            self.begin_with_snapshot(id, slot, message_id);
            return Ok(());
        }
        let subscription = &mut self.connections[id as usize].subscriptions[slot as usize];
        let channel = &self.channels[subscription.channel as usize].channel;
        let epoch = channel.epoch();
        let start = since.map_or(Start::Latest, |since| since.in_channel(epoch, &[epoch], Start::Latest));
        let located = channel.locate_for(start, may_read_back);
        subscription.cursor = located.position.after;
        let cursor = channel.id(located.position.after);
        self.push_text(&server::subscribed(name.as_str(), cursor, message_id));
        if located.position.gap {
            self.counters.gaps.add(1);
            let resumed_from = located.resumed_from.to_string();
            let gap = poll::gap(&[name.as_str()], false, requested.unwrap_or_default(), &resumed_from);
            self.push_text(&server::gap(&gap));
        }
        Ok(())
    }

    fn handle_publish_message(
        &mut self,
        id: u32,
        channel: &ChannelName,
        publish: PublishMessage<'_>,
        message_id: MessageId<'_>,
    ) -> Result<(), Held> {
        let payload = match &publish.data {
            PublishData::Json(json) => Payload::json(json)?,
            PublishData::Base64(text, content_type) => {
                let bytes = STANDARD.decode(text.as_bytes()).map_err(|_| {
                    Problem::new(Code::InvalidMessage, "data_base64 is not base64 with padding")
                })?;
                payload_of_bytes(content_type.as_deref(), bytes.into())?
            }
        };
        let idempotency_key = publish.idempotency_key.as_deref();
        let event =
            NewEvent::new(payload).with(publish.event.as_deref(), publish.key.as_deref(), idempotency_key)?;
        let said = Said { parent: publish.traceparent.as_deref(), state: publish.tracestate.as_deref() };
        self.publish_and_reply(id, channel, event, message_id, said)
    }

    fn handle_binary(&mut self, id: u32, message: &[u8]) {
        let mut quoted = None;
        let outcome = binary::Publish::parse(message).map_err(Held::from).and_then(|publish| {
            if !publish.message_id.is_empty() {
                quoted = serde_json::to_string(publish.message_id).ok();
            }
            let channel = ChannelName::new(publish.channel)?;
            let content_type = Some(publish.content_type).filter(|text| !text.is_empty());
            let payload = payload_of_bytes(content_type, Bytes::copy_from_slice(publish.data))?;
            let event = NewEvent::new(payload).with(
                Some(publish.event),
                Some(publish.key),
                Some(publish.idempotency_key),
            )?;
            self.publish_and_reply(id, &channel, event, quoted.as_deref(), Said::default())
        });
        match outcome {
            Ok(()) => {}
            Err(Held::Refused(problem)) => self.push_error(&problem, quoted.as_deref()),
            Err(Held::Waits) => self.suspend(id, Suspended::Binary(message.into())),
        }
    }

    fn publish_and_reply(
        &mut self,
        id: u32,
        channel: &ChannelName,
        event: NewEvent,
        message_id: MessageId<'_>,
        said: Said<'_>,
    ) -> Result<(), Held> {
        self.check(self.holder(id), Action::Publish, channel)?;
        self.ask_about_message(id, Action::Publish, channel)?;
        let answer = Answer::Message(message_id.map(Into::into));
        let trace = self.begin_trace(self.holder(id), "websocket", || said);
        if let Some(Published { appended, .. }) = self.publish(id, channel, event, answer, trace)? {
            self.push_text(&server::published(channel.as_str(), appended.id, appended.duplicate, message_id));
        }
        Ok(())
    }

    fn push_error(&mut self, problem: &Problem, message_id: MessageId<'_>) {
        self.counters.note_refused(problem);
        self.push_text(&server::error(problem, message_id));
    }

    pub(super) fn push_text(&mut self, text: &[u8]) {
        self.push_frame(OpCode::Text, text);
    }

    pub(super) fn push_frame(&mut self, opcode: OpCode, payload: &[u8]) {
        push_header(&mut self.out, opcode, false, None, payload.len());
        self.out.extend_from_slice(payload);
    }
}

/// Bytes keep their content type, whatever it is; they are delivered as bytes.
fn payload_of_bytes(content_type: Option<&str>, bytes: Bytes) -> Result<Payload, Problem> {
    match content_type {
        Some(content_type) => Payload::declared_bytes(content_type, bytes),
        None => Ok(Payload::bytes(bytes)),
    }
}

fn check_count(subscriptions: usize, limits: &Limits) -> Result<(), Problem> {
    if subscriptions < limits.channels_per_connection {
        return Ok(());
    }
    let most = limits.channels_per_connection;
    let detail =
        format!("a connection may subscribe to {most} channels; unsubscribe from one, or open another");
    Err(Problem::new(Code::TooManyChannels, detail))
}

/// The opening handshake's request (RFC 6455 section 4.2.1); gives the key. It has no body: a proxy would
/// take for its body what is read here as frames.
fn check_handshake<'b>(request: &Request<'_, 'b>) -> Result<&'b str, Problem> {
    let missing = missing_of_upgrade(request);
    if !missing.is_empty() {
        let detail = format!(
            "this route speaks WebSocket: send Upgrade: websocket and Connection: Upgrade over HTTP/1.1; the request \
             came {}",
            missing.join(", ")
        );
        return Err(Problem::new(Code::UpgradeRequired, detail));
    }
    if request.header("sec-websocket-version")? != Some("13") {
        return Err(Problem::new(Code::UpgradeRequired, "the only WebSocket version spoken here is 13"));
    }
    if request.body != BodyLength::Known(0) {
        let detail = "a WebSocket handshake has no body; send frames once it is answered";
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    match request.header("sec-websocket-key")? {
        Some(key) if is_valid_key(key) => Ok(key),
        _ => {
            let detail = "Sec-WebSocket-Key must be 16 bytes in base64";
            Err(Problem::new(Code::InvalidRequest, detail))
        }
    }
}

/// What of an upgrade a request lacks. A proxy in between is the usual reason, and its owner wants to know which.
fn missing_of_upgrade(request: &Request<'_, '_>) -> Vec<&'static str> {
    [
        (request.method == Method::Get, "with another method than GET"),
        (request.version == Version::Http11, "as HTTP/1.0"),
        (request.has_token("upgrade", "websocket"), "without Upgrade: websocket"),
        (request.has_token("connection", "upgrade"), "without Connection: Upgrade"),
    ]
    .into_iter()
    .filter_map(|(is_there, missing)| (!is_there).then_some(missing))
    .collect()
}
