//! A token as it travels: three parts of base64url (RFC 7515 section 7.1), and what its header may ask for.
//! Must not know keys, nor what the claims mean. A fuzz target includes this file.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::json;

/// A token that is well formed. Nothing in it is true yet.
#[derive(Debug)]
pub(super) struct Compact<'t> {
    /// The name of the algorithm that it claims to be signed with.
    pub(super) algorithm: String,
    /// Which key it claims to be signed with.
    pub(super) key_id: Option<String>,
    /// What it claims.
    pub(super) claims: Map<String, Value>,
    /// What the signature is about.
    pub(super) signed: &'t [u8],
    /// The signature.
    pub(super) signature: Vec<u8>,
}

/// What is wrong with the form of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Not three parts.
    Parts,
    /// Five parts: it is encrypted.
    Encrypted,
    /// A part is no base64url, or not spelled as it must be.
    Base64,
    /// The header is no JSON object, or names a member twice.
    Header,
    /// The same of the claims.
    Claims,
    /// `alg` is missing.
    NoAlgorithm,
    /// `alg` is `none`, or there is no signature.
    Unsigned,
    /// `crit`: it asks for something that must be understood.
    Critical,
    /// A token within the token.
    Nested,
    /// `kid` is no text.
    KeyId,
}

impl fmt::Display for Flaw {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Parts => "the token must be a signed JSON Web Token: three parts, separated by dots",
            Self::Encrypted => "the token is encrypted; send one that is signed only",
            Self::Base64 => "each part of the token must be base64url without padding (RFC 4648 section 5)",
            Self::Header => "the token's header must be a JSON object that names no member twice",
            Self::Claims => "the token's claims must be a JSON object that names no member twice",
            Self::NoAlgorithm => "the token's header must name its algorithm (alg)",
            Self::Unsigned => "the token is not signed; send one that is",
            Self::Critical => "the token asks for extensions (crit), of which none is supported",
            Self::Nested => "the token contains another token (cty); send the inner one",
            Self::KeyId => "the key id (kid) in the token's header must be text",
        })
    }
}

impl<'t> Compact<'t> {
    /// Takes a token apart. What else its header says (`typ`, `jku`, `jwk`, `x5u`, `x5c`) is never looked at: who
    /// wrote it may not be whom it claims.
    pub(super) fn parse(token: &'t str) -> Result<Self, Flaw> {
        let mut dots = token.bytes().enumerate().filter(|(_, byte)| *byte == b'.').map(|(at, _)| at);
        let (Some(first), Some(second)) = (dots.next(), dots.next()) else { return Err(Flaw::Parts) };
        match dots.count() {
            0 => {}
            2 => return Err(Flaw::Encrypted),
            _ => return Err(Flaw::Parts),
        }
        let header = json::object(&decode(&token[..first])?).ok_or(Flaw::Header)?;
        let (algorithm, key_id) = read_header(header)?;
        let signature = decode(&token[second + 1..])?;
        if signature.is_empty() {
            return Err(Flaw::Unsigned);
        }
        let claims = json::object(&decode(&token[first + 1..second])?).ok_or(Flaw::Claims)?;
        Ok(Self { algorithm, key_id, claims, signed: &token.as_bytes()[..second], signature })
    }
}

fn read_header(mut header: Map<String, Value>) -> Result<(String, Option<String>), Flaw> {
    if header.contains_key("crit") {
        return Err(Flaw::Critical);
    }
    if header.contains_key("enc") {
        return Err(Flaw::Encrypted);
    }
    match header.get("cty") {
        None => {}
        Some(Value::String(kind)) if !is_token(kind) => {}
        Some(_) => return Err(Flaw::Nested),
    }
    let algorithm = match header.remove("alg") {
        Some(Value::String(name)) if name.eq_ignore_ascii_case("none") => return Err(Flaw::Unsigned),
        Some(Value::String(name)) => name,
        _ => return Err(Flaw::NoAlgorithm),
    };
    match header.remove("kid") {
        None => Ok((algorithm, None)),
        Some(Value::String(id)) => Ok((algorithm, Some(id))),
        Some(_) => Err(Flaw::KeyId),
    }
}

