//! The event stream parser of the WHATWG HTML standard (section 9.2.6), word by word, and nothing else.
//! Fields that the standard ignores are kept apart in [`Block::ignored`]; comments are counted.

/// One dispatched event, or a block without data, which the standard does not dispatch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    /// The event type; empty means `message`.
    pub event: String,
    /// The data, its lines joined by LF. `None`: there was no data field, so a browser dispatches nothing.
    pub data: Option<String>,
    /// The last event id after this block.
    pub last_event_id: String,
    /// Fields that a browser ignores.
    pub ignored: Vec<(String, String)>,
}

/// Takes bytes in any slices, gives blocks out.
#[derive(Debug, Default)]
pub struct Parser {
    bytes: Vec<u8>,
    begun: bool,
    after_cr: bool,
    block: Block,
    fields: usize,
    /// The last `retry`, in milliseconds.
    pub retry_ms: Option<u64>,
    /// How many comment lines came.
    pub comments: usize,
}

impl Parser {
    /// Takes what came and returns the blocks that it completed.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Block> {
        let mut blocks = Vec::new();
        for &byte in bytes {
            let line_feed_of_crlf = byte == b'\n' && self.after_cr;
            self.after_cr = byte == b'\r';
            match byte {
                _ if line_feed_of_crlf => {}
                b'\r' | b'\n' => {
                    let line = std::mem::take(&mut self.bytes);
                    blocks.extend(self.line(&String::from_utf8_lossy(&line)));
                }
                _ => self.bytes.push(byte),
            }
        }
        blocks
    }

    fn line(&mut self, line: &str) -> Option<Block> {
        let line = if std::mem::replace(&mut self.begun, true) {
            line
        } else {
            line.strip_prefix('\u{feff}').unwrap_or(line)
        };
        if line.is_empty() {
            return self.dispatch();
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        if name.is_empty() {
            self.comments += 1;
            return None;
        }
        self.field(name, value.strip_prefix(' ').unwrap_or(value));
        None
    }

    fn field(&mut self, name: &str, value: &str) {
        self.fields += 1;
        match name {
            "event" => value.clone_into(&mut self.block.event),
            "data" => match &mut self.block.data {
                None => self.block.data = Some(value.to_owned()),
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
            },
            "id" if !value.contains('\0') => value.clone_into(&mut self.block.last_event_id),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry_ms = value.parse().ok();
            }
            _ => self.block.ignored.push((name.to_owned(), value.to_owned())),
        }
    }

    fn dispatch(&mut self) -> Option<Block> {
        let last_event_id = self.block.last_event_id.clone();
        let block = std::mem::replace(&mut self.block, Block { last_event_id, ..Block::default() });
        (std::mem::take(&mut self.fields) > 0).then_some(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standards_own_examples() {
        let mut parser = Parser::default();
        let stream = "\u{feff}data: YHOO\ndata: +2\r\ndata:10\r\r: a comment\n\ndata\n\ndata\ndata\n\ndata:";
        let blocks: Vec<_> = stream.bytes().flat_map(|byte| parser.push(&[byte])).collect();
        let data: Vec<_> = blocks.iter().map(|block| block.data.as_deref()).collect();
        assert_eq!(data, [Some("YHOO\n+2\n10"), Some(""), Some("\n")]);
        assert_eq!(parser.comments, 1);
    }

    #[test]
    fn ids_stay_until_they_change_and_one_space_is_dropped() {
        let mut parser = Parser::default();
        let blocks = parser.push(b"id: 1\nretry: 20\n\ndata:  x\nencoding: base64\n\nid\ndata: y\n\n");
        let ids: Vec<_> = blocks.iter().map(|block| block.last_event_id.as_str()).collect();
        assert_eq!(ids, ["1", "1", ""]);
        assert_eq!(blocks[0].data, None);
        assert_eq!(blocks[1].data.as_deref(), Some(" x"));
        assert_eq!(blocks[1].ignored, [("encoding".to_owned(), "base64".to_owned())]);
        assert_eq!(parser.retry_ms, Some(20));
    }
}
