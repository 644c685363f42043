//! The certificate from an authority, by ACME: got when there is none, renewed in time, kept across restarts; on one
//! thread of its own. Must not know what is said to the authority (`order`) nor which file is where (`state`).
//!
//! Bounds: one order at a time, pauses with full jitter after failures, and no more than a number of orders an hour
//! whatever happens (`budget`). An authority that is away or refuses changes nothing: what is shown stays.

mod budget;
mod challenge;
mod http;
mod order;
mod state;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rustls::crypto::CryptoProvider;

use super::{Certificates, Life, Shown};
use crate::clock::{Clock, wall_clock};
use crate::settings::AcmeSettings;
use crate::trust;
use http::Http;
use state::State;

/// How long the thread sleeps at the most: the wall clock may be set, and the machine sleep.
const SLEEP: Duration = Duration::from_secs(1);
/// The longest reason that is logged.
const REASON_CHARS_MAX: usize = 1000;
/// How long what the authority says about when to renew holds, at least and at the most.
const LOOK_PAUSE_MS: (u64, u64) = (3_600_000, 86_400_000);

/// An authority, and what is kept of it.
#[derive(Debug)]
pub(super) struct Acme {
    settings: AcmeSettings,
    state: State,
    http: Http,
}

/// When there is something to do next.
#[derive(Debug, Default)]
struct Plan {
    /// By the wall clock.
    renew_at_ms: u64,
    /// The same, to look whether the authority suggests another time.
    look_at_ms: u64,
    /// What it suggested, of which `renew_at_ms` was chosen.
    suggested_ms: Option<(u64, u64)>,
    failures: u32,
    /// By the clock that nobody sets: nothing is ordered before.
    allowed_at_ms: u64,
}

impl Acme {
    /// Whether what is there is sound, without making anything.
    ///
    /// # Errors
    /// Says what is wrong with which file.
    pub(super) fn check(settings: &AcmeSettings, provider: &CryptoProvider) -> anyhow::Result<()> {
        let state = State::of(&settings.state, &settings.directory);
        trust_of(settings)?;
        state.account()?;
        state.asked()?;
        state.certificate(provider).map(drop)
    }

    /// # Errors
    /// If the state cannot be kept, or is damaged.
    pub(super) fn open(settings: &AcmeSettings) -> anyhow::Result<Self> {
        let state = State::of(&settings.state, &settings.directory);
        state.make()?;
        state.account()?;
        state.asked()?;
        Ok(Self { http: Http::new(trust_of(settings)?), state, settings: settings.clone() })
    }

    /// The certificate that was got before, if it is for the domains of now.
    ///
    /// # Errors
    /// If it is damaged.
    pub(super) fn kept(&self, provider: &CryptoProvider) -> anyhow::Result<Option<Shown>> {
        // One for other domains is shown until there is a better one.
        self.state.certificate(provider)
    }

    /// Gets and renews, until the server stops.
    pub(super) fn run(&self, certificates: &Certificates, stopping: &AtomicBool) {
        let clock = Clock::start();
        let mut plan = self.plan(certificates, None);
        if !certificates.is_there() {
            let domains = self.settings.domains.join(", ");
            tracing::info!(
                domains,
                "there is no certificate yet; TLS clients are refused until there is one"
            );
        }
        while !stopping.load(Ordering::Relaxed) {
            let now_ms = wall_clock().0;
            if now_ms >= plan.look_at_ms {
                self.look(certificates, &mut plan, now_ms);
            }
            if now_ms >= plan.renew_at_ms && clock.now_ms() >= plan.allowed_at_ms {
                self.turn(certificates, &mut plan, clock, stopping);
            }
            std::thread::park_timeout(SLEEP);
        }
    }

    /// What follows from the certificate that is shown. One that was got at `got_at_ms` is not due at once, whatever the
    /// clocks say: the next would be neither.
    fn plan(&self, certificates: &Certificates, got_at_ms: Option<u64>) -> Plan {
        let shown = certificates.current();
        let life = shown.as_ref().and_then(|shown| shown.life.as_ref());
        match life.filter(|life| self.is_for(life)) {
            Some(life) => {
                let rested_at_ms = got_at_ms.map_or(0, |then_ms| then_ms + budget::rest_ms(life));
                Plan { renew_at_ms: budget::renew_at_ms(life).max(rested_at_ms), ..Plan::default() }
            }
            // There is nothing to look at before that.
            None => Plan { look_at_ms: u64::MAX, ..Plan::default() },
        }
    }

