//! What the engine loop needs of a model, so that the loop can be tested without one.
//!
//! An implementation owns model and context and is used by one thread. It guards the library below it against the
//! calls that would abort the process; the loop above never has to know them.

use crate::{embed::EmbedLimits, logprobs::Likelihood, sampling::SamplingPlan};
use spillway_actors::gpu::frame::{JobFailure, Prompt};

#[cfg(test)]
pub(crate) mod counting;

/// A token id, as in the frames.
pub type Token = i32;

/// A sequence of the KV cache: below [`Limits::parallel`] for jobs, equal to it for the canary.
pub type Sequence = u32;

/// What one loaded model can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens of one decode.
    pub batch_tokens: usize,
    /// Most tokens of the first decode after a time without jobs: those who come together are computed together.
    pub first_prompt_tokens: usize,
    /// Sequences for jobs; one more exists for the canary.
    pub parallel: u32,
    /// KV cells shared by the jobs.
    pub pool_cells: usize,
    /// Most KV cells that are kept for later prompts while jobs run: every one that is kept costs every token a look.
    pub kept_cells: usize,
    /// KV cells set aside for the canary, beside the pool: a full pool never stops it.
    pub canary_cells: usize,
    /// Most tokens (prompt + output) of one job; at most `pool_cells`.
    pub max_request_tokens: usize,
    /// Token ids are in `0..vocab`.
    pub vocab: Token,
    /// Whether the cells of a sequence may be kept, cut and shared: not where a model folds its past into one state or
    /// forgets what lies outside a window.
    pub prefix_reuse: bool,
    /// Each sequence has cells of its own: they are copied, as a whole, where a pool's would be shared; and sequences with
    /// adjacent numbers are computed together.
    pub apart: bool,
}

/// One token of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchToken {
    pub token: Token,
    /// Index in its sequence.
    pub position: usize,
    pub sequence: Sequence,
    /// Whether what comes out here is looked at.
    pub wants_logits: bool,
}

/// Tokens of one text that is turned into a vector: the whole text, or its next portion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedRun<'a> {
    pub sequence: Sequence,
    /// Index of the first token.
    pub start: usize,
    pub tokens: &'a [Token],
    /// The text ends here: its vector is due.
    pub last: bool,
}

/// Why a decode did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeFault {
    /// The KV cache has no room for this batch; nothing was changed.
    #[error("no room in the KV cache")]
    NoSlot,
    /// The sequences of the batch are in an unknown state.
    #[error("{0}")]
    Failed(String),
    /// There was no memory to compute it: nothing that follows can be relied on.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
}

/// Why there is no context for vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmbedderFault {
    /// This model makes none, or not as it is configured.
    Refused(JobFailure),
    /// There was no memory for it; what was there before is as it was.
    OutOfMemory(String),
}

/// Why no token came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SampleFault {
    #[error("the model gave no usable probabilities")]
    NoNumbers,
    #[error("the grammar allows no further token of this model")]
    DeadEnd,
}

/// A token, and how likely it was if the job asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    pub token: Token,
    pub likelihood: Option<Likelihood>,
}

pub trait Backend {
    /// Sampling state of one job: penalties, random numbers, the place in its grammar.
    type Sampler;

    fn limits(&self) -> Limits;
    /// Between two steps: a moment to adapt to the machine. What sequences hold stays as it is.
    fn look_round(&mut self) {}
    /// Renders and tokenises. The failure's text never contains prompt text.
    fn tokenize(&mut self, prompt: &Prompt) -> Result<Vec<Token>, JobFailure>;
    /// Bytes of one token's text; empty for control tokens, but with `markers` for those that mark tool calls.
    fn piece(&self, token: Token, markers: bool) -> Vec<u8>;
    /// Whether this token ends a generation.
    fn is_end(&self, token: Token) -> bool;
    /// A sampler in the state it has after `replay`. Fails on a grammar that cannot be used or does not allow `replay`.
    fn sampler(
        &mut self,
        plan: &SamplingPlan,
        max_tokens: usize,
        replay: &[Token],
    ) -> Result<Self::Sampler, JobFailure>;
    fn decode(&mut self, batch: &[BatchToken]) -> Result<(), DecodeFault>;
    /// Samples from row `row` of the last batch, which asked for logits.
    fn sample(&mut self, sampler: &mut Self::Sampler, row: usize) -> Result<Sampled, SampleFault>;
    /// How likely `token` is in row `row` of the last batch, which asked for logits, and the `top` most likely.
    fn likelihood(&mut self, row: usize, token: Token, top: usize) -> Option<Likelihood>;
    /// Lets `to`, which has `start` cells, share those of `from` up to `end`. `false`: it does not hold them now.
    fn share(&mut self, from: Sequence, to: Sequence, start: usize, end: usize) -> bool;
    /// Frees a sequence's cells from position `len` on. `false`: it cannot; the sequence is in an unknown state.
    fn truncate(&mut self, sequence: Sequence, len: usize) -> bool;
    /// Frees all KV cells of a sequence.
    fn clear(&mut self, sequence: Sequence);
    /// Whether the model writes text at all.
    fn generates(&self) -> bool;
    /// Makes the context for vectors if it is not there yet, and says what it holds. Its sequences have nothing to do with
    /// those of the jobs.
    fn embedder(&mut self) -> Result<EmbedLimits, EmbedderFault>;
    /// One batch of texts. An answer for each run: a vector where the text ends. A text that has ended, or whose batch
    /// failed, holds nothing any more.
    fn embed(&mut self, runs: &[EmbedRun<'_>]) -> Result<Vec<Option<Vec<f32>>>, DecodeFault>;
    /// Drops what a sequence of the context for vectors holds.
    fn forget_text(&mut self, sequence: Sequence);
}
