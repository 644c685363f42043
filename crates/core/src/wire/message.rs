//! The JSON messages of `/v1/ws`: the client's as checked values, the server's as text.
//! Must not know subscriptions or logs; a message here has no effect.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::json::push_string_bytes;
use crate::channel::ChannelName;
use crate::error::{Code, Problem};
use crate::id::EventId;
use crate::time::Timestamp;

/// The longest string that a client's message may have as its `id`, in characters.
const MESSAGE_ID_CHARS_MAX: usize = 64;
/// The longest `id` in bytes of JSON: quotes, and each character as two escapes.
const MESSAGE_ID_BYTES_MAX: usize = 2 + 12 * MESSAGE_ID_CHARS_MAX;
/// The longest number that may be one.
const MESSAGE_ID_DIGITS_MAX: usize = 66;

/// The client's own id of a message, as the JSON that it sent; echoed in the reply.
pub type MessageId<'a> = Option<&'a str>;

/// What a client asks for.
#[derive(Debug)]
pub enum ClientMessage<'a> {
    /// Deliver a channel's events from now on, or from `since`.
    Subscribe {
        /// The channel.
        channel: ChannelName,
        /// The unread `since`.
        since: Option<Cow<'a, str>>,
        /// The state first, then what comes after it.
        snapshot: bool,
    },
    /// Stop that.
    Unsubscribe {
        /// The channel.
        channel: ChannelName,
    },
    /// Append an event.
    Publish {
        /// The channel.
        channel: ChannelName,
        /// The event's members.
        publish: Box<PublishMessage<'a>>,
    },
    /// Be present in a channel, or change what is shown of oneself there.
    Enter {
        /// The channel.
        channel: ChannelName,
        /// Who enters, if the connection does not say so.
        member: Option<Cow<'a, str>>,
        /// What is shown.
        data: Option<&'a RawValue>,
    },
    /// Be so no more.
    Leave {
        /// The channel.
        channel: ChannelName,
    },
    /// Go on with a new token.
    Refresh {
        /// The token.
        token: Cow<'a, str>,
    },
    /// Answer with `pong`.
    Ping,
}

/// The members of a `publish` message, unchecked but for their types.
#[derive(Debug)]
pub struct PublishMessage<'a> {
    /// JSON data, or base64 of bytes with their content type.
    pub data: PublishData<'a>,
    /// The event's name.
    pub event: Option<Cow<'a, str>>,
    /// The event's key.
    pub key: Option<Cow<'a, str>>,
    /// The idempotency key.
    pub idempotency_key: Option<Cow<'a, str>>,
    /// The trace that it belongs to, unread.
    pub traceparent: Option<Cow<'a, str>>,
    /// What tracing systems say of that trace, unread.
    pub tracestate: Option<Cow<'a, str>>,
}

/// The data of a `publish` message.
#[derive(Debug)]
pub enum PublishData<'a> {
    /// `data`.
    Json(&'a RawValue),
    /// `data_base64` and `content_type`.
    Base64(Cow<'a, str>, Option<Cow<'a, str>>),
}

#[derive(Deserialize)]
struct RawMessage<'a> {
    #[serde(borrow, default)]
    r#type: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    channel: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    token: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    since: Option<Cow<'a, str>>,
    #[serde(default)]
    snapshot: Option<bool>,
    #[serde(borrow, default)]
    member: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    idempotency_key: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    traceparent: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tracestate: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    content_type: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data_base64: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
}

/// `"data":null` is data, unlike a missing member.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct OnlyId<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
}

