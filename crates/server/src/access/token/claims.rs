//! What a token says, read strictly. Must not know keys or signatures: nothing here is true before one is checked.

use serde_json::{Map, Value};

use super::refusal::Refusal;

/// The longest `sub` and `jti`. Beyond: the token is refused.
const NAME_BYTES_MAX: usize = 256;
/// What a time must be.
const DATE: &str = "a number of seconds since 1970";

/// What a token says that was taken.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Claims {
    /// Who it is about (`sub`): not empty, at most 256 bytes, no control characters.
    pub(crate) user: Option<Box<str>>,
    /// From when on it is refused: `exp`, and the leeway after it. Unix time.
    pub(crate) expires_at_ms: u64,
    /// When it was issued (`iat`). Unix time.
    pub(crate) issued_at_ms: Option<u64>,
    /// Its own name (`jti`): not empty, at most 256 bytes, no control characters.
    pub(crate) token_id: Option<Box<str>>,
    /// The claim that holds the rights, whatever it is.
    pub(crate) rights: Option<Value>,
}

/// What holds for all tokens.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) leeway_ms: u64,
    pub(super) rights_claim: String,
}

impl Rules {
    /// Reads the claims and judges the times among them.
    pub(super) fn read(&self, claims: &Map<String, Value>, now_ms: u64) -> Result<Claims, Refusal> {
        let expires_ms = date_ms(claims, "exp")?.ok_or(Refusal::Claim("exp", DATE))?;
        let expires_at_ms = expires_ms.saturating_add(self.leeway_ms);
        if now_ms >= expires_at_ms {
            return Err(Refusal::Expired((now_ms - expires_ms) / 1000));
        }
        if let Some(seconds) = self.seconds_until(date_ms(claims, "nbf")?, now_ms) {
            return Err(Refusal::Early(seconds));
        }
        let issued_at_ms = date_ms(claims, "iat")?;
        if let Some(seconds) = self.seconds_until(issued_at_ms, now_ms) {
            return Err(Refusal::Future(seconds));
        }
        Ok(Claims {
            user: name(claims, "sub")?,
            expires_at_ms,
            issued_at_ms,
            token_id: name(claims, "jti")?,
            rights: claims.get(&self.rights_claim).cloned(),
        })
    }

    /// How far a time lies ahead, if it is farther than clocks differ.
    fn seconds_until(&self, date_ms: Option<u64>, now_ms: u64) -> Option<u64> {
        let ahead_ms = date_ms?.saturating_sub(now_ms);
        (ahead_ms > self.leeway_ms).then(|| ahead_ms.div_ceil(1000))
    }
}

/// Who claims to have issued it.
pub(super) fn issuer(claims: &Map<String, Value>) -> Result<Option<&str>, Refusal> {
    match claims.get("iss") {
        None => Ok(None),
        Some(Value::String(issuer)) => Ok(Some(issuer)),
        Some(_) => Err(Refusal::Claim("iss", "text")),
    }
}

/// Whether one of `wanted` is in `aud`; it is not looked at if there is none.
pub(super) fn is_for(claims: &Map<String, Value>, wanted: &[String]) -> Result<bool, Refusal> {
    let is_wanted = |value: &Value| wanted.iter().any(|one| value == one);
    match claims.get("aud") {
        None => Ok(wanted.is_empty()),
        Some(one @ Value::String(_)) => Ok(wanted.is_empty() || is_wanted(one)),
        Some(Value::Array(many)) if many.iter().all(Value::is_string) => {
            Ok(wanted.is_empty() || many.iter().any(is_wanted))
        }
        Some(_) => Err(Refusal::Claim("aud", "text, or an array of it")),
    }
}

/// A time (RFC 7519 `NumericDate`), which may have a fraction.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn date_ms(claims: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, Refusal> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    if let Some(seconds) = value.as_u64() {
        return Ok(Some(seconds.saturating_mul(1000)));
    }
    match value.as_f64() {
        // A cast from a floating point number saturates.
        Some(seconds) if seconds >= 0.0 => Ok(Some((seconds * 1000.0) as u64)),
        _ => Err(Refusal::Claim(name, DATE)),
    }
}

