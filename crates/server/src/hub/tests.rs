//! The hub's bounds and what it forgets, channels in memory only.

use bytes::Bytes;
use tidewire_core::Payload;
use tidewire_core::cursor::Start;

use super::*;
use crate::http::read::{Reader, gather};
use crate::settings::Flags;

fn hub(text: &str) -> Hub {
    let directory = std::env::temp_dir().join(format!("tidewire-hub-{}", std::process::id()));
    let path = directory.join(format!("{:x}.toml", RandomState::new().hash_one(text)));
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::write(&path, text).expect("a file");
    let settings =
        Settings::load(Some(&path), &Flags { memory: true, ..Flags::default() }).expect("right settings");
    std::fs::remove_file(&path).expect("removed");
    Hub::new(Arc::new(settings), Vec::new(), None, Clock::start())
}

fn publish(hub: &Hub, channel: &str, bytes: usize, now: u64) -> Result<EventId, Code> {
    let event = NewEvent::new(Payload::bytes(Bytes::from(vec![b'x'; bytes])));
    let name = ChannelName::new(channel).expect("a name");
    let done = hub.publish(&name, event, Timestamp(now), None, || None).map_err(|problem| problem.code)?;
    Ok(done.expect("it is in memory").appended.id)
}

fn find(hub: &Hub, name: &str) -> Arc<Channel> {
    let name = ChannelName::new(name).expect("a name");
    hub.find(&name).expect("nothing to read").expect("known")
}

#[test]
fn history_of_all_channels_is_bounded_and_shared_fairly() {
    let hub = hub("[limits]\nhistory_bytes = 10000\nevent_bytes = 20000");
    for step in 0..200 {
        publish(&hub, "greedy", 100, step).expect("room is made");
    }
    assert!(hub.usage().1 <= 10_000);
    for step in 0..50 {
        publish(&hub, "late", 100, step).expect("the greedy one gives way");
        assert!(hub.usage().1 <= 10_000, "{}", hub.usage().1);
    }
    let held = |name: &str| find(&hub, name).retained().1;
    assert!(held("late") >= 4000 && held("greedy") >= 4000, "{} {}", held("late"), held("greedy"));
    assert_eq!(publish(&hub, "late", 10_001, 300), Err(Code::HistoryFull));
    assert_eq!(hub.usage().1, held("late") + held("greedy"));
}

#[test]
fn channels_are_bounded_and_empty_ones_make_room() {
    let hub = hub("[limits]\nchannels = 4\n[history]\nage_seconds = 1\nidempotency_seconds = 1");
    for name in ["a", "b", "c", "d"] {
        publish(&hub, name, 1, 0).expect("room");
    }
    let last = publish(&hub, "a", 1, 1).expect("an old channel");
    assert_eq!(publish(&hub, "e", 1, 1), Err(Code::HistoryFull));
    (0..SWEEPS).for_each(|_| hub.sweep(Timestamp(5000)));
    let (channels, bytes) = hub.usage();
    assert!(channels <= 2 && bytes == 0, "{channels} channels are known, {bytes} bytes held");
    publish(&hub, "e", 1, 5000).expect("there is room again");
    let next = publish(&hub, "a", 1, 5000).expect("made anew");
    assert!(next.epoch == last.epoch && next.offset > last.offset, "no id comes twice");
}

#[test]
fn while_there_is_room_an_expired_channel_keeps_its_position() {
    let hub = hub("[history]\nage_seconds = 1");
    let id = publish(&hub, "a", 1, 0).expect("room");
    publish(&hub, "b", 1, 0).expect("room");
    publish(&hub, "b", 1, 0).expect("room");
    (0..SWEEPS).for_each(|_| hub.sweep(Timestamp(5000)));
    let position = find(&hub, "a").locate(Start::After(id.offset)).position;
    assert!(!position.gap, "nothing was missed, so there is no gap");
}

#[test]
fn what_comes_while_a_page_is_made_is_not_told_as_more_of_it() {
    let hub = hub("[history]\nevents = 100000");
    let first = publish(&hub, "a", 1, 0).expect("there is room");
    let mut readers = [Reader::new(first, Some(find(&hub, "a")))];
    std::thread::scope(|scope| {
        let publisher =
            scope.spawn(|| (1..20_000).for_each(|step| assert!(publish(&hub, "a", 1, step).is_ok())));
        while !publisher.is_finished() {
            let mut events = Vec::new();
            let more = gather(&mut readers, usize::MAX, usize::MAX, &mut events).expect("retained");
            // A held poll would end for it without the event.
            assert!(!more, "a page with room left says that there is more");
        }
    });
}
