//! Stitches token pieces, which are bytes, into whole UTF-8 characters.
//!
//! A character may be spread over several tokens: its first bytes wait here. Bytes that can no longer become a character
//! turn into U+FFFD, so the concatenated output equals `String::from_utf8_lossy` of the concatenated input, however it
//! was split.

/// The bytes of a character begun but not finished.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Utf8Stitcher {
    pending: Vec<u8>,
}

impl Utf8Stitcher {
    /// Appends to `out` every character that `bytes` completes.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.pending.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.pending);
        let mut rest = input.as_slice();
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    return;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    out.push_str(&String::from_utf8_lossy(valid));
                    let Some(invalid) = error.error_len() else {
                        self.pending = after.to_vec();
                        return;
                    };
                    out.push(char::REPLACEMENT_CHARACTER);
                    rest = after.get(invalid..).unwrap_or_default();
                }
            }
        }
    }

    /// The text has ended: a character that was never finished becomes U+FFFD.
    pub fn finish(&mut self, out: &mut String) {
        if !std::mem::take(&mut self.pending).is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stitch<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
        let (mut stitcher, mut out) = (Utf8Stitcher::default(), String::new());
        for piece in pieces {
            stitcher.push(piece, &mut out);
        }
        stitcher.finish(&mut out);
        out
    }

    #[test]
    fn a_character_split_over_tokens_appears_once_it_is_whole() {
        let (mut stitcher, mut out) = (Utf8Stitcher::default(), String::new());
        let bytes = "🦀".as_bytes();
        for byte in &bytes[..3] {
            stitcher.push(&[*byte], &mut out);
            assert_eq!(out, "");
        }
        stitcher.push(&bytes[3..], &mut out);
        assert_eq!(out, "🦀");
    }

    #[test]
    fn a_character_that_never_ends_becomes_one_replacement_character() {
        assert_eq!(stitch(["é🦀".as_bytes(), &[0xf0, 0x9f]]), "é🦀\u{fffd}");
    }

    proptest! {
        #[test]
        fn any_split_of_any_bytes_gives_the_lossy_text(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..64),
                ".{0,24}".prop_map(String::into_bytes),
            ],
            sizes in proptest::collection::vec(1usize..5, 64),
        ) {
            let mut pieces = Vec::new();
            let mut rest = bytes.as_slice();
            for size in sizes.into_iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, after) = rest.split_at(size.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            prop_assert_eq!(stitch(pieces), String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
