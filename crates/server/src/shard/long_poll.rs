//! Polls, short and long: the answer, and what is held until there is one.
//! Must not know sockets: answers go to `out`, or to a group's shared bytes.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use tidewire_core::cursor::Start;
use tidewire_core::http1::if_none_match;
use tidewire_core::wire::poll::Page;
use tidewire_core::{ChannelName, Event, EventId, Problem, Since};

use super::Shard;
use super::connection::Protocol;
use super::timers::late;
use crate::access::Who;
use crate::http::answer::{Cors, Exchange};
use crate::http::read::{Begin, Missing, Reader, begin_anew, gather, joined_cursor};
use crate::http::route::{LIMIT_DEFAULT, ReadRequest};
use crate::hub::Channel;
use crate::metrics::Transport;

/// What the form of a poll's answer depends on, apart from the events. Held polls with the same reply at the
/// same position get the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) exchange: Exchange,
    limit: usize,
    several: bool,
    /// `since` was a cursor: the answer is right for whoever asks the same again.
    since_is_cursor: bool,
    since_is_latest: bool,
    holds: bool,
}

/// A held long poll.
#[derive(Debug)]
pub(super) struct LongPoll {
    reply: Reply,
    channels: Vec<ChannelName>,
    /// Held until the answer differs from this.
    if_none_match: Option<String>,
    /// The gap that the request began with.
    gap: Option<Vec<u8>>,
    /// Held only until its events are read from disk.
    at_once: bool,
    /// When to answer without events.
    pub(super) deadline_ms: u64,
}

/// A poll's answer without its head.
struct Answer {
    body: Vec<u8>,
    etag: String,
    events: usize,
    has_gap: bool,
    more: bool,
}

impl Answer {
    fn has_events(&self) -> bool {
        self.events > 0
    }
}

impl Reply {
    pub(super) fn new(exchange: Exchange, read: &ReadRequest, since: Option<&Since>, default: Start) -> Self {
        let is_latest = since.map_or(default == Start::Latest, |since| *since == Since::Latest);
        Self {
            exchange,
            limit: read.limit,
            several: read.several,
            since_is_cursor: matches!(since, Some(Since::Cursor(_))),
            since_is_latest: is_latest,
            holds: read.wait_ms.is_some(),
        }
    }

    /// How many of so many events an answer has.
    pub(super) fn events(&self, available: usize) -> usize {
        available.min(self.limit)
    }

    /// The whole answer to polls of one channel that waited at `after` and now get `events`.
    pub(super) fn answer(&self, channel: &Channel, after: u64, events: &[Arc<Event>], more: bool) -> Bytes {
        let page = &events[..self.events(events.len())];
        let cursor = page.last().map_or(channel.id(after), |event| event.id);
        let more = more || page.len() < events.len();
        let answer = self.page(&[channel.name().as_str()], &[channel.id(after)], page, &[cursor], more, None);
        let mut out = Vec::with_capacity(answer.body.len() + 256);
        self.push(&mut out, &answer);
        out.into()
    }

    fn page(
        &self,
        channels: &[&str],
        from: &[EventId],
        events: &[Arc<Event>],
        to: &[EventId],
        more: bool,
        gap: Option<&[u8]>,
    ) -> Answer {
        let cursor = joined_cursor(to);
        let page = Page { channels, several: self.several, events, cursor: &cursor, more, gap };
        Answer {
            body: page.to_json(),
            etag: etag(from, to, more, gap),
            events: events.len(),
            has_gap: gap.is_some(),
            more,
        }
    }

    fn push(&self, out: &mut Vec<u8>, answer: &Answer) {
        let fields = [("ETag", answer.etag.as_str()), ("Cache-Control", self.cache_control(answer))];
        self.exchange.json(out, 200, &fields, &answer.body);
    }

    /// PROTOCOL.md section 2.2.
    fn cache_control(&self, answer: &Answer) -> &'static str {
        let is_for_all_time = self.since_is_cursor && answer.has_events() && (self.holds || answer.more);
        match (is_for_all_time, self.exchange.private) {
            _ if self.since_is_latest || (self.holds && !answer.has_events()) => "no-store",
            (true, false) => "public, max-age=60",
            (true, true) => "private, max-age=60",
            (false, false) => "public, no-cache",
            (false, true) => "private, no-cache",
        }
    }
}

/// What is asked for must be read from disk first: the events of this channel after this offset.
struct OnDisk(Arc<Channel>, u64);

