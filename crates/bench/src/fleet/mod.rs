//! The generator: one thread, one event loop, all subscribers and the publisher.
//! Knows targets only through their dialect, and measures nothing but time and counts.

pub(crate) mod intake;
pub(crate) mod pipe;
mod publisher;
mod run;
mod subscriber;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

use crate::clock::Clock;
use crate::layout::Layout;
use crate::ledger::Faults;
use crate::progress::Progress;
use crate::targets::{Seat, Server, Transport, Via};
use crate::wire::deflate::Inflater;
use intake::{Intake, Tally};
use pipe::Pipe;
pub(crate) use publisher::Publisher;
pub(crate) use run::Pace;
use subscriber::{Phase, Shared, Subscriber};

const TIMER: Token = Token(usize::MAX - 2);
const FIRST_LINE: usize = 1 << 40;
const SCRATCH_BYTES: usize = 256 << 10;
/// Connections being set up at once; few enough for any server's backlog.
const CONNECTING_MAX: usize = 256;
const CONNECT_WITHIN: Duration = Duration::from_secs(120);

/// What a fleet is made of.
#[derive(Debug, Clone)]
pub(crate) struct FleetPlan {
    pub(crate) layout: Layout,
    pub(crate) transport: Transport,
    pub(crate) deflate: bool,
    pub(crate) since: Option<String>,
    /// Sequence number that each subscription begins with.
    pub(crate) first_sequence: u32,
    /// Every n-th connection stops to read once it is subscribed.
    pub(crate) stalled_every: Option<u32>,
    pub(crate) payload_bytes: usize,
    pub(crate) via: Via,
    /// Publishing connections; none means that each subscriber publishes on its own.
    pub(crate) lines: usize,
}

pub(crate) struct Fleet<'a> {
    plan: FleetPlan,
    server: &'a Server,
    poll: Poll,
    events: Events,
    timer: OwnedFd,
    subscribers: Vec<Subscriber>,
    shared: Shared,
    pub(crate) publisher: Publisher,
    /// Subscribers with input left after their turn.
    again: Vec<usize>,
    ready: u32,
    pub(crate) closed: u32,
    first_close: Option<String>,
}

