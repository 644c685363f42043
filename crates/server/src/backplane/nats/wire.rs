//! One connection to a NATS server: questions with one answer or several, each in bounded time, and what is said on
//! subjects. It never connects anew; when it is lost, that is a notice. Must not know what is said.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, Event, HeaderMap, Message};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::address::Address;
use crate::backplane::broker::{BrokerError, Notice};

/// How many notices may wait to be looked at. Beyond, the connection is given up, and what was missed is read.
pub(super) const NOTICES: usize = 65_536;
/// How many bytes the server may take more of a message than its data: headers and subject.
const ENVELOPE_BYTES: usize = 4_096;
/// The oldest server that can do what is needed: messages that end by themselves, reads of several at once.
const OLDEST: (i64, i64) = (2, 11);
/// When the library tries to connect again to what was given up.
const LATER: Duration = Duration::from_secs(2);

pub(super) const NOT_FOUND: u64 = 404;
const NO_RESPONDERS: u16 = 503;

/// A connection. Whoever waits for an answer ends with it.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    client: Client,
    inbox: Arc<str>,
    next: Arc<AtomicU64>,
    waiting: Arc<Waiting>,
    timeout: Duration,
    /// Hands answers over, as long as somebody may wait for one.
    _listener: Arc<Listener>,
}

#[derive(Debug)]
struct Listener(tokio::task::AbortHandle);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Those who wait for answers, by the last token of where these go.
type Waiting = Mutex<HashMap<u64, mpsc::UnboundedSender<Message>>>;

/// What the JetStream API says of what it does not do.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: u64,
    pub(super) what: String,
}

impl Wire {
    /// Connects to one server, and says on `notices` when that is over.
    pub(super) async fn connect(
        address: &Address,
        host: &str,
        timeout: Duration,
        connecting: Duration,
        notices: mpsc::Sender<Notice>,
    ) -> Result<Self, BrokerError> {
        // The library tries once more after it lost a connection, and finds then that nobody wants it: this one is
        // given up, and who decides when there is another one is not here.
        let tried = AtomicBool::new(false);
        let options = address.options()?;
        let client = options
            .name("tidewire")
            .connection_timeout(connecting)
            .ping_interval(Duration::from_secs(5))
            .subscription_capacity(NOTICES)
            .max_reconnects(1)
            .reconnect_delay_callback(move |_| {
                if tried.swap(true, Ordering::Relaxed) { LATER } else { Duration::ZERO }
            })
            .ignore_discovered_servers()
            .event_callback(move |event| {
                let notices = notices.clone();
                async move { note(&event, &notices) }
            })
            .connect(host)
            .await
            .map_err(|error| BrokerError(explained(&error)))?;
        let (major, minor) = OLDEST;
        if !client.is_server_compatible(major, minor, 0) {
            let version = client.server_info().version;
            return Err(BrokerError(format!("it is NATS {version}; {major}.{minor} or newer is needed")));
        }
        let inbox: Arc<str> = client.new_inbox().into();
        let waiting = Arc::new(Waiting::default());
        let subscribed = client.subscribe(format!("{inbox}.*")).await;
        let mut answers = subscribed.map_err(|error| BrokerError(error.to_string()))?;
        let hands = Arc::clone(&waiting);
        let listening = tokio::spawn(async move {
            while let Some(answer) = answers.next().await {
                hand_over(&hands, answer);
            }
        });
        let _listener = Arc::new(Listener(listening.abort_handle()));
        Ok(Self { client, inbox, next: Arc::default(), waiting, timeout, _listener })
    }

    /// The largest data of a message.
    pub(super) fn data_bytes_max(&self) -> usize {
        self.client.max_payload().saturating_sub(ENVELOPE_BYTES)
    }

    pub(super) async fn subscribe(&self, subject: String) -> Result<async_nats::Subscriber, BrokerError> {
        self.client.subscribe(subject).await.map_err(|error| BrokerError(error.to_string()))
    }

    /// Says something to whoever listens.
    pub(super) async fn say(&self, subject: String, data: Bytes) -> Result<(), BrokerError> {
        self.client.publish(subject, data).await.map_err(|error| BrokerError(error.to_string()))
    }

    /// Asks, and gives the first answer.
    pub(super) async fn ask(
        &self,
        subject: String,
        headers: Option<HeaderMap>,
        data: Bytes,
    ) -> Result<Message, BrokerError> {
        self.question(subject, headers, data).await?.next().await
    }

