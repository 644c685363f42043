//! The broker's seam, spoken to Redis. Must not know how connections are made.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, PushInfo, PushKind, RedisResult, Value};
use tidewire_core::limits::{BACKPLANE_SEAMS, Durability, Limits, Policy, StateKind};
use tidewire_core::log::receipts::{Digest, Receipt};
use tidewire_core::log::state::StateSize;
use tidewire_core::{ChannelName, Code, Epoch, Event, EventId, Problem, Timestamp, record};
use tokio::sync::mpsc;

use super::address::Parameters;
use super::words;
use crate::backplane::broker::{
    Answer, Append, Appended, Arrival, Broker, BrokerError, Known, Notice, Standing, StateAt,
};

/// How long a channel is known to Redis to which nobody has published; whoever follows it looks more often.
const EMPTY_MS: u64 = 3_600_000;

/// How long replicas have for what was appended.
const REPLICAS_MS: u64 = 1_000;

/// The connections to one Redis.
pub(super) struct Connections {
    pub(super) writer: MultiplexedConnection,
    pub(super) reader: MultiplexedConnection,
    pub(super) listener: MultiplexedConnection,
}

/// The scripts, by the names that Redis gave them.
#[derive(Debug, Clone)]
pub(super) struct Scripts {
    append: String,
    look: String,
    state: String,
    delete: String,
    forget: String,
}

impl Scripts {
    pub(super) async fn load(connection: &mut MultiplexedConnection) -> RedisResult<Self> {
        let mut load = async |script: &str| -> RedisResult<String> {
            redis::cmd("SCRIPT").arg("LOAD").arg(script).query_async(connection).await
        };
        Ok(Self {
            append: load(include_str!("append.lua")).await?,
            look: load(include_str!("look.lua")).await?,
            state: load(include_str!("state.lua")).await?,
            delete: load(include_str!("delete.lua")).await?,
            forget: load(include_str!("forget.lua")).await?,
        })
    }
}

/// One Redis.
pub(super) struct RedisBroker {
    connections: Connections,
    scripts: Scripts,
    feed: RefCell<mpsc::Receiver<PushInfo>>,
    prefix: String,
    replicas: u8,
    /// This node, as it is named in the feed.
    node: String,
    term: Term,
    /// It is a part of a cluster: what is published there stays in that part.
    is_part: bool,
    known: Known,
}

/// A process and reign of a Redis.
#[derive(Debug)]
pub(super) struct Term {
    pub(super) name: String,
    /// What was acknowledged before it may be missing.
    pub(super) may_have_lost: bool,
}

impl RedisBroker {
    pub(super) fn new(
        connections: Connections,
        scripts: Scripts,
        feed: mpsc::Receiver<PushInfo>,
        parameters: Parameters,
        node: String,
        term: Term,
        is_part: bool,
    ) -> Self {
        let Parameters { prefix, replicas, .. } = parameters;
        let known = Known { number: 0, secret: [0; 32] };
        Self { connections, scripts, feed: RefCell::new(feed), prefix, replicas, node, term, is_part, known }
    }

    /// Is told what all who share the log know of it.
    pub(super) fn know(&mut self, known: Known) {
        self.known = known;
    }

    pub(super) fn writer(&mut self) -> &mut MultiplexedConnection {
        &mut self.connections.writer
    }

    pub(super) fn reader(&self) -> MultiplexedConnection {
        self.connections.reader.clone()
    }

    /// From when this is answered, announcements come as notices.
    pub(super) async fn hear_board(&mut self) -> RedisResult<()> {
        let board = self.board();
        self.connections.listener.subscribe(board).await
    }

    fn epoch(&self, name: &ChannelName) -> Epoch {
        Epoch::derive(self.known.number, name.as_str())
    }

