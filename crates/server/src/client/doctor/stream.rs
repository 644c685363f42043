//! Probe: server-sent events. Do they come at once, does a stream resume, is it one's own?
//! Must not know polls, but that they show what is in the log.

use std::collections::VecDeque;
use std::time::Instant;

use super::faults::Fault;
use super::line::{Head, Line, Piece, Request, Trouble};
use super::polls::{BROWSER_ENCODINGS, publish};
use super::record::Way;
use super::visit::{LATE, PATIENCE, Sent, Visit, describe, seconds};
use crate::client::sse_parser::{Message, SseParser};

/// The sizes of events that push out what a buffer on the path holds: first little, then much.
const FILLERS: [[usize; 8]; 2] = [[16 << 10; 8], [128 << 10; 8]];

/// What asks for an answer as it is.
const PLAIN: &str = "Accept-Encoding: identity\r\n";

/// What `EventSource` sends.
pub(super) const ACCEPT: &str = "Accept: text/event-stream\r\nCache-Control: no-cache\r\n";

/// A stream of messages.
#[derive(Debug)]
struct Reader {
    line: Line,
    parser: SseParser,
    waiting: VecDeque<Message>,
    ended: bool,
}

impl Reader {
    fn new(line: Line) -> Self {
        Self { line, parser: SseParser::default(), waiting: VecDeque::new(), ended: false }
    }

    /// The next message until then, if one comes.
    fn next(&mut self, until: Instant) -> Option<Message> {
        loop {
            if let Some(message) = self.waiting.pop_front() {
                return Some(message);
            }
            match self.line.piece(until) {
                Piece::Bytes(bytes) => {
                    let mut messages = Vec::new();
                    self.ended |= self.parser.handle_bytes(&bytes, &mut messages).is_err();
                    self.waiting.extend(messages);
                }
                Piece::Nothing => return None,
                Piece::End => self.ended = true,
            }
            if self.ended && self.waiting.is_empty() {
                return None;
            }
        }
    }

    /// Reads until the event with one of `ids` comes; gives which.
    fn first_of(&mut self, ids: &[&str], until: Instant) -> Option<usize> {
        loop {
            let message = self.next(until)?;
            if let Some(index) = ids.iter().position(|id| is_event(&message, id)) {
                return Some(index);
            }
        }
    }
}

fn is_event(message: &Message, id: &str) -> bool {
    message.data.is_some() && message.event.is_empty() && message.last_event_id == id
}

/// Opens a stream; `None` if none came, which is in the record then. The head may be still to come.
fn open(visit: &mut Visit, fields: &str) -> Option<(Line, Option<Head>)> {
    let (path, fields) = (visit.events(""), format!("{ACCEPT}{fields}"));
    let request = Request { method: "GET", path: &path, fields: &fields, ..Request::default() };
    let failure = match visit.open(&request) {
        Ok((line, Err(Trouble::Silent(_)))) => return Some((line, None)),
        Ok((line, Ok(head))) if is_stream(&head) => return Some((line, Some(head))),
        Ok((mut line, Ok(head))) => {
            let status = head.status;
            match line.rest(head, Instant::now() + PATIENCE) {
                Ok(answer) if status == 200 => {
                    let found = answer.head.field("content-type").unwrap_or("none");
                    format!("an answer whose content type is {found}")
                }
                Ok(answer) if super::visit::problem(&answer).is_some() => {
                    visit.record.find(Fault::Refused, Way::Sse, describe(&answer));
                    return None;
                }
                Ok(answer) => describe(&answer),
                Err(trouble) => format!("status {status}, and {trouble}"),
            }
        }
        Ok((_, Err(trouble))) | Err(trouble) => trouble.to_string(),
    };
    visit.record.find(Fault::TransportFailed, Way::Sse, failure);
    None
}

