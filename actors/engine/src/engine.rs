//! The engine loop's one turn: commands in, one decode, one frame of outputs out.
//!
//! Owns the jobs and drives the [`Backend`] as the [`Scheduler`] says. Every job that was submitted ends in exactly one
//! `Finished` or `Failed`, or in silence after its `Cancel`. Knows no sockets and no clock.

mod batch;
mod embed;
mod prepare;

use crate::{
    backend::{Backend, BatchToken, DecodeFault, Sampled, Sequence, Token},
    job::{Echoing, Job, failure},
    logprobs::Likelihood,
    prefix::Change,
    scheduler::{Ask, Chunk, Scheduler},
};
use batch::Arriving;
use embed::Embeddings;
use prepare::Prepared;
use spillway_actors::gpu::frame::{
    Alternative, EmbedSpec, FromEngine, Heartbeat, JobEvent, JobFailure, JobFailureKind, JobId, JobOutput, JobSpec,
    Prompt, PromptToken, StopReason, TokenLogprob,
};
use std::{collections::HashMap, time::Duration};

struct Entry<S> {
    job: Job,
    sampler: S,
    canary: bool,
    /// See [`Ask::exact`].
    exact: bool,
    /// See [`Ask::group`].
    group: u64,
}

/// One loaded model and its jobs.
pub struct Engine<B: Backend> {
    backend: B,
    epoch: u64,
    /// Decode steps finished.
    steps: u64,
    scheduler: Scheduler,
    jobs: HashMap<JobId, Entry<B::Sampler>>,
    arriving: Arriving,
    embeddings: Embeddings,
    /// Said since the last frame.
    outputs: Vec<JobOutput>,
    /// Why this engine must end.
    out_of_memory: Option<Shortage>,
}

/// Memory ran out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    pub message: String,
    /// It was for vectors.
    pub embeddings: bool,
}

impl<B: Backend> Engine<B> {
    pub fn new(backend: B, epoch: u64) -> Self {
        let scheduler = Scheduler::new(backend.limits());
        let (jobs, arriving, embeddings) = (HashMap::new(), Arriving::default(), Embeddings::default());
        let outputs = Vec::new();
        Self { backend, epoch, steps: 0, scheduler, jobs, arriving, embeddings, outputs, out_of_memory: None }
    }

    /// Takes a job into the queue, or fails it. A job id that is in work already is ignored: failing it would end the
    /// other one's stream.
    pub fn submit(&mut self, spec: &JobSpec) {
        if self.is_known(spec.job) {
            return;
        }
        if spec.canary && !self.backend.generates() {
            // A model that writes nothing proves itself by what it is for.
            return self.embed(EmbedSpec { job: spec.job, inputs: vec![spec.prompt.clone()] });
        }
        match self.backend.tokenize(&spec.prompt) {
            Ok(prompt) => self.take(spec, prompt, spec.job, None),
            Err(failure) => self.refuse(spec.job, failure),
        }
    }

    fn take(&mut self, spec: &JobSpec, prompt: Vec<Token>, group: u64, echo: Option<Echoing>) {
        match self.prepare(spec, prompt, group, echo) {
            Ok(Prepared::Ready(entry)) => {
                let (prompt, tokens) = (entry.job.prompt_len(), entry.job.tokens().len());
                let scored = entry.job.scored().is_some();
                let (scope, exact) = (spec.cache_scope, entry.exact && !scored);
                let ask = Ask { job: spec.job, group, scope, prompt, tokens, exact, scored };
                self.scheduler.enqueue(ask, spec.canary);
                self.jobs.insert(spec.job, entry);
            }
            Ok(Prepared::AlreadyEnded(mut job, reason)) => {
                self.outputs.extend(job.accepted(0));
                self.outputs.extend(job.echoed());
                self.outputs.extend(job.finished(reason));
            }
            Err(failure) => self.refuse(spec.job, failure),
        }
    }

    /// How many tokens a prompt has: said at the next turn, which is between two steps.
    pub fn count(&mut self, job: JobId, prompt: &Prompt) {
        let event = match self.backend.tokenize(prompt) {
            Ok(tokens) => JobEvent::Finished {
                reason: StopReason::Stop,
                prompt_tokens: as_u32(tokens.len()),
                completion_tokens: 0,
                cached_tokens: 0,
            },
            Err(failure) => JobEvent::Failed(failure),
        };
        self.outputs.push(JobOutput { job, seq: 0, event });
    }

    /// The only word on a job that never ran.
    fn refuse(&mut self, job: JobId, failure: JobFailure) {
        self.outputs.push(JobOutput { job, seq: 0, event: JobEvent::Failed(failure) });
    }

    /// Frees the job's sequence at once; nothing more is said about it.
    pub fn cancel(&mut self, job: JobId) {
        self.outputs.retain(|output| output.job != job);
        self.forget(job, true);
        self.arriving.forget(job);
        self.cancel_embedding(job);
    }

    /// The jobs of a request of several answers that have not ended.
    pub fn jobs_of(&self, group: u64) -> Vec<JobId> {
        self.jobs.iter().filter(|(_, entry)| entry.group == group).map(|(job, _)| *job).collect()
    }