    /// How scripts publish.
    fn verb(&self) -> &'static str {
        if self.is_part { "SPUBLISH" } else { "PUBLISH" }
    }

    fn key(&self, name: &ChannelName, what: &str) -> String {
        format!("{}:{{{name}}}:{what}", self.prefix)
    }

    /// What is announced, and the feed of it.
    fn board(&self) -> String {
        format!("{}:board", self.prefix)
    }

    fn feed_of(&self, name: &ChannelName) -> String {
        self.key(name, "feed")
    }

    fn channel_of(&self, feed: &[u8]) -> Option<ChannelName> {
        let name = std::str::from_utf8(feed).ok()?.strip_prefix(&self.prefix)?;
        ChannelName::new(name.strip_prefix(":{")?.strip_suffix("}:feed")?).ok()
    }

    /// A script with the keys of a channel.
    fn script(&self, script: &str, name: &ChannelName, keys: &[&str]) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(script).arg(keys.len());
        keys.iter().for_each(|key| {
            command.arg(self.key(name, key));
        });
        command
    }

    fn append_one(&self, append: &Append, limits: &Limits) -> Cmd {
        let Append { name, policy, new, digest } = append;
        let retention = &policy.retention;
        let unborn = EventId { epoch: self.epoch(name), offset: 0 };
        let event = Event::new(unborn, Timestamp(0), name.clone(), new.clone());
        let key = new.key.as_deref().filter(|_| policy.state == StateKind::Keyed && keeps(policy));
        let mut command = self.script(&self.scripts.append, name, &["n", "log", "state", "r", "ro"]);
        command.arg(&self.term.name).arg(self.feed_of(name)).arg(&self.node);
        command.arg(record::encode(&event, 0)).arg(event.size_bytes()).arg(u8::from(keeps(policy)));
        command.arg(retention.events).arg(retention.bytes).arg(retention.age_ms);
        command.arg(new.idempotency_key.as_deref().unwrap_or_default());
        command.arg(digest.as_ref().map(hexadecimal).unwrap_or_default());
        command.arg(retention.idempotency_ms.max(1)).arg(retention.idempotency_keys);
        command.arg(key.unwrap_or_default()).arg(u8::from(event.is_tombstone()));
        command.arg(limits.state_keys).arg(limits.state_bytes).arg(BACKPLANE_SEAMS);
        command.arg(u8::from(self.term.may_have_lost)).arg(self.verb());
        command
    }

    /// Has the feeds of channels come, or come no longer.
    fn tune(&self, names: &[ChannelName], comes: bool) -> Answer<()> {
        let mut listener = self.connections.listener.clone();
        let feeds = names.iter().map(|name| self.feed_of(name));
        if self.is_part {
            // Each has a slot of its own, and a command must not have two.
            let verb = if comes { "SSUBSCRIBE" } else { "SUNSUBSCRIBE" };
            let mut pipeline = Pipeline::with_capacity(names.len());
            feeds.for_each(|feed| {
                pipeline.cmd(verb).arg(feed).ignore();
            });
            return Box::pin(async move { pipeline.query_async(&mut listener).await.map_err(failed) });
        }
        let feeds: Vec<String> = feeds.collect();
        Box::pin(async move {
            let outcome =
                if comes { listener.subscribe(feeds).await } else { listener.unsubscribe(feeds).await };
            outcome.map_err(failed)
        })
    }
}

fn keeps(policy: &Policy) -> bool {
    policy.durability != Durability::None
}

fn hexadecimal(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest_of(text: &str) -> Result<Digest, BrokerError> {
    let mut digest = Digest::default();
    for (index, byte) in digest.iter_mut().enumerate() {
        let digits = text.get(2 * index..2 * index + 2).ok_or_else(|| words::odd("no digest"))?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| words::odd("no digest"))?;
    }
    Ok(digest)
}

fn failed(error: redis::RedisError) -> BrokerError {
    BrokerError(error.to_string())
}

/// Sends commands as one, with an answer for each.
async fn send(mut connection: MultiplexedConnection, pipeline: Pipeline) -> Result<Vec<Value>, BrokerError> {
    pipeline.query_async(&mut connection).await.map_err(failed)
}

async fn send_one(mut connection: MultiplexedConnection, command: Cmd) -> Result<Value, BrokerError> {
    command.query_async(&mut connection).await.map_err(failed)
}

/// What was appended is not at as many replicas as it must be. It is in the log, and whoever follows it hears of it.
fn too_few(replicas: u8) -> Problem {
    let detail = format!(
        "the event is stored, but not by {replicas} of the backplane's replicas, so it may be lost; try again with \
         the same idempotency key"
    );
    Problem::new(Code::BackplaneUnavailable, detail)
}

/// What became of one append.
fn appended(append: Append, epoch: Epoch, limits: &Limits, value: Value) -> Result<Appended, BrokerError> {
    let said = words::list(value)?;
    let at = |index| words::number(said.get(index));
    match (words::text(said.first())?, append.digest) {
        ("stored", _) => {
            let (id, time) = (EventId { epoch, offset: at(1)? }, Timestamp(at(2)?));
            let event = Arc::new(Event::new(id, time, append.name, append.new));
            let extent = words::extent(&[at(4)?, at(5)?, at(6)?, at(7)?])?;
            let (prev, lossy) = words::prev(words::text(said.get(3))?)?;
            Ok(Appended::Stored(Arrival { event, prev, lossy, extent: Some(extent) }))
        }
        ("known", Some(digest)) => {
            let known = Receipt {
                offset: at(1)?,
                time: Timestamp(at(2)?),
                digest: digest_of(words::text(said.get(3))?)?,
            };
            Ok(known.check(&digest).map_or_else(Appended::Refused, |()| Appended::Known(known)))
        }
        ("full", _) => Ok(Appended::Refused(full(limits))),
        _ => Err(words::odd("no answer to an append")),
    }
}

