//! The PROXY protocol, versions 1 and 2: what a proxy says of its client before the first request (HAProxy's
//! proxy-protocol.txt). Must not know whose word is taken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::{Code, Problem};

/// The longest line of version 1, its end included (section 2.1).
const LINE_BYTES_MAX: usize = 107;
/// What version 2 begins with (section 2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The fixed part of version 2.
const FIXED_BYTES: usize = 16;
/// The most that is taken behind the fixed part; addresses have 216 bytes at most, the rest is extras.
const REST_BYTES_MAX: usize = 2048;
/// The extra that has a checksum over all (section 2.2.3).
const CRC32C: u8 = 0x03;

/// What the beginning of a connection says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// More bytes are needed.
    Partial,
    /// All of it is there.
    Complete {
        /// The client, unless the proxy speaks for itself or does not know.
        client: Option<IpAddr>,
        /// How many bytes it takes up.
        length: usize,
    },
}

/// Reads the beginning of a connection.
///
/// # Errors
/// `invalid_request` for anything else, as soon as it shows: a connection from such a proxy always begins so.
pub fn parse(bytes: &[u8]) -> Result<Said, Problem> {
    let shared = bytes.len().min(SIGNATURE.len());
    if bytes[..shared] == SIGNATURE[..shared] {
        return version_2(bytes);
    }
    let shared = bytes.len().min(6);
    if bytes[..shared] == b"PROXY "[..shared] {
        return version_1(bytes);
    }
    Err(wrong("the connection must begin with the PROXY protocol, version 1 or 2"))
}

fn version_1(bytes: &[u8]) -> Result<Said, Problem> {
    let window = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = memchr::memmem::find(window, b"\r\n") else {
        let long = window.len() == LINE_BYTES_MAX;
        return if long {
            Err(wrong("the line of the PROXY protocol is too long"))
        } else {
            Ok(Said::Partial)
        };
    };
    let broken = || wrong("the line of the PROXY protocol is not as it should be");
    let line = std::str::from_utf8(&window[..end]).map_err(|_| broken())?;
    let parts: Vec<&str> = line.split(' ').collect();
    let client = match parts[..] {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family, from, to, from_port, to_port] => {
            let same_family = |address: &IpAddr| match family {
                "TCP4" => address.is_ipv4(),
                "TCP6" => address.is_ipv6(),
                _ => false,
            };
            let address = |text: &str| text.parse().ok().filter(same_family);
            let port = |text: &str| text.parse::<u16>().is_ok_and(|port| port.to_string() == text);
            if address(to).is_none() || !port(from_port) || !port(to_port) {
                return Err(broken());
            }
            Some(address(from).ok_or_else(broken)?.to_canonical())
        }
        _ => return Err(broken()),
    };
    Ok(Said::Complete { client, length: end + 2 })
}

fn version_2(bytes: &[u8]) -> Result<Said, Problem> {
    // The version shows before the length does.
    if bytes.get(12).is_some_and(|byte| byte >> 4 != 2 || byte & 0x0f > 1) {
        return Err(wrong("the version or command of the PROXY protocol is unknown"));
    }
    let Some(fixed) = bytes.get(..FIXED_BYTES) else { return Ok(Said::Partial) };
    let rest_bytes = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if rest_bytes > REST_BYTES_MAX {
        return Err(wrong("the header of the PROXY protocol is too long"));
    }
    let length = FIXED_BYTES + rest_bytes;
    let Some(header) = bytes.get(..length) else { return Ok(Said::Partial) };
    let rest = &header[FIXED_BYTES..];
    let is_local = fixed[12] & 0x0f == 0;
    // Family and protocol: only TCP has clients that could be here.
    let address_bytes = match fixed[13] {
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        // What is unknown is skipped, whatever its length (section 2.2).
        _ => return Ok(Said::Complete { client: None, length }),
    };
    if rest.len() < address_bytes {
        return Err(wrong("the header of the PROXY protocol is too short for its addresses"));
    }
    check_extras(header, FIXED_BYTES + address_bytes)?;
    let client = match fixed[13] {
        _ if is_local => None,
        0x11 => <[u8; 4]>::try_from(&rest[..4]).ok().map(|octets| IpAddr::V4(Ipv4Addr::from(octets))),
        0x21 => <[u8; 16]>::try_from(&rest[..16]).ok().map(|octets| IpAddr::V6(Ipv6Addr::from(octets))),
        _ => None,
    };
    Ok(Said::Complete { client: client.map(|address| address.to_canonical()), length })
}

/// Extras are passed over, but must fit; and if there is a checksum, it must be right.
fn check_extras(header: &[u8], from: usize) -> Result<(), Problem> {
    let mut at = from;
    while at < header.len() {
        let broken = || wrong("the extras of the PROXY protocol do not fit its header");
        let fixed = header.get(at..at + 3).ok_or_else(broken)?;
        let value = at + 3..at + 3 + usize::from(u16::from_be_bytes([fixed[1], fixed[2]]));
        let content = header.get(value.clone()).ok_or_else(broken)?;
        if fixed[0] == CRC32C {
            let said = <[u8; 4]>::try_from(content).map_err(|_| broken())?;
            let mut zeroed = header.to_vec();
            zeroed[value.clone()].fill(0);
            if crc32c(&zeroed) != u32::from_be_bytes(said) {
                return Err(wrong("the checksum of the PROXY protocol is wrong"));
            }
        }
        at = value.end;
    }
    Ok(())
}

