//! Response heads, and conditional requests. Must not know routes or bodies.

use crate::error::reason_phrase;
use crate::id::push_decimal;

/// Appends a response head to a buffer, field by field.
#[derive(Debug)]
pub struct ResponseHead<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> ResponseHead<'o> {
    /// Begins a response: the status line.
    pub fn new(out: &'o mut Vec<u8>, status: u16) -> Self {
        out.extend_from_slice(b"HTTP/1.1 ");
        push_decimal(out, u64::from(status));
        out.push(b' ');
        out.extend_from_slice(reason_phrase(status).as_bytes());
        out.extend_from_slice(b"\r\n");
        Self { out }
    }

    /// A header field. Bytes that would end the field are left out: no value can begin another field.
    pub fn field(self, name: &str, value: &str) -> Self {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        self.out.extend(value.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n' | 0)));
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// `Content-Length`.
    pub fn content_length(self, bytes: usize) -> Self {
        self.out.extend_from_slice(b"Content-Length: ");
        push_decimal(self.out, bytes as u64);
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// Ends the head.
    pub fn end(self) {
        self.out.extend_from_slice(b"\r\n");
    }
}

/// Whether `If-None-Match` names this entity tag (RFC 9110 section 13.1.2, weak comparison).
pub fn if_none_match(header: &str, etag: &str) -> bool {
    header
        .split(',')
        .map(str::trim)
        .any(|item| item == "*" || item.strip_prefix("W/").unwrap_or(item) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_begins_another_field() {
        let mut out = Vec::new();
        ResponseHead::new(&mut out, 200).field("X", "a\r\nB: c\0").content_length(0).end();
        assert_eq!(out, b"HTTP/1.1 200 OK\r\nX: aB: c\r\nContent-Length: 0\r\n\r\n");
    }

    #[test]
    fn entity_tags_compare_weakly() {
        for (header, expected) in [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", \"a\"", true),
            ("*", true),
            ("\"b\"", false),
            ("a", false),
        ] {
            assert_eq!(if_none_match(header, "\"a\""), expected, "{header}");
        }
    }
}
