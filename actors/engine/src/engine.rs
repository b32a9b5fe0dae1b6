//! The engine loop's one turn: commands in, one decode, one frame of outputs out.
//!
//! Owns the jobs and drives the [`Backend`] as the [`Scheduler`] says. Every job that was submitted ends in exactly one
//! `Finished` or `Failed`, or in silence after its `Cancel`. Knows no sockets and no clock.

use crate::{
    backend::{Backend, BatchToken, DecodeFault, Token},
    job::{Job, failure},
    sampling,
    scheduler::{Chunk, Scheduler},
};
use spillway_actors::gpu::frame::{
    FromEngine, Heartbeat, JobEvent, JobFailure, JobFailureKind, JobId, JobOutput, JobSpec, StopReason,
};
use std::collections::HashMap;

/// Most jobs that may wait for a sequence. The gateway leases one per sequence, so more is its mistake.
const MAX_WAITING: usize = 1024;

struct Entry<S> {
    job: Job,
    sampler: S,
    canary: bool,
}

/// One loaded model and its jobs.
pub struct Engine<B: Backend> {
    backend: B,
    epoch: u64,
    /// Decode steps finished.
    steps: u64,
    scheduler: Scheduler,
    jobs: HashMap<JobId, Entry<B::Sampler>>,
    /// Said since the last frame.
    outputs: Vec<JobOutput>,
}

impl<B: Backend> Engine<B> {
    pub fn new(backend: B, epoch: u64) -> Self {
        let scheduler = Scheduler::new(backend.limits());
        Self { backend, epoch, steps: 0, scheduler, jobs: HashMap::new(), outputs: Vec::new() }
    }

    /// Takes a job into the queue, or fails it. A job id that is in work already is ignored: failing it would end the
    /// other one's stream.
    pub fn submit(&mut self, spec: &JobSpec) {
        if self.jobs.contains_key(&spec.job) {
            return;
        }
        match self.prepare(spec) {
            Ok(Prepared::Ready(entry)) => {
                self.scheduler.enqueue(spec.job, entry.job.tokens().len(), spec.canary);
                self.jobs.insert(spec.job, entry);
            }
            Ok(Prepared::AlreadyEnded(mut job, reason)) => {
                self.outputs.extend(job.accepted());
                self.outputs.extend(job.finished(reason));
            }
            Err(failure) => self.outputs.push(JobOutput { job: spec.job, seq: 0, event: JobEvent::Failed(failure) }),
        }
    }

    /// Frees the job's sequence at once; nothing more is said about it.
    pub fn cancel(&mut self, job: JobId) {
        self.outputs.retain(|output| output.job != job);
        self.forget(job);
    }

