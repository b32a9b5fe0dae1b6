//! Text from elsewhere, made harmless for a terminal: escape sequences go, with what they would have done, and so do other control
//! characters but line ends and tabs, and what turns the direction of the text around it, so that it reads as something it is not.
//! Pure; a sequence may be cut between two pieces.

use std::error::Error;

/// Passes text through, piece by piece.
#[derive(Debug, Default)]
pub(crate) struct Clean {
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// Inside a control sequence (CSI), up to its final letter.
    Sequence,
    /// Inside a string for the terminal (OSC, DCS, …), up to BEL or ST.
    Words,
    /// ESC inside such a string.
    WordsEscape,
}

impl Clean {
    /// What of this piece may be shown.
    pub(crate) fn pass(&mut self, piece: &str) -> String {
        piece.chars().filter(|character| self.shows(*character)).collect()
    }

    fn shows(&mut self, character: char) -> bool {
        use State::{Escape, Sequence, Text, Words, WordsEscape};
        // Nothing that is well-formed goes over a line's end: an answer is not swallowed by a sequence that never ends.
        if character == '\n' {
            self.state = Text;
            return true;
        }
        let (next, shows) = match (self.state, character) {
            (_, '\u{1b}') if self.state != Words => (Escape, false),
            (_, '\u{9b}') => (Sequence, false),
            (Text | Escape | Sequence, '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}') => (Words, false),
            (Text, '\t') => (Text, true),
            (Text, character) => (Text, !character.is_control() && !turns(character)),
            (Escape, '[') => (Sequence, false),
            (Escape, ']' | 'P' | 'X' | '^' | '_') => (Words, false),
            (Escape, ' '..='/') => (Escape, false),
            (Escape, character) => (Text, !character.is_ascii() && !character.is_control() && !turns(character)),
            (Sequence, ' '..='?') => (Sequence, false),
            (Sequence, character) => (Text, !character.is_ascii() && !character.is_control() && !turns(character)),
            (Words, '\u{1b}') => (WordsEscape, false),
            (Words, '\u{7}' | '\u{9c}') | (WordsEscape, _) => (Text, false),
            (Words, _) => (Words, false),
        };
        self.state = next;
        shows
    }
}

/// Embeddings, overrides and isolates of the bidirectional algorithm. What is written from right to left needs none of them.
const fn turns(character: char) -> bool {
    matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A whole text.
pub(crate) fn clean(text: &str) -> String {
    Clean::default().pass(text)
}

/// A whole text on one line.
pub(crate) fn one_line(text: &str) -> String {
    clean(text).replace(['\n', '\t'], " ")
}

/// The cause of an error that says most.
pub(crate) fn deepest(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    one_line(&cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_would_steer_a_terminal_goes_and_what_people_read_stays() {
        for (given, shown) in [
            ("plain, tab\tand\nlines: äöü 漢字 🦀", "plain, tab\tand\nlines: äöü 漢字 🦀"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}[2J\u{1b}[Hcleared", "cleared"),
            ("\u{1b}]0;a title\u{7}after", "after"),
            ("\u{1b}]8;;http://evil.example\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{1b}]52;c;ZWNobw==\u{7}clipboard", "clipboard"),
            ("\u{1b}Pdevice string\u{1b}\\after", "after"),
            ("\u{9b}31mred \u{9d}title\u{9c}x", "red x"),
            ("over\rwritten\u{8}\u{8} bell\u{7}\u{7f}", "overwritten bell"),
            ("\u{1b}(0lines\u{1b}creset", "linesreset"),
            ("\u{1b}]never ends\nthe next line", "\nthe next line"),
            ("\u{1b}", ""),
            ("safe\u{202e}exe.txt\u{202c} \u{2067}x\u{2069}", "safeexe.txt x"),
            ("\u{1b}\u{202e}a\u{1b}[\u{2066}b", "ab"),
            ("שלום \u{200f}עולם", "שלום \u{200f}עולם"),
        ] {
            assert_eq!(Clean::default().pass(given), shown, "{given:?}");
        }
    }

    proptest! {
        #[test]
        fn no_control_character_passes_however_it_is_cut(text in "(\\PC|[\u{1b}\u{7}\\[\\]P;m\u{9b}\u{9d}\u{9c}\u{202e}\u{2066}\n\t\r\\\\]){0,60}", at in 0usize..60) {
            let whole = Clean::default().pass(&text);
            prop_assert!(whole.chars().all(|c| c == '\n' || c == '\t' || !c.is_control() && !turns(c)), "{whole:?}");
            let at = text.char_indices().nth(at).map_or(text.len(), |(at, _)| at);
            let mut clean = Clean::default();
            let pieces = clean.pass(&text[..at]) + &clean.pass(&text[at..]);
            prop_assert_eq!(pieces, whole);
        }
    }
}
