//! Patterns: JSON that an answer must contain, where some strings stand for more than themselves.
//!
//! A pattern object matches an object with at least its members; arrays match item by item; other values match
//! themselves. The strings `<any>`, `<absent>`, `<time>`, `<id>`, `<cursor>`, `<number>` and `<save:NAME>` (any
//! string, kept as `{NAME}`) stand for what they say; `A|B` inside `<...>` is not known.

use std::collections::HashMap;

use serde_json::Value;

use crate::Result;

/// Checks `got` against `pattern`; what `<save:NAME>` stands for goes to `saved`.
///
/// # Errors
/// The path of the first member that does not match, expected and got.
pub fn check(pattern: &Value, got: Option<&Value>, saved: &mut HashMap<String, String>) -> Result<()> {
    at("$", pattern, got, saved)
}

fn at(path: &str, pattern: &Value, got: Option<&Value>, saved: &mut HashMap<String, String>) -> Result<()> {
    let wrong = || {
        let got = got.map_or("nothing".to_owned(), |got| crate::event::shorten(&got.to_string()));
        Err(format!("{path}: expected {pattern}, got {got}"))
    };
    let (got, pattern) = match (got, pattern) {
        (None, Value::String(word)) if word == "<absent>" => return Ok(()),
        (None, _) => return wrong(),
        (Some(got), pattern) => (got, pattern),
    };
    match (pattern, got) {
        (Value::Object(members), Value::Object(_)) => members
            .iter()
            .try_for_each(|(name, member)| at(&format!("{path}.{name}"), member, got.get(name), saved)),
        (Value::Array(patterns), Value::Array(items)) if patterns.len() == items.len() => {
            let mut pairs = patterns.iter().zip(items).enumerate();
            pairs.try_for_each(|(i, (pattern, item))| at(&format!("{path}[{i}]"), pattern, Some(item), saved))
        }
        (Value::String(word), _) if word.starts_with('<') => match special(word, got, saved) {
            true => Ok(()),
            false => wrong(),
        },
        _ if pattern == got => Ok(()),
        _ => wrong(),
    }
}

fn special(word: &str, got: &Value, saved: &mut HashMap<String, String>) -> bool {
    let text = got.as_str();
    match word {
        "<any>" => true,
        "<number>" => got.is_number(),
        "<time>" => text.is_some_and(|text| check_time(text).is_ok()),
        "<id>" => text.is_some_and(is_id),
        "<cursor>" => text.is_some_and(|text| text.split('.').all(is_id)),
        _ => match word.strip_prefix("<save:").and_then(|rest| rest.strip_suffix('>')) {
            Some(name) => {
                let text = text.map_or_else(|| got.to_string(), str::to_owned);
                saved.insert(name.to_owned(), text);
                true
            }
            None => text == Some(word),
        },
    }
}

fn is_id(text: &str) -> bool {
    (1..=31).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Checks for RFC 3339, UTC, milliseconds.
///
/// # Errors
/// When it is something else.
pub fn check_time(text: &str) -> Result<()> {
    let shape = b"0000-00-00T00:00:00.000Z";
    let same = |(got, shape): (u8, u8)| if shape == b'0' { got.is_ascii_digit() } else { got == shape };
    if text.len() == shape.len() && text.bytes().zip(*shape).all(same) {
        Ok(())
    } else {
        Err(format!("{text:?} is no time like 2026-11-23T05:14:04.123Z"))
    }
}

/// RFC 3339 of milliseconds since 1970.
pub fn time_from_ms(ms: u64) -> String {
    let (days, left) = (ms / 86_400_000, ms % 86_400_000);
    // Days since 0000-03-01, in eras of 400 years, by Howard Hinnant's method.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + carry;
    let (hour, minute) = (left / 3_600_000, left / 60_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}.{:03}Z", left / 1000 % 60, left % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn members_may_be_more_but_not_other() {
        let got = json!({"a": 1, "b": [{"id": "x-1", "c": null}], "t": "2026-11-23T05:14:04.123Z"});
        let mut saved = HashMap::new();
        let matching = json!({"a": 1, "b": [{"id": "<save:e>", "d": "<absent>", "c": null}], "t": "<time>"});
        check(&matching, Some(&got), &mut saved).expect("matches");
        assert_eq!(saved["e"], "x-1");
        for pattern in [
            json!({"a": 2}),
            json!({"a": "<absent>"}),
            json!({"b": []}),
            json!({"b": [{"id": "<time>"}]}),
            json!({"z": "<any>"}),
            json!({"a": "<id>"}),
        ] {
            assert!(check(&pattern, Some(&got), &mut saved).is_err(), "{pattern}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(time_from_ms(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time_from_ms(1_709_210_096_789), "2024-02-29T12:34:56.789Z");
    }
}
