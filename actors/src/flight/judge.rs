//! Whether a local answer is too poor to be shown, and how long a stream's beginning is held back to tell. Pure; looks at
//! form only: whether an answer is true or good is nobody's to say here.

use crate::domain::{ChatRequest, Delta};
use serde_json::Value;

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Poor {
    /// Nothing but white space.
    Empty,
    /// Cut by a limit that the client has not set.
    Truncated,
    /// It begins as models begin when they decline.
    Refused,
    /// No JSON although JSON was asked for.
    Invalid,
    /// Its tokens were unlikely to the model itself.
    Unsure,
}

impl Poor {
    /// The bounded metric label.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Truncated => "truncated",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
            Self::Unsure => "unsure",
        }
    }
}

/// What an answer said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said<'a> {
    pub(super) text: &'a str,
    /// It calls tools.
    pub(super) calls: bool,
    /// It ended at its token limit.
    pub(super) cut: bool,
    /// Mean log-probability of its tokens, where it is known.
    pub(super) mean_logprob: Option<f32>,
}

/// `None` = good enough. `least`: a lower mean log-probability is poor.
pub(super) fn judge(request: &ChatRequest, said: Said<'_>, least: Option<f32>) -> Option<Poor> {
    judge_form(request, said).or_else(|| {
        let is_unsure = said.mean_logprob.zip(least).is_some_and(|(mean, least)| mean < least);
        is_unsure.then_some(Poor::Unsure)
    })
}

fn judge_form(request: &ChatRequest, said: Said<'_>) -> Option<Poor> {
    let Said { text, calls, cut, .. } = said;
    if calls {
        // Held to its schema by a grammar; only a limit can spoil it.
        return (cut && request.max_tokens.is_none()).then_some(Poor::Truncated);
    }
    if text.trim().is_empty() {
        return Some(Poor::Empty);
    }
    if is_refusal(text) {
        return Some(Poor::Refused);
    }
    if cut && request.max_tokens.is_none() {
        return Some(Poor::Truncated);
    }
    // A client that sets a limit gets what fits it, whole or not.
    (!cut && wants_json(request) && serde_json::from_str::<serde::de::IgnoredAny>(text).is_err())
        .then_some(Poor::Invalid)
}

fn wants_json(request: &ChatRequest) -> bool {
    let format = request.body.get("response_format").and_then(|format| format.get("type")).and_then(Value::as_str);
    matches!(format, Some("json_object" | "json_schema"))
}

/// How models begin when they decline, lower-cased, apostrophes straight. A false alarm costs one attempt of a harder
/// tier, so each is long enough to mean it.
const REFUSALS: [&str; 32] = [
    "i'm sorry, but i can",
    "i'm sorry, i can",
    "i'm sorry, but as an ai",
    "i am sorry, but i can",
    "i am sorry, i can",
    "sorry, but i can",
    "sorry, i can't",
    "sorry, i cannot",
    "i apologize, but i can",
    "i apologise, but i can",
    "i can't help with",
    "i can't assist with",
    "i cannot help with",
    "i cannot assist with",
    "i'm unable to",
    "i am unable to",
    "i'm not able to help",
    "i'm not able to assist",
    "as an ai language model, i can",
    "as an ai, i can",
    "es tut mir leid, aber ich kann",
    "tut mir leid, aber ich kann",
    "je suis désolé, mais je ne peux pas",
    "désolé, mais je ne peux pas",
    "lo siento, pero no puedo",
    "mi dispiace, ma non posso",
    "sinto muito, mas não posso",
    "desculpe, mas não posso",
    "извините, но я не могу",
    "很抱歉，我无法",
    "对不起，我无法",
    "申し訳ありませんが",
];
/// Bytes of a beginning that are looked at: the longest of them fits.
const OPENING_BYTES: usize = 160;

/// Whether a text begins as a refusal does.
fn is_refusal(text: &str) -> bool {
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '*' | '#' | '“'));
    let opening = text.get(..text.floor_char_boundary(OPENING_BYTES)).unwrap_or_default();
    let opening = opening.to_lowercase().replace('’', "'");
    REFUSALS.iter().any(|refusal| opening.starts_with(refusal))
}

/// A beginning that looks poor is held back this many times longer: refusals are short, and only a whole one can be
/// kept for the case that nothing better comes.
const SUSPECT: u64 = 4;

/// What of a stream the client has not been shown yet.
#[derive(Debug, Default)]
pub(super) struct HoldBack {
    held: Vec<Delta>,
    text: String,
    calls: bool,
    tokens: u64,
    limit: u64,
}

impl HoldBack {
    /// Holds this many tokens; 0 = nothing.
    pub(super) fn of(limit: u32) -> Self {
        Self { limit: u64::from(limit), ..Self::default() }
    }

    /// Takes a piece; gives what may be shown now, in order.
    pub(super) fn push(&mut self, delta: Delta) -> Vec<Delta> {
        if !self.holds() {
            return vec![delta];
        }
        // Only our own engine tells its tokens.
        self.tokens += (delta.tokens.len() as u64).max(1);
        self.text.push_str(delta.content.as_deref().unwrap_or_default());
        self.calls |= !delta.other.is_empty();
        self.held.push(delta);
        let is_suspect = !self.calls && (self.text.trim().is_empty() || is_refusal(&self.text));
        if self.tokens <= self.limit || (is_suspect && self.tokens <= self.limit * SUSPECT) {
            return Vec::new();
        }
        self.release()
    }