/// Whether a media type says that there is a token inside; `application/` may be left out.
fn is_token(kind: &str) -> bool {
    let kind = kind.trim().to_ascii_lowercase();
    let kind = kind.strip_prefix("application/").unwrap_or(&kind);
    kind.starts_with("jwt") || kind.starts_with("jose") || kind.ends_with("+jwt")
}

/// There is one spelling for all bytes: no padding, no white space, no bits left over. `base64` sees to that.
fn decode(part: &str) -> Result<Vec<u8>, Flaw> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Flaw::Base64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, claims: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
    }

    fn flaw(token: &str) -> Option<Flaw> {
        Compact::parse(token).err()
    }

    #[test]
    fn a_whole_one_is_taken_apart() {
        let text = token(r#"{"alg":"RS256","kid":"1","typ":"JWT","jku":"http://a/"}"#, r#"{"sub":"x"}"#);
        let compact = Compact::parse(&text).expect("it is whole");
        assert_eq!((compact.algorithm.as_str(), compact.key_id.as_deref()), ("RS256", Some("1")));
        assert_eq!(compact.claims["sub"], "x");
        assert_eq!(compact.signed, &text.as_bytes()[..text.len() - 5]);
        assert_eq!(compact.signature, b"sig");
    }

    #[test]
    fn what_its_header_may_not_say() {
        for (header, expected) in [
            (r#"{"alg":"none"}"#, Flaw::Unsigned),
            (r#"{"alg":"nOnE"}"#, Flaw::Unsigned),
            (r#"{"typ":"JWT"}"#, Flaw::NoAlgorithm),
            (r#"{"alg":null}"#, Flaw::NoAlgorithm),
            (r#"{"alg":["RS256"]}"#, Flaw::NoAlgorithm),
            (r#"{"alg":"RS256","crit":[]}"#, Flaw::Critical),
            (r#"{"alg":"RS256","crit":["b64"],"b64":false}"#, Flaw::Critical),
            (r#"{"alg":"RS256","cty":"JWT"}"#, Flaw::Nested),
            (r#"{"alg":"RS256","cty":"application/jwt"}"#, Flaw::Nested),
            (r#"{"alg":"RS256","cty":"at+jwt"}"#, Flaw::Nested),
            (r#"{"alg":"RS256","cty":1}"#, Flaw::Nested),
            (r#"{"alg":"dir","enc":"A128GCM"}"#, Flaw::Encrypted),
            (r#"{"alg":"RS256","kid":1}"#, Flaw::KeyId),
            (r#"{"alg":"RS256","kid":null}"#, Flaw::KeyId),
            (r#"{"alg":"none","alg":"RS256"}"#, Flaw::Header),
            (r#"{"alg":"RS256","\u0061lg":"HS256"}"#, Flaw::Header),
            ("[]", Flaw::Header),
            ("", Flaw::Header),
        ] {
            assert_eq!(flaw(&token(header, "{}")), Some(expected), "{header}");
        }
    }

    #[test]
    fn the_form_is_one_and_only() {
        let whole = token(r#"{"alg":"RS256"}"#, "{}");
        assert_eq!(flaw(&whole), None);
        let (head, signature) = whole.rsplit_once('.').expect("it has dots");
        for (text, expected) in [
            (String::new(), Flaw::Parts),
            (head.to_owned(), Flaw::Parts),
            (format!("{whole}.c2ln"), Flaw::Parts),
            (format!("{whole}.c2ln.c2ln"), Flaw::Encrypted),
            (format!("{whole}.a.b.c"), Flaw::Parts),
            (format!("{head}."), Flaw::Unsigned),
            (format!("{whole}="), Flaw::Base64),
            (format!("{whole}\n"), Flaw::Base64),
            (format!(" {whole}"), Flaw::Base64),
            (format!("{head}.{}+", &signature[1..]), Flaw::Base64),
            (format!("{head}.{signature}é"), Flaw::Base64),
            // Bits are left over: YQ is one byte, YR would be the same.
            (format!("{head}.YR"), Flaw::Base64),
            (format!("{head}.Y"), Flaw::Base64),
            (token(r#"{"alg":"RS256"}"#, r#"{"exp":1,"exp":2}"#), Flaw::Claims),
            (token(r#"{"alg":"RS256"}"#, "null"), Flaw::Claims),
        ] {
            assert_eq!(flaw(&text), Some(expected), "{text}");
        }
        assert_eq!(flaw(&format!("{head}.YQ")), None);
    }
}
