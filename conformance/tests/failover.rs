//! A broker that takes over from another one, in each way there is: what was acknowledged once more than one had it is
//! there, in order and once, and where there may be less, everybody is told so.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tidewire_conformance::broker::Replication;
use tidewire_conformance::client::{self, Ask, Client, Connected, Item};
use tidewire_conformance::durable::reader::OVER;
use tidewire_conformance::http;
use tidewire_conformance::launch::Launch;
use tidewire_conformance::server::{Server, wait_until};

type Outcome = Result<(), String>;

const CHANNEL: &str = "shared";
/// How often a master dies.
const KILLS: usize = 2;
const CONFIG: &str = "[limits]\nbackplane_timeout_ms = 2000\n";

/// Publishes one event after the other until told to stop, and says which were acknowledged. Each is tried until it is,
/// with a key that makes it one.
fn publish_until(url: &str, stop: &AtomicBool, count: &AtomicUsize) -> Result<Vec<String>, String> {
    let agent = http::agent(Duration::from_secs(20));
    let url = format!("{url}/v1/channels/{CHANNEL}/events");
    let mut ids = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        ids.push(publish(&agent, &url, ids.len())?);
        count.store(ids.len(), Ordering::Relaxed);
        tidewire_conformance::server::pause();
    }
    Ok(ids)
}

fn publish(agent: &ureq::Agent, url: &str, number: usize) -> Result<String, String> {
    let deadline = Instant::now() + Duration::from_secs(40);
    let key = format!("\"event-{number}\"");
    loop {
        let body = number.to_string();
        let answer = http::exchange(
            agent,
            "POST",
            url,
            &[("idempotency-key".to_owned(), key.clone())],
            Some(body.as_bytes()),
        )?;
        if matches!(answer.status, 200 | 201) {
            return Ok(answer.json()?["id"].as_str().unwrap_or_default().to_owned());
        }
        if answer.status != 503 || Instant::now() > deadline {
            return Err(format!("{} {}", answer.status, answer.text()));
        }
        tidewire_conformance::server::pause();
    }
}

fn subscriber(url: &str, over: &str, since: &str) -> Result<Box<dyn Client>, String> {
    let ask = Ask { channels: vec![CHANNEL.to_owned()], since: Some(since.to_owned()), ..Ask::default() };
    match (client::transport(over)?.connect)(url, &ask)? {
        Connected::Client(client) => Ok(client),
        Connected::Refused(refusal) => Err(format!("refused over {over}: {refusal:?}")),
    }
}

/// Reads until an event, and compares what came: all of `ids` behind the first, and a gap somewhere if
/// the broker may have lost events. Whoever was there
/// when a master died may have seen what that one told them of and nobody acknowledged.
fn all_came(
    over: &str,
    client: &mut dyn Client,
    ids: &[String],
    unacknowledged: usize,
    may_have_lost: bool,
) -> Outcome {
    let (mut came, mut gaps, mut others) = (Vec::new(), 0, 0);
    while came.last() != ids.last() {
        match client.next(Instant::now() + Duration::from_secs(20))? {
            Item::Event(event) => match event.id.filter(|id| ids.contains(id)) {
                Some(id) => came.push(id),
                None => others += 1,
            },
            Item::Gap(_) => gaps += 1,
            Item::Reconnect(_) => {}
            other => return Err(format!("over {over}: {other:?}")),
        }
    }
    if others > unacknowledged {
        return Err(format!("over {over}: {others} events came that nobody acknowledged"));
    }
    if (gaps > 0) != may_have_lost {
        return Err(format!("over {over}: {gaps} gaps; that events may be lost is {may_have_lost}"));
    }
    if came != ids[1..] {
        let missing: Vec<_> = ids[1..].iter().filter(|id| !came.contains(id)).take(3).collect();
        return Err(format!("over {over}: {} came of {}; missing {missing:?}", came.len(), ids.len() - 1));
    }
    Ok(())
}

/// A master is killed while there is work. Whoever stays, and whoever comes back on either server, gets everything.
fn takes_over(replication: Replication) -> Outcome {
    let mut broker = replication.start()?;
    let launch = Launch::sharing(&broker.url("test")).config(CONFIG);
    let servers: Vec<Server> = vec![launch.serve()?, launch.serve()?];
    let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let agent = http::agent(Duration::from_secs(20));
    let first = publish(&agent, &format!("{}/v1/channels/{CHANNEL}/events", servers[0].url), usize::MAX)?;
    let mut live: Vec<(&str, Box<dyn Client>)> = Vec::new();
    for over in OVER.iter().filter(|over| !over.contains("poll")) {
        live.push((over, subscriber(&servers[1].url, over, &first)?));
    }
    let mut ids = vec![first];
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| publish_until(&servers[0].url, &stop, &count));
        let harmed = (|| {
            for _ in 0..KILLS {
                worked(&count)?;
                broker.lose_leader(CHANNEL)?;
                broker.heal()?;
            }
            worked(&count)
        })();
        stop.store(true, Ordering::Relaxed);
        ids.extend(publisher.join().map_err(|_| "the publisher panicked".to_owned())??);
        harmed
    })
    .map_err(|error: String| format!("{error}\n{}\n{}", servers[0].log(), servers[1].log()))?;
    for (over, client) in &mut live {
        all_came(over, &mut **client, &ids, KILLS, broker.may_have_lost())?;
    }
    for server in &servers {
        for over in OVER {
            all_came(over, &mut *subscriber(&server.url, over, &ids[0])?, &ids, 0, broker.may_have_lost())?;
        }
    }
    println!("{} events", ids.len());
    Ok(())
}

/// Waits until more is acknowledged than now.
fn worked(count: &AtomicUsize) -> Outcome {
    let enough = count.load(Ordering::Relaxed) + 100;
    wait_until("events are published", Duration::from_secs(40), || count.load(Ordering::Relaxed) >= enough)
}

#[test]
fn a_master_that_sentinels_replace_loses_nothing_that_a_replica_had() -> Outcome {
    takes_over(Replication::Sentinel)
}

#[test]
fn a_master_of_a_cluster_that_is_replaced_loses_nothing_that_a_replica_had() -> Outcome {
    takes_over(Replication::RedisCluster)
}

#[test]
fn a_nats_that_leads_a_cluster_and_is_replaced_loses_nothing() -> Outcome {
    takes_over(Replication::NatsCluster)
}

#[test]
fn a_nats_that_hands_a_cluster_over_loses_nothing() -> Outcome {
    takes_over(Replication::GentleNatsCluster)
}

#[test]
fn a_leader_of_three_kafkas_that_is_replaced_loses_nothing() -> Outcome {
    takes_over(Replication::Kafka)
}
