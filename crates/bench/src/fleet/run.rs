//! Publishing while the fleet receives: on a schedule, or flat out within a window.
//! Ends when everything has come, or when nothing has come for a while; never waits for ever.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

use super::Fleet;
use crate::progress::Progress;
use crate::targets::Event;

/// After so long without any event, what has not come will not come.
const QUIET_NS: u64 = 3_000_000_000;
/// Time added to a job for what is still under way at its end.
const DRAIN_NS_MAX: u64 = 60_000_000_000;
/// The timer wakes the loop no more often than this; events due in between go out together.
const TICK_NS_MIN: u64 = 100_000;
/// Publishes made in one go before the loop looks at its sockets again.
const PUBLISHES_AT_ONCE: usize = 1024;

/// When events are published.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// At fixed times, whatever the server does (open loop); so many events at each time.
    Schedule { events_per_s: f64, burst: u32 },
    /// As fast as the window lets: so many publishes not acknowledged on each line, and subscribers
    /// behind by no more than so many events on average.
    Window { unacknowledged_max: usize, behind_max: u64 },
}

struct Job {
    pace: Pace,
    begin_ns: u64,
    until_ns: u64,
    /// Events that the schedule has in all.
    events: u64,
    /// Events published before this job.
    published_before: u64,
}

/// When a run began and when its last event came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) begin_ns: u64,
    pub(crate) end_ns: u64,
}

impl Span {
    pub(crate) fn seconds(self) -> f64 {
        self.end_ns.saturating_sub(self.begin_ns) as f64 / 1e9
    }
}

