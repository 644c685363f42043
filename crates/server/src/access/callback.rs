//! The application that decides by itself: asked over HTTP who somebody is, and whether they may do a thing. Must
//! not know connections: an answer goes to whoever asked.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tidewire_core::{Code, Problem};
use ureq::Agent;

use super::Who;
use super::identity::{Identity, RecentGrants};
use super::settings::CallbackSettings;
use crate::clock::{Clock, wall_clock};

/// How many questions may wait; those beyond are answered as if the application had failed.
const WAITING_MAX: usize = 10_000;
/// The longest answer.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// The longest that an answer may ask to be kept.
const CACHE_MS_MAX: u64 = 86_400_000;

/// What a question is about: the very bytes that the application gets, as a digest.
pub(crate) type Key = [u8; 32];

/// What the application said.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    /// Yes, and who it is, if that was the question and the answer says so.
    Allowed(Who),
    /// No.
    Refused(Problem),
}

/// A question, as the application gets it.
#[derive(Debug, Serialize)]
pub(crate) struct Question<'q> {
    /// `connect`, `subscribe` or `publish`.
    pub(crate) action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<&'q str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) channel: Option<&'q str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<IpAddr>,
    /// The request's headers that are passed on; only with `connect`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) headers: Vec<(&'q str, &'q str)>,
}

/// The application's answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    allow: bool,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    user: Option<Box<str>>,
    #[serde(default)]
    rights: Option<serde_json::Value>,
    #[serde(default)]
    expires_in_seconds: Option<u64>,
    #[serde(default)]
    cache_seconds: Option<u64>,
}

type Done = Box<dyn FnOnce(Key, Verdict) + Send>;

/// Asks the application, with threads of its own.
#[derive(Debug)]
pub(crate) struct Callback {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    settings: CallbackSettings,
    agent: Agent,
    clock: Clock,
    work: Mutex<Work>,
    wake: Condvar,
    cache: Mutex<HashMap<Key, (Verdict, u64)>>,
    asked: AtomicU64,
    failed: AtomicU64,
    grants: RecentGrants,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Shared")
    }
}

#[derive(Default)]
struct Work {
    waiting: VecDeque<(Vec<u8>, Key, Done)>,
    stopping: bool,
}

impl Callback {
    /// Starts the threads that ask.
    ///
    /// # Errors
    /// If the system refuses threads.
    pub(crate) fn start(settings: &CallbackSettings, clock: Clock) -> anyhow::Result<Self> {
        let timeout = Duration::from_millis(settings.timeout_ms);
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .tls_config(crate::trust::of_the_machine())
            .max_redirects(0)
            .timeout_global(Some(timeout))
            .user_agent(concat!("tidewire/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            agent,
            clock,
            work: Mutex::default(),
            wake: Condvar::new(),
            cache: Mutex::default(),
            asked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            grants: RecentGrants::default(),
        });
        let threads = (0..settings.concurrency).map(|index| {
            let shared = Arc::clone(&shared);
            crate::server::spawn(&format!("callback-{index}"), move || shared.run())
        });
        let threads = Mutex::new(threads.collect::<Result<_, _>>()?);
        Ok(Self { shared, threads })
    }

    /// What the application is asked about.
    pub(crate) fn settings(&self) -> &CallbackSettings {
        &self.shared.settings
    }

    /// The bytes of a question, and what they are known by.
    pub(crate) fn put(&self, question: &Question<'_>) -> (Vec<u8>, Key) {
        // Nothing in a question can fail to be JSON.
        let body = serde_json::to_vec(question).unwrap_or_default();
        let key = Sha256::digest(&body).into();
        (body, key)
    }

    /// The answer, if it is known still.
    pub(crate) fn known(&self, key: &Key, now_ms: u64) -> Option<Verdict> {
        if self.shared.settings.cache_entries == 0 {
            return None;
        }
        let cache = lock(&self.shared.cache);
        cache.get(key).filter(|(_, until_ms)| *until_ms > now_ms).map(|(verdict, _)| verdict.clone())
    }

    /// Asks; `done` gets the answer, on another thread.
    pub(crate) fn ask(&self, body: Vec<u8>, key: Key, done: Done) {
        let mut work = lock(&self.shared.work);
        if work.waiting.len() >= WAITING_MAX || work.stopping {
            drop(work);
            return done(key, self.shared.without_answer());
        }
        work.waiting.push_back((body, key, done));
        drop(work);
        self.shared.wake.notify_one();
    }

    /// How many questions were asked, and how many of them without a proper answer.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.shared.asked.load(Ordering::Relaxed), self.shared.failed.load(Ordering::Relaxed))
    }

    /// Ends the threads; what they are at takes its timeout at most.
    pub(crate) fn stop(&self) {
        let mut work = lock(&self.shared.work);
        work.stopping = true;
        let left: Vec<_> = work.waiting.drain(..).collect();
        drop(work);
        self.shared.wake.notify_all();
        left.into_iter().for_each(|(_, key, done)| done(key, self.shared.without_answer()));
        lock(&self.threads).drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Why there is no answer, in words that hold nothing of what was sent or received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Timeout,
    /// The connection broke.
    Broken,
    /// Neither 200 nor a refusal.
    Status,
    NotAsItShouldBe,
}

