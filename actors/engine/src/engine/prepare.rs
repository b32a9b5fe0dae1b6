//! What is checked of a job before it may wait: everything that could fail it later and is known now.

use super::{Engine, Entry};
use crate::{
    backend::{Backend, Token},
    job::{Echoing, Job, failure},
    sampling,
};
use spillway_actors::{
    domain::MAX_CHOICES,
    gpu::frame::{JobFailure, JobFailureKind, JobSpec, StopReason},
};

/// Most jobs that may wait for a sequence: the gateway leases one request per sequence, each of so many answers at most.
/// More is its mistake.
const MAX_WAITING: usize = MAX_CHOICES as usize;

impl<B: Backend> Engine<B> {
    pub(super) fn prepare(
        &mut self,
        spec: &JobSpec,
        prompt: Vec<Token>,
        group: u64,
        echo: Option<Echoing>,
    ) -> Result<Prepared<B::Sampler>, JobFailure> {
        let invalid = |message: String| failure(JobFailureKind::Invalid, message);
        let sequences = usize::try_from(self.backend.limits().parallel).unwrap_or(usize::MAX);
        if self.scheduler.waiting() >= MAX_WAITING.saturating_mul(sequences.max(8)) {
            return Err(failure(JobFailureKind::Decode, "the engine's queue is full"));
        }
        if !self.backend.generates() {
            return Err(invalid("this model makes embeddings and writes no text".into()));
        }
        if spec.max_tokens == 0 {
            return Err(invalid("max_tokens must be at least 1".into()));
        }
        let plan = sampling::plan(spec, self.backend.limits().vocab)
            .map_err(|bad| JobFailure { param: bad.param().map(str::to_owned), ..invalid(bad.to_string()) })?;
        if prompt.is_empty() {
            return Err(invalid("the prompt is empty".into()));
        }
        let vocab = 0..self.backend.limits().vocab;
        if !prompt.iter().chain(&spec.replay).all(|token| vocab.contains(token)) {
            return Err(invalid("a token id is outside the model's vocabulary".into()));
        }
        let limit = request_limit(&self.backend, spec.canary);
        fits(prompt.len(), 0, limit)?;
        let mut job = Job::new(spec, prompt, echo);
        if let Some(reason) = replay(&self.backend, &mut job, &spec.replay) {
            return Ok(Prepared::AlreadyEnded(job, reason));
        }
        fits(job.tokens().len() - job.generated(), job.generated(), limit)?;
        let max_tokens = usize::try_from(spec.max_tokens).unwrap_or(usize::MAX).min(limit);
        let sampler = self.backend.sampler(&plan, max_tokens, &spec.replay)?;
        Ok(Prepared::Ready(Entry { job, sampler, canary: spec.canary, exact: plan.is_repeatable(), group }))
    }
}

pub(super) enum Prepared<S> {
    Ready(Entry<S>),
    /// The replayed tokens already hold the end.
    AlreadyEnded(Job, StopReason),
}

fn replay(backend: &impl Backend, job: &mut Job, tokens: &[Token]) -> Option<StopReason> {
    tokens
        .iter()
        .find_map(|&token| job.replay(token, &backend.piece(token, job.shows_markers()), backend.is_end(token)))
}

/// A canary lives in its own cells; every other job in the pool.
pub(super) fn request_limit(backend: &impl Backend, canary: bool) -> usize {
    let limits = backend.limits();
    if canary { limits.canary_cells.min(limits.max_request_tokens) } else { limits.max_request_tokens }
}

fn fits(prompt: usize, replayed: usize, limit: usize) -> Result<(), JobFailure> {
    if prompt + replayed < limit {
        return Ok(());
    }
    let message = format!(
        "the prompt has {prompt} tokens and {replayed} were generated before; this model takes {limit} with its answer"
    );
    Err(failure(JobFailureKind::ContextLength, message))
}
