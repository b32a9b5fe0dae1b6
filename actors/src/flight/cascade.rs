//! A poor local answer that its client has not seen goes one tier up, once; whatever becomes of that, the client is not
//! worse off: without a better answer it gets the local one. What is poor is `judge.rs`'s to say, where a request of the
//! harder tier goes the router's.

use super::{
    End, Flight, FlightEvent, LAST_WORD,
    judge::{HoldBack, Poor, Said, judge},
    sent::Sent,
};
use crate::{
    cloud::{assemble::Assembler, client::WholeAnswer},
    config::CascadeConfig,
    domain::{ChatRequest, Complexity, Imprint, ModelChoice, TokenUsage},
    jobs::TargetKey,
    observe,
    route::{Decision, policy::Standing},
};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// With less than this left of the deadline a harder tier has no chance.
const LEAST_LEFT: Duration = Duration::from_secs(2);

/// A local answer that was found poor, as it would have been shown.
pub(super) struct Kept {
    decision: Decision,
    poor: Poor,
    shown: Shown,
    reason: &'static str,
    usage: TokenUsage,
    imprint: Option<Imprint>,
}

/// A local answer that has ended, as its client will get it.
pub(super) enum Shown {
    /// What is left of a stream.
    Stream(HoldBack),
    Whole(Box<WholeAnswer>),
}

impl Shown {
    pub(super) fn whole(mut parts: Assembler, reason: &str) -> Self {
        parts.finish(0, reason.to_owned());
        Self::all(parts)
    }

    /// Of an answer whose every choice has its end.
    pub(super) fn all(parts: Assembler) -> Self {
        let mut answer = parts.into_answer(None);
        for choice in &mut answer.choices {
            // Nothing but a call stands for text.
            if !calls(&choice.message) && choice.message.get("content").is_none_or(Value::is_null) {
                choice.message.insert("content".into(), "".into());
            }
        }
        Self::Whole(Box::new(answer))
    }

    fn said(&self, cut: bool, mean_logprob: Option<f32>) -> Said<'_> {
        match self {
            Self::Stream(held) => Said { text: held.text(), calls: held.calls(), cut, mean_logprob },
            Self::Whole(answer) => {
                let message = answer.choices.first().map(|choice| &choice.message);
                let text = message.and_then(|message| message.get("content")).and_then(Value::as_str);
                Said { text: text.unwrap_or_default(), calls: message.is_some_and(calls), cut, mean_logprob }
            }
        }
    }
}

fn calls(message: &serde_json::Map<String, Value>) -> bool {
    message.contains_key("tool_calls") || message.contains_key("function_call")
}

/// Who may be escalated at all: who left the choice to us, and has not asked for local or cheap.
fn is_eligible(request: &ChatRequest, config: CascadeConfig) -> bool {
    let free = matches!(request.model, ModelChoice::Auto) && !request.is_local_only() && !request.budget_sensitive;
    config.enabled && free
}

/// The next harder tier; the hardest has none.
fn one_up(complexity: Complexity) -> Option<Complexity> {
    Complexity::ALL.into_iter().find(|harder| *harder > complexity)
}

/// Whether the plan knows somewhere else to go that works now: another model, not tried yet.
fn is_elsewhere(decision: &Decision, tried: &[TargetKey]) -> bool {
    let is_other = |key: TargetKey| key != decision.candidate.key && !tried.contains(&key);
    decision.plan.candidates.iter().any(|other| {
        is_other(other.key) && other.model != decision.candidate.model && other.standing != Standing::Waiting
    })
}

impl Flight {
    /// How much of a local stream is held back.
    pub(super) fn hold_back(&self) -> HoldBack {
        let config = self.services.config.router.cascade;
        let held = is_eligible(self.request(), config) && !self.started && self.kept.is_none();
        HoldBack::of(if held { config.hold_back_tokens } else { 0 })
    }

    /// Likelihoods that nobody asked for but the judge.
    pub(super) fn judges_likelihood(&self) -> bool {
        let config = self.services.config.router.cascade;
        is_eligible(self.request(), config) && config.min_mean_logprob.is_some() && !self.started && self.kept.is_none()
    }

    /// Looks at a local answer that has ended and gives it back to be shown. `None`: nobody has seen any of it, it is poor
    /// and kept, and another attempt is due.
    pub(super) fn keep_if_poor(&mut self, shown: Shown, reason: &'static str, decision: &Decision) -> Option<Shown> {
        let is_begun = matches!(&shown, Shown::Stream(held) if !held.holds());
        let config = self.services.config.router.cascade;
        if !is_eligible(self.request(), config) || self.kept.is_some() || is_begun {
            return Some(shown);
        }
        let said = shown.said(reason == "length", self.sent.mean_logprob(0));
        let Some(poor) = judge(self.request(), said, config.min_mean_logprob) else { return Some(shown) };
        let Some(complexity) = self.next_tier(decision) else {
            observe::cascade(poor.label(), "kept");
            return Some(shown);
        };
        let imprint = self.imprint.take();
        self.kept = Some(Kept { decision: decision.clone(), poor, shown, reason, usage: self.usage, imprint });
        self.give_up_on(decision);
        self.job.escalate(complexity);
        None
    }

    fn next_tier(&self, decision: &Decision) -> Option<Complexity> {
        let left = self.job.deadline.saturating_duration_since(Instant::now());
        let possible = left >= LEAST_LEFT && is_elsewhere(decision, &self.job.progress().tried);
        possible.then(|| one_up(decision.plan.complexity)).flatten()
    }

    /// What gave a poor answer is not asked again, on whichever GPU it runs.
    fn give_up_on(&mut self, decision: &Decision) {
        let is_local = |key| matches!(key, TargetKey::Gpu { .. });
        for candidate in &decision.plan.candidates {
            if is_local(candidate.key) && candidate.model == decision.candidate.model {
                self.job.tried(candidate.key);
            }
        }
        self.sent = Sent::default();
        self.usage = TokenUsage::default();
    }

    /// The last thing before a flight ends: a request that was escalated in vain ends with the answer it had.
    pub(super) async fn fall_back(&mut self, end: End) -> End {
        let Some(kept) = self.kept.take() else { return end };
        match end {
            End::Failed(_) if !self.started && !self.finished => {
                observe::cascade(kept.poor.label(), "kept");
                self.close_attempt_under_way();
                match tokio::time::timeout(LAST_WORD, self.show_kept(kept)).await {
                    Ok(()) => End::Landed,
                    Err(_) => End::ClientGone,
                }
            }
            End::Landed => {
                observe::cascade(kept.poor.label(), "escalated");
                end
            }
            end => end,
        }
    }

    async fn show_kept(&mut self, kept: Kept) {
        let Kept { decision, shown, reason, usage, imprint, .. } = kept;
        (self.usage, self.finished, self.imprint) = (usage, true, imprint);
        self.decision = Some(decision.clone());
        self.show_all(shown, reason, &decision).await;
    }

    /// All that is left of a local answer that has ended.
    pub(super) async fn show_all(&mut self, shown: Shown, reason: &str, decision: &Decision) {
        match shown {
            Shown::Stream(mut held) => {
                for delta in held.release() {
                    self.show(delta, decision).await;
                }
                self.show_finish(0, reason.to_owned(), decision).await;
            }
            Shown::Whole(answer) => self.emit(FlightEvent::Whole(answer)).await,
        }
    }
}
