//! Where a Redis is, and how to connect to it: three connections, so that what is read in bulk delays neither what is
//! published nor what is heard. Must not know what is said over them.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, PushInfo, Value};
use tokio::sync::mpsc;

use super::broker::{Connections, RedisBroker, Scripts, Term};
use crate::access::sealed::Secret;
use crate::backplane::broker::{Broker, BrokerError, Known};
use crate::backplane::shown;

/// How many messages of the feed may wait to be looked at. Beyond, the connection is given up, and what was missed is
/// read.
const FEED_MESSAGES: usize = 65_536;
/// The prefix of all keys, unless the URL says another one.
const PREFIX: &str = "tidewire";

/// Where a Redis is.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    url: String,
    client: Client,
    prefix: String,
    node: u64,
    timeout: Duration,
}

impl Target {
    /// Reads a URL: `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE][?prefix=PREFIX]`, or `rediss` for TLS.
    pub(crate) fn parse(url: &str, node: u64, timeout: Duration) -> anyhow::Result<Self> {
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let mut prefix = PREFIX.to_owned();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "prefix" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                    prefix = value.to_owned();
                }
                "prefix" => anyhow::bail!("the prefix in {} may have letters and digits only", shown(url)),
                other => anyhow::bail!("{} has the parameter {other}; the only one is prefix", shown(url)),
            }
        }
        let wrong =
            |error: redis::RedisError| anyhow::anyhow!("{} is not the URL of a Redis: {error}", shown(url));
        let info = address.into_connection_info().map_err(wrong)?;
        let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(redis)).map_err(wrong)?;
        Ok(Self { url: url.to_owned(), client, prefix, node, timeout })
    }

    /// The URL without what must not be seen.
    pub(crate) fn shown(&self) -> String {
        shown(&self.url)
    }

    /// Connects, all within the timeout. The log has this number and secret if it has none yet.
    pub(in crate::backplane) async fn connect(
        &self,
        known: Option<Known>,
    ) -> Result<Box<dyn Broker + Send>, BrokerError> {
        match tokio::time::timeout(self.timeout, self.connect_now(known)).await {
            Ok(outcome) => outcome.map_err(|error| BrokerError(error.to_string())),
            Err(_) => Err(BrokerError(format!("no answer within {} ms", self.timeout.as_millis()))),
        }
    }

    async fn connect_now(&self, known: Option<Known>) -> redis::RedisResult<Box<dyn Broker + Send>> {
        let (sender, feed) = mpsc::channel(FEED_MESSAGES);
        let config = || {
            let timeout = Some(self.timeout);
            AsyncConnectionConfig::new().set_connection_timeout(timeout).set_response_timeout(timeout)
        };
        let open =
            |config| async move { self.client.get_multiplexed_async_connection_with_config(&config).await };
        let mut writer = open(config()).await?;
        let reader = open(config()).await?;
        let listener = open(config().set_push_sender(Pushes(sender))).await?;
        let term = term(&mut writer).await?;
        let number = self.number(&mut writer, known.map(|known| known.number)).await?;
        let secret = self.secret(&mut writer, known.map(|known| known.secret)).await?;
        let known = Known { number, secret };
        let scripts = Scripts::load(&mut writer).await?;
        let connections = Connections { writer, reader, listener };
        let broker =
            RedisBroker::new(connections, scripts, feed, self.prefix.clone(), self.node, term, known);
        Ok(Box::new(broker))
    }

    /// The secret of all servers: what is there, or one that is made now.
    async fn secret(
        &self,
        writer: &mut MultiplexedConnection,
        known: Option<Secret>,
    ) -> redis::RedisResult<Secret> {
        let key = format!("{}:secret", self.prefix);
        let mut mine = known.unwrap_or_default();
        if known.is_none() {
            getrandom::fill(&mut mine).map_err(|_| {
                redis::RedisError::from((redis::ErrorKind::Client, "the system gives no random numbers"))
            })?;
        }
        redis::cmd("SET").arg(&key).arg(&mine[..]).arg("NX").query_async::<Value>(writer).await?;
        let found: Vec<u8> = redis::cmd("GET").arg(&key).query_async(writer).await?;
        let wrong = || redis::RedisError::from((redis::ErrorKind::Client, "its secret is no secret of ours"));
        Secret::try_from(&found[..]).map_err(|_| wrong())
    }

    /// The log's number: what is there, or `number`, or one that is made now. Whoever comes first decides.
    async fn number(
        &self,
        writer: &mut MultiplexedConnection,
        number: Option<u64>,
    ) -> redis::RedisResult<u64> {
        let key = format!("{}:log", self.prefix);
        let mine = number.unwrap_or_else(|| fastrand::u64(1..));
        redis::cmd("SET").arg(&key).arg(mine).arg("NX").query_async::<Value>(writer).await?;
        let found: u64 = redis::cmd("GET").arg(&key).query_async(writer).await?;
        match number {
            // Ids that clients hold were made of the number that this node has; another log is not theirs.
            Some(mine) if mine != found => {
                let why =
                    "it has another log than before, or than the first server; give each a prefix of its own";
                Err(redis::RedisError::from((redis::ErrorKind::Client, why)))
            }
            _ => Ok(found),
        }
    }
}

/// What tells this process and reign of a Redis from all others. After a start, and after it took over from another
/// one, events that were acknowledged may be missing; unless it is the same that only began anew, and had synced each
/// event before it answered. Where it does not say so, the worst is assumed.
async fn term(writer: &mut MultiplexedConnection) -> redis::RedisResult<Term> {
    let server: String = redis::cmd("INFO").arg("server").query_async(writer).await?;
    let replication: String = redis::cmd("INFO").arg("replication").query_async(writer).await?;
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    let mut setting = async |name: &str| -> Option<String> {
        let said: HashMap<String, String> =
            redis::cmd("CONFIG").arg("GET").arg(name).query_async(writer).await.ok()?;
        said.get(name).cloned()
    };
    let syncs = setting("appendonly").await.as_deref() == Some("yes")
        && setting("appendfsync").await.as_deref() == Some("always");
    // The reign before this one, if it took over.
    let took_over = field(&replication, "master_replid2").bytes().any(|byte| byte != b'0');
    let name = format!("{}.{}", field(&server, "run_id"), field(&replication, "master_replid"));
    Ok(Term { name, may_have_lost: took_over || !syncs })
}

/// The feed, bounded.
struct Pushes(mpsc::Sender<PushInfo>);

impl redis::aio::AsyncPushSender for Pushes {
    fn send(&self, info: PushInfo) -> Result<(), redis::aio::SendError> {
        // One that is full ends: whoever listens sees that, and begins anew.
        self.0.try_send(info).map_err(|_| redis::aio::SendError)
    }
}