/// The problem of a state that has no room.
fn full(limits: &Limits) -> Problem {
    let size = StateSize { keys: limits.state_keys as u64, bytes: limits.state_bytes as u64 };
    match size.replace(None, Some(1), limits) {
        Err(problem) => problem,
        Ok(_) => Problem::new(Code::StateFull, "the channel's state is full"),
    }
}

impl Broker for RedisBroker {
    fn known(&self) -> Known {
        self.known
    }

    fn say_once(&self, what: &str, keep_ms: u64) -> Answer<bool> {
        let mut command = redis::cmd("SET");
        command.arg(format!("{}:once:{what}", self.prefix)).arg(1).arg("NX").arg("PX").arg(keep_ms);
        let writer = self.connections.writer.clone();
        Box::pin(async move { Ok(send_one(writer, command).await? == Value::Okay) })
    }

    fn announce(&self, subject: &str, what: &str, is_kept: bool) -> Answer<()> {
        let mut pipeline = Pipeline::new();
        if is_kept {
            pipeline.cmd("HSET").arg(self.board()).arg(subject).arg(what).ignore();
        }
        let said = serde_json::to_string(&(subject, what)).unwrap_or_default();
        let message = format!("{} {said}", self.node);
        pipeline.cmd("PUBLISH").arg(self.board()).arg(message).ignore();
        let mut writer = self.connections.writer.clone();
        Box::pin(async move { pipeline.query_async(&mut writer).await.map_err(failed) })
    }

    fn announced(&self) -> Answer<Vec<(String, String)>> {
        let (mut reader, board) = (self.connections.reader.clone(), self.board());
        Box::pin(
            async move { redis::cmd("HGETALL").arg(board).query_async(&mut reader).await.map_err(failed) },
        )
    }

