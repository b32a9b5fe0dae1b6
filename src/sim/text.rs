//! What the simulated provider says: words that tell their own place. Pure.
//!
//! Word i is `sim<i>-<syllable>`, the same for the same seed and prompt, so that a test sees every lost, doubled or
//! reordered token.

/// The words of one answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words {
    hash: u64,
    /// The first word to say; those before it stand in the prefix.
    first: u32,
    /// Whether the first word needs a space before it.
    spaced: bool,
    wide: bool,
}

impl Words {
    pub(super) fn new(seed: u64, prompt: &str) -> Self {
        Self {
            hash: prompt.bytes().fold(mix(seed), |hash, byte| mix(hash ^ u64::from(byte))),
            first: 0,
            spaced: false,
            wide: false,
        }
    }

    /// Every word gets characters of two, three and four bytes.
    pub(super) fn wide(mut self) -> Self {
        self.wide = true;
        self
    }

    /// Goes on after `prefix`: numbering follows its last word of ours, else its count of words.
    pub(super) fn continuing(mut self, prefix: &str) -> Self {
        let said = prefix.split_whitespace();
        let last = said.clone().rev().find_map(place);
        self.first =
            last.map_or_else(|| u32::try_from(said.count()).unwrap_or(u32::MAX), |last| last.saturating_add(1));
        self.spaced = !prefix.is_empty() && !prefix.ends_with(char::is_whitespace);
        self
    }

    pub(super) fn first(&self) -> u32 {
        self.first
    }

    /// Word `place` of the whole answer with the space before it.
    pub(super) fn word(&self, place: u32) -> String {
        let space = if place > self.first || self.spaced { " " } else { "" };
        if place == 0 {
            return format!("{space}sim0-simulated");
        }
        let bits = mix(self.hash ^ u64::from(place));
        let letter = |letters: &'static [u8], shift: u32| letters[(bits >> shift) as usize % letters.len()] as char;
        let (a, b, c) = (letter(b"bdfgklmnprst", 8), letter(b"aeiou", 24), letter(b"dklmnrst", 40));
        let wide = if self.wide { "é日🦀" } else { "" };
        format!("{space}sim{place}-{a}{b}{c}{wide}")
    }
}

/// The number of a word of ours.
fn place(word: &str) -> Option<u32> {
    word.strip_prefix("sim")?.split_once('-')?.0.parse().ok()
}

/// The finaliser of splitmix64.
fn mix(bits: u64) -> u64 {
    let mut z = bits.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(words: Words, end: u32) -> String {
        (words.first()..end).map(|place| words.word(place)).collect()
    }

    #[test]
    fn text_depends_on_seed_and_prompt_only() {
        let one = text(Words::new(1, "hello"), 9);
        assert_eq!(one, text(Words::new(1, "hello"), 9));
        assert_ne!(one, text(Words::new(2, "hello"), 9));
        assert_ne!(one, text(Words::new(1, "hello!"), 9));
        assert!(one.starts_with("sim0-simulated sim1-"), "{one}");
    }

    #[test]
    fn a_continuation_gives_the_uninterrupted_text_wherever_it_was_cut() {
        let words = Words::new(7, "p");
        let whole = text(words, 20);
        for cut in 0..20 {
            let prefix = text(words, cut);
            assert_eq!(prefix.clone() + &text(words.continuing(&prefix), 20), whole);
        }
    }

    #[test]
    fn after_a_foreign_prefix_numbering_counts_its_words() {
        assert_eq!(text(Words::new(7, "p").continuing("three words here "), 5).split('-').next(), Some("sim3"));
        assert!(text(Words::new(7, "p").continuing("three words here"), 5).starts_with(" sim3-"));
    }
}
