//! The account of one subscription: which events came, and which were lost, repeated or reordered.
//! Knows only sequence numbers, which rise by one in each channel; sixteen bytes while all is well.

/// Ranges kept per subscription; beyond that, late events count as repeated.
const MISSING_RANGES_MAX: usize = 1024;

/// One subscription's account.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    next: u32,
    trouble: Option<Box<Trouble>>,
}

#[derive(Debug, Default)]
struct Trouble {
    /// Sequence numbers passed over and not seen since: `start..end`.
    missing: Vec<(u32, u32)>,
    repeated: u64,
    reordered: u64,
}

/// What went wrong, over one or many subscriptions.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) reordered: u64,
}

impl Ledger {
    /// An account whose first expected event is `next`.
    pub(crate) fn starting_at(next: u32) -> Ledger {
        Ledger { next, trouble: None }
    }

    /// Enters one received event; true if it is new to this subscription.
    #[inline]
    pub(crate) fn enter(&mut self, sequence: u32) -> bool {
        if sequence == self.next {
            self.next = sequence + 1;
            return true;
        }
        self.enter_out_of_order(sequence)
    }

    #[cold]
    fn enter_out_of_order(&mut self, sequence: u32) -> bool {
        let trouble = self.trouble.get_or_insert_default();
        if sequence > self.next {
            if trouble.missing.len() < MISSING_RANGES_MAX {
                trouble.missing.push((self.next, sequence));
            }
            self.next = sequence + 1;
            return true;
        }
        match trouble.missing.iter().position(|&(start, end)| (start..end).contains(&sequence)) {
            Some(at) => {
                let (start, end) = trouble.missing.swap_remove(at);
                let halves = [(start, sequence), (sequence + 1, end)];
                trouble.missing.extend(halves.into_iter().filter(|(start, end)| start < end));
                trouble.reordered += 1;
                true
            }
            None => {
                trouble.repeated += 1;
                false
            }
        }
    }

    /// What went wrong, given that events up to (not including) `published` were sent.
    pub(crate) fn faults(&self, published: u32) -> Faults {
        let unseen = u64::from(published.saturating_sub(self.next));
        let Some(trouble) = &self.trouble else { return Faults { lost: unseen, ..Faults::default() } };
        let missing: u64 = trouble.missing.iter().map(|(start, end)| u64::from(end - start)).sum();
        Faults { lost: unseen + missing, repeated: trouble.repeated, reordered: trouble.reordered }
    }
}

impl std::ops::AddAssign for Faults {
    fn add_assign(&mut self, other: Faults) {
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.reordered += other.reordered;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(sequences: &[u32], published: u32) -> (u64, u64, u64) {
        let mut ledger = Ledger::default();
        for &sequence in sequences {
            ledger.enter(sequence);
        }
        let faults = ledger.faults(published);
        (faults.lost, faults.repeated, faults.reordered)
    }

    #[test]
    fn events_in_order_have_no_faults() {
        assert_eq!(faults_of(&[0, 1, 2, 3], 4), (0, 0, 0));
    }

    #[test]
    fn events_that_never_came_are_lost() {
        assert_eq!(faults_of(&[0, 1, 4], 5), (2, 0, 0));
        assert_eq!(faults_of(&[0, 1], 5), (3, 0, 0));
        assert_eq!(faults_of(&[], 5), (5, 0, 0));
        assert_eq!(faults_of(&[3], 4), (3, 0, 0));
    }

    #[test]
    fn an_event_that_came_late_is_reordered_and_not_lost() {
        assert_eq!(faults_of(&[0, 2, 1, 3], 4), (0, 0, 1));
        assert_eq!(faults_of(&[0, 5, 3, 1], 6), (2, 0, 2));
    }

    #[test]
    fn an_event_that_came_twice_is_repeated() {
        assert_eq!(faults_of(&[0, 1, 1, 2], 3), (0, 1, 0));
        assert_eq!(faults_of(&[0, 3, 2, 2], 4), (1, 1, 1));
    }

    #[test]
    fn an_account_may_start_later() {
        let mut ledger = Ledger::starting_at(7);
        assert!(ledger.enter(7));
        assert!(!ledger.enter(6), "what lies before the start was seen already");
        assert_eq!(ledger.faults(8), Faults { lost: 0, repeated: 1, reordered: 0 });
    }
}
