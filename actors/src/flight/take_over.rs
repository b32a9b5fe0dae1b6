//! A stream that was cut after its client had text: whether it may go on elsewhere, and what it costs in all. Where it
//! goes is `route/take_over.rs`'s to say.
//!
//! At most one take-over a request: it begins with the first thing shown by another target. An attempt that fails before
//! that (a refused prefix, an answer begun anew) leaves the next way open, and the client reads why the stream was cut.

use super::{Failure, Flight, Lost};
use crate::{
    cloud::continuation::is_continuable,
    domain::{GatewayError, Origin, TokenUsage},
    gpu::slot::Death,
    jobs::{TakeOver, TargetKey},
    observe,
    route::Decision,
};

/// Targets that may fail to go on with a stream by their own fault.
const FAULTS: usize = 3;
/// Engine deaths that a cut stream may live through: they are rarely its own doing.
const MOST_DEATHS: usize = 10;

/// A stream's cut.
pub(super) struct Cut {
    /// What the client reads if nothing goes on.
    cause: GatewayError,
    /// Of the attempt that was cut.
    usage: TokenUsage,
    faults: usize,
    deaths: usize,
}

/// How a cut stream went on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    /// The same local model, its tokens replayed.
    Replay,
    /// A server of the operator's, from the text.
    LocalPrefill,
    /// A cloud model, from the text.
    CloudPrefill,
}

impl Resumed {
    /// The bounded metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::LocalPrefill => "local_prefill",
            Self::CloudPrefill => "cloud_prefill",
        }
    }
}

impl Flight {
    /// A provider broke its stream off when the client had as many tokens as it had asked for: nothing is left to go on with.
    pub(super) fn has_all(&self, decision: &Decision) -> bool {
        let cap = u64::from(decision.candidate.output_cap.max(1));
        let continued = self.cut.is_some() || self.sent.is_replayable() || self.sent.text().is_empty();
        !continued && is_continuable(self.request()) && self.sent.token_count() >= cap
    }

    /// The answer ends as one does that reached its limit.
    pub(super) async fn end_at_limit(&mut self, decision: &Decision) {
        self.usage = self.attempts.last().map(|attempt| self.as_delivered(attempt.usage)).unwrap_or_default();
        self.finished = true;
        self.show_finish(0, "length".to_owned(), decision).await;
    }

    /// Where nobody counted its tokens, an answer that was cut has those that were shown.
    fn as_delivered(&self, usage: TokenUsage) -> TokenUsage {
        let completion_tokens = if usage.estimated { self.sent.token_count() } else { usage.completion_tokens };
        TokenUsage { completion_tokens, ..usage }
    }

    /// The client has text and the attempt failed. Returns if another target may go on; else the error the client reads.
    pub(super) fn take_over(&mut self, failure: Failure, decision: &Decision) -> Result<(), GatewayError> {
        let Failure { error, at, death, .. } = failure;
        if self.resumed.is_some() {
            return Err(error);
        }
        let so_often = match &mut self.cut {
            Some(cut) => {
                // Whatever a target says to a replay or a prefix, the client's request was good enough for the first one.
                if !matches!(error.origin, Origin::Target(_)) {
                    return Err(error);
                }
                match death {
                    Some(_) => cut.deaths += 1,
                    None => cut.faults += 1,
                }
                (cut.faults, cut.deaths)
            }
            None if error.may_try_elsewhere() => {
                let usage = self.attempts.last().map(|attempt| self.as_delivered(attempt.usage)).unwrap_or_default();
                self.first_failure = Some(error.clone());
                self.cut = Some(Cut { cause: error.clone(), usage, faults: 0, deaths: 0 });
                (0, 0)
            }
            None => return Err(error),
        };
        let (faults, deaths) = so_often;
        if faults >= FAULTS || deaths >= MOST_DEATHS {
            return Err(self.cut.as_ref().map_or(error, |cut| cut.cause.clone()));
        }
        self.note_faulty(decision.candidate.key, &error);
        self.ask_clouds_again(death.is_some(), deaths);
        self.lost = Some(Lost::noticed(at));
        self.ask_for_take_over(death, decision);
        Ok(())
    }

    fn ask_for_take_over(&mut self, death: Option<Death>, decision: &Decision) {
        self.mourning = death.or_else(|| self.mourning.take());
        self.job.tried(decision.candidate.key);
        let begun = self.job.progress().take_over.is_some();
        if begun {
            return;
        }
        let replay = self.sent.is_replayable().then(|| decision.candidate.model.clone());
        self.job.begin_take_over(TakeOver {
            model: decision.candidate.model.clone(),
            replay,
            prefix: !self.sent.text().is_empty() && is_continuable(self.request()),
            sent_tokens: self.sent.token_count(),
            deadline: self.job.deadline,
        });
    }

    /// Another target than the first one has shown something.
    pub(super) fn note_resumed(&mut self, decision: &Decision) {
        if self.cut.is_none() || self.resumed.is_some() {
            return;
        }
        let how = match decision.candidate.key {
            TargetKey::Gpu { slot, .. } if self.services.fleet.is_server(slot) => Resumed::LocalPrefill,
            TargetKey::Gpu { .. } => Resumed::Replay,
            TargetKey::Cloud { .. } => Resumed::CloudPrefill,
        };
        self.resumed = Some(how);
        observe::stream_resumed(how.label());
    }

    /// What the client is told of an answer whose last part took `usage`, its prompt counted anew with what had been sent:
    /// the prompt once, the tokens of both parts.
    pub(super) fn usage_of_all(&self, usage: TokenUsage) -> TokenUsage {
        let Some(cut) = &self.cut else { return usage };
        TokenUsage {
            prompt_tokens: cut.usage.prompt_tokens,
            completion_tokens: cut.usage.completion_tokens + usage.completion_tokens,
            cached_tokens: cut.usage.cached_tokens,
            written_tokens: cut.usage.written_tokens,
            reasoning_tokens: cut.usage.reasoning_tokens + usage.reasoning_tokens,
            estimated: cut.usage.estimated || usage.estimated,
        }
    }
}
