//! A poor local answer that its client has not seen goes one tier up, once; whatever becomes of that, the client is not
//! worse off: without a better answer it gets the local one. What is poor is `judge.rs`'s to say, where a request of the
//! harder tier goes the router's.

use super::{
    End, Flight, FlightEvent, LAST_WORD,
    judge::{HoldBack, Poor, judge},
    sent::Sent,
    whole_text,
};
use crate::{
    config::CascadeConfig,
    domain::{ChatRequest, Complexity, Delta, ModelChoice, TokenUsage},
    jobs::TargetKey,
    observe,
    route::{Decision, policy::Standing},
};
use std::time::Duration;
use tokio::time::Instant;

/// With less than this left of the deadline a harder tier has no chance.
const LEAST_LEFT: Duration = Duration::from_secs(2);

/// A local answer that was found poor, as it would have been shown.
pub(super) struct Kept {
    decision: Decision,
    poor: Poor,
    /// Of a stream.
    pieces: Vec<Delta>,
    text: String,
    reason: &'static str,
    usage: TokenUsage,
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

    /// Looks at a local answer that has ended and that nobody has seen. `true`: it is kept, and another attempt is due.
    pub(super) fn keep_if_poor(
        &mut self,
        text: &mut String,
        held: &mut HoldBack,
        reason: &'static str,
        decision: &Decision,
    ) -> bool {
        let is_stream = self.request().stream;
        if !is_eligible(self.request(), self.services.config.router.cascade)
            || self.kept.is_some()
            || (is_stream && !held.holds())
        {
            return false;
        }
        let said = if is_stream { held.text() } else { text.as_str() };
        let Some(poor) = judge(self.request(), said, reason == "length") else { return false };
        let Some(complexity) = self.next_tier(decision) else {
            observe::cascade(poor.label(), "kept");
            return false;
        };
        let (pieces, text) = (held.release(), std::mem::take(text));
        self.kept = Some(Kept { decision: decision.clone(), poor, pieces, text, reason, usage: self.usage });
        self.give_up_on(decision);
        self.job.escalate(complexity);
        true
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
        let Kept { decision, pieces, text, reason, usage, .. } = kept;
        (self.usage, self.finished) = (usage, true);
        self.decision = Some(decision.clone());
        if self.request().stream {
            for delta in pieces {
                self.show(delta, &decision).await;
            }
            self.show_finish(0, reason.to_owned(), &decision).await;
        } else {
            self.emit(FlightEvent::Whole(Box::new(whole_text(text, reason)))).await;
        }
    }
}
