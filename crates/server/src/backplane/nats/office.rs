//! What is to be done with channels, and what all who do it share. Must not know how it is done.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidewire_core::limits::Limits;
use tokio::sync::{mpsc, oneshot};

use super::library::Library;
use super::words::EVENTS_MAX;
use crate::backplane::broker::{Append, Appended, BrokerError, Notice};

/// Something to do with a channel.
pub(super) enum Job {
    Append { append: Append, limits: Arc<Limits>, answer: oneshot::Sender<Result<Appended, BrokerError>> },
    Delete { answer: oneshot::Sender<Result<u64, BrokerError>> },
}

impl Job {
    /// Nobody knows what became of it.
    pub(super) fn fail(self, error: &BrokerError) {
        // Whoever has gone does not want to know.
        match self {
            Self::Append { answer, .. } => drop(answer.send(Err(error.clone()))),
            Self::Delete { answer } => drop(answer.send(Err(error.clone()))),
        }
    }
}

/// What desks share.
#[derive(Debug, Clone)]
pub(super) struct Office {
    pub(super) library: Library,
    pub(super) node: u64,
    /// Says what went wrong.
    pub(super) notices: mpsc::Sender<Notice>,
    /// Nobody waits any more.
    pub(super) is_closed: Arc<AtomicBool>,
}

impl Office {
    /// Nothing more is done: the connection is of no use.
    pub(super) fn give_up(&self, error: &BrokerError) {
        self.is_closed.store(true, Ordering::Relaxed);
        // Where there is no room for a notice, enough was said.
        let _ = self.notices.try_send(Notice::Lost(error.to_string()));
    }

    pub(super) fn check(&self) -> Result<(), BrokerError> {
        let is_closed = self.is_closed.load(Ordering::Relaxed);
        if is_closed { Err(BrokerError("its connection is given up".to_owned())) } else { Ok(()) }
    }
}

/// A message's worth of jobs.
pub(super) fn take(jobs: &mut VecDeque<Job>) -> VecDeque<Job> {
    let is_delete = |job: &Job| matches!(job, Job::Delete { .. });
    let count = if jobs.front().is_some_and(is_delete) {
        1
    } else {
        jobs.iter().take(EVENTS_MAX).take_while(|job| !is_delete(job)).count()
    };
    jobs.drain(..count).collect()
}
