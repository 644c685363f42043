//! The four ways to read a channel, each as plainly as it can be done, and what each of them sees.
//! Must not judge; see `verdict`.

use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use tidewire_core::websocket::{Decoder, Inflater, Input, Message, OpCode, Role, encode_masked};

use super::Run;
use super::wire::Wire;

/// How long a long poll asks to be held.
const HOLD_SECONDS: u64 = 20;
/// What is waited for an answer that is not held.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A way to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pattern {
    ShortPoll,
    LongPoll,
    EventStream,
    WebSocket,
}

impl Pattern {
    pub(super) const ALL: [Self; 4] = [Self::ShortPoll, Self::LongPoll, Self::EventStream, Self::WebSocket];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ShortPoll => "short poll",
            Self::LongPoll => "long poll",
            Self::EventStream => "SSE",
            Self::WebSocket => "WebSocket",
        }
    }
}

/// What a pattern saw.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) pattern: Pattern,
    /// Each event's latency in microseconds, in the order of arrival.
    pub(super) latencies_us: Vec<u64>,
    /// The number that the next event must have; others are lost, repeated or out of order.
    next: u64,
    pub(super) out_of_order: u64,
    pub(super) requests: u64,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    /// Why it stopped before its time, or never began.
    pub(super) failure: Option<String>,
}

impl Tally {
    /// Takes all events whose data lies in `text`; the latency is counted to `now_us`.
    fn take(&mut self, text: &[u8], now_us: u64) {
        let text = String::from_utf8_lossy(text);
        for stamp in text.split("{\"n\":").skip(1) {
            let Some((number, rest)) = stamp.split_once(",\"us\":") else { continue };
            let due = rest.split([',', '}']).next().and_then(|due| due.parse::<u64>().ok());
            let (Ok(number), Some(due_us)) = (number.parse::<u64>(), due) else { continue };
            self.out_of_order += u64::from(number != self.next);
            self.next = number + 1;
            self.latencies_us.push(now_us.saturating_sub(due_us));
        }
    }
}

/// Reads in this way until the run stops. Says on `ready` when nothing that is published from then on
/// can be missed, or when it has failed.
pub(super) fn read(pattern: Pattern, run: &Run, ready: &Sender<()>) -> Tally {
    let mut tally = Tally {
        pattern,
        latencies_us: Vec::new(),
        next: 0,
        out_of_order: 0,
        requests: 0,
        received_bytes: 0,
        sent_bytes: 0,
        failure: None,
    };
    let outcome = Wire::connect(&run.endpoint).and_then(|mut wire| {
        let outcome = match pattern {
            Pattern::ShortPoll | Pattern::LongPoll => poll(pattern, run, &mut wire, &mut tally, ready),
            Pattern::EventStream => event_stream(run, &mut wire, &mut tally, ready),
            Pattern::WebSocket => websocket(run, &mut wire, &mut tally, ready),
        };
        tally.received_bytes = wire.received_bytes;
        tally.sent_bytes = wire.sent_bytes;
        outcome
    });
    if let Err(failure) = outcome {
        tally.failure = Some(failure);
        // The receiver is gone once nobody waits any more.
        let _ = ready.send(());
    }
    tally
}

fn poll(
    pattern: Pattern,
    run: &Run,
    wire: &mut Wire,
    tally: &mut Tally,
    ready: &Sender<()>,
) -> Result<(), String> {
    let path = run.endpoint.path(&format!("/v1/channels/{}/events", run.channel));
    let mut since = "latest".to_owned();
    let mut begun = false;
    while !run.stopping.load(Ordering::Relaxed) {
        let hold = if pattern == Pattern::LongPoll && begun {
            format!("&wait={HOLD_SECONDS}")
        } else {
            String::new()
        };
        let asked = Instant::now();
        wire.request("GET", &format!("{path}?limit=1000&since={since}{hold}"), "", b"")?;
        tally.requests += 1;
        let Some((status, body)) = held_answer(run, wire)? else { return Ok(()) };
        if status != 200 {
            return Err(format!("refused with {status}: {}", String::from_utf8_lossy(&body)));
        }
        tally.take(&body, run.now_us());
        let text = String::from_utf8_lossy(&body);
        let cursor = text.rsplit_once("\"cursor\":\"").and_then(|(_, rest)| rest.split_once('"'));
        since = cursor.ok_or("the answer has no cursor; is this a Tidewire server?")?.0.to_owned();
        if !std::mem::replace(&mut begun, true) {
            let _ = ready.send(());
        }
        if pattern == Pattern::ShortPoll {
            std::thread::sleep(run.interval.saturating_sub(asked.elapsed()));
        }
    }
    Ok(())
}

