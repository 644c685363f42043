//! What is read of the streams: from who leads them where it must be the newest, from any server where there is much.
//! One that lags is found out. Must not know who asks, nor change anything.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{BufMut, Bytes};
use serde_json::{Value, json};
use tidewire_core::{ChannelName, Epoch};

use super::index::Note;
use super::meta::{Meta, Witness};
use super::streams::{index_name, log_name};
use super::wire::{NOT_FOUND, Refusal, Wire, lock, odd};
use super::words::{Message, token};
use crate::backplane::broker::BrokerError;

const NO_MESSAGE: u64 = 10_037;
/// How often a server that lags is asked again, and after which pause.
const TRIES: usize = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// The two streams of a log.
#[derive(Debug, Clone)]
pub(super) struct Library {
    pub(super) wire: Wire,
    pub(super) prefix: Arc<str>,
    /// There is one server that has the log, which leads it then.
    pub(super) is_alone: bool,
    pub(super) meta: Arc<Meta>,
    pub(super) witness: Arc<Mutex<Witness>>,
}

/// A message as it is stored.
pub(super) struct Found {
    pub(super) sequence: u64,
    pub(super) data: Bytes,
}

/// The newest message of a channel.
pub(super) struct Newest {
    /// What whoever appends must expect to be there. 0: what is known of the channel has outlived its events.
    pub(super) expected: u64,
    pub(super) message: Message,
}

impl Library {
    pub(super) fn epoch(&self, name: &ChannelName) -> Epoch {
        Epoch::derive(self.meta.number, name.as_str())
    }

    pub(super) fn subject(&self, name: &ChannelName) -> String {
        format!("{}.log.{}", self.prefix, token(name))
    }

    pub(super) fn feed(&self, name: &ChannelName) -> String {
        format!("{}.feed.{}", self.prefix, token(name))
    }

    /// Where a channel's numbers are that has a state, for when all its events are gone.
    pub(super) fn numbers(&self, name: &ChannelName) -> String {
        format!("{}.numbers.{}", self.prefix, token(name))
    }

    /// The newest message of a channel, as the leader has it.
    pub(super) async fn newest(
        &self,
        name: &ChannelName,
        is_keyed: bool,
    ) -> Result<Option<Newest>, BrokerError> {
        let subject = self.subject(name);
        if let Some(Found { sequence, data }) = self.last(&log_name(&self.prefix), &subject).await? {
            let message = Message::decode(sequence, data)?;
            lock(&self.witness).note(sequence, message.head.nonce);
            return Ok(Some(Newest { expected: sequence, message }));
        }
        if !is_keyed {
            return Ok(None);
        }
        let Some((_, data)) = self.find(&self.numbers(name)).await? else { return Ok(None) };
        let (_, data) = data.split_at_checked(8).ok_or_else(|| odd("no numbers"))?;
        let (sequence, data) = data.split_at_checked(8).ok_or_else(|| odd("no numbers"))?;
        let sequence = sequence.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let mut message = Message::decode(sequence, Bytes::copy_from_slice(data))?;
        let head = &mut message.head;
        (head.floor, head.floor_count, head.floor_total) = (head.head, head.count, head.total);
        (head.first, head.oldest, head.indexed) = (0, 0, head.head);
        Ok(Some(Newest { expected: 0, message }))
    }

    /// What [`Self::newest`] finds when a channel's events are gone, but not its state.
    pub(super) fn numbers_note(&self, name: &ChannelName, message: &Message) -> Note {
        let Message { sequence, head, .. } = message;
        let mut data = Vec::with_capacity(512);
        data.put_u64_le(head.head);
        data.put_u64_le(*sequence);
        data.put_slice(&head.encode(&[]));
        let ttl_ms = if head.keys > 0 { 0 } else { head.ttl_ms };
        Note { subject: self.numbers(name), offset: head.head, data: data.into(), ttl_ms }
    }

    /// Deletes what a channel has before a message of it.
    pub(super) async fn purge_log(&self, name: &ChannelName, before: u64) -> Result<(), BrokerError> {
        let call = format!("STREAM.PURGE.{}", log_name(&self.prefix));
        self.wire.demand(&call, json!({ "filter": self.subject(name), "seq": before })).await.map(drop)
    }

    /// Deletes what the index has of these subjects.
    pub(super) async fn purge_index(&self, filter: &str) -> Result<(), BrokerError> {
        let call = format!("STREAM.PURGE.{}", index_name(&self.prefix));
        self.wire.demand(&call, json!({ "filter": filter })).await.map(drop)
    }

