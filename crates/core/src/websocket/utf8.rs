//! UTF-8 checked as it arrives: text that cannot become valid fails at its first wrong byte.
//! Must not keep the text.

/// Checks text that comes in pieces. At most three bytes of an unfinished character are kept.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Utf8Check {
    unfinished: [u8; 4],
    length: u8,
}

/// The text is not UTF-8.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotUtf8;

impl Utf8Check {
    /// Takes the next piece.
    pub(super) fn feed(&mut self, mut piece: &[u8]) -> Result<(), NotUtf8> {
        while self.length > 0 {
            let Some((&byte, rest)) = piece.split_first() else { return Ok(()) };
            self.unfinished[usize::from(self.length)] = byte;
            self.length += 1;
            piece = rest;
            match std::str::from_utf8(&self.unfinished[..usize::from(self.length)]) {
                Ok(_) => self.length = 0,
                Err(error) if error.error_len().is_none() && self.length < 4 => {}
                Err(_) => return Err(NotUtf8),
            }
        }
        if simdutf8::basic::from_utf8(piece).is_ok() {
            return Ok(());
        }
        match std::str::from_utf8(piece) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_none() => {
                let tail = &piece[error.valid_up_to()..];
                self.unfinished[..tail.len()].copy_from_slice(tail);
                self.length = tail.len() as u8;
                Ok(())
            }
            Err(_) => Err(NotUtf8),
        }
    }

    /// Ends the text.
    pub(super) fn finish(&mut self) -> Result<(), NotUtf8> {
        if std::mem::take(&mut self.length) == 0 { Ok(()) } else { Err(NotUtf8) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(bytes: &[u8], piece_bytes: usize) -> bool {
        let mut check = Utf8Check::default();
        bytes.chunks(piece_bytes).all(|piece| check.feed(piece).is_ok()) && check.finish().is_ok()
    }

    proptest! {
        #[test]
        fn agrees_with_the_standard_library(text: String, noise: Vec<u8>, piece_bytes in 1..7_usize) {
            prop_assert!(check(text.as_bytes(), piece_bytes));
            prop_assert_eq!(check(&noise, piece_bytes), std::str::from_utf8(&noise).is_ok());
        }
    }

    #[test]
    fn fails_at_the_first_wrong_byte() {
        for (good, bad) in
            [(&b"\xe2\x82"[..], 0x28), (b"\xed", 0xa0), (b"\xf4", 0x90), (b"\xf0", 0x80), (b"", 0xc0)]
        {
            let mut check = Utf8Check::default();
            assert_eq!(check.feed(good), Ok(()));
            assert_eq!(check.feed(&[bad]), Err(NotUtf8), "{good:x?} then {bad:x}");
        }
    }
}
