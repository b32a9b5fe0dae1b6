//! The published keyword rule, exactly: fixed lists and two lengths. It does not measure difficulty; it is kept for those
//! who rely on it, so nothing here may be "improved".

use super::Signal;
use crate::domain::Complexity;

const PREMIUM: [&str; 6] = [
    "state-of-the-art",
    "cutting-edge",
    "latest research",
    "complex reasoning",
    "advanced mathematics",
    "creative writing",
];

const COMPLEX: [&str; 9] = [
    "analyze",
    "evaluate",
    "compare and contrast",
    "synthesize",
    "multi-step",
    "reasoning",
    "proof",
    "theorem",
    "comprehensive",
];

/// Each earlier message counts as this many words.
const WORDS_PER_MESSAGE: u64 = 50;
/// An effective length above this is COMPLEX.
const COMPLEX_ABOVE: u64 = 2000;
/// An effective length above this is MODERATE.
const MODERATE_ABOVE: u64 = 500;

/// A grade and the one reason that decided it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub complexity: Complexity,
    pub signal: Signal,
}

/// The grade alone. `prompt` is the last user message, `earlier_messages` counts user and assistant messages before it.
pub fn keywords(prompt: &str, earlier_messages: usize) -> Complexity {
    judge(prompt, earlier_messages).complexity
}

/// The grade with its reason.
pub fn judge(prompt: &str, earlier_messages: usize) -> Verdict {
    let prompt = prompt.to_lowercase();
    let first_of = |words: &[&'static str]| words.iter().copied().find(|word| prompt.contains(word));
    if let Some(word) = first_of(&PREMIUM) {
        return Verdict { complexity: Complexity::Premium, signal: Signal::Keyword(word) };
    }
    let words = prompt.split_whitespace().count() as u64;
    let length = words.saturating_add((earlier_messages as u64).saturating_mul(WORDS_PER_MESSAGE));
    let signal = Signal::EffectiveLength(length);
    if length > COMPLEX_ABOVE {
        return Verdict { complexity: Complexity::Complex, signal };
    }
    if let Some(word) = first_of(&COMPLEX) {
        return Verdict { complexity: Complexity::Complex, signal: Signal::Keyword(word) };
    }
    let complexity = if length > MODERATE_ABOVE { Complexity::Moderate } else { Complexity::Trivial };
    Verdict { complexity, signal }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(count: usize) -> String {
        vec!["word"; count].join(" \n\t")
    }

    #[test]
    fn every_listed_word_decides_in_any_case_and_inside_other_words() {
        for word in PREMIUM {
            assert_eq!(keywords(&format!("x{}y", word.to_uppercase()), 0), Complexity::Premium, "{word}");
        }
        for word in COMPLEX {
            assert_eq!(keywords(&format!("x{}y", word.to_uppercase()), 0), Complexity::Complex, "{word}");
        }
    }

    #[test]
    fn premium_words_come_before_complex_words_and_length() {
        assert_eq!(keywords("complex reasoning", 0), Complexity::Premium);
        assert_eq!(keywords(&format!("analyze {} cutting-edge", words(3000)), 99), Complexity::Premium);
        assert_eq!(keywords("simple reasoning", 0), Complexity::Complex);
    }

    #[test]
    fn five_hundred_words_are_trivial_and_one_more_is_moderate() {
        assert_eq!(keywords("", 0), Complexity::Trivial);
        assert_eq!(keywords(&words(500), 0), Complexity::Trivial);
        assert_eq!(keywords(&words(501), 0), Complexity::Moderate);
    }

    #[test]
    fn two_thousand_words_are_moderate_and_one_more_is_complex() {
        assert_eq!(keywords(&words(2000), 0), Complexity::Moderate);
        assert_eq!(keywords(&words(2001), 0), Complexity::Complex);
    }

    #[test]
    fn an_earlier_message_counts_as_fifty_words() {
        assert_eq!(keywords("", 10), Complexity::Trivial);
        assert_eq!(keywords("hi", 10), Complexity::Moderate);
        assert_eq!(keywords("", 40), Complexity::Moderate);
        assert_eq!(keywords("hi", 40), Complexity::Complex);
        assert_eq!(keywords("hi", usize::MAX), Complexity::Complex);
    }

    #[test]
    fn the_reason_is_the_word_or_the_length() {
        assert_eq!(judge("a proof of the theorem", 0).signal, Signal::Keyword("proof"));
        assert_eq!(judge("two words", 1).signal, Signal::EffectiveLength(52));
    }

    proptest! {
        #[test]
        fn more_earlier_messages_never_make_a_request_easier(prompt in "\\PC{0,200}", earlier in 0usize..100) {
            prop_assert!(keywords(&prompt, earlier) <= keywords(&prompt, earlier + 1));
        }
    }
}
