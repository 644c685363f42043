//! Where a Kafka is, as a URL says it. Must not know what is said to it.

use crate::backplane::target::shown;

/// With what topics begin, unless the URL says another prefix.
const PREFIX: &str = "tidewire";
const PORT: u16 = 9_092;
/// Into how many partitions channels are spread where the topic is made.
const PARTITIONS: i32 = 16;
/// A node that serves channels of all of them has several connections for each.
const PARTITIONS_MOST: i32 = 1_024;
const REPLICAS_MOST: i16 = 9;

/// Where a Kafka is, and what its topic is like if it has to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// `HOST:PORT` of servers that know all others.
    pub(super) hosts: Vec<String>,
    pub(super) user: Option<(String, String)>,
    pub(super) is_tls: bool,
    /// The topic's name.
    pub(super) topic: String,
    pub(super) partitions: i32,
    pub(super) replicas: i16,
}

impl Address {
    /// Reads `kafka[+tls]://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...][?prefix=NAME&partitions=16&replicas=1]`.
    pub(super) fn parse(url: &str) -> anyhow::Result<Self> {
        let wrong = |why: &str| anyhow::anyhow!("{} is not the URL of a Kafka: {why}", shown(url));
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
        let is_tls = match scheme {
            "kafka" => false,
            "kafka+tls" => true,
            _ => return Err(wrong("it begins with kafka:// or kafka+tls://")),
        };
        let (user, authorities) = match rest.trim_end_matches('/').rsplit_once('@') {
            Some((user, authorities)) => {
                let (name, password) = user
                    .split_once(':')
                    .ok_or_else(|| wrong("a user has a password, as in USER:PASSWORD@"))?;
                (Some((unescaped(name)?, unescaped(password)?)), authorities)
            }
            None => (None, rest.trim_end_matches('/')),
        };
        let hosts = authorities.split(',').map(with_port).collect::<Option<Vec<_>>>();
        let hosts = hosts.ok_or_else(|| wrong("it names HOST:PORT, several with commas between them"))?;
        let mut parsed =
            Self { hosts, user, is_tls, topic: format!("{PREFIX}-log"), partitions: PARTITIONS, replicas: 1 };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "prefix" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                    parsed.topic = format!("{value}-log");
                }
                "prefix" => anyhow::bail!("the prefix in {} may have letters and digits only", shown(url)),
                "partitions" => {
                    let count = value.parse().ok().filter(|count| (1..=PARTITIONS_MOST).contains(count));
                    let wrong = || anyhow::anyhow!("partitions in {} is 1 to {PARTITIONS_MOST}", shown(url));
                    parsed.partitions = count.ok_or_else(wrong)?;
                }
                "replicas" => {
                    let count = value.parse().ok().filter(|count| (1..=REPLICAS_MOST).contains(count));
                    let wrong = || anyhow::anyhow!("replicas in {} is 1 to {REPLICAS_MOST}", shown(url));
                    parsed.replicas = count.ok_or_else(wrong)?;
                }
                other => anyhow::bail!(
                    "{} has the parameter {other}; there are prefix, partitions, replicas",
                    shown(url)
                ),
            }
        }
        Ok(parsed)
    }
}

/// A host with its port; none if it is none.
fn with_port(host: &str) -> Option<String> {
    let (name, port) = match host.rfind(':').filter(|at| !host[*at..].contains(']')) {
        Some(at) => (&host[..at], host[at + 1..].parse().ok()?),
        None => (host, PORT),
    };
    (!name.is_empty() && !name.contains('/')).then(|| format!("{name}:{port}"))
}

fn unescaped(text: &str) -> anyhow::Result<String> {
    // A plus is one, other than in a form.
    let escaped = text.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    let pair = form_urlencoded::parse(escaped.as_bytes()).next();
    Ok(pair.map(|(name, _)| name.into_owned()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn urls_say_where_it_is_and_what_is_made() {
        let address =
            Address::parse("kafka://a,b:1,[::1]:2?prefix=x1&partitions=3&replicas=3").expect("right");
        assert_eq!(address.hosts, ["a:9092", "b:1", "[::1]:2"]);
        assert_eq!((&*address.topic, address.partitions, address.replicas), ("x1-log", 3, 3));
        assert_eq!((address.user, address.is_tls), (None, false));
        let address = Address::parse("kafka+tls://us%40er:p%3A+w@a:1").expect("right");
        assert_eq!(address.user, Some(("us@er".to_owned(), "p:+w".to_owned())));
        assert!(address.is_tls);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (url, why) in [
            ("kafka://", "it names HOST:PORT"),
            ("kafka://a:port", "it names HOST:PORT"),
            ("kafka+ssl://a", "kafka:// or kafka+tls://"),
            ("kafka://user@a", "a user has a password"),
            ("kafka://a?partitions=0", "is 1 to 1024"),
            ("kafka://a?replicas=x", "is 1 to 9"),
            ("kafka://a?prefix=a-b", "letters and digits"),
            ("kafka://a?acks=1", "there are prefix, partitions, replicas"),
        ] {
            let error = Address::parse(url).map(drop).expect_err(url).to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
    }
}
