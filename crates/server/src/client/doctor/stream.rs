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

/// Events that push out what a buffer on the path holds, and how large each is.
const FILLERS: usize = 8;
const FILLER_BYTES: usize = 16 << 10;

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
    let Some((mut line, mut head)) = open(visit, BROWSER_ENCODINGS) else { return };
    if let Some(coding) = head.as_ref().and_then(Head::compression) {
        let observed = format!(
            "to a client that takes it, as browsers do, the stream comes with Content-Encoding: {coding}"
        );
        visit.record.find(Fault::CompressedStream, Way::Sse, observed);
        // All else is looked at without.
        let Some(plain) = open(visit, "Accept-Encoding: identity\r\n") else { return };
        (line, head) = plain;
    }
    let mut reader = Reader::new(line);
    let mut opened = false;
    if head.is_some() {
        opened = reader.next(Instant::now() + PATIENCE).is_some();
    }
    if !visit.publishes || !visit.has_room_for_two() {
        if opened {
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
    examine_again(visit, &sent);
}

/// An event did not come: is it held back until more does?
fn examine_silence(visit: &mut Visit, mut reader: Reader, has_head: bool, sent: &Sent) {
    let start = visit.start.clone();
    let is_there = start.is_some_and(|start| visit.page(&start).is_ok_and(|page| page.has(&sent.id)));
    let waited = sent.known.elapsed();
    let filler = format!("\"{}\"", "x".repeat(FILLER_BYTES - 2));
    let fillers = (0..FILLERS).take_while(|_| visit.publish_data(filler.as_bytes()).is_ok()).count();
    let until = Instant::now() + PATIENCE;
    let has_head = has_head || reader.line.head(until).is_ok();
    let what = if has_head { "an event" } else { "not even the head of the answer, and so no event," };
    if has_head && reader.first_of(&[&sent.id], until).is_some() {
        let observed = format!(
            "an event did not come within {}, and did once {} more bytes had been published after it",
            seconds(waited),
            fillers * FILLER_BYTES
        );
        visit.record.find(Fault::ResponseBuffered, Way::Sse, observed);
    } else {
        let there = if is_there { "; polls show that it is in the log" } else { "" };
        let (waited, bytes) = (seconds(sent.known.elapsed()), fillers * FILLER_BYTES);
        let observed = format!(
            "{what} came within {waited}, although {bytes} more bytes were published after it{there}"
        );
        visit.record.find(Fault::EventsMissing, Way::Sse, observed);
    }
    visit.record.skip("whether sse resumes", "no event comes in time");
}

/// Does a stream begin after its `Last-Event-ID`? What was published before it was opened must come before what
/// is published after.
fn examine_resuming(visit: &mut Visit, first: &Sent) {
    const WHAT: &str = "whether sse resumes";
    let Some(missed) = publish(visit, WHAT) else { return };
    let Some((line, Some(_))) = open(visit, &format!("Last-Event-ID: {}\r\n", first.id)) else {
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

/// Is a stream that begins now one's own? An event from before must not be in it.
fn examine_again(visit: &mut Visit, old: &Sent) {
    const WHAT: &str = "whether sse is cached";
    let Some((line, Some(_))) = open(visit, "") else {
        return visit.record.skip(WHAT, "another stream did not open in time");
    };
    let mut reader = Reader::new(line);
    let until = Instant::now() + PATIENCE;
    let Some(opening) = reader.next(until) else {
        return visit.record.skip(WHAT, "another stream did not begin in time");
    };
    reader.waiting.push_front(opening);
    let Some(new) = publish(visit, WHAT) else { return };
    match reader.first_of(&[&old.id, &new.id], until) {
        Some(0) => {
            let observed =
                format!("a stream from now on began with {}, which an earlier one had already", old.id);
            visit.record.find(Fault::StreamCached, Way::Sse, observed);
        }
        Some(_) => {}
        None => visit.record.skip(WHAT, "no event came in time"),
    }
}
