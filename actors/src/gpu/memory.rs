//! How much memory a load takes, estimated from the model's file alone: weights, KV cache, working buffers. Pure. Shown by
//! `spillway doctor` and `models show`; what really fits is llama.cpp's to find out, in the engine.

use crate::gguf::{Gguf, KvType};
use serde::Serialize;

/// Cells that the engine adds to the pool for its canary.
pub const CANARY_CELLS: u32 = 256;
/// llama.cpp rounds a pool up to this many cells.
const CELL_BLOCK: u32 = 256;
/// With fewer jobs at once, the canary's own cells would be more than a quarter of theirs.
const LEAST_APART: u32 = 4;
/// Bytes of a number in a working buffer.
const F32: u64 = 4;
/// Most tokens of one decode, unless configured.
const BATCH_TOKENS: u32 = 512;
/// On a CPU a decode of 512 prompt tokens takes seconds, in which nothing is cancelled and no canary answered.
const BATCH_TOKENS_CPU: u32 = 256;
/// Texts that the context for vectors holds at once.
pub const EMBEDDING_SEQUENCES: u32 = 32;

/// Most tokens of one decode. Room for every sequence at once, whatever was asked for.
pub fn batch_tokens(configured: Option<u32>, on_gpu: bool, parallel: u32) -> u32 {
    let usual = if on_gpu { BATCH_TOKENS } else { BATCH_TOKENS_CPU };
    configured.unwrap_or(usual).max(parallel.saturating_add(1))
}

/// What decides how much memory a load takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// The pool, as configured.
    pub context_tokens: u32,
    pub parallel: u32,
    /// Most tokens of one request, as configured; `None` = the whole pool.
    pub max_request_tokens: Option<u32>,
    /// Sequences get cells of their own only where that takes no more memory.
    pub frugal: bool,
    /// Most tokens of one decode; `None` = by device.
    pub batch_tokens: Option<u32>,
    pub ubatch_tokens: u32,
    /// Most tokens of one text that becomes a vector; `None` = none does.
    pub embedding_tokens: Option<u32>,
    pub kv_type_k: KvType,
    pub kv_type_v: KvType,
    /// Layers on the GPU, the output layer included; 0 = all on the CPU.
    pub gpu_layers: u32,
}

impl Shape {
    /// Tokens that are computed at once on a device of this kind.
    pub fn at_once(&self, on_gpu: bool) -> u32 {
        self.ubatch_tokens.min(batch_tokens(self.batch_tokens, on_gpu, self.parallel)).max(1)
    }
}

/// Bytes on the device that holds the layers, and beside it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    pub weights: u64,
    pub kv: u64,
    pub compute: u64,
}

impl Share {
    pub const fn total(self) -> u64 {
        self.weights.saturating_add(self.kv).saturating_add(self.compute)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Estimate {
    pub gpu: Share,
    pub host: Share,
    /// What the first request for vectors takes beside all that, where the layers are.
    pub embeddings: u64,
    pub kv_bytes_per_token: u64,
    /// The pool after it was clamped to what the model was trained for, with the canary's cells.
    pub pool_tokens: u32,
    pub layers: u32,
    pub layers_on_gpu: u32,
}

impl Estimate {
    /// Bytes on whatever device computes, vectors included.
    pub const fn on_device(&self) -> u64 {
        let loaded = if self.layers_on_gpu > 0 { self.gpu.total() } else { self.host.total() };
        loaded.saturating_add(self.embeddings)
    }
}

/// # Panics
/// Never: all sums saturate.
pub fn estimate(model: &Gguf, shape: &Shape) -> Estimate {
    let layers = model.layers.unwrap_or(0);
    let on_gpu = shape.gpu_layers.min(model.offloadable_layers());
    let pool_tokens = pool(model, shape);
    let per_layer: Vec<u64> = (0..layers).map(|layer| kv_of_layer(model, shape, layer)).collect();
    let kv_bytes_per_token = per_layer.iter().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
    // llama.cpp moves layers from the last one on; the output layer goes first.
    let whole = usize::try_from(on_gpu.saturating_sub(1)).unwrap_or(usize::MAX);
    let kept = per_layer.len().saturating_sub(whole);
    let sum = |bytes: &[u64]| bytes.iter().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
    let split = |bytes: &[u64]| (sum(bytes.get(..kept).unwrap_or(bytes)), sum(bytes.get(kept..).unwrap_or_default()));
    let (weights_host, weights_gpu) = split(&model.tensors.layers);
    let (kv_host, kv_gpu) = split(&per_layer);
    let pool = u64::from(pool_tokens);
    let tokens = shape.at_once(on_gpu > 0);
    let compute = compute(model, tokens, pool_tokens, true);
    // Tied embeddings are the output layer too: there is a copy of them where that is.
    let output = if model.tensors.output > model.tensors.embedding / 2 { 0 } else { model.tensors.embedding };
    let output = model.tensors.output.saturating_add(if on_gpu > 0 { output } else { 0 });
    let (output_host, output_gpu) = if on_gpu > 0 { (0, output) } else { (output, 0) };
    let (compute_host, compute_gpu) =
        if on_gpu > 0 { (inputs(model, tokens, pool_tokens), compute) } else { (compute, 0) };
    Estimate {
        gpu: Share {
            weights: weights_gpu.saturating_add(output_gpu),
            kv: kv_gpu.saturating_mul(pool),
            compute: compute_gpu,
        },
        host: Share {
            weights: weights_host.saturating_add(output_host).saturating_add(model.tensors.embedding),
            kv: kv_host.saturating_mul(pool),
            compute: compute_host,
        },
        embeddings: embeddings(model, shape, on_gpu > 0, kv_bytes_per_token),
        kv_bytes_per_token,
        pool_tokens,
        layers,
        layers_on_gpu: on_gpu,
    }
}

fn pool(model: &Gguf, shape: &Shape) -> u32 {
    let trained = model.context_length.unwrap_or(u32::MAX);
    let Shape { context_tokens, parallel, max_request_tokens, frugal, .. } = *shape;
    let cells = Cells::divided(context_tokens, parallel, max_request_tokens, trained, frugal);
    cells.in_all().checked_next_multiple_of(CELL_BLOCK).unwrap_or(u32::MAX)
}

/// No request uses more than the model was trained for.
fn pool_tokens(context_tokens: u32, parallel: u32, trained: u32) -> u32 {
    context_tokens.min(trained.max(1).saturating_mul(parallel))
}

/// How the cells of a context are divided among its sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cells {
    /// One pool of so many for all jobs: a request may be longer than its part. Attention goes over all of them for every
    /// token.
    Pooled(u32),
    /// So many for each job's sequence, where the pool holds that many requests of full length anyway: attention goes over
    /// the sequence's own. The canary's sequence has as many.
    Apart { each: u32, sequences: u32 },
}

impl Cells {
    /// `trained`: the longest text that the model knows.
    pub fn pooled(context_tokens: u32, parallel: u32, trained: u32) -> Self {
        Self::Pooled(pool_tokens(context_tokens, parallel, trained))
    }

