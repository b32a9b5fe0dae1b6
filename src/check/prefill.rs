//! Whether a model goes on with an answer that it is given the beginning of. Pure.
//!
//! The model is asked something with one obvious answer; then it is given the first half of its own answer. One that
//! honours a prefix says the second half.

use serde::Serialize;
use spillway_actors::config::PrefillStyle;

/// One obvious answer, so that two askings can be compared.
pub(super) const PROMPT: &str =
    "Count upwards from 1 to 40. Write the numbers with commas between them and nothing else.";
/// Enough numbers to cut in half.
pub(super) const MAX_TOKENS: u32 = 40;
/// This much of two texts in common is no chance.
const TELLING_BYTES: usize = 8;

/// What came of giving a model the beginning of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It went on.
    Honoured,
    /// It answered from the start again.
    BegunAnew,
    /// It said something else.
    SaidOtherwise,
    /// The provider refused such a request.
    Rejected,
    /// There was no answer long enough to cut in half.
    Untried,
}

/// The half to give and the half to hear, cut at white space.
pub(super) fn halves(answer: &str) -> Option<(&str, &str)> {
    let blank = |at: &(usize, char)| at.1.is_whitespace();
    let (at, _) = answer.char_indices().filter(blank).find(|(at, _)| *at >= answer.len() / 2)?;
    let (given, due) = (answer[..at].trim_end(), answer[at..].trim_start());
    (given.trim_start().len() >= TELLING_BYTES && due.len() >= TELLING_BYTES).then_some((given, due))
}

pub(super) fn judge(given: &str, due: &str, said: &str) -> Verdict {
    let begins = |with: &str| {
        let (said, with) = (said.trim_start().as_bytes(), with.trim_start().as_bytes());
        said.iter().zip(with).take_while(|(said, with)| said == with).count() >= TELLING_BYTES
    };
    match (begins(due), begins(given)) {
        (true, _) => Verdict::Honoured,
        (false, true) => Verdict::BegunAnew,
        (false, false) => Verdict::SaidOtherwise,
    }
}

/// The configuration's word for a style.
pub(super) const fn word(style: PrefillStyle) -> &'static str {
    match style {
        PrefillStyle::None => "none",
        PrefillStyle::Assistant => "assistant",
        PrefillStyle::DeepseekPrefix => "deepseek_prefix",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13";

    #[test]
    fn a_model_that_goes_on_is_told_from_one_that_does_not() {
        let (given, due) = halves(ANSWER).unwrap();
        assert_eq!((given, due), ("1, 2, 3, 4, 5, 6, 7,", "8, 9, 10, 11, 12, 13"));
        assert_eq!(judge(given, due, " 8, 9, 10, 11, 12, 13, 14"), Verdict::Honoured);
        assert_eq!(judge(given, due, ANSWER), Verdict::BegunAnew);
        assert_eq!(judge(given, due, "Sure! Here are the numbers: 9, 10"), Verdict::SaidOtherwise);
        assert_eq!(judge(given, due, ""), Verdict::SaidOtherwise);
    }

    #[test]
    fn an_answer_too_short_to_cut_proves_nothing() {
        for short in ["", "1, 2, 3", "nowhitespaceatallinthisanswer", "one two"] {
            assert_eq!(halves(short), None, "{short}");
        }
    }
}
