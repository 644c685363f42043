//! Servers, and the broker that they share, replaced one after the other behind HAProxy, which gives connections to them
//! in turn, while everybody works: nothing is lost, nothing comes twice, and nobody is told of a gap. The seed is printed,
//! and `TIDEWIRE_SEED` repeats it.

use std::time::Duration;

use tidewire_conformance::broker::{ADDRESS, Broker, Kind, free_port};
use tidewire_conformance::durable::crew::{Crew, KEEP_ALL};
use tidewire_conformance::http;
use tidewire_conformance::launch::Launch;
use tidewire_conformance::proxy::{self, Proxy, TRUSTING, Variant};
use tidewire_conformance::random::Random;
use tidewire_conformance::server::{Server, wait_until};

type Outcome = Result<(), String>;

const CHANNEL: &str = "upgraded";
/// How often each server is replaced, and the broker.
const ROUNDS: usize = 2;
/// Over how long clients are told to come back.
const DRAIN: &str = "drain_window_ms = 300\ndrain_timeout_ms = 5000\nbackplane_timeout_ms = 1000\n";
const PATIENCE: Duration = Duration::from_secs(30);

/// Two servers behind HAProxy, each at a place of its own that its successor takes over.
struct Site {
    launches: Vec<Launch>,
    servers: Vec<Server>,
    proxy: Proxy,
}

impl Site {
    fn start(backplane: &str) -> Result<Self, String> {
        let config = format!("{TRUSTING}{KEEP_ALL}{DRAIN}");
        let mut launches = Vec::new();
        for _ in 0..2 {
            let place = format!("{ADDRESS}:{}", free_port()?);
            launches.push(Launch::sharing(backplane).config(&config).listen(&place));
        }
        let servers = launches.iter().map(Launch::serve).collect::<Result<Vec<_>, _>>()?;
        let second = Some(servers[1].authority().to_owned());
        let variant = Variant { second, in_turn: true, ..Variant::default() };
        let proxy = Proxy::start(proxy::Kind::Haproxy, servers[0].authority(), &variant)?;
        let site = Self { launches, servers, proxy };
        (0..2).try_for_each(|index| site.is_asked(index))?;
        Ok(site)
    }

    /// Waits until the proxy gives work to a server.
    fn is_asked(&self, index: usize) -> Outcome {
        let agent = http::agent(PATIENCE);
        let ask = |url: &str, path: &str| http::exchange(&agent, "GET", &format!("{url}{path}"), &[], None);
        let mut asked = 0;
        wait_until("the proxy gives work to the server", PATIENCE, || {
            // This asks, too, so that there is something to give.
            let _ = ask(&self.proxy.url, "/v1/channels/other");
            asked += 1;
            ask(&self.servers[index].url, "/metrics").is_ok_and(|answer| {
                let text = answer.text();
                let count = text.lines().find_map(|line| line.strip_prefix("tidewire_requests_total "));
                count.and_then(|count| count.parse::<u64>().ok()).is_some_and(|count| count > asked)
            })
        })
    }

    /// Asks a server to go, and starts its successor once it is gone.
    fn replace(&mut self, index: usize) -> Outcome {
        let said = self.servers[index].stop()?;
        if said.contains("panicked") {
            return Err(format!("the server said {said}"));
        }
        self.servers[index] = self.launches[index].serve()?;
        self.is_asked(index)
    }
}

/// Everybody works while each server and the broker are replaced.
fn are_replaced(name: &str, mut broker: Box<dyn Broker>) -> Outcome {
    let mut random = Random::from_environment(name);
    let mut site = Site::start(&broker.url("test"))?;
    let mut crew = Crew::start(CHANNEL, &mut random)?;
    crew.place.may_refuse();
    crew.place.set_restless(true);
    crew.place.up(&site.proxy.url);
    let outcome = crew.wait_for_more(20).and_then(|()| {
        for _ in 0..ROUNDS {
            for index in 0..site.servers.len() {
                crew.live(&mut random)?;
                site.replace(index)?;
                crew.wait_for_more(20)?;
            }
            crew.live(&mut random)?;
            broker.kill();
            broker.up()?;
            crew.wait_for_more(20)?;
        }
        let log = crew.finish(&site.servers[0])?;
        println!("{} events, {:?}", log.len(), crew.ledger.refusals());
        Ok(())
    });
    let outcome = outcome.map_err(|error| {
        let logs: Vec<String> = site.servers.iter().map(Server::log).collect();
        format!("{error}\nservers said: {logs:?}\nthe proxy said: {}", tail(&site.proxy.log()))
    });
    drop(site);
    crew.end(outcome)
}

fn tail(text: &str) -> &str {
    let lines = text.len().saturating_sub(4_000);
    text.get(lines..).unwrap_or(text)
}

#[test]
fn servers_and_a_redis_that_are_replaced_lose_and_repeat_nothing() -> Outcome {
    are_replaced("upgrade at a Redis", Kind::Redis.start()?)
}

#[test]
fn servers_and_a_nats_that_are_replaced_lose_and_repeat_nothing() -> Outcome {
    are_replaced("upgrade at a NATS", Kind::Nats.start()?)
}
