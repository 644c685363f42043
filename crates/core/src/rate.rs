//! Rate limits by the generic cell rate algorithm: a bucket is one number. Must not know what is counted, nor a clock.

/// So much within so much time, and all of it at once if need be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How much; never 0.
    amount: u32,
    /// Within how many milliseconds; never 0.
    within_ms: u32,
}

/// A limit that somebody ran into: what it is called, what it allows, and when there is room again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    /// The limit's name in the configuration.
    pub limit: &'static str,
    /// How much it allows.
    pub quota: u32,
    /// Within how many seconds; `None` if it bounds how many there are at a time.
    pub window_seconds: Option<u32>,
    /// When to try again.
    pub retry_after_ms: u64,
}

/// How much of a rate somebody has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    /// When it will be as good as new, in monotonic nanoseconds.
    full_at_ns: u64,
}

const NS_PER_MS: u64 = 1_000_000;

impl Rate {
    /// `None` for an amount of 0, which stands for no limit.
    pub fn new(amount: u32, within_ms: u32) -> Option<Self> {
        (amount > 0 && within_ms > 0).then_some(Self { amount, within_ms })
    }

    fn window_ns(self) -> u64 {
        u64::from(self.within_ms) * NS_PER_MS
    }

    /// How long it takes until there is room for so much more.
    fn cost_ns(self, amount: u32) -> u64 {
        let cost = u128::from(amount) * u128::from(self.window_ns()) / u128::from(self.amount);
        u64::try_from(cost).unwrap_or(u64::MAX)
    }

    /// The limit as those are told who ran into it.
    pub fn limited(self, limit: &'static str, retry_after_ms: u64) -> Limited {
        Limited {
            limit,
            quota: self.amount,
            window_seconds: Some(self.within_ms.div_ceil(1000)),
            retry_after_ms,
        }
    }
}

impl Bucket {
    /// Takes so much. What is more than the rate has in all goes through when nothing was taken for long
    /// enough, and is paid for in full afterwards.
    ///
    /// # Errors
    /// After how many milliseconds it would go through.
    pub fn take(&mut self, now_ms: u64, amount: u32, rate: Rate) -> Result<(), u64> {
        let now_ns = now_ms.saturating_mul(NS_PER_MS);
        let (window_ns, cost_ns) = (rate.window_ns(), rate.cost_ns(amount));
        let from_ns = self.full_at_ns.max(now_ns);
        let used_ns = from_ns - now_ns;
        let over_ns = used_ns.saturating_add(cost_ns.min(window_ns)).saturating_sub(window_ns);
        if over_ns > 0 {
            return Err(over_ns.div_ceil(NS_PER_MS));
        }
        self.full_at_ns = from_ns.saturating_add(cost_ns);
        Ok(())
    }

    /// Whether nothing is used of it, so that it need not be remembered.
    pub fn is_full(self, now_ms: u64) -> bool {
        self.full_at_ns <= now_ms.saturating_mul(NS_PER_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(amount: u32, within_ms: u32) -> Rate {
        Rate::new(amount, within_ms).expect("a limit")
    }

    #[test]
    fn all_at_once_then_one_by_one() {
        let (mut bucket, rate) = (Bucket::default(), rate(10, 1000));
        assert!((0..10).all(|_| bucket.take(5, 1, rate).is_ok()));
        assert_eq!(bucket.take(5, 1, rate), Err(100));
        assert_eq!(bucket.take(55, 1, rate), Err(50));
        assert_eq!(bucket.take(105, 1, rate), Ok(()));
        assert_eq!(bucket.take(105, 1, rate), Err(100));
        assert!(!bucket.is_full(1000) && bucket.is_full(1105));
    }

    #[test]
    fn more_than_all_waits_for_all_and_is_paid_for() {
        let (mut bucket, rate) = (Bucket::default(), rate(10, 1000));
        assert_eq!(bucket.take(0, 25, rate), Ok(()));
        assert_eq!(bucket.take(1500, 1, rate), Err(100));
        assert_eq!(bucket.take(1600, 1, rate), Ok(()));
        assert_eq!(bucket.take(1600, 25, rate), Err(1000));
    }

    #[test]
    fn no_number_is_too_large() {
        let mut bucket = Bucket::default();
        for amount in [0, 1, u32::MAX] {
            for rate in [rate(1, 1), rate(u32::MAX, 1), rate(1, u32::MAX), rate(u32::MAX, u32::MAX)] {
                let _ = bucket.take(u64::MAX, amount, rate);
                let _ = bucket.take(0, amount, rate);
            }
        }
        assert_eq!(Rate::new(0, 1000), None);
    }

    proptest! {
        #[test]
        fn never_more_than_a_windows_worth_and_the_rate(
            amount in 1u32..50, within_ms in 1u32..5000,
            steps in prop::collection::vec((0u64..200, 1u32..5), 1..300),
        ) {
            let rate = rate(amount, within_ms);
            let (mut bucket, mut now_ms, mut admitted) = (Bucket::default(), 0, Vec::new());
            for (step_ms, asked) in steps {
                now_ms += step_ms;
                match bucket.take(now_ms, asked, rate) {
                    Ok(()) => admitted.push((now_ms, asked)),
                    Err(after_ms) => {
                        // What it is told is true.
                        prop_assert!(after_ms > 0);
                        let mut later = bucket;
                        prop_assert!(later.take(now_ms + after_ms, asked, rate).is_ok());
                    }
                }
            }
            for (place, (from_ms, _)) in admitted.iter().enumerate() {
                let mut sum = 0u64;
                for (at_ms, asked) in &admitted[place..] {
                    sum += u64::from(*asked);
                    let by_rate = (at_ms - from_ms) * u64::from(amount) / u64::from(within_ms);
                    // The last one may be larger than all there is.
                    let room = u64::from(amount).max(u64::from(*asked)) + 1;
                    prop_assert!(sum <= room + by_rate + u64::from(*asked), "{sum} {room} {by_rate}");
                }
            }
        }

        #[test]
        fn whoever_keeps_to_the_rate_is_never_refused(amount in 1u32..100, within_ms in 1u32..5000) {
            let (rate, mut bucket) = (rate(amount, within_ms), Bucket::default());
            let step_ms = u64::from(within_ms.div_ceil(amount));
            for turn in 0..500 {
                prop_assert_eq!(bucket.take(turn * step_ms, 1, rate), Ok(()));
            }
        }
    }
}
