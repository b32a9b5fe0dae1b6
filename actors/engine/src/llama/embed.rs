//! The context for vectors: beside the one that writes text, with cells, sequences and an output of its own, so that
//! neither sees what the other holds. Made when the first vector is asked for, because it costs memory.
//!
//! A model whose tokens look back only is computed in portions, and its tokens' numbers are pooled here. One whose tokens
//! look at the whole text gets it in one batch and is pooled by llama.cpp, which knows what such models add to it.

use crate::{
    backend::{DecodeFault, EmbedRun, EmbedderFault, Sequence, Token},
    embed::{EmbedLimits, Pool, Pooling},
    job::failure,
    memory,
};
use llama_cpp_2::{
    context::{
        LlamaContext,
        params::{LlamaContextParams, LlamaPoolingType},
    },
    llama_backend::LlamaBackend,
    llama_batch::LlamaBatch,
    model::LlamaModel,
    token::LlamaToken,
};
use spillway_actors::{
    gguf::LOOK_BOTH_WAYS,
    gpu::{
        frame::{EmbeddingInfo, JobFailureKind},
        memory::EMBEDDING_SEQUENCES,
    },
};
use std::{collections::HashMap, num::NonZeroU32};

/// Short texts of one batch, and one for the text that comes in portions.
const SEQUENCES: u32 = EMBEDDING_SEQUENCES;
/// What a model file says about vectors, and what the configuration allows.
#[derive(Debug, Clone, Copy)]
pub(super) struct EmbedPlan {
    pooling: Pooling,
    whole: bool,
    dimensions: usize,
    max_tokens: u32,
    batch_tokens: u32,
    /// Tests: the GPU that the CPU plays has no room for it.
    no_room: bool,
}

impl EmbedPlan {
    /// `None`: the configuration wants no vectors, or the model ranks texts instead.
    pub(super) fn new(model: &LlamaModel, max_tokens: Option<u32>, batch_tokens: u32, no_room: bool) -> Option<Self> {
        let arch = model.meta_val_str("general.architecture").unwrap_or_default();
        let number = model.meta_val_str(&format!("{arch}.pooling_type")).ok().and_then(|text| text.trim().parse().ok());
        let whole = !writes_text(model);
        let max_tokens = max_tokens?.min(model.n_ctx_train().max(1));
        let batch_tokens = if whole { max_tokens } else { batch_tokens };
        let dimensions = usize::try_from(model.n_embd_out()).ok().filter(|dimensions| *dimensions > 0)?;
        Some(Self { pooling: Pooling::from_gguf(number).ok()?, whole, dimensions, max_tokens, batch_tokens, no_room })
    }

    pub(super) fn info(&self) -> EmbeddingInfo {
        EmbeddingInfo { dimensions: u32::try_from(self.dimensions).unwrap_or(u32::MAX), max_tokens: self.max_tokens }
    }

    /// `like`: threads and devices of the other context.
    fn params(&self, like: LlamaContextParams) -> LlamaContextParams {
        let cells = if self.whole { self.max_tokens } else { self.max_tokens.saturating_add(self.batch_tokens) };
        let pooling = match (self.whole, self.pooling) {
            (false, _) => LlamaPoolingType::None,
            (true, Pooling::Mean) => LlamaPoolingType::Mean,
            (true, Pooling::First) => LlamaPoolingType::Cls,
            (true, Pooling::Last) => LlamaPoolingType::Last,
        };
        // llama.cpp aborts when it reserves a mean over a batch that its sequences do not divide.
        let batch = self.batch_tokens.next_multiple_of(SEQUENCES);
        like.with_n_ctx(NonZeroU32::new(cells))
            .with_n_batch(batch)
            .with_n_ubatch(batch)
            .with_n_seq_max(SEQUENCES)
            .with_kv_unified(true)
            .with_embeddings(true)
            .with_pooling_type(pooling)
    }
}

/// Whether a model's tokens look back only, so that it can go on from them.
pub(super) fn writes_text(model: &LlamaModel) -> bool {
    let arch = model.meta_val_str("general.architecture").unwrap_or_default();
    let causal = model.meta_val_str(&format!("{arch}.attention.causal"));
    !LOOK_BOTH_WAYS.contains(&arch.as_str()) && causal.map_or(true, |causal| causal.trim() != "false")
}

pub(super) struct Embedder {
    context: LlamaContext<'static>,
    batch: LlamaBatch<'static>,
    plan: EmbedPlan,
    vocab: Token,
    /// Of texts that are computed in portions.
    pools: HashMap<Sequence, Pool>,
}

