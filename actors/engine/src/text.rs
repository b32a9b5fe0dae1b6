//! From token bytes to the text a client gets: whole characters, no stop strings, nothing it already has.
//!
//! Pure bookkeeping of one job. A replayed job pushes its replayed tokens through the same pipe and only what lies past
//! `sent_bytes` comes out.

use crate::{stop::StopMatcher, utf8::Utf8Stitcher};

/// One job's text so far.
#[derive(Debug, Clone)]
pub struct GeneratedText {
    stitcher: Utf8Stitcher,
    stops: StopMatcher,
    /// Bytes of text still to be swallowed because the client has them.
    skip: u64,
    ready: String,
}

impl GeneratedText {
    pub fn new(stops: &[String], sent_bytes: u64) -> Self {
        let stops = StopMatcher::new(stops);
        Self { stitcher: Utf8Stitcher::default(), stops, skip: sent_bytes, ready: String::new() }
    }

    /// Adds one token's bytes. Returns whether a stop string is complete.
    pub fn push(&mut self, piece: &[u8]) -> bool {
        let (mut whole, mut shown) = (String::new(), String::new());
        self.stitcher.push(piece, &mut whole);
        let stopped = self.stops.push(&whole, &mut shown);
        self.show(&shown);
        stopped
    }

    /// Which stop string is complete, if one is.
    pub const fn stopped(&self) -> Option<usize> {
        self.stops.stopped()
    }

    /// Nothing more follows, and no stop string was met: releases what was held back.
    pub fn finish(&mut self) {
        let (mut whole, mut shown) = (String::new(), String::new());
        self.stitcher.finish(&mut whole);
        if !self.stops.push(&whole, &mut shown) {
            self.stops.finish(&mut shown);
        }
        self.show(&shown);
    }

    /// Takes the text to send now.
    pub fn take(&mut self) -> String {
        std::mem::take(&mut self.ready)
    }

    /// A character of which the client has any byte is never sent again.
    fn show(&mut self, text: &str) {
        let skip = usize::try_from(self.skip).unwrap_or(usize::MAX).min(text.len());
        let skip = (skip..=text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
        self.skip = self.skip.saturating_sub(u64::try_from(skip).unwrap_or(u64::MAX));
        self.ready.push_str(text.get(skip..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text_of(pieces: &[Vec<u8>], stops: &[String], sent: u64) -> String {
        let mut text = GeneratedText::new(stops, sent);
        if !pieces.iter().any(|piece| text.push(piece)) {
            text.finish();
        }
        text.take()
    }

    #[test]
    fn a_replayed_text_goes_on_where_the_client_stopped() {
        let pieces = ["He", "llo ", "wor", "ld"].map(|piece| piece.as_bytes().to_vec());
        assert_eq!(text_of(&pieces, &[], 7), "orld");
    }

    #[test]
    fn a_character_cut_by_sent_bytes_is_not_sent_twice() {
        assert_eq!(text_of(&["é!".as_bytes().to_vec()], &[], 1), "!");
    }

    proptest! {
        #[test]
        fn sent_and_unsent_text_make_the_whole(text in "[a-cé]{0,20}", stop in "[a-c]{1,3}", at in 0usize..20, sizes in proptest::collection::vec(1usize..4, 1..8)) {
            let mut pieces = Vec::new();
            let mut rest = text.as_bytes();
            for size in sizes.into_iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, after) = rest.split_at(size.min(rest.len()));
                pieces.push(piece.to_vec());
                rest = after;
            }
            let stops = [stop];
            let whole = text_of(&pieces, &stops, 0);
            let at = (0..=at.min(whole.len())).rev().find(|&at| whole.is_char_boundary(at)).unwrap();
            let later = text_of(&pieces, &stops, at as u64);
            prop_assert_eq!(&whole[at..], later);
        }
    }
}
