//! W3C Trace Context (Level 1): to which trace of a distributed system a request belongs, as text and as bytes.
//! Must not know spans, nor who is believed.

use std::fmt;

/// The longest `tracestate` that is carried on; the specification asks for at least so much.
const STATE_BYTES_MAX: usize = 512;
/// `00-`, the trace's id, `-`, the parent's, `-`, and the flags, in hexadecimal digits.
const TEXT_BYTES: usize = 2 + 1 + 32 + 1 + 16 + 1 + 2;

/// What `traceparent` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace's id; never all zeros.
    pub trace_id: [u8; 16],
    /// The id of the span that is the parent; never all zeros.
    pub span_id: [u8; 8],
    /// Whether the parent is recorded.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent`. `None` for what is not one: the specification has it ignored, and a new trace begun.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let (known, rest) = bytes.split_at_checked(TEXT_BYTES)?;
        let version = digits::<1>(&known[..2])?[0];
        // Later versions may have more to say behind a dash.
        if version == 0xff || (version == 0 && !rest.is_empty()) || !matches!(rest.first(), None | Some(b'-'))
        {
            return None;
        }
        if [known[2], known[35], known[52]] != *b"---" {
            return None;
        }
        let trace_id = digits::<16>(&known[3..35])?;
        let span_id = digits::<8>(&known[36..52])?;
        let flags = digits::<1>(&known[53..])?[0];
        let is_valid = trace_id != [0; 16] && span_id != [0; 8];
        is_valid.then_some(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "00-{}-{}-{:02x}", Hex(&self.trace_id), Hex(&self.span_id), u8::from(self.sampled))
    }
}

/// Bytes as lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy)]
pub struct Hex<'b>(pub &'b [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// A `tracestate` that may be carried on as it is.
pub fn trace_state(text: &str) -> Option<&str> {
    let fits = !text.is_empty() && text.len() <= STATE_BYTES_MAX;
    (fits && text.bytes().all(|byte| (0x20..0x7f).contains(&byte))).then_some(text)
}

fn digits<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_reads_as_it_is_written() {
        let context = TraceContext::parse(TEXT).expect("valid");
        assert!(context.sampled);
        assert_eq!(context.to_string(), TEXT);
        let unsampled = TraceContext::parse(&TEXT.replace("-01", "-00")).expect("valid");
        assert!(!unsampled.sampled);
        assert!(TraceContext::parse(&TEXT.replace("-01", "-03")).expect("unknown flags").sampled);
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = TEXT.replacen("00", "cc", 1);
        assert!(TraceContext::parse(&later).is_some());
        assert!(TraceContext::parse(&format!("{later}-what-the-future-says")).is_some());
        assert!(TraceContext::parse(&format!("{later}.what")).is_none());
    }

    #[test]
    fn what_is_none_is_ignored() {
        for text in [
            "",
            "00",
            &TEXT[1..],
            &TEXT.to_uppercase(),
            &TEXT.replace('-', "_"),
            &TEXT.replacen("00", "ff", 1),
            &TEXT.replace("b7ad6b7169203331", "0000000000000000"),
            &TEXT.replace("0af7651916cd43dd8448eb211c80319c", "00000000000000000000000000000000"),
            &format!("{TEXT}-01"),
            &format!("{TEXT} "),
            &TEXT.replace("0af7651916cd43dd", "0af7651916cd43dé"),
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_state_is_carried_on_if_it_is_harmless() {
        assert_eq!(trace_state("a=1,b=2"), Some("a=1,b=2"));
        for text in ["", "a=\u{e9}", "a=\n", &"a".repeat(513)] {
            assert_eq!(trace_state(text), None, "{text}");
        }
    }
}
