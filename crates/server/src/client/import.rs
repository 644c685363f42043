//! `tidewire history --import`: publishes the lines of an export, one after the other.
//! Must not know how an event gets to the server, nor when to try again.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tidewire_core::event::Kind;
use tidewire_core::{NewEvent, Payload};

use super::Failure;
use super::arguments::HistoryArguments;
use super::endpoint::Endpoint;
use super::lines;
use super::report::{Progress, Reporter};
use super::sender::{Outgoing, Sender};

/// What an old id becomes an idempotency key with, so that it does not meet the keys of publishers.
const KEY_PREFIX: &str = "import:";

/// Runs the command.
pub(super) fn run(arguments: &HistoryArguments, path: &Path) -> Result<ExitCode, Failure> {
    let endpoint = Endpoint::of(&arguments.server).map_err(Failure::Usage)?;
    let mut input: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(path)
            .map_err(|error| Failure::Failed(format!("cannot read {}: {error}", path.display())))?;
        Box::new(BufReader::new(file))
    };
    let reporter = Reporter::new(arguments.quiet);
    let retry_for = Duration::from_secs(arguments.retry_for.into());
    let mut import = Import {
        sender: Sender::new(&endpoint, &arguments.channel, retry_for, reporter),
        published: 0,
        repeated: 0,
    };
    let mut progress = Progress::new(arguments.quiet);
    let outcome = import.lines(&mut input, &mut progress);
    progress.finish(import.published);
    reporter.say(&import.summary());
    outcome.map(|()| ExitCode::SUCCESS)
}

/// A running import and its counts.
struct Import {
    sender: Sender,
    published: u64,
    repeated: u64,
}

impl Import {
    /// One line is under way at a time: with more of them, those behind one that has to be tried again, or
    /// is refused, would be taken before it.
    fn lines(&mut self, input: &mut impl BufRead, progress: &mut Progress) -> Result<(), Failure> {
        let mut line = Vec::new();
        for number in 1_u64.. {
            let failed = |why: String| Failure::Failed(format!("line {number}: {why}"));
            match lines::next(input, &mut line) {
                Ok(true) if line.trim_ascii().is_empty() => continue,
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return Err(Failure::Failed(error.describe(&format!("line {number}")))),
            }
            let imported = Imported::parse(&line).map_err(failed)?;
            let published = if imported.fits_http() {
                self.sender.publish(imported.outgoing())
            } else {
                self.sender.publish_over_websocket(imported.outgoing(), imported.payload.kind())
            };
            if published.map_err(failed)?.duplicate {
                self.repeated += 1;
            } else {
                self.published += 1;
                progress.update(self.published);
            }
        }
        Ok(())
    }

    fn summary(&self) -> String {
        match self.repeated {
            0 => format!("{} published", self.published),
            repeated => format!("{} published, {repeated} were there from an earlier import", self.published),
        }
    }
}

/// The members of an exported event (PROTOCOL.md section 2.4) that an import has a use for.
#[derive(Deserialize)]
struct Line<'a> {
    id: Option<String>,
    event: Option<String>,
    key: Option<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
    content_type: Option<String>,
}

/// Reads a member that is there. Plain `Option` would take the event `null` for no data at all.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

/// An event to publish as it was.
#[derive(Debug)]
struct Imported {
    payload: Payload,
    content_type: String,
    event: Option<String>,
    key: Option<String>,
    idempotency_key: String,
}

impl Imported {
    fn parse(line: &[u8]) -> Result<Self, String> {
        let Line { id, event, key, data, data_base64, content_type } =
            serde_json::from_slice(line).map_err(|error| format!("no exported event: {error}"))?;
        let id = id.filter(|id| !id.is_empty()).ok_or(
            "the event has no `id`, of which its idempotency key is made; give each line an id of its own",
        )?;
        let (payload, content_type) = match (data, data_base64) {
            (Some(json), None) => data_of_json(json.get(), content_type)?,
            (None, Some(base64)) => data_of_base64(&base64, content_type)?,
            _ => return Err("an event has either `data` or `data_base64`".to_owned()),
        };
        let idempotency_key = format!("{KEY_PREFIX}{id}");
        NewEvent::new(payload.clone())
            .with(event.as_deref(), key.as_deref(), Some(&idempotency_key))
            .map_err(|problem| problem.to_string())?;
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Self { payload, content_type, event: given(event), key: given(key), idempotency_key })
    }

    /// Whether a request over HTTP comes to the same event: a header loses the spaces around it, and the
    /// content type decides there what is text, JSON or bytes. Only a WebSocket can have published others.
    fn fits_http(&self) -> bool {
        let trimmed = |text: &Option<String>| text.as_ref().is_none_or(|text| text.trim() == text);
        let received = Payload::declared(Some(&self.content_type), self.payload.data().clone());
        trimmed(&self.event) && trimmed(&self.key) && received.as_ref() == Ok(&self.payload)
    }

    fn outgoing(&self) -> Outgoing<'_> {
        Outgoing {
            data: self.payload.data(),
            event: self.event.as_deref(),
            key: self.key.as_deref(),
            content_type: Some(&self.content_type),
            idempotency_key: &self.idempotency_key,
        }
    }
}

