//! The two streams: made where they are not there, and looked at whether they are what is needed where they are. An
//! operator may set what Tidewire has no opinion on. Must not know what is in them.

use serde_json::{Value, json};

use super::wire::{Refusal, Wire};
use crate::backplane::broker::BrokerError;

const STREAM_NOT_FOUND: u64 = 10_059;
const NAME_IN_USE: u64 = 10_058;

/// How a stream is.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    /// The newest sequence that was ever given.
    pub(super) last: u64,
    /// Who leads it; nobody where there is no cluster.
    pub(super) leader: String,
    /// How many servers have it.
    pub(super) replicas: usize,
}

pub(super) fn log_name(prefix: &str) -> String {
    format!("{prefix}-log")
}

pub(super) fn index_name(prefix: &str) -> String {
    format!("{prefix}-index")
}

/// How the log is, once both are there.
pub(super) async fn open(wire: &Wire, prefix: &str, replicas: usize) -> Result<Stream, BrokerError> {
    let (log, index) = (log_name(prefix), index_name(prefix));
    let feed =
        json!({ "src": format!("{prefix}.log.*"), "dest": format!("{prefix}.feed.{{{{wildcard(1)}}}}") });
    let is_log = json!({
        "subjects": [format!("{prefix}.log.*")], "retention": "limits", "allow_direct": true, "allow_msg_ttl": true,
        "republish": feed,
    });
    let kinds = ["receipt.*.*", "state.*.*", "numbers.*", "meta.*", "board.*", "once.*"];
    let subjects: Vec<String> = kinds.iter().map(|kind| format!("{prefix}.{kind}")).collect();
    let is_index = json!({
        "subjects": subjects, "retention": "limits", "max_msgs_per_subject": 1, "allow_direct": true,
        "allow_msg_ttl": true,
    });
    let index = one(wire, &index, &is_index, replicas);
    let (_, log) = futures_util::future::try_join(index, one(wire, &log, &is_log, replicas)).await?;
    Ok(log)
}

/// How a stream is now.
pub(super) async fn look(wire: &Wire, name: &str) -> Result<Stream, BrokerError> {
    Ok(stream(&wire.demand(&format!("STREAM.INFO.{name}"), Value::Null).await?))
}

async fn one(wire: &Wire, name: &str, needed: &Value, replicas: usize) -> Result<Stream, BrokerError> {
    loop {
        match wire.api(&format!("STREAM.INFO.{name}"), Value::Null).await? {
            Ok(said) => {
                check(name, &said["config"], needed)?;
                return Ok(stream(&said));
            }
            Err(Refusal { code: STREAM_NOT_FOUND, .. }) => {}
            Err(refusal) => return Err(refusal.into_error()),
        }
        let mut config = needed.clone();
        config["name"] = name.into();
        config["storage"] = "file".into();
        config["num_replicas"] = replicas.into();
        match wire.api(&format!("STREAM.CREATE.{name}"), config).await? {
            // Another server may have been faster. Who leads it is said when it is looked at.
            Ok(_) | Err(Refusal { code: NAME_IN_USE, .. }) => {}
            Err(refusal) => return Err(refusal.into_error()),
        }
    }
}

/// Whether a stream that is there has what is needed of it.
fn check(name: &str, config: &Value, needed: &Value) -> Result<(), BrokerError> {
    let Some(needed) = needed.as_object() else { return Ok(()) };
    for (field, value) in needed {
        let is = &config[field];
        let is_right = match value {
            Value::Array(values) => {
                values.iter().all(|value| is.as_array().is_some_and(|all| all.contains(value)))
            }
            Value::Object(fields) => fields.iter().all(|(field, value)| is[field] == *value),
            value => is == value,
        };
        if !is_right {
            let why = format!("its stream {name} is there, but {field} is {is} where {value} is needed");
            return Err(BrokerError(why));
        }
    }
    Ok(())
}

fn stream(said: &Value) -> Stream {
    Stream {
        last: said["state"]["last_seq"].as_u64().unwrap_or(0),
        leader: said["cluster"]["leader"].as_str().unwrap_or_default().to_owned(),
        replicas: said["config"]["num_replicas"].as_u64().unwrap_or(1) as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::check;
    use serde_json::json;

    #[test]
    fn a_stream_that_lacks_something_is_refused_by_name() {
        let needed = json!({ "subjects": ["a.*"], "allow_direct": true, "republish": { "src": "a.*" } });
        let right =
            json!({ "subjects": ["b", "a.*"], "allow_direct": true, "republish": { "src": "a.*", "x": 1 } });
        assert_eq!(check("a-log", &right, &needed), Ok(()));
        for (field, value) in
            [("subjects", json!(["b"])), ("allow_direct", json!(null)), ("republish", json!(null))]
        {
            let mut wrong = right.clone();
            wrong[field] = value;
            let error = check("a-log", &wrong, &needed).expect_err(field);
            assert!(error.0.contains("a-log") && error.0.contains(field), "{error}");
        }
    }
}
