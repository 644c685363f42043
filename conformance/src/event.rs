//! What was published and what a client saw, and whether the one is the other.
//! Knows which parts each transport can show; must not know how they are carried.

use crate::Result;

/// The three kinds of data (PROTOCOL.md section 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A JSON text.
    Json,
    /// UTF-8.
    Text,
    /// Anything.
    Bytes,
}

/// An event as its publisher knows it.
#[derive(Debug, Clone)]
pub struct Published {
    /// The channel's real name.
    pub channel: String,
    /// The id that the server gave.
    pub id: String,
    /// The time that the server gave; unknown when published over a WebSocket.
    pub time: Option<String>,
    /// How readers must see the data.
    pub kind: Kind,
    /// The data, byte for byte.
    pub body: Vec<u8>,
    /// The event name.
    pub event: Option<String>,
    /// The key.
    pub key: Option<String>,
    /// The content type, where its kind does not imply it.
    pub content_type: Option<String>,
}

/// Data as a client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// The text of a JSON value inside a JSON form: JSON as published, or text as a JSON string.
    Json(String),
    /// Known to be bytes.
    Bytes(Vec<u8>),
    /// Text or JSON: the transport does not tell which.
    Either(String),
}

/// An event as a client saw it. `None` where the transport has no place for a part, or the part was absent.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The channel.
    pub channel: Option<String>,
    /// The id.
    pub id: Option<String>,
    /// The name.
    pub event: Option<String>,
    /// The key.
    pub key: Option<String>,
    /// The content type.
    pub content_type: Option<String>,
    /// The time.
    pub time: Option<String>,
    /// The data.
    pub data: Data,
}

/// What a transport has a place for.
#[derive(Debug, Clone, Copy)]
pub struct Sees {
    /// The channel, when a client asked for one only.
    pub channel: bool,
    /// Ids.
    pub id: bool,
    /// Event names.
    pub event: bool,
    /// Keys, content types and times.
    pub rest: bool,
    /// CR, LF and CRLF told apart.
    pub line_breaks: bool,
}

impl Published {
    /// Says how `seen` differs from what was published, if it does.
    ///
    /// # Errors
    /// The part that differs, expected and got.
    pub fn check(&self, seen: &Seen, sees: Sees) -> Result<()> {
        let part = |name: &str, expected: Option<&str>, got: Option<&str>| {
            if expected == got {
                Ok(())
            } else {
                Err(format!("{name}: expected {expected:?}, got {got:?} (of event {})", self.id))
            }
        };
        if sees.id {
            part("id", Some(&self.id), seen.id.as_deref())?;
        }
        self.check_data(&seen.data, sees.line_breaks)?;
        if sees.channel || seen.channel.is_some() {
            part("channel", Some(&self.channel), seen.channel.as_deref())?;
        }
        if sees.event {
            part("event name", self.event.as_deref(), seen.event.as_deref())?;
        }
        if sees.rest {
            part("key", self.key.as_deref(), seen.key.as_deref())?;
            part("content type", self.content_type.as_deref(), seen.content_type.as_deref())?;
            match (&self.time, &seen.time) {
                (Some(expected), got) => part("time", Some(expected), got.as_deref())?,
                (None, Some(got)) => crate::pattern::check_time(got)?,
                (None, None) => return Err("time: expected one, got none".to_owned()),
            }
        }
        Ok(())
    }

    fn check_data(&self, data: &Data, line_breaks: bool) -> Result<()> {
        let text = || String::from_utf8_lossy(&self.body).into_owned();
        let same = match (self.kind, data) {
            (Kind::Json, Data::Json(got)) => *got == on_one_line(text().trim_matches(JSON_SPACE)),
            (Kind::Text, Data::Json(got)) => {
                serde_json::from_str::<String>(got).is_ok_and(|got| got == text())
            }
            (Kind::Bytes, Data::Bytes(got)) => *got == self.body,
            (Kind::Json | Kind::Text, Data::Either(got)) if line_breaks => *got == text(),
            (Kind::Json | Kind::Text, Data::Either(got)) => *got == with_line_feeds(&text()),
            _ => false,
        };
        if same {
            return Ok(());
        }
        let expected = match self.kind {
            Kind::Bytes => {
                format!("{} bytes {:02x?}", self.body.len(), &self.body[..self.body.len().min(40)])
            }
            _ => shorten(&text()),
        };
        let got = shorten(&format!("{data:?}"));
        Err(format!("data: expected {:?} {expected}, got {got} (of event {})", self.kind, self.id))
    }
}

const JSON_SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

/// JSON strings cannot hold raw line breaks, so all that are there stand between tokens.
fn on_one_line(json: &str) -> String {
    json.replace(['\r', '\n'], " ")
}

fn with_line_feeds(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// The beginning of a long text, for messages.
pub fn shorten(text: &str) -> String {
    let mut out: String = text.chars().take(300).collect();
    if out.len() < text.len() {
        out.push_str(&format!("... ({} bytes)", text.len()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Sees = Sees { channel: true, id: true, event: true, rest: true, line_breaks: true };

    fn pair() -> (Published, Seen) {
        let time = "2026-11-23T05:14:04.123Z".to_owned();
        let published = Published {
            channel: "a".into(),
            id: "e-1".into(),
            time: Some(time.clone()),
            kind: Kind::Json,
            body: b"{\n\"a\":1}\n".to_vec(),
            event: Some("name".into()),
            key: None,
            content_type: None,
        };
        let seen = Seen {
            channel: Some("a".into()),
            id: Some("e-1".into()),
            event: Some("name".into()),
            key: None,
            content_type: None,
            time: Some(time),
            data: Data::Json("{ \"a\":1}".into()),
        };
        (published, seen)
    }

    #[test]
    fn the_same_event_passes_and_each_part_that_differs_is_noticed() {
        let (published, seen) = pair();
        published.check(&seen, ALL).expect("the same");
        let changes: [fn(&mut Seen); 8] = [
            |seen| seen.channel = Some("b".into()),
            |seen| seen.id = Some("e-2".into()),
            |seen| seen.event = None,
            |seen| seen.key = Some("k".into()),
            |seen| seen.content_type = Some("text/html".into()),
            |seen| seen.time = Some("2026-11-23T05:14:04.124Z".into()),
            |seen| seen.data = Data::Json("{\"a\":1}".into()),
            |seen| seen.data = Data::Json("\"{ \\\"a\\\":1}\"".into()),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut other = seen.clone();
            change(&mut other);
            assert!(published.check(&other, ALL).is_err(), "change {number} went unnoticed");
        }
    }
}
