//! Query strings and path segments, decoded strictly. Must not know which parameters exist.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::error::{Code, Problem};

/// The parameters of a query (`application/x-www-form-urlencoded`), decoded.
#[derive(Debug, Default)]
pub struct Query<'q> {
    pairs: Vec<(Cow<'q, str>, Cow<'q, str>)>,
}

impl<'q> Query<'q> {
    /// Reads a query; `known` are the parameters that the route has.
    ///
    /// # Errors
    /// `invalid_parameter` for a parameter that is not known, or is not UTF-8.
    pub fn parse(query: Option<&'q str>, known: &[&str]) -> Result<Self, Problem> {
        let mut pairs = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if !known.contains(&&*name) {
                let shown: String = name.chars().take(32).collect();
                let options = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let detail = format!("the query parameter {shown:?} is not known here; known: {options}");
                return Err(Problem::new(Code::InvalidParameter, detail));
            }
            pairs.push((name, value));
        }
        Ok(Self { pairs })
    }

    /// The value of a parameter that may be given once.
    ///
    /// # Errors
    /// `invalid_parameter` if it is given more often.
    pub fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() {
            return Err(Problem::new(
                Code::InvalidParameter,
                format!("the query parameter {name} is given twice"),
            ));
        }
        Ok(first)
    }

    /// All values of a parameter, in order.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| &**value)
    }
}

fn decode(text: &str) -> Result<Cow<'_, str>, Problem> {
    if !text.contains(['%', '+']) {
        return Ok(Cow::Borrowed(text));
    }
    decode_escapes(&text.replace('+', " ")).map(Cow::Owned)
}

/// A path segment without its percent-encoding.
///
/// # Errors
/// `invalid_request` for a broken escape, or bytes that are not UTF-8.
pub fn decode_path_segment(segment: &str) -> Result<Cow<'_, str>, Problem> {
    if !segment.contains('%') {
        return Ok(Cow::Borrowed(segment));
    }
    decode_escapes(segment)
        .map(Cow::Owned)
        .map_err(|problem| Problem::new(Code::InvalidRequest, problem.detail))
}

fn decode_escapes(text: &str) -> Result<String, Problem> {
    let refuse = || Problem::new(Code::InvalidParameter, "a percent-encoding in the URL is not %XX of UTF-8");
    let whole = |escape: &str| escape.len() >= 2 && escape.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    if !text.split('%').skip(1).all(whole) {
        return Err(refuse());
    }
    percent_decode_str(text).decode_utf8().map(Cow::into_owned).map_err(|_| refuse())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_known_and_names_what_is_not() {
        let query =
            Query::parse(Some("channel=a&since=x%2Ey&channel=b+c&&"), &["channel", "since"]).expect("known");
        assert_eq!(query.all("channel").collect::<Vec<_>>(), ["a", "b c"]);
        assert_eq!(query.one("since"), Ok(Some("x.y")));
        assert_eq!(query.one("limit"), Ok(None));
        assert!(query.one("channel").is_err());
        let unknown = Query::parse(Some("sinec=1"), &["since"]).expect_err("unknown");
        assert!(unknown.detail.contains("sinec") && unknown.detail.contains("since"));
        for broken in ["since=%", "since=%4", "since=%zz", "since=%ff", "%ff=1"] {
            assert!(Query::parse(Some(broken), &["since"]).is_err(), "{broken}");
        }
    }

    #[test]
    fn path_segments() {
        assert_eq!(decode_path_segment("chat%3A1").as_deref(), Ok("chat:1"));
        assert_eq!(decode_path_segment("a+b").as_deref(), Ok("a+b"));
        assert!(decode_path_segment("%c3%28").is_err());
        assert!(decode_path_segment("%4\u{e4}").is_err());
    }
}
