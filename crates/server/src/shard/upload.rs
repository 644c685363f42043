//! Requests with a body: it is taken as it arrives, then what it is for is done. Must not know other routes.

use std::sync::Arc;

use bytes::Bytes;
use tidewire_core::http1::{BodyDecoder, BodyLength, Query, Request};
use tidewire_core::wire::poll;
use tidewire_core::{ChannelName, Event, Limits, NewEvent, Payload, Problem};

use super::Shard;
use super::commits::Answer;
use super::connection::Protocol;
use super::presence::HttpEntry;
use crate::access::Who;
use crate::http::answer::Exchange;
use crate::hub::Published;
use crate::traces::{Said, Trace};

/// The most that is reserved for a body before it comes: a promise of bytes costs no memory.
const RESERVED_BYTES: usize = 16 << 10;

/// A request whose body has not come whole.
#[derive(Debug)]
pub(super) struct Upload {
    decoder: BodyDecoder,
    body: Vec<u8>,
    purpose: Purpose,
    /// Whose body is counted once it is there, as its length was not announced.
    uncounted: Option<Who>,
    /// When the body must be there.
    pub(super) deadline_ms: u64,
}

/// What a body is for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// To be published.
    Publish(HttpPublish),
    /// To be shown of somebody who is present.
    Enter(HttpEntry),
}

/// What the head of a publish says.
#[derive(Debug)]
pub(super) struct HttpPublish {
    exchange: Exchange,
    channel: ChannelName,
    content_type: Option<String>,
    name: Option<String>,
    key: Option<String>,
    idempotency_key: Option<String>,
    trace: Option<Arc<Trace>>,
}

impl HttpPublish {
    fn parse(
        request: &Request<'_, '_>,
        exchange: Exchange,
        channel: ChannelName,
        trace: Option<Arc<Trace>>,
    ) -> Result<Self, Problem> {
        let header = |name| Ok::<_, Problem>(request.header(name)?.map(str::to_owned));
        Ok(Self {
            exchange,
            channel,
            content_type: header("content-type")?,
            name: header("tidewire-event")?,
            key: header("tidewire-key")?,
            idempotency_key: header("idempotency-key")?,
            trace,
        })
    }

    fn event(&self, body: Vec<u8>) -> Result<NewEvent, Problem> {
        let payload = Payload::declared(self.content_type.as_deref(), Bytes::from(body))?;
        NewEvent::new(payload).with(
            self.name.as_deref(),
            self.key.as_deref(),
            self.idempotency_key.as_deref(),
        )
    }
}

impl Purpose {
    /// How large the body may be.
    fn bytes_max(&self, limits: &Limits) -> usize {
        match self {
            Self::Publish(_) => limits.event_bytes,
            Self::Enter(_) => limits.member_bytes,
        }
    }
}

impl Shard {
    /// A publish's head has come; `rest` is what follows it.
    pub(super) fn handle_publish(
        &mut self,
        id: u32,
        request: &Request<'_, '_>,
        (exchange, who): (Exchange, Who),
        channel: ChannelName,
        rest: &mut &[u8],
    ) -> Result<(), Problem> {
        Query::parse(request.query, &[])?;
        // Given twice, it is as good as not given.
        let said = |name| request.header(name).ok().flatten();
        let context = || Said { parent: said("traceparent"), state: said("tracestate") };
        let trace = self.begin_trace(who.as_deref(), "http", context);
        let publish = HttpPublish::parse(request, exchange, channel, trace)?;
        self.begin_upload(id, request, who, Purpose::Publish(publish), rest)
    }

    /// A request's head has come whose body is wanted; `rest` is what follows it.
    pub(super) fn begin_upload(
        &mut self,
        id: u32,
        request: &Request<'_, '_>,
        who: Who,
        purpose: Purpose,
        rest: &mut &[u8],
    ) -> Result<(), Problem> {
        let expected = match request.body {
            BodyLength::Known(bytes) => bytes as usize,
            BodyLength::Chunked => RESERVED_BYTES,
        };
        let mut upload = Upload {
            decoder: BodyDecoder::new(request.body),
            body: Vec::with_capacity(expected.min(RESERVED_BYTES.max(rest.len()))),
            purpose,
            uncounted: (request.body == BodyLength::Chunked).then_some(who),
            deadline_ms: self.now_ms + self.settings.limits.body_timeout_ms,
        };
        let most = upload.purpose.bytes_max(&self.settings.limits);
        let taken = upload.decoder.decode(rest, &mut upload.body, most)?;
        *rest = &rest[taken..];
        if upload.decoder.is_complete() {
            self.finish_upload(id, upload);
            return Ok(());
        }
        if request.expects_continue && rest.is_empty() && upload.body.is_empty() {
            self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let deadline_ms = upload.deadline_ms;
        self.connections[id as usize].protocol = Protocol::Upload(Box::new(upload));
        self.arm_at(id, deadline_ms);
        Ok(())
    }

    /// More of a body has come.
    pub(super) fn handle_upload(&mut self, id: u32, rest: &mut &[u8]) {
        let Protocol::Upload(upload) = &mut self.connections[id as usize].protocol else { return };
        let most = upload.purpose.bytes_max(&self.settings.limits);
        match upload.decoder.decode(rest, &mut upload.body, most) {
            Ok(taken) => *rest = &rest[taken..],
            Err(problem) => {
                *rest = &[];
                return self.refuse(id, &problem);
            }
        }
        if upload.decoder.is_complete() {
            let next = self.between_requests();
            let connection = &mut self.connections[id as usize];
            if let Protocol::Upload(upload) = std::mem::replace(&mut connection.protocol, next) {
                self.finish_upload(id, *upload);
            }
        }
    }

    fn finish_upload(&mut self, id: u32, upload: Upload) {
        let Upload { purpose, body, uncounted, .. } = upload;
        let counted = match uncounted {
            Some(who) => self.take_message(id, who.as_deref(), body.len()),
            None => Ok(()),
        };
        let publish = match purpose {
            Purpose::Publish(publish) => publish,
            Purpose::Enter(entry) => return self.finish_entry(id, &entry, &body, counted),
        };
        let exchange = publish.exchange.clone();
        let outcome = counted.and_then(|()| publish.event(body)).and_then(|event| {
            let answer = Answer::Http(exchange.clone());
            self.publish(id, &publish.channel, event, answer, publish.trace.clone())
        });
        match outcome {
            Ok(None) => {
                self.connections[id as usize].finishing |= !exchange.keep_alive || self.stopping;
                return;
            }
            Err(problem) if self.connections[id as usize].owed > 0 => {
                return self.owe_problem(id, exchange, problem);
            }
            Ok(Some(Published { appended, .. })) => {
                let status = if appended.duplicate { 200 } else { 201 };
                let channel = publish.channel.as_str();
                let body = poll::published(channel, appended.id, appended.time, appended.duplicate);
                exchange.json(&mut self.out, status, &[], &body);
            }
            Err(problem) => exchange.problem(&mut self.out, &problem, &[]),
        }
        self.after_answer(id, exchange.keep_alive);
    }
}

/// Kept here so that the size of an event in the log stays in view when it grows.
const _: () = assert!(size_of::<Event>() <= 192);
