//! The broker's seam, spoken to NATS. Must not know how connections are made, nor what a message is made of.

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tidewire_core::ChannelName;
use tidewire_core::limits::{Limits, Policy};
use tokio::sync::{mpsc, oneshot};

use super::desk::Desk;
use super::feed::Feed;
use super::index::hash;
use super::office::{Job, Office};
use super::streams::{index_name, log_name};
use super::wire::{lock, odd};
use super::{look, streams};
use crate::backplane::broker::{
    Answer, Append, Appended, Arrival, Broker, BrokerError, Known, Notice, Standing, StateAt,
};

/// How many channels are looked at, or announcements read, at a time.
const AT_ONCE: usize = 64;
/// How many channels have a desk that remembers how they stand. Beyond, those forget at which nobody is.
const DESKS_MOST: usize = 16_384;

/// One NATS.
pub(super) struct NatsBroker {
    office: Office,
    feed: Arc<Feed>,
    desks: Mutex<HashMap<ChannelName, Arc<Desk>>>,
    heard: RefCell<mpsc::Receiver<Notice>>,
    is_deaf: Arc<AtomicBool>,
    /// Who led the log when this began: another one may have forgotten to tell of an event.
    leader: Arc<str>,
}

impl NatsBroker {
    pub(super) fn new(
        office: Office,
        feed: Feed,
        heard: mpsc::Receiver<Notice>,
        is_deaf: Arc<AtomicBool>,
        leader: String,
    ) -> Self {
        let (heard, leader) = (RefCell::new(heard), leader.into());
        Self { office, feed: Arc::new(feed), desks: Mutex::default(), heard, is_deaf, leader }
    }

    fn prefix(&self) -> &str {
        &self.office.library.prefix
    }

    /// Has a job done, after those that were put there before.
    fn put(&self, name: &ChannelName, job: Job) {
        let mut desks = lock(&self.desks);
        if desks.len() > DESKS_MOST {
            desks.retain(|_, desk| !desk.is_idle());
        }
        let desk = desks.entry(name.clone()).or_insert_with(|| Arc::new(Desk::new(name.clone())));
        if desk.put(job) {
            tokio::spawn(Arc::clone(desk).work(self.office.clone()));
        }
    }
}

impl Drop for NatsBroker {
    fn drop(&mut self) {
        self.office.is_closed.store(true, Ordering::Relaxed);
    }
}

fn ended<T>(_: T) -> BrokerError {
    BrokerError("its connection has ended".to_owned())
}

impl Broker for NatsBroker {
    fn known(&self) -> Known {
        self.office.library.meta.known()
    }

    fn is_sparse(&self) -> bool {
        true
    }

    fn say_once(&self, what: &str, keep_ms: u64) -> Answer<bool> {
        let (subject, wire) =
            (format!("{}.once.{}", self.prefix(), hash(what)), self.office.library.wire.clone());
        Box::pin(async move {
            Ok(wire.store(subject, "1".into(), Some(0), keep_ms.max(1)).await?.sequence()?.is_some())
        })
    }

    fn announce(&self, subject: &str, what: &str, is_kept: bool) -> Answer<()> {
        let wire = self.office.library.wire.clone();
        let board = is_kept.then(|| format!("{}.board.{}", self.prefix(), hash(subject)));
        let said = format!("{}.said", self.prefix());
        let kept = json!([subject, what]).to_string();
        let message = json!([self.office.node, subject, what]).to_string();
        Box::pin(async move {
            let Some(board) = board else { return wire.say(said, message.into()).await };
            wire.store(board, kept.into(), None, 0).await?.sequence()?;
            wire.say(said, message.into()).await?;
            // When this is answered, the server has told all who are there.
            wire.demand("INFO", Value::Null).await.map(drop)
        })
    }

    fn announced(&self) -> Answer<Vec<(String, String)>> {
        let library = self.office.library.clone();
        Box::pin(async move {
            // Who leads the index says which there are, and each of them: nobody must miss the newest.
            let call = format!("STREAM.INFO.{}", index_name(&library.prefix));
            let (mut subjects, filter) = (Vec::<String>::new(), format!("{}.board.*", library.prefix));
            loop {
                let asked = json!({ "subjects_filter": filter, "offset": subjects.len() });
                let said = library.wire.demand(&call, asked).await?;
                let Some(page) = said["state"]["subjects"].as_object().filter(|page| !page.is_empty()) else {
                    break;
                };
                subjects.extend(page.keys().cloned());
                if said["total"].as_u64().is_none_or(|total| subjects.len() as u64 >= total) {
                    break;
                }
            }
            let reads = subjects.into_iter().map(|subject| {
                let library = &library;
                async move { library.find(&subject).await }
            });
            let found: Vec<_> =
                futures_util::stream::iter(reads).buffer_unordered(AT_ONCE).try_collect().await?;
            let read = |data: &[u8]| serde_json::from_slice(data).map_err(|_| odd("no announcement"));
            found.into_iter().flatten().map(|(_, data)| read(&data)).collect()
        })
    }

