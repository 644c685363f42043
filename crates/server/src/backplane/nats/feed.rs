//! What is heard: events of channels that are followed, and what other servers say to all. Must not know what becomes of
//! it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_nats::Subscriber;
use futures_util::StreamExt;
use futures_util::stream::{AbortHandle, BoxStream, SelectAll, abortable};
use tidewire_core::ChannelName;
use tokio::sync::mpsc;

use super::library::{Library, header};
use super::wire::{lock, odd};
use super::words::{Kind, Message};
use crate::backplane::broker::{BrokerError, Notice};

/// Listens. Ends when it is dropped.
pub(super) struct Feed {
    library: Library,
    followed: Mutex<HashMap<ChannelName, AbortHandle>>,
    streams: mpsc::UnboundedSender<Heard>,
    ear: tokio::task::AbortHandle,
}

/// What comes on one subject, in words.
type Heard = BoxStream<'static, Said>;

enum Said {
    Event(ChannelName, async_nats::Message),
    /// Of a server, to all.
    Announced(async_nats::Message),
    /// The log has lost something.
    Leapt(async_nats::Message),
}

/// Where what is heard goes.
pub(super) struct Ear {
    pub(super) library: Library,
    pub(super) node: u64,
    pub(super) notices: mpsc::Sender<Notice>,
    /// There was no room for a notice.
    pub(super) is_deaf: Arc<AtomicBool>,
}

impl Feed {
    /// From when this is answered, what is announced is heard.
    pub(super) async fn open(ear: Ear) -> Result<Self, BrokerError> {
        let library = ear.library.clone();
        let (streams, added) = mpsc::unbounded_channel();
        let said = library.wire.subscribe(format!("{}.said", library.prefix)).await?;
        let leaps = library.wire.subscribe(format!("{}.leap", library.prefix)).await?;
        let heard: [Heard; 2] = [said.map(Said::Announced).boxed(), leaps.map(Said::Leapt).boxed()];
        let ear = tokio::spawn(ear.listen(heard, added)).abort_handle();
        Ok(Self { library, followed: Mutex::default(), streams, ear })
    }

    /// Subscribes to channels that are not followed yet. What is asked of the server after this is asked when they are.
    pub(super) async fn follow(self: Arc<Self>, names: Vec<ChannelName>) -> Result<(), BrokerError> {
        for name in names {
            if lock(&self.followed).contains_key(&name) {
                continue;
            }
            let subscriber: Subscriber = self.library.wire.subscribe(self.library.feed(&name)).await?;
            let (stream, handle) = abortable(subscriber);
            if let Some(other) = lock(&self.followed).insert(name.clone(), handle) {
                other.abort(); // somebody else was at it
            }
            let stream = stream.map(move |message| Said::Event(name.clone(), message)).boxed();
            self.streams.send(stream).map_err(|_| BrokerError("nobody listens any more".to_owned()))?;
        }
        Ok(())
    }

    pub(super) fn unfollow(&self, names: &[ChannelName]) {
        let mut followed = lock(&self.followed);
        names.iter().filter_map(|name| followed.remove(name)).for_each(|handle| handle.abort());
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.ear.abort();
    }
}

impl Ear {
    async fn listen(self, heard: [Heard; 2], mut added: mpsc::UnboundedReceiver<Heard>) {
        let mut all: SelectAll<Heard> = heard.into_iter().collect();
        loop {
            tokio::select! {
                biased;
                stream = added.recv() => match stream {
                    Some(stream) => all.push(stream),
                    None => return,
                },
                Some(said) = all.next(), if !all.is_empty() => {
                    if let Err(error) = self.hear(said) {
                        self.tell(Notice::Lost(error.to_string()));
                    }
                }
            }
        }
    }

    fn hear(&self, said: Said) -> Result<(), BrokerError> {
        match said {
            Said::Event(name, message) => self.hear_event(&name, message)?,
            Said::Announced(message) => {
                let said = serde_json::from_slice(&message.payload).map_err(|_| odd("no announcement"))?;
                let (node, subject, what): (u64, String, String) = said;
                if node != self.node {
                    self.tell(Notice::Announced(subject, what));
                }
            }
            Said::Leapt(message) => {
                let base = std::str::from_utf8(&message.payload).ok().and_then(|base| base.parse().ok());
                if base.is_none_or(|base: u64| base > self.library.meta.base()) {
                    self.tell(Notice::Lost("another server has found that it lost what it had".to_owned()));
                }
            }
        }
        Ok(())
    }

    fn hear_event(&self, name: &ChannelName, message: async_nats::Message) -> Result<(), BrokerError> {
        let sequence =
            header(&message, "Nats-Sequence").ok_or_else(|| odd("an event without its sequence"))?;
        let message = Message::decode(sequence, message.payload)?;
        lock(&self.library.witness).note(sequence, message.head.nonce);
        if message.head.node == self.node {
            return Ok(()); // known by its answer
        }
        if message.head.kind == Kind::Deleted {
            self.tell(Notice::Deleted(name.clone(), message.head.head));
        }
        let epoch = self.library.epoch(name);
        for index in 0..message.entries.len() {
            self.tell(Notice::Event(name.clone(), message.arrival(name, epoch, index)?));
        }
        Ok(())
    }

    fn tell(&self, notice: Notice) {
        if self.notices.try_send(notice).is_err() {
            self.is_deaf.store(true, Ordering::Relaxed);
        }
    }
}
