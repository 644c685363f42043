//! Probe: the clocks of the server and of what answers for it, against this machine's.
//! Must not know where the times were read.

use std::time::Duration;

use super::faults::Fault;
use super::record::{Record, Way};
use super::visit::Sent;

/// Clocks that differ by less are right: `Date` has whole seconds, and NTP its moments.
const OFF_MS: i64 = 5_000;

/// Compares the times that the answer to a publish has with `now_ms`, this machine's when it came.
pub(super) fn examine(record: &mut Record, sent: &Sent, now_ms: i64) {
    let took = sent.known - sent.asked;
    let sources = [
        ("the server's clock (the event's time)", rfc3339_ms(&sent.time), sent.time.as_str()),
        (
            "the clock of what answers (the Date header)",
            sent.head.field("date").and_then(http_date_ms),
            sent.head.field("date").unwrap_or_default(),
        ),
    ];
    for (whose, time_ms, text) in sources {
        let Some(time_ms) = time_ms else { continue };
        if let Some(off_ms) = off_ms(time_ms, now_ms, took) {
            let way = if off_ms > 0 { "ahead of" } else { "behind" };
            let seconds = off_ms.unsigned_abs() / 1000;
            let observed = format!(
                "{whose} says {text} and is {seconds} s {way} this machine's; one of the two is wrong"
            );
            record.find(Fault::ClockWrong, Way::All, observed);
        }
    }
}

/// How far `time_ms`, which was some time in the last `took`, is off; `None` if that may be nothing.
fn off_ms(time_ms: i64, now_ms: i64, took: Duration) -> Option<i64> {
    let took_ms = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
    let off_ms = time_ms - (now_ms - took_ms / 2);
    (off_ms.saturating_abs() > OFF_MS.saturating_add(took_ms)).then_some(off_ms)
}

/// `2026-11-23T05:14:04.123Z`.
fn rfc3339_ms(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    Some(days(year, month, day)? * 86_400_000 + time_ms(time)?)
}

/// `Mon, 23 Nov 2026 05:14:04 GMT` (RFC 9110 section 5.6.7, the one form that is sent).
fn http_date_ms(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_whitespace().skip(1);
    let day = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = i64::try_from(MONTHS.iter().position(|name| *name == month)?).ok()? + 1;
    let year = words.next()?.parse().ok()?;
    Some(days(year, month, day)? * 86_400_000 + time_ms(words.next()?)?)
}

fn time_ms(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = whole.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    let fraction_ms = format!("0.{fraction}").parse::<f64>().ok()? * 1000.0;
    Some((hour * 3600 + minute * 60 + second) * 1000 + fraction_ms.round() as i64)
}

/// Days from 1970-01-01 in the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years that begin in March have their leap day at the end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    Some(year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms_of_a_time() {
        // By `date -u -d TIME +%s`.
        for (rfc, http, seconds) in [
            ("2026-11-23T05:14:04.000Z", "Mon, 23 Nov 2026 05:14:04 GMT", 1_795_410_844),
            ("2024-02-29T23:59:59.000Z", "Thu, 29 Feb 2024 23:59:59 GMT", 1_709_251_199),
            ("1970-01-01T00:00:00.000Z", "Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("2000-03-01T00:00:00.000Z", "Wed, 01 Mar 2000 00:00:00 GMT", 951_868_800),
        ] {
            assert_eq!(rfc3339_ms(rfc), Some(seconds * 1000), "{rfc}");
            assert_eq!(http_date_ms(http), Some(seconds * 1000), "{http}");
        }
        assert_eq!(rfc3339_ms("1970-01-01T00:00:01.250Z"), Some(1250));
        for text in ["", "now", "2026-13-01T00:00:00Z", "2026-11-23", "Mon, 23 Now 2026 05:14:04 GMT"] {
            assert_eq!((rfc3339_ms(text), http_date_ms(text)), (None, None), "{text}");
        }
    }

    #[test]
    fn a_slow_answer_makes_no_clock_wrong() {
        let second = Duration::from_secs(1);
        assert_eq!(off_ms(0, 4_000, Duration::ZERO), None);
        assert_eq!(off_ms(0, 6_000, Duration::ZERO), Some(-6_000));
        assert_eq!(off_ms(6_000, 0, Duration::ZERO), Some(6_000));
        assert_eq!(off_ms(0, 10_000, 10 * second), None);
        assert_eq!(off_ms(0, 3_600_000, second), Some(-3_599_500));
    }
}
