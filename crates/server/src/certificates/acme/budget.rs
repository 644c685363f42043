//! How often an authority may be asked, whatever goes wrong and however often the server is started: bounds, pauses
//! after failures, and when a certificate is due. Must not ask, nor read a clock.

use crate::certificates::Life;

/// The most orders within [`ORDERS_WITHIN_MS`], good ones and failed ones together. Beyond: the next one waits.
pub(super) const ORDERS_MAX: usize = 10;
/// The most looks at when to renew within [`ORDERS_WITHIN_MS`]. Beyond: the next one waits.
pub(super) const LOOKS_MAX: usize = 4;
const ORDERS_WITHIN_MS: u64 = 3_600_000;
/// The longest pause after a first failure; after each further one, the longest is twice as long.
const PAUSE_MS: u64 = 10_000;
/// The longest pause after any failure, unless the authority asks for more.
const PAUSE_MS_MAX: u64 = 3_600_000;
/// The longest pause that an authority is granted.
const ASKED_PAUSE_MS_MAX: u64 = 86_400_000;
/// A certificate is renewed when this part of its life is over, unless the authority says another moment.
const RENEWED_AFTER: (u64, u64) = (2, 3);
/// Or earlier, by up to this part of its life: servers that were started together do not come together.
const EARLIER_BY: u64 = 30;
/// A new certificate rests for this part of its life, a day at the most, before the server thinks of another: a clock
/// that is wrong by months must not have one ordered after the other.
const REST: u64 = 3;
const REST_MS_MAX: u64 = 86_400_000;
/// Whatever an authority says, when this part of its life is over.
const RENEWED_AT_LAST_AFTER: (u64, u64) = (9, 10);

/// Whether one more may be asked for at `now_ms`; if so, it is noted, else it says when.
pub(super) fn take_turn(taken_ms: &mut Vec<u64>, most: usize, now_ms: u64) -> Result<(), u64> {
    // One that is yet to come was noted by a clock that was wrong.
    taken_ms.retain(|then_ms| *then_ms <= now_ms && now_ms - then_ms < ORDERS_WITHIN_MS);
    if taken_ms.len() >= most {
        let first_ms = taken_ms.iter().copied().min().unwrap_or(now_ms);
        return Err(first_ms.saturating_add(ORDERS_WITHIN_MS));
    }
    taken_ms.push(now_ms);
    Ok(())
}

/// For how long to leave the authority alone after so many failures in a row; `asked_seconds` is what it asked for.
pub(super) fn pause_ms(failures: u32, asked_seconds: u64) -> u64 {
    let longest_ms = PAUSE_MS.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(PAUSE_MS_MAX);
    let asked_ms = asked_seconds.saturating_mul(1000).min(ASKED_PAUSE_MS_MAX);
    fastrand::u64(0..=longest_ms).max(asked_ms)
}

/// When a certificate is renewed of which the authority says nothing.
pub(super) fn renew_at_ms(life: &Life) -> u64 {
    let early_ms = fastrand::u64(0..=length_ms(life) / EARLIER_BY);
    after(life, RENEWED_AFTER).saturating_sub(early_ms)
}

/// For how long a certificate that was just got is not due.
pub(super) fn rest_ms(life: &Life) -> u64 {
    (length_ms(life) / REST).min(REST_MS_MAX)
}

/// When a certificate is renewed for which the authority suggests this time.
pub(super) fn renew_within_ms(life: &Life, from_ms: u64, to_ms: u64) -> u64 {
    fastrand::u64(from_ms..=to_ms.max(from_ms)).min(after(life, RENEWED_AT_LAST_AFTER))
}

fn after(life: &Life, (part, whole): (u64, u64)) -> u64 {
    life.begins_at_ms.saturating_add(length_ms(life) / whole * part)
}

fn length_ms(life: &Life) -> u64 {
    life.ends_at_ms.saturating_sub(life.begins_at_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(begins_at_ms: u64, ends_at_ms: u64) -> Life {
        Life { begins_at_ms, ends_at_ms, domains: Vec::new() }
    }

    #[test]
    fn no_more_than_so_many_within_any_hour() {
        let (mut taken, mut now_ms, mut given) = (Vec::new(), 5_000_000, Vec::new());
        for _ in 0..100_000 {
            match take_turn(&mut taken, ORDERS_MAX, now_ms) {
                Ok(()) => given.push(now_ms),
                Err(then_ms) => assert!(then_ms > now_ms),
            }
            now_ms += fastrand::u64(0..10_000);
        }
        assert!(given.len() > 2 * ORDERS_MAX);
        for (index, then_ms) in given.iter().enumerate().skip(ORDERS_MAX) {
            assert!(then_ms - given[index - ORDERS_MAX] >= ORDERS_WITHIN_MS);
        }
    }

    #[test]
    fn what_a_wrong_clock_noted_does_not_hold_up() {
        let mut taken = vec![u64::MAX; ORDERS_MAX];
        assert_eq!(take_turn(&mut taken, ORDERS_MAX, 1), Ok(()));
    }

    #[test]
    fn pauses_are_random_bounded_and_at_least_what_was_asked_for() {
        for failures in 1..100 {
            let longest_ms = (PAUSE_MS << (failures - 1).min(16)).min(PAUSE_MS_MAX);
            assert!((0..100).all(|_| pause_ms(failures, 0) <= longest_ms));
            assert!((0..100).any(|_| pause_ms(failures, 0) > longest_ms / 2));
            assert!(pause_ms(failures, 100) >= 100_000);
            assert_eq!(pause_ms(failures, u64::MAX), ASKED_PAUSE_MS_MAX);
        }
    }

    #[test]
    fn certificates_are_renewed_before_they_end() {
        let life = life(1_000_000, 91_000_000);
        for _ in 0..1000 {
            let at_ms = renew_at_ms(&life);
            assert!((58_000_000..=61_000_000).contains(&at_ms), "{at_ms}");
            let at_ms = renew_within_ms(&life, 10, 20);
            assert!((10..=20).contains(&at_ms), "{at_ms}");
            assert_eq!(renew_within_ms(&life, 90_000_000, 99_000_000), 82_000_000);
            assert_eq!(renew_within_ms(&life, 30, 20), 30);
        }
        assert_eq!((rest_ms(&life), rest_ms(&self::life(0, u64::MAX))), (30_000_000, REST_MS_MAX));
    }
}
