//! Servers that share a broker, of each kind: whichever of them dies, whatever becomes of the broker or of the way to it,
//! what was acknowledged is there once and in order, and every subscriber gets all of it. `TIDEWIRE_KILLS` sets how often (12);
//! the seed is printed, and `TIDEWIRE_SEED` repeats it.

use std::time::{Duration, Instant};

use tidewire_conformance::broker::{Broker, Kind};
use tidewire_conformance::client::{self, Ask, Client, Connected, Item};
use tidewire_conformance::durable::crew::{Crew, KEEP_ALL, kills};
use tidewire_conformance::durable::reader::OVER;
use tidewire_conformance::http;
use tidewire_conformance::launch::Launch;
use tidewire_conformance::random::Random;
use tidewire_conformance::relay::Relay;
use tidewire_conformance::server::{Server, wait_until};

type Outcome = Result<(), String>;

const CHANNEL: &str = "shared";
/// How long the servers wait for the Redis.
const TIMEOUT_MS: u64 = 500;

/// Two servers, behind what leads each connection to the next.
struct Cluster {
    launches: Vec<Launch>,
    servers: Vec<Server>,
    relay: Relay,
}

impl Cluster {
    fn start(backplanes: &[String]) -> Result<Self, String> {
        let config = format!("{KEEP_ALL}backplane_timeout_ms = {TIMEOUT_MS}\n");
        let launches: Vec<Launch> =
            backplanes.iter().map(|url| Launch::sharing(url).config(&config)).collect();
        let servers = launches.iter().map(Launch::serve).collect::<Result<Vec<_>, _>>()?;
        let cluster = Self { launches, servers, relay: Relay::to(&[])? };
        cluster.lead();
        Ok(cluster)
    }

    fn lead(&self) {
        self.relay.lead_to(&self.servers.iter().map(Server::authority).collect::<Vec<_>>());
    }

    fn replace(&mut self, index: usize) -> Outcome {
        self.servers[index].kill();
        self.servers[index] = self.launches[index].serve()?;
        self.lead();
        Ok(())
    }
}

fn same(broker: &dyn Broker) -> Vec<String> {
    vec![broker.url("test"), broker.url("test")]
}

tidewire_conformance::with_each_broker! {
    servers_that_are_killed_lose_nothing
    a_broker_that_is_killed_loses_nothing_and_keeps_readers
    a_broker_that_hangs_for_longer_than_anybody_waits_is_an_outage
    a_server_that_is_cut_off_catches_up
    all_servers_that_are_cut_off_catch_up
    a_slow_broker_is_slow_and_no_more
    what_a_broker_has_lost_everybody_is_told_of
    a_cursor_is_good_on_every_server
}

/// Everybody works while `harm` is done, and at the end all agree.
fn survives(
    name: &str,
    backplanes: &[String],
    harm: impl FnOnce(&Crew, &mut Cluster, &mut Random) -> Outcome,
) -> Outcome {
    let mut random = Random::from_environment(name);
    let mut cluster = Cluster::start(backplanes)?;
    let mut crew = Crew::start(CHANNEL, &mut random)?;
    crew.place.may_refuse();
    crew.place.up(&cluster.relay.url());
    let outcome =
        crew.wait_for_more(20).and_then(|()| harm(&crew, &mut cluster, &mut random)).and_then(|()| {
            crew.wait_for_more(50)?;
            let log = crew.finish(&cluster.servers[0])?;
            println!("{} events, {:?}", log.len(), crew.ledger.refusals());
            Ok(())
        });
    let outcome = outcome.map_err(|error| {
        let logs: Vec<String> = cluster.servers.iter().map(Server::log).collect();
        format!("{error}\nservers said: {logs:?}")
    });
    // Without servers, nobody goes on for ever who is refused by a broker that stays away.
    drop(cluster);
    crew.end(outcome)
}

/// Publishers are refused, and nobody who reads is sent away.
fn refused_for_a_while(crew: &Crew) -> Outcome {
    let refused = || crew.ledger.refusals().values().sum::<usize>();
    let more = refused() + 20;
    crew.wait_for("publishers are refused", || refused() >= more)
}

