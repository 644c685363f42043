use bytes::Bytes;
use proptest::prelude::*;
use tidewire_core::event::Payload;
use tidewire_core::{ChannelName, Epoch, Event, EventId, NewEvent, Timestamp, record};

use super::super::words::{self, Body, Stamp, Terms};
use super::{Machine, Outcome};

const MINUTE_MS: u64 = 60_000;
const AGE_MS: u64 = 60 * MINUTE_MS;

/// What somebody does.
#[derive(Debug, Clone)]
enum Deed {
    Publish {
        channel: u8,
        key: Option<u8>,
        receipt: Option<u8>,
        size: u8,
        keeps: bool,
    },
    Remove {
        channel: u8,
        key: u8,
    },
    Begin {
        channel: u8,
    },
    Delete {
        channel: u8,
    },
    Once {
        ticket: u8,
    },
    Announce {
        subject: u8,
        what: u8,
    },
    Forget {
        subject: u8,
        what: u8,
    },
    Leap {
        is_lossy: bool,
    },
    /// What has a serial that came before, or another base.
    Stale {
        channel: u8,
    },
    /// Somebody finds out what to say again, and says it after so many other deeds.
    Again {
        after: u8,
    },
}

fn deed() -> impl Strategy<Value = Deed> {
    let channel = 0_u8..3;
    prop_oneof![
        8 => (channel.clone(), proptest::option::of(0_u8..3), proptest::option::of(0_u8..3), 0_u8..40, 0_u8..8)
            .prop_map(|(channel, key, receipt, size, keeps)| {
                Deed::Publish { channel, key, receipt, size, keeps: keeps > 0 }
            }),
        2 => (channel.clone(), 0_u8..3).prop_map(|(channel, key)| Deed::Remove { channel, key }),
        1 => channel.clone().prop_map(|channel| Deed::Begin { channel }),
        1 => channel.clone().prop_map(|channel| Deed::Delete { channel }),
        1 => (0_u8..3).prop_map(|ticket| Deed::Once { ticket }),
        1 => (0_u8..2, 0_u8..2).prop_map(|(subject, what)| Deed::Announce { subject, what }),
        1 => (0_u8..2, 0_u8..2).prop_map(|(subject, what)| Deed::Forget { subject, what }),
        1 => any::<bool>().prop_map(|is_lossy| Deed::Leap { is_lossy }),
        1 => channel.prop_map(|channel| Deed::Stale { channel }),
        3 => (0_u8..4).prop_map(|after| Deed::Again { after }),
    ]
}

/// How long it takes until the next: mostly little.
fn pause_ms() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0..MINUTE_MS, 3 => 0..30 * MINUTE_MS, 1 => 0..30 * 60 * MINUTE_MS]
}

/// A log, and one who has read all of it.
struct World {
    log: Vec<(Bytes, Bytes)>,
    machine: Machine,
    now_ms: u64,
    serial: u64,
}

fn name(channel: u8) -> ChannelName {
    ChannelName::new(&format!("c{channel}")).expect("a name")
}

fn event(channel: u8, key: Option<u8>, data: String) -> Bytes {
    let key = key.map(|key| format!("k{key}"));
    let new = NewEvent::new(Payload::sniffed(Bytes::from(data)));
    let new = new.with(None, key.as_deref(), None).expect("right");
    let id = EventId { epoch: Epoch::derive(0, ""), offset: 0 };
    Bytes::from(record::encode(&Event::new(id, Timestamp(0), name(channel), new), 0))
}

impl World {
    fn new() -> Self {
        let (log, machine) = (Vec::new(), Machine::from(0));
        let mut world = Self { log, machine, now_ms: 1_760_000_000_000, serial: 0 };
        world.say("", Body::Leap { before: 0, base: world.now_ms, is_lossy: false });
        world.say("", Body::Known { number: 7, secret: [1; 32], partitions: 4 });
        world
    }

    fn say(&mut self, key: &str, body: Body) -> String {
        self.serial += 1;
        self.say_as(key.as_bytes(), self.serial, self.machine.base, &body)
    }