impl Embedder {
    pub(super) fn new(
        model: &'static LlamaModel,
        library: &LlamaBackend,
        plan: EmbedPlan,
        like: LlamaContextParams,
    ) -> Result<Self, EmbedderFault> {
        let no_memory = || EmbedderFault::OutOfMemory("no memory for the context that embeddings need".into());
        if plan.no_room {
            return Err(no_memory());
        }
        let context = model.new_context(library, plan.params(like)).map_err(|error| {
            if memory::ran_out() {
                return no_memory();
            }
            EmbedderFault::Refused(failure(JobFailureKind::Decode, format!("no context for embeddings: {error}")))
        })?;
        let room = usize::try_from(plan.batch_tokens.min(context.n_batch())).unwrap_or(0);
        Ok(Self { context, batch: LlamaBatch::new(room, 1), plan, vocab: model.n_vocab(), pools: HashMap::new() })
    }

    pub(super) fn limits(&self) -> EmbedLimits {
        let as_usize = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        EmbedLimits {
            batch_tokens: as_usize(self.plan.batch_tokens.min(self.context.n_batch())),
            sequences: SEQUENCES,
            max_tokens: as_usize(self.plan.max_tokens),
            whole: self.plan.whole,
        }
    }

    pub(super) fn embed(&mut self, runs: &[EmbedRun<'_>]) -> Result<Vec<Option<Vec<f32>>>, DecodeFault> {
        let computed = self.fill(runs).and_then(|()| {
            self.context.decode(&mut self.batch).map_err(|error| match error.to_string() {
                why if memory::ran_out() => DecodeFault::OutOfMemory(why),
                why => DecodeFault::Failed(why),
            })?;
            if self.plan.whole { self.read_texts(runs) } else { self.read_tokens(runs) }
        });
        for run in runs.iter().filter(|run| run.last || computed.is_err()) {
            self.forget(run.sequence);
        }
        computed
    }

    pub(super) fn forget(&mut self, sequence: Sequence) {
        self.pools.remove(&sequence);
        if sequence < SEQUENCES {
            // The whole sequence: only removing a part of one can be refused.
            let _ = self.context.clear_kv_cache_seq(Some(sequence), None, None);
        }
    }

    /// Refuses what would make llama.cpp abort.
    fn fill(&mut self, runs: &[EmbedRun<'_>]) -> Result<(), DecodeFault> {
        let refuse = |what: &str| Err(DecodeFault::Failed(format!("the engine built a bad batch: {what}")));
        let tokens: usize = runs.iter().map(|run| run.tokens.len()).sum();
        if tokens == 0 || tokens > self.limits().batch_tokens {
            return refuse("length");
        }
        self.batch.clear();
        for run in runs {
            let Some(sequence) = i32::try_from(run.sequence).ok().filter(|_| run.sequence < SEQUENCES) else {
                return refuse("sequence");
            };
            for (position, &token) in (run.start..).zip(run.tokens) {
                if !(0..self.vocab).contains(&token) {
                    return refuse("token");
                }
                let Ok(position) = i32::try_from(position) else { return refuse("position") };
                if self.batch.add(LlamaToken(token), position, &[sequence], true).is_err() {
                    return refuse("room");
                }
            }
        }
        Ok(())
    }

    /// Texts that were pooled by llama.cpp.
    fn read_texts(&self, runs: &[EmbedRun<'_>]) -> Result<Vec<Option<Vec<f32>>>, DecodeFault> {
        let vector = |run: &EmbedRun<'_>| {
            let sequence = i32::try_from(run.sequence).map_err(|_| nothing())?;
            let values = self.context.embeddings_seq_ith(sequence).map_err(|_| nothing())?;
            let mut pool = Pool::new(Pooling::Last, self.plan.dimensions);
            pool.add(values);
            Ok(pool.vector())
        };
        runs.iter().map(vector).collect()
    }

    fn read_tokens(&mut self, runs: &[EmbedRun<'_>]) -> Result<Vec<Option<Vec<f32>>>, DecodeFault> {
        let mut row = 0;
        let mut vectors = Vec::with_capacity(runs.len());
        for run in runs {
            let mut pool = match self.pools.remove(&run.sequence) {
                Some(pool) if run.start > 0 => pool,
                _ => Pool::new(self.plan.pooling, self.plan.dimensions),
            };
            for _ in run.tokens {
                pool.add(self.context.embeddings_ith(row).map_err(|_| nothing())?);
                row += 1;
            }
            if run.last {
                vectors.push(pool.vector());
            } else {
                self.pools.insert(run.sequence, pool);
                vectors.push(None);
            }
        }
        Ok(vectors)
    }
}

fn nothing() -> DecodeFault {
    DecodeFault::Failed("llama.cpp gave no numbers".into())
}
