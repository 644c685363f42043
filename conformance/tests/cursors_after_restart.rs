//! What a cursor from before a restart means afterwards: a place in the log for channels on disk, a gap for those
//! in memory, also where one cursor holds both. Over each transport that has cursors.

use std::time::{Duration, Instant};

use tidewire_conformance::client::{self, Ask, Connected, Item};
use tidewire_conformance::durable::body::Body;
use tidewire_conformance::durable::history::read_all;
use tidewire_conformance::durable::ledger::parts;
use tidewire_conformance::durable::publish::{PATIENCE, post};
use tidewire_conformance::http;
use tidewire_conformance::launch::Launch;
use tidewire_conformance::scratch::Scratch;

type Outcome = Result<(), String>;

const CONFIG: &str = "[[channels]]\npattern = \"fast:*\"\ndurability = \"memory\"\n";
const OVER: [&str; 5] = ["ws", "sse", "long-poll", "sse-last-event-id", "poll"];

fn publish(server: &str, channel: &str, numbers: std::ops::Range<usize>) -> Result<Vec<String>, String> {
    let agent = http::agent(PATIENCE);
    let one = |number| post(&agent, server, channel, &Body::json(0, number, ""), None)?.fresh();
    numbers.map(one).collect()
}

fn next(server: &str, over: &str, channel: &str, since: &str) -> Result<Item, String> {
    let since = Some(since.to_owned());
    let ask = Ask { channels: vec![channel.to_owned()], since, ..Ask::default() };
    match (client::transport(over)?.connect)(server, &ask)? {
        Connected::Client(mut client) => client.next(Instant::now() + Duration::from_secs(10)),
        Connected::Refused(refusal) => Err(format!("over {over}: {refusal:?}")),
    }
}

fn expect_event(server: &str, over: &str, channel: &str, since: &str, id: &str) -> Outcome {
    match next(server, over, channel, since)? {
        Item::Event(seen) if seen.id.as_deref() == Some(id) => Ok(()),
        other => Err(format!("{channel} over {over} after {since}: expected event {id}, got {other:?}")),
    }
}

fn expect_gap(server: &str, over: &str, channel: &str, since: &str) -> Outcome {
    match next(server, over, channel, since)? {
        Item::Gap(gap) if gap.requested == since => Ok(()),
        other => Err(format!("{channel} over {over} after {since}: expected a gap, got {other:?}")),
    }
}

#[test]
fn the_log_on_disk_goes_on_and_the_one_in_memory_begins_anew() -> Outcome {
    let scratch = Scratch::new("cursors")?;
    let launch = Launch::on(&scratch.join("data")).config(CONFIG);
    let mut server = launch.serve()?;
    let kept = publish(&server.url, "kept", 0..5)?;
    let lost = publish(&server.url, "fast:lost", 0..5)?;
    for stop in [false, true] {
        if stop {
            server.stop()?;
        } else {
            server.kill();
        }
        server = launch.serve()?;
        let next_kept = publish(&server.url, "kept", 5..6)?;
        let next_lost = publish(&server.url, "fast:lost", 5..6)?;
        if parts(&kept[0])?.0 != parts(&next_kept[0])?.0 || parts(&next_kept[0])?.1 <= parts(&kept[4])?.1 {
            return Err(format!("on disk {kept:?} goes on with {next_kept:?}"));
        }
        if parts(&lost[0])?.0 == parts(&next_lost[0])?.0 {
            return Err(format!("in memory {lost:?} goes on with {next_lost:?}, as if it had not been lost"));
        }
        for over in OVER {
            for pair in kept.windows(2) {
                expect_event(&server.url, over, "kept", &pair[0], &pair[1])?;
            }
            expect_gap(&server.url, over, "fast:lost", &lost[2])?;
        }
    }
    Ok(())
}

#[test]
fn a_position_at_the_end_is_no_gap_after_a_kill() -> Outcome {
    let scratch = Scratch::new("end")?;
    let launch = Launch::on(&scratch.join("data"));
    let mut server = launch.serve()?;
    let ids = publish(&server.url, "kept", 0..3)?;
    server.kill();
    let server = launch.serve()?;
    let waiting: Vec<_> = OVER
        .into_iter()
        .map(|over| {
            let (url, last) = (server.url.clone(), ids[2].clone());
            std::thread::spawn(move || next(&url, over, "kept", &last))
        })
        .collect();
    let id = publish(&server.url, "kept", 3..4)?.remove(0);
    for (over, thread) in OVER.into_iter().zip(waiting) {
        match thread.join().map_err(|_| "a reader panicked")?? {
            Item::Event(seen) if seen.id.as_ref() == Some(&id) => {}
            other => return Err(format!("over {over} after the last event: expected {id}, got {other:?}")),
        }
    }
    Ok(())
}

#[test]
fn a_cursor_of_two_channels_is_right_for_the_one_on_disk() -> Outcome {
    let scratch = Scratch::new("two")?;
    let launch = Launch::on(&scratch.join("data")).config(CONFIG);
    let mut server = launch.serve()?;
    let kept = publish(&server.url, "kept", 0..3)?;
    let lost = publish(&server.url, "fast:lost", 0..3)?;
    server.kill();
    let server = launch.serve()?;
    let agent = http::agent(PATIENCE);
    let url =
        format!("{}/v1/events?channel=kept&channel=fast:lost&since={}.{}", server.url, kept[0], lost[0]);
    let page = http::exchange(&agent, "GET", &url, &[], None)?.json()?;
    let ids: Vec<_> = page["events"].as_array().into_iter().flatten().map(|event| &event["id"]).collect();
    if ids != [kept[1].as_str(), kept[2].as_str()]
        || page["gap"]["channels"] != serde_json::json!(["fast:lost"])
    {
        return Err(format!("expected {:?} and a gap on fast:lost, got {page}", &kept[1..]));
    }
    Ok(())
}

/// What history no longer keeps stays gone, and a cursor into it is a gap; what it keeps stays.
#[test]
fn what_was_dropped_before_a_kill_is_a_gap_after_it() -> Outcome {
    let scratch = Scratch::new("dropped")?;
    let launch = Launch::on(&scratch.join("data")).config("[history]\nevents = 10\n");
    let mut server = launch.serve()?;
    let ids = publish(&server.url, "kept", 0..30)?;
    let before = read_all(&server.url, "kept")?;
    server.kill();
    let server = launch.serve()?;
    let after = read_all(&server.url, "kept")?;
    if before.len() != 10 || before != after {
        return Err(format!("10 events are kept; before the kill {before:?}, after it {after:?}"));
    }
    for over in OVER {
        expect_gap(&server.url, over, "kept", &ids[5])?;
        expect_event(&server.url, over, "kept", &ids[25], &ids[26])?;
    }
    Ok(())
}
