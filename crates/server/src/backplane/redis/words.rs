//! What Redis says, in the backplane's words: numbers as texts, events as records. Must not know connections.

use std::sync::Arc;

use redis::Value;
use tidewire_core::{ChannelName, Epoch, Event, EventId, Timestamp, record};

use crate::backplane::broker::{Arrival, BrokerError, Extent, Notice, Seam, Standing, StateAt};

/// An answer was not what the scripts make.
pub(super) fn odd(what: &str) -> BrokerError {
    BrokerError(format!("it said something odd: {what}"))
}

/// The values of an answer.
pub(super) fn list(value: Value) -> Result<Vec<Value>, BrokerError> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(odd("no list")),
    }
}

/// The bytes of a value.
pub(super) fn bytes(value: Option<&Value>) -> Result<&[u8], BrokerError> {
    match value {
        Some(Value::BulkString(bytes)) => Ok(bytes),
        Some(Value::SimpleString(text)) => Ok(text.as_bytes()),
        _ => Err(odd("no text")),
    }
}

pub(super) fn text(value: Option<&Value>) -> Result<&str, BrokerError> {
    std::str::from_utf8(bytes(value)?).map_err(|_| odd("no text"))
}

pub(super) fn number(value: Option<&Value>) -> Result<u64, BrokerError> {
    match value {
        Some(Value::Int(number)) => u64::try_from(*number).map_err(|_| odd("a negative number")),
        value => parse(text(value)?),
    }
}

fn parse(text: &str) -> Result<u64, BrokerError> {
    // The scripts' quotients are no whole numbers.
    let whole = text.split('.').next().unwrap_or_default();
    whole.parse().map_err(|_| odd("no number"))
}

/// An event from its record.
pub(super) fn event(
    name: &ChannelName,
    epoch: Epoch,
    offset: u64,
    time: u64,
    record: &[u8],
) -> Result<Arc<Event>, BrokerError> {
    let event = record::decode(name, EventId { epoch, offset }, record).map_err(|_| odd("no record"))?;
    Ok(Arc::new(Event { time: Timestamp(time), ..event }))
}

/// An offset before an event; a mark behind it says that others between may be lost.
pub(super) fn prev(text: &str) -> Result<(u64, bool), BrokerError> {
    let digits = text.strip_suffix('!');
    Ok((parse(digits.unwrap_or(text))?, digits.is_some()))
}

/// `floor length bytes expires`, as the scripts say it.
pub(super) fn extent(said: &[u64]) -> Result<Extent, BrokerError> {
    let [floor, length, bytes, expires_ms] = said[..] else { return Err(odd("no extent")) };
    Ok(Extent { floor, first: 0, retained: (length as usize, bytes as usize), expires_ms })
}

/// How a channel stands, as `look.lua` says it.
pub(super) fn standing(name: &ChannelName, epoch: Epoch, value: Value) -> Result<Standing, BrokerError> {
    let said = list(value)?;
    let at = |index| number(said.get(index));
    let extent = extent(&[at(1)?, at(2)?, at(3)?, at(4)?])?;
    let seams = seams(text(said.get(5))?)?;
    let latest = match said.get(6) {
        None => None,
        Some(_) => {
            let event = event(name, epoch, at(6)?, at(7)?, bytes(said.get(9))?)?;
            let (prev, lossy) = prev(text(said.get(8))?)?;
            Some(Arrival { event, prev, lossy, extent: None })
        }
    };
    Ok(Standing { head: at(0)?, extent, seams, latest })
}

fn seams(text: &str) -> Result<Vec<Seam>, BrokerError> {
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (from, to) = pair.split_once(':').ok_or_else(|| odd("no seam"))?;
            let (to, lossy) = prev(to)?;
            Ok(Seam { from: parse(from)?, to, lossy })
        })
        .collect()
}

/// A stream's entry: its id, and the fields `t n p s e` that `append.lua` gives it.
pub(super) fn entry(name: &ChannelName, epoch: Epoch, value: Value) -> Result<Arrival, BrokerError> {
    let entry = list(value)?;
    let offset = parse(text(entry.first())?.split('-').next().unwrap_or_default())?;
    let Some(Value::Array(fields)) = entry.get(1) else { return Err(odd("no entry")) };
    let event = event(name, epoch, offset, number(fields.get(1))?, bytes(fields.get(9))?)?;
    let (prev, lossy) = prev(text(fields.get(5))?)?;
    Ok(Arrival { event, prev, lossy, extent: None })
}

/// A channel's state, as `state.lua` says it.
pub(super) fn state(
    name: &ChannelName,
    epoch: Epoch,
    is_keyed: bool,
    value: Value,
) -> Result<StateAt, BrokerError> {
    let mut said = list(value)?;
    let entries = list(said.pop().unwrap_or_default())?;
    let at = |index| number(said.get(index));
    let extent = extent(&[at(1)?, at(2)?, at(3)?, 0])?;
    let mut events = Vec::new();
    for value in entries {
        if !is_keyed {
            events.push(entry(name, epoch, value)?.event);
            continue;
        }
        let bytes = bytes(Some(&value))?;
        let (digits, record) = bytes.split_at_checked(36).ok_or_else(|| odd("no state"))?;
        let digits = std::str::from_utf8(digits).map_err(|_| odd("no state"))?;
        events.push(event(name, epoch, parse(&digits[..20])?, parse(&digits[20..])?, record)?);
    }
    events.sort_by_key(|event| event.id.offset);
    Ok(StateAt { head: at(0)?, events, extent })
}

/// A message of the feed: `NODE OFFSET TIME PREV FLOOR LENGTH BYTES EXPIRES`, a new line and the record; or
/// `NODE deleted OFFSET`. None if this node has sent it, and knows it by the answer.
pub(super) fn notice(
    name: ChannelName,
    epoch: Epoch,
    node: &str,
    message: &[u8],
) -> Result<Option<Notice>, BrokerError> {
    let end = memchr::memchr(b'\n', message).ok_or_else(|| odd("no message"))?;
    let head = std::str::from_utf8(&message[..end]).map_err(|_| odd("no message"))?;
    let mut words = head.split(' ');
    if words.next() == Some(node) {
        return Ok(None);
    }
    if let Some(rest) = head.split_once(" deleted ") {
        return Ok(Some(Notice::Deleted(name, parse(rest.1)?)));
    }
    let mut next = || words.next().ok_or_else(|| odd("no message"));
    let (offset, time) = (parse(next()?)?, parse(next()?)?);
    let (prev, lossy) = prev(next()?)?;
    let rest: Vec<u64> = words.map(parse).collect::<Result<_, _>>()?;
    let event = event(&name, epoch, offset, time, &message[end + 1..])?;
    Ok(Some(Notice::Event(name, Arrival { event, prev, lossy, extent: Some(extent(&rest)?) })))
}
