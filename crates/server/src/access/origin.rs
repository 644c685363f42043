//! Which pages may use the server: the `Origin` of a request against the allowlist (RFC 6454, Fetch).
//! Must not know what the request asks for.

use std::net::IpAddr;
use std::sync::Arc;

use tidewire_core::http1::{Method, Request};
use tidewire_core::{Code, Problem};

/// The request headers that pages may send, for preflights.
pub(crate) const ALLOW_HEADERS: &str = "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, \
                                        Tidewire-Event, Tidewire-Key, Cache-Control";
/// The answer headers that pages may read, beyond those that they always may.
pub(crate) const EXPOSE_HEADERS: &str = "ETag, Retry-After, RateLimit, RateLimit-Policy, WWW-Authenticate";
/// How long a browser may keep the answer to a preflight.
pub(crate) const PREFLIGHT_SECONDS: &str = "600";

/// The allowlist. The server's own pages are always allowed where their name cannot be somebody else's.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    rules: Vec<Rule>,
}

#[derive(Debug, PartialEq, Eq)]
enum Rule {
    /// `*`: all pages, without cookies.
    All,
    /// Exactly this one.
    Exact(Arc<str>),
    /// `https://*.example.com:8443`, as what comes before the star, and after.
    Below(String, String),
}

/// Where a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// From no page, or from one that the browser did not name.
    Absent,
    /// From one of the server's own pages.
    Own,
    /// From a page that the list names.
    Listed(Arc<str>),
    /// From a page of a domain that the list names.
    Below(Arc<str>),
    /// From a page that is allowed because all are: without cookies.
    All,
}

impl Origins {
    /// Reads the list.
    ///
    /// # Errors
    /// Says which entry is none.
    pub(crate) fn parse(entries: &[String]) -> Result<Self, String> {
        let rule = |entry: &String| match entry.as_str() {
            "*" => Ok(Rule::All),
            "null" => Ok(Rule::Exact("null".into())),
            entry => {
                let wrong = || {
                    format!(
                        "{entry:?} is not an origin: write scheme://host or scheme://host:port, without a path; \
                         the host may begin with *. and \"*\" alone means all pages, without cookies"
                    )
                };
                let (scheme, authority) = split(entry).ok_or_else(wrong)?;
                match authority.strip_prefix("*.") {
                    Some(domain) if is_authority(domain) => Ok(Rule::Below(
                        format!("{scheme}://"),
                        format!(".{}", without_default_port(&scheme, domain)),
                    )),
                    None if is_authority(&authority) => Ok(Rule::Exact(
                        format!("{scheme}://{}", without_default_port(&scheme, &authority)).into(),
                    )),
                    _ => Err(wrong()),
                }
            }
        };
        Ok(Self { rules: entries.iter().map(rule).collect::<Result<_, _>>()? })
    }