impl Fleet<'_> {
    /// Publishes for `duration` and receives until everything has come.
    pub(crate) fn run(&mut self, pace: Pace, duration: Duration, progress: &Progress) -> Result<Span> {
        let begin_ns = self.shared.clock.now_ns();
        let until_ns = begin_ns + duration.as_nanos() as u64;
        let events = match pace {
            Pace::Schedule { events_per_s, .. } => {
                (events_per_s * duration.as_secs_f64()).round().max(1.0) as u64
            }
            Pace::Window { .. } => u64::MAX,
        };
        let job = Job { pace, begin_ns, until_ns, events, published_before: self.publisher.published };
        self.arm_timer(pace)?;
        let mut progress_ns = 0;
        loop {
            self.publish_due(&job)?;
            self.turn_with(Duration::from_millis(20), |fleet| fleet.publish_due(&job))?;
            let now_ns = self.shared.clock.now_ns();
            if now_ns > progress_ns {
                progress.at((now_ns - begin_ns).min(until_ns - begin_ns) / 1_000_000);
                progress_ns = now_ns + 100_000_000;
            }
            if self.is_over(&job, now_ns) {
                break;
            }
        }
        self.disarm_timer()?;
        let end_ns = self.tally().last_ns.max(begin_ns);
        Ok(Span { begin_ns, end_ns })
    }

    /// Receives for `duration` without publishing.
    pub(crate) fn listen(&mut self, duration: Duration) -> Result<()> {
        let until_ns = self.shared.clock.now_ns() + duration.as_nanos() as u64;
        loop {
            let now_ns = self.shared.clock.now_ns();
            if now_ns >= until_ns {
                return Ok(());
            }
            self.turn(Duration::from_nanos(until_ns - now_ns).min(Duration::from_millis(100)))?;
        }
    }

    /// Receives until `deliveries` events have come in this count, or nothing comes any more.
    pub(crate) fn receive(&mut self, deliveries: u64, within: Duration, progress: &Progress) -> Result<Span> {
        let begin_ns = self.shared.clock.now_ns();
        let until_ns = begin_ns + within.as_nanos() as u64;
        while self.tally().deliveries < deliveries && self.shared.clock.now_ns() < until_ns {
            self.turn(Duration::from_millis(20))?;
            progress.at(self.tally().deliveries);
        }
        Ok(Span { begin_ns, end_ns: self.tally().last_ns.max(begin_ns) })
    }

    /// Nanoseconds on the clock of this fleet.
    pub(crate) fn now_ns(&self) -> u64 {
        self.shared.clock.now_ns()
    }

    fn is_over(&self, job: &Job, now_ns: u64) -> bool {
        let published = self.publisher.published - job.published_before;
        let all_published = match job.pace {
            Pace::Schedule { .. } => published >= job.events,
            Pace::Window { .. } => now_ns >= job.until_ns,
        };
        if !all_published {
            return false;
        }
        let all_here = self.tally().deliveries >= self.expected() && self.publisher.in_flight() == 0;
        let quiet_ns = now_ns.saturating_sub(self.tally().last_ns.max(job.until_ns));
        all_here || quiet_ns > QUIET_NS || now_ns > job.until_ns + DRAIN_NS_MAX
    }

    /// Deliveries that the publishes since the last reset should make.
    pub(crate) fn expected(&self) -> u64 {
        self.publisher.published * self.reader_count().min(self.plan.layout.audience_size())
    }

    fn publish_due(&mut self, job: &Job) -> Result<()> {
        let now_ns = self.shared.clock.now_ns();
        match job.pace {
            Pace::Schedule { events_per_s, burst } => {
                self.publish_scheduled(job, events_per_s, burst, now_ns)
            }
            Pace::Window { unacknowledged_max, behind_max } if now_ns < job.until_ns => {
                self.publish_window(unacknowledged_max, behind_max, now_ns)
            }
            Pace::Window { .. } => Ok(()),
        }
    }

    fn publish_scheduled(&mut self, job: &Job, events_per_s: f64, burst: u32, now_ns: u64) -> Result<()> {
        let burst = u64::from(burst.max(1));
        let interval_ns = 1e9 / events_per_s;
        for _ in 0..PUBLISHES_AT_ONCE {
            let number = self.publisher.published - job.published_before;
            let due_ns = job.begin_ns + ((number / burst * burst) as f64 * interval_ns) as u64;
            if number >= job.events || due_ns > now_ns {
                break;
            }
            if self.plan.lines == 0 {
                self.publish_from_subscriber(due_ns)?;
            } else {
                self.publisher.publish(&*self.server.dialect, self.plan.layout, due_ns);
            }
        }
        self.publisher.flush()
    }

    fn publish_window(&mut self, unacknowledged_max: usize, behind_max: u64, now_ns: u64) -> Result<()> {
        let behind_max = behind_max.saturating_mul(self.plan.layout.audience_size());
        let mut full_lines = 0;
        for _ in 0..PUBLISHES_AT_ONCE {
            if self.expected().saturating_sub(self.tally().deliveries) > behind_max {
                break;
            }
            if self.publisher.has_room(unacknowledged_max) {
                self.publisher.publish(&*self.server.dialect, self.plan.layout, now_ns);
                full_lines = 0;
            } else {
                self.publisher.skip();
                full_lines += 1;
            }
            if full_lines >= self.publisher.lines.len() {
                break;
            }
        }
        self.publisher.flush()
    }

    /// Each event from the connection that holds its channel.
    fn publish_from_subscriber(&mut self, due_ns: u64) -> Result<()> {
        let via = self.publisher.via;
        let (channel, data) = self.publisher.next_event(due_ns);
        let audience = self.plan.layout.audience(channel);
        let pipe = &mut self.subscribers[audience.start as usize].pipe;
        self.server.dialect.write_publish(via, &Event { channel, audience, data }, pipe.outbox());
        pipe.flush().context("cannot publish from a subscriber")
    }

    fn arm_timer(&self, pace: Pace) -> Result<()> {
        match pace {
            Pace::Schedule { events_per_s, burst } => {
                let interval_ns = (1e9 / events_per_s * f64::from(burst.max(1))) as u64;
                self.set_timer(Duration::from_nanos(interval_ns.max(TICK_NS_MIN)))
            }
            Pace::Window { .. } => Ok(()),
        }
    }

    fn disarm_timer(&self) -> Result<()> {
        self.set_timer(Duration::ZERO)
    }

    fn set_timer(&self, interval: Duration) -> Result<()> {
        let interval =
            Timespec { tv_sec: interval.as_secs() as i64, tv_nsec: i64::from(interval.subsec_nanos()) };
        let setting = Itimerspec { it_interval: interval, it_value: interval };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting).context("cannot set the timer")?;
        Ok(())
    }
}
