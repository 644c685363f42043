//! Fixing a cursor and reading history must have no race with live events: 2,000 subscribers join with random
//! earlier ids, are cut off and resume over other transports, all while one publisher publishes at full speed.

use std::time::{Duration, Instant};

use tidewire_conformance::crowd::{Crowd, Ids, Over, Publisher};
use tidewire_conformance::random::Random;
use tidewire_conformance::server::Server;

const MEMBERS: usize = 2_000;
/// Before the first member, for each 40 members that join, and at the end.
const EVENTS: (usize, usize, usize) = (200, 20, 300);

#[test]
fn every_subscriber_sees_each_event_after_its_own_once_and_in_order() -> Result<(), String> {
    rlimit::increase_nofile_limit(20_000).map_err(|error| error.to_string())?;
    let mut random = Random::from_environment("concurrency");
    let begun = Instant::now();
    let server = Server::start("")?;
    let ids = Ids::default();
    let mut publisher = Publisher::start(&server.url, "crowd", 0, &ids)?;
    let mut crowd = Crowd::new(server.authority(), "crowd", ids.clone())?;
    let mut allowed = EVENTS.0;
    publisher.allow(allowed);
    publisher.wait(Duration::from_secs(10))?;
    while crowd.size() < MEMBERS {
        if crowd.size().is_multiple_of(40) {
            allowed += EVENTS.1;
            publisher.allow(allowed);
            crowd.turn(Duration::ZERO)?;
        }
        // Any earlier event; the latest of all more often, as that is where history meets what is live.
        let published = ids.count();
        let seen = if random.below(2) == 0 { published } else { random.below(published + 1) };
        crowd.join(Over::any(&mut random), seen)?;
    }
    for _ in 0..3 {
        allowed += EVENTS.2 / 3;
        publisher.allow(allowed);
        crowd.move_some(4, &mut random)?;
        crowd.turn(Duration::ZERO)?;
    }
    // Reading goes on while the last events are published: nobody may be lost to a full socket.
    while ids.count() < allowed && !publisher.failed() {
        crowd.turn(Duration::from_millis(5))?;
    }
    publisher.wait(Duration::from_secs(10))?;
    crowd.catch_up(Duration::from_secs(20))?;
    println!("{} members, {allowed} events, {:?}", crowd.size(), begun.elapsed());
    publisher.finish()
}

/// What cannot fail checks nothing: members whose events were evicted must complain, over each transport.
#[test]
fn a_crowd_notices_what_it_missed() -> Result<(), String> {
    let server = Server::start("[history]\nevents = 10\n")?;
    let ids = Ids::default();
    let mut publisher = Publisher::start(&server.url, "crowd", 0, &ids)?;
    publisher.allow(100);
    publisher.wait(Duration::from_secs(10))?;
    for over in [Over::WebSocket, Over::Sse, Over::LongPoll] {
        for seen in [0, 50] {
            let mut crowd = Crowd::new(server.authority(), "crowd", ids.clone())?;
            crowd.join(over, seen)?;
            let outcome = crowd.catch_up(Duration::from_secs(5));
            let missed = outcome
                .as_ref()
                .is_err_and(|error| error.contains("expected event") || error.contains("gap"));
            if !missed {
                return Err(format!("over {over:?} after event {seen}: {outcome:?}"));
            }
        }
    }
    publisher.finish()
}
