//! What several servers do at the same moment at one broker, of each kind: one of two equal publishes counts, a state is
//! what the log adds up to, and many channels and large events get in nobody's way. The seed is printed, and
//! `TIDEWIRE_SEED` repeats it.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::time::Duration;

use serde_json::Value;
use tidewire_conformance::broker::Kind;
use tidewire_conformance::http;
use tidewire_conformance::launch::Launch;
use tidewire_conformance::random::Random;
use tidewire_conformance::server::Server;

type Outcome = Result<(), String>;

const CONFIG: &str = "[[channels]]\npattern = \"state:*\"\nstate = \"keyed\"\n";
const SERVERS: usize = 3;

tidewire_conformance::with_each_broker! {
    a_key_that_is_used_everywhere_at_once_makes_one_event
    a_state_is_what_the_log_adds_up_to
    many_channels_and_large_events_are_all_there
}

fn servers(kind: Kind) -> Result<(impl Sized, Vec<Server>), String> {
    let broker = kind.start()?;
    let launch = Launch::sharing(&broker.url("test")).config(CONFIG);
    let servers = (0..SERVERS).map(|_| launch.serve()).collect::<Result<Vec<_>, _>>()?;
    Ok((broker, servers))
}

/// Publishes, and gives the status, the id, and whether it was there before.
fn publish(
    agent: &ureq::Agent,
    server: &Server,
    channel: &str,
    head: &[(&str, &str)],
    body: &[u8],
) -> Result<(u16, String), String> {
    let url = format!("{}/v1/channels/{channel}/events", server.url);
    let head: Vec<_> = head.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let answer = http::exchange(agent, "POST", &url, &head, Some(body))?;
    match answer.status {
        200 | 201 => {
            Ok((answer.status, answer.json()?["id"].as_str().ok_or("an answer without an id")?.to_owned()))
        }
        status => Err(format!("{channel}: {status} {}", answer.text())),
    }
}

fn get(server: &Server, path: &str) -> Result<Value, String> {
    let agent = http::agent(Duration::from_secs(20));
    let answer = http::exchange(&agent, "GET", &format!("{}{path}", server.url), &[], None)?;
    if answer.status == 200 { answer.json() } else { Err(format!("{path}: {}", answer.text())) }
}

/// All events of a channel, as one server has them.
fn events(server: &Server, channel: &str) -> Result<Vec<Value>, String> {
    let (mut all, mut since) = (Vec::new(), "earliest".to_owned());
    loop {
        let page = get(server, &format!("/v1/channels/{channel}/events?limit=1000&since={since}"))?;
        all.extend(page["events"].as_array().cloned().unwrap_or_default());
        if page["more"] != true {
            return Ok(all);
        }
        page["cursor"].as_str().unwrap_or_default().clone_into(&mut since);
    }
}

/// Everybody does the same thing at the same time, again and again, each on a server of its own.
fn all_at_once<T: Send>(
    servers: &[Server],
    rounds: usize,
    act: impl Fn(&ureq::Agent, &Server, usize, usize) -> Result<T, String> + Sync,
) -> Result<Vec<Vec<T>>, String> {
    let barrier = Barrier::new(servers.len());
    let work = |index: usize| {
        let agent = http::agent(Duration::from_secs(20));
        let round = |round| {
            barrier.wait();
            act(&agent, &servers[index], index, round)
        };
        // Whoever fails still comes to the barrier, or the others would wait for ever.
        (0..rounds).map(round).collect::<Vec<_>>().into_iter().collect::<Result<Vec<_>, _>>()
    };
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..servers.len()).map(|index| scope.spawn(move || work(index))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?).collect()
    })
}