    /// Whether answers differ by origin, so that caches must know.
    pub(crate) fn vary(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Where a request comes from.
    ///
    /// # Errors
    /// `origin_not_allowed`, saying what would allow it.
    pub(crate) fn judge(&self, request: &Request<'_, '_>) -> Result<Origin, Problem> {
        let mut values = request.headers("origin");
        let Some(origin) = values.next() else { return Ok(Origin::Absent) };
        if values.next().is_some() {
            return Err(Problem::new(Code::InvalidRequest, "a request has one Origin header at most"));
        }
        let host = request.headers("host").next().unwrap_or_default();
        if is_own(origin, host) {
            return Ok(Origin::Own);
        }
        if let Some(found) = self.rules.iter().find_map(|rule| rule.find(origin)) {
            return Ok(found);
        }
        if self.rules.contains(&Rule::All) {
            return Ok(Origin::All);
        }
        let shown: String = origin.chars().filter(|c| c.is_ascii_graphic()).take(128).collect();
        let detail = format!(
            "pages of {shown} may not use this server; if they should, add that to origins in its configuration"
        );
        Err(Problem::new(Code::OriginNotAllowed, detail))
    }
}

impl Origin {
    /// Whether cookies that come with the request were meant for us. They come along with whatever a browser
    /// sends, so the page that made it send them must be one that may.
    pub(crate) fn takes_cookies(&self, request: &Request<'_, '_>) -> bool {
        match self {
            Self::Own | Self::Listed(_) | Self::Below(_) => true,
            Self::All => false,
            Self::Absent => {
                let site = request.headers("sec-fetch-site").next();
                let is_read = matches!(request.method, Method::Get | Method::Head);
                let upgrades = request.has_token("upgrade", "websocket");
                // A page elsewhere cannot read the answer to a GET that does not name it, but could do harm by
                // anything else. Browsers name the page with those.
                matches!(site, Some("same-origin" | "none")) || (site.is_none() && is_read && !upgrades)
            }
        }
    }
}

impl Rule {
    fn find(&self, origin: &str) -> Option<Origin> {
        match self {
            Self::All => None,
            Self::Exact(exact) => (origin == &**exact).then(|| Origin::Listed(Arc::clone(exact))),
            Self::Below(scheme, domain) => origin
                .strip_prefix(scheme.as_str())
                .and_then(|authority| authority.strip_suffix(domain.as_str()))
                .filter(|label| !label.is_empty() && label.bytes().all(is_label_byte))
                .map(|_| Origin::Below(origin.into())),
        }
    }
}

/// Whether the page was served under the very name that the request was sent to, and that name is an address or
/// `localhost`. Any other name may be made to point here by whoever owns it (DNS rebinding).
fn is_own(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = split(origin) else { return false };
    let host = host.to_ascii_lowercase();
    if without_default_port(&scheme, &authority) != without_default_port(&scheme, &host) {
        return false;
    }
    let name = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok()
}

/// Scheme and authority of an origin, in lower case.
fn split(origin: &str) -> Option<(String, String)> {
    let origin = origin.to_ascii_lowercase();
    let (scheme, authority) = origin.split_once("://")?;
    matches!(scheme, "http" | "https").then(|| (scheme.to_owned(), authority.to_owned()))
}

fn without_default_port<'a>(scheme: &str, authority: &'a str) -> &'a str {
    let port = if scheme == "https" { ":443" } else { ":80" };
    authority.strip_suffix(port).unwrap_or(authority)
}

fn is_label_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_')
}

