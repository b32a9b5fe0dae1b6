//! One answer of a local attempt, as far as it has come. Pure.

use crate::{
    domain::{ChatRequest, Delta, TokenUsage},
    flight::sent::Sent,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Most requests have one.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// As the client counts answers, over all prompts; with `best_of`, as candidates are counted.
    pub(super) choice: u32,
    pub(super) prompt: usize,
    /// Of its prompt's answers.
    pub(super) nth: u32,
    /// The prompt's text comes before the answer, and has not yet.
    pub(super) echo: bool,
    /// The prompt's text and what is known of its tokens, as far as the engine has told.
    pub(super) echoed: String,
    pub(super) echoed_tokens: Vec<Value>,
    /// Tokens that another attempt had sent: read again, not generated again.
    pub(super) replayed: u64,
    /// As the engine counts it: replayed tokens are completion tokens.
    pub(super) usage: TokenUsage,
    /// The word for its end, once it has come.
    pub(super) end: Option<&'static str>,
}

/// Every answer that the client has not got whole.
pub(super) fn parts(request: &ChatRequest, sent: &Sent) -> Vec<Part> {
    let prompts = request.prompts();
    let each = request.choices.best_of.max(request.choices.n).max(1);
    let part = |prompt: usize, nth: u32| {
        let choice = u32::try_from(prompt).unwrap_or(u32::MAX).saturating_mul(each).saturating_add(nth);
        let replayed = sent.tokens(choice).len() as u64;
        let echo = request.choices.echo && !sent.has_echoed(choice);
        Part { choice, prompt, nth, echo, replayed, ..Part::default() }
    };
    let all = (0..prompts).flat_map(|prompt| (0..each).map(move |nth| part(prompt, nth)));
    all.filter(|part| !sent.has_ended(part.choice)).collect()
}

impl Part {
    /// The prompt, as the client sees it before the answer.
    pub(super) fn echo_whole(&mut self, with_logprobs: bool) -> Delta {
        self.echo = false;
        let content = Some(std::mem::take(&mut self.echoed));
        let tokens = std::mem::take(&mut self.echoed_tokens);
        let logprobs = with_logprobs.then(|| json!({"content": tokens, "refusal": null}));
        Delta { choice: self.choice, content, logprobs, ..Delta::default() }
    }

    /// Once it was accepted.
    fn reread(&self) -> u64 {
        if self.usage.prompt_tokens > 0 { self.replayed } else { 0 }
    }

    /// Of another attempt's tokens nothing is generated anew.
    fn generated(&self) -> u64 {
        self.usage.completion_tokens.saturating_sub(self.replayed)
    }
}

/// What this attempt has taken: each prompt once, with whatever was read again, and what was generated.
pub(super) fn usage_of_attempt(parts: &[Part]) -> TokenUsage {
    let usage = usage_of_parts(parts);
    TokenUsage {
        prompt_tokens: usage.prompt_tokens + parts.iter().map(Part::reread).sum::<u64>(),
        completion_tokens: parts.iter().map(Part::generated).sum(),
        ..usage
    }
}

/// Each prompt once, every answer's tokens.
pub(super) fn usage_of_parts(parts: &[Part]) -> TokenUsage {
    let mut prompts: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
    let accepted = parts.iter().filter(|part| part.usage.prompt_tokens > 0);
    for part in accepted {
        let (tokens, cached) = (part.usage.prompt_tokens, part.usage.cached_tokens);
        // The answer that was computed first knows what came from a cache; the others had the prompt from that one.
        let known = prompts.entry(part.prompt).or_insert((tokens, cached));
        known.1 = known.1.min(cached);
    }
    TokenUsage {
        prompt_tokens: prompts.values().map(|(tokens, _)| tokens).sum(),
        completion_tokens: parts.iter().map(|part| part.usage.completion_tokens).sum(),
        cached_tokens: prompts.values().map(|(_, cached)| cached).sum(),
        ..TokenUsage::default()
    }
}

