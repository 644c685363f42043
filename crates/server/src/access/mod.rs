//! Who may do what: tokens, tickets, rights, origins. Must not know sockets, shards or transports.
#![allow(dead_code)]

pub(crate) mod addresses;
pub(crate) mod callback;
pub(crate) mod credentials;
pub(crate) mod identity;
pub(crate) mod origin;
pub(crate) mod pattern;
pub(crate) mod proxies;
pub(crate) mod revocations;
pub(crate) mod sealed;
pub(crate) mod settings;
pub(crate) mod tickets;
pub(crate) mod token;
pub(crate) mod users;

use std::num::NonZeroU64;
use std::sync::Arc;

use anyhow::Context;
use subtle::ConstantTimeEq;
use tidewire_core::http1::Request;
use tidewire_core::{Code, Problem};

use crate::clock::Clock;
use crate::settings::Settings;

use addresses::Addresses;
use callback::Callback;
use credentials::Credentials;
use identity::{Identity, RecentGrants};
use origin::{Origin, Origins};
use revocations::Revocations;
use sealed::{Opened, Secret};
use settings::AccessSettings;
use tickets::Tickets;
use token::{Refusal, Verifier};
use users::Users;

/// All that decides who may come in, shared by the shards.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) settings: Arc<AccessSettings>,
    pub(crate) origins: Origins,
    pub(crate) tickets: Tickets,
    pub(crate) revocations: Revocations,
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) users: Arc<Users>,
    pub(crate) callback: Option<Callback>,
    verifier: Verifier,
    grants: RecentGrants,
    /// Whether anybody can show who they are; if not, nobody is asked to.
    authenticates: bool,
    /// Whether everybody may do everything.
    pub(crate) opens_everything: bool,
    /// Whether there is anything to do for those who do not say who they are.
    pub(crate) lets_strangers_in: bool,
    /// Whether data must fit a schema on some channel.
    pub(crate) checks_data: bool,
}

/// Somebody, or nobody in particular.
pub(crate) type Who = Option<Arc<Identity>>;

/// Who sent a request, and how they showed it.
#[derive(Debug, Clone)]
pub(crate) struct Identified {
    pub(crate) who: Who,
    /// By a ticket, whose owner had been identified when it was issued.
    pub(crate) by_ticket: bool,
}

/// What stands between a request and its answer.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// It is refused.
    Refused(Problem),
    /// The keys of this issuer must be fetched first.
    KeysWanted(usize),
    /// It comes with a ticket that must be spent first, which only the backplane can.
    Spends(Opened),
}

impl From<Problem> for Stopped {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

impl Access {
    /// Reads keys and what was revoked.
    ///
    /// # Errors
    /// Says which file or setting is wrong.
    pub(crate) fn new(all: &Settings, secret: Option<&Secret>, clock: Clock) -> anyhow::Result<Self> {
        let settings = Arc::clone(&all.access);
        let origins = Origins::parse(&settings.origins).map_err(anyhow::Error::msg).context("origins")?;
        let tokens = &settings.tokens;
        let has_peers = all.backplane.is_some();
        Ok(Self {
            origins,
            addresses: Arc::new(Addresses::new(&all.limits, has_peers)),
            users: Arc::new(Users::new(&all.limits, has_peers)),
            tickets: match secret {
                Some(secret) => Tickets::shared(tokens.ticket_ms, secret)?,
                None => Tickets::new(tokens.ticket_ms, tokens.tickets),
            },
            revocations: Revocations::open(all.data.as_deref(), tokens.revocation_ms, tokens.revocations)?,
            callback: settings
                .callback
                .as_ref()
                .map(|settings| Callback::start(settings, clock))
                .transpose()?,
            verifier: Verifier::new(&settings)?,
            grants: RecentGrants::default(),
            authenticates: settings.authenticates(),
            opens_everything: all.opens_everything(),
            lets_strangers_in: all.lets_strangers_in(),
            checks_data: all.has_schemas(),
            settings,
        })
    }