    /// Nothing to do until the next command.
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle()
    }

    pub fn heartbeat(&self) -> Heartbeat {
        let limits = self.backend.limits();
        Heartbeat {
            steps: self.steps,
            running: as_u32(self.scheduler.running_count()),
            waiting: as_u32(self.scheduler.waiting()),
            kv_used: as_u32(self.scheduler.used_cells()),
            kv_total: as_u32(limits.pool_cells + limits.canary_cells),
        }
    }

    /// What was said between steps, if anything.
    pub fn flush(&mut self) -> Option<FromEngine> {
        if self.outputs.is_empty() { None } else { Some(self.step_frame()) }
    }

    /// Admits and plans. `None` when there is nothing to decode; otherwise announce it, then call [`Engine::run`].
    pub fn begin(&mut self) -> Option<(FromEngine, Vec<Chunk>)> {
        for seat in self.scheduler.admit() {
            if let Some(entry) = self.jobs.get_mut(&seat.job) {
                self.outputs.extend(entry.job.accepted());
            }
        }
        while let Some(seat) = self.scheduler.preempt_if_full() {
            self.backend.clear(seat.sequence);
        }
        let plan = self.scheduler.plan();
        if plan.is_empty() {
            return None;
        }
        let tokens = as_u32(plan.iter().map(|chunk| chunk.len).sum());
        Some((FromEngine::StepBegin { step: self.steps + 1, tokens }, plan))
    }

    /// Decodes the planned batch and samples. The frame holds everything that happened.
    pub fn run(&mut self, plan: &[Chunk]) -> FromEngine {
        let batch = self.batch(plan);
        let outcome = self.backend.decode(&batch);
        self.steps += 1;
        match outcome {
            Ok(()) => self.sample_all(plan),
            Err(DecodeFault::NoSlot) => self.make_room(plan),
            Err(DecodeFault::Failed(reason)) => self.fail_all(plan, &format!("decode failed: {reason}")),
        }
        self.step_frame()
    }

    fn step_frame(&mut self) -> FromEngine {
        FromEngine::Step { step: self.steps, epoch: self.epoch, outputs: std::mem::take(&mut self.outputs) }
    }

    fn batch(&self, plan: &[Chunk]) -> Vec<BatchToken> {
        let mut batch = Vec::with_capacity(plan.iter().map(|chunk| chunk.len).sum());
        for chunk in plan {
            let Some(entry) = self.jobs.get(&chunk.job) else { continue };
            let end = chunk.start + chunk.len;
            let tokens = entry.job.tokens().get(chunk.start..end).unwrap_or_default();
            batch.extend((chunk.start..end).zip(tokens).map(|(position, &token)| BatchToken {
                token,
                position,
                sequence: chunk.sequence,
                wants_logits: chunk.samples && position + 1 == end,
            }));
        }
        batch
    }

    fn sample_all(&mut self, plan: &[Chunk]) {
        let mut rows = 0;
        for chunk in plan {
            rows += chunk.len;
            self.scheduler.evaluated(chunk);
            if chunk.samples {
                self.sample_one(chunk.job, rows - 1);
            }
        }
    }

    fn sample_one(&mut self, id: JobId, row: usize) {
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        let Some(token) = self.backend.sample(&mut entry.sampler, row) else {
            self.fail(id, failure(JobFailureKind::Decode, "the model gave no usable probabilities"));
            return;
        };
        let limit = request_limit(&self.backend, entry.canary);
        let (piece, is_end) = (self.backend.piece(token), self.backend.is_end(token));
        match entry.job.sampled(token, &piece, is_end, limit) {
            Some(reason) => {
                if let Some(entry) = self.forget(id) {
                    self.outputs.extend(entry.job.finished(reason));
                }
            }
            None => {
                self.outputs.extend(entry.job.piece());
                self.scheduler.sampled(id);
            }
        }
    }

    /// The cache had less room than the books say: one sequence makes way, or, alone, gives up.
    fn make_room(&mut self, plan: &[Chunk]) {
        match self.scheduler.pool_was_full() {
            Some(seat) => self.backend.clear(seat.sequence),
            None => self.fail_all(plan, "no room in the KV cache"),
        }
    }

    fn fail_all(&mut self, plan: &[Chunk], message: &str) {
        for chunk in plan {
            self.fail(chunk.job, failure(JobFailureKind::Decode, message));
        }
    }

    fn fail(&mut self, id: JobId, failure: JobFailure) {
        if let Some(entry) = self.forget(id) {
            self.outputs.push(entry.job.failed(failure));
        }
    }

    /// The one place where a job leaves: its sequence, its KV cells and its entry together.
    fn forget(&mut self, id: JobId) -> Option<Entry<B::Sampler>> {
        if let Some(sequence) = self.scheduler.remove(id) {
            self.backend.clear(sequence);
        }
        self.jobs.remove(&id)
    }

    fn prepare(&mut self, spec: &JobSpec) -> Result<Prepared<B::Sampler>, JobFailure> {
        let invalid = |message: String| failure(JobFailureKind::Invalid, message);
        if self.scheduler.waiting() >= MAX_WAITING {
            return Err(failure(JobFailureKind::Decode, "the engine's queue is full"));
        }
        if spec.max_tokens == 0 {
            return Err(invalid("max_tokens must be at least 1".into()));
        }
        let plan = sampling::plan(&spec.sampling).map_err(|bad| invalid(bad.to_string()))?;
        let prompt = self.backend.tokenize(&spec.prompt)?;
        if prompt.is_empty() {
            return Err(invalid("the prompt is empty".into()));
        }
        let vocab = 0..self.backend.limits().vocab;
        if !prompt.iter().chain(&spec.replay).all(|token| vocab.contains(token)) {
            return Err(invalid("a token id is outside the model's vocabulary".into()));
        }
        let limit = request_limit(&self.backend, spec.canary);
        fits(prompt.len(), 0, limit)?;
        let mut job = Job::new(spec, prompt);
        if let Some(reason) = replay(&self.backend, &mut job, &spec.replay) {
            return Ok(Prepared::AlreadyEnded(job, reason));
        }
        fits(job.tokens().len() - job.generated(), job.generated(), limit)?;
        let max_tokens = usize::try_from(spec.max_tokens).unwrap_or(usize::MAX).min(limit);
        let sampler = self.backend.sampler(&plan, max_tokens, &spec.replay);
        Ok(Prepared::Ready(Entry { job, sampler, canary: spec.canary }))
    }
}

enum Prepared<S> {
    Ready(Entry<S>),
    /// The replayed tokens already hold the end.
    AlreadyEnded(Job, StopReason),
}

fn replay(backend: &impl Backend, job: &mut Job, tokens: &[Token]) -> Option<StopReason> {
    tokens.iter().find_map(|&token| job.replay(token, &backend.piece(token), backend.is_end(token)))
}

/// A canary lives in its own cells; every other job in the pool.
fn request_limit(backend: &impl Backend, canary: bool) -> usize {
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

fn as_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
