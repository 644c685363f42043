//! How to connect to a Redis: three connections, so that what is read in bulk delays neither what is published nor what is
//! heard. Must not know what is said over them.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, PushInfo, RedisResult, Value};
use tokio::sync::mpsc;

use super::address::{Address, Parameters};
use super::broker::{Connections, RedisBroker, Scripts, Term};
use super::cluster::ClusterBroker;
use crate::access::sealed::Secret;
use crate::backplane::broker::{Broker, BrokerError, Known};

/// How many messages of the feed may wait to be looked at. Beyond, the connection is given up, and what was missed is
/// read.
const FEED_MESSAGES: usize = 65_536;

/// Where a Redis is, and who connects to it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    address: Address,
    pub(super) parameters: Parameters,
    node: String,
    timeout: Duration,
}

impl Target {
    /// Reads a URL: an [`Address`] and [`Parameters`].
    pub(crate) fn parse(url: &str, node: u64, timeout: Duration) -> anyhow::Result<Self> {
        let (address, parameters) = Address::parse(url)?;
        Ok(Self { address, parameters, node: format!("{node:016x}"), timeout })
    }

    /// Connects. The log has this number and secret if it has none yet.
    pub(in crate::backplane) async fn connect(
        &self,
        known: Option<Known>,
    ) -> Result<Box<dyn Broker + Send>, BrokerError> {
        self.connect_now(known).await.map_err(|error| BrokerError(error.to_string()))
    }

    async fn connect_now(&self, known: Option<Known>) -> RedisResult<Box<dyn Broker + Send>> {
        let client = match &self.address {
            Address::One(client) => client.clone(),
            Address::Sentinels(sentinels) => sentinels.master().await?,
            Address::Cluster(seeds) => {
                return Ok(Box::new(ClusterBroker::connect(self, seeds, known).await?));
            }
        };
        let mut broker = self.open(&client, false).await?;
        let number = self.number(broker.writer(), known.map(|known| known.number)).await?;
        let secret = self.secret(broker.writer(), known.map(|known| known.secret)).await?;
        broker.know(Known { number, secret });
        broker.hear_board().await?;
        Ok(Box::new(broker))
    }

    /// Connects to one Redis, which may be part of a cluster.
    pub(super) async fn open(&self, client: &Client, is_part: bool) -> RedisResult<RedisBroker> {
        let (sender, feed) = mpsc::channel(FEED_MESSAGES);
        let config = || {
            let timeout = Some(self.timeout);
            AsyncConnectionConfig::new().set_connection_timeout(timeout).set_response_timeout(timeout)
        };
        let open = |config| async move { client.get_multiplexed_async_connection_with_config(&config).await };
        let mut writer = open(config()).await?;
        let reader = open(config()).await?;
        let listener = open(config().set_push_sender(Pushes(sender))).await?;
        let term = term(&mut writer).await?;
        let scripts = Scripts::load(&mut writer).await?;
        let connections = Connections { writer, reader, listener };
        Ok(RedisBroker::new(
            connections,
            scripts,
            feed,
            self.parameters.clone(),
            self.node.clone(),
            term,
            is_part,
        ))
    }

    /// The secret of all servers: what is there, or one that is made now.
    pub(super) async fn secret(
        &self,
        writer: &mut MultiplexedConnection,
        known: Option<Secret>,
    ) -> RedisResult<Secret> {
        let key = format!("{}:secret", self.parameters.prefix);
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
    pub(super) async fn number(
        &self,
        writer: &mut MultiplexedConnection,
        number: Option<u64>,
    ) -> RedisResult<u64> {
        let key = format!("{}:log", self.parameters.prefix);
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
async fn term(writer: &mut MultiplexedConnection) -> RedisResult<Term> {
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
