//! The [`Backend`] that is llama.cpp: one model, one context, one thread.
//!
//! llama.cpp ends the process with `abort()` when it is asked for what it does not expect. Every such call is guarded
//! here and nowhere else: a batch longer than `n_batch`, a sequence id past the last, a token outside the vocabulary,
//! logits of a row that has none.

pub mod device;
mod embed;
mod fit;
mod grammar;
mod load;
mod markers;
mod params;
mod sampler;
mod threads;

pub use load::load;

use crate::{
    backend::{
        Backend, BatchToken, DecodeFault, EmbedRun, EmbedderFault, Limits, SampleFault, Sampled, Sequence, Token,
    },
    embed::EmbedLimits,
    job::failure,
    logprobs::{self, Likelihood},
    memory,
    sampling::SamplingPlan,
    template::{ChatTemplate, fence::Part},
    threads::Crew,
};
use embed::{EmbedPlan, Embedder};
use llama_cpp_2::{
    DecodeError,
    context::{LlamaContext, params::LlamaContextParams},
    llama_backend::LlamaBackend,
    llama_batch::LlamaBatch,
    model::LlamaModel,
    token::{LlamaToken, data_array::LlamaTokenDataArray},
};
use sampler::JobSampler;
use spillway_actors::gpu::frame::{JobFailure, JobFailureKind, Prompt};

/// No token of any vocabulary spells more bytes, so a text this many times longer than the context need not be tokenised
/// to know that it does not fit.
const MAX_BYTES_PER_TOKEN: usize = 512;

/// llama.cpp's answer to a decode that found no memory.
const ALLOCATION_FAILED: i32 = -2;

pub struct Llama {
    /// Dropped before the library it was made with.
    context: LlamaContext<'static>,
    /// Made when the first vector is asked for.
    embedder: Option<Embedder>,
    /// `None`: no vectors here.
    embed_plan: Option<EmbedPlan>,
    /// As `context` was made.
    params: LlamaContextParams,
    /// `None`: the number of threads stays as it is.
    crew: Option<Crew>,
    /// Memory of a context like this one, in bytes, by our own estimate.
    context_bytes: u64,
    /// Leaked by `load`: a process has one model, for its whole life.
    model: &'static LlamaModel,
    batch: LlamaBatch<'static>,
    /// Rows of the last batch that have logits.
    rows: Vec<bool>,
    limits: Limits,
    /// `Err`: why the model's own template cannot be used.
    template: Result<ChatTemplate, String>,
    bos: String,
    /// Control tokens that mark tool calls.
    markers: Vec<Token>,
    /// Reused for every sampled token: a vocabulary's worth of candidates.
    candidates: LlamaTokenDataArray,
    library: LlamaBackend,
}

/// The tokens before the first text, before the second, and before what stands between them.
fn fim_tokens(model: &LlamaModel) -> Option<[Token; 3]> {
    let vocab = model.vocab();
    let tokens = [vocab.fim_pre().0, vocab.fim_suf().0, vocab.fim_mid().0];
    tokens.iter().all(|token| (0..model.n_vocab()).contains(token)).then_some(tokens)
}

impl Llama {
    /// With BOS if the model wants one, but not a second one: many templates write it themselves.
    fn text_tokens(&self, text: &str) -> Result<Vec<LlamaToken>, JobFailure> {
        let has_bos = !self.bos.is_empty() && text.starts_with(&self.bos);
        Ok(self.model.vocab().tokenize(self.checked(text)?, !has_bos, true))
    }

