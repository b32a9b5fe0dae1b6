//! How much memory a load takes, estimated from the model's file alone: weights, KV cache, working buffers. Pure. Shown by
//! `spillway doctor` and `models show`; what really fits is llama.cpp's to find out, in the engine.

use crate::gguf::{Gguf, KvType};
use serde::Serialize;

/// Cells that the engine adds to the pool for its canary.
pub const CANARY_CELLS: u32 = 256;
/// llama.cpp rounds a pool up to this many cells.
const CELL_BLOCK: u32 = 256;
/// Bytes of a number in a working buffer.
const F32: u64 = 4;

/// What decides how much memory a load takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// The pool, as configured.
    pub context_tokens: u32,
    pub parallel: u32,
    pub ubatch_tokens: u32,
    pub kv_type_k: KvType,
    pub kv_type_v: KvType,
    /// Layers on the GPU, the output layer included; 0 = all on the CPU.
    pub gpu_layers: u32,
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
    pub kv_bytes_per_token: u64,
    /// The pool after it was clamped to what the model was trained for, with the canary's cells.
    pub pool_tokens: u32,
    pub layers: u32,
    pub layers_on_gpu: u32,
}

impl Estimate {
    /// Bytes on whatever device computes.
    pub const fn on_device(&self) -> u64 {
        if self.layers_on_gpu > 0 { self.gpu.total() } else { self.host.total() }
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
    let compute = compute(model, shape, pool_tokens);
    // Tied embeddings are the output layer too: there is a copy of them where that is.
    let output = if model.tensors.output > model.tensors.embedding / 2 { 0 } else { model.tensors.embedding };
    let output = model.tensors.output.saturating_add(if on_gpu > 0 { output } else { 0 });
    let (output_host, output_gpu) = if on_gpu > 0 { (0, output) } else { (output, 0) };
    let (compute_host, compute_gpu) =
        if on_gpu > 0 { (inputs(model, shape, pool_tokens), compute) } else { (compute, 0) };
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
        kv_bytes_per_token,
        pool_tokens,
        layers,
        layers_on_gpu: on_gpu,
    }
}

fn pool(model: &Gguf, shape: &Shape) -> u32 {
    let trained = model.context_length.unwrap_or(u32::MAX).max(1);
    let pool = shape.context_tokens.min(trained.saturating_mul(shape.parallel)).saturating_add(CANARY_CELLS);
    pool.checked_next_multiple_of(CELL_BLOCK).unwrap_or(u32::MAX)
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

/// What enters a step: embeddings and the attention mask.
fn inputs(model: &Gguf, shape: &Shape, pool_tokens: u32) -> u64 {
    let tokens = u64::from(shape.ubatch_tokens.min(pool_tokens));
    let row = u64::from(model.embedding_length.unwrap_or(0)).saturating_add(u64::from(pool_tokens));
    tokens.saturating_mul(row).saturating_mul(F32)
}

/// The widest moment of a step: a feed-forward layer, or the logits, of a whole micro-batch. llama.cpp reserves logits for
/// every token of it, which with a large vocabulary is most of the buffer.
fn compute(model: &Gguf, shape: &Shape, pool_tokens: u32) -> u64 {
    let tokens = u64::from(shape.ubatch_tokens.min(pool_tokens));
    let embedding = u64::from(model.embedding_length.unwrap_or(0));
    let wide = u64::from(model.feed_forward_length.unwrap_or(0));
    let layer = tokens.saturating_mul(embedding.saturating_mul(4).saturating_add(wide.saturating_mul(2)));
    let logits = u64::from(model.vocabulary.unwrap_or(0)).saturating_mul(tokens);
    layer.max(logits).saturating_mul(F32).saturating_add(inputs(model, shape, pool_tokens))
}

/// Whether a line of an engine's log says that memory ran out. llama.cpp tells its reasons nowhere else.
pub fn tells_of_no_memory(line: &str) -> bool {
    const SIGNS: [&str; 6] = [
        "out of memory",
        "failed to allocate",
        "unable to allocate",
        "cannot allocate memory",
        "outofdevicememory",
        "std::bad_alloc",
    ];
    let line = line.to_ascii_lowercase();
    // A lock that is refused costs nothing but the lock.
    !line.contains("mlock") && SIGNS.iter().any(|sign| line.contains(sign))
}
