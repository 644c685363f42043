//! Server-sent events: cuts a stream into blocks and finds their data.
//! Does not join `data:` lines; the generator's payload is one line.

use memchr::memchr;

use super::Unit;

/// Cuts one line or block off `input`; `None` while it is incomplete.
///
/// A block ends with an empty line. A block without `data:` dispatches nothing, as a browser would
/// have it, and is [`Unit::Nothing`].
pub(crate) fn cut(input: &[u8]) -> Option<(Unit<'_>, usize)> {
    let mut at = 0;
    let mut data = None;
    loop {
        let rest = &input[at..];
        let length = memchr(b'\n', rest)?;
        let line = rest[..length].strip_suffix(b"\r").unwrap_or(&rest[..length]);
        at += length + 1;
        if line.is_empty() {
            let unit = match data {
                Some(data) => Unit::Message { data, compressed: false },
                None => Unit::Nothing,
            };
            return Some((unit, at));
        }
        if let Some(value) = line.strip_prefix(b"data:") {
            data = data.or(Some(value.strip_prefix(b" ").unwrap_or(value)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(data: &[u8]) -> Unit<'_> {
        Unit::Message { data, compressed: false }
    }

    #[test]
    fn a_block_is_cut_at_its_empty_line() {
        let wire = b"event: tick\ndata: {\"a\":1}\nid: e-1\n\ndata: next\n\n";
        let (unit, used) = cut(wire).expect("a block");
        assert_eq!(unit, message(b"{\"a\":1}"));
        assert_eq!(cut(&wire[used..]), Some((message(b"next"), 12)));
    }

    #[test]
    fn an_incomplete_block_waits() {
        let wire = b"data: one\nid: 7\n\n";
        for end in 0..wire.len() {
            assert_eq!(cut(&wire[..end]), None, "at {end}");
        }
        assert!(cut(wire).is_some());
    }

    #[test]
    fn comments_and_positions_carry_no_data() {
        assert_eq!(cut(b":\n\n"), Some((Unit::Nothing, 3)));
        assert_eq!(cut(b"retry: 2000\nid: e-1\n\n").map(|cut| cut.0), Some(Unit::Nothing));
    }

    #[test]
    fn lines_may_end_in_crlf_and_lack_the_space() {
        assert_eq!(cut(b"data:x\r\n\r\n"), Some((message(b"x"), 10)));
    }
}