    fn is_for(&self, life: &Life) -> bool {
        self.settings.domains.iter().all(|domain| life.domains.contains(domain))
    }

    /// Orders a certificate, if that may be, and has it shown.
    fn turn(&self, certificates: &Certificates, plan: &mut Plan, clock: Clock, stopping: &AtomicBool) {
        let now_ms = wall_clock().0;
        // A fault in a library must not end the renewals.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.order(certificates, plan, now_ms, stopping)));
        match outcome.unwrap_or_else(|_| Err(anyhow!("a fault of ours"))) {
            Ok(Turn::Done) => *plan = self.plan(certificates, Some(now_ms)),
            Ok(Turn::NotBefore(then_ms)) => {
                let wait_ms = then_ms.saturating_sub(now_ms);
                plan.allowed_at_ms = clock.now_ms().saturating_add(wait_ms);
                tracing::warn!(
                    next_try_seconds = wait_ms / 1000,
                    "as many certificates were ordered within an hour as may be"
                );
            }
            Err(_) if stopping.load(Ordering::Relaxed) => {}
            Err(error) => {
                plan.failures = plan.failures.saturating_add(1);
                let pause_ms = budget::pause_ms(plan.failures, self.http.take_pause_seconds());
                plan.allowed_at_ms = clock.now_ms().saturating_add(pause_ms);
                certificates.failures.fetch_add(1, Ordering::Relaxed);
                let ends_in_seconds = certificates.ends_at_ms().map(|ends_at_ms| {
                    i64::try_from(ends_at_ms).unwrap_or(i64::MAX).saturating_sub_unsigned(now_ms) / 1000
                });
                tracing::warn!(
                    reason = told(&error),
                    next_try_seconds = pause_ms / 1000,
                    ends_in_seconds,
                    "no certificate could be got; what is shown stays"
                );
                if order::is_account_unknown(&error) {
                    let forgotten = self.state.forget_account();
                    let problem = forgotten.err().map(|error| format!("{error:#}"));
                    tracing::warn!(problem, "the authority does not know the account; another one is made");
                }
            }
        }
    }

    fn order(
        &self,
        certificates: &Certificates,
        plan: &Plan,
        now_ms: u64,
        stopping: &AtomicBool,
    ) -> anyhow::Result<Turn> {
        if self.has_another(certificates) {
            return Ok(Turn::Done);
        }
        // What is not noted is not done: a server that is started again and again asks no more than one that is not.
        let mut asked = self.state.asked()?;
        if let Err(then_ms) = budget::take_turn(&mut asked.orders_ms, budget::ORDERS_MAX, now_ms) {
            return Ok(Turn::NotBefore(then_ms));
        }
        self.state.put_asked(&asked)?;
        // What it said about anything else is over.
        self.http.take_pause_seconds();
        let account = order::account(&self.settings, &self.state, &self.http)?;
        let old = certificates.current();
        // Only for what it offers to say about renewals; and a refusal may be about that.
        let replaced = old.as_ref().filter(|_| plan.suggested_ms.is_some() && plan.failures == 0);
        let replaced = replaced.and_then(|shown| shown.key.cert.first());
        let pause = |time| sleep(time, stopping);
        let issued = order::obtain(&account, &self.settings.domains, replaced, certificates, &pause)?;
        let pem = format!("{}\n{}", issued.key, issued.chain);
        let shown = state::parse(pem.as_bytes(), &certificates.provider)
            .context("what the authority gave is no certificate that can be used")?;
        if !shown.life.as_ref().is_some_and(|life| self.is_for(life)) {
            bail!("what the authority gave is not for all of the domains");
        }
        self.show(certificates, shown);
        if let Err(error) = self.state.put_certificate(&issued.key, &issued.chain) {
            // It is good all the same, until the server is started again.
            certificates.failures.fetch_add(1, Ordering::Relaxed);
            tracing::error!(reason = format!("{error:#}"), "the certificate that was got is not kept");
        }
        Ok(Turn::Done)
    }