/// A host name, an IPv4 address or an IPv6 address in brackets, and a port if there is one.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port_is_right =
        port.is_none_or(|port| port.parse::<u16>().is_ok_and(|number| number.to_string() == port));
    let host_is_right = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.bytes().all(is_label_byte)
                && !host.starts_with('.')
                && !host.ends_with('.')
        }
    };
    port_is_right && host_is_right
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewire_core::http1::{HeadLimits, Parsed, header_space, parse_request};

    const LIMITS: HeadLimits = HeadLimits { head_bytes: 4096, fields: 16 };

    fn with<T>(line: &str, fields: &str, then: impl FnOnce(&Request<'_, '_>) -> T) -> T {
        let head = format!("{line} / HTTP/1.1\r\n{fields}\r\n\r\n");
        let mut space = header_space();
        match parse_request(head.as_bytes(), LIMITS, &mut space) {
            Ok(Parsed::Complete(request, _)) => then(&request),
            other => panic!("{head:?}: {other:?}"),
        }
    }

    fn origins(entries: &[&str]) -> Origins {
        let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        Origins::parse(&entries).expect("right entries")
    }

    #[test]
    fn only_pages_on_the_list_are_allowed() {
        let list =
            ["https://app.example.com", "https://*.example.org:8443", "http://[::1]:3000", "https://a.b:443"];
        let list = origins(&list);
        for (origin, allowed) in [
            ("https://app.example.com", true),
            ("http://app.example.com", false),
            ("https://app.example.com:8443", false),
            ("https://app.example.com.evil.net", false),
            ("https://evil.net/app.example.com", false),
            ("https://xapp.example.com", false),
            ("https://App.example.com", false),
            ("https://x.example.org:8443", true),
            ("https://y.x.example.org:8443", true),
            ("https://example.org:8443", false),
            ("https://.example.org:8443", false),
            ("https://evil.net#.example.org:8443", false),
            ("https://evil.net/.example.org:8443", false),
            ("https://evil.net:1@.example.org:8443", false),
            ("https://x.example.org", false),
            ("http://[::1]:3000", true),
            ("https://a.b", true),
            ("null", false),
            ("*", false),
            ("file://", false),
        ] {
            let judged =
                with("GET", &format!("Host: h.net\r\nOrigin: {origin}"), |request| list.judge(request));
            match judged {
                Ok(Origin::Listed(found) | Origin::Below(found)) => {
                    assert!(allowed && *found == *origin, "{origin}");
                }
                Ok(other) => panic!("{origin}: {other:?}"),
                Err(problem) => assert!(!allowed && problem.code == Code::OriginNotAllowed, "{origin}"),
            }
        }
    }

    #[test]
    fn a_name_is_not_ones_own_when_others_can_have_it() {
        for (host, origin, own) in [
            ("127.0.0.1:8080", "http://127.0.0.1:8080", true),
            ("localhost:8080", "http://localhost:8080", true),
            ("[::1]:8080", "http://[::1]:8080", true),
            ("192.168.1.5", "http://192.168.1.5", true),
            ("192.168.1.5", "https://192.168.1.5:443", true),
            ("localhost:8080", "http://localhost:3000", false),
            ("localhost:8080", "http://127.0.0.1:8080", false),
            ("evil.net:8080", "http://evil.net:8080", false),
            ("localhost.evil.net", "http://localhost.evil.net", false),
            ("127.0.0.1.evil.net", "http://127.0.0.1.evil.net", false),
        ] {
            let fields = format!("Host: {host}\r\nOrigin: {origin}");
            let judged = with("GET", &fields, |request| origins(&[]).judge(request));
            assert_eq!(judged.is_ok(), own, "{host} {origin}");
        }
    }

    #[test]
    fn a_star_takes_no_cookies() {
        let list = origins(&["*", "https://a.net"]);
        let judge = |origin: &str| {
            with("GET", &format!("Host: h\r\nOrigin: {origin}"), |request| {
                let origin = list.judge(request).expect("all are allowed");
                (origin.takes_cookies(request), origin)
            })
        };
        assert_eq!(judge("https://b.net"), (false, Origin::All));
        assert_eq!(judge("null"), (false, Origin::All));
        assert_eq!(judge("https://a.net"), (true, Origin::Listed("https://a.net".into())));
    }

    #[test]
    fn cookies_without_an_origin_are_taken_where_they_do_no_harm() {
        for (line, fields, taken) in [
            ("GET", "Host: h", true),
            ("GET", "Host: h\r\nSec-Fetch-Site: same-origin", true),
            ("GET", "Host: h\r\nSec-Fetch-Site: none", true),
            ("GET", "Host: h\r\nSec-Fetch-Site: same-site", false),
            ("GET", "Host: h\r\nSec-Fetch-Site: cross-site", false),
            ("GET", "Host: h\r\nUpgrade: websocket", false),
            ("POST", "Host: h", false),
            ("DELETE", "Host: h", false),
            ("POST", "Host: h\r\nSec-Fetch-Site: same-origin", true),
        ] {
            let found = with(line, fields, |request| Origin::Absent.takes_cookies(request));
            assert_eq!(found, taken, "{line} {fields}");
        }
    }

    #[test]
    fn entries_are_origins() {
        for entry in [
            "",
            "example.com",
            "https://",
            "https://a/",
            "https://a/b",
            "ftp://a",
            "https://a:99999",
            "https://a:",
            "https://a b",
            "https://*",
            "https://*.",
            "https://a.*.b",
            "https://*a.b",
            "https://[::1",
            "**",
        ] {
            assert!(Origins::parse(&[entry.to_owned()]).is_err(), "{entry:?}");
        }
        assert_eq!(origins(&["HTTPS://A.net:443"]).rules, [Rule::Exact("https://a.net".into())]);
    }
}