fn servers_that_are_killed_lose_nothing(kind: Kind) -> Outcome {
    let broker = kind.start()?;
    survives("servers", &same(&*broker), |crew, cluster, random| {
        for _ in 0..kills() {
            crew.wait_for_more(1)?;
            crew.live(random)?;
            crew.place.down();
            cluster.replace(random.below(2))?;
            crew.place.up(&cluster.relay.url());
        }
        Ok(())
    })
}

fn a_broker_that_is_killed_loses_nothing_and_keeps_readers(kind: Kind) -> Outcome {
    let mut broker = kind.start()?;
    survives("broker", &same(&*broker), |crew, _, random| {
        for _ in 0..kills().min(6) {
            crew.wait_for_more(1)?;
            crew.live(random)?;
            broker.kill();
            refused_for_a_while(crew)?;
            broker.up()?;
        }
        Ok(())
    })
}

fn a_broker_that_hangs_for_longer_than_anybody_waits_is_an_outage(kind: Kind) -> Outcome {
    let broker = kind.start()?;
    survives("pause", &same(&*broker), |crew, _, random| {
        for _ in 0..3 {
            crew.wait_for_more(1)?;
            crew.live(random)?;
            broker.pause()?;
            let outcome = refused_for_a_while(crew);
            broker.resume()?;
            outcome?;
        }
        Ok(())
    })
}

fn a_server_that_is_cut_off_catches_up(kind: Kind) -> Outcome {
    let broker = kind.start()?;
    let (way, through) = broker.way("test")?;
    survives("cut", &[broker.url("test"), through], |crew, cluster, random| {
        for round in 0..6 {
            crew.wait_for_more(1)?;
            crew.live(random)?;
            if round % 2 == 0 {
                way.cut();
            } else {
                way.hold();
            }
            // Those who publish on the other one go on.
            refuses(&cluster.servers[1])?;
            let done = || crew.ledger.acknowledged() + crew.ledger.refusals().values().sum::<usize>();
            let goal = done() + 100;
            crew.wait_for("publishers are answered", || done() >= goal)?;
            way.mend();
        }
        Ok(())
    })
}

fn all_servers_that_are_cut_off_catch_up(kind: Kind) -> Outcome {
    let broker = kind.start()?;
    let (way, through) = broker.way("test")?;
    survives("cut all", &[through.clone(), through], |crew, _, random| {
        for round in 0..4 {
            crew.wait_for_more(1)?;
            crew.live(random)?;
            if round % 2 == 0 {
                way.cut();
            } else {
                way.hold();
            }
            refused_for_a_while(crew)?;
            way.mend();
        }
        Ok(())
    })
}

/// Each piece of what is said to a broker and what it answers is late, by much less than anybody waits.
fn a_slow_broker_is_slow_and_no_more(kind: Kind) -> Outcome {
    let broker = kind.start()?;
    let (way, through) = broker.way("test")?;
    survives("slow", &[broker.url("test"), through], |crew, _, random| {
        for delay_ms in [2, 5, 10] {
            way.slow_down(Duration::from_millis(delay_ms));
            crew.wait_for_more(1)?;
            crew.live(random)?;
            crew.wait_for_more(50)?;
        }
        way.mend();
        match crew.ledger.refusals() {
            refusals if refusals.is_empty() => Ok(()),
            refusals => Err(format!("nobody was away, but publishers were refused: {refusals:?}")),
        }
    })
}

/// Waits until a server says that its broker is away.
fn refuses(server: &Server) -> Outcome {
    let agent = http::agent(Duration::from_secs(20));
    let url = format!("{}/v1/channels/other/events", server.url);
    wait_until("the server says that its backplane is away", Duration::from_secs(20), || {
        let answer = http::exchange(&agent, "POST", &url, &[], Some(b"1"));
        answer.is_ok_and(|answer| answer.status == 503 && answer.text().contains("backplane_unavailable"))
    })
}

/// Waits until a server has its broker back.
fn serves(server: &Server) -> Outcome {
    let agent = http::agent(Duration::from_secs(20));
    let url = format!("{}/v1/channels/other", server.url);
    wait_until("the server has its backplane", Duration::from_secs(20), || {
        http::exchange(&agent, "GET", &url, &[], None).is_ok_and(|answer| answer.status == 200)
    })
}