/// Of each prompt's candidates the `n` most likely, the most likely first: the number that the client knows each by, and its
/// own.
pub(super) fn best(parts: &[Part], n: u32, likelihood: impl Fn(&Part) -> Option<f32>) -> Vec<(u32, u32)> {
    let mut by_prompt: BTreeMap<usize, Vec<&Part>> = BTreeMap::new();
    for part in parts {
        by_prompt.entry(part.prompt).or_default().push(part);
    }
    let kept = by_prompt.into_values().flat_map(|mut candidates| {
        if candidates.len() > n as usize {
            // An empty answer is as likely as none.
            let of = |part: &Part| likelihood(part).unwrap_or(f32::NEG_INFINITY);
            candidates.sort_by(|one, other| of(other).total_cmp(&of(one)));
            candidates.truncate(n as usize);
        }
        candidates
    });
    (0..).zip(kept).map(|(shown, part)| (shown, part.choice)).collect()
}

/// The seed of an answer: the client's own for the first, others for the rest, the same ones every time.
pub(super) fn seed(asked: Option<u32>, nth: u32) -> Option<u32> {
    asked.map(|seed| seed ^ nth.wrapping_mul(0x9e37_79b9))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Choices, Input, Passage};
    use proptest::prelude::*;

    fn request(prompts: usize, n: u32, best_of: u32) -> ChatRequest {
        let passages = (0..prompts).map(|at| Passage::Text(at.to_string())).collect();
        let choices = Choices { n, best_of, ..Choices::default() };
        ChatRequest { input: Input::Several(passages), choices, ..ChatRequest::plain("") }
    }

    fn ended(mut part: Part, prompt_tokens: u64, completion_tokens: u64, cached_tokens: u64) -> Part {
        part.usage =
            TokenUsage { prompt_tokens, completion_tokens, cached_tokens, estimated: false, ..TokenUsage::default() };
        part
    }

    #[test]
    fn answers_are_numbered_over_all_prompts_and_those_sent_whole_are_not_made_again() {
        let mut sent = Sent::default();
        sent.generated(1, &[5, 6]);
        sent.ended(2);
        sent.echoed(3);
        let mut request = request(2, 2, 1);
        request.choices.echo = true;
        let parts = parts(&request, &sent);
        let seen: Vec<_> =
            parts.iter().map(|part| (part.choice, part.prompt, part.nth, part.replayed, part.echo)).collect();
        assert_eq!(seen, [(0, 0, 0, 0, true), (1, 0, 1, 2, true), (3, 1, 1, 0, false)]);
    }

    #[test]
    fn every_prompt_is_counted_once_and_only_new_tokens_are_generated() {
        let fresh = parts(&request(2, 2, 1), &Sent::default());
        // The first answer computed 10 tokens of which 4 were there before; the second had 9 from the first.
        let counts = [(10, 3, 4), (10, 5, 9), (7, 2, 0), (7, 1, 6)];
        let parts: Vec<Part> = fresh
            .into_iter()
            .zip(counts)
            .map(|(part, (prompt, completion, cached))| ended(part, prompt, completion, cached))
            .collect();
        let usage = usage_of_parts(&parts);
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens), (17, 11, 4));
        let replayed: Vec<Part> = parts.into_iter().map(|part| Part { replayed: 1, ..part }).collect();
        let usage = usage_of_attempt(&replayed);
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (17 + 4, 11 - 4));
    }

    #[test]
    fn the_most_likely_answers_of_each_prompt_are_kept_best_first() {
        let all = parts(&request(2, 1, 3), &Sent::default());
        let means = [Some(-2.0), Some(-1.0), Some(-3.0), Some(-8.0), None, Some(-3.0)];
        let kept = best(&all, 1, |part| means[part.choice as usize]);
        assert_eq!(kept, [(0, 1), (1, 5)]);
    }

    proptest! {
        #[test]
        fn seeds_are_the_clients_for_the_first_and_different_for_all(asked in any::<u32>(), one in 0u32..128, other in 0u32..128) {
            prop_assert_eq!(seed(Some(asked), 0), Some(asked));
            prop_assert_eq!(seed(None, one), None);
            prop_assert_eq!(seed(Some(asked), one) == seed(Some(asked), other), one == other);
        }

        #[test]
        fn best_keeps_n_of_every_prompt_with_numbers_without_gaps(prompts in 1usize..5, n in 1u32..4, more in 0u32..4) {
            let all = parts(&request(prompts, n, n + more), &Sent::default());
            prop_assert_eq!(all.len(), prompts * (n + more) as usize);
            let choices: Vec<u32> = best(&all, n, |_| Some(0.0)).iter().map(|(choice, _)| *choice).collect();
            prop_assert_eq!(choices, (0..prompts as u32 * n).collect::<Vec<_>>());
        }
    }
}
