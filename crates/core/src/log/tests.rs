//! The log against a model that keeps every event ever appended, and its rules one by one.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::error::Code;
use crate::event::Payload;

fn log() -> ChannelLog {
    ChannelLog::new(ChannelName::new("a").expect("a name"), Epoch::derive(1, "a"), 0)
}

fn event(data: &str, key: Option<&str>) -> NewEvent {
    let payload = Payload::sniffed(Bytes::copy_from_slice(data.as_bytes()));
    NewEvent::new(payload).with(None, None, key).expect("a valid event")
}

fn texts(log: &ChannelLog, after: u64) -> Result<Vec<String>, Evicted> {
    let mut events = Vec::new();
    log.read(after, usize::MAX, usize::MAX, &mut events)?;
    Ok(events.iter().map(|event| String::from_utf8_lossy(event.payload.data()).into_owned()).collect())
}

#[derive(Debug, Clone)]
enum Step {
    Append { key: Option<u8>, length: usize },
    Pass { ms: u64 },
    Read { after: u64 },
    Shrink { bytes: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (prop::option::weighted(0.3, 0..6_u8), 0..40_usize).prop_map(|(key, length)| Step::Append { key, length }),
        1 => (0..400_u64).prop_map(|ms| Step::Pass { ms }),
        4 => (0..60_u64).prop_map(|after| Step::Read { after }),
        1 => (0..200_usize).prop_map(|bytes| Step::Shrink { bytes }),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    /// Whatever happens: a read gives exactly what was appended after the position, or says that it cannot.
    #[test]
    fn reads_are_exact_or_refused(steps in steps()) {
        let retention = Retention { events: 12, bytes: 200, age_ms: 900, idempotency_ms: 500, idempotency_keys: 4 };
        let (mut log, mut now) = (log(), Timestamp(1000));
        let mut model: Vec<String> = Vec::new(); // the event at index i has the offset i + 1
        for step in steps {
            match step {
                Step::Append { key, length } => {
                    let key = key.map(|key| format!("k{key}"));
                    let data = format!("{}{}", key.as_deref().unwrap_or("x"), "y".repeat(length));
                    match log.append(event(&data, key.as_deref()), now, &retention, None) {
                        Ok(Appended { duplicate: false, id, .. }) => {
                            model.push(data);
                            prop_assert_eq!(id.offset, model.len() as u64);
                        }
                        Ok(first) => prop_assert_eq!(&model[first.id.offset as usize - 1], &data),
                        Err(problem) => prop_assert_eq!(problem.code, Code::IdempotencyConflict),
                    }
                }
                Step::Pass { ms } => {
                    now.0 += ms;
                    log.expire(now, &retention);
                }
                Step::Shrink { bytes } => log.shrink_to(bytes),
                Step::Read { after } => {
                    let position = log.locate(Start::After(after));
                    match texts(&log, after) {
                        Ok(found) if !position.gap => prop_assert_eq!(&found, &model[after as usize..]),
                        Ok(found) => prop_assert!(after > log.head() && found.is_empty()),
                        Err(Evicted) => prop_assert!(position.gap),
                    }
                    let rest = texts(&log, position.after).expect("a located position can be read");
                    prop_assert!(model.ends_with(&rest));
                }
            }
            prop_assert_eq!(log.head(), model.len() as u64);
            prop_assert!(log.len() <= 12 && log.bytes() <= 200);
            let held: usize = texts(&log, log.locate(Start::Earliest).after).expect("retained").iter().map(String::len).sum();
            prop_assert_eq!(log.bytes(), held);
        }
    }
}

#[test]
fn a_retry_is_answered_with_the_first_event() {
    let (mut log, retention) = (log(), Retention::default());
    let first = log.append(event("x", Some("k")), Timestamp(5), &retention, None).expect("appended");
    let retry = log.append(event("x", Some("k")), Timestamp(9), &retention, None).expect("a duplicate");
    assert_eq!(retry, Appended { duplicate: true, ..first });
    let other = log.append(event("y", Some("k")), Timestamp(9), &retention, None).expect_err("another body");
    assert_eq!(other.code, Code::IdempotencyConflict);
    assert_eq!(log.head(), 1);
}

#[test]
fn a_key_outlives_its_event_but_not_its_window() {
    let retention = Retention { events: 1, idempotency_ms: 100, ..Retention::default() };
    let mut log = log();
    log.append(event("x", Some("k")), Timestamp(0), &retention, None).expect("appended");
    log.append(event("z", None), Timestamp(1), &retention, None).expect("appended");
    assert!(
        log.append(event("x", Some("k")), Timestamp(99), &retention, None).expect("remembered").duplicate
    );
    assert!(
        !log.append(event("x", Some("k")), Timestamp(100), &retention, None).expect("forgotten").duplicate
    );
}

#[test]
fn a_key_is_forgotten_after_so_many_more_events() {
    let retention = Retention { idempotency_keys: 3, ..Retention::default() };
    let mut log = log();
    let mut is_known =
        |text, key| log.append(event(text, key), Timestamp(0), &retention, None).expect("taken").duplicate;
    assert_eq!([is_known("x", Some("k")), is_known("1", None), is_known("2", None)], [false; 3]);
    assert!(is_known("x", Some("k")), "two more events came");
    assert_eq!([is_known("3", None), is_known("x", Some("k"))], [false; 2]);
}

#[test]
fn only_what_cannot_be_served_is_a_gap() {
    let retention = Retention { events: 2, ..Retention::default() };
    let mut log = ChannelLog::new(ChannelName::new("a").expect("a name"), Epoch::derive(1, "a"), 10);
    let located = |log: &ChannelLog, start| (log.locate(start).after, log.locate(start).gap);
    assert_eq!(located(&log, Start::After(10)), (10, false));
    assert_eq!(located(&log, Start::After(9)), (10, true));
    assert_eq!(log.resumed_from().offset, 10);
    for text in ["1", "2", "3"] {
        log.append(event(text, None), Timestamp(0), &retention, None).expect("appended");
    }
    assert_eq!(located(&log, Start::After(11)), (11, false), "12 comes next and is retained");
    assert_eq!(located(&log, Start::After(10)), (11, true), "11 is gone");
    assert_eq!(located(&log, Start::After(13)), (13, false));
    assert_eq!(located(&log, Start::After(14)), (11, true), "beyond the end");
    assert_eq!(located(&log, Start::Unknown), (11, true));
    assert_eq!(located(&log, Start::Earliest), (11, false));
    assert_eq!(located(&log, Start::Latest), (13, false));
    assert_eq!(log.resumed_from().offset, 12);
}

#[test]
fn a_page_ends_by_count_or_bytes_but_has_one_event() {
    let (mut log, retention) = (log(), Retention::default());
    for _ in 0..5 {
        log.append(event("0123456789", None), Timestamp(0), &retention, None).expect("appended");
    }
    for (events_max, bytes_max, expected) in [(3, 1000, 3), (10, 20, 2), (10, 21, 3), (10, 1, 1), (0, 1, 0)] {
        let mut out = Vec::new();
        log.read(0, events_max, bytes_max, &mut out).expect("retained");
        assert_eq!(out.len(), expected);
    }
}

#[test]
fn time_does_not_step_back() {
    let (mut log, retention) = (log(), Retention::default());
    log.append(event("a", None), Timestamp(100), &retention, None).expect("appended");
    let second = log.append(event("b", None), Timestamp(50), &retention, None).expect("appended");
    assert_eq!(second.time, Timestamp(100));
}

#[test]
fn offsets_with_numbers_between_them_are_found_and_counted() {
    let (mut log, retention) = (log(), Retention { events: 10, bytes: 1 << 20, ..Retention::default() });
    for offset in [10, 25, 90] {
        let id = log.id(offset);
        let event = Event::new(id, Timestamp(1), log.channel().clone(), event("x", None));
        log.adopt(Arc::new(event), Timestamp(1), &retention);
    }
    let next = |after| log.next_after(after).map(|event| event.id.offset);
    assert_eq!([0, 10, 11, 25, 89, 90].map(next), [Some(10), Some(25), Some(25), Some(90), Some(90), None]);
    assert_eq!([0, 10, 11, 90, 91].map(|after| log.count_after(after)), [3, 2, 2, 0, 0]);
    assert_eq!([9, 10, 26, 90, 91].map(|offset| log.has(offset)), [false, true, false, true, false]);
}