impl<'a> ClientMessage<'a> {
    /// Reads a text message. The id comes back even where the rest is refused, so that the client
    /// learns which of its messages the error is about.
    pub fn parse(text: &'a str) -> (MessageId<'a>, Result<Self, Problem>) {
        if text.trim_start().starts_with('[') {
            // To serde an array is as good as an object, member by member.
            return (None, Err(no_object()));
        }
        match serde_json::from_str::<RawMessage<'a>>(text) {
            Ok(raw) => match checked_id(raw.id) {
                Ok(id) => (id, Self::from_raw(raw)),
                Err(problem) => (None, Err(problem)),
            },
            Err(error) => {
                let id =
                    serde_json::from_str::<OnlyId<'a>>(text).ok().and_then(|only| checked_id(only.id).ok());
                (id.flatten(), Err(unreadable(text, &error)))
            }
        }
    }

    fn from_raw(raw: RawMessage<'a>) -> Result<Self, Problem> {
        let kind = raw.r#type.as_deref().ok_or_else(|| missing("type"))?;
        let channel = || match &raw.channel {
            Some(name) => ChannelName::new(name),
            None => Err(missing("channel")),
        };
        match kind {
            "subscribe" => {
                let (channel, snapshot) = (channel()?, raw.snapshot.unwrap_or(false));
                if snapshot && raw.since.is_some() {
                    return Err(invalid(
                        "pass either since or snapshot; a snapshot says where to go on by itself",
                    ));
                }
                Ok(Self::Subscribe { channel, since: raw.since, snapshot })
            }
            "unsubscribe" => Ok(Self::Unsubscribe { channel: channel()? }),
            "enter" => Ok(Self::Enter { channel: channel()?, member: raw.member, data: raw.data }),
            "leave" => Ok(Self::Leave { channel: channel()? }),
            "ping" => Ok(Self::Ping),
            "refresh" => Ok(Self::Refresh { token: raw.token.ok_or_else(|| missing("token"))? }),
            "publish" => {
                let channel = channel()?;
                let data = match (raw.data, raw.data_base64, raw.content_type) {
                    (Some(json), None, None) => PublishData::Json(json),
                    (None, Some(base64), content_type) => PublishData::Base64(base64, content_type),
                    (None, None, _) => return Err(missing("data (or data_base64)")),
                    (Some(_), Some(_), _) => {
                        return Err(invalid("pass either data or data_base64, not both"));
                    }
                    (Some(_), None, Some(_)) => {
                        return Err(invalid("content_type goes with data_base64; data is JSON always"));
                    }
                };
                let publish = Box::new(PublishMessage {
                    data,
                    event: raw.event,
                    key: raw.key,
                    idempotency_key: raw.idempotency_key,
                    traceparent: raw.traceparent,
                    tracestate: raw.tracestate,
                });
                Ok(Self::Publish { channel, publish })
            }
            other => {
                let shown: String = other.chars().take(32).collect();
                let detail = format!(
                    "unknown type {shown:?}; known are subscribe, unsubscribe, publish, enter, leave, refresh and ping"
                );
                Err(Problem::new(Code::UnknownType, detail))
            }
        }
    }
}

fn checked_id(id: Option<&RawValue>) -> Result<MessageId<'_>, Problem> {
    let Some(text) = id.map(RawValue::get) else { return Ok(None) };
    let fits = if text.starts_with('"') {
        text.len() <= MESSAGE_ID_BYTES_MAX
            && serde_json::from_str::<Cow<'_, str>>(text)
                .is_ok_and(|id| id.chars().count() <= MESSAGE_ID_CHARS_MAX)
    } else {
        let is_number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        is_number && text.len() <= MESSAGE_ID_DIGITS_MAX
    };
    if fits { Ok(Some(text)) } else { Err(invalid("id must be a number or a string of up to 64 characters")) }
}

fn unreadable(text: &str, error: &serde_json::Error) -> Problem {
    if error.is_data() && text.trim_start().starts_with('{') {
        Problem::new(Code::InvalidMessage, format!("a member has a wrong type: {error}"))
    } else if error.is_data() {
        no_object()
    } else {
        Problem::new(Code::InvalidJson, format!("the message is not JSON: {error}"))
    }
}

fn no_object() -> Problem {
    invalid("a message must be a JSON object such as {\"type\":\"subscribe\",\"channel\":\"a\"}")
}

fn missing(member: &str) -> Problem {
    Problem::new(Code::InvalidMessage, format!("the message lacks {member}"))
}

fn invalid(detail: &'static str) -> Problem {
    Problem::new(Code::InvalidMessage, detail)
}

/// What the server replies, as JSON texts. Channel names and ids need no escaping by their alphabets.
pub mod server {
    use super::{EventId, MessageId, Problem, Timestamp, push_string_bytes};

    fn finish(mut out: Vec<u8>, id: MessageId<'_>) -> Vec<u8> {
        if let Some(id) = id {
            out.extend_from_slice(b",\"id\":");
            out.extend_from_slice(id.as_bytes());
        }
        out.push(b'}');
        out
    }

    /// `subscribed`: the events that follow begin after `cursor`.
    pub fn subscribed(channel: &str, cursor: EventId, id: MessageId<'_>) -> Vec<u8> {
        let text = format!("{{\"type\":\"subscribed\",\"channel\":\"{channel}\",\"cursor\":\"{cursor}\"");
        finish(text.into_bytes(), id)
    }

    /// `unsubscribed`.
    pub fn unsubscribed(channel: &str, id: MessageId<'_>) -> Vec<u8> {
        finish(format!("{{\"type\":\"unsubscribed\",\"channel\":\"{channel}\"").into_bytes(), id)
    }

    /// `published`.
    pub fn published(channel: &str, event: EventId, duplicate: bool, id: MessageId<'_>) -> Vec<u8> {
        let text = format!(
            "{{\"type\":\"published\",\"channel\":\"{channel}\",\"event_id\":\"{event}\",\"duplicate\":{duplicate}"
        );
        finish(text.into_bytes(), id)
    }

    /// `entered`: who is present now, and since when. The member's name is JSON.
    pub fn entered(channel: &str, member: &str, since: Timestamp, id: MessageId<'_>) -> Vec<u8> {
        let mut out = format!("{{\"type\":\"entered\",\"channel\":\"{channel}\",\"member\":").into_bytes();
        push_string_bytes(&mut out, member);
        out.extend_from_slice(format!(",\"since\":\"{since}\"").as_bytes());
        finish(out, id)
    }