/// Events never change, so where an answer begins and ends says what is in it.
fn etag(from: &[EventId], to: &[EventId], more: bool, gap: Option<&[u8]>) -> String {
    let mut hasher = DefaultHasher::new();
    (from, to, more, gap).hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

impl LongPoll {
    /// How it is answered together with others; `None` if it must be answered alone. Unusual limits and
    /// origins are, so that nobody can make a channel keep a group for each.
    pub(super) fn reply(&self) -> Option<Reply> {
        let is_usual =
            !self.reply.several && self.reply.limit == LIMIT_DEFAULT && self.if_none_match.is_none();
        let is_usual = is_usual && !matches!(self.reply.exchange.cors, Cors::Other(_));
        (is_usual && !self.at_once && self.gap.is_none()).then(|| self.reply.clone())
    }

    /// The most events of its answer.
    pub(super) fn limit(&self) -> usize {
        self.reply.limit
    }

    /// How its request is answered.
    pub(super) fn exchange(&self) -> Exchange {
        self.reply.exchange.clone()
    }
}

impl Shard {
    /// Answers a poll, or holds it if it may be held and there is nothing to tell.
    pub(super) fn answer_poll_or_hold(
        &mut self,
        id: u32,
        read: ReadRequest,
        found: Begin,
        reply: Reply,
        if_none_match: Option<String>,
        who: Who,
    ) -> Result<(), Problem> {
        let requested = read.since.as_deref().unwrap_or_default();
        let gap = found.gap.as_ref().map(|gap| gap.to_json(&read.channels, read.several, requested));
        let from: Vec<EventId> = found.readers.iter().map(|reader| reader.position).collect();
        let answer = match self.read_answer(found.readers, &read, &reply, gap.as_deref()) {
            Ok(answer) => answer,
            Err(OnDisk(channel, after)) => {
                let deadline_ms = self.now_ms + self.settings.limits.body_timeout_ms;
                let (channels, at_once) = (read.channels, true);
                let poll = LongPoll { reply, channels, if_none_match, gap, at_once, deadline_ms };
                self.hold(id, poll, &from, who)?;
                self.load(id, channel, after);
                return Ok(());
            }
        };
        let same = if_none_match.as_deref().is_some_and(|header| matches_etag(header, &answer.etag));
        let tells = (answer.has_events() || answer.has_gap) && !same;
        let wait_ms =
            read.wait_ms.filter(|ms| *ms > 0 && !tells && !reply.exchange.head_only && !self.stopping);
        if let Some(wait_ms) = wait_ms {
            let deadline_ms = self.now_ms + wait_ms;
            let (channels, at_once) = (read.channels, false);
            let poll = LongPoll { reply, channels, if_none_match, gap, at_once, deadline_ms };
            self.hold(id, poll, &from, who)?;
            // Whatever came between the look at the log and the subscription is found at the turn's end.
            self.try_answer_long_poll(id);
            return Ok(());
        }
        self.push_answer(id, &reply, &answer, same);
        Ok(())
    }

    fn read_answer(
        &self,
        readers: Vec<Reader>,
        read: &ReadRequest,
        reply: &Reply,
        gap: Option<&[u8]>,
    ) -> Result<Answer, OnDisk> {
        let limits = &self.settings.limits;
        let mut readers = readers;
        let from: Vec<EventId> = readers.iter().map(|reader| reader.position).collect();
        let mut picked = Vec::new();
        let more = match gather(&mut readers, reply.limit, limits.page_bytes, &mut picked) {
            Ok(more) => more,
            Err(Missing::OnDisk(channel, after)) => return Err(OnDisk(channel, after)),
            Err(Missing::Evicted) => {
                // What was there a moment ago is gone: begin where the log begins now, and say so.
                picked.clear();
                let found = begin_anew(&readers);
                let requested = read.since.as_deref().unwrap_or_default();
                let gap = found.gap.as_ref().map(|gap| gap.to_json(&read.channels, read.several, requested));
                let at: Vec<EventId> = found.readers.iter().map(|reader| reader.position).collect();
                return Ok(reply.page(&read.names(), &from, &[], &at, true, gap.as_deref()));
            }
        };
        let events: Vec<Arc<Event>> = picked.into_iter().map(|(_, event)| event).collect();
        let to: Vec<EventId> = readers.iter().map(|reader| reader.position).collect();
        Ok(reply.page(&read.names(), &from, &events, &to, more, gap))
    }

    fn push_answer(&mut self, id: u32, reply: &Reply, answer: &Answer, same: bool) {
        if same {
            reply.exchange.not_modified(&mut self.out, &answer.etag, reply.cache_control(answer));
        } else {
            reply.push(&mut self.out, answer);
            let transport = if reply.holds { Transport::LongPoll } else { Transport::Http };
            self.counters.add_delivered(transport, answer.events);
            self.counters.gaps.add(u64::from(answer.has_gap));
        }
        self.after_answer(id, reply.exchange.keep_alive);
    }

    fn hold(&mut self, id: u32, poll: LongPoll, from: &[EventId], who: Who) -> Result<(), Problem> {
        self.begin_stream_of(id, who, Transport::LongPoll)?;
        for (place, name) in poll.channels.iter().enumerate() {
            match self.subscribe(id, name) {
                Ok(slot) => {
                    self.connections[id as usize].subscriptions[slot as usize].cursor = from[place].offset;
                }
                Err(problem) => {
                    self.unsubscribe_all(id);
                    return Err(problem);
                }
            }
        }
        let deadline_ms = poll.deadline_ms;
        self.connections[id as usize].protocol = Protocol::LongPoll(Box::new(poll));
        self.become_stream(id, Transport::LongPoll);
        self.arm_at(id, deadline_ms);
        Ok(())
    }

    /// Answers a held poll if there is something to tell.
    pub(super) fn try_answer_long_poll(&mut self, id: u32) {
        match self.held_answer(id) {
            None => {}
            Some((_, Err(OnDisk(channel, after)))) => self.load(id, channel, after),
            Some((reply, Ok(answer))) => {
                let Protocol::LongPoll(poll) = &self.connections[id as usize].protocol else { return };
                let same =
                    poll.if_none_match.as_deref().is_some_and(|header| matches_etag(header, &answer.etag));
                if poll.at_once || ((answer.has_events() || answer.has_gap) && !same) {
                    self.finish_long_poll(id, reply.exchange.keep_alive);
                    self.push_answer(id, &reply, &answer, same);
                }
            }
        }
    }

    /// The time of a held poll is over: answers with what there is.
    pub(super) fn end_long_poll(&mut self, id: u32) {
        let Some((reply, answer)) = self.held_answer(id) else { return };
        let Protocol::LongPoll(poll) = &self.connections[id as usize].protocol else { return };
        let if_none_match = poll.if_none_match.clone();
        self.finish_long_poll(id, reply.exchange.keep_alive);
        match answer {
            Ok(answer) => {
                let same = if_none_match.is_some_and(|header| matches_etag(&header, &answer.etag));
                self.push_answer(id, &reply, &answer, same);
            }
            Err(OnDisk(..)) => {
                reply.exchange.problem(&mut self.out, &late(), &[]);
                self.after_answer(id, reply.exchange.keep_alive);
            }
        }
        if self.connections.contains(id as usize) {
            self.finish_turn(id);
        }
    }

    fn held_answer(&self, id: u32) -> Option<(Reply, Result<Answer, OnDisk>)> {
        let connection = &self.connections[id as usize];
        let Protocol::LongPoll(poll) = &connection.protocol else { return None };
        let readers = connection.subscriptions.iter().map(|subscription| {
            let local = &self.channels[subscription.channel as usize];
            Reader::new(local.channel.id(local.position(subscription)), Some(local.channel.clone()))
        });
        let readers: Vec<Reader> = readers.collect();
        let positions: Vec<EventId> = readers.iter().map(|reader| reader.position).collect();
        let read = ReadRequest {
            channels: poll.channels.clone(),
            several: poll.reply.several,
            // A gap names the position that is gone.
            since: Some(joined_cursor(&positions)),
            snapshot: false,
            limit: poll.reply.limit,
            wait_ms: None,
        };
        Some((poll.reply.clone(), self.read_answer(readers, &read, &poll.reply, poll.gap.as_deref())))
    }

    /// A held poll is answered: the connection waits for its next request, or closes.
    pub(super) fn finish_long_poll(&mut self, id: u32, keep_alive: bool) {
        self.unsubscribe_all(id);
        self.counters.change(Transport::LongPoll, Transport::Http);
        self.connections[id as usize].protocol = self.between_requests();
        self.connections[id as usize].end_stream();
        if !keep_alive {
            self.connections[id as usize].ended = true;
        }
        self.queue(id);
    }
}

fn matches_etag(header: &str, etag: &str) -> bool {
    if_none_match(header, etag)
}