    /// A text that may fit: others need not be tokenised.
    fn checked<'a>(&self, text: &'a str) -> Result<&'a [u8], JobFailure> {
        let limit = self.limits.max_request_tokens;
        if text.len() / MAX_BYTES_PER_TOKEN > limit {
            let message = format!("a prompt of {} bytes does not fit the model's {limit} tokens", text.len());
            return Err(failure(JobFailureKind::ContextLength, message));
        }
        Ok(text.as_bytes())
    }

    fn chat_tokens(&self, messages_json: &str, tools_json: Option<&str>) -> Result<Vec<Token>, JobFailure> {
        let template = self.template.as_ref().map_err(|reason| failure(JobFailureKind::Invalid, reason.clone()))?;
        let rendered = template.render(messages_json, tools_json)?;
        self.checked(&rendered)?;
        let mut tokens = Vec::new();
        for part in template.parts(&rendered) {
            match part {
                Part::Template(text) if tokens.is_empty() => tokens = self.text_tokens(text)?,
                Part::Template(text) => tokens.extend(self.model.vocab().tokenize(text.as_bytes(), false, true)),
                Part::Word(text) => tokens.extend(self.model.vocab().tokenize(text.as_bytes(), false, false)),
            }
        }
        Ok(tokens.into_iter().map(|LlamaToken(token)| token).collect())
    }

    /// As code models are trained: prefix and suffix, each after its own token, then the one that asks for the middle.
    fn tokens_between(&self, prefix: &str, suffix: &str) -> Result<Vec<Token>, JobFailure> {
        let none = || failure(JobFailureKind::Invalid, "this model has no tokens for a text between two others");
        let [before, after, middle] = fim_tokens(self.model).ok_or_else(none)?;
        // BOS, where the model wants one.
        let bos = self.model.vocab().bos();
        let start = self.model.vocab().tokenize(b"", true, false).into_iter().filter(|token| *token == bos).collect();
        let prefix = self.model.vocab().tokenize(self.checked(prefix)?, false, false);
        let suffix = self.model.vocab().tokenize(self.checked(suffix)?, false, false);
        let ids = |tokens: Vec<LlamaToken>| tokens.into_iter().map(|LlamaToken(token)| token);
        Ok(ids(start).chain([before]).chain(ids(prefix)).chain([after]).chain(ids(suffix)).chain([middle]).collect())
    }

    /// Whether the last cell of a sequence is that of its `len`-th token.
    fn holds(&self, sequence: Sequence, len: usize) -> bool {
        let last = i32::try_from(sequence).map(|sequence| self.context.kv_cache_seq_pos_max(sequence));
        // -1 = no cells.
        matches!((last, i32::try_from(len)), (Ok(last), Ok(len)) if last == len - 1)
    }

    fn fill(&mut self, batch: &[BatchToken]) -> Result<(), DecodeFault> {
        let refuse = |what: &str| Err(DecodeFault::Failed(format!("the engine built a bad batch: {what}")));
        if batch.is_empty() || batch.len() > self.limits.batch_tokens {
            return refuse("length");
        }
        self.batch.clear();
        self.rows.clear();
        for entry in batch {
            if entry.sequence > self.limits.parallel {
                return refuse("sequence");
            }
            if !(0..self.limits.vocab).contains(&entry.token) {
                return refuse("token");
            }
            let (Ok(position), Ok(sequence)) = (i32::try_from(entry.position), i32::try_from(entry.sequence)) else {
                return refuse("position");
            };
            if self.batch.add(LlamaToken(entry.token), position, &[sequence], entry.wants_logits).is_err() {
                return refuse("room");
            }
            self.rows.push(entry.wants_logits);
        }
        Ok(())
    }
}

impl Backend for Llama {
    type Sampler = JobSampler;

    fn limits(&self) -> Limits {
        self.limits
    }

    fn look_round(&mut self) {
        self.follow_neighbours();
    }

    fn tokenize(&mut self, prompt: &Prompt) -> Result<Vec<Token>, JobFailure> {
        match prompt {
            Prompt::Chat { messages_json, tools_json } => self.chat_tokens(messages_json, tools_json.as_deref()),
            Prompt::Text(text) if text.is_empty() => Ok(Vec::new()),
            Prompt::Text(text) => Ok(self.text_tokens(text)?.into_iter().map(|LlamaToken(token)| token).collect()),
            Prompt::Tokens(tokens) => Ok(tokens.clone()),
            Prompt::Between { prefix, suffix } => self.tokens_between(prefix, suffix),
        }
    }

    fn piece(&self, token: Token, markers: bool) -> Vec<u8> {
        if !(0..self.limits.vocab).contains(&token) {
            return Vec::new();
        }
        let is_shown = markers && self.markers.contains(&token);
        self.model.vocab().token_to_piece(LlamaToken(token), is_shown, None)
    }