    /// Apart if that takes nothing from any request, and, if `frugal`, no more memory.
    pub fn divided(
        context_tokens: u32,
        parallel: u32,
        max_request_tokens: Option<u32>,
        trained: u32,
        frugal: bool,
    ) -> Self {
        let pool = pool_tokens(context_tokens, parallel, trained);
        let longest = max_request_tokens.unwrap_or(u32::MAX).min(trained.max(1)).min(pool).max(CANARY_CELLS);
        let enough = parallel >= if frugal { 2 } else { LEAST_APART };
        match longest.checked_mul(parallel) {
            Some(all) if all <= pool && enough => {
                let each = longest.checked_next_multiple_of(CELL_BLOCK).unwrap_or(longest);
                let apart = Self::Apart { each, sequences: parallel.saturating_add(1) };
                if frugal && apart.in_all() > Self::Pooled(pool).in_all() { Self::Pooled(pool) } else { apart }
            }
            _ => Self::Pooled(pool),
        }
    }

    /// With the canary's.
    pub const fn in_all(self) -> u32 {
        match self {
            Self::Pooled(pool) => pool.saturating_add(CANARY_CELLS),
            Self::Apart { each, sequences } => each.saturating_mul(sequences),
        }
    }
}

/// One number for all layers, or one for each.
fn of_layer(numbers: &[u32], layer: u32) -> Option<u32> {
    match numbers {
        [one] => Some(*one),
        many => many.get(usize::try_from(layer).ok()?).copied(),
    }
}

fn heads(model: &Gguf, layer: u32) -> u32 {
    of_layer(&model.heads, layer).unwrap_or(1).max(1)
}

/// Numbers of one head's key and value.
pub(crate) fn head_lengths(model: &Gguf) -> (u32, u32) {
    let even = model.embedding_length.unwrap_or(0) / heads(model, 0);
    (model.key_length.unwrap_or(even), model.value_length.unwrap_or(even))
}

/// Layers with a sliding window keep fewer cells than this says: an upper bound.
fn kv_of_layer(model: &Gguf, shape: &Shape, layer: u32) -> u64 {
    let kept = of_layer(&model.heads_kv, layer).unwrap_or_else(|| heads(model, layer));
    let (key, value) = head_lengths(model);
    let row = |length: u32| u64::from(kept).saturating_mul(u64::from(length));
    shape.kv_type_k.row_bytes(row(key)).saturating_add(shape.kv_type_v.row_bytes(row(value)))
}

/// The context for vectors: cells for one long text and a batch of others, the buffers of a batch, and a row of output for
/// each of its tokens. A model that reads a text as a whole needs no cells, but a batch as long as the longest text.
fn embeddings(model: &Gguf, shape: &Shape, on_gpu: bool, kv_bytes_per_token: u64) -> u64 {
    let trained = model.context_length.unwrap_or(u32::MAX).max(1);
    let Some(longest) = shape.embedding_tokens.map(|tokens| tokens.min(trained)) else { return 0 };
    let whole = model.reads_whole_texts();
    let batch = if whole { longest } else { shape.at_once(on_gpu) };
    let batch = batch.checked_next_multiple_of(EMBEDDING_SEQUENCES).unwrap_or(batch);
    let cells = if whole { longest } else { longest.saturating_add(batch) };
    let cells = cells.checked_next_multiple_of(CELL_BLOCK).unwrap_or(cells);
    let kv = if whole { 0 } else { kv_bytes_per_token.saturating_mul(u64::from(cells)) };
    let row = if whole { 0 } else { u64::from(model.vocabulary.unwrap_or(0)) };
    let row = row.saturating_add(u64::from(model.embedding_length.unwrap_or(0)));
    let output = u64::from(batch).saturating_mul(row).saturating_mul(F32);
    kv.saturating_add(output).saturating_add(compute(model, batch, cells, !whole))
}

/// What enters a step: embeddings and the attention mask.
fn inputs(model: &Gguf, tokens: u32, pool_tokens: u32) -> u64 {
    let row = u64::from(model.embedding_length.unwrap_or(0)).saturating_add(u64::from(pool_tokens));
    u64::from(tokens.min(pool_tokens)).saturating_mul(row).saturating_mul(F32)
}

/// The widest moment of a step: a feed-forward layer, or the logits, of a whole micro-batch. llama.cpp reserves logits for
/// every token of it, which with a large vocabulary is most of the buffer.
fn compute(model: &Gguf, tokens: u32, pool_tokens: u32, writes: bool) -> u64 {
    let at_once = u64::from(tokens.min(pool_tokens));
    let embedding = u64::from(model.embedding_length.unwrap_or(0));
    let wide = u64::from(model.feed_forward_length.unwrap_or(0));
    let layer = at_once.saturating_mul(embedding.saturating_mul(4).saturating_add(wide.saturating_mul(2)));
    let logits = if writes { u64::from(model.vocabulary.unwrap_or(0)).saturating_mul(at_once) } else { 0 };
    layer.max(logits).saturating_mul(F32).saturating_add(inputs(model, tokens, pool_tokens))
}

/// Whether a line of an engine's log says that memory ran out. llama.cpp tells its reasons nowhere else.
pub fn tells_of_no_memory(line: &str) -> bool {
    const SIGNS: [&str; 7] = [
        "out of memory",
        "failed to allocate",
        "unable to allocate",
        "cannot allocate memory",
        "outofdevicememory",
        "std::bad_alloc",
        // What Rust says before it aborts.
        "memory allocation of",
    ];
    let line = line.to_ascii_lowercase();
    // A lock that is refused costs nothing but the lock.
    !line.contains("mlock") && SIGNS.iter().any(|sign| line.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_way_of_saying_that_memory_ran_out_is_understood() {
        for line in [
            "terminate called after throwing an instance of 'std::bad_alloc'",
            "memory allocation of 4096 bytes failed",
        ] {
            assert!(tells_of_no_memory(line), "{line}");
        }
        assert!(!tells_of_no_memory("failed to mlock: cannot allocate memory"));
    }

    #[test]
    fn sequences_get_cells_of_their_own_where_no_request_could_use_more() {
        let apart = |each, sequences| Cells::Apart { each, sequences };
        assert_eq!(Cells::divided(65_536, 32, Some(2048), 8192, false), apart(2048, 33));
        assert_eq!(Cells::divided(65_536, 8, None, 8192, false), apart(8192, 9), "all that the model was trained for");
        assert_eq!(Cells::divided(8192, 4, Some(1000), 8192, false), apart(1024, 5));
        assert_eq!(Cells::divided(8192, 8, None, 8192, false), Cells::Pooled(8192), "one request may use all of it");
        assert_eq!(
            Cells::divided(8192, 2, Some(1024), 8192, false),
            Cells::Pooled(8192),
            "the canary's would be half as many"
        );
        assert_eq!(Cells::divided(8192, 4, Some(4096), 2048, false), apart(2048, 5));
    }

    proptest! {
        #[test]
        fn a_request_of_full_length_always_fits_and_a_quarter_more_memory_is_the_most(
            context in 256_u32..1_000_000, parallel in 1_u32..256, longest in 16_u32..100_000, trained in 256_u32..200_000,
        ) {
            let pooled = Cells::pooled(context, parallel, trained).in_all();
            match Cells::divided(context, parallel, Some(longest), trained, false) {
                Cells::Pooled(pool) => prop_assert_eq!(pool + CANARY_CELLS, pooled),
                Cells::Apart { each, sequences } => {
                    prop_assert!(each >= longest.min(trained) && sequences == parallel + 1);
                    let rounding = CELL_BLOCK * sequences;
                    prop_assert!(each * sequences <= pooled + pooled / LEAST_APART + rounding);
                }
            }
        }
    }
}
