//! What a request's flight was like: the facts behind the `routing` object, the headers and the ledger.

use super::{Course, Flight, Resumed};
use crate::{
    domain::{Complexity, NanoUsd, TokenUsage},
    jobs::TargetKey,
};
use std::time::Duration;

/// One attempt, ended.
#[derive(Debug, Clone)]
pub struct AttemptReport {
    pub target: String,
    pub model: String,
    /// "ok" or the label of its error.
    pub outcome: &'static str,
    pub first_token: Option<Duration>,
    pub took: Duration,
    pub usage: TokenUsage,
    pub cost: NanoUsd,
    pub course: Course,
}

/// The whole flight, landed.
#[derive(Debug, Clone)]
pub struct FlightReport {
    pub target: String,
    pub model: String,
    pub complexity: Complexity,
    pub confidence: f64,
    pub reasoning: String,
    pub budget_sensitive: bool,
    /// US dollars per 1,000 tokens of the chosen target.
    pub estimated_cost_per_1k: f64,
    pub estimated_cost: NanoUsd,
    pub estimated_latency: Duration,
    pub actual_latency: Duration,
    pub attempts: Vec<AttemptReport>,
    /// Of the answer as the client has it: after a take-over the prompt once and the tokens of both attempts.
    pub usage: TokenUsage,
    pub is_local: bool,
    /// How a cut stream went on, if it was cut.
    pub resumed: Option<Resumed>,
    /// Which of the request's stop strings ended the answer, where a local engine told.
    pub met_stop: Option<String>,
}

impl Flight {
    pub(super) fn report(&self) -> FlightReport {
        let took = self.job.admitted_at.elapsed();
        let (attempts, usage) = (self.attempts.clone(), self.usage);
        let budget_sensitive = self.request().budget_sensitive;
        let Some(decision) = &self.decision else {
            return FlightReport {
                target: "none".into(),
                model: "none".into(),
                complexity: Complexity::Trivial,
                confidence: 0.0,
                reasoning: String::new(),
                budget_sensitive,
                estimated_cost_per_1k: 0.0,
                estimated_cost: NanoUsd::ZERO,
                estimated_latency: Duration::ZERO,
                actual_latency: took,
                attempts,
                usage,
                is_local: false,
                resumed: None,
                met_stop: None,
            };
        };
        let candidate = &decision.candidate;
        FlightReport {
            target: candidate.target.to_string(),
            model: candidate.model.to_string(),
            complexity: decision.plan.complexity,
            confidence: decision.plan.confidence,
            reasoning: decision.plan.reasoning.clone(),
            budget_sensitive,
            estimated_cost_per_1k: candidate.cost_per_1k,
            estimated_cost: candidate.cost,
            estimated_latency: candidate.latency,
            actual_latency: took,
            attempts,
            usage,
            is_local: matches!(candidate.key, TargetKey::Gpu { .. }),
            resumed: self.resumed,
            met_stop: self.met_stop.clone(),
        }
    }
}
