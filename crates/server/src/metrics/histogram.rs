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
#[derive(Debug, Default)]
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
}
