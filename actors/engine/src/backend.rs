//! What the engine loop needs of a model, so that the loop can be tested without one.
//!
//! An implementation owns model and context and is used by one thread. It guards the library below it against the
//! calls that would abort the process; the loop above never has to know them.

use crate::sampling::SamplingPlan;
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
    /// Most prompt tokens of one decode that also carries decoding sequences: bounds how long a long prompt delays them.
    pub mixed_prompt_tokens: usize,
    /// Sequences for jobs; one more exists for the canary.
    pub parallel: u32,
    /// KV cells shared by the jobs.
    pub pool_cells: usize,
    /// KV cells set aside for the canary, beside the pool: a full pool never stops it.
    pub canary_cells: usize,
    /// Most tokens (prompt + output) of one job; at most `pool_cells`.
    pub max_request_tokens: usize,
    /// Token ids are in `0..vocab`.
    pub vocab: Token,
}

/// One token of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchToken {
    pub token: Token,
    /// Index in its sequence.
    pub position: usize,
    pub sequence: Sequence,
    /// Whether a token will be sampled from what comes out here.
    pub wants_logits: bool,
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
}

pub trait Backend {
    /// Sampling state of one job: penalties, random numbers.
    type Sampler;

    fn limits(&self) -> Limits;
    /// Renders and tokenises. The failure's text never contains prompt text.
    fn tokenize(&mut self, prompt: &Prompt) -> Result<Vec<Token>, JobFailure>;
    /// Bytes of one token's text; empty for control tokens.
    fn piece(&self, token: Token) -> Vec<u8>;
    /// Whether this token ends a generation.
    fn is_end(&self, token: Token) -> bool;
    /// A sampler in the state it has after `replay`.
    fn sampler(&mut self, plan: &SamplingPlan, max_tokens: usize, replay: &[Token]) -> Self::Sampler;
    fn decode(&mut self, batch: &[BatchToken]) -> Result<(), DecodeFault>;
    /// Samples from row `row` of the last batch, which asked for logits. `None` when they are unusable.
    fn sample(&mut self, sampler: &mut Self::Sampler, row: usize) -> Option<Token>;
    /// Frees all KV cells of a sequence.
    fn clear(&mut self, sequence: Sequence);
}
