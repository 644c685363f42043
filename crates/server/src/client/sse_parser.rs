//! An incremental parser of server-sent events by the rules of WHATWG HTML, section 9.2.6.
//! Must not know where the bytes come from, nor what Tidewire says in them.

/// Bounds a line and the data of a message: the largest event of a server whose limit was raised
/// sixteenfold, with room for JSON escapes.
pub(super) const BYTES_MAX: usize = 64 << 20;

/// What a complete block of the stream says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Message {
    /// The `event` field; empty if there was none.
    pub(super) event: String,
    /// The `data` lines, joined by LF. None for a block without any, which is no event but may move the id.
    pub(super) data: Option<String>,
    /// The last event id, as it stands after this block. Empty if none was ever given.
    pub(super) last_event_id: String,
}

/// A line or a message over [`BYTES_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// The state of one stream.
#[derive(Debug, Default)]
pub(super) struct SseParser {
    line: Vec<u8>,
    event: String,
    data: Option<String>,
    last_event_id: String,
    retry_ms: Option<u64>,
    touched: bool,
    after_cr: bool,
    bom_passed: bool,
}

impl SseParser {
    /// Takes in the next bytes and appends each message that they complete to `out`.
    pub(super) fn handle_bytes(&mut self, mut bytes: &[u8], out: &mut Vec<Message>) -> Result<(), TooLong> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            if self.line.len() + part.len() > BYTES_MAX {
                return Err(TooLong);
            }
            self.line.extend_from_slice(part);
            bytes = rest;
            if end.is_some() {
                self.after_cr = bytes[0] == b'\r';
                bytes = &bytes[1..];
                let line = std::mem::take(&mut self.line);
                self.handle_line(&line, out)?;
                self.line = line;
                self.line.clear();
            }
        }
        Ok(())
    }

    /// The reconnection time that the stream last asked for.
    pub(super) fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    fn handle_line(&mut self, line: &[u8], out: &mut Vec<Message>) -> Result<(), TooLong> {
        let line = String::from_utf8_lossy(line);
        let line = match line.strip_prefix('\u{feff}') {
            Some(rest) if !self.bom_passed => rest,
            _ => &line,
        };
        self.bom_passed = true;
        if line.is_empty() {
            self.dispatch(out);
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        self.handle_field(field, value)
    }

    fn handle_field(&mut self, field: &str, value: &str) -> Result<(), TooLong> {
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                if self.data.as_ref().map_or(0, String::len) + value.len() >= BYTES_MAX {
                    return Err(TooLong);
                }
                match &mut self.data {
                    Some(data) => data.extend(["\n", value]),
                    None => self.data = Some(value.to_owned()),
                }
            }
            "id" if !value.contains('\0') => {
                value.clone_into(&mut self.last_event_id);
                self.touched = true;
            }
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry_ms = Some(value.parse().unwrap_or(u64::MAX));
            }
            // Comments (an empty field name) and fields that nobody knows are ignored.
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self, out: &mut Vec<Message>) {
        let (mut event, data) = (std::mem::take(&mut self.event), self.data.take());
        if data.is_none() {
            event.clear();
        }
        if std::mem::take(&mut self.touched) || data.is_some() {
            out.push(Message { event, data, last_event_id: self.last_event_id.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pieces: &[&[u8]]) -> Vec<Message> {
        let (mut parser, mut out) = (SseParser::default(), Vec::new());
        for piece in pieces {
            parser.handle_bytes(piece, &mut out).expect("within the limits");
        }
        out
    }

    fn message(event: &str, data: &str, id: &str) -> Message {
        Message { event: event.into(), data: Some(data.into()), last_event_id: id.into() }
    }

    #[test]
    fn reads_the_same_however_the_bytes_are_cut_and_lines_end() {
        let text = "\u{feff}: hi\nretry: 2000\n\nevent: tick\ndata: a\ndata:  b\ndata\nid: 7\nother: x\n\ndata: ü\n\n";
        let expected = [message("tick", "a\n b\n", "7"), message("", "ü", "7")];
        for ending in ["\n", "\r", "\r\n"] {
            let bytes = text.replace('\n', ending).into_bytes();
            assert_eq!(parse(&[&bytes]), expected, "{ending:?}");
            for cut in 1..bytes.len() {
                assert_eq!(parse(&[&bytes[..cut], &bytes[cut..]]), expected, "{ending:?} at {cut}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(parse(&single), expected, "{ending:?} byte by byte");
        }
    }

    #[test]
    fn a_block_without_data_moves_the_id_and_is_no_event() {
        let position = Message { last_event_id: "e-3".into(), ..Message::default() };
        assert_eq!(
            parse(&[b"id: e-3\nevent: x\n\nevent: y\n\ndata: d\n\n"]),
            [position, message("", "d", "e-3")]
        );
    }

    #[test]
    fn an_unfinished_block_says_nothing() {
        assert!(parse(&[b"data: lost\nid: 9\n"]).is_empty());
    }

    #[test]
    fn an_empty_data_line_is_an_event_unlike_no_data_line() {
        assert_eq!(parse(&[b"data\n\ndata:\ndata:\n\n"]), [message("", "", ""), message("", "\n", "")]);
    }

    #[test]
    fn takes_only_digits_as_retry_and_no_nul_in_ids() {
        let (mut parser, mut out) = (SseParser::default(), Vec::new());
        parser.handle_bytes(b"retry: 5\nretry: 1x\nretry:\nid: a\0b\ndata: d\n\n", &mut out).expect("short");
        assert_eq!(parser.retry_ms(), Some(5));
        assert_eq!(out, [message("", "d", "")]);
    }

    #[test]
    fn bounds_lines_and_messages() {
        let piece = vec![b'x'; BYTES_MAX / 2 + 1];
        let (mut parser, mut out) = (SseParser::default(), Vec::new());
        assert_eq!(parser.handle_bytes(&piece, &mut out), Ok(()));
        assert_eq!(parser.handle_bytes(&piece, &mut out), Err(TooLong));

        let mut parser = SseParser::default();
        let line = [b"data: ", &piece[..], b"\n"].concat();
        assert_eq!(parser.handle_bytes(&line, &mut out), Ok(()));
        assert_eq!(parser.handle_bytes(&line, &mut out), Err(TooLong));
    }
}