/// An answer that may be held; `None` if the run stops meanwhile.
fn held_answer(run: &Run, wire: &mut Wire) -> Result<Option<(u16, Vec<u8>)>, String> {
    let deadline = Instant::now() + Duration::from_secs(HOLD_SECONDS) + ANSWER_MAX;
    while wire.buffer.is_empty() {
        if run.stopping.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if Instant::now() > deadline {
            return Err("no answer, although the hold is over".to_owned());
        }
        wire.fill()?;
    }
    wire.answer(ANSWER_MAX).map(Some)
}

fn event_stream(run: &Run, wire: &mut Wire, tally: &mut Tally, ready: &Sender<()>) -> Result<(), String> {
    let path = run.endpoint.path(&format!("/v1/channels/{}/events", run.channel));
    wire.request("GET", &path, "Accept: text/event-stream\r\n", b"")?;
    tally.requests += 1;
    let (status, head) = wire.head(ANSWER_MAX)?;
    if status != 200 || !head.contains("text/event-stream") {
        return Err(format!("no event stream came, but status {status}"));
    }
    // The stream opens with its position: one that does not come is kept back by something on the path.
    let deadline = Instant::now() + ANSWER_MAX;
    while !wire.buffer.windows(3).any(|window| window == b"id:") {
        if Instant::now() > deadline {
            return Err("the stream is buffered on its way: nothing of it arrives".to_owned());
        }
        wire.fill()?;
    }
    let _ = ready.send(());
    while !run.stopping.load(Ordering::Relaxed) {
        if wire.fill()? {
            // Whole lines only; chunk headers of a proxy stand on lines of their own.
            if let Some(end) = wire.buffer.iter().rposition(|byte| *byte == b'\n') {
                tally.take(&wire.buffer[..=end], run.now_us());
                wire.buffer.drain(..=end);
            }
        }
    }
    Ok(())
}

fn websocket(run: &Run, wire: &mut Wire, tally: &mut Tally, ready: &Sender<()>) -> Result<(), String> {
    let fields = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    wire.request("GET", &run.endpoint.path("/v1/ws"), fields, b"")?;
    tally.requests += 1;
    let (status, _) = wire.head(ANSWER_MAX)?;
    if status != 101 {
        return Err(format!("the upgrade was refused, or removed on its way: status {status}"));
    }
    send(
        wire,
        OpCode::Text,
        format!("{{\"type\":\"subscribe\",\"channel\":\"{}\"}}", run.channel).as_bytes(),
    )?;
    let (mut decoder, mut inflater) = (Decoder::new(Role::Client, false), Inflater::default());
    while !run.stopping.load(Ordering::Relaxed) {
        if wire.buffer.is_empty() && !wire.fill()? {
            continue;
        }
        let mut bytes = std::mem::take(&mut wire.buffer);
        let mut input = Input::new(&mut bytes);
        loop {
            match decoder
                .next(&mut input, &mut inflater, 64 << 20)
                .map_err(|violation| violation.to_string())?
            {
                None => break,
                Some(Message::Ping(payload)) => send(wire, OpCode::Pong, payload)?,
                Some(Message::Close(_)) => return Err("the server closed the WebSocket".to_owned()),
                Some(Message::Text(text)) if text.starts_with("{\"type\":\"subscribed\"") => {
                    let _ = ready.send(());
                }
                Some(Message::Text(text)) => tally.take(text.as_bytes(), run.now_us()),
                Some(_) => {}
            }
        }
    }
    Ok(())
}

fn send(wire: &mut Wire, opcode: OpCode, payload: &[u8]) -> Result<(), String> {
    let mut frame = Vec::new();
    encode_masked(&mut frame, opcode, payload, fastrand::u32(..).to_ne_bytes());
    wire.send(&frame)
}