/// Text or JSON. A string is text, unless its content type says otherwise.
fn data_of_json(json: &str, content_type: Option<String>) -> Result<(Payload, String), String> {
    let implied = if json.starts_with('"') { Kind::Text } else { Kind::Json }.implied_content_type();
    let content_type = content_type.unwrap_or_else(|| implied.to_owned());
    let declared = |data: Vec<u8>| {
        Payload::declared(Some(&content_type), Bytes::from(data)).map_err(|problem| problem.to_string())
    };
    let as_json = declared(json.as_bytes().to_vec())?;
    let payload = match as_json.kind() {
        Kind::Json => as_json,
        Kind::Text => {
            let text: String = serde_json::from_str(json)
                .map_err(|error| format!("`data` of type {content_type} is a string: {error}"))?;
            declared(text.into_bytes())?
        }
        Kind::Bytes => {
            return Err(format!("data of type {content_type} is bytes, which belong into `data_base64`"));
        }
    };
    Ok((payload, content_type))
}

fn data_of_base64(base64: &str, content_type: Option<String>) -> Result<(Payload, String), String> {
    let data =
        STANDARD.decode(base64).map_err(|error| format!("`data_base64` is no padded base64: {error}"))?;
    let content_type = content_type.unwrap_or_else(|| Kind::Bytes.implied_content_type().to_owned());
    let payload =
        Payload::declared_bytes(&content_type, data.into()).map_err(|problem| problem.to_string())?;
    Ok((payload, content_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(members: &str) -> Result<Imported, String> {
        Imported::parse(format!(r#"{{"channel":"a","id":"e-1",{members},"time":"t"}}"#).as_bytes())
    }

    #[test]
    fn a_line_becomes_the_event_that_it_was() {
        for (members, kind, content_type, data) in [
            (r#""data":{ "a" : 1.0e2}"#, Kind::Json, "application/json", &b"{ \"a\" : 1.0e2}"[..]),
            (r#""data":null"#, Kind::Json, "application/json", b"null"),
            (r#""data":"a\nb""#, Kind::Text, "text/plain", b"a\nb"),
            (r#""data":"""#, Kind::Text, "text/plain", b""),
            (r#""data":"<p>","content_type":"text/html""#, Kind::Text, "text/html", b"<p>"),
            (
                r#""data":"\u0041","content_type":"application/json""#,
                Kind::Json,
                "application/json",
                br#""\u0041""#,
            ),
            (r#""data":[],"content_type":"application/a+json""#, Kind::Json, "application/a+json", b"[]"),
            (r#""data_base64":"AAH/""#, Kind::Bytes, "application/octet-stream", b"\x00\x01\xff"),
            (r#""data_base64":"","content_type":"image/png""#, Kind::Bytes, "image/png", b""),
        ] {
            let imported = parse(members).expect(members);
            let payload = &imported.payload;
            assert_eq!((payload.kind(), &payload.data()[..]), (kind, data), "{members}");
            assert_eq!(imported.content_type, content_type, "{members}");
            assert_eq!(imported.idempotency_key, "import:e-1");
            assert!(imported.fits_http(), "{members}");
        }
    }

    #[test]
    fn what_only_a_websocket_can_publish_is_told_apart() {
        for members in [
            r#""event":" padded","data":1"#,
            r#""key":"padded ","data":1"#,
            r#""data_base64":"e30=","content_type":"application/json""#,
            r#""data_base64":"e30=","content_type":"text/csv""#,
            r#""data_base64":"e30=","content_type":"application/x-www-form-urlencoded""#,
        ] {
            assert!(!parse(members).expect(members).fits_http(), "{members}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_line() {
        for (members, part) in [
            (r#""data":1,"data_base64":"AA==""#, "either `data` or `data_base64`"),
            (r#""event":"x""#, "either `data` or `data_base64`"),
            (r#""data_base64":"!""#, "no padded base64"),
            (r#""data":1,"content_type":"text/plain""#, "is a string"),
            (r#""data":"x","content_type":"image/png""#, "belong into `data_base64`"),
            (r#""data":1,"content_type":"json""#, "type/subtype"),
            (r#""data":1,"event":"tidewire.gap""#, "server's own"),
            (r#""data":1,"key":7"#, "no exported event"),
            (r#""data":1,"data":2"#, "duplicate field"),
        ] {
            let why = parse(members).expect_err(members);
            assert!(why.contains(part), "{members}: {why}");
        }
        assert!(Imported::parse(br#"{"data":1}"#).expect_err("no id").contains("has no `id`"));
        assert!(Imported::parse(br#"{"data":1,"id":"a b"}"#).expect_err("no key").contains("visible ASCII"));
    }
}
