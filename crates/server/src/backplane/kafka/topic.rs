//! The topic that is the log: made if it is not there, and else looked at whether it is fit. Must not know what is in it.

use std::collections::HashMap;
use std::time::Duration;

use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiKey, CreateTopicsRequest, CreateTopicsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::address::Address;
use super::connection::{Ask, Connection, Dialer};
use super::requests::{problem, worded};
use crate::backplane::broker::BrokerError;

/// The largest record that is taken, where the topic is made here.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// What a Kafka takes that does not say.
const MESSAGE_BYTES_USUAL: usize = 1_000_000;
/// How often it is looked whether a topic that was made is there.
const LOOK: Duration = Duration::from_millis(50);

const UNKNOWN_TOPIC: i16 = 3;
const LEADER_NOT_AVAILABLE: i16 = 5;
const TOPIC_EXISTS: i16 = 36;
const NOT_CONTROLLER: i16 = 41;

impl Ask for MetadataRequest {
    const KEY: ApiKey = ApiKey::Metadata;
    const VERSION: i16 = 7;
    type Answer = MetadataResponse;
}

impl Ask for CreateTopicsRequest {
    const KEY: ApiKey = ApiKey::CreateTopics;
    const VERSION: i16 = 3;
    type Answer = CreateTopicsResponse;
}

impl Ask for DescribeConfigsRequest {
    const KEY: ApiKey = ApiKey::DescribeConfigs;
    const VERSION: i16 = 2;
    type Answer = DescribeConfigsResponse;
}

/// A topic that is fit.
#[derive(Debug)]
pub(super) struct Topic {
    /// `HOST:PORT` of each partition's leader.
    pub(super) leaders: Vec<String>,
    /// The largest record that it takes.
    pub(super) bytes_max: usize,
}

/// What a Kafka says of its servers and of the topic.
struct Look {
    servers: HashMap<i32, String>,
    controller: i32,
    /// Each partition's leader, if the topic is there.
    leaders: Option<Vec<Result<i32, i16>>>,
}