    /// Whether the job has not ended.
    pub fn is_known(&self, job: JobId) -> bool {
        self.jobs.contains_key(&job) || self.arriving.contains(job) || self.embeddings.contains(job)
    }

    /// Nothing to do until the next command.
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle() && self.arriving.is_empty() && self.embeddings.is_empty()
    }

    pub fn heartbeat(&self) -> Heartbeat {
        let limits = self.backend.limits();
        Heartbeat {
            steps: self.steps,
            running: as_u32(self.scheduler.running_count() + self.embeddings.running()),
            waiting: as_u32(self.scheduler.waiting() + self.arriving.len() + self.embeddings.waiting()),
            kv_used: as_u32(self.scheduler.used_cells()),
            kv_kept: as_u32(self.scheduler.kept_cells()),
            kv_total: as_u32(limits.pool_cells + limits.canary_cells),
        }
    }

    /// What was said between steps, if anything.
    pub fn flush(&mut self) -> Option<FromEngine> {
        if self.outputs.is_empty() { None } else { Some(self.step_frame()) }
    }

    /// Admits and plans. `None` when there is nothing to decode; otherwise announce it, then call [`Engine::run`].
    pub fn begin(&mut self) -> Option<(FromEngine, Vec<Chunk>)> {
        if self.scheduler.running_count() > 0 {
            self.backend.look_round();
        }
        self.take_in_some();
        self.admit();
        while self.scheduler.preempt_if_full().is_some() {}
        let jobs = &self.jobs;
        for (job, tokens) in self.scheduler.catch_up(&|job| tokens_of(jobs, job)) {
            if let Some(entry) = self.jobs.get_mut(&job) {
                entry.job.gained(tokens);
            }
        }
        let mut plan = self.scheduler.plan();
        if self.apply_changes() {
            // What was planned rests on cells that are not there.
            plan = self.scheduler.plan();
            self.apply_changes();
        }
        if plan.is_empty() {
            return None;
        }
        let tokens = as_u32(plan.iter().map(|chunk| chunk.len).sum());
        Some((FromEngine::StepBegin { step: self.steps + 1, tokens }, plan))
    }

    /// Decodes the planned batch and samples. The frame holds everything that happened.
    pub fn run(&mut self, plan: &[Chunk]) -> FromEngine {
        self.decode(plan);
        self.steps += 1;
        self.step_frame()
    }

    /// Memory ran out in the last step, or for a request: the jobs are not failed, because they can go on elsewhere, but this engine must
    /// end.
    pub fn out_of_memory(&self) -> Option<&Shortage> {
        self.out_of_memory.as_ref()
    }

    /// The step of this plan took this long.
    pub fn took(&mut self, plan: &[Chunk], took: Duration) {
        self.scheduler.took(plan, took);
    }

    fn admit(&mut self) {
        let jobs = &self.jobs;
        for seat in self.scheduler.admit(&|job| tokens_of(jobs, job)) {
            if let Some(entry) = self.jobs.get_mut(&seat.job) {
                self.outputs.extend(entry.job.accepted(seat.reused));
                self.outputs.extend(entry.job.echoed());
            }
        }
    }

    /// Makes the backend's cells what the books say. Returns whether it could not: sequences in doubt hold nothing then.
    fn apply_changes(&mut self) -> bool {
        let mut lost: Vec<Sequence> = Vec::new();
        for change in self.scheduler.take_changes() {
            let (sequence, done) = match change {
                Change::Truncate { sequence, len: 0 } => {
                    self.backend.clear(sequence);
                    lost.retain(|other| *other != sequence);
                    continue;
                }
                Change::Truncate { sequence, len } => {
                    (sequence, !lost.contains(&sequence) && self.backend.truncate(sequence, len))
                }
                Change::Share { from, to, start, end } => {
                    let sound = !lost.contains(&from) && !lost.contains(&to);
                    (to, sound && self.backend.share(from, to, start, end))
                }
            };
            if !done {
                lost.push(sequence);
            }
        }
        for &sequence in &lost {
            self.backend.clear(sequence);
            if let Some(entry) = self.scheduler.lost(sequence).and_then(|job| self.jobs.get_mut(&job)) {
                entry.job.begins_again();
            }
        }
        !lost.is_empty()
    }

    /// A batch that fails is tried again in halves, down to single sequences, so that only those fail that fail alone.
    fn decode(&mut self, plan: &[Chunk]) {
        let batch = self.batch(plan);
        match self.backend.decode(&batch) {
            Ok(()) => self.sample_all(plan),
            Err(DecodeFault::NoSlot) => self.find_room(plan),
            Err(DecodeFault::OutOfMemory(message)) => {
                self.out_of_memory = Some(Shortage { message, embeddings: false });
            }
            Err(DecodeFault::Failed(reason)) => {
                let rest = self.rewind(plan, &reason);
                let (one, other) = rest.split_at(rest.len() / 2);
                for half in [one, other].into_iter().filter(|half| !half.is_empty()) {
                    self.decode(half);
                }
            }
        }
    }

    /// Takes back what a failed batch may have left. Returns the chunks worth another try: none when it was one alone.
    fn rewind(&mut self, plan: &[Chunk], reason: &str) -> Vec<Chunk> {
        let mut rest = Vec::new();
        for chunk in plan {
            if plan.len() > 1 && self.backend.truncate(chunk.sequence, chunk.start) {
                rest.push(*chunk);
            } else {
                self.fail(chunk.job, failure(JobFailureKind::Decode, format!("decode failed: {reason}")));
            }
        }
        rest
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
                wants_logits: (chunk.samples && position + 1 == end) || entry.job.lacks_score(position),
            }));
        }
        batch
    }

    fn sample_all(&mut self, plan: &[Chunk]) {
        let mut rows = 0;
        for chunk in plan {
            rows += chunk.len;
            let tokens = tokens_of(&self.jobs, chunk.job);
            self.scheduler.evaluated(chunk, tokens.get(chunk.start..chunk.start + chunk.len).unwrap_or_default());
            self.score_some(chunk, rows - chunk.len);
            if chunk.samples {
                self.sample_one(chunk.job, rows - 1);
            }
        }
    }

    /// What is to be told of the prompt's tokens in this chunk, whose first row this is.
    fn score_some(&mut self, chunk: &Chunk, first_row: usize) {
        let Some(entry) = self.jobs.get_mut(&chunk.job) else { return };
        let Some(top) = entry.job.scored() else { return };
        for (row, position) in (first_row..).zip(chunk.start..chunk.start + chunk.len) {
            if position == 0 && entry.job.is_unscored() {
                let first = prompt_token(&self.backend, entry.job.tokens(), 0, None);
                self.outputs.extend(entry.job.score(first));
            }
            if entry.job.lacks_score(position) {
                let next = entry.job.tokens().get(position + 1).copied().unwrap_or_default();
                let likelihood = self.backend.likelihood(row, next, top);
                let token = prompt_token(&self.backend, entry.job.tokens(), position + 1, likelihood);
                self.outputs.extend(entry.job.score(token));
            }
        }
    }

    fn sample_one(&mut self, id: JobId, row: usize) {
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        let Sampled { token, likelihood } = match self.backend.sample(&mut entry.sampler, row) {
            Ok(sampled) => sampled,
            Err(fault) => {
                self.fail(id, failure(JobFailureKind::Decode, fault.to_string()));
                return;
            }
        };
        let markers = entry.job.shows_markers();
        let logprob = likelihood.map(|likelihood| spelled(&self.backend, token, likelihood, markers));
        let limit = prepare::request_limit(&self.backend, entry.canary);
        let (piece, is_end) = (self.backend.piece(token, markers), self.backend.is_end(token));
        match entry.job.sampled(token, &piece, is_end, limit, logprob) {
            Some(reason) => {
                if let Some(entry) = self.forget(id, true) {
                    self.outputs.extend(entry.job.finished(reason));
                }
            }
            None => {
                self.outputs.extend(entry.job.piece());
                self.scheduler.sampled(id);
            }
        }
    }

    /// The cache had less room than the books say: kept cells go, then one sequence makes way, or, alone, gives up.
    fn find_room(&mut self, plan: &[Chunk]) {
        if self.scheduler.pool_was_full() {
            self.apply_changes();
            return;
        }
        for chunk in plan {
            self.fail(chunk.job, failure(JobFailureKind::Decode, "no room in the KV cache"));
        }
    }

    fn fail(&mut self, id: JobId, failure: JobFailure) {
        if let Some(entry) = self.forget(id, false) {
            self.outputs.push(entry.job.failed(failure));
        }
    }

    /// The one place where a job leaves: its sequence and its entry together. With `keep` its cells stay for jobs that
    /// begin with the same tokens.
    fn forget(&mut self, id: JobId, keep: bool) -> Option<Entry<B::Sampler>> {
        self.scheduler.remove(id, keep);
        self.apply_changes();
        self.jobs.remove(&id)
    }
}

fn tokens_of<S>(jobs: &HashMap<JobId, Entry<S>>, job: JobId) -> &[Token] {
    jobs.get(&job).map_or(&[], |entry| entry.job.tokens())
}

fn spelled(backend: &impl Backend, token: Token, likelihood: Likelihood, markers: bool) -> TokenLogprob {
    let spell = |token: Token, logprob: f32| Alternative { token, bytes: backend.piece(token, markers), logprob };
    let top = likelihood.top.into_iter().map(|(token, logprob)| spell(token, logprob)).collect();
    TokenLogprob { chosen: spell(token, likelihood.chosen), top }
}

/// What is told of the prompt's token at `at`.
fn prompt_token(backend: &impl Backend, tokens: &[Token], at: usize, likelihood: Option<Likelihood>) -> PromptToken {
    let token = tokens.get(at).copied().unwrap_or_default();
    let Some(likelihood) = likelihood else {
        return PromptToken { token, bytes: backend.piece(token, false), logprob: None, top: Vec::new() };
    };
    let TokenLogprob { chosen, top } = spelled(backend, token, likelihood, false);
    PromptToken { token, bytes: chosen.bytes, logprob: Some(chosen.logprob), top }
}

fn as_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
