//! Reading channels for an answer: where a request begins, what it gets, where it goes on.
//! The same for polls, streams and WebSockets. Must not know how an answer looks.

use std::collections::VecDeque;
use std::sync::Arc;

use tidewire_core::cursor::Start;
use tidewire_core::wire::poll;
use tidewire_core::{ChannelName, Epoch, Event, EventId, Problem, Since};

use crate::hub::{Channel, Hub, Unread};

/// A reader of one channel. A channel that does not exist has nothing to read.
#[derive(Debug)]
pub(crate) struct Reader {
    /// Where it is.
    pub(crate) position: EventId,
    channel: Option<Arc<Channel>>,
}

impl Reader {
    pub(crate) fn new(position: EventId, channel: Option<Arc<Channel>>) -> Self {
        Self { position, channel }
    }
}

/// Why a reader cannot read on.
#[derive(Debug)]
pub(crate) enum Missing {
    /// Its position is no longer retained.
    Evicted,
    /// The events after this offset of the channel must be loaded first.
    OnDisk(Arc<Channel>, u64),
}

/// Where a request begins in each of its channels.
#[derive(Debug)]
pub(crate) struct Begin {
    /// One reader per channel, in the request's order.
    pub(crate) readers: Vec<Reader>,
    /// The gaps, if any.
    pub(crate) gap: Option<Gap>,
}

/// Channels in which a request's cursor cannot be served.
#[derive(Debug)]
pub(crate) struct Gap {
    /// Their places in the request.
    pub(crate) places: Vec<usize>,
    /// Where each resumes.
    pub(crate) resumed_from: Vec<EventId>,
}

impl Gap {
    /// The gap object of a poll.
    pub(crate) fn to_json(&self, channels: &[ChannelName], several: bool, requested: &str) -> Vec<u8> {
        let names: Vec<&str> = self.places.iter().map(|place| channels[*place].as_str()).collect();
        poll::gap(&names, several, requested, &joined_cursor(&self.resumed_from))
    }
}

/// The request's `since`, read.
///
/// # Errors
/// `invalid_cursor`.
pub(crate) fn parse_since(text: Option<&str>) -> Result<Option<Since>, Problem> {
    text.map(Since::parse).transpose()
}

/// Finds where to begin in `channels`; `default` is what the transport does without `since`.
///
/// # Errors
/// If what is on disk cannot be read.
pub(crate) fn begin(
    hub: &Hub,
    channels: &[ChannelName],
    since: Option<&Since>,
    default: Start,
) -> Result<Begin, Problem> {
    let epochs: Vec<Epoch> = channels.iter().map(|name| hub.epoch(name.as_str())).collect();
    let mut begin = Begin { readers: Vec::with_capacity(channels.len()), gap: None };
    for (place, name) in channels.iter().enumerate() {
        let start = since.map_or(default, |since| since.in_channel(epochs[place], &epochs, default));
        let channel = hub.find(name)?;
        let (position, gap, resumed_from) = match &channel {
            Some(channel) => {
                let located = channel.locate(start);
                (channel.id(located.position.after), located.position.gap, located.resumed_from)
            }
            None => {
                let empty = hub.empty_position(name.as_str());
                let gap = match start {
                    Start::After(offset) => offset != empty.offset,
                    Start::Unknown => true,
                    Start::Earliest | Start::Latest => false,
                };
                (empty, gap, empty)
            }
        };
        if gap {
            let all = begin.gap.get_or_insert(Gap { places: Vec::new(), resumed_from: Vec::new() });
            all.places.push(place);
            all.resumed_from.push(resumed_from);
        }
        begin.readers.push(Reader::new(position, channel));
    }
    Ok(begin)
}

/// Where readers begin whose positions are gone: with the oldest events that there are.
pub(crate) fn begin_anew(readers: &[Reader]) -> Begin {
    let mut begin = Begin { readers: Vec::with_capacity(readers.len()), gap: None };
    for (place, reader) in readers.iter().enumerate() {
        let channel = reader.channel.clone();
        let mut position = reader.position;
        if let Some(channel) = &channel {
            let located = channel.locate(Start::Unknown);
            position = channel.id(located.position.after);
            let all = begin.gap.get_or_insert(Gap { places: Vec::new(), resumed_from: Vec::new() });
            all.places.push(place);
            all.resumed_from.push(located.resumed_from);
        }
        begin.readers.push(Reader::new(position, channel));
    }
    begin
}

/// Takes the next events of all readers, up to `events_max` and until they have `bytes_max` bytes: in each
/// channel's order, and by time between channels. Each comes with its reader's place. True if
/// there are more.
///
/// # Errors
/// [`Missing`] if a reader's position is no longer retained, or not in memory.
pub(crate) fn gather(
    readers: &mut [Reader],
    events_max: usize,
    bytes_max: usize,
    out: &mut Vec<(usize, Arc<Event>)>,
) -> Result<bool, Missing> {
    let mut more = false;
    let mut pages: Vec<VecDeque<Arc<Event>>> = Vec::with_capacity(readers.len());
    // Where each channel's page was all there was. What comes from now on is for the next time.
    let mut heads = Vec::with_capacity(readers.len());
    for reader in readers.iter() {
        let mut events = Vec::new();
        let mut head = 0;
        if let Some(channel) = &reader.channel {
            let after = reader.position.offset;
            head =
                channel.read(after, events_max, bytes_max, &mut events).map_err(|unread| match unread {
                    Unread::Evicted => Missing::Evicted,
                    Unread::OnDisk => Missing::OnDisk(Arc::clone(channel), after),
                })?;
            let end = events.last().map_or(reader.position.offset, |event| event.id.offset);
            more |= end < head;
        }
        pages.push(events.into());
        heads.push(head);
    }
    let (mut count, mut bytes) = (0, 0);
    while count < events_max && bytes < bytes_max {
        let earliest =
            pages.iter().enumerate().filter_map(|(place, page)| Some((page.front()?.time, place))).min();
        let Some((_, place)) = earliest else { return Ok(more) };
        let Some(event) = pages[place].pop_front() else { return Ok(more) };
        count += 1;
        bytes += event.size_bytes();
        readers[place].position = event.id;
        out.push((place, event));
        if pages[place].is_empty() && heads[place] > readers[place].position.offset {
            // What this channel has beyond its page may be earlier than the others' next.
            return Ok(true);
        }
    }
    Ok(more || pages.iter().any(|page| !page.is_empty()))
}

/// Several positions as one cursor.
pub(crate) fn joined_cursor(ids: &[EventId]) -> String {
    let mut out = Vec::with_capacity(ids.len() * (EventId::TOKEN_BYTES_MAX + 1));
    for id in ids {
        if !out.is_empty() {
            out.push(b'.');
        }
        id.push_to(&mut out);
    }
    String::from_utf8(out).unwrap_or_default()
}
