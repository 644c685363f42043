//! Where a request comes from when proxies are in between: what those that are trusted say, read strictly. Must not
//! know what the address is used for.

use std::net::{IpAddr, SocketAddr};

use tidewire_core::http1::Request;
use tidewire_core::{Code, Problem};

use super::settings::{ForwardedBy, ProxySettings};

/// The most addresses that are looked at.
const HOPS_MAX: usize = 32;

impl ProxySettings {
    /// Whether the word of whoever is at this address is taken.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|(network, length)| contains(*network, *length, address))
    }

    /// The client that a request comes from: the nearest one that is no trusted proxy.
    ///
    /// # Errors
    /// `invalid_request` if a trusted proxy says what cannot be read: a guess could be what a client wrote.
    pub(crate) fn client(&self, peer: IpAddr, request: &Request<'_, '_>) -> Result<IpAddr, Problem> {
        if self.header == ForwardedBy::None || !self.trusts(peer) {
            return Ok(peer);
        }
        let (name, read): (_, fn(&str) -> Option<Hop>) = match self.header {
            ForwardedBy::Forwarded => ("forwarded", forwarded),
            _ => ("x-forwarded-for", |text| address(text).map(Hop::Address)),
        };
        let mut hops: Vec<&str> = request.headers(name).flat_map(elements).collect();
        let mut client = peer;
        for _ in 0..HOPS_MAX {
            let Some(hop) = hops.pop() else { return Ok(client) };
            match read(hop.trim()) {
                Some(Hop::Address(address)) if self.trusts(address) => client = address,
                Some(Hop::Address(address)) => return Ok(address),
                // Somebody whom the last trusted proxy does not name: nothing further is known.
                Some(Hop::Hidden) => return Ok(client),
                None => {
                    let detail = format!(
                        "the proxy's header {name} is not as it should be: addresses, separated by commas"
                    );
                    return Err(Problem::new(Code::InvalidRequest, detail));
                }
            }
        }
        Err(Problem::new(
            Code::InvalidRequest,
            format!("the header {name} names more than {HOPS_MAX} proxies"),
        ))
    }
}

enum Hop {
    Address(IpAddr),
    /// `unknown`, or a name that stands for somebody.
    Hidden,
}

/// The elements of a list, separated by commas that are not within quotes.
fn elements(list: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    list.split(move |c: char| {
        let splits = c == ',' && !quoted;
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && quoted && !escaped;
        splits
    })
}

/// One element of `Forwarded` (RFC 7239 section 4).
fn forwarded(element: &str) -> Option<Hop> {
    let mut found = None;
    for pair in element.split(';') {
        let (name, value) = pair.trim().split_once('=')?;
        if name.eq_ignore_ascii_case("for") && found.replace(value).is_some() {
            return None;
        }
    }
    // A hop that does not say for whom it forwards hides it.
    let Some(value) = found else { return Some(Hop::Hidden) };
    let node = match value.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"')?,
        None if value.contains([':', '[', '"']) => return None,
        None => value,
    };
    if node.eq_ignore_ascii_case("unknown") || is_obfuscated(node) {
        return Some(Hop::Hidden);
    }
    if let Some((host, port)) = node.rsplit_once(':')
        && is_obfuscated(port)
    {
        return bare(host).map(Hop::Address);
    }
    // An IPv6 address stands in brackets there (section 6).
    if node.parse::<std::net::Ipv6Addr>().is_ok() { None } else { address(node).map(Hop::Address) }
}

/// A name that a proxy made up (RFC 7239 section 6.3).
fn is_obfuscated(text: &str) -> bool {
    let rest = text.strip_prefix('_');
    rest.is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    })
}

/// An address, with a port or without.
fn address(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(with_port).or_else(|| bare(text)).map(|address: IpAddr| address.to_canonical())
}

/// An address, IPv6 in brackets.
fn bare(text: &str) -> Option<IpAddr> {
    let address = match text.strip_prefix('[') {
        Some(rest) => IpAddr::V6(rest.strip_suffix(']')?.parse().ok()?),
        None => IpAddr::V4(text.parse().ok()?),
    };
    Some(address.to_canonical())
}

