//! Wall-clock time as a number, and its RFC 3339 form. Must not read a clock.

use std::fmt;

/// Milliseconds since 1970-01-01T00:00:00Z. What the wire shows as `time`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The last instant that the four-digit year of RFC 3339 can show.
    pub const MAX: Self = Self(253_402_300_799_999);

    /// `2026-11-23T05:14:04.123Z`: 24 ASCII bytes. Instants after [`Self::MAX`] show as it.
    pub fn to_rfc3339(self) -> [u8; 24] {
        let ms = self.0.min(Self::MAX.0);
        let (days, ms_of_day) = (ms / 86_400_000, ms % 86_400_000);
        let (year, month, day) = civil_from_days(days);
        let mut out = *b"0000-00-00T00:00:00.000Z";
        put(&mut out[0..4], year);
        put(&mut out[5..7], month);
        put(&mut out[8..10], day);
        put(&mut out[11..13], ms_of_day / 3_600_000);
        put(&mut out[14..16], ms_of_day / 60_000 % 60);
        put(&mut out[17..19], ms_of_day / 1000 % 60);
        put(&mut out[20..23], ms_of_day % 1000);
        out
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_rfc3339().iter().try_for_each(|byte| write!(f, "{}", *byte as char))
    }
}

fn put(out: &mut [u8], mut value: u64) {
    for byte in out.iter_mut().rev() {
        *byte = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Year, month and day of the day that is `days` after 1970-01-01, in the Gregorian calendar.
/// Counts in eras of 400 years that begin on 1 March, so that leap days come last.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_known_instants() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (1_795_410_844_123, "2026-11-23T05:14:04.123Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Timestamp(ms).to_string(), text);
        }
    }
}