impl<'a> Fleet<'a> {
    /// A fleet that is not yet connected.
    pub(crate) fn new(plan: FleetPlan, server: &'a Server) -> Result<Fleet<'a>> {
        let poll = Poll::new()?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        let shared = Shared {
            scratch: vec![0; SCRATCH_BYTES],
            intake: Intake::new(plan.layout, plan.first_sequence)?,
            inflater: Inflater::new(),
            clock: Clock::start(),
            acknowledged: 0,
        };
        let mut publisher = Publisher::new(plan.via, plan.payload_bytes, plan.layout.channel_count())?;
        publisher.sequences.fill(plan.first_sequence);
        Ok(Fleet {
            subscribers: Vec::with_capacity(plan.layout.connections as usize),
            poll,
            events: Events::with_capacity(1024),
            timer,
            shared,
            publisher,
            again: Vec::new(),
            ready: 0,
            closed: 0,
            first_close: None,
            plan,
            server,
        })
    }

    /// Connects all subscribers and the publisher, and waits until each is subscribed.
    pub(crate) fn connect(&mut self, progress: &Progress) -> Result<()> {
        let begin = Instant::now();
        let wanted = self.plan.layout.connections;
        progress.begin("connecting", u64::from(wanted));
        for line in 0..self.plan.lines {
            let token = Token(FIRST_LINE + line);
            self.publisher.add_line(self.server.publish_address(line), self.poll.registry(), token)?;
        }
        while self.ready < wanted || !self.publisher.is_open() {
            while self.subscribers.len() < wanted as usize
                && self.subscribers.len() - (self.ready as usize) < CONNECTING_MAX
            {
                self.add_subscriber()?;
            }
            self.turn(Duration::from_millis(100))?;
            progress.at(u64::from(self.ready));
            if let Some(close) = &self.first_close {
                bail!("{} of {wanted} connected, then {close}", self.ready);
            }
            if begin.elapsed() > CONNECT_WITHIN {
                bail!("only {} of {wanted} subscribers are ready after {CONNECT_WITHIN:?}", self.ready);
            }
        }
        progress.end();
        Ok(())
    }

    fn add_subscriber(&mut self) -> Result<()> {
        let index = self.subscribers.len();
        let narrow = self.is_stalled(index as u32);
        let pipe =
            Pipe::connect(self.server.subscribe_address(index), self.poll.registry(), Token(index), narrow)
                .with_context(|| format!("subscriber {index}"))?;
        self.subscribers.push(Subscriber::new(pipe));
        Ok(())
    }

    fn is_stalled(&self, index: u32) -> bool {
        self.plan.stalled_every.is_some_and(|every| index % every == every - 1)
    }

    /// Subscribers that read all the time.
    pub(crate) fn reader_count(&self) -> u64 {
        (0..self.plan.layout.connections).filter(|&index| !self.is_stalled(index)).count() as u64
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.shared.intake.tally
    }

    /// What went wrong so far on the connections that read.
    pub(crate) fn faults(&self) -> Faults {
        self.shared.intake.faults(&self.publisher.sequences, |index| !self.is_stalled(index))
    }

    /// Why the first connection that closed did so.
    pub(crate) fn first_close(&self) -> Option<&str> {
        self.first_close.as_deref()
    }

    pub(crate) fn sample_every(&mut self, events: u32) {
        self.shared.intake.sample_every(events);
    }

    /// Begins a new count of deliveries and latencies; sequence numbers and faults go on.
    pub(crate) fn reset_counts(&mut self) {
        self.shared.intake.reset();
        self.publisher.latency_ns.reset();
        self.publisher.published = 0;
        self.publisher.acknowledged = 0;
        self.shared.acknowledged = 0;
    }

    /// Handles what is ready, waiting at most `timeout` for it.
    fn turn(&mut self, timeout: Duration) -> Result<()> {
        self.turn_with(timeout, |_| Ok(()))
    }

    /// As [`Fleet::turn`], with a look at the schedule between any two connections.
    fn turn_with(
        &mut self,
        timeout: Duration,
        mut between: impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let timeout = if self.again.is_empty() { timeout } else { Duration::ZERO };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for index in std::mem::take(&mut self.again) {
            self.handle_subscriber(index, false)?;
            between(self)?;
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            match event.token() {
                // The kernel winds a periodic timer up again only when it is read.
                TIMER => self.acknowledge_timer()?,
                Token(token) if token >= FIRST_LINE => {
                    let now_ns = self.shared.clock.now_ns();
                    let scratch = &mut self.shared.scratch;
                    self.publisher.handle(token - FIRST_LINE, &*self.server.dialect, scratch, now_ns)?;
                }
                Token(index) => self.handle_subscriber(index, event.is_read_closed())?,
            }
            between(self)?;
        }
        self.events = events;
        Ok(())
    }

    fn acknowledge_timer(&self) -> Result<()> {
        match rustix::io::read(&self.timer, &mut [0; 8]) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error).context("cannot read the timer"),
        }
    }

    fn handle_subscriber(&mut self, index: usize, read_closed: bool) -> Result<()> {
        let stalled = self.is_stalled(index as u32);
        let subscriber = &mut self.subscribers[index];
        let before = subscriber.phase;
        if matches!(before, Phase::Closed(_)) || (stalled && before == Phase::Ready) {
            return Ok(());
        }
        let seat = Seat {
            index: index as u32,
            channels: self.plan.layout.channels_of(index as u32),
            transport: self.plan.transport,
            deflate: self.plan.deflate,
            since: self.plan.since.as_deref(),
        };
        let more = subscriber
            .handle(&seat, &*self.server.dialect, &mut self.shared, read_closed)
            .with_context(|| format!("subscriber {index}"))?;
        if more {
            self.again.push(index);
        }
        let after = subscriber.phase;
        if after == Phase::Ready && before != Phase::Ready {
            self.ready += 1;
        }
        if let Phase::Closed(code) = after {
            self.closed += 1;
            if before == Phase::Ready {
                ensure!(self.ready > 0, "more subscribers closed than were ready");
            }
            self.first_close.get_or_insert_with(|| match code {
                Some(code) => format!("the server closed subscriber {index} with code {code}"),
                None => format!("the server closed subscriber {index}"),
            });
        }
        Ok(())
    }
}