impl Failure {
    fn of(error: &ureq::Error) -> Self {
        match error {
            ureq::Error::Timeout(_) => Self::Timeout,
            ureq::Error::BodyExceedsLimit(_) => Self::NotAsItShouldBe,
            _ => Self::Broken,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "no answer in time",
            Self::Broken => "no connection, or it broke",
            Self::Status => "a status other than 200, 401 and 403",
            Self::NotAsItShouldBe => "an answer that is not as it should be",
        }
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let mut work = lock(&self.work);
            let (body, key, done) = loop {
                if work.stopping {
                    return;
                }
                match work.waiting.pop_front() {
                    Some(next) => break next,
                    None => work = self.wake.wait(work).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(work);
            self.asked.fetch_add(1, Ordering::Relaxed);
            let outcome = match self.fetch(&body) {
                // A connection that was kept may have ended at the other end meanwhile. Asking twice does no harm.
                Err(Failure::Broken) => self.fetch(&body),
                outcome => outcome,
            };
            let verdict = match outcome {
                Ok((verdict, cache_ms)) => {
                    self.keep(key, &verdict, cache_ms);
                    verdict
                }
                Err(failure) => {
                    tracing::warn!(reason = failure.as_str(), "the application does not answer properly");
                    self.without_answer()
                }
            };
            done(key, verdict);
        }
    }

    /// The application's answer, and how long it holds.
    fn fetch(&self, body: &[u8]) -> Result<(Verdict, u64), Failure> {
        let mut request = self.agent.post(&self.settings.url).content_type("application/json");
        if let Some(secret) = &self.settings.secret {
            let bearer = format!("Bearer {}", String::from_utf8_lossy(&secret.0));
            request = request.header("authorization", bearer);
        }
        let mut answer = request.send(body).map_err(|error| Failure::of(&error))?;
        match answer.status().as_u16() {
            200 => {}
            401 | 403 => return Ok((refused(None), self.settings.cache_ms)),
            _ => return Err(Failure::Status),
        }
        let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let text = text.map_err(|error| Failure::of(&error))?;
        let answer: Answer = serde_json::from_slice(&text).map_err(|_| Failure::NotAsItShouldBe)?;
        let cache_ms =
            answer.cache_seconds.map_or(self.settings.cache_ms, |seconds| seconds.saturating_mul(1000));
        // Nobody is somebody for longer than the application said.
        let known_ms = answer.expires_in_seconds.map_or(CACHE_MS_MAX, |seconds| seconds.saturating_mul(1000));
        let verdict = verdict(answer, &self.grants).map_err(|_| Failure::NotAsItShouldBe)?;
        Ok((verdict, cache_ms.min(known_ms).min(CACHE_MS_MAX)))
    }

    fn keep(&self, key: Key, verdict: &Verdict, cache_ms: u64) {
        let (now_ms, most) = (self.clock.now_ms(), self.settings.cache_entries);
        if cache_ms == 0 || most == 0 {
            return;
        }
        let mut cache = lock(&self.cache);
        if cache.len() >= most {
            cache.retain(|_, (_, until_ms)| *until_ms > now_ms);
        }
        if cache.len() >= most {
            cache.clear();
        }
        cache.insert(key, (verdict.clone(), now_ms + cache_ms));
    }

    fn without_answer(&self) -> Verdict {
        self.failed.fetch_add(1, Ordering::Relaxed);
        if self.settings.allow_on_failure {
            return Verdict::Allowed(None);
        }
        let detail =
            "the application that decides about this does not answer properly; try again in a moment";
        Verdict::Refused(Problem::new(Code::Unavailable, detail))
    }
}

fn verdict(answer: Answer, grants: &RecentGrants) -> Result<Verdict, String> {
    if !answer.allow {
        return Ok(refused(answer.reason));
    }
    let says_who = answer.user.is_some() || answer.rights.is_some() || answer.expires_in_seconds.is_some();
    if !says_who {
        return Ok(Verdict::Allowed(None));
    }
    let now_ms = wall_clock().0;
    let end_ms = |seconds: u64| NonZeroU64::new(now_ms.saturating_add(seconds.saturating_mul(1000)));
    let expires_at_ms = answer.expires_in_seconds.and_then(end_ms);
    Ok(Verdict::Allowed(Some(Arc::new(Identity {
        is_minted: false,
        user: answer.user.filter(|user| !user.is_empty()).map(Arc::from),
        is_admin: false,
        grants: grants.of_claim(answer.rights.as_ref())?,
        expires_at_ms,
        issued_at_ms: now_ms,
    }))))
}

fn refused(reason: Option<String>) -> Verdict {
    let reason: Option<String> = reason.map(|reason| reason.chars().take(200).collect());
    let detail = reason.unwrap_or_else(|| "the application refused it".to_owned());
    Verdict::Refused(Problem::new(Code::Forbidden, detail))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds these locks panics half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