fn a_key_that_is_used_everywhere_at_once_makes_one_event(kind: Kind) -> Outcome {
    const ROUNDS: usize = 100;
    let (_broker, servers) = servers(kind)?;
    let said = all_at_once(&servers, ROUNDS, |agent, server, index, round| {
        // Some that concern nobody, so that the channel is on the move.
        publish(agent, server, "once", &[], format!("{index}").as_bytes())?;
        let key = format!("\"key-{round}\"");
        publish(agent, server, "once", &[("idempotency-key", &key)], format!("\"one {round}\"").as_bytes())
    })?;
    for round in 0..ROUNDS {
        let answers: Vec<_> = said.iter().map(|answers| &answers[round]).collect();
        let created = answers.iter().filter(|(status, _)| *status == 201).count();
        if created != 1 || answers.iter().any(|(_, id)| *id != answers[0].1) {
            return Err(format!("round {round}: {answers:?}"));
        }
    }
    for server in &servers {
        let all = events(server, "once")?;
        let once = all.iter().filter(|event| event["data"].is_string()).count();
        if (once, all.len()) != (ROUNDS, ROUNDS * (SERVERS + 1)) {
            return Err(format!("{once} of {} events have a key", all.len()));
        }
    }
    Ok(())
}

fn a_state_is_what_the_log_adds_up_to(kind: Kind) -> Outcome {
    const ROUNDS: usize = 150;
    let mut random = Random::from_environment("state");
    let plan: Vec<Vec<(usize, bool)>> = (0..SERVERS)
        .map(|_| (0..ROUNDS).map(|_| (random.below(5), random.below(4) == 0)).collect())
        .collect();
    let (_broker, servers) = servers(kind)?;
    all_at_once(&servers, ROUNDS, |agent, server, index, round| {
        let (key, is_removed) = plan[index][round];
        let body = if is_removed { "null".to_owned() } else { format!("[{index},{round}]") };
        publish(agent, server, "state:a", &[("tidewire-key", &format!("k{key}"))], body.as_bytes())
    })?;
    let log = events(&servers[0], "state:a")?;
    let mut sum: BTreeMap<String, &Value> = BTreeMap::new();
    for event in &log {
        let key = event["key"].as_str().unwrap_or_default().to_owned();
        if event["data"].is_null() {
            sum.remove(&key);
        } else {
            sum.insert(key, event);
        }
    }
    let mut expected: Vec<_> =
        sum.values().map(|event| (event["id"].clone(), event["data"].clone())).collect();
    expected.sort_by_key(|(id, _)| id.to_string());
    for server in &servers {
        let snapshot = get(server, "/v1/channels/state:a")?;
        let state = snapshot["state"].as_array().ok_or("a snapshot without a state")?;
        let mut found: Vec<_> =
            state.iter().map(|event| (event["id"].clone(), event["data"].clone())).collect();
        found.sort_by_key(|(id, _)| id.to_string());
        if found != expected || snapshot["cursor"] != log[log.len() - 1]["id"] {
            return Err(format!("the state is {snapshot}, the log adds up to {expected:?}"));
        }
    }
    Ok(())
}

fn many_channels_and_large_events_are_all_there(kind: Kind) -> Outcome {
    const CHANNELS: usize = 400;
    /// What every kind of broker takes where nobody has set anything.
    const LARGE: usize = 900 << 10;
    let (_broker, servers) = servers(kind)?;
    all_at_once(&servers, CHANNELS, |agent, server, index, round| {
        let channel = format!("many:{}.{}", (round * 7 + index * 13) % CHANNELS, "~x");
        publish(agent, server, &channel, &[], format!("{index}").as_bytes())?;
        if round.is_multiple_of(40) {
            let large = format!("\"{}\"", "y".repeat(LARGE - index));
            publish(agent, server, "large", &[], large.as_bytes())?;
        }
        Ok(())
    })?;
    for (index, server) in servers.iter().enumerate() {
        for channel in (index..CHANNELS).step_by(SERVERS) {
            let all = events(server, &format!("many:{channel}.~x"))?;
            if all.len() != SERVERS {
                return Err(format!("channel {channel} has {} events: {all:?}", all.len()));
            }
        }
        let page = get(server, "/v1/channels/large/events?limit=1000")?;
        let sizes: Vec<usize> = page["events"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|event| event["data"].as_str().unwrap_or_default().len())
            .collect();
        let is_whole = sizes.iter().all(|size| (LARGE - SERVERS..=LARGE).contains(size));
        if !is_whole || sizes.is_empty() {
            return Err(format!("large events are {sizes:?}"));
        }
    }
    Ok(())
}
