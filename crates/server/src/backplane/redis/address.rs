//! Where a Redis is: at an address, wherever Sentinels say that the master is, or at the masters of a cluster. Must not
//! know what is said to it.

use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisResult, TlsMode,
};

use crate::backplane::target::shown;

/// The prefix of all keys, unless the URL says another one.
const PREFIX: &str = "tidewire";
/// Where Sentinels listen, unless the URL says so.
const SENTINEL_PORT: u16 = 26_379;
const REDIS_PORT: u16 = 6_379;
/// No Redis has more replicas that anybody waits for.
const REPLICAS_MOST: u8 = 9;

/// Where a Redis is.
#[derive(Debug, Clone)]
pub(super) enum Address {
    One(Client),
    Sentinels(Sentinels),
    Cluster(Vec<ConnectionInfo>),
}

/// Sentinels, the name by which they know a master, and what it takes to talk to all of them.
#[derive(Debug, Clone)]
pub(super) struct Sentinels {
    addresses: Vec<ConnectionAddr>,
    name: String,
    master: ConnectionInfo,
    user: Option<String>,
    password: Option<String>,
}

/// What stands behind a URL's question mark.
#[derive(Debug, Clone, Default)]
pub(super) struct Parameters {
    /// With what all keys begin.
    pub(super) prefix: String,
    /// How many replicas must have an event before it is acknowledged.
    pub(super) replicas: u8,
    sentinel_user: Option<String>,
    sentinel_password: Option<String>,
}

impl Address {
    /// Reads a URL; gives what stands behind its question mark as well.
    ///
    /// - `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`
    /// - `redis+sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]/MASTER[/DATABASE]`
    /// - `redis+cluster://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]`
    ///
    /// and `rediss` for TLS.
    pub(super) fn parse(url: &str) -> anyhow::Result<(Self, Parameters)> {
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
        let (transport, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        let parameters = Parameters::parse(url, query, kind == "sentinel")?;
        let wrong = |why: &str| anyhow::anyhow!("{} is not the URL of a Redis: {why}", shown(url));
        let read = |authority: &str, path: &str| {
            let info = format!("{transport}://{authority}/{path}").into_connection_info();
            info.map(speaking_resp3).map_err(|error| wrong(&error.to_string()))
        };
        let (authorities, path) = rest.split_once('/').unwrap_or((rest, ""));
        let address = match kind {
            "" if authorities.contains(',') => {
                anyhow::bail!(
                    "{}: one Redis has one address; several begin with {scheme}:// each",
                    shown(url)
                )
            }
            "" => {
                let client = Client::open(read(authorities, path)?);
                Self::One(client.map_err(|error| wrong(&error.to_string()))?)
            }
            "sentinel" => {
                let (name, database) = path.split_once('/').unwrap_or((path, ""));
                if name.is_empty() {
                    anyhow::bail!("{} lacks the master's name: {scheme}://HOST:PORT/NAME", shown(url));
                }
                let hosts = spread(authorities, SENTINEL_PORT);
                let infos: Vec<_> =
                    hosts.iter().map(|host| read(host, database)).collect::<Result<_, _>>()?;
                Self::Sentinels(Sentinels {
                    addresses: infos.iter().map(|info| info.addr().clone()).collect(),
                    name: name.to_owned(),
                    master: infos.into_iter().next().ok_or_else(|| wrong("it names no host"))?,
                    user: parameters.sentinel_user.clone(),
                    password: parameters.sentinel_password.clone(),
                })
            }
            "cluster" if !path.is_empty() => {
                anyhow::bail!("{}: a cluster has no numbered databases", shown(url))
            }
            "cluster" => {
                let hosts = spread(authorities, REDIS_PORT);
                Self::Cluster(hosts.iter().map(|host| read(host, "")).collect::<Result<_, _>>()?)
            }
            other => anyhow::bail!("{}: behind redis+ comes sentinel or cluster, not {other}", shown(url)),
        };
        Ok((address, parameters))
    }
}

impl Parameters {
    fn parse(url: &str, query: &str, has_sentinels: bool) -> anyhow::Result<Self> {
        let mut parsed = Self { prefix: PREFIX.to_owned(), ..Self::default() };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "prefix" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                    parsed.prefix = value.into_owned();
                }
                "prefix" => anyhow::bail!("the prefix in {} may have letters and digits only", shown(url)),
                "replicas" => {
                    let count = value.parse().ok().filter(|count| *count <= REPLICAS_MOST);
                    let wrong = || anyhow::anyhow!("replicas in {} is 0 to {REPLICAS_MOST}", shown(url));
                    parsed.replicas = count.ok_or_else(wrong)?;
                }
                "sentinel_user" if has_sentinels => parsed.sentinel_user = Some(value.into_owned()),
                "sentinel_password" if has_sentinels => parsed.sentinel_password = Some(value.into_owned()),
                other => {
                    let more = if has_sentinels { ", sentinel_user, sentinel_password" } else { "" };
                    anyhow::bail!(
                        "{} has the parameter {other}; there are prefix, replicas{more}",
                        shown(url)
                    )
                }
            }
        }
        Ok(parsed)
    }
}