    /// Asks, for several answers.
    pub(super) async fn question(
        &self,
        subject: String,
        headers: Option<HeaderMap>,
        data: Bytes,
    ) -> Result<Answers, BrokerError> {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answers) = mpsc::unbounded_channel();
        lock(&self.waiting).insert(token, sender);
        let answers = Answers {
            token,
            answers,
            waiting: Arc::clone(&self.waiting),
            deadline: Instant::now() + self.timeout,
        };
        let reply = format!("{}.{token}", self.inbox);
        let sending = async {
            match headers {
                Some(headers) => {
                    self.client.publish_with_reply_and_headers(subject, reply, headers, data).await
                }
                None => self.client.publish_with_reply(subject, reply, data).await,
            }
        };
        // What is said waits while the server takes nothing.
        let sent = tokio::time::timeout_at(answers.deadline, sending).await.map_err(|_| too_late())?;
        sent.map_err(|error| BrokerError(error.to_string()))?;
        Ok(answers)
    }

    /// Asks the JetStream API; a refusal that `expects` knows is an answer, any other an error.
    pub(super) async fn api(&self, call: &str, data: Value) -> Result<Result<Value, Refusal>, BrokerError> {
        let data = if data.is_null() { Bytes::new() } else { data.to_string().into() };
        let answer = self.ask(format!("$JS.API.{call}"), None, data).await?;
        read_api(&answer.payload)
    }

    /// As [`Self::api`], where a refusal is an error.
    pub(super) async fn demand(&self, call: &str, data: Value) -> Result<Value, BrokerError> {
        self.api(call, data).await?.map_err(Refusal::into_error)
    }

    /// Stores a message, if `expected` is the sequence of the newest one of its subject.
    pub(super) async fn store(
        &self,
        subject: String,
        data: Bytes,
        expected: Option<u64>,
        ttl_ms: u64,
    ) -> Result<Stored, BrokerError> {
        let mut headers = HeaderMap::new();
        if let Some(expected) = expected {
            headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string());
        }
        if ttl_ms > 0 {
            headers.insert("Nats-TTL", format!("{}s", ttl_ms.div_ceil(1_000)));
        }
        let answer = self.ask(subject, Some(headers), data).await?;
        match read_api(&answer.payload)? {
            Ok(said) => {
                let sequence = said.get("seq").and_then(Value::as_u64);
                sequence.map(Stored::At).ok_or_else(|| odd("no sequence of what was stored"))
            }
            Err(Refusal { code: WRONG_LAST | WRONG_LAST_TOO, .. }) => Ok(Stored::Outrun),
            Err(refusal) if FULL.contains(&refusal.code) => Ok(Stored::Full(refusal.into_error())),
            Err(refusal) => Err(refusal.into_error()),
        }
    }
}

/// What became of a message.
pub(super) enum Stored {
    /// It has this sequence.
    At(u64),
    /// Another one is the newest of its subject.
    Outrun,
    /// There is no room for it.
    Full(BrokerError),
}

impl Stored {
    /// Its sequence, unless others were faster. Where there is no room, that is an error.
    pub(super) fn sequence(self) -> Result<Option<u64>, BrokerError> {
        match self {
            Self::At(sequence) => Ok(Some(sequence)),
            Self::Outrun => Ok(None),
            Self::Full(error) => Err(error),
        }
    }
}

/// There is no room: for the account, in the server, by the stream's limits, and for a message that large.
const FULL: [u64; 4] = [10_047, 10_023, 10_077, 10_054];
/// Another message is the newest of its subject.
const WRONG_LAST: u64 = 10_071;
const WRONG_LAST_TOO: u64 = 10_164;

/// What JetStream refuses, in words that say what to do.
const REFUSALS: [(u64, &str); 6] = [
    (10_076, "its JetStream is not enabled; start it with -js or a jetstream block"),
    (10_039, "its JetStream is not enabled for this account"),
    (10_074, "it is no cluster, so there can be only one replica; say replicas=1"),
    (10_005, "its cluster has fewer servers with JetStream than there shall be replicas"),
    (10_008, "its cluster has no leader at the moment"),
    (10_047, "its JetStream has no storage left for this account"),
];

impl Refusal {
    pub(super) fn into_error(self) -> BrokerError {
        let known = REFUSALS.iter().find(|(code, _)| *code == self.code);
        BrokerError(
            known.map_or_else(|| format!("{} ({})", self.what, self.code), |(_, why)| (*why).to_owned()),
        )
    }
}

/// Answers to one question, until they are dropped or the time is over.
pub(super) struct Answers {
    token: u64,
    answers: mpsc::UnboundedReceiver<Message>,
    waiting: Arc<Waiting>,
    deadline: Instant,
}

impl Answers {
    pub(super) async fn next(&mut self) -> Result<Message, BrokerError> {
        match tokio::time::timeout_at(self.deadline, self.answers.recv()).await {
            Ok(Some(answer)) if answer.status.is_some_and(|status| status.as_u16() == NO_RESPONDERS) => Err(
                BrokerError("nobody answers for JetStream: it is not enabled, or has no leader".to_owned()),
            ),
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(BrokerError("its connection has ended".to_owned())),
            Err(_) => Err(too_late()),
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        lock(&self.waiting).remove(&self.token);
    }
}

fn hand_over(waiting: &Waiting, answer: Message) {
    let token = answer.subject.as_str().rsplit_once('.').and_then(|(_, token)| token.parse().ok());
    if let Some(token) = token
        && let Some(sender) = lock(waiting).get(&token)
    {
        // Who has gone meanwhile does not want it.
        let _ = sender.send(answer);
    }
}

fn note(event: &Event, notices: &mpsc::Sender<Notice>) {
    let why = match event {
        Event::Disconnected | Event::Closed => "its connection has ended".to_owned(),
        Event::SlowConsumer(_) => "it says more than is listened to".to_owned(),
        Event::ServerError(error) => error.to_string(),
        _ => return,
    };
    // Where there is no room, whoever listens finds out that it missed some.
    let _ = notices.try_send(Notice::Lost(why));
}

fn read_api(data: &[u8]) -> Result<Result<Value, Refusal>, BrokerError> {
    let said: Value = serde_json::from_slice(data).map_err(|_| odd("no JSON"))?;
    let Some(error) = said.get("error") else { return Ok(Ok(said)) };
    let number = |name| error.get(name).and_then(Value::as_u64);
    let code = number("err_code").or_else(|| number("code")).unwrap_or(0);
    let what = error.get("description").and_then(Value::as_str).unwrap_or("it refuses without a word");
    Ok(Err(Refusal { code, what: what.to_owned() }))
}

fn too_late() -> BrokerError {
    BrokerError("no answer in time".to_owned())
}

/// An answer is not what this server would write.
pub(super) fn odd(what: &str) -> BrokerError {
    BrokerError(format!("it said something odd: {what}"))
}

/// An error with what is behind it.
fn explained(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is changed under these locks is changed in one step, so even a poisoned one is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