    /// Whether the client has nothing of the stream yet.
    pub(super) const fn holds(&self) -> bool {
        self.limit > 0
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether a call is among what is held.
    pub(super) const fn calls(&self) -> bool {
        self.calls
    }

    /// All that is held, in order; holds nothing from now on.
    pub(super) fn release(&mut self) -> Vec<Delta> {
        std::mem::take(self).held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn only_answers_of_poor_form_are_poor() {
        let open = ChatRequest::plain("hi");
        let limited = ChatRequest { max_tokens: Some(8), ..ChatRequest::plain("hi") };
        let body = json!({"response_format": {"type": "json_object"}}).as_object().cloned().unwrap();
        let json = ChatRequest { body: body.clone(), ..ChatRequest::plain("hi") };
        let limited_json = ChatRequest { body, max_tokens: Some(8), ..ChatRequest::plain("hi") };
        for (request, text, cut, judged) in [
            (&open, "A good answer.", false, None),
            (&open, "", false, Some(Poor::Empty)),
            (&limited, " \n\t", true, Some(Poor::Empty)),
            (&open, "A good ans", true, Some(Poor::Truncated)),
            (&limited, "A good ans", true, None),
            (&open, "I'm sorry, but I can't do that.", false, Some(Poor::Refused)),
            (&open, " I’m SORRY, but I can’t", true, Some(Poor::Refused)),
            (&open, "Lo siento, pero no puedo ayudar", false, Some(Poor::Refused)),
            (&open, "很抱歉，我无法回答", false, Some(Poor::Refused)),
            (&open, "I'm sorry to hear that. Here is what to do.", false, None),
            (&open, "She said: I'm sorry, but I can't.", false, None),
            (&json, r#"{"a": [1, 2]}"#, false, None),
            (&json, "Here you are: {}", false, Some(Poor::Invalid)),
            (&open, "Here you are: {}", false, None),
            (&limited_json, r#"{"a": [1"#, true, None),
            (&json, r#"{"a": [1"#, true, Some(Poor::Truncated)),
        ] {
            assert_eq!(judge(request, Said { text, calls: false, cut, mean_logprob: None }, None), judged, "{text:?}");
        }
    }

    #[test]
    fn a_call_is_an_answer_unless_a_limit_cut_it() {
        let open = ChatRequest::plain("hi");
        let said = |cut| Said { text: "", calls: true, cut, mean_logprob: None };
        assert_eq!((judge(&open, said(false), None), judge(&open, said(true), None)), (None, Some(Poor::Truncated)));
    }

    #[test]
    fn an_answer_its_own_model_finds_unlikely_is_poor_where_that_is_looked_at() {
        let open = ChatRequest::plain("hi");
        let judged =
            |mean_logprob, least| judge(&open, Said { text: "So.", calls: false, cut: false, mean_logprob }, least);
        assert_eq!(judged(Some(-2.0), Some(-1.5)), Some(Poor::Unsure));
        assert_eq!(
            (judged(Some(-1.0), Some(-1.5)), judged(Some(-9.0), None), judged(None, Some(-1.5))),
            (None, None, None)
        );
    }

    #[test]
    fn every_refusal_is_recognised_as_it_stands() {
        for refusal in REFUSALS {
            assert!(is_refusal(refusal) && refusal.len() < OPENING_BYTES, "{refusal}");
        }
    }

    fn piece(text: &str) -> Delta {
        Delta { content: Some(text.to_owned()), tokens: vec![1], ..Delta::default() }
    }

    #[test]
    fn a_stream_is_held_for_so_many_tokens_and_a_suspect_one_longer() {
        let shown_after = |limit, pieces: &[&str]| {
            let mut hold = HoldBack::of(limit);
            let at = (0..100).position(|n| !hold.push(piece(pieces.get(n).unwrap_or(&"x"))).is_empty());
            assert!(!hold.holds(), "what is released once is never held again");
            at
        };
        assert_eq!(shown_after(0, &[]), Some(0));
        assert_eq!(shown_after(3, &[]), Some(3));
        assert_eq!(shown_after(3, &[" ", " ", " ", " ", " "]), Some(5), "with the first text");
        assert_eq!(shown_after(3, &["I'm", " unable", " to"]), Some(12));
    }

    proptest! {
        #[test]
        fn nothing_held_is_lost_doubled_or_swapped(pieces in proptest::collection::vec("[ a-cI'm]{0,6}", 0..60), limit in 0_u32..30) {
            let mut hold = HoldBack::of(limit);
            let mut shown: Vec<Delta> = pieces.iter().flat_map(|text| hold.push(piece(text))).collect();
            prop_assert!(shown.is_empty() || !hold.holds());
            shown.extend(hold.release());
            prop_assert_eq!(shown, pieces.iter().map(|text| piece(text)).collect::<Vec<_>>());
        }
    }
}
