//! Texts to vectors, beside the jobs that write text: between two of their steps one batch of texts, so large that the
//! streams keep their pace. Whose turn it is says [`Queue`]; what a batch gives, the backend. Long requests are tokenised over
//! several turns, and what is tokenised is computed meanwhile: the gateway takes an engine without steps for a stuck one.

use super::{Engine, Shortage, as_u32};
use crate::{
    backend::{Backend, DecodeFault, EmbedRun, EmbedderFault, Token},
    embed::{EmbedLimits, Queue, Run},
    job::failure,
};
use spillway_actors::gpu::frame::{
    EmbedSpec, FromEngine, JobEvent, JobFailure, JobFailureKind, JobId, JobOutput, Prompt, StopReason,
};
use std::collections::{HashMap, VecDeque};

/// Bytes that are tokenised between two steps: milliseconds.
const TOKENISED_AT_ONCE: usize = 64 << 10;
/// Texts of all requests that may wait.
const MAX_WAITING: usize = 1 << 20;

/// A request whose vectors are due.
#[derive(Debug, Default)]
struct Request {
    /// Not tokenised yet.
    prompts: VecDeque<Prompt>,
    tokenised: usize,
    prompt_tokens: usize,
    next_output: u32,
}

impl Request {
    fn output(&mut self, job: JobId, event: JobEvent) -> JobOutput {
        let seq = self.next_output;
        self.next_output += 1;
        JobOutput { job, seq, event }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Embeddings {
    requests: HashMap<JobId, Request>,
    /// Those that are not tokenised yet, in their order.
    untokenised: VecDeque<JobId>,
    queue: Queue,
}

impl Embeddings {
    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub(super) fn contains(&self, job: JobId) -> bool {
        self.requests.contains_key(&job)
    }

    pub(super) fn running(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn waiting(&self) -> usize {
        self.untokenised.len()
    }
}

impl<B: Backend> Engine<B> {
    /// Takes a request for vectors, or fails it. A job id that is in work already is ignored.
    pub fn embed(&mut self, spec: EmbedSpec) {
        if self.is_known(spec.job) {
            return;
        }
        self.embeddings.queue.enqueue(spec.job, spec.inputs.len());
        self.embeddings.requests.insert(spec.job, Request { prompts: spec.inputs.into(), ..Request::default() });
        self.embeddings.untokenised.push_back(spec.job);
        match self.may_embed(spec.job) {
            Ok(()) => {}
            Err(EmbedderFault::Refused(failure)) => self.fail_embedding(spec.job, failure),
            // Not failed: it may go on elsewhere.
            Err(EmbedderFault::OutOfMemory(message)) => self.no_memory_for_vectors(message),
        }
    }

    fn no_memory_for_vectors(&mut self, message: String) {
        self.out_of_memory = Some(Shortage { message, embeddings: true });
    }

    fn may_embed(&mut self, job: JobId) -> Result<(), EmbedderFault> {
        let texts = self.embeddings.requests.values().map(|request| request.prompts.len() + request.tokenised);
        if texts.sum::<usize>() > MAX_WAITING {
            return Err(EmbedderFault::Refused(failure(JobFailureKind::Decode, "the engine's queue is full")));
        }
        if self.embeddings.requests.get(&job).is_none_or(|request| request.prompts.is_empty()) {
            return Err(EmbedderFault::Refused(failure(JobFailureKind::Invalid, "there is no text to embed")));
        }
        self.backend.embedder().map(|_| ())
    }

    /// Tokenises what is due and plans. `None` when there is nothing to compute; otherwise announce it, then call
    /// [`Engine::run_embedding`].
    pub fn begin_embedding(&mut self) -> Option<(FromEngine, Vec<Run>)> {
        if self.embeddings.is_empty() {
            return None;
        }
        let Ok(limits) = self.backend.embedder() else { return None };
        self.tokenise_some(limits);
        let budget = self.scheduler.beside(limits.batch_tokens);
        let runs = self.embeddings.queue.plan(budget, limits);
        if runs.is_empty() {
            return None;
        }
        let tokens = as_u32(runs.iter().map(|run| run.len).sum());
        Some((FromEngine::StepBegin { step: self.steps + 1, tokens }, runs))
    }

    fn tokenise_some(&mut self, limits: EmbedLimits) {
        let mut bytes = 0;
        while bytes < TOKENISED_AT_ONCE
            && let Some(&job) = self.embeddings.untokenised.front()
        {
            let Some(request) = self.embeddings.requests.get_mut(&job) else {
                self.embeddings.untokenised.pop_front();
                continue;
            };
            let Some(prompt) = request.prompts.pop_front() else {
                self.embeddings.untokenised.pop_front();
                continue;
            };
            bytes += size(&prompt);
            let at = request.tokenised;
            match tokens_of(&mut self.backend, &prompt, at, limits) {
                Ok(tokens) => {
                    request.prompt_tokens += tokens.len();
                    request.tokenised += 1;
                    self.embeddings.queue.add(job, tokens);
                    if request.prompts.is_empty() {
                        self.embeddings.untokenised.pop_front();
                        self.accept_embedding(job);
                    }
                }
                Err(failure) => self.fail_embedding(job, failure),
            }
        }
    }

    fn accept_embedding(&mut self, job: JobId) {
        let Some(request) = self.embeddings.requests.get_mut(&job) else { return };
        let prompt_tokens = as_u32(request.prompt_tokens);
        let accepted = request.output(job, JobEvent::Accepted { prompt_tokens, cached_tokens: 0 });
        self.outputs.push(accepted);
    }

    /// Computes the planned batch. The frame holds everything that happened.
    pub fn run_embedding(&mut self, runs: &[Run]) -> FromEngine {
        self.compute(runs);
        self.steps += 1;
        self.step_frame()
    }

    /// A batch that fails is tried again text by text, so that only those fail that fail alone.
    fn compute(&mut self, runs: &[Run]) {
        let queue = &self.embeddings.queue;
        let batch: Vec<EmbedRun<'_>> = runs
            .iter()
            .map(|run| EmbedRun { sequence: run.sequence, start: run.start, tokens: queue.tokens(run), last: run.last })
            .collect();
        match self.backend.embed(&batch) {
            Ok(vectors) => runs.iter().zip(vectors).for_each(|(run, vector)| self.computed(run, vector)),
            Err(DecodeFault::OutOfMemory(message)) => self.no_memory_for_vectors(message),
            Err(_) if runs.len() > 1 => {
                for run in runs {
                    if !self.embeddings.queue.contains(run.job) {
                        continue;
                    }
                    if run.is_whole() {
                        self.compute(std::slice::from_ref(run));
                    } else if !self.embeddings.queue.begin_again(run) {
                        self.fail_embedding(run.job, failure(JobFailureKind::Decode, "a text could not be computed"));
                    }
                }
            }
            Err(fault) => self.fail_embedding(run_job(runs), broken(&fault)),
        }
    }

    fn computed(&mut self, run: &Run, vector: Option<Vec<f32>>) {
        if run.last {
            let Some(values) = vector else {
                self.fail_embedding(run.job, failure(JobFailureKind::Decode, "the model gave no usable numbers"));
                return;
            };
            let Some(request) = self.embeddings.requests.get_mut(&run.job) else { return };
            self.outputs.push(request.output(run.job, JobEvent::Vector { input: as_u32(run.input), values }));
        }
        if self.embeddings.queue.computed(run)
            && let Some(mut request) = self.embeddings.requests.remove(&run.job)
        {
            let end = JobEvent::Finished {
                reason: StopReason::Stop,
                prompt_tokens: as_u32(request.prompt_tokens),
                completion_tokens: 0,
                cached_tokens: 0,
            };
            self.outputs.push(request.output(run.job, end));
        }
    }

    fn fail_embedding(&mut self, job: JobId, failure: JobFailure) {
        if let Some(mut request) = self.forget_embedding(job) {
            self.outputs.push(request.output(job, JobEvent::Failed(failure)));
        }
    }

    /// The one place where a request for vectors leaves unfinished.
    fn forget_embedding(&mut self, job: JobId) -> Option<Request> {
        self.embeddings.untokenised.retain(|other| *other != job);
        if let Some(sequence) = self.embeddings.queue.remove(job) {
            self.backend.forget_text(sequence);
        }
        self.embeddings.requests.remove(&job)
    }

    pub(super) fn cancel_embedding(&mut self, job: JobId) {
        self.forget_embedding(job);
    }
}

fn run_job(runs: &[Run]) -> JobId {
    runs.first().map_or(0, |run| run.job)
}

fn broken(fault: &DecodeFault) -> JobFailure {
    failure(JobFailureKind::Decode, format!("a text could not be computed: {fault}"))
}

pub(super) fn size(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Chat { messages_json, .. } => messages_json.len(),
        Prompt::Text(text) => text.len(),
        Prompt::Tokens(tokens) => tokens.len(),
        Prompt::Between { prefix, suffix } => prefix.len() + suffix.len(),
    }
}

fn tokens_of(
    backend: &mut impl Backend,
    prompt: &Prompt,
    input: usize,
    limits: EmbedLimits,
) -> Result<Vec<Token>, JobFailure> {
    let too_long = |what: String| {
        let message = format!("input {input} has {what}; this model takes {} in one text", limits.max_tokens);
        failure(JobFailureKind::ContextLength, message)
    };
    let tokens = backend.tokenize(prompt).map_err(|refused| match refused.kind {
        JobFailureKind::ContextLength => too_long("too many tokens".into()),
        _ => refused,
    })?;
    if tokens.is_empty() {
        return Err(failure(JobFailureKind::Invalid, format!("input {input} is empty")));
    }
    let vocab = 0..backend.limits().vocab;
    if !tokens.iter().all(|token| vocab.contains(token)) {
        let message = format!("input {input} holds a token id outside the model's vocabulary");
        return Err(failure(JobFailureKind::Invalid, message));
    }
    if tokens.len() > limits.max_tokens {
        return Err(too_long(format!("{} tokens", tokens.len())));
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests;