    fn say_as(&mut self, key: &[u8], serial: u64, base: u64, body: &Body) -> String {
        // Not random, so that a failure comes again.
        let nonce = (self.log.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7;
        let stamp = Stamp { base, node: 1, serial, nonce, time_ms: self.now_ms };
        let (key, value) = (Bytes::copy_from_slice(key), words::encode(&stamp, body));
        let position = self.log.len() as u64;
        let (_, outcome) = self.machine.take(position, &key, &value);
        self.log.push((key, value));
        shown(&outcome)
    }

    /// Does it, and gives what the records have done.
    fn act(&mut self, deed: &Deed) -> Vec<String> {
        let (before, key) = (self.machine.base, |channel: &u8| format!("c{channel}"));
        let said = match deed {
            Deed::Publish { channel, key: held, receipt, size, keeps } => {
                let is_keyed = held.is_some() && *keeps;
                let (receipt_ms, receipts) = (2 * AGE_MS, 5);
                let terms = Terms {
                    events: 4,
                    bytes: 60,
                    age_ms: AGE_MS,
                    receipt_ms,
                    receipts,
                    keeps: *keeps,
                    is_keyed,
                };
                let record = event(*channel, *held, "x".repeat(usize::from(*size) + 1));
                let receipt = receipt.map(|receipt| (format!("r{receipt}").into(), [*size; 20]));
                self.say(&key(channel), Body::Event { terms, receipt, record })
            }
            Deed::Remove { channel, key: held } => {
                let terms = Terms {
                    events: 4,
                    bytes: 60,
                    age_ms: AGE_MS,
                    receipt_ms: 1,
                    receipts: 0,
                    keeps: true,
                    is_keyed: true,
                };
                let record = event(*channel, Some(*held), String::new());
                self.say(&key(channel), Body::Event { terms, receipt: None, record })
            }
            Deed::Begin { channel } => self.say(&key(channel), Body::Begin),
            Deed::Delete { channel } => self.say(&key(channel), Body::Delete),
            Deed::Once { ticket } => self.say(&format!("t{ticket}"), Body::Once { keep_ms: 5 * MINUTE_MS }),
            Deed::Announce { subject, what } => {
                let (subject, what) = (format!("s{subject}"), format!("w{what}"));
                self.say("", Body::Announce { is_kept: true, is_again: false, subject, what })
            }
            Deed::Forget { subject, what } => {
                self.say("", Body::Forget { subject: format!("s{subject}"), what: format!("w{what}") })
            }
            Deed::Leap { is_lossy } => {
                let base = (before + 1_000).max(self.now_ms);
                self.say("", Body::Leap { before, base, is_lossy: *is_lossy })
            }
            Deed::Stale { channel } => {
                let late = Body::Leap { before: before - 1, base: before + 1, is_lossy: true };
                self.say("", late);
                let serial = self.serial / 2;
                self.say_as(key(channel).as_bytes(), serial, before - 1, &Body::Begin);
                self.say_as(key(channel).as_bytes(), serial, before, &Body::Begin);
                return Vec::new();
            }
            Deed::Again { .. } => return Vec::new(),
        };
        vec![said]
    }

    fn say_again(&mut self, again: Vec<(Bytes, Body)>) -> Vec<String> {
        again
            .into_iter()
            .map(|(key, body)| {
                self.serial += 1;
                self.say_as(&key, self.serial, self.machine.base, &body)
            })
            .collect()
    }

    /// One who begins where the log may begin, once all that is before is said again. None if it cannot be now.
    fn latecomer(&mut self) -> Option<(Machine, u64)> {
        let front = self.machine.front(self.now_ms, None);
        for _ in 0..3 {
            let again = self.machine.again(front, self.now_ms, 100);
            if again.is_empty() {
                let mut late = Machine::from(front);
                for (position, (key, value)) in self.log.iter().enumerate().skip(front as usize) {
                    late.take(position as u64, key, value);
                }
                return Some((late, front));
            }
            self.say_again(again);
        }
        None
    }
}

fn shown(outcome: &Outcome) -> String {
    format!("{outcome:?}")
}

/// What a machine says of all that anybody can ask.
fn view(machine: &mut Machine, now_ms: u64) -> String {
    let mut view = format!("{} {:?}", machine.base, machine.shared.map(|shared| shared.number));
    let mut names: Vec<ChannelName> = machine.channels.keys().cloned().collect();
    names.sort_by(|one, two| one.as_str().cmp(two.as_str()));
    for name in names {
        let lost = machine.lost;
        let Some(channel) = machine.channels.get_mut(&name) else { continue };
        let mut state: Vec<_> =
            channel.state.values().map(|held| (held.offset, held.time_ms, held.record.clone())).collect();
        state.sort_by_key(|held| held.0);
        if !state.is_empty() {
            view += &format!("\n{name} {} {state:?}", channel.state_bytes);
        }
        if !channel.is_forgotten(now_ms) {
            channel.expire(now_ms, AGE_MS);
            let may_lack = channel.standing(lost).may_lack;
            let (head, floor, kept, seams) = (channel.head, channel.floor, &channel.kept, &channel.seams);
            view += &format!("\n{name} {head} {floor} {may_lack} {kept:?} {seams:?}");
        }
    }
    let board: Vec<_> = machine.board.iter().map(|(subject, (what, _))| (subject, what)).collect();
    let mut once: Vec<_> =
        machine.once.iter().filter(|(_, (until_ms, _))| *until_ms > now_ms).map(|(key, _)| key).collect();
    once.sort();
    view + &format!("\n{board:?} {once:?}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whoever begins where the log begins after its front was deleted is of one mind with those who have read all of
    /// it, now and on all that comes.
    #[test]
    fn latecomers_are_of_one_mind_with_all_others(
        deeds in proptest::collection::vec((deed(), pause_ms()), 1..60),
        later in proptest::collection::vec((deed(), pause_ms()), 1..30),
    ) {
        let mut world = World::new();
        let mut owed: Vec<(u8, Vec<(Bytes, Body)>)> = Vec::new();
        for (deed, pause_ms) in &deeds {
            world.now_ms += pause_ms;
            if let Deed::Again { after } = deed {
                let front = world.machine.front(world.now_ms, None);
                owed.push((*after, world.machine.again(front, world.now_ms, 100)));
            }
            world.act(deed);
            let (due, rest): (Vec<_>, Vec<_>) = owed.into_iter().partition(|(after, _)| *after == 0);
            due.into_iter().for_each(|(_, again)| drop(world.say_again(again)));
            owed = rest.into_iter().map(|(after, again)| (after - 1, again)).collect();
        }
        let Some((mut late, front)) = world.latecomer() else { return Ok(()) };
        prop_assert_eq!(view(&mut late, world.now_ms), view(&mut world.machine, world.now_ms), "from {}", front);
        for (deed, pause_ms) in &later {
            world.now_ms += pause_ms;
            let (from, said) = (world.log.len(), world.act(deed));
            for (at, (key, value)) in world.log.iter().enumerate().skip(from) {
                let (_, outcome) = late.take(at as u64, key, value);
                if let Some(said) = said.get(at - from) {
                    prop_assert_eq!(&shown(&outcome), said, "from {} at {}: {:?}", front, at, deed);
                }
            }
        }
        prop_assert_eq!(view(&mut late, world.now_ms), view(&mut world.machine, world.now_ms), "from {}", front);
    }

    /// Offsets rise, each event says which came before it, and what is kept is what the terms say.
    #[test]
    fn events_say_what_came_before_them(deeds in proptest::collection::vec((deed(), pause_ms()), 1..80)) {
        let mut world = World::new();
        for (deed, pause_ms) in &deeds {
            world.now_ms += pause_ms;
            world.act(deed);
            for channel in world.machine.channels.values() {
                let offsets: Vec<u64> = channel.kept.iter().map(|kept| kept.offset).collect();
                prop_assert!(offsets.is_sorted() && offsets.len() <= 4);
                prop_assert!(channel.floor <= channel.head);
                prop_assert!(offsets.first().is_none_or(|first| *first > channel.floor));
                prop_assert!(offsets.last().is_none_or(|last| *last == channel.head));
                prop_assert_eq!(channel.state_bytes, channel.state.values().map(|held| held.bytes).sum::<u64>());
            }
        }
    }
}

#[test]
fn what_was_lost_is_told_with_the_next_event_once() {
    let mut world = World::new();
    let publish = Deed::Publish { channel: 0, key: None, receipt: None, size: 1, keeps: true };
    world.act(&publish);
    let before = world.machine.channels[&name(0)].head;
    world.act(&Deed::Leap { is_lossy: true });
    assert!(world.act(&publish)[0].contains("is_lossy: true"));
    assert!(world.act(&publish)[0].contains("is_lossy: false"));
    let channel = &world.machine.channels[&name(0)];
    let [seam] = channel.seams.iter().copied().collect::<Vec<_>>()[..] else { panic!("not one seam") };
    assert_eq!((seam.from, seam.to, seam.lossy), (before, channel.kept[1].offset - 1, true));
}

#[test]
fn two_who_find_the_same_loss_tell_of_it_once() {
    let mut world = World::new();
    let (before, base) = (world.machine.base, world.machine.base + 5_000);
    world.say("", Body::Leap { before, base, is_lossy: true });
    let said = world.say("", Body::Leap { before, base: base + 9, is_lossy: true });
    assert_eq!((&*said, world.machine.base), ("Void", base));
}

#[test]
fn a_record_that_comes_twice_or_late_does_nothing() {
    let mut world = World::new();
    let base = world.machine.base;
    assert_eq!(world.say_as(b"c0", 10, base, &Body::Begin), "Done");
    assert_eq!(world.say_as(b"c1", 10, base, &Body::Begin), "Void");
    assert_eq!(world.say_as(b"c1", 9, base, &Body::Begin), "Void");
    assert_eq!(world.say_as(b"c1", 11, base - 1, &Body::Begin), "Void");
    assert_eq!(world.say_as(b"c1", 11, base, &Body::Begin), "Done");
}
