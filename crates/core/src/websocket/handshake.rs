//! The WebSocket part of the opening handshake: the key, and what of permessage-deflate is agreed on.
//! Must not know HTTP; header values come in and go out as text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1_smol::Sha1;

use super::deflate::Window;

/// The value of `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 section 4.2.2).
pub fn accept_key(key: &str) -> String {
    let mut sha1 = Sha1::new();
    sha1.update(key.as_bytes());
    sha1.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(sha1.digest().bytes())
}

/// Whether a `Sec-WebSocket-Key` is what it must be: 16 bytes in base64.
pub fn is_valid_key(key: &str) -> bool {
    key.len() == 24 && STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

/// Agreed parameters of permessage-deflate. Context is never taken over, in neither direction, so that
/// a compressed frame can go to everybody and no connection needs a window of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deflate {
    /// The client asked for this window; without its asking, 15.
    server_window_bits: u8,
    asked_for_window: bool,
}

impl Deflate {
    /// The window in which messages to this client must be compressed.
    pub fn window(self) -> Window {
        if self.server_window_bits == 15 { Window::Full } else { Window::Narrow }
    }

    /// The value of `Sec-WebSocket-Extensions` in the answer.
    pub fn response_value(self) -> String {
        let mut value =
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover".to_owned();
        if self.asked_for_window {
            value.push_str(&format!("; server_max_window_bits={}", self.server_window_bits));
        }
        value
    }
}

/// The first offer of permessage-deflate in `Sec-WebSocket-Extensions` headers that can be met (RFC 7692
/// section 5.1 and 7.1). Offers with unknown, repeated or wrong parameters are passed over.
pub fn negotiate_deflate<'a>(values: impl Iterator<Item = &'a str>) -> Option<Deflate> {
    values.flat_map(|value| value.split(',')).find_map(parse_offer)
}

fn parse_offer(offer: &str) -> Option<Deflate> {
    let mut parts = offer.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case("permessage-deflate") {
        return None;
    }
    let mut agreed = Deflate { server_window_bits: 15, asked_for_window: false };
    let mut seen: Vec<&str> = Vec::new();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
            None => (part, None),
        };
        if seen.contains(&name) || seen.len() == 4 {
            return None;
        }
        seen.push(name);
        match (name, value) {
            ("server_no_context_takeover" | "client_no_context_takeover", None) => {}
            // Without context takeover any window of the client's is right for us.
            ("client_max_window_bits", None) => {}
            ("client_max_window_bits", Some(bits)) => drop(window_bits(bits)?),
            ("server_max_window_bits", Some(bits)) => {
                agreed = Deflate { server_window_bits: window_bits(bits)?, asked_for_window: true };
            }
            _ => return None,
        }
    }
    Some(agreed)
}

fn window_bits(text: &str) -> Option<u8> {
    let plain = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|bits| plain && (8..=15).contains(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(is_valid_key("dGhlIHNhbXBsZSBub25jZQ=="));
        for key in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ=",
            "dGhlIHNhbXBsZSBub25jZQ",
            "AAAAAAAAAAAAAAAAAAAAAAAA",
            "dGhlIHNhbXBsZSBub25jZ!==",
        ] {
            assert!(!is_valid_key(key), "{key}");
        }
    }

    #[test]
    fn the_first_offer_that_can_be_met_is_taken() {
        let plain = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        for (offers, answer) in [
            (vec!["permessage-deflate"], Some(plain.to_owned())),
            (vec!["x-other, permessage-deflate; client_max_window_bits"], Some(plain.to_owned())),
            (vec!["x-other", "Permessage-Deflate; client_max_window_bits=\"9\""], Some(plain.to_owned())),
            (
                vec!["permessage-deflate; server_max_window_bits=9"],
                Some(format!("{plain}; server_max_window_bits=9")),
            ),
            (
                vec!["permessage-deflate; server_max_window_bits=16, permessage-deflate"],
                Some(plain.to_owned()),
            ),
            (vec!["permessage-deflate; server_max_window_bits"], None),
            (vec!["permessage-deflate; client_max_window_bits=08"], None),
            (vec!["permessage-deflate; server_no_context_takeover; server_no_context_takeover"], None),
            (vec!["permessage-deflate; colour=1"], None),
            (vec!["permessage-deflate; server_no_context_takeover=1"], None),
            (vec!["x-webkit-deflate-frame"], None),
            (vec![], None),
        ] {
            let agreed = negotiate_deflate(offers.iter().copied());
            assert_eq!(agreed.map(Deflate::response_value), answer, "{offers:?}");
        }
    }
}