    /// What the index has of a subject, as the leader has it: its sequence, and its data.
    pub(super) async fn find(&self, subject: &str) -> Result<Option<(u64, Bytes)>, BrokerError> {
        let found = self.last(&index_name(&self.prefix), subject).await?;
        Ok(found.map(|stored| (stored.sequence, stored.data)))
    }

    /// The message of the log that has a sequence, if it is still there.
    pub(super) async fn message(&self, sequence: u64) -> Result<Option<Message>, BrokerError> {
        let stored = self.get(&log_name(&self.prefix), json!({ "seq": sequence })).await?;
        stored.map(|stored| Message::decode(sequence, stored.data)).transpose()
    }

    async fn last(&self, stream: &str, subject: &str) -> Result<Option<Found>, BrokerError> {
        let asked = json!({ "last_by_subj": subject });
        if !self.is_alone {
            return self.get(stream, asked).await;
        }
        let call = format!("$JS.API.DIRECT.GET.{stream}");
        let answer = self.wire.ask(call, None, asked.to_string().into()).await?;
        if answer.status.is_some_and(|status| u64::from(status.as_u16()) == NOT_FOUND) {
            return Ok(None);
        }
        stored(answer).map(Some)
    }

    /// Asks who leads a stream.
    async fn get(&self, stream: &str, asked: Value) -> Result<Option<Found>, BrokerError> {
        let said = match self.wire.api(&format!("STREAM.MSG.GET.{stream}"), asked).await? {
            Ok(said) => said,
            Err(Refusal { code: NO_MESSAGE | NOT_FOUND, .. }) => return Ok(None),
            Err(refusal) => return Err(refusal.into_error()),
        };
        let message = &said["message"];
        let data = message["data"].as_str().unwrap_or_default();
        Ok(Some(Found {
            sequence: message["seq"].as_u64().ok_or_else(|| odd("a message without a sequence"))?,
            data: BASE64_STANDARD.decode(data).map_err(|_| odd("no base64"))?.into(),
        }))
    }

    /// Messages of a channel from a sequence on; fewer than there are if they are so many, or have that many bytes,
    /// but at least one. All of them otherwise: `to` is known to be there.
    pub(super) async fn messages(
        &self,
        name: &ChannelName,
        (from, to): (u64, u64),
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Message>, BrokerError> {
        let (log, subject) = (log_name(&self.prefix), self.subject(name));
        for _ in 0..TRIES {
            let (found, is_all) = self.scan(&log, &subject, from, messages_max, bytes_max).await?;
            let last = found.last().map_or(0, |stored| stored.sequence);
            if last >= to || (!is_all && !found.is_empty()) {
                return found
                    .into_iter()
                    .map(|stored| Message::decode(stored.sequence, stored.data))
                    .collect();
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(BrokerError("a server of its cluster lags behind the others, and answers for them".to_owned()))
    }

    /// What any server has of a stream and subject, and whether that is all it has.
    pub(super) async fn scan(
        &self,
        stream: &str,
        subject: &str,
        from: u64,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Found>, bool), BrokerError> {
        let asked = json!({ "seq": from.max(1), "next_by_subj": subject, "batch": messages_max, "max_bytes": bytes_max });
        let call = format!("$JS.API.DIRECT.GET.{stream}");
        let mut answers = self.wire.question(call, None, asked.to_string().into()).await?;
        let mut found = Vec::new();
        loop {
            let answer = answers.next().await?;
            match answer.status.map(|status| status.as_u16()) {
                None => found.push(stored(answer)?),
                Some(204) => {
                    let more = header(&answer, "Nats-Num-Pending").unwrap_or(0);
                    return Ok((found, more == 0));
                }
                Some(404) => return Ok((found, true)),
                Some(status) => {
                    let why = answer.description.unwrap_or_default();
                    return Err(BrokerError(format!(
                        "it does not give several messages at once: {status} {why}"
                    )));
                }
            }
        }
    }
}

fn stored(answer: async_nats::Message) -> Result<Found, BrokerError> {
    let sequence = header(&answer, "Nats-Sequence").ok_or_else(|| odd("a message without a sequence"))?;
    Ok(Found { sequence, data: answer.payload })
}

/// A number that stands above a message.
pub(super) fn header(message: &async_nats::Message, name: &str) -> Option<u64> {
    message.headers.as_ref()?.get(name)?.as_str().parse().ok()
}
