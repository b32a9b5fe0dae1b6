//! What a request has used of the tokens that its key's limit set aside for it: said once, when the flight ends.

use super::{AttemptReport, Flight};
use crate::{cloud::count, domain::TokenUsage};
use tokio::time::Instant;

fn sum(usage: TokenUsage) -> u64 {
    usage.prompt_tokens.saturating_add(usage.completion_tokens)
}

/// Of a whole answer what it says, and of one that was left on its way what the ledger has of it. Of one that broke off what
/// its costliest attempt took, and at least what its client has seen. Of one that was left before anything was counted, all
/// that was `reserved`: leaving early is no way around a limit. What failed untouched is free.
fn used(answer: TokenUsage, attempts: &[AttemptReport], seen: u64, reserved: u64) -> u64 {
    let whole = sum(answer);
    if whole > 0 {
        return whole;
    }
    let is_dropped = attempts.iter().any(|attempt| attempt.outcome == "abandoned");
    let unseen = if is_dropped && seen == 0 { reserved } else { 0 };
    attempts.iter().map(|attempt| sum(attempt.usage)).max().unwrap_or(0).max(seen).max(unseen)
}

impl Flight {
    pub(super) fn settle_tokens(&self) {
        let Some(hold) = self.job.take_hold() else { return };
        let prompt = || count::prompt_tokens(self.request());
        let seen = if self.started { self.sent.token_count().saturating_add(prompt()) } else { 0 };
        let used = used(self.usage, &self.attempts, seen, hold.tokens());
        hold.settle(used, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::NanoUsd, flight::Course};
    use std::time::Duration;

    fn usage(prompt_tokens: u64, completion_tokens: u64) -> TokenUsage {
        TokenUsage { prompt_tokens, completion_tokens, ..TokenUsage::default() }
    }

    fn attempt(prompt: u64, completion: u64) -> AttemptReport {
        AttemptReport {
            target: "t".into(),
            model: "m".into(),
            outcome: "ok",
            first_token: None,
            took: Duration::ZERO,
            usage: usage(prompt, completion),
            cost: NanoUsd::ZERO,
            course: Course::default(),
        }
    }

    #[test]
    fn an_answer_is_charged_once_a_broken_one_at_what_was_seen_and_nothing_is_free() {
        let attempts = [attempt(10, 90), attempt(10, 5), attempt(0, 0)];
        assert_eq!(used(usage(10, 20), &attempts, 500, 900), 30, "not its failed attempts");
        assert_eq!(used(usage(0, 0), &attempts, 40, 900), 100);
        let dropped = [AttemptReport { outcome: "abandoned", ..attempt(0, 0) }];
        assert_eq!(used(usage(0, 0), &dropped, 40, 900), 40, "left while it streamed");
        assert_eq!(used(usage(0, 0), &dropped, 0, 900), 900, "left before anything came");
        assert_eq!(used(usage(0, 0), &[], 0, 900), 0);
    }
}