impl Topic {
    /// Finds the topic, or makes it.
    pub(super) async fn find(dialer: &Dialer) -> Result<Self, BrokerError> {
        let mut connection = reach(dialer).await?;
        let mut has_made = false;
        loop {
            let found = look(&mut connection, &dialer.address.topic).await?;
            match found.leaders {
                None if !has_made => {
                    make(dialer, &mut connection, &found).await?;
                    has_made = true;
                    continue;
                }
                None => {}
                Some(leaders) => {
                    let leaders: Vec<Option<&String>> =
                        leaders.iter().map(|leader| found.servers.get(leader.as_ref().ok()?)).collect();
                    if let Some(leaders) = leaders.iter().map(|leader| leader.cloned()).collect() {
                        let bytes_max = check(&mut connection, &dialer.address.topic).await?;
                        return Ok(Self { leaders, bytes_max });
                    }
                    let without = leaders.iter().filter(|leader| leader.is_none()).count();
                    if !has_made {
                        return Err(problem(&format!("{without} partitions have no leader at the moment")));
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Connects to any of the servers that the URL names, not all nodes to the same.
async fn reach(dialer: &Dialer) -> Result<Connection, BrokerError> {
    let hosts = &dialer.address.hosts;
    let first = fastrand::usize(..hosts.len().max(1));
    let mut outcome = Err(problem("the URL names no server"));
    for index in 0..hosts.len() {
        outcome = dialer.connect(&hosts[(first + index) % hosts.len()]).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn look(connection: &mut Connection, topic: &str) -> Result<Look, BrokerError> {
    let name = TopicName(StrBytes::from_string(topic.to_owned()));
    let ask = MetadataRequest::default()
        .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(name))]))
        .with_allow_auto_topic_creation(false);
    let answer = connection.ask(&ask).await?;
    let servers = answer
        .brokers
        .iter()
        .map(|server| (server.node_id.0, format!("{}:{}", host(&server.host), server.port)));
    let servers = servers.collect();
    let found = answer.topics.first().ok_or_else(|| problem("it says nothing of the topic"))?;
    let leaders = match found.error_code {
        0 => {
            let mut leaders = vec![Err(LEADER_NOT_AVAILABLE); found.partitions.len()];
            for partition in &found.partitions {
                if let Some(leader) = leaders.get_mut(partition.partition_index as usize) {
                    let code = partition.error_code;
                    *leader = if code == 0 { Ok(partition.leader_id.0) } else { Err(code) };
                }
            }
            Some(leaders)
        }
        UNKNOWN_TOPIC => None,
        LEADER_NOT_AVAILABLE => Some(vec![Err(LEADER_NOT_AVAILABLE)]),
        code => return Err(worded(&format!("cannot use the topic {topic}"), code, None)),
    };
    Ok(Look { servers, controller: answer.controller_id.0, leaders })
}

/// A host as it stands before a port.
fn host(host: &StrBytes) -> String {
    if host.contains(':') { format!("[{}]", &**host) } else { host.to_string() }
}

async fn make(dialer: &Dialer, connection: &mut Connection, found: &Look) -> Result<(), BrokerError> {
    let Address { topic, partitions, replicas, .. } = &*dialer.address;
    let in_sync = if *replicas >= 3 { 2 } else { 1 };
    let configs = [
        ("cleanup.policy", "delete".to_owned()),
        ("retention.ms", "-1".to_owned()),
        ("retention.bytes", "-1".to_owned()),
        ("compression.type", "producer".to_owned()),
        ("min.insync.replicas", in_sync.to_string()),
        ("max.message.bytes", MESSAGE_BYTES_MAX.to_string()),
        ("unclean.leader.election.enable", "false".to_owned()),
    ];
    let configs = configs.into_iter().map(|(name, value)| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_static_str(name))
            .with_value(Some(StrBytes::from_string(value)))
    });
    let new = CreatableTopic::default()
        .with_name(TopicName(StrBytes::from_string(topic.clone())))
        .with_num_partitions(*partitions)
        .with_replication_factor(*replicas)
        .with_configs(configs.collect());
    let ask = CreateTopicsRequest::default()
        .with_topics(vec![new])
        .with_timeout_ms(dialer.timeout.as_millis() as i32);
    let mut answer = connection.ask(&ask).await?;
    let code = |answer: &CreateTopicsResponse| answer.topics.first().map_or(0, |topic| topic.error_code);
    if code(&answer) == NOT_CONTROLLER
        && let Some(controller) = found.servers.get(&found.controller)
    {
        answer = dialer.connect(controller).await?.ask(&ask).await?;
    }
    match code(&answer) {
        0 | TOPIC_EXISTS => Ok(()),
        code => {
            let more = answer.topics.first().and_then(|topic| topic.error_message.as_deref());
            Err(worded(&format!("cannot make the topic {topic}"), code, more))
        }
    }
}

/// Whether the topic keeps what it has until it is deleted, and the largest record that it takes. Where it may not be
/// asked, it is trusted.
async fn check(connection: &mut Connection, topic: &str) -> Result<usize, BrokerError> {
    const TOPIC: i8 = 2;
    let keys = ["cleanup.policy", "retention.ms", "retention.bytes", "max.message.bytes"];
    let resource = DescribeConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(StrBytes::from_string(topic.to_owned()))
        .with_configuration_keys(Some(keys.map(StrBytes::from_static_str).to_vec()));
    let ask = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let answer = connection.ask(&ask).await?;
    let Some(said) = answer.results.first().filter(|said| said.error_code == 0) else {
        return Ok(MESSAGE_BYTES_USUAL);
    };
    let value = |name: &str| said.configs.iter().find(|config| &*config.name == name)?.value.as_deref();
    fit(topic, value)
}

fn fit<'v>(topic: &str, value: impl Fn(&str) -> Option<&'v str>) -> Result<usize, BrokerError> {
    for (name, right) in [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")] {
        match value(name) {
            Some(is) if is != right => {
                return Err(problem(&format!(
                    "the topic {topic} has {name}={is} and would lose what channels still need; set \
                     {name}={right}, and servers delete what none needs any more"
                )));
            }
            _ => {}
        }
    }
    Ok(value("max.message.bytes").and_then(|bytes| bytes.parse().ok()).unwrap_or(MESSAGE_BYTES_USUAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_loses_events_is_not_used() {
        let of = |settings: &'static [(&str, &str)]| {
            fit("t", |name| settings.iter().find(|(other, _)| *other == name).map(|(_, value)| *value))
        };
        let right = [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("max.message.bytes", "5")];
        assert_eq!(fit("t", |name| right.iter().find(|r| r.0 == name).map(|r| r.1)), Ok(5));
        assert_eq!(of(&[]), Ok(MESSAGE_BYTES_USUAL));
        let Err(error) = of(&[("retention.ms", "604800000")]) else { panic!() };
        assert!(error.0.contains("set retention.ms=-1"), "{error}");
        assert!(of(&[("cleanup.policy", "compact")]).is_err());
    }
}
