//! Probe: polls and long polls. Do events come, at once, and out of no cache?
//! Must not know streams.

use std::thread;
use std::time::{Duration, Instant};

use super::faults::Fault;
use super::line::{Answer, Line, Request};
use super::record::Way;
use super::visit::{LATE, PATIENCE, Sent, Unsent, Visit, page, seconds};

/// How long the long poll is held that shall find nothing.
const SHORT_WAIT: Duration = Duration::from_millis(300);
/// What browsers send.
pub(super) const BROWSER_ENCODINGS: &str = "Accept-Encoding: gzip, deflate, br, zstd\r\n";
/// What caches say of an answer.
const CACHE_FIELDS: [&str; 4] = ["age", "x-cache", "x-cache-status", "x-proxy-cache"];

/// Short polls: what is published is there the next time.
pub(super) fn examine_poll(visit: &mut Visit) {
    let Some(start) = visit.start.clone() else { return };
    examine_compression(visit, &start);
    let limit = visit.fresh_limit();
    let path = visit.events(&format!("since={start}&limit={limit}"));
    let asked = Instant::now();
    match visit.get(&path, "").map_err(|trouble| trouble.to_string()).and_then(|answer| page(&answer)) {
        Ok(_) => {}
        Err(why) => return visit.record.find(Fault::TransportFailed, Way::Poll, why),
    }
    let took = asked.elapsed();
    if !visit.publishes {
        return visit.record.see(Way::Poll, format!("an answer in {}", seconds(took)));
    }
    let Some(sent) = publish(visit, "polls") else { return };
    if has_after(visit, Way::Poll, &path, &start, &sent) {
        visit.record.see(Way::Poll, format!("an event, with an answer in {}", seconds(took)));
    }
}

/// Long polls: held while there is nothing, and answered when there is something.
pub(super) fn examine_long_poll(visit: &mut Visit) {
    let Some(start) = visit.start.clone() else { return };
    let from = match visit.page(&start) {
        Ok(page) => page.cursor,
        Err(why) => return visit.record.skip("long polls", why),
    };
    let (wait, limit) = (SHORT_WAIT.as_secs_f64(), visit.fresh_limit());
    let path = visit.events(&format!("since={from}&wait={wait}&limit={limit}"));
    let asked = Instant::now();
    match visit.get(&path, "").map_err(|trouble| trouble.to_string()).and_then(|answer| page(&answer)) {
        Ok(_) => {}
        Err(why) => return visit.record.find(Fault::TransportFailed, Way::LongPoll, why),
    }
    let took = asked.elapsed();
    if !visit.publishes {
        return visit.record.see(Way::LongPoll, format!("held for {}", seconds(took)));
    }
    let Some(sent) = publish(visit, "long polls") else { return };
    if has_after(visit, Way::LongPoll, &path, &from, &sent) {
        examine_held(visit, &sent.id);
    }
}

/// A long poll that is held when an event is published.
fn examine_held(visit: &mut Visit, from: &str) {
    if !visit.has_room_for_two() {
        let why = "the path serves one request at a time, so that nobody can publish meanwhile";
        return visit.record.skip("how soon long polls are answered", why);
    }
    let (wait, limit) = (PATIENCE.as_secs(), visit.fresh_limit());
    let path = visit.events(&format!("since={from}&wait={wait}&limit={limit}"));
    let data = visit.data().to_string();
    let (answer, sent) = thread::scope(|scope| {
        let visit = &*visit;
        let poll = scope.spawn(|| {
            let request = Request { method: "GET", path: &path, ..Request::default() };
            let until = Instant::now() + 2 * PATIENCE;
            let answer = Line::ask(&visit.endpoint, &request).and_then(|mut line| line.answer(until));
            (answer, Instant::now())
        });
        let sent = visit.publish_data(data.as_bytes());
        (poll.join().ok(), sent)
    });
    let (Some((answer, came)), Ok(sent)) = (answer, sent) else {
        return visit.record.skip("how soon long polls are answered", "the event could not be published");
    };
    let after = came.saturating_duration_since(sent.known);
    match answer.map_err(|trouble| trouble.to_string()).and_then(|answer| page(&answer)) {
        Err(why) => visit.record.find(Fault::TransportFailed, Way::LongPoll, format!("while held: {why}")),
        Ok(page) if !page.has(&sent.id) => {
            let observed = format!("an answer after {} lacks the event", seconds(after));
            visit.record.find(Fault::EventsMissing, Way::LongPoll, observed);
        }
        Ok(_) if after > LATE => {
            let observed = format!("the answer came {} after the event was acknowledged", seconds(after));
            visit.record.find(Fault::ResponseBuffered, Way::LongPoll, observed);
        }
        Ok(_) => visit.record.see(Way::LongPoll, format!("an event in {}", seconds(after))),
    }
}

/// Whether the same request, asked again, now has what was published meanwhile; says what is wrong if not.
fn has_after(visit: &mut Visit, way: Way, path: &str, since: &str, sent: &Sent) -> bool {
    let again = match visit.get(path, "") {
        Ok(answer) => answer,
        Err(trouble) => {
            visit.record.find(Fault::TransportFailed, way, trouble.to_string());
            return false;
        }
    };
    match page(&again) {
        Ok(page) if page.has(&sent.id) => return true,
        Ok(_) => {}
        Err(why) => {
            visit.record.find(Fault::TransportFailed, way, why);
            return false;
        }
    }
    // The same place under an address that no cache has seen.
    if visit.page(since).is_ok_and(|page| page.has(&sent.id)) {
        let observed = format!(
            "the same request, repeated after an event was published, had the old answer without it; under an \
             address that is new the event is there{}",
            cache_words(&again)
        );
        visit.record.find(Fault::StreamCached, way, observed);
    } else {
        visit.record.find(Fault::EventsMissing, way, "an event that was acknowledged is not in the answer");
    }
    false
}

/// What an answer says of caches, in words.
fn cache_words(answer: &Answer) -> String {
    let said = CACHE_FIELDS.iter().filter_map(|name| Some(format!("{name}: {}", answer.head.field(name)?)));
    match said.collect::<Vec<_>>().join(", ") {
        said if said.is_empty() => String::new(),
        said => format!(" ({said})"),
    }
}

fn examine_compression(visit: &mut Visit, start: &str) {
    let limit = visit.fresh_limit();
    let path = visit.events(&format!("since={start}&limit={limit}"));
    let answer = visit.get(&path, BROWSER_ENCODINGS);
    if let Some(coding) = answer.ok().as_ref().and_then(|answer| answer.head.compression()) {
        visit.record.find(Fault::CompressedAnswer, Way::Poll, format!("Content-Encoding: {coding}"));
    }
}

/// Publishes for a probe; what cannot be looked at without is said.
pub(super) fn publish(visit: &mut Visit, what: &str) -> Option<Sent> {
    match visit.publish() {
        Ok(sent) => Some(sent),
        Err(Unsent::Refused(why) | Unsent::Failed(why)) => {
            visit.record.skip(what, format!("an event could not be published: {why}"));
            None
        }
    }
}
