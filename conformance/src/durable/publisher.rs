//! Publishers that outlive the server. With idempotency keys they repeat what was not acknowledged until it is;
//! without, they go on with the next. Everything that they are told goes into the ledger.

use std::collections::{BTreeSet, VecDeque};
use std::thread::JoinHandle;

use super::body::Body;
use super::ledger::Ledger;
use super::publish::{self, PATIENCE, Said};
use super::{Place, Visit};
use crate::client::Socket;
use crate::random::Random;
use crate::{Result, http, server};

/// How one publishes.
#[derive(Debug, Clone)]
pub struct Manner {
    /// Tells it from the others.
    pub number: usize,
    /// Over a WebSocket with several events on the way, or one after another over HTTP.
    pub socket: bool,
    /// With idempotency keys.
    pub keyed: bool,
}

impl Manner {
    /// One of each.
    pub fn all() -> Vec<Self> {
        let manner = |number| Self { number, socket: number % 2 == 1, keyed: number < 2 };
        (0..4).map(manner).collect()
    }
}

/// A publisher on a thread of its own.
#[derive(Debug)]
struct Publisher {
    manner: Manner,
    place: Place,
    ledger: Ledger,
    channel: String,
    random: Random,
    begun: usize,
    /// Begun and neither acknowledged nor given up, in order: the entry and what it says.
    open: VecDeque<(usize, Body, Option<String>)>,
}

/// What became of one event.
enum Outcome {
    Done,
    Again,
}

const ON_THE_WAY_MAX: usize = 16;

/// Starts a publisher.
pub fn start(
    manner: Manner,
    place: &Place,
    ledger: &Ledger,
    channel: &str,
    random: &mut Random,
) -> JoinHandle<Result<()>> {
    let mut publisher = Publisher {
        manner,
        place: place.clone(),
        ledger: ledger.clone(),
        channel: channel.to_owned(),
        random: Random::new(random.bits()),
        begun: 0,
        open: VecDeque::new(),
    };
    std::thread::spawn(move || {
        let outcome = if publisher.manner.socket { publisher.over_sockets() } else { publisher.over_http() };
        outcome.map_err(|error| format!("{:?}: {error}", publisher.manner))
    })
}

impl Publisher {
    fn over_http(&mut self) -> Result<()> {
        let agent = http::agent(PATIENCE);
        loop {
            if self.open.is_empty() {
                if self.place.is_finishing() {
                    return Ok(());
                }
                self.begin();
            }
            let visit = self.place.visit()?;
            let Some((entry, body, key)) = self.open.front().cloned() else { continue };
            self.ledger.sent(entry, (self.manner.number, visit.start));
            let said = publish::post(&agent, &visit.url, &self.channel, &body, key.as_deref());
            let outcome = match said {
                Ok(said) => self.heard(entry, &said)?,
                Err(error) => self.broken(&visit, entry, error)?,
            };
            if matches!(outcome, Outcome::Done) || key.is_none() {
                self.open.pop_front();
            }
        }
    }

    fn over_sockets(&mut self) -> Result<()> {
        let mut connection = 0;
        while !(self.open.is_empty() && self.place.is_finishing()) {
            let visit = self.place.visit()?;
            connection += 1;
            let mut sent = BTreeSet::new();
            let outcome = publish::open(&visit.url)
                .and_then(|mut socket| self.over_socket(&mut socket, connection, &mut sent));
            if let Err(error) = outcome {
                if self.place.stands(&visit) {
                    return Err(error);
                }
                sent.iter().for_each(|entry| self.ledger.lost(*entry, None));
                self.open.retain(|(entry, _, key)| key.is_some() || !sent.contains(entry));
            }
        }
        Ok(())
    }

    /// Until the connection breaks or everything is done. `sent` has what is on the way.
    fn over_socket(
        &mut self,
        socket: &mut Socket,
        connection: usize,
        sent: &mut BTreeSet<usize>,
    ) -> Result<()> {
        loop {
            let next = self.open.iter().find(|(entry, ..)| !sent.contains(entry)).cloned();
            if let Some((entry, body, key)) = next {
                self.ledger.sent(entry, (self.manner.number, connection));
                sent.insert(entry);
                let message = publish::message(&self.channel, &entry.to_string(), &body, key.as_deref());
                socket.send(message).map_err(|error| format!("cannot publish: {error}"))?;
            } else if sent.len() < ON_THE_WAY_MAX && !self.place.is_finishing() {
                self.begin();
            } else if sent.is_empty() {
                return Ok(());
            } else {
                let (entry, said) = publish::reply(socket)?;
                let entry = entry.parse().map_err(|_| format!("a reply to {entry:?}"))?;
                if !sent.remove(&entry) {
                    return Err(format!("a second reply to event {entry}: {said:?}"));
                }
                let outcome = self.heard(entry, &said)?;
                self.open.retain(|(other, _, key)| {
                    *other != entry || (key.is_some() && matches!(outcome, Outcome::Again))
                });
            }
        }
    }

    fn begin(&mut self) {
        self.begun += 1;
        let mut body = Body::random(&mut self.random, self.manner.number, self.begun);
        if self.manner.socket {
            body = body.for_socket();
        }
        let key = self.manner.keyed.then(|| format!("key-{}-{}", self.manner.number, self.begun));
        self.open.push_back((self.ledger.begin(body.mark()), body, key));
    }

    fn heard(&self, entry: usize, said: &Said) -> Result<Outcome> {
        match said {
            Said::Taken { id, duplicate, .. } => {
                self.ledger.acknowledge(entry, id, *duplicate)?;
                return Ok(Outcome::Done);
            }
            Said::Refused { status: None | Some(507), code, .. } if code == "storage_full" => {
                self.ledger.refuse(entry, code);
            }
            // Nobody knows what a disk has that failed.
            Said::Refused { status: None, code, .. } if code == "storage_failed" => {
                self.ledger.lost(entry, Some(code));
            }
            Said::Refused { status: Some(503), code, retry_after: true } if code == "storage_failed" => {
                self.ledger.lost(entry, Some(code));
            }
            Said::Refused { status: None, code, .. }
            | Said::Refused { status: Some(503), code, retry_after: true }
                if code == "backplane_unavailable" =>
            {
                self.ledger.lost(entry, Some(code));
            }
            // The proxy has nobody to ask, or lost whom it asked; or a server goes and says so.
            Said::Refused { status: Some(502..=504), code, .. } if self.place.is_restless() => {
                self.ledger.lost(entry, Some(code));
            }
            other => return Err(format!("refused: {other:?}")),
        }
        // Not at full speed against a disk that takes nothing.
        server::pause();
        Ok(Outcome::Again)
    }

    fn broken(&self, visit: &Visit, entry: usize, error: String) -> Result<Outcome> {
        if self.place.stands(visit) {
            return Err(error);
        }
        self.ledger.lost(entry, None);
        Ok(Outcome::Again)
    }
}
