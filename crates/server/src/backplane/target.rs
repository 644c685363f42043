//! Where brokers are, as the configuration says it, and how to connect to one in bounded time. Must not know what is said
//! to it.

use std::time::Duration;

use super::broker::{Broker, BrokerError, Known};
use super::{kafka, nats, redis};

/// How long it takes at the most to connect to a Kafka, whose log must be read. A server that does not answer is noticed
/// long before.
const KAFKA_CONNECT: Duration = Duration::from_secs(120);

/// A kind of broker, as URLs name it.
#[derive(Debug)]
enum Kind {
    Redis(Box<redis::Target>),
    Nats(nats::Target),
    Kafka(Box<kafka::Target>),
}

/// Where a broker is.
#[derive(Debug)]
pub(crate) struct Target {
    url: String,
    kind: Kind,
    timeout: Duration,
}

impl Target {
    /// Reads a broker's URL. Where a broker has several addresses, they stand in it with commas between them.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn parse(url: &str, node: u64, timeout: Duration) -> anyhow::Result<Self> {
        let kind = match url.split_once("://").map(|(scheme, _)| scheme) {
            Some(scheme)
                if scheme.split('+').next().is_some_and(|name| matches!(name, "redis" | "rediss")) =>
            {
                Kind::Redis(Box::new(redis::Target::parse(url, node, timeout)?))
            }
            Some("nats" | "tls" | "nats+tls") => Kind::Nats(nats::Target::parse(url, timeout)?),
            Some("kafka" | "kafka+tls") => Kind::Kafka(Box::new(kafka::Target::parse(url, node, timeout)?)),
            _ => anyhow::bail!(
                "{} has another scheme than redis, rediss, nats, tls and kafka, or none",
                shown(url)
            ),
        };
        Ok(Self { url: url.to_owned(), kind, timeout })
    }

    /// The URL without what must not be seen.
    pub(crate) fn shown(&self) -> String {
        shown(&self.url)
    }

    /// Connects, in bounded time. The log has this number and secret if it has none yet.
    pub(super) async fn connect(&self, known: Option<Known>) -> Result<Box<dyn Broker + Send>, BrokerError> {
        let connecting = async {
            match &self.kind {
                Kind::Redis(redis) => redis.connect(known).await,
                Kind::Nats(nats) => nats.connect(known).await,
                Kind::Kafka(kafka) => kafka.connect(known).await,
            }
        };
        let timeout = match &self.kind {
            Kind::Redis(_) => self.timeout,
            Kind::Nats(_) => self.timeout * nats::STEPS_TO_CONNECT,
            Kind::Kafka(_) => self.timeout.max(KAFKA_CONNECT),
        };
        match tokio::time::timeout(timeout, connecting).await {
            Ok(outcome) => outcome,
            Err(_) => Err(BrokerError(format!("no answer within {} ms", timeout.as_millis()))),
        }
    }
}

/// The URLs of a list, each of one broker: what follows a comma and has no scheme is one more address of the broker
/// before it.
pub(crate) fn split(text: &str) -> Vec<String> {
    let mut urls: Vec<String> = Vec::new();
    for part in text.split(',').map(str::trim) {
        match urls.last_mut().filter(|_| !part.contains("://")) {
            Some(url) => {
                url.push(',');
                url.push_str(part);
            }
            None => urls.push(part.to_owned()),
        }
    }
    urls
}

/// A URL without what must not be in a log.
pub(crate) fn shown(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let hosts: Vec<&str> =
        rest.split(',').map(|host| host.rsplit_once('@').map_or(host, |(_, host)| host)).collect();
    format!("{scheme}://{}", hosts.join(","))
}

#[cfg(test)]
mod tests {
    use super::{shown, split};

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(shown("redis://u:p@host:1/0?x=y"), "redis://host:1/0");
        assert_eq!(shown("redis://host"), "redis://host");
        assert_eq!(shown("nats://u:p@a:1,u:p@b:2?x=y"), "nats://a:1,b:2");
    }

    #[test]
    fn a_broker_has_the_addresses_behind_its_scheme() {
        assert_eq!(split("redis://a:1, redis://b:2"), ["redis://a:1", "redis://b:2"]);
        assert_eq!(split("nats://a:1,b:2,c:3"), ["nats://a:1,b:2,c:3"]);
        assert_eq!(split("a:1,b:2"), ["a:1,b:2"]);
    }
}
