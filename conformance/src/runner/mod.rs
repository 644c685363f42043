//! Plays one case over one route of transports against one server.
//! Knows what each step means; how a transport does it is behind [`Client`].

mod exchange;
mod publish;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::Result;
use crate::case::{Case, Connect, Gap, Step};
use crate::client::{self, Ask, Client, Connected, Item, Socket, Spoiled, Transport};
use crate::event::{Published, Seen};
use crate::http::Answer;

/// How long an expected item may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The state of one run.
struct Run<'a> {
    server: &'a str,
    case: &'a Case,
    route: VecDeque<&'static Transport>,
    /// What stands in braces: channels, ids, saved values.
    values: HashMap<String, String>,
    published: HashMap<String, Published>,
    client: Option<Box<dyn Client>>,
    asked: Ask,
    /// A socket opened by hand.
    socket: Option<Socket>,
    /// The socket over which events are published.
    publisher: Option<Socket>,
    background: HashMap<String, std::thread::JoinHandle<Result<Answer>>>,
    agent: ureq::Agent,
    spoil: Option<&'static str>,
}

/// Runs a case. `spoil` is a fault to put between the server and the case, which must then fail.
///
/// # Errors
/// The step that failed, with what was expected and what came.
pub fn run(server: &str, case: &Case, route: &[&str], spoil: Option<&'static str>) -> Result<()> {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let nonce = format!("{:x}-{}", crate::random::clock() % (1 << 40), RUNS.fetch_add(1, Ordering::Relaxed));
    let real_name = |channel: &String| (channel.clone(), format!("{channel}-{nonce}"));
    let transports: Result<VecDeque<_>> = route.iter().map(|name| client::transport(name)).collect();
    let mut run = Run {
        server,
        case,
        route: transports?,
        values: case.channels.iter().map(real_name).collect(),
        published: HashMap::new(),
        client: None,
        asked: Ask::default(),
        socket: None,
        publisher: None,
        background: HashMap::new(),
        agent: crate::http::agent(Duration::from_secs(70)),
        spoil,
    };
    for (number, step) in case.steps.iter().enumerate() {
        let outcome = run.step(step);
        outcome.map_err(|error| {
            let over = if route.is_empty() { "the wire".to_owned() } else { route.join(", ") };
            let step = crate::event::shorten(&format!("{step:?}"));
            format!("case {} over {over}\n  step {}: {step}\n  {error}", case.name, number + 1)
        })?;
    }
    Ok(())
}

