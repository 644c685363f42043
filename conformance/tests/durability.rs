//! The server is killed without warning, again and again, under load: what was acknowledged is in the log once
//! and in order, what was not is there whole or not at all, and every subscriber resumes without a gap.
//! `TIDEWIRE_KILLS` sets how often (12); the seed is printed, and `TIDEWIRE_SEED` repeats it.

use std::time::{Duration, Instant};

use tidewire_conformance::durable::body::Body;
use tidewire_conformance::durable::crew::{Crew, KEEP_ALL, kills};
use tidewire_conformance::durable::history::{Logged, read_all};
use tidewire_conformance::http;
use tidewire_conformance::launch::Launch;
use tidewire_conformance::random::Random;
use tidewire_conformance::scratch::Scratch;
use tidewire_conformance::server::Server;

type Outcome = Result<(), String>;

const CHANNEL: &str = "killed";
/// The log is compared as a whole after so many kills, and at the end.
const CHECK_EACH: usize = 10;

fn kill_again_and_again(name: &str, kills: usize, config: &str, random: &mut Random) -> Outcome {
    let scratch = Scratch::new(name)?;
    let launch = Launch::on(&scratch.join("data")).config(config);
    let mut crew = Crew::start(CHANNEL, random)?;
    let outcome = rounds(&mut crew, &launch, kills, random);
    crew.end(outcome)
}

fn rounds(crew: &mut Crew, launch: &Launch, kills: usize, random: &mut Random) -> Outcome {
    for number in 1..=kills {
        let mut server = start(crew, launch, number)?;
        crew.live(random)?;
        crew.place.down();
        server.kill();
        // In some rounds it does not even get up: finding the log must survive that as well.
        if random.below(4) == 0 {
            launch.kill_after(Duration::from_micros(random.below(60_000) as u64))?;
        }
    }
    let mut server = start(crew, launch, kills + 1)?;
    let log = crew.finish(&server)?;
    println!("{} events, {} acknowledged, {kills} kills", log.len(), crew.ledger.acknowledged());
    server.stop().map(drop)
}

/// Before anybody else may visit it, a started server is asked for all that it has been told.
fn start(crew: &Crew, launch: &Launch, number: usize) -> Result<Server, String> {
    let begun = Instant::now();
    let server = launch.serve().map_err(|error| format!("start {number}: {error}"))?;
    if begun.elapsed() > Duration::from_secs(5) {
        println!("start {number} took {:?}", begun.elapsed());
    }
    if number % CHECK_EACH == 2 {
        let log = read_all(&server.url, CHANNEL)?;
        crew.ledger.check(&log).map_err(|error| format!("after start {number}: {error}"))?;
    }
    crew.place.up(&server.url);
    Ok(server)
}

#[test]
fn nothing_acknowledged_is_lost_to_any_number_of_kills() -> Outcome {
    let mut random = Random::from_environment("kills");
    kill_again_and_again("kills", kills(), KEEP_ALL, &mut random)
}

/// What cannot fail checks nothing: a server that keeps this channel in memory must be found out.
#[test]
fn a_server_that_forgets_is_noticed() -> Outcome {
    let mut random = Random::from_environment("forgets");
    let config = format!("durability = \"memory\"\n{KEEP_ALL}");
    match kill_again_and_again("forgets", 4, &config, &mut random) {
        Err(error)
            if ["gap", "epoch", "follows", "not in the log"].iter().any(|word| error.contains(word)) =>
        {
            Ok(())
        }
        other => Err(format!("expected loss to be noticed, got {other:?}")),
    }
}

#[test]
fn a_stop_and_a_start_change_nothing() -> Outcome {
    let mut random = Random::from_environment("stop and start");
    let scratch = Scratch::new("stop")?;
    let launch = Launch::on(&scratch.join("data"));
    let mut before: Vec<(String, Vec<Logged>, serde_json::Value)> = Vec::new();
    for round in 0..4 {
        let mut server = launch.serve()?;
        for (channel, log, snapshot) in &before {
            let now = read_all(&server.url, channel)?;
            if now != *log {
                return Err(format!("{channel} was {log:?}, is {now:?}"));
            }
            let now = get(&server, &format!("/v1/channels/{channel}"))?;
            if now != *snapshot {
                return Err(format!("the snapshot of {channel} was {snapshot}, is {now}"));
            }
        }
        before.clear();
        for channel in ["a", "b:1", "b:2"] {
            for number in 0..5 {
                publish_with_all_parts(&server, channel, round * 5 + number, &mut random)?;
            }
            let log = read_all(&server.url, channel)?;
            if log.len() != (round + 1) * 5 {
                return Err(format!("{channel} has {} events in round {round}", log.len()));
            }
            before.push((channel.to_owned(), log, get(&server, &format!("/v1/channels/{channel}"))?));
        }
        if round % 2 == 0 {
            server.stop()?;
        } else {
            server.kill();
        }
    }
    Ok(())
}

fn publish_with_all_parts(server: &Server, channel: &str, number: usize, random: &mut Random) -> Outcome {
    let body = Body::random(random, 0, number);
    let mut head = vec![("content-type".to_owned(), body.content_type().to_owned())];
    if random.below(2) == 0 {
        head.push(("tidewire-event".to_owned(), format!("name {number}")));
    }
    if random.below(2) == 0 {
        head.push(("tidewire-key".to_owned(), format!("key {}", number % 3)));
    }
    if matches!(body, Body::Bytes(_)) {
        head[0].1 = format!("image/x-{number}");
    }
    let agent = http::agent(Duration::from_secs(20));
    let url = format!("{}/v1/channels/{channel}/events", server.url);
    let answer = http::exchange(&agent, "POST", &url, &head, Some(body.bytes()))?;
    if answer.status == 201 { Ok(()) } else { Err(format!("{} {}", answer.status, answer.text())) }
}

fn get(server: &Server, path: &str) -> Result<serde_json::Value, String> {
    let agent = http::agent(Duration::from_secs(20));
    http::exchange(&agent, "GET", &format!("{}{path}", server.url), &[], None)?.json()
}
