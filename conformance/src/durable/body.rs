//! What durable tests publish: bodies that no other event has, in all kinds and sizes, and the one text by which
//! a body is known however it came back. Must not know who publishes or reads.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::event::Data;
use crate::random::Random;

/// Data to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A JSON object.
    Json(String),
    /// Text that does not begin like a JSON object, so that the two can be told apart on any transport.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl Body {
    /// The body of a publisher's event `number`: mostly small, some over a page, a few over many.
    pub fn random(random: &mut Random, publisher: usize, number: usize) -> Self {
        let most = match random.below(100) {
            0 => 900_000,
            other => [40, 40, 40, 200, 200, 1_000, 6_000, 70_000][other % 8],
        };
        let length = random.below(most);
        match random.below(4) {
            0 => Self::Text(format!("text {publisher} {number} {}", letters(random, length))),
            1 => {
                let mut bytes = format!("bytes {publisher} {number} ").into_bytes();
                bytes.extend((0..length).map(|_| random.bits() as u8));
                Self::Bytes(bytes)
            }
            _ => Self::json(publisher, number, &letters(random, length)),
        }
    }

    /// A JSON body.
    pub fn json(publisher: usize, number: usize, filler: &str) -> Self {
        Self::Json(format!(r#"{{"publisher":{publisher},"n":{number},"filler":"{filler}"}}"#))
    }

    /// The same data over a WebSocket, which takes JSON and bytes only.
    #[must_use]
    pub fn for_socket(self) -> Self {
        match self {
            Self::Text(text) => Self::Bytes(text.into_bytes()),
            other => other,
        }
    }

    /// As it goes into a request.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Json(text) | Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    /// The content type that says what it is.
    pub fn content_type(&self) -> &'static str {
        match self {
            Self::Json(_) => "application/json",
            Self::Text(_) => "text/plain",
            Self::Bytes(_) => "application/octet-stream",
        }
    }

    /// What it is known by: equal for equal data only.
    pub fn mark(&self) -> String {
        match self {
            Self::Json(text) => text.clone(),
            Self::Text(text) => format!("text:{text}"),
            Self::Bytes(bytes) => format!("bytes:{}", STANDARD.encode(bytes)),
        }
    }
}

/// The mark of data that came back.
pub fn mark_of(data: &Data) -> String {
    match data {
        Data::Json(json) => match serde_json::from_str::<String>(json) {
            Ok(text) => format!("text:{text}"),
            Err(_) => json.clone(),
        },
        Data::Bytes(bytes) => format!("bytes:{}", STANDARD.encode(bytes)),
        Data::Either(text) if text.starts_with('{') => text.clone(),
        Data::Either(text) => format!("text:{text}"),
    }
}

fn letters(random: &mut Random, length: usize) -> String {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .";
    (0..length).map(|_| char::from(LETTERS[random.below(64)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_one_mark_whatever_it_came_over_and_no_other_has_it() {
        let (json, text, bytes) =
            (Body::json(1, 2, "x"), Body::Text("a \"b\"".into()), Body::Bytes(vec![0, 1]));
        let over_json =
            [r#"{"publisher":1,"n":2,"filler":"x"}"#, r#""a \"b\"""#].map(|v| Data::Json(v.into()));
        assert_eq!(over_json.map(|data| mark_of(&data)), [json.mark(), text.mark()]);
        for body in [&json, &text] {
            let shown = Data::Either(String::from_utf8_lossy(body.bytes()).into_owned());
            assert_eq!(mark_of(&shown), body.mark());
        }
        assert_eq!(mark_of(&Data::Bytes(vec![0, 1])), bytes.mark());
        assert_ne!(mark_of(&Data::Bytes(vec![0, 3])), bytes.mark());
        let mut random = Random::new(1);
        let marks: Vec<_> = (0..50).map(|number| Body::random(&mut random, 0, number).mark()).collect();
        let distinct: std::collections::HashSet<_> = marks.iter().collect();
        assert_eq!(distinct.len(), marks.len());
    }
}