fn is_stream(head: &Head) -> bool {
    let mime = head.field("content-type").and_then(|value| value.split(';').next());
    head.status == 200 && mime.is_some_and(|mime| mime.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// Runs the probe.
pub(super) fn examine(visit: &mut Visit) {
    let Some((line, as_browser)) = open(visit, BROWSER_ENCODINGS) else { return };
    let coding = as_browser.as_ref().and_then(Head::compression);
    let mut reader = Some(Reader::new(line)).filter(|_| as_browser.is_some() && coding.is_none());
    let earlier = reader.as_mut().and_then(|reader| reader.next(Instant::now() + PATIENCE));
    // Where there is little room, it takes the next one's.
    drop(reader);
    if let Some(coding) = coding {
        let observed = format!(
            "to a client that takes it, as browsers do, the stream comes with Content-Encoding: {coding}"
        );
        visit.record.find(Fault::CompressedStream, Way::Sse, observed);
    }
    if earlier.is_some() && visit.publishes && publish(visit, "sse").is_none() {
        return;
    }
    // All else is looked at without compression, which would hide what comes when.
    let earlier = earlier.filter(|_| visit.publishes).unwrap_or_default();
    examine_plain(visit, &earlier.last_event_id);
    if as_browser.is_none() && visit.record.has_seen(Way::Sse) {
        let observed = format!(
            "to a client that takes compressed answers, as browsers do, nothing came within {}; to one that does not, \
             events do",
            seconds(PATIENCE)
        );
        visit.record.find(Fault::CompressedStream, Way::Sse, observed);
    }
}

/// A stream without compression. `earlier` is where one began before an event was published.
fn examine_plain(visit: &mut Visit, earlier: &str) {
    let Some((line, mut head)) = open(visit, PLAIN) else { return };
    let mut reader = Reader::new(line);
    let opening = head.as_ref().and_then(|_| reader.next(Instant::now() + PATIENCE));
    let begin = opening.as_ref().map(|message| message.last_event_id.clone()).unwrap_or_default();
    if is_stale(visit, &begin, earlier) {
        return;
    }
    if !visit.publishes || !visit.has_room_for_two() {
        if opening.is_some() {
            visit.record.see(Way::Sse, "the stream opens");
        } else {
            let observed = format!("the beginning of the stream did not come within {}", seconds(PATIENCE));
            visit.record.find(Fault::TransportFailed, Way::Sse, observed);
        }
        return visit.record.skip("how events come over sse", "nobody can publish meanwhile");
    }
    let Some(sent) = publish(visit, "sse") else { return };
    if head.is_none() {
        head = reader.line.head(Instant::now() + PATIENCE).ok();
    }
    let arrived = head.is_some() && reader.first_of(&[&sent.id], sent.known + PATIENCE).is_some();
    let after = sent.known.elapsed();
    match arrived {
        false => return examine_silence(visit, reader, head.is_some(), &sent),
        true if after > LATE => {
            let observed = format!("an event came {} after it was acknowledged", seconds(after));
            visit.record.find(Fault::ResponseBuffered, Way::Sse, observed);
        }
        true => visit.record.see(Way::Sse, format!("an event in {}", seconds(after))),
    }
    drop(reader);
    examine_resuming(visit, &sent);
    examine_again(visit, &begin);
}

/// An event did not come: is it held back until more does?
fn examine_silence(visit: &mut Visit, mut reader: Reader, mut has_head: bool, sent: &Sent) {
    let start = visit.start.clone();
    let is_there = start.is_some_and(|start| visit.page(&start).is_ok_and(|page| page.has(&sent.id)));
    let waited = seconds(sent.known.elapsed());
    let mut bytes = 0;
    visit.record.skip("whether sse resumes", "no event comes in time");
    for sizes in FILLERS {
        for size in sizes {
            let filler = format!("\"{}\"", "x".repeat(size - 2));
            if visit.publish_data(filler.as_bytes()).is_ok() {
                bytes += size;
            }
        }
        let until = Instant::now() + PATIENCE;
        has_head = has_head || reader.line.head(until).is_ok();
        if has_head && reader.first_of(&[&sent.id], until).is_some() {
            let observed = format!(
                "an event did not come within {waited}, and did once {bytes} more bytes had been published after it"
            );
            return visit.record.find(Fault::ResponseBuffered, Way::Sse, observed);
        }
    }
    let what = if has_head { "an event" } else { "an event, and even the head of the answer," };
    let there = if is_there { "; polls show that it is in the log" } else { "" };
    let waited = seconds(sent.known.elapsed());
    let observed = format!(
        "{what} did not come within {waited}, although {bytes} more bytes were published after it{there}"
    );
    visit.record.find(Fault::EventsMissing, Way::Sse, observed);
}

/// Does a stream begin after its `Last-Event-ID`? What was published before it was opened must come before what
/// is published after.
fn examine_resuming(visit: &mut Visit, first: &Sent) {
    const WHAT: &str = "whether sse resumes";
    let Some(missed) = publish(visit, WHAT) else { return };
    let Some((line, Some(_))) = open(visit, &format!("{PLAIN}Last-Event-ID: {}\r\n", first.id)) else {
        return visit.record.skip(WHAT, "the second stream did not open in time");
    };
    let mut reader = Reader::new(line);
    let until = Instant::now() + PATIENCE;
    let Some(opening) = reader.next(until) else {
        return visit.record.skip(WHAT, "the second stream did not begin in time");
    };
    if opening.event == "tidewire.gap" {
        return visit.record.skip(WHAT, "the channel had forgotten the event already");
    }
    reader.waiting.push_front(opening);
    let Some(later) = publish(visit, WHAT) else { return };
    match reader.first_of(&[&missed.id, &later.id], until) {
        Some(0) => visit.record.see(Way::Sse, "resumes"),
        Some(_) => {
            let observed = format!(
                "a stream opened with Last-Event-ID: {} began with {}, and skipped {} in between",
                first.id, later.id, missed.id
            );
            visit.record.find(Fault::LastEventIdLost, Way::Sse, observed);
        }
        None => visit.record.skip(WHAT, "neither event came in time"),
    }
}

/// Is a stream that begins now one's own?
fn examine_again(visit: &mut Visit, earlier: &str) {
    const WHAT: &str = "whether sse is cached";
    let Some((line, Some(_))) = open(visit, PLAIN) else {
        return visit.record.skip(WHAT, "another stream did not open in time");
    };
    match Reader::new(line).next(Instant::now() + PATIENCE) {
        Some(opening) => drop(is_stale(visit, &opening.last_event_id, earlier)),
        None => visit.record.skip(WHAT, "another stream did not begin in time"),
    }
}

/// Whether a stream begins where an `earlier` one did, although an event was published between the two.
fn is_stale(visit: &mut Visit, opening: &str, earlier: &str) -> bool {
    if earlier.is_empty() || opening != earlier {
        return false;
    }
    let observed = format!(
        "a stream from now on begins at {opening}, where one had begun before an event was published: it is that one"
    );
    visit.record.find(Fault::StreamCached, Way::Sse, observed);
    true
}