impl Sentinels {
    /// The master, as the first of them says that answers.
    pub(super) async fn master(&self) -> RedisResult<Client> {
        self.client()?.async_get_client().await
    }

    fn client(&self) -> RedisResult<SentinelClient> {
        let settings = self.master.redis_settings();
        let addresses = self.addresses.iter().cloned();
        let mut builder = SentinelClientBuilder::new(addresses, &self.name, SentinelServerType::Master)?
            .set_client_to_redis_db(settings.db())
            .set_client_to_redis_protocol(ProtocolVersion::RESP3);
        if let Some(user) = settings.username() {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = settings.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if let ConnectionAddr::TcpTls { .. } = self.master.addr() {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_tls_mode(TlsMode::Secure);
        }
        if let Some(user) = &self.user {
            builder = builder.set_client_to_sentinel_username(user);
        }
        if let Some(password) = &self.password {
            builder = builder.set_client_to_sentinel_password(password);
        }
        builder.build()
    }
}

fn speaking_resp3(info: ConnectionInfo) -> ConnectionInfo {
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    info.set_redis_settings(settings)
}

/// Each of several hosts with the user and password that stand before the first, and with a port.
fn spread(authorities: &str, port: u16) -> Vec<String> {
    let (user, hosts) = match authorities.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authorities),
    };
    let with_port = |host: &str| {
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        if has_port { format!("{user}{host}") } else { format!("{user}{host}:{port}") }
    };
    hosts.split(',').map(with_port).collect()
}

#[cfg(test)]
mod tests {
    use super::{Address, spread};

    #[test]
    fn urls_say_which_kind_it_is() {
        assert!(matches!(Address::parse("redis://host:1/2"), Ok((Address::One(_), _))));
        let Ok((_, parameters)) = Address::parse("redis://host?prefix=a1&replicas=2") else { panic!() };
        assert_eq!((&*parameters.prefix, parameters.replicas), ("a1", 2));
        let Ok((Address::Cluster(seeds), _)) = Address::parse("rediss+cluster://u:p%40@a,b:2") else {
            panic!()
        };
        assert_eq!(seeds.iter().map(|seed| seed.addr().to_string()).collect::<Vec<_>>(), ["a:6379", "b:2"]);
        assert!(seeds.iter().all(|seed| seed.redis_settings().password() == Some("p@")));
        let Ok((Address::Sentinels(sentinels), _)) =
            Address::parse("redis+sentinel://:pw@a,b:2/main/3?sentinel_password=x%20y")
        else {
            panic!()
        };
        assert_eq!(sentinels.addresses.len(), 2);
        assert_eq!((&*sentinels.name, sentinels.password.as_deref()), ("main", Some("x y")));
        assert_eq!(sentinels.master.redis_settings().db(), 3);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (url, why) in [
            ("redis://a:1,b:2", "one Redis has one address"),
            ("redis+sentinel://a:1", "lacks the master's name"),
            ("redis+cluster://a:1/2", "no numbered databases"),
            ("redis+ring://a:1", "sentinel or cluster"),
            ("redis://a?database=1", "there are prefix, replicas"),
            ("redis://a?replicas=10", "is 0 to 9"),
            ("redis://a?prefix=a:b", "letters and digits"),
            ("redis://a:port", "is not the URL of a Redis"),
        ] {
            let error = Address::parse(url).map(drop).expect_err(url).to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
    }

    #[test]
    fn hosts_share_what_is_before_the_first() {
        assert_eq!(spread("u:p@a,[::1],c:3", 9), ["u:p@a:9", "u:p@[::1]:9", "u:p@c:3"]);
    }
}