    /// Takes what another server got that keeps its state in the same place, as one does that takes over.
    fn has_another(&self, certificates: &Certificates) -> bool {
        // One that was damaged meanwhile is about to be replaced.
        let Ok(Some(kept)) = self.state.certificate(&certificates.provider) else { return false };
        let shown_ends_at_ms = certificates.ends_at_ms();
        let is_later = |life: &&Life| Some(life.ends_at_ms) > shown_ends_at_ms;
        let is_better = kept.life.as_ref().filter(is_later).is_some_and(|life| self.is_for(life));
        if is_better {
            self.show(certificates, kept);
        }
        is_better
    }

    fn show(&self, certificates: &Certificates, shown: Shown) {
        let ends_at_ms = shown.life.as_ref().map_or(0, |life| life.ends_at_ms);
        certificates.show(shown);
        let domains = self.settings.domains.join(", ");
        let days = ends_at_ms.saturating_sub(wall_clock().0) / 86_400_000;
        tracing::info!(domains, days, "a certificate was got");
    }

    /// Asks the authority when to renew; what it says is followed, and it need not say anything.
    fn look(&self, certificates: &Certificates, plan: &mut Plan, now_ms: u64) {
        let (least_ms, most_ms) = LOOK_PAUSE_MS;
        plan.look_at_ms = now_ms + least_ms;
        let outcome = catch_unwind(AssertUnwindSafe(|| self.suggested(certificates, now_ms)));
        let window = match outcome.unwrap_or_else(|_| Err(anyhow!("a fault of ours"))) {
            Ok(Some(window)) => window,
            Ok(None) => {
                plan.look_at_ms = now_ms + most_ms;
                return;
            }
            Err(error) => {
                tracing::info!(reason = told(&error), "the authority does not say when to renew");
                return;
            }
        };
        plan.look_at_ms = now_ms + window.for_ms.clamp(least_ms, most_ms);
        let suggested_ms = (window.from_ms, window.to_ms);
        let shown = certificates.current();
        let Some(life) = shown.as_ref().and_then(|shown| shown.life.as_ref()) else { return };
        if plan.suggested_ms.replace(suggested_ms) != Some(suggested_ms) {
            plan.renew_at_ms = budget::renew_within_ms(life, window.from_ms, window.to_ms);
        }
    }

    fn suggested(&self, certificates: &Certificates, now_ms: u64) -> anyhow::Result<Option<order::Window>> {
        let Some(shown) = certificates.current() else { return Ok(None) };
        let Some(certificate) = shown.key.cert.first() else { return Ok(None) };
        let mut asked = self.state.asked()?;
        if budget::take_turn(&mut asked.looks_ms, budget::LOOKS_MAX, now_ms).is_err() {
            bail!("it was asked as often within an hour as may be");
        }
        self.state.put_asked(&asked)?;
        let account = order::account(&self.settings, &self.state, &self.http)?;
        order::window(&account, certificate)
    }
}

/// What came of a turn that did not fail.
enum Turn {
    Done,
    /// As many were taken as may be; the next one not before then, by the wall clock.
    NotBefore(u64),
}

/// What went wrong, in as many words as a log line may have: some are the authority's.
fn told(error: &anyhow::Error) -> String {
    format!("{error:#}").chars().take(REASON_CHARS_MAX).collect()
}

/// Whether the whole time passed, rather than the server stopping.
fn sleep(time: Duration, stopping: &AtomicBool) -> bool {
    let (clock, ms) = (Clock::start(), u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let ends_at_ms = clock.now_ms() + ms;
    loop {
        let left_ms = ends_at_ms.saturating_sub(clock.now_ms());
        if left_ms == 0 || stopping.load(Ordering::Relaxed) {
            return left_ms == 0;
        }
        std::thread::park_timeout(Duration::from_millis(left_ms).min(SLEEP));
    }
}

fn trust_of(settings: &AcmeSettings) -> anyhow::Result<ureq::tls::TlsConfig> {
    match &settings.authority {
        None => Ok(trust::of_the_machine()),
        Some(path) => trust::of_file(path)
            .with_context(|| format!("tls.acme.authority_file: {} cannot be used", path.display())),
    }
}
