//! Tickets: what stands in a URL in place of a token, once and for seconds, since browsers' sockets and event
//! streams cannot send headers, and URLs end up in logs. Must not know what the ticket's owner may do.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tidewire_core::rate::Limited;
use tidewire_core::{Code, Problem};

use super::identity::{Identity, RecentGrants};
use super::sealed::{Opened, Sealer, Secret};
use crate::clock::wall_clock;

/// Enough that nobody finds one by trying.
const TICKET_BYTES: usize = 24;
/// The length of a ticket as text.
const TICKET_CHARS: usize = 32;

type Key = [u8; TICKET_BYTES];

/// All tickets that are good.
#[derive(Debug)]
pub(crate) struct Tickets {
    ticket_ms: u64,
    tickets_max: usize,
    issued: Mutex<Issued>,
    /// Set where several servers know each other's tickets.
    sealer: Option<Sealer>,
}

#[derive(Debug, Default)]
struct Issued {
    by_key: HashMap<Key, Option<Arc<Identity>>>,
    /// In the order in which they end, spent ones included.
    ends: VecDeque<(u64, Key)>,
}

impl Tickets {
    pub(crate) fn new(ticket_ms: u64, tickets_max: usize) -> Self {
        Self { ticket_ms, tickets_max, issued: Mutex::default(), sealer: None }
    }

    /// As [`Self::new`], for tickets that are good on every server with this secret; each holds what it stands for,
    /// so there may be any number.
    ///
    /// # Errors
    /// As [`Sealer::new`].
    pub(crate) fn shared(ticket_ms: u64, secret: &Secret) -> anyhow::Result<Self> {
        Ok(Self { sealer: Some(Sealer::new(secret)?), ..Self::new(ticket_ms, 0) })
    }

    /// Whether one is spent by asking the backplane.
    pub(crate) fn are_shared(&self) -> bool {
        self.sealer.is_some()
    }

    /// A ticket of any server. It is good if the backplane says that it was not spent before.
    ///
    /// # Errors
    /// As [`Self::spend`].
    pub(crate) fn open(&self, ticket: &str, grants: &RecentGrants) -> Result<Opened, Problem> {
        let opened = self.sealer.as_ref().and_then(|sealer| sealer.open(ticket, grants, wall_clock().0));
        opened.ok_or_else(refused)
    }

    /// How long a ticket is good.
    pub(crate) fn ticket_ms(&self) -> u64 {
        self.ticket_ms
    }

    /// Makes a ticket that stands for `who`.
    ///
    /// # Errors
    /// `too_many_requests` if as many are good already as may be, `internal` if the system gives no random bytes.
    pub(crate) fn issue(&self, who: Option<Arc<Identity>>, now_ms: u64) -> Result<String, Problem> {
        if let Some(sealer) = &self.sealer {
            return sealer.seal(who, wall_clock().0 + self.ticket_ms);
        }
        let mut key = [0; TICKET_BYTES];
        getrandom::fill(&mut key)
            .map_err(|_| Problem::new(Code::Internal, "the system gives no random numbers"))?;
        let mut issued = self.lock();
        issued.forget_ended(now_ms);
        // Spent ones still take up room until they end, so that nobody can make them without bound.
        if issued.ends.len() >= self.tickets_max {
            return Err(Problem::limited(Limited {
                limit: "tickets",
                quota: u32::try_from(self.tickets_max).unwrap_or(u32::MAX),
                window_seconds: None,
                retry_after_ms: issued.ends.front().map_or(0, |(end_ms, _)| end_ms - now_ms),
            }));
        }
        issued.ends.push_back((now_ms + self.ticket_ms, key));
        issued.by_key.insert(key, who);
        Ok(URL_SAFE_NO_PAD.encode(key))
    }

    /// Spends a ticket: whoever comes first has it, and nobody after.
    ///
    /// # Errors
    /// `unauthenticated`, the same for a ticket that is spent, has ended or never was.
    pub(crate) fn spend(&self, ticket: &str, now_ms: u64) -> Result<Option<Arc<Identity>>, Problem> {
        let mut key = [0; TICKET_BYTES];
        if ticket.len() != TICKET_CHARS || URL_SAFE_NO_PAD.decode_slice(ticket, &mut key) != Ok(TICKET_BYTES)
        {
            return Err(refused());
        }
        let mut issued = self.lock();
        issued.forget_ended(now_ms);
        issued.by_key.remove(&key).ok_or_else(refused)
    }

    fn lock(&self) -> MutexGuard<'_, Issued> {
        // Nothing in here panics half-way.
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A ticket that is spent, has ended or never was.
pub(crate) fn refused() -> Problem {
    let detail =
        "the ticket is not good (any more): one is good once, and for seconds; POST /v1/tickets for another";
    Problem::new(Code::Unauthenticated, detail)
}

impl Issued {
    fn forget_ended(&mut self, now_ms: u64) {
        while let Some((end_ms, key)) = self.ends.front() {
            if *end_ms > now_ms {
                return;
            }
            self.by_key.remove(key);
            self.ends.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn a_ticket_is_good_once() {
        let tickets = Tickets::new(1000, 10);
        let who = Arc::new(Identity { user: Some("u".into()), ..Identity::default() });
        let ticket = tickets.issue(Some(Arc::clone(&who)), 5).expect("room");
        assert_eq!(ticket.len(), TICKET_CHARS);
        let spent = tickets.spend(&ticket, 6).expect("good");
        assert!(spent.is_some_and(|spent| Arc::ptr_eq(&spent, &who)));
        assert!(tickets.spend(&ticket, 6).is_err());
    }

    #[test]
    fn a_ticket_ends() {
        let tickets = Tickets::new(1000, 10);
        let ticket = tickets.issue(None, 0).expect("room");
        assert!(tickets.spend(&ticket, 1000).is_err());
        let ticket = tickets.issue(None, 1000).expect("room");
        assert!(tickets.spend(&ticket, 1999).is_ok());
    }

    #[test]
    fn there_are_not_too_many() {
        let tickets = Tickets::new(1000, 2);
        let first = tickets.issue(None, 0).expect("room");
        tickets.issue(None, 0).expect("room");
        tickets.spend(&first, 0).expect("good");
        let refused = tickets.issue(None, 0).expect_err("full");
        assert_eq!(refused.code, Code::TooManyRequests);
        tickets.issue(None, 1000).expect("room again");
        assert!(tickets.lock().by_key.len() == 1);
    }

    #[test]
    fn what_is_no_ticket_is_refused() {
        let tickets = Tickets::new(1000, 2);
        for text in ["", "a", &"a".repeat(32), &"a".repeat(33), &"\u{e4}".repeat(16), &"=".repeat(32)] {
            assert!(tickets.spend(text, 0).is_err(), "{text}");
        }
    }

    #[test]
    fn of_many_at_once_one_has_it() {
        let (tickets, threads) = (Tickets::new(60_000, 1000), 8);
        for _ in 0..200 {
            let ticket = tickets.issue(None, 0).expect("room");
            let start = Barrier::new(threads);
            let won: usize = std::thread::scope(|scope| {
                let spend = || {
                    start.wait();
                    usize::from(tickets.spend(&ticket, 1).is_ok())
                };
                let all: Vec<_> = (0..threads).map(|_| scope.spawn(spend)).collect();
                all.into_iter().map(|thread| thread.join().expect("no panic")).sum()
            });
            assert_eq!(won, 1);
        }
    }
}