    fn forget(&self, announced: &[(String, String)]) -> Answer<()> {
        let (library, announced) = (self.office.library.clone(), announced.to_vec());
        Box::pin(async move {
            let call = format!("STREAM.MSG.DELETE.{}", index_name(&library.prefix));
            for (subject, what) in announced {
                let found = library.find(&format!("{}.board.{}", library.prefix, hash(&subject))).await?;
                let Some((sequence, data)) = found else { continue };
                if serde_json::from_slice::<(String, String)>(&data).is_ok_and(|kept| kept == (subject, what))
                {
                    // Another server may have been faster.
                    let _ = library.wire.api(&call, json!({ "seq": sequence, "no_erase": true })).await?;
                }
            }
            Ok(())
        })
    }

    fn append(&self, appends: Vec<Append>, limits: &Limits) -> Answer<Vec<Appended>> {
        let limits = Arc::new(limits.clone());
        let mut answers = Vec::with_capacity(appends.len());
        for append in appends {
            let (answer, answered) = oneshot::channel();
            let name = append.name.clone();
            self.put(&name, Job::Append { append, limits: Arc::clone(&limits), answer });
            answers.push(answered);
        }
        Box::pin(async move {
            let mut appended = Vec::with_capacity(answers.len());
            for answer in answers {
                appended.push(answer.await.map_err(ended)??);
            }
            Ok(appended)
        })
    }

    fn follow(&self, names: &[ChannelName]) -> Answer<()> {
        Box::pin(Arc::clone(&self.feed).follow(names.to_vec()))
    }

    fn unfollow(&self, names: &[ChannelName]) -> Answer<()> {
        self.feed.unfollow(names);
        Box::pin(std::future::ready(Ok(())))
    }

    fn look(&self, channels: &[(ChannelName, Arc<Policy>)]) -> Answer<Vec<Standing>> {
        let (office, channels) = (self.office.clone(), channels.to_vec());
        Box::pin(async move {
            let looks = channels.iter().map(|(name, policy)| look::look(&office, name, policy));
            futures_util::stream::iter(looks).buffered(AT_ONCE).try_collect().await
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
        let (library, name) = (self.office.library.clone(), name.clone());
        Box::pin(async move { look::read(&library, &name, (after, last), events_max, bytes_max).await })
    }

    fn state(&self, name: &ChannelName, policy: &Arc<Policy>) -> Answer<StateAt> {
        let (library, name, policy) = (self.office.library.clone(), name.clone(), Arc::clone(policy));
        Box::pin(async move { look::state(&library, &name, &policy).await })
    }

    fn delete(&self, name: &ChannelName) -> Answer<u64> {
        let (answer, answered) = oneshot::channel();
        self.put(name, Job::Delete { answer });
        Box::pin(async move { answered.await.map_err(ended)? })
    }

    fn ping(&self) -> Answer<()> {
        let (library, leader) = (self.office.library.clone(), Arc::clone(&self.leader));
        Box::pin(async move {
            let highest = lock(&library.witness).highest();
            let stream = streams::look(&library.wire, &log_name(&library.prefix)).await?;
            if stream.last < highest {
                return Err(BrokerError("it has lost what it had".to_owned()));
            }
            if *stream.leader != *leader {
                // What the one before had yet to tell, nobody tells.
                let why = format!("{} leads its log now, and {leader} did before", stream.leader);
                return Err(BrokerError(why));
            }
            lock(&library.witness).note_last(stream.last);
            Ok(())
        })
    }

    fn notice(&self) -> Pin<Box<dyn Future<Output = Option<Notice>> + '_>> {
        Box::pin(std::future::poll_fn(|context| {
            if self.is_deaf.swap(false, Ordering::Relaxed) {
                return std::task::Poll::Ready(Some(Notice::Lost(
                    "it says more than is listened to".to_owned(),
                )));
            }
            match self.heard.try_borrow_mut() {
                Ok(mut heard) => heard.poll_recv(context),
                Err(_) => std::task::Poll::Pending,
            }
        }))
    }
}