    /// `left`.
    pub fn left(channel: &str, id: MessageId<'_>) -> Vec<u8> {
        finish(format!("{{\"type\":\"left\",\"channel\":\"{channel}\"").into_bytes(), id)
    }

    /// `pong`.
    pub fn pong(id: MessageId<'_>) -> Vec<u8> {
        finish(b"{\"type\":\"pong\"".to_vec(), id)
    }

    /// `refreshed`: the new token holds, until then.
    pub fn refreshed(expires_at: Timestamp, id: MessageId<'_>) -> Vec<u8> {
        finish(format!("{{\"type\":\"refreshed\",\"expires_at\":\"{expires_at}\"").into_bytes(), id)
    }

    /// `expired`: the token has; the connection ends after this time, unless a new one comes.
    pub fn expired(close_after_ms: u64) -> Vec<u8> {
        format!("{{\"type\":\"expired\",\"close_after_ms\":{close_after_ms}}}").into_bytes()
    }

    /// `gap`: what [`crate::wire::poll::gap`] makes, with its type.
    pub fn gap(gap: &[u8]) -> Vec<u8> {
        let mut out = b"{\"type\":\"gap\",".to_vec();
        out.extend_from_slice(&gap[1..]);
        out
    }

    /// `snapshot`: what [`crate::wire::poll::snapshot`] makes, with its type.
    pub fn snapshot(snapshot: &[u8]) -> Vec<u8> {
        let mut out = b"{\"type\":\"snapshot\",".to_vec();
        out.extend_from_slice(&snapshot[1..]);
        out
    }

    /// `reconnect`: the server goes away; come back at a moment of your choice within this window.
    pub fn reconnect(after_ms: [u64; 2], reason: &str) -> Vec<u8> {
        format!("{{\"type\":\"reconnect\",\"after_ms\":{after_ms:?},\"reason\":\"{reason}\"}}").into_bytes()
    }

    /// `error`: refuses one message.
    pub fn error(problem: &Problem, id: MessageId<'_>) -> Vec<u8> {
        let mut out =
            format!("{{\"type\":\"error\",\"code\":\"{}\",\"message\":", problem.code.as_str()).into_bytes();
        push_string_bytes(&mut out, &problem.detail);
        finish(out, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> (Option<String>, Option<Code>) {
        let (id, message) = ClientMessage::parse(text);
        (id.map(str::to_owned), message.err().map(|problem| problem.code))
    }

    #[test]
    fn reads_each_type() {
        for text in [
            r#"{"type":"subscribe","channel":"a","since":"x","id":1}"#,
            r#"{"id":"q","channel":"a","type":"unsubscribe","other":[1]}"#,
            r#"{"type":"publish","channel":"a","data":null}"#,
            r#"{"type":"publish","channel":"a","data_base64":"AA==","content_type":"image/png"}"#,
            r#"{"type":"p\u0069ng"}"#,
            r#"{"type":"enter","channel":"a","member":"ann","data":{"name":"Ann"}}"#,
            r#"{"type":"leave","channel":"a"}"#,
        ] {
            assert_eq!(code(text).1, None, "{text}");
        }
    }

    #[test]
    fn refuses_with_the_id_of_the_refused() {
        for (text, id, expected) in [
            ("nope", None, Code::InvalidJson),
            ("{", None, Code::InvalidJson),
            ("[]", None, Code::InvalidMessage),
            (r#"["ping"]"#, None, Code::InvalidMessage),
            ("[5]", None, Code::InvalidMessage),
            ("{}", None, Code::InvalidMessage),
            (r#"{"type":"dance","id":7}"#, Some("7"), Code::UnknownType),
            (r#"{"type":"subscribe","id":"x"}"#, Some("\"x\""), Code::InvalidMessage),
            (r#"{"type":"subscribe","channel":5,"id":8}"#, Some("8"), Code::InvalidMessage),
            (r#"{"type":"subscribe","channel":"a b","id":9}"#, Some("9"), Code::InvalidChannel),
            (r#"{"type":"publish","channel":"a","id":1.5}"#, Some("1.5"), Code::InvalidMessage),
            (r#"{"type":"publish","channel":"a","data":1,"data_base64":""}"#, None, Code::InvalidMessage),
            (r#"{"type":"publish","channel":"a","data":1,"content_type":"a/b"}"#, None, Code::InvalidMessage),
            (r#"{"type":"ping","id":{}}"#, None, Code::InvalidMessage),
            (r#"{"type":"ping","id":"\ud800"}"#, None, Code::InvalidMessage),
        ] {
            assert_eq!(code(text), (id.map(str::to_owned), Some(expected)), "{text}");
        }
    }

    #[test]
    fn an_id_may_have_64_characters() {
        for one in ["x", "\u{fc}", "\\u00fc", "\\ud83d\\ude00"] {
            let with = |count| code(&format!("{{\"type\":\"ping\",\"id\":\"{}\"}}", one.repeat(count)));
            assert_eq!(with(64), (Some(format!("\"{}\"", one.repeat(64))), None), "{one}");
            assert_eq!(with(65), (None, Some(Code::InvalidMessage)), "{one}");
        }
    }
}
