//! Any text as a token, and any three texts as the parts of one: read as everybody else would, or refused.
#![no_main]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

// As they are, without the server around them, which takes minutes to build with coverage.
#[path = "../../crates/server/src/access/token/compact.rs"]
mod compact;
#[path = "../../crates/server/src/access/token/json.rs"]
mod json;

use compact::{Compact, Flaw};

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        check(text);
    }
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let mut encoded = || URL_SAFE_NO_PAD.encode(parts.next().unwrap_or_default());
    let token = format!("{}.{}.{}", encoded(), encoded(), encoded());
    let flaw = check(&token);
    assert!(!matches!(flaw, Some(Flaw::Parts | Flaw::Base64)), "{flaw:?}");
});

fn check(token: &str) -> Option<Flaw> {
    let compact = match Compact::parse(token) {
        Ok(compact) => compact,
        Err(flaw) => {
            assert!(!flaw.to_string().is_empty());
            return Some(flaw);
        }
    };
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3);
    assert_eq!(compact.signed, format!("{}.{}", parts[0], parts[1]).as_bytes());
    // There is one spelling for all bytes.
    assert!(!compact.signature.is_empty());
    assert_eq!(URL_SAFE_NO_PAD.encode(&compact.signature), parts[2]);
    let lax = |part: &str| -> Value {
        let bytes = URL_SAFE_NO_PAD.decode(part).expect("it was read as base64url");
        serde_json::from_slice(&bytes).expect("it was read as JSON")
    };
    let header = lax(parts[0]);
    assert_eq!(header["alg"], compact.algorithm);
    assert_eq!(header.get("kid").and_then(Value::as_str), compact.key_id.as_deref());
    assert!(!compact.algorithm.eq_ignore_ascii_case("none") && header.get("crit").is_none());
    assert_eq!(lax(parts[1]), Value::Object(compact.claims.clone()));
    None
}
