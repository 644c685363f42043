//! Where the server is: a checked base URL, and the addresses of the routes under it.
//! Must not open a connection.

use std::fmt::{self, Write as _};
use std::io;
use std::path::Path;

use ureq::http::Uri;

use super::arguments::ServerArguments;

/// Where the token is, if no file is named.
const TOKEN_VARIABLE: &str = "TIDEWIRE_TOKEN";

/// A checked `--url`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Whether TLS is spoken there.
    secure: bool,
    host: String,
    port: u16,
    /// The path that comes before each route, without a slash at its end.
    prefix: String,
    token: Option<Token>,
}

/// What shows who asks.
#[derive(Clone, PartialEq, Eq)]
struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[token]")
    }
}

impl Endpoint {
    /// Reads a base URL such as `http://127.0.0.1:8080` or `http://example.org/tidewire`.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!("{url:?} is no URL of a server ({why}); one looks like http://127.0.0.1:8080")
        };
        let uri: Uri = url.parse().map_err(|error| wrong(&format!("{error}")))?;
        let secure = match uri.scheme_str() {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => return Err(wrong("it must begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("a user name in it is not supported"));
        }
        if uri.query().is_some() {
            return Err(wrong("it must have no query"));
        }
        let prefix = uri.path().trim_end_matches('/').to_owned();
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { secure, host: authority.host().to_owned(), port, prefix, token: None })
    }

    /// The server that the arguments name, with the token that they, or the environment, give.
    pub(super) fn of(arguments: &ServerArguments) -> Result<Self, String> {
        Self::with_token(&arguments.url, arguments.token_file.as_deref())
    }

    /// A base URL, and the file with the token; without one, the environment may have it.
    pub(super) fn with_token(url: &str, file: Option<&Path>) -> Result<Self, String> {
        let mut endpoint = Self::parse(url)?;
        let token = match file {
            Some(file) if file == Path::new("-") => io::read_to_string(io::stdin()),
            Some(file) => std::fs::read_to_string(file),
            None => Ok(std::env::var(TOKEN_VARIABLE).unwrap_or_default()),
        };
        let token = token.map_err(|error| format!("cannot read the token: {error}"))?;
        let token = token.trim();
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the token must be one word of visible ASCII".to_owned());
        }
        endpoint.token = (!token.is_empty()).then(|| Token(token.to_owned()));
        Ok(endpoint)
    }

    /// The token, if there is one.
    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_ref().map(|token| token.0.as_str())
    }

    /// The value of `Authorization`, if there is a token.
    pub(super) fn authorization(&self) -> Option<String> {
        self.token.as_ref().map(|token| format!("Bearer {}", token.0))
    }

    /// The host, without the brackets of an IPv6 address, and the port: what a name lookup takes.
    pub(super) fn host_and_port(&self) -> (&str, u16) {
        (self.host.trim_start_matches('[').trim_end_matches(']'), self.port)
    }

    /// Whether TLS is spoken there.
    pub(super) fn is_secure(&self) -> bool {
        self.secure
    }

    /// What a request says in `Host`: the port only where it is not the scheme's own.
    pub(super) fn authority(&self) -> String {
        match (self.secure, self.port) {
            (false, 80) | (true, 443) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }

    /// Where events of `channel` are published.
    pub(super) fn publish(&self, channel: &str) -> String {
        self.route("http", &format!("/v1/channels/{}/events", encoded(channel)))
    }

    /// The envelope WebSocket.
    pub(super) fn websocket(&self) -> String {
        self.route("ws", "/v1/ws")
    }

    /// Polls and event streams over `channels`, from `since` on. `more` holds further parameters, each
    /// with its `&`.
    pub(super) fn events(&self, channels: &[String], since: &str, more: &str) -> String {
        let mut path = format!("/v1/events?since={}", encoded(since));
        for channel in channels {
            path.push_str("&channel=");
            path.push_str(&encoded(channel));
        }
        path.push_str(more);
        self.route("http", &path)
    }

    /// The path of a route, under the prefix.
    pub(super) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    fn route(&self, scheme: &str, path: &str) -> String {
        let secure = if self.secure { "s" } else { "" };
        format!("{scheme}{secure}://{}:{}{}{path}", self.host, self.port, self.prefix)
    }
}

/// Percent-encodes all but the unreserved characters of RFC 3986, and `:`, which paths and queries take.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing into a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Endpoint {
        Endpoint::parse(url).expect("a base URL")
    }

    #[test]
    fn builds_the_routes_under_a_prefix() {
        let endpoint = parsed("http://example.org/tidewire/");
        assert_eq!(endpoint.host_and_port(), ("example.org", 80));
        assert_eq!(endpoint.websocket(), "ws://example.org:80/tidewire/v1/ws");
        assert_eq!(endpoint.publish("a:b c"), "http://example.org:80/tidewire/v1/channels/a:b%20c/events");
        let channels = ["a".to_owned(), "ü&".to_owned()];
        assert_eq!(
            endpoint.events(&channels, "e1-1.e2-2", "&limit=7"),
            "http://example.org:80/tidewire/v1/events?since=e1-1.e2-2&channel=a&channel=%C3%BC%26&limit=7"
        );
    }

    #[test]
    fn knows_the_ports_of_both_schemes() {
        let endpoint = parsed("https://example.org");
        assert_eq!(endpoint.host_and_port(), ("example.org", 443));
        assert_eq!(endpoint.websocket(), "wss://example.org:443/v1/ws");
        assert_eq!(endpoint.publish("a"), "https://example.org:443/v1/channels/a/events");
        for (url, authority) in [
            ("https://example.org", "example.org"),
            ("http://example.org:443", "example.org:443"),
            ("wss://example.org:80", "example.org:80"),
            ("http://[::1]:80", "[::1]"),
        ] {
            assert_eq!(parsed(url).authority(), authority, "{url}");
        }
    }

    #[test]
    fn takes_ipv6_addresses() {
        let endpoint = parsed("http://[::1]:8080");
        assert_eq!(endpoint.host_and_port(), ("::1", 8080));
        assert_eq!(endpoint.websocket(), "ws://[::1]:8080/v1/ws");
    }

    #[test]
    fn says_what_is_wrong_with_a_url() {
        for (url, part) in [
            ("localhost:8080", "must begin with http://"),
            ("ftp://example.org", "must begin with http://"),
            ("http://", "is no URL"),
            ("http://user:word@example.org", "user name"),
            ("http://example.org/?a=b", "no query"),
            ("", "is no URL"),
        ] {
            let error = Endpoint::parse(url).expect_err(url);
            assert!(error.contains(part), "{url}: {error}");
        }
    }
}