fn name(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<Box<str>>, Refusal> {
    match claims.get(claim) {
        None => Ok(None),
        Some(Value::String(name))
            if !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control) =>
        {
            Ok(Some(name.as_str().into()))
        }
        Some(_) => Err(Refusal::Claim(claim, "text of 1 to 256 bytes without control characters")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW_MS: u64 = 1_000_000_000;
    const NOW: u64 = NOW_MS / 1000;

    fn read(claims: Value) -> Result<Claims, Refusal> {
        let rules = Rules { leeway_ms: 30_000, rights_claim: "tidewire".to_owned() };
        let Value::Object(claims) = claims else { panic!("claims are an object") };
        rules.read(&claims, NOW_MS)
    }

    #[test]
    fn what_is_read() {
        let whole = json!({"exp": NOW + 60, "iat": NOW - 1, "nbf": NOW, "sub": "é:1", "jti": "j", "tidewire": {"a": [1]}});
        let claims = read(whole).expect("it is good");
        assert_eq!((claims.user.as_deref(), claims.token_id.as_deref()), (Some("é:1"), Some("j")));
        assert_eq!((claims.expires_at_ms, claims.issued_at_ms), (NOW_MS + 90_000, Some(NOW_MS - 1000)));
        assert_eq!(claims.rights, Some(json!({"a": [1]})));
        let little = read(json!({"exp": u64::MAX})).expect("it is good");
        assert_eq!((little.user, little.expires_at_ms, little.rights), (None, u64::MAX, None));
        assert_eq!(read(json!({"exp": 1_000_060.25})).expect("it is good").expires_at_ms, NOW_MS + 90_250);
        assert_eq!(read(json!({"exp": 1e300})).expect("it is good").expires_at_ms, u64::MAX);
        assert_eq!(
            read(json!({"exp": NOW, "tidewire": null})).expect("it is good").rights,
            Some(Value::Null)
        );
    }

    #[test]
    fn times_are_taken_with_leeway() {
        assert!(read(json!({"exp": NOW - 29})).is_ok());
        assert_eq!(read(json!({"exp": NOW - 30})), Err(Refusal::Expired(30)));
        assert_eq!(read(json!({"exp": 0})), Err(Refusal::Expired(NOW)));
        assert!(read(json!({"exp": NOW, "nbf": NOW + 30, "iat": NOW + 30})).is_ok());
        assert_eq!(read(json!({"exp": NOW, "nbf": NOW + 31})), Err(Refusal::Early(31)));
        assert_eq!(read(json!({"exp": NOW, "iat": NOW + 3600})), Err(Refusal::Future(3600)));
    }

    #[test]
    fn what_is_no_claim() {
        for (claim, values) in [
            ("exp", json!(["1", null, -1, -0.5, true, [1], {}])),
            ("nbf", json!(["1", null, -1])),
            ("iat", json!(["1", null, -1])),
            ("sub", json!(["", null, 7, ["a"], "a\nb", "\u{0}", "\u{85}", "x".repeat(257)])),
            ("jti", json!(["", null, 7, "x".repeat(257)])),
        ] {
            for value in values.as_array().expect("it is an array") {
                let mut claims = json!({"exp": NOW});
                claims[claim] = value.clone();
                assert!(
                    matches!(read(claims), Err(Refusal::Claim(named, _)) if named == claim),
                    "{claim} {value}"
                );
            }
        }
        assert_eq!(read(json!({})), Err(Refusal::Claim("exp", DATE)));
        assert!(read(json!({"exp": NOW, "sub": "x".repeat(256)})).is_ok());
    }

    #[test]
    fn one_audience_of_many_is_enough() {
        let wanted = ["a".to_owned(), "b".to_owned()];
        for (audience, expected) in [
            (json!("a"), Ok(true)),
            (json!(["x", "b"]), Ok(true)),
            (json!("ab"), Ok(false)),
            (json!([]), Ok(false)),
            (json!(["A"]), Ok(false)),
            (json!(["a", 1]), Err(Refusal::Claim("aud", "text, or an array of it"))),
            (json!(null), Err(Refusal::Claim("aud", "text, or an array of it"))),
        ] {
            let claims = Map::from_iter([("aud".to_owned(), audience.clone())]);
            assert_eq!(is_for(&claims, &wanted), expected, "{audience}");
            assert_eq!(is_for(&claims, &[]), expected.map(|_| true), "{audience}");
        }
        assert_eq!(is_for(&Map::new(), &wanted), Ok(false));
        assert_eq!(is_for(&Map::new(), &[]), Ok(true));
    }
}