impl Run<'_> {
    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Publish(publish) => self.publish(publish),
            Step::Connect(connect) => self.connect(connect),
            Step::Expect(names) => self.expect(names),
            Step::Gap(gap) => self.gap(gap),
            Step::Nothing(ms) => match self.next(Duration::from_millis(*ms))? {
                Item::Nothing => Ok(()),
                other => Err(format!("expected nothing, got {other:?}")),
            },
            Step::Resume(resume) => {
                let position = self.client()?.position().ok_or("this client cannot say where it stands")?;
                self.route.rotate_left(1);
                self.connect_to(Ask { since: Some(position), limit: resume.limit, ..self.asked.clone() })
            }
            Step::Leave {} => {
                self.client = None;
                Ok(())
            }
            Step::Closed(closed) => match self.next(PATIENCE)? {
                Item::Closed(code, reason) => check_close(closed, code, &reason),
                other => Err(format!("expected the stream to end, got {other:?}")),
            },
            Step::Request(request) => self.request(request),
            Step::Finish(finish) => self.finish(finish),
            Step::Open(open) => self.open(open),
            Step::Send(text) => self.send(text),
            Step::SendHex(hex) => self.send_hex(hex),
            Step::Receive(pattern) => self.receive(pattern),
            Step::Shut(closed) => self.shut(closed),
        }
    }

    fn fill(&self, text: &str) -> Result<String> {
        crate::words::fill(text, &self.values)
    }

    fn channel(&self, name: &str) -> Result<String> {
        self.values.get(name).cloned().ok_or(format!("{name:?} is not among the channels of the case"))
    }

    fn channels(&self, names: Option<&[String]>) -> Result<Vec<String>> {
        names.unwrap_or(&self.case.channels).iter().map(|name| self.channel(name)).collect()
    }

    fn transport(&self) -> Result<&'static Transport> {
        self.route.front().copied().ok_or("the case names no transports, so it cannot connect".to_owned())
    }

    fn connect(&mut self, connect: &Connect) -> Result<()> {
        let since = connect.since.as_ref().map(|since| self.fill(since)).transpose()?;
        let ask = Ask {
            channels: self.channels(connect.channels.as_deref())?,
            since,
            limit: connect.limit,
            snapshot: false,
        };
        let Some(code) = &connect.refused else { return self.connect_to(ask) };
        match (self.transport()?.connect)(self.server, &ask)? {
            Connected::Refused(refusal) => self.check_refusal(code, &refusal),
            Connected::Client(_) => Err(format!("expected the refusal {code}, but was let in")),
        }
    }

    fn check_refusal(&self, code: &str, got: &client::Refusal) -> Result<()> {
        let status = got.status.unwrap_or_else(|| exchange::status_of(code));
        if got.code == code && status == exchange::status_of(code) {
            return Ok(());
        }
        Err(format!("expected the refusal {} {code}, got {got:?}", exchange::status_of(code)))
    }

    fn connect_to(&mut self, ask: Ask) -> Result<()> {
        self.client = None;
        match (self.transport()?.connect)(self.server, &ask)? {
            Connected::Client(client) => {
                self.client = Some(match self.spoil {
                    None => client,
                    Some(fault) => Box::new(Spoiled::new(client, fault)),
                });
                self.asked = ask;
                Ok(())
            }
            Connected::Refused(refusal) => Err(format!("refused: {refusal:?}")),
        }
    }

    fn client(&mut self) -> Result<&mut Box<dyn Client>> {
        self.client.as_mut().ok_or("no client is connected".to_owned())
    }

    fn next(&mut self, patience: Duration) -> Result<Item> {
        self.client()?.next(Instant::now() + patience)
    }

    /// Each event must be the next one of its channel; between channels any order is right.
    fn expect(&mut self, names: &[String]) -> Result<()> {
        let sees = self.transport()?.sees;
        let mut expected = Vec::new();
        for name in crate::words::names(names)? {
            let event = self.published.get(&name).ok_or(format!("no event was saved as {name}"))?;
            expected.push((name, event.clone()));
        }
        while !expected.is_empty() {
            let seen = match self.next(PATIENCE)? {
                Item::Event(seen) => seen,
                other => return Err(format!("expected the event {}, got {other:?}", expected[0].0)),
            };
            let place = place_of(&seen, &expected);
            let (name, event) = expected.remove(place);
            event.check(&seen, sees).map_err(|error| format!("event {name}: {error}"))?;
        }
        Ok(())
    }

    fn gap(&mut self, expected: &Gap) -> Result<()> {
        let item = self.next(PATIENCE)?;
        if !self.transport()?.sees.id {
            let closed = crate::case::Closed { code: 4003, reason: Some("gap".to_owned()) };
            return match item {
                Item::Closed(code, reason) => {
                    check_close(&closed, code, &reason)?;
                    self.connect_to(Ask { since: Some("earliest".to_owned()), ..self.asked.clone() })
                }
                other => Err(format!("expected close 4003, got {other:?}")),
            };
        }
        let channels = match &expected.channels {
            Some(names) => self.channels(Some(names))?,
            None => self.asked.channels.clone(),
        };
        let expected = client::Gap {
            channels,
            requested: self.fill(&expected.requested)?,
            resumed_from: self.fill(&expected.resumed_from)?,
        };
        match item {
            Item::Gap(gap) if gap == expected => Ok(()),
            other => Err(format!("expected {expected:?}, got {other:?}")),
        }
    }
}

fn place_of(seen: &Seen, expected: &[(String, Published)]) -> usize {
    let same = |(_, event): &(String, Published)| {
        seen.channel.as_ref().is_some_and(|channel| *channel == event.channel)
    };
    expected.iter().position(same).unwrap_or(0)
}

fn check_close(expected: &crate::case::Closed, code: Option<u16>, reason: &str) -> Result<()> {
    let same_reason = expected.reason.as_ref().is_none_or(|expected| expected == reason);
    if code.is_none_or(|code| code == expected.code) && (same_reason || code.is_none()) {
        return Ok(());
    }
    Err(format!("expected {expected:?}, got {code:?} {reason:?}"))
}
