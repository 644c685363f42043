//! Readers that open and never read cost no memory beyond what the limits say, hurt nobody, are closed, and
//! lose nothing: with the last id that they have they go on.

use std::time::{Duration, Instant};

use tidewire_conformance::crowd::{Crowd, End, Ids, Member, Over, Publisher};
use tidewire_conformance::random::Random;
use tidewire_conformance::server::{Server, wait_until};

const STALLED: usize = 2_000;
/// So many of them come back: each has most of the history to read.
const RESUMING: usize = 50;
const HEALTHY: usize = 30;
const EVENTS: usize = 2_000;
const PADDING: usize = 2_000;
const CONFIG: &str = "[history]\nevents = 10000\nbytes = 8388608\n\
                      [limits]\nlag_events = 500\nstall_timeout_ms = 4000\nclose_timeout_ms = 60000\nheartbeat_ms = 600000\n";

/// What the limits allow: the history and its wire forms, and a little for each connection.
const RESIDENT_BYTES_MAX: usize = 3 * (8 << 20) + STALLED * (8 << 10);

#[test]
fn stalled_readers_cost_little_and_lose_nothing() -> Result<(), String> {
    rlimit::increase_nofile_limit(20_000).map_err(|error| error.to_string())?;
    let mut random = Random::from_environment("slow consumers");
    let begun = Instant::now();
    let server = Server::start(CONFIG)?;
    let address = server.authority();
    let before = server.resident_bytes()?;
    let ids = Ids::default();
    let mut stalled = Vec::new();
    for number in 0..STALLED {
        let over = if number % 2 == 0 { Over::WebSocket } else { Over::Sse };
        stalled.push(Member::connect_narrow(address, "slow", over, 0, &ids)?);
    }
    subscribe(&mut stalled, &ids)?;
    let mut crowd = Crowd::new(address, "slow", ids.clone())?;
    for _ in 0..HEALTHY {
        crowd.join(Over::any(&mut random), 0)?;
    }
    let mut publisher = Publisher::start(&server.url, "slow", PADDING, &ids)?;
    let mut most = 0;
    // At a pace that a healthy reader can follow: it has its own limit of lag.
    for step in 1..=EVENTS / 100 {
        publisher.allow(step * 100);
        while ids.count() < step * 100 && !publisher.failed() {
            crowd.turn(Duration::from_millis(5))?;
        }
        publisher.wait(Duration::from_secs(10))?;
        crowd.catch_up(Duration::from_secs(10))?;
        most = most.max(server.resident_bytes()?);
    }
    println!(
        "resident: {before} bytes before, {most} at most, {RESIDENT_BYTES_MAX} allowed; {:?}",
        begun.elapsed()
    );
    if most > before + RESIDENT_BYTES_MAX {
        return Err(format!("{most} bytes resident, {RESIDENT_BYTES_MAX} more than {before} allowed"));
    }
    let told = all_are_closed(&mut stalled, &ids)?;
    let seen: usize = stalled.iter().map(|member| member.seen).sum();
    println!(
        "closed with 4001: {told} of {}, after {} events on average; {:?}",
        STALLED / 2,
        seen / STALLED,
        begun.elapsed()
    );
    if told < STALLED / 4 {
        return Err(format!("only {told} of {} WebSockets were told 4001", STALLED / 2));
    }
    publisher.finish()?;
    for member in stalled.iter().step_by(STALLED / RESUMING + 1) {
        crowd.join(Over::any(&mut random), member.seen)?;
        crowd.turn(Duration::ZERO)?;
    }
    crowd.catch_up(Duration::from_secs(30))?;
    println!("all have everything; {:?}", begun.elapsed());
    Ok(())
}

/// Reads until the server's head is there, so that the WebSockets subscribe; then nobody reads any more.
fn subscribe(stalled: &mut [Member], ids: &Ids) -> Result<(), String> {
    for member in stalled {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !member.is_subscribed() {
            member.read("slow", ids)?;
            if Instant::now() > deadline {
                return Err(format!("{member:?} got no answer"));
            }
        }
    }
    Ok(())
}

/// Drains each: it must end, a WebSocket with 4001 where it could still be told. Returns how many were told.
fn all_are_closed(stalled: &mut [Member], ids: &Ids) -> Result<usize, String> {
    stalled.iter().try_for_each(Member::widen)?;
    let mut read_all = || {
        let mut open = 0;
        for member in stalled.iter_mut() {
            member.read("slow", ids)?;
            open += usize::from(member.end.is_none());
        }
        Ok::<_, String>(open == 0)
    };
    let mut outcome = Ok(true);
    wait_until("every stalled reader is closed", Duration::from_secs(60), || {
        outcome = read_all();
        !matches!(outcome, Ok(false))
    })?;
    outcome?;
    for member in stalled.iter() {
        match (&member.end, member.seen) {
            (_, EVENTS) => return Err(format!("{member:?} has everything: it never stalled")),
            (Some(End::Closed(4001) | End::Cut), _) => {}
            (other, _) => return Err(format!("{member:?} was closed with {other:?}, not 4001")),
        }
    }
    Ok(stalled.iter().filter(|member| member.end == Some(End::Closed(4001))).count())
}