    fn is_end(&self, token: Token) -> bool {
        (0..self.limits.vocab).contains(&token) && self.model.vocab().is_eog(LlamaToken(token))
    }

    fn sampler(&mut self, plan: &SamplingPlan, max_tokens: usize, replay: &[Token]) -> Result<JobSampler, JobFailure> {
        JobSampler::new(plan, self.model, max_tokens, replay)
    }

    fn decode(&mut self, batch: &[BatchToken]) -> Result<(), DecodeFault> {
        self.fill(batch)?;
        let outcome = self.context.decode(&mut self.batch).map_err(|error| match error {
            DecodeError::NoKvCacheSlot => DecodeFault::NoSlot,
            DecodeError::Unknown(ALLOCATION_FAILED) => DecodeFault::OutOfMemory("a decode's buffers".into()),
            other if memory::ran_out() => DecodeFault::OutOfMemory(other.to_string()),
            other => DecodeFault::Failed(other.to_string()),
        });
        if outcome.is_err() {
            self.rows.clear();
        }
        outcome
    }

    fn sample(&mut self, sampler: &mut JobSampler, row: usize) -> Result<Sampled, SampleFault> {
        if !self.rows.get(row).copied().unwrap_or(false) {
            return Err(SampleFault::NoNumbers);
        }
        let row = i32::try_from(row).map_err(|_| SampleFault::NoNumbers)?;
        sampler.sample(self.context.get_logits_ith(row), &mut self.candidates)
    }

    fn likelihood(&mut self, row: usize, token: Token, top: usize) -> Option<Likelihood> {
        if !self.rows.get(row).copied().unwrap_or(false) {
            return None;
        }
        logprobs::likelihood(self.context.get_logits_ith(i32::try_from(row).ok()?), token, top)
    }

    fn share(&mut self, from: Sequence, to: Sequence, start: usize, end: usize) -> bool {
        let (Ok(source), Ok(target)) = (i32::try_from(from), i32::try_from(to)) else { return false };
        let (Ok(first), Ok(last)) = (u32::try_from(start), u32::try_from(end)) else { return false };
        if from.max(to) > self.limits.parallel || from == to || !self.holds(to, start) {
            return false;
        }
        if self.limits.apart {
            // llama.cpp copies cells of another sequence all at once, or aborts.
            return self.context.copy_kv_cache_seq(source, target, None, None).is_ok() && self.truncate(to, end);
        }
        let copied = self.context.copy_kv_cache_seq(source, target, Some(first), Some(last));
        copied.is_ok() && self.holds(to, end)
    }

    fn truncate(&mut self, sequence: Sequence, len: usize) -> bool {
        let Ok(first) = u32::try_from(len) else { return false };
        if sequence > self.limits.parallel {
            return false;
        }
        let cut = self.context.clear_kv_cache_seq(Some(sequence), Some(first), None);
        cut == Ok(true) && self.holds(sequence, len)
    }

    fn clear(&mut self, sequence: Sequence) {
        if sequence <= self.limits.parallel {
            // The whole sequence: only removing a part of one can be refused.
            let _ = self.context.clear_kv_cache_seq(Some(sequence), None, None);
        }
    }

    fn generates(&self) -> bool {
        embed::writes_text(self.model)
    }

    fn embedder(&mut self) -> Result<EmbedLimits, EmbedderFault> {
        if let Some(embedder) = &self.embedder {
            return Ok(embedder.limits());
        }
        let none = || EmbedderFault::Refused(failure(JobFailureKind::Invalid, "this model makes no embeddings here"));
        let plan = self.embed_plan.ok_or_else(none)?;
        let embedder = Embedder::new(self.model, &self.library, plan, self.params.clone())?;
        Ok(self.embedder.insert(embedder).limits())
    }

    fn embed(&mut self, runs: &[EmbedRun<'_>]) -> Result<Vec<Option<Vec<f32>>>, DecodeFault> {
        match &mut self.embedder {
            Some(embedder) => embedder.embed(runs),
            None => Err(DecodeFault::Failed("there is no context for vectors".into())),
        }
    }

    fn forget_text(&mut self, sequence: Sequence) {
        if let Some(embedder) = &mut self.embedder {
            embedder.forget(sequence);
        }
    }
}
