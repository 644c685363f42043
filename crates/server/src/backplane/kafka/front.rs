//! The front of the log: what no channel needs any more is deleted, and what channels need of it is said again before, at
//! its end. Any node does so, at times of its own. Must not know who reads.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::machine::Machine;
use super::partition::Draft;
use super::requests::EARLIEST;
use super::session::{Session, Slot};
use super::words::Body;
use crate::backplane::broker::BrokerError;
use crate::clock::wall_clock;

/// How often it is looked, at random between these.
const ROUND_S: std::ops::Range<u64> = 300..900;
/// No record is deleted that is newer: whoever begins late decides as all others, also if clocks differ.
const KEPT_MS: u64 = 86_400_000;
/// How many records are worth the trouble.
const RECORDS_MIN: u64 = 1_000;
/// How much is said again at once.
const AGAIN: usize = 1_000;
/// How often in one round; what changes all the while is outdated when it is said again.
const AGAIN_TRIES: usize = 1_000;
/// After how long a partition is read no more of which nobody has needed anything.
const IDLE_MS: u64 = 600_000;

/// Keeps the front of all partitions that this node reads.
pub(super) async fn keep(session: &Arc<Session>) {
    loop {
        tokio::time::sleep(Duration::from_secs(fastrand::u64(ROUND_S))).await;
        session.let_idle_go(IDLE_MS);
        for slot in session.slots() {
            session.is_ready(&slot).await;
            if let Err(error) = advance(session, &slot).await {
                tracing::debug!(target: "tidewire", %error, "the front of the backplane's log stays where it is");
            }
        }
    }
}

async fn advance(session: &Arc<Session>, slot: &Slot) -> Result<(), BrokerError> {
    let mut connection = session.borrow(slot).await?;
    let place = &slot.partition.place;
    let now_ms = wall_clock().0;
    let earliest = place.position(&mut connection, EARLIEST).await?.unwrap_or(0);
    let day = place.position(&mut connection, now_ms.saturating_sub(KEPT_MS) as i64).await?;
    let front = session.with(slot, |machine| {
        machine.bonds.retain(|(_, later)| *later >= earliest);
        machine.front(now_ms, day)
    });
    if front < earliest + RECORDS_MIN {
        return Ok(());
    }
    for _ in 0..AGAIN_TRIES {
        let again = session.with(slot, |machine| machine.again(front, now_ms, AGAIN));
        if again.is_empty() {
            return place.delete_before(&mut connection, front, session.dialer.timeout).await;
        }
        let said = again.into_iter().map(|(key, body)| session.order(slot, Draft::Other(key, body)));
        futures_util::future::try_join_all(said.collect::<Vec<_>>()).await?;
    }
    Ok(()) // the next round goes on
}

impl Machine {
    /// Before which position nothing is needed but what can be said again; `day` is where the newest day begins.
    pub(super) fn front(&self, now_ms: u64, day: Option<u64>) -> u64 {
        let channels = self.channels.values().filter_map(|channel| channel.needs(now_ms));
        let once = self.once.values().filter(|(until_ms, _)| *until_ms > now_ms).map(|(_, at)| *at);
        let most = self.newest.min(day.unwrap_or(self.newest));
        let front = channels.chain(once).min().unwrap_or(most).min(most);
        // Newest first: what is bound to something may be bound itself.
        let mut bonds: Vec<(u64, u64)> = self.bonds.clone();
        bonds.sort_unstable_by_key(|(_, later)| std::cmp::Reverse(*later));
        bonds.into_iter().fold(front, |front, (earlier, later)| match front > earlier && front <= later {
            true => earlier,
            false => front,
        })
    }

    /// What is before a position and must not be lost, as records that say it again; so many at the most.
    pub(super) fn again(&self, front: u64, now_ms: u64, most: usize) -> Vec<(Bytes, Body)> {
        let mut again = Vec::new();
        if let Some(shared) = self.shared.filter(|shared| shared.position < front) {
            let (number, secret, partitions) = (shared.number, shared.secret, shared.partitions);
            again.push((Bytes::new(), Body::Known { number, secret, partitions }));
        }
        for (subject, (what, _)) in self.board.iter().filter(|(_, (_, at))| *at < front) {
            let (subject, what) = (subject.clone(), what.clone());
            again.push((Bytes::new(), Body::Announce { is_kept: true, is_again: true, subject, what }));
        }
        for (name, channel) in &self.channels {
            let key = Bytes::copy_from_slice(name.as_str().as_bytes());
            if channel.fades_before(front, now_ms) && channel.needs(now_ms).is_none() {
                let stay = channel.standing(self.lost);
                again.push((key.clone(), Body::Stay { head: channel.head, stay }));
            }
            for held in channel.state.values().filter(|held| held.position < front) {
                let (offset, time_ms, record) = (held.offset, held.time_ms, held.record.clone());
                again.push((key.clone(), Body::Hold { seen: self.next, offset, time_ms, record }));
            }
            if again.len() >= most {
                break;
            }
        }
        again
    }
}