    fn forget(&self, announced: &[(String, String)]) -> Answer<()> {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.scripts.forget).arg(1).arg(self.board());
        announced.iter().for_each(|(subject, what)| {
            command.arg(subject).arg(what);
        });
        let writer = self.connections.writer.clone();
        Box::pin(async move { send_one(writer, command).await.map(drop) })
    }

    fn append(&self, appends: Vec<Append>, limits: &Limits) -> Answer<Vec<Appended>> {
        let mut pipeline = Pipeline::with_capacity(appends.len());
        let mut epochs = Vec::with_capacity(appends.len());
        for append in &appends {
            pipeline.add_command(self.append_one(append, limits));
            epochs.push(self.epoch(&append.name));
        }
        let replicas = self.replicas;
        if replicas > 0 {
            pipeline.cmd("WAIT").arg(replicas).arg(REPLICAS_MS);
        }
        let (writer, limits) = (self.connections.writer.clone(), limits.clone());
        Box::pin(async move {
            let mut answers = send(writer, pipeline).await?;
            if replicas > 0 && words::number(answers.pop().as_ref())? < u64::from(replicas) {
                return Ok(appends.iter().map(|_| Appended::Refused(too_few(replicas))).collect());
            }
            let asked = appends.into_iter().zip(epochs).zip(answers);
            asked.map(|((append, epoch), answer)| appended(append, epoch, &limits, answer)).collect()
        })
    }

    fn follow(&self, names: &[ChannelName]) -> Answer<()> {
        self.tune(names, true)
    }

    fn unfollow(&self, names: &[ChannelName]) -> Answer<()> {
        self.tune(names, false)
    }

    fn look(&self, channels: &[(ChannelName, Arc<Policy>)]) -> Answer<Vec<Standing>> {
        let mut pipeline = Pipeline::with_capacity(channels.len());
        let mut asked = Vec::with_capacity(channels.len());
        for (name, policy) in channels {
            let mut command = self.script(&self.scripts.look, name, &["n", "log"]);
            command
                .arg(u8::from(keeps(policy)))
                .arg(policy.retention.age_ms)
                .arg(&self.term.name)
                .arg(EMPTY_MS);
            pipeline.add_command(command);
            asked.push((name.clone(), self.epoch(name)));
        }
        let reader = self.connections.reader.clone();
        Box::pin(async move {
            let answers = send(reader, pipeline).await?;
            let asked = asked.into_iter().zip(answers);
            asked.map(|((name, epoch), answer)| words::standing(&name, epoch, answer)).collect()
        })
    }

    fn read(
        &self,
        name: &ChannelName,
        after: u64,
        last: u64,
        events_max: usize,
        bytes_max: usize,
    ) -> Answer<Vec<Arrival>> {
        let (log, name, epoch) = (self.key(name, "log"), name.clone(), self.epoch(name));
        let reader = self.connections.reader.clone();
        Box::pin(async move {
            let (mut arrivals, mut bytes, mut next) = (Vec::new(), 0, after.saturating_add(1));
            // How large events are is not known beforehand: a few show it.
            let mut count = events_max.min(READ_FIRST);
            loop {
                let mut command = redis::cmd("XRANGE");
                let last = if last == u64::MAX { "+".to_owned() } else { last.to_string() };
                command.arg(&log).arg(format!("{next}-0")).arg(last).arg("COUNT").arg(count);
                let entries = words::list(send_one(reader.clone(), command).await?)?;
                let is_all = entries.len() < count;
                for entry in entries {
                    let arrival = words::entry(&name, epoch, entry)?;
                    bytes += arrival.event.size_bytes();
                    next = arrival.event.id.offset + 1;
                    arrivals.push(arrival);
                    if bytes >= bytes_max || arrivals.len() >= events_max {
                        return Ok(arrivals);
                    }
                }
                if is_all {
                    return Ok(arrivals);
                }
                let size = (bytes / arrivals.len().max(1)).max(1);
                let room = (bytes_max - bytes).div_ceil(size);
                count = room.clamp(1, READ_AT_ONCE).min(events_max - arrivals.len());
            }
        })
    }

    fn state(&self, name: &ChannelName, policy: &Arc<Policy>) -> Answer<StateAt> {
        let is_keyed = policy.state == StateKind::Keyed;
        let mut command = self.script(&self.scripts.state, name, &["n", "log", "state"]);
        command.arg(u8::from(is_keyed));
        let (reader, name, epoch) = (self.connections.reader.clone(), name.clone(), self.epoch(name));
        Box::pin(async move { words::state(&name, epoch, is_keyed, send_one(reader, command).await?) })
    }

    fn delete(&self, name: &ChannelName) -> Answer<u64> {
        let mut command = self.script(&self.scripts.delete, name, &["n", "log", "state", "r", "ro"]);
        command.arg(self.feed_of(name)).arg(&self.node).arg(self.verb());
        let writer = self.connections.writer.clone();
        Box::pin(async move { words::number(Some(&send_one(writer, command).await?)) })
    }

    fn ping(&self) -> Answer<()> {
        let Connections { writer, reader, listener } = &self.connections;
        let all = [writer.clone(), reader.clone(), listener.clone()];
        Box::pin(async move {
            let pings = all.map(|connection| send_one(connection, redis::cmd("PING")));
            futures_util::future::try_join_all(pings).await.map(drop)
        })
    }

    fn notice(&self) -> Pin<Box<dyn Future<Output = Option<Notice>> + '_>> {
        Box::pin(std::future::poll_fn(|context| self.poll_notice(context)))
    }
}

/// How many entries are read at first, and then at once.
const READ_FIRST: usize = 16;
const READ_AT_ONCE: usize = 1_000;

impl RedisBroker {
    /// The next notice, none once the connection is gone.
    pub(super) fn poll_notice(&self, context: &mut Context<'_>) -> Poll<Option<Notice>> {
        loop {
            let Ok(mut feed) = self.feed.try_borrow_mut() else { return Poll::Pending };
            let Some(PushInfo { kind, data }) = std::task::ready!(feed.poll_recv(context)) else {
                return Poll::Ready(None);
            };
            let notice = match kind {
                PushKind::Message | PushKind::SMessage => self.message(&data),
                PushKind::Disconnection => Some(Notice::Lost("its feed has ended".to_owned())),
                _ => None,
            };
            if notice.is_some() {
                return Poll::Ready(notice);
            }
        }
    }

    fn message(&self, data: &[Value]) -> Option<Notice> {
        if words::text(data.first()).ok()? == self.board() {
            let (node, said) = words::text(data.get(1)).ok()?.split_once(' ')?;
            let (subject, what) = serde_json::from_str(said).ok()?;
            return (node != self.node).then_some(Notice::Announced(subject, what));
        }
        let name = self.channel_of(words::bytes(data.first()).ok()?)?;
        let epoch = self.epoch(&name);
        let message = words::bytes(data.get(1)).ok()?;
        words::notice(name, epoch, &self.node, message)
            .unwrap_or_else(|error| Some(Notice::Lost(error.to_string())))
    }
}