/// CRC-32C (RFC 9260 appendix A), bit by bit: once in a connection's life, over a few bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

fn wrong(detail: &'static str) -> Problem {
    Problem::new(Code::InvalidRequest, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(bytes: &[u8]) -> Result<Option<String>, ()> {
        let rest = [bytes, b"GET / HTTP/1.1\r\n"].concat();
        match parse(&rest) {
            Ok(Said::Complete { client, length }) => {
                assert_eq!(length, bytes.len(), "{bytes:?}");
                // Whatever part of it came first, it meant the same.
                for cut in 0..length {
                    assert_eq!(parse(&rest[..cut]), Ok(Said::Partial), "{bytes:?} cut at {cut}");
                }
                Ok(client.map(|address| address.to_string()))
            }
            Ok(Said::Partial) => panic!("{bytes:?} is not complete"),
            Err(_) => Err(()),
        }
    }

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend((rest.len() as u16).to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn lines() {
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.1 203.0.113.1 56324 443\r\n", Ok(Some("192.0.2.1"))),
            ("PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n", Ok(Some("2001:db8::1"))),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", Ok(Some("192.0.2.1"))),
            ("PROXY UNKNOWN\r\n", Ok(None)),
            ("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", Ok(None)),
            ("PROXY TCP4 2001:db8::1 203.0.113.1 1 2\r\n", Err(())),
            ("PROXY TCP4 192.0.2.1 203.0.113.1 1\r\n", Err(())),
            ("PROXY TCP4 192.0.2.1 203.0.113.1 1 65536\r\n", Err(())),
            ("PROXY TCP4 192.0.2.1 203.0.113.1 01 2\r\n", Err(())),
            ("PROXY TCP4  192.0.2.1 203.0.113.1 1 2\r\n", Err(())),
            ("PROXY TCP5 192.0.2.1 203.0.113.1 1 2\r\n", Err(())),
            ("proxy TCP4 192.0.2.1 203.0.113.1 1 2\r\n", Err(())),
            ("GET / HTTP/1.1\r\n", Err(())),
        ] {
            assert_eq!(client(line.as_bytes()), expected.map(|found| found.map(str::to_owned)), "{line}");
        }
        assert!(parse(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat()).is_err());
    }

    #[test]
    fn binary_headers() {
        let four = [192, 0, 2, 1, 203, 0, 113, 1, 0, 1, 0, 2];
        let six = [[0x20; 16].as_slice(), &[1; 16], &[0, 1, 0, 2]].concat();
        assert_eq!(client(&binary(1, 0x11, &four)), Ok(Some("192.0.2.1".to_owned())));
        assert_eq!(client(&binary(0, 0x11, &four)), Ok(None));
        assert_eq!(
            client(&binary(1, 0x21, &six)),
            Ok(Some("2020:2020:2020:2020:2020:2020:2020:2020".to_owned()))
        );
        assert_eq!(client(&binary(1, 0x31, &[0; 216])), Ok(None));
        assert_eq!(client(&binary(1, 0x00, &[])), Ok(None));
        assert_eq!(client(&binary(0, 0x00, &[7; 9])), Ok(None));
        assert_eq!(client(&binary(1, 0x11, &four[..11])), Err(()));
        assert_eq!(client(&binary(2, 0x11, &four)), Err(()));
        let extra = |bytes: &[u8]| client(&binary(1, 0x11, &[&four, bytes].concat()));
        assert_eq!(extra(&[4, 0, 2, 9, 9]), Ok(Some("192.0.2.1".to_owned())));
        assert_eq!(extra(&[4, 0, 3, 9, 9]), Err(()));
        assert_eq!(extra(&[4, 0]), Err(()));
        let mut bytes = SIGNATURE.to_vec();
        bytes.push(0x11);
        assert!(parse(&bytes).is_err(), "another version");
        let long = [SIGNATURE.as_slice(), &[0x21, 0x11, 0xff, 0xff]].concat();
        assert!(parse(&long).is_err());
    }

    #[test]
    fn a_checksum_must_be_right() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let with = |sum: u32| {
            let four = [192, 0, 2, 1, 203, 0, 113, 1, 0, 1, 0, 2];
            binary(1, 0x11, &[&four[..], &[CRC32C, 0, 4], &sum.to_be_bytes()].concat())
        };
        let right = crc32c(&with(0));
        assert_eq!(client(&with(right)), Ok(Some("192.0.2.1".to_owned())));
        assert_eq!(client(&with(right ^ 1)), Err(()));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_more_bytes_change_no_mind(
            start in prop_oneof![Just(SIGNATURE.to_vec()), Just(b"PROXY ".to_vec()), Just(Vec::new())],
            rest in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [start, rest].concat();
            let whole = parse(&bytes);
            for cut in 0..bytes.len() {
                match parse(&bytes[..cut]) {
                    Ok(Said::Partial) => {}
                    decided => prop_assert_eq!(&decided, &whole),
                }
            }
        }
    }
}
