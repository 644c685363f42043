//! Durations in buckets. Must not know what is measured, nor read a clock.

use super::Counter;

/// Where the buckets end, in microseconds: from what a wake-up takes to what nobody waits for.
const ENDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// A histogram that one thread writes. A scrape may find an observation half counted; the next one has it whole.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// The last one has what is beyond all ends.
    buckets: [Counter; ENDS_US.len() + 1],
    sum_us: Counter,
}

/// The sum of several histograms, as it is exposed.
#[derive(Debug, Clone, Default)]
pub(super) struct Total {
    buckets: [u64; ENDS_US.len() + 1],
    sum_us: u64,
}

impl Histogram {
    pub(crate) fn observe_us(&self, duration_us: u64) {
        let bucket = ENDS_US.partition_point(|end| *end < duration_us);
        self.buckets[bucket].add(1);
        self.sum_us.add(duration_us);
    }
}

impl Total {
    pub(super) fn add(&mut self, histogram: &Histogram) {
        for (total, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *total += bucket.get();
        }
        self.sum_us += histogram.sum_us.get();
    }

    /// Each end in seconds, as text, with how many observations are up to it; the last end is `+Inf`.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (String, u64)> {
        let ends = ENDS_US.iter().map(|end| seconds(*end)).chain(["+Inf".to_owned()]);
        ends.zip(self.buckets.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        }))
    }

    /// What was observed since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        since
            .buckets
            .iter_mut()
            .zip(&before.buckets)
            .for_each(|(now, then)| *now = now.saturating_sub(*then));
        since.sum_us = since.sum_us.saturating_sub(before.sum_us);
        since
    }

    /// Below what so many of a hundred observations were, in milliseconds, as evenly as a bucket lets one guess.
    pub(super) fn quantile_ms(&self, percent: u64) -> Option<f64> {
        let count = self.count();
        let mut below = 0;
        for (place, in_bucket) in self.buckets.iter().enumerate() {
            if *in_bucket > 0 && (below + in_bucket) * 100 >= count * percent {
                let start = if place == 0 { 0 } else { ENDS_US[place - 1] };
                let end = ENDS_US.get(place).copied().unwrap_or(start);
                let part = (count * percent) as f64 / 100.0 - below as f64;
                let within = (part / *in_bucket as f64).clamp(0.0, 1.0);
                return Some((start as f64 + (end - start) as f64 * within) / 1000.0);
            }
            below += in_bucket;
        }
        None
    }

    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    pub(super) fn sum_seconds(&self) -> String {
        seconds(self.sum_us)
    }
}

/// Microseconds as seconds, exactly.
pub(super) fn seconds(duration_us: u64) -> String {
    let text = format!("{}.{:06}", duration_us / 1_000_000, duration_us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_observed_is_in_the_first_bucket_that_ends_at_or_after_it() {
        let histogram = Histogram::default();
        for duration_us in [0, 100, 101, 10_000_000, 10_000_001, 90_000_000] {
            histogram.observe_us(duration_us);
        }
        let mut total = Total::default();
        total.add(&histogram);
        total.add(&histogram);
        let buckets: Vec<_> = total.cumulative().collect();
        assert_eq!(buckets[0], ("0.0001".to_owned(), 4));
        assert_eq!(buckets[1], ("0.00025".to_owned(), 6));
        assert_eq!(buckets[15], ("10".to_owned(), 8));
        assert_eq!(buckets[16], ("+Inf".to_owned(), 12));
        assert_eq!((total.count(), total.sum_seconds()), (12, "220.000404".to_owned()));
    }

    #[test]
    fn quantiles_lie_within_their_bucket_and_count_only_what_is_new() {
        let histogram = Histogram::default();
        let sum = |histogram: &Histogram| {
            let mut total = Total::default();
            total.add(histogram);
            total
        };
        histogram.observe_us(9_000_000);
        let before = sum(&histogram);
        assert_eq!(sum(&histogram).since(&before).quantile_ms(50), None);
        (0..99).for_each(|_| histogram.observe_us(400));
        histogram.observe_us(40_000);
        let since = sum(&histogram).since(&before);
        assert!(since.quantile_ms(50).is_some_and(|ms| (0.25..=0.5).contains(&ms)));
        assert_eq!(since.quantile_ms(99), Some(0.5));
        assert!(since.quantile_ms(100).is_some_and(|ms| (25.0..=50.0).contains(&ms)));
    }
}
