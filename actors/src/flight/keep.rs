//! What a flight leaves in the ledger: the rows of its attempts, what they saved and drew, and its own row, written down
//! before the client reads the end of a paid answer.

use super::Flight;
use crate::{
    domain::{NanoUsd, TokenUsage},
    health::Reading,
    jobs::TargetKey,
    ledger::{AttemptRow, RequestRow, unix_now},
    route::{Candidate, Decision},
};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long the end of a paid answer waits for a ledger that does not write. Its reservation is written: if the gateway dies
/// now, that is charged in full.
const PATIENCE: Duration = Duration::from_secs(1);

impl Flight {
    /// An attempt of this request, not yet ended.
    pub(super) fn row(&self, candidate: &Candidate) -> AttemptRow {
        let key = self.request().caller.as_ref().map(|caller| caller.key.clone());
        AttemptRow::new(self.job.id(), key, unix_now(), candidate.target.as_str(), candidate.model.as_str())
    }

    /// Writes the request's row. Only a request that set money aside waits for it.
    pub(super) async fn keep(&mut self, outcome: &'static str) {
        self.close_attempt_under_way();
        let written = self.services.ledger.note_request(&self.request_row(outcome));
        // Whoever is first writes both.
        drop(self.settled.take());
        if self.paid {
            let _ = self.outbox.beside(timeout(PATIENCE, written.written())).await;
        }
    }

    fn request_row(&self, outcome: &'static str) -> RequestRow {
        let candidate = self.decision.as_ref().map(|decision| &decision.candidate);
        let took = self.job.admitted_at.elapsed();
        RequestRow {
            request: self.job.id(),
            key: self.request().caller.as_ref().map(|caller| caller.key.clone()),
            at: unix_now().minus(took),
            target: candidate.map_or("none", |candidate| candidate.target.as_str()).to_owned(),
            model: candidate.map_or("none", |candidate| candidate.model.as_str()).to_owned(),
            complexity: self.decision.as_ref().map_or("none", |decision| decision.plan.complexity.as_str()).into(),
            outcome: outcome.into(),
            stream: self.request().stream,
            attempts: u32::try_from(self.attempts.len()).unwrap_or(u32::MAX),
            usage: self.usage,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// What an answer of these tokens would have cost on the configured baseline model.
    pub(super) fn baseline(&self, usage: TokenUsage) -> NanoUsd {
        // No chat model stands against vectors.
        let baseline = self.services.config.ledger.baseline.as_ref().filter(|_| !self.request().needs.embeddings);
        let Some(name) = baseline else { return NanoUsd::ZERO };
        let mut models = self.services.config.clouds.iter().flat_map(|cloud| &cloud.models);
        let price = models.find(|model| model.name == *name).map(|model| model.price).unwrap_or_default();
        price.cost(usage.prompt_tokens, 0, usage.completion_tokens)
    }

    /// Work on a local attempt begins, its lease in hand. Waiting for one draws nothing.
    pub(super) fn begin_draw(&mut self, decision: &Decision) {
        let TargetKey::Gpu { slot, .. } = decision.candidate.key else { return };
        self.draw = Some(self.services.fleet.draws.begin(slot, self.watts(slot), Instant::now()));
    }

    /// It is over: its share of what the target drew meanwhile, in thousandths of a joule.
    pub(super) fn end_draw(&mut self, decision: &Decision) -> u64 {
        let (TargetKey::Gpu { slot, .. }, Some(draw)) = (decision.candidate.key, self.draw.take()) else { return 0 };
        draw.end(self.watts(slot), Instant::now())
    }

    /// As the card or else the configuration says.
    fn watts(&self, slot: usize) -> f64 {
        self.measured_watts(slot).unwrap_or(self.services.config.energy.local_watts)
    }

    fn measured_watts(&self, slot: usize) -> Option<f64> {
        let snapshot = self.services.fleet.vitals.fresh(Instant::now())?;
        let card = snapshot.locals.get(slot)?.gpu.as_ref()?;
        let Some(Reading::Gpus(gpus)) = &snapshot.gpus else { return None };
        gpus.iter().find(|gpu| gpu.uuid == *card)?.power_watts
    }
}
