//! The forms of texts in the configuration: addresses, URLs, origins, networks and names. Must not know which
//! option has which form.

use std::net::{IpAddr, SocketAddr};

use crate::access::pattern::Pattern;
use crate::backplane::{self, Target};

/// What a text must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Anything but nothing.
    Words,
    /// A path of a file or directory.
    Path,
    /// An address and a port.
    Address,
    /// A pattern of channels.
    Pattern,
    /// A token of RFC 9110, as names of cookies and header fields are.
    Token,
    /// An `http` or `https` URL.
    Url,
    /// The URLs of brokers, with commas between them. They may hold passwords.
    Brokers,
    /// An origin of web pages.
    Origin,
    /// An address, or a network as address and prefix length.
    Network,
    /// The name of a host, for which one certificate can be got.
    Domain,
    /// The name of an environment variable.
    Variable,
}

impl Form {
    /// What is expected, in words that follow "must be".
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Words => "a text",
            Self::Path => "a path",
            Self::Address => "an address and a port as in \"127.0.0.1:8080\"",
            Self::Pattern => "a channel's name or pattern as in \"chat:*\"",
            Self::Token => "a name of letters, digits and any of !#$%&'*+-.^_`|~",
            Self::Url => "a URL that begins with http:// or https://",
            Self::Brokers => {
                "a URL as in \"redis://127.0.0.1:6379\" or \"nats://127.0.0.1:4222\" (rediss:// or tls:// for TLS), or \
                 several with commas between them"
            }
            Self::Origin => {
                "an origin as in \"https://app.example\", \"https://*.example\", \"null\" or \"*\""
            }
            Self::Network => "an address or a network as in \"10.0.0.0/8\"",
            Self::Domain => "a domain as in \"live.example.com\"",
            Self::Variable => "the name of an environment variable",
        }
    }

    /// Says what is wrong with a text.
    pub(super) fn check(self, text: &str) -> Result<(), String> {
        let wrong = || {
            // A URL may hold a password, and the secret itself may be where the name of its variable belongs.
            if matches!(self, Self::Url | Self::Variable | Self::Brokers) {
                return format!("is not {}", self.noun());
            }
            format!("= {text:?} is not {}", self.noun())
        };
        let is_right = match self {
            Self::Words => !text.is_empty(),
            Self::Path => !text.is_empty() && !text.contains('\0'),
            Self::Address => text.parse::<SocketAddr>().is_ok(),
            Self::Pattern => return Pattern::parse(text).map(drop).map_err(|why| format!("= {why}")),
            Self::Token => !text.is_empty() && text.bytes().all(is_token_byte),
            Self::Url => return url(text).map(drop).map_err(|why| format!("{}: {why}", wrong())),
            Self::Brokers => return brokers(text).map(drop).map_err(|why| format!("{}: {why}", wrong())),
            Self::Origin => return origin(text).map(drop).map_err(|why| format!("{}: {why}", wrong())),
            Self::Network => return network(text).map(drop).map_err(|why| format!("{}: {why}", wrong())),
            Self::Domain => return domain(text).map_err(|why| format!("{}: {why}", wrong())),
            Self::Variable => !text.is_empty() && !text.contains(['=', '\0', ' ']),
        };
        if is_right { Ok(()) } else { Err(wrong()) }
    }
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The parts of a URL that matter here.
#[derive(Debug)]
pub(super) struct Url<'u> {
    pub(super) https: bool,
    pub(super) host: &'u str,
}

impl Url<'_> {
    /// Whether nobody can listen or answer on the way.
    pub(super) fn is_private(&self) -> bool {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        self.https || host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// Takes a URL apart, and refuses those that would carry a password or mean different things to different
/// parsers.
pub(super) fn url(text: &str) -> Result<Url<'_>, String> {
    let (https, after) = match text.split_once("://") {
        Some((scheme, after)) if scheme.eq_ignore_ascii_case("https") => (true, after),
        Some((scheme, after)) if scheme.eq_ignore_ascii_case("http") => (false, after),
        _ => return Err("it has another scheme, or none".to_owned()),
    };
    if text.bytes().any(|byte| byte <= b' ' || byte >= 127 || byte == b'\\' || byte == b'#') {
        return Err("spaces, #, backslashes and what is not ASCII cannot be in it".to_owned());
    }
    let end = after.find(['/', '?']).unwrap_or(after.len());
    let authority = &after[..end];
    if authority.contains('@') {
        return Err("no user or password can be in it".to_owned());
    }
    let (host, _) = host_and_port(authority)?;
    Ok(Url { https, host })
}

/// The brokers of a list of URLs.
pub(super) fn brokers(text: &str) -> Result<Vec<String>, String> {
    let urls = backplane::split(text);
    for (index, url) in urls.iter().enumerate() {
        Target::parse(url, 0, std::time::Duration::ZERO).map_err(|error| error.to_string())?;
        if urls[..index].contains(url) {
            return Err("it names one broker twice".to_owned());
        }
    }
    Ok(urls)
}