    /// Whether anybody can show who they are. If not, everybody may do everything.
    pub(crate) fn authenticates(&self) -> bool {
        self.authenticates
    }

    /// Whether anything is to be found out about who sends a request.
    pub(crate) fn asks_anything(&self) -> bool {
        self.authenticates || self.callback.is_some() || !self.settings.proxies.trusted.is_empty()
    }

    /// Who sent a request. `now_ms` is monotonic, `wall_ms` is Unix time; `last_try` is for when the keys that a
    /// token wanted have been asked for.
    ///
    /// # Errors
    /// [`Stopped`].
    pub(crate) fn identify(
        &self,
        request: &Request<'_, '_>,
        origin: &Origin,
        (now_ms, wall_ms): (u64, u64),
        last_try: bool,
    ) -> Result<Identified, Stopped> {
        let known = |who| Ok(Identified { who, by_ticket: false });
        if !self.authenticates {
            return known(None);
        }
        let cookie = self.settings.tokens.cookie.as_deref();
        match Credentials::find(request, cookie, origin)? {
            Credentials::None => known(None),
            Credentials::Ticket(ticket) if self.tickets.are_shared() => {
                let opened = self.tickets.open(ticket, &self.grants)?;
                opened.who.as_deref().map_or(Ok(()), |who| self.revocations.check(who))?;
                Err(Stopped::Spends(opened))
            }
            Credentials::Ticket(ticket) => {
                let who = self.tickets.spend(ticket, now_ms)?;
                who.as_deref().map_or(Ok(()), |who| self.revocations.check(who))?;
                Ok(Identified { who, by_ticket: true })
            }
            Credentials::Bearer(key) if self.is_admin_key(key) => known(Some(Arc::new(Identity::admin()))),
            // What it says is for the application to know.
            Credentials::Bearer(_) | Credentials::Cookie(_)
                if self.settings.issuers.is_empty() && self.asks_who() =>
            {
                known(None)
            }
            Credentials::Bearer(token) | Credentials::Cookie(token) => {
                known(Some(self.identify_token(token, wall_ms, last_try)?))
            }
        }
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// [`Stopped`].
    pub(crate) fn identify_token(
        &self,
        token: &str,
        wall_ms: u64,
        last_try: bool,
    ) -> Result<Arc<Identity>, Stopped> {
        let verified = if last_try {
            self.verifier.verify_after_fetch(token, wall_ms)
        } else {
            self.verifier.verify(token, wall_ms)
        };
        let claims = verified.map_err(|refusal| match refusal {
            Refusal::KeysWanted(issuer) => Stopped::KeysWanted(issuer),
            refusal => Stopped::Refused(refusal.into()),
        })?;
        let grants = self.grants.of_claim(claims.rights.as_ref()).map_err(|wrong| {
            let detail = format!("the token's rights cannot be read: {wrong}");
            Problem::new(Code::Unauthenticated, detail)
        })?;
        let who = Identity {
            user: claims.user.map(Arc::from),
            is_admin: false,
            is_minted: false,
            grants,
            expires_at_ms: NonZeroU64::new(claims.expires_at_ms),
            issued_at_ms: claims.issued_at_ms.unwrap_or(0),
        };
        self.revocations.check(&who)?;
        Ok(Arc::new(who))
    }

    /// Gets the keys that a token wants; `done` is called when they are there, or cannot be had now.
    pub(crate) fn fetch_keys(&self, issuer: usize, done: impl FnOnce() + Send + 'static) {
        self.verifier.fetch(issuer, Box::new(done));
    }

    /// What was done with tokens so far.
    pub(crate) fn token_counters(&self) -> &token::Counters {
        self.verifier.counters()
    }

    fn asks_who(&self) -> bool {
        self.callback.as_ref().is_some_and(|callback| callback.settings().asks_about.connect)
    }

    fn is_admin_key(&self, key: &str) -> bool {
        let admin_key = self.settings.admin_key.as_ref();
        admin_key.is_some_and(|admin_key| bool::from(admin_key.0.ct_eq(key.as_bytes())))
    }
}