fn contains(network: IpAddr, length: u8, address: IpAddr) -> bool {
    let shifted = |bits: u128, of: u8| bits.checked_shr(u32::from(of.saturating_sub(length))).unwrap_or(0);
    match (network.to_canonical(), address.to_canonical()) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            shifted(network.to_bits().into(), 32) == shifted(address.to_bits().into(), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            shifted(network.to_bits(), 128) == shifted(address.to_bits(), 128)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewire_core::http1::{HeadLimits, Parsed, header_space, parse_request};

    fn client(header: ForwardedBy, peer: &str, fields: &str) -> Result<String, Code> {
        let trusted = [("10.0.0.0", 8), ("2001:db8::", 32), ("127.0.0.1", 32)];
        let trusted = trusted.map(|(network, length)| (network.parse().expect("a network"), length)).to_vec();
        let settings = ProxySettings { trusted, header, proxy_protocol: false };
        let head = format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
        let mut space = header_space();
        let limits = HeadLimits { head_bytes: 8192, fields: 16 };
        let Ok(Parsed::Complete(request, _)) = parse_request(head.as_bytes(), limits, &mut space) else {
            panic!("{head:?}")
        };
        let client = settings.client(peer.parse().expect("an address"), &request);
        client.map(|address| address.to_string()).map_err(|problem| problem.code)
    }

    #[test]
    fn the_nearest_that_is_no_trusted_proxy() {
        use ForwardedBy::{Forwarded, None, XForwardedFor};
        let proxy = "10.1.2.3";
        for (header, peer, fields, expected) in [
            (XForwardedFor, proxy, "X-Forwarded-For: 192.0.2.1", "192.0.2.1"),
            (XForwardedFor, proxy, "X-Forwarded-For: 6.6.6.6, 192.0.2.1", "192.0.2.1"),
            (XForwardedFor, proxy, "X-Forwarded-For: 192.0.2.1, 10.9.9.9, 10.8.8.8", "192.0.2.1"),
            (XForwardedFor, proxy, "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 10.8.8.8", "192.0.2.1"),
            (XForwardedFor, proxy, "X-Forwarded-For: 192.0.2.1:4711", "192.0.2.1"),
            (XForwardedFor, proxy, "X-Forwarded-For: 2001:db9::1", "2001:db9::1"),
            (XForwardedFor, proxy, "X-Forwarded-For: [2001:db9::1]:80", "2001:db9::1"),
            (XForwardedFor, proxy, "X-Forwarded-For: ::ffff:192.0.2.1", "192.0.2.1"),
            (XForwardedFor, proxy, "X: y", proxy),
            (XForwardedFor, "192.0.2.9", "X-Forwarded-For: 6.6.6.6", "192.0.2.9"),
            (XForwardedFor, "::ffff:10.1.1.1", "X-Forwarded-For: 192.0.2.1", "192.0.2.1"),
            (XForwardedFor, "2001:db8:5::1", "X-Forwarded-For: 192.0.2.1", "192.0.2.1"),
            (None, proxy, "X-Forwarded-For: 6.6.6.6", proxy),
            (Forwarded, proxy, "X-Forwarded-For: 6.6.6.6", proxy),
            (Forwarded, proxy, "Forwarded: for=192.0.2.1;proto=https;by=10.0.0.1", "192.0.2.1"),
            (Forwarded, proxy, "Forwarded: For=\"[2001:db9::1]:4711\"", "2001:db9::1"),
            (Forwarded, proxy, "Forwarded: for=\"192.0.2.1:_p\"", "192.0.2.1"),
            (Forwarded, proxy, "Forwarded: for=192.0.2.1;host=\"a,b\", for=10.0.0.9", "192.0.2.1"),
            (Forwarded, proxy, "Forwarded: for=192.0.2.1, for=unknown", proxy),
            (Forwarded, proxy, "Forwarded: for=192.0.2.1, for=_hidden, for=10.0.0.9", "10.0.0.9"),
            (Forwarded, proxy, "Forwarded: proto=https", proxy),
        ] {
            assert_eq!(client(header, peer, fields).as_deref(), Ok(expected), "{peer} {fields}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        use ForwardedBy::{Forwarded, XForwardedFor};
        for (header, value) in [
            (XForwardedFor, "unknown"),
            (XForwardedFor, "192.0.2.1,"),
            (XForwardedFor, "192.0.2.1, , 10.0.0.1"),
            (XForwardedFor, "192.0.2.256"),
            (XForwardedFor, "1.2.3"),
            (XForwardedFor, "192.0.2.1 6.6.6.6"),
            (Forwarded, "for"),
            (Forwarded, "for=192.0.2.1:80"),
            (Forwarded, "for=[2001:db9::1]"),
            (Forwarded, "for=\"2001:db9::1\""),
            (Forwarded, "for=\"192.0.2.1"),
            (Forwarded, "for=192.0.2.1;for=6.6.6.6"),
            (Forwarded, "for=_"),
            (Forwarded, "for=example.com"),
        ] {
            let name = if header == Forwarded { "Forwarded" } else { "X-Forwarded-For" };
            let fields = format!("{name}: {value}");
            assert_eq!(client(header, "10.0.0.1", &fields), Err(Code::InvalidRequest), "{fields}");
        }
        let many = format!("X-Forwarded-For: {}", vec!["10.0.0.1"; HOPS_MAX + 1].join(", "));
        assert_eq!(client(XForwardedFor, "10.0.0.1", &many), Err(Code::InvalidRequest));
    }
}