/// An authority's host (IPv6 in brackets) and port.
fn host_and_port(authority: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = match authority.rfind(':').filter(|at| !authority[*at..].contains(']')) {
        Some(at) => (&authority[..at], Some(&authority[at + 1..])),
        None => (authority, None),
    };
    let port = match port {
        None => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse::<u16>().map_err(|_| "its port is not 0 to 65535".to_owned())?)
        }
        Some(_) => return Err("its port is not a number".to_owned()),
    };
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(named),
    };
    if is_host {
        Ok((host, port))
    } else {
        Err("its host is not one (IDNs are written as xn--…)".to_owned())
    }
}

/// An origin as browsers send it: lower case, without the port that the scheme has anyway.
pub(super) fn origin(text: &str) -> Result<String, String> {
    if text == "*" || text == "null" {
        return Ok(text.to_owned());
    }
    let lower = text.to_ascii_lowercase();
    let Some((scheme @ ("http" | "https"), authority)) = lower.split_once("://") else {
        return Err("it must begin with http:// or https://".to_owned());
    };
    if authority.contains(['/', '?', '#', '@']) {
        return Err("no path, query or user belongs in it, nor a / at its end".to_owned());
    }
    let (wildcard, domain) = match authority.strip_prefix("*.") {
        Some(domain) => ("*.", domain),
        None => ("", authority),
    };
    if domain.contains('*') {
        return Err("a * can only be the first label of its host".to_owned());
    }
    let (host, port) = host_and_port(domain)?;
    let usual = if scheme == "https" { 443 } else { 80 };
    let port = port.filter(|port| *port != usual).map(|port| format!(":{port}")).unwrap_or_default();
    Ok(format!("{scheme}://{wildcard}{host}{port}"))
}

/// Whether a text is the name of one host, as it stands in a certificate.
fn domain(text: &str) -> Result<(), String> {
    if text.starts_with("*.") {
        let why = "TLS-ALPN-01 cannot prove a wildcard; name each host, or have the certificate got by another program \
                   and use tls.certificate_file";
        return Err(why.to_owned());
    }
    if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Err("it is an address; certificates are got for names".to_owned());
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() <= 253 && text.split('.').all(is_label) {
        return Ok(());
    }
    Err("it has letters, digits and - between its points only (IDNs are written as xn--…)".to_owned())
}

/// A network as address and prefix length.
pub(super) fn network(text: &str) -> Result<(IpAddr, u8), String> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| "there is no address in it".to_owned())?;
    let bits: u8 = if address.is_ipv4() { 32 } else { 128 };
    let length = match prefix {
        None => bits,
        Some(digits) => {
            let length = digits.parse().ok().filter(|length| *length <= bits);
            length.ok_or_else(|| format!("its prefix length is not 0 to {bits}"))?
        }
    };
    let beyond = match address {
        IpAddr::V4(address) => u32::from(address).checked_shl(length.into()).unwrap_or(0) != 0,
        IpAddr::V6(address) => u128::from(address).checked_shl(length.into()).unwrap_or(0) != 0,
    };
    if beyond { Err(format!("it has bits beyond its first {length}")) } else { Ok((address, length)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_browsers_send_them() {
        for (written, sent) in [
            ("https://App.Example", "https://app.example"),
            ("https://a.example:443", "https://a.example"),
            ("http://localhost:80", "http://localhost"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("https://*.example.com:8443", "https://*.example.com:8443"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("null", "null"),
            ("*", "*"),
        ] {
            assert_eq!(origin(written).as_deref(), Ok(sent));
        }
        for wrong in [
            "",
            "app.example",
            "https://",
            "https://a/",
            "https://a/b",
            "https://a*.b",
            "https://*",
            "https://*.*.b",
            "ftp://a",
            "https://a:b",
            "https://a:99999",
            "https://ü.example",
            "https://u@a",
            "https://a b",
            "https://[::1",
            "//a",
            "https://a?b",
        ] {
            assert!(origin(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn networks_have_no_bits_beyond_their_prefix() {
        for (text, address, length) in [
            ("127.0.0.1", "127.0.0.1", 32),
            ("10.0.0.0/8", "10.0.0.0", 8),
            ("::1/128", "::1", 128),
            ("::/0", "::", 0),
        ] {
            assert_eq!(network(text), Ok((address.parse().expect(address), length)));
        }
        for wrong in
            ["", "10.0.0.1/8", "10.0.0.0/33", "fd00::1/8", "10.0.0.0/", "10.0.0/8", "a/8", "10.0.0.0/-1"]
        {
            assert!(network(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn urls_carry_no_password() {
        for right in ["http://a", "https://a.b/c?d=e", "HTTP://127.0.0.1:3000/x", "http://[::1]:80/"] {
            assert!(url(right).is_ok(), "{right}");
        }
        for wrong in [
            "",
            "a",
            "http://",
            "http://u:p@a/",
            "http://a b",
            "ftp://a",
            "http://a#b",
            "http://a:x/",
            "http:/a",
        ] {
            let why = Form::Url.check(wrong).expect_err(wrong);
            assert!(!why.contains("u:p"), "{why}");
        }
    }
}