/// A subscriber that goes on from an event.
fn subscriber(url: &str, over: &str, since: &str) -> Result<Box<dyn Client>, String> {
    let ask = Ask { channels: vec![CHANNEL.to_owned()], since: Some(since.to_owned()), ..Ask::default() };
    match (client::transport(over)?.connect)(url, &ask)? {
        Connected::Client(client) => Ok(client),
        Connected::Refused(refusal) => Err(format!("refused over {over}: {refusal:?}")),
    }
}

fn publish(url: &str, number: u64) -> Result<String, String> {
    let agent = http::agent(Duration::from_secs(20));
    let url = format!("{url}/v1/channels/{CHANNEL}/events");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let body = number.to_string();
        let answer = http::exchange(&agent, "POST", &url, &[], Some(body.as_bytes()))?;
        if answer.status == 201 {
            return Ok(answer.json()?["id"].as_str().unwrap_or_default().to_owned());
        }
        if answer.status != 503 || Instant::now() > deadline {
            return Err(format!("{} {}", answer.status, answer.text()));
        }
        tidewire_conformance::server::pause();
    }
}

fn next(client: &mut dyn Client) -> Result<Item, String> {
    loop {
        match client.next(Instant::now() + Duration::from_secs(10))? {
            Item::Reconnect(_) => {}
            item => return Ok(item),
        }
    }
}

/// Expects a gap and then this event, and nothing of what was before.
fn told(over: &str, client: &mut dyn Client, id: &str) -> Outcome {
    match next(client)? {
        Item::Gap(_) => {}
        other => return Err(format!("over {over}: expected a gap, got {other:?}")),
    }
    match next(client)? {
        Item::Event(event) if event.id.as_deref() == Some(id) => Ok(()),
        other => Err(format!("over {over}: expected {id}, got {other:?}")),
    }
}

/// A broker comes back with less than it had acknowledged, as one that syncs late does after a power cut.
fn what_a_broker_has_lost_everybody_is_told_of(kind: Kind) -> Outcome {
    let mut broker = kind.start_forgetful()?;
    let cluster = Cluster::start(&same(&*broker))?;
    let url = cluster.servers[0].url.clone();
    let mut ids = Vec::new();
    for number in 0..3 {
        ids.push(publish(&url, number)?);
    }
    broker.keep()?;
    let mut live: Vec<(&str, Box<dyn Client>)> = Vec::new();
    for over in OVER.iter().filter(|over| !over.contains("poll")) {
        let mut client = subscriber(&url, over, &ids[2])?;
        for number in [3, 4] {
            if live.is_empty() {
                ids.push(publish(&url, number)?);
            }
            match next(&mut *client)? {
                Item::Event(event) if event.id.as_deref() == Some(&ids[number as usize]) => {}
                other => return Err(format!("over {over}: {other:?}")),
            }
        }
        live.push((over, client));
    }
    broker.kill();
    broker.up()?;
    let after = publish(&url, 5)?;
    serves(&cluster.servers[1])?;
    for (over, client) in &mut live {
        told(over, &mut **client, &after)?;
    }
    // Whoever comes back, on either server, from where it was: before what is lost, or within.
    for server in &cluster.servers {
        for over in OVER {
            for since in &ids[2..] {
                told(over, &mut *subscriber(&server.url, over, since)?, &after)?;
            }
        }
    }
    Ok(())
}

/// A cursor from one server that the other has not heard of yet is no gap there.
fn a_cursor_is_good_on_every_server(kind: Kind) -> Outcome {
    let broker = kind.start()?;
    let cluster = Cluster::start(&same(&*broker))?;
    let [one, two] = &cluster.servers[..] else { return Err("not two servers".to_owned()) };
    let mut random = Random::from_environment("cursor");
    for round in 0..200_u64 {
        let (from, to) = if random.below(2) == 0 { (one, two) } else { (two, one) };
        let id = publish(&from.url, round)?;
        let over = OVER[random.below(OVER.len())];
        let mut client = subscriber(&to.url, over, &id)?;
        let next_id = publish(&from.url, round)?;
        match next(&mut *client)? {
            Item::Event(event) if event.id.as_deref() == Some(&next_id) => {}
            other => return Err(format!("round {round} over {over}: expected {next_id}, got {other:?}")),
        }
    }
    Ok(())
}
