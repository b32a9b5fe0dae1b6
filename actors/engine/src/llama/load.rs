//! From a [`LoadSpec`] to a model in memory, or the reason why not.
//!
//! Refuses what would make llama.cpp abort before it is called. Does not step down the ladder: the gateway decides what to
//! try next.

use super::{
    Llama, device,
    embed::{self, EmbedPlan},
    fim_tokens, fit, markers,
    params::{context_params, model_params},
};
use crate::{
    backend::Limits,
    devices::Device,
    gguf, memory,
    session::Progress,
    template::{ChatTemplate, fence::Fence, traits},
    threads::{Crew, physical_cores},
};
use llama_cpp_2::{
    llama_backend::LlamaBackend,
    llama_batch::LlamaBatch,
    model::LlamaModel,
    token::{LlamaToken, data_array::LlamaTokenDataArray},
};
use spillway_actors::{
    gguf::Gguf,
    gpu::{
        frame::{ChatTraits, LoadFailure, LoadFailureKind, LoadSpec, LoadedInfo},
        memory::{self as memory_plan, CANARY_CELLS, Cells, Estimate, Shape, estimate},
    },
};
use std::{path::Path, time::Instant};

/// On a CPU the first batch is short enough that others can join before the first prompt is computed.
const FIRST_PROMPT_TOKENS_CPU: usize = 128;
/// So many of a model's weights cost a token twenty times what it costs to look at a cell that it may not see.
const PARAMETERS_PER_LOOK: u64 = 400;
/// llama.cpp's own limit is 256 sequences; one is the canary's.
const MAX_PARALLEL: u32 = 255;

/// Most tokens of one decode.
pub(super) fn batch_tokens(device: &Device, spec: &LoadSpec) -> u32 {
    memory_plan::batch_tokens(spec.batch_tokens, device.is_gpu(), spec.parallel)
}

/// Layers that this load puts onto a GPU if all goes well.
fn wanted_layers(spec: &LoadSpec, device: &Device, file: &Gguf) -> u32 {
    let all = file.offloadable_layers();
    if device.counts_as_gpu() { spec.gpu_layers.unwrap_or(all).min(all) } else { 0 }
}

/// Loads the model and makes its context.
pub fn load(spec: &LoadSpec, progress: Progress) -> Result<(Llama, LoadedInfo), LoadFailure> {
    #[expect(clippy::disallowed_methods, reason = "measures a real load; this process has no tokio")]
    let started = Instant::now();
    let file = gguf::check(Path::new(&spec.model_path))?;
    if !(1..=MAX_PARALLEL).contains(&spec.parallel) || spec.context_tokens == 0 {
        return Err(other(format!("parallel must be 1 to {MAX_PARALLEL} and context_tokens above 0")));
    }
    device::load_plugins();
    let library = LlamaBackend::init().map_err(|error| other(error.to_string()))?;
    let device = device::choose(spec)?;
    let trying = Trying { spec, device: &device, layers: wanted_layers(spec, &device, &file) };
    trying.refuse_the_impossible(&file)?;
    let trained = file.context_length.unwrap_or(u32::MAX).max(1);
    let (model, layers) = trying.model(&library, divided(spec, trained, true), progress)?;
    let model: &'static LlamaModel = Box::leak(Box::new(model));
    let trying = Trying { layers, ..trying };
    let cells = divided(spec, model.n_ctx_train(), keeps_its_past(model));
    let params = context_params(spec, &device, cells);
    let context = model
        .new_context(&library, params.clone())
        .map_err(|_| trying.failed(&format!("a context of {} tokens", cells.in_all())))?;
    // A lock that was refused is no want of memory.
    memory::ran_out();
    let limits = limits(spec, &device, model, cells, context.n_batch());
    let batch_of_vectors = batch_tokens(&device, spec).min(spec.ubatch_tokens).max(1);
    let no_room = trying.lacks_room_for_vectors(&file);
    let embed_plan = EmbedPlan::new(model, spec.embedding_tokens, batch_of_vectors, no_room);
    let mut info = LoadedInfo {
        generates: embed::writes_text(model),
        embeddings: embed_plan.map(|plan| plan.info()),
        ..loaded_info(&trying, model, &limits, started)
    };
    let (bos, eos) = (special_text(model, model.vocab().bos()), special_text(model, model.vocab().eos()));
    let template = ChatTemplate::new(file_template(model).as_deref(), &bos, &eos)
        .map(|template| template.fenced(Fence::new(markers::control_words(model))));
    info.chat = template.as_ref().map(traits::of).unwrap_or_default();
    let held = trying.estimate(&file).host;
    let llama = Llama {
        context,
        embedder: None,
        embed_plan,
        params,
        crew: adapts(spec, &device).then(|| Crew::new(physical_cores())),
        context_bytes: held.kv.saturating_add(held.compute),
        model,
        batch: LlamaBatch::new(limits.batch_tokens, 1),
        rows: Vec::with_capacity(limits.batch_tokens),
        limits,
        template,
        bos,
        markers: markers::of(model),
        candidates: LlamaTokenDataArray::new(Vec::new(), false),
        library,
    };
    Ok((llama, info))
}

/// Whether the number of threads may change: where the work is the CPU's, nobody chose a number, and no text was promised
/// to be the same every time (attention is summed up in as many parts as there are threads).
fn adapts(spec: &LoadSpec, device: &Device) -> bool {
    spec.threads.is_none() && spec.parallel > 1 && !device.is_gpu()
}

/// One load under way.
#[derive(Clone, Copy)]
pub(super) struct Trying<'a> {
    pub(super) spec: &'a LoadSpec,
    pub(super) device: &'a Device,
    /// On a GPU.
    layers: u32,
}

impl Trying<'_> {
    pub(super) const fn layers(&self) -> u32 {
        self.layers
    }

    /// The weights, and how many layers of them are on a GPU.
    fn model(
        &self,
        library: &LlamaBackend,
        cells: Cells,
        progress: Progress,
    ) -> Result<(LlamaModel, u32), LoadFailure> {
        let (params, layers) = match (self.device.is_gpu(), self.spec.gpu_layers) {
            (true, None) => fit::as_many_as_fit(self, cells)?,
            _ => (model_params(self.spec, self.device)?, self.layers),
        };
        let params = params.with_progress_callback(progress);
        let loaded = LlamaModel::load_from_file(library, &self.spec.model_path, &params);
        Ok((loaded.map_err(|_| Trying { layers, ..*self }.failed("its weights"))?, layers))
    }

    /// What no machine like this one could hold is refused before the attempt, which the kernel might end by a kill.
    fn refuse_the_impossible(&self, file: &Gguf) -> Result<(), LoadFailure> {
        let estimate = self.estimate(file);
        let (needed, limit) = match self.device {
            Device::Simulated { bytes } => (estimate.gpu.total(), Some(*bytes)),
            // The weights are mapped: they need not be in memory all at once.
            _ => (estimate.host.kv.saturating_add(estimate.host.compute), system_memory()),
        };
        match limit {
            Some(limit) if needed > limit => {
                Err(self.out_of_memory(&format!("{needed} bytes, of which there are {limit}")))
            }
            _ => Ok(()),
        }
    }

    fn estimate(&self, file: &Gguf) -> Estimate {
        let spec = self.spec;
        let shape = Shape {
            context_tokens: spec.context_tokens,
            parallel: spec.parallel,
            max_request_tokens: spec.max_request_tokens,
            frugal: spec.frugal,
            batch_tokens: spec.batch_tokens,
            ubatch_tokens: spec.ubatch_tokens,
            embedding_tokens: spec.embedding_tokens,
            kv_type_k: spec.kv_type_k,
            kv_type_v: spec.kv_type_v,
            gpu_layers: self.layers,
        };
        estimate(file, &shape)
    }

    /// Only for a simulated GPU: a real one says so itself when the first vector is asked for.
    fn lacks_room_for_vectors(&self, file: &Gguf) -> bool {
        let estimate = self.estimate(file);
        matches!(self.device, Device::Simulated { bytes }
            if estimate.gpu.total().saturating_add(estimate.embeddings) > *bytes)
    }

    pub(super) fn out_of_memory(&self, what: &str) -> LoadFailure {
        let message = format!("no memory for {what} ({}, {})", self.spec.model_path, self.device.name());
        LoadFailure { kind: LoadFailureKind::OutOfMemory, message, gpu_layers: self.layers }
    }

    /// llama.cpp says only "no"; why stands in its log.
    fn failed(&self, what: &str) -> LoadFailure {
        if memory::ran_out() {
            return self.out_of_memory(what);
        }
        let path = &self.spec.model_path;
        let (kind, reason) = if self.spec.overrides.is_empty() {
            (
                LoadFailureKind::Corrupt,
                "it is damaged, of a kind that this llama.cpp does not know, or does not take these settings",
            )
        } else {
            (LoadFailureKind::Other, "it may not take the configured overrides")
        };
        let message = format!("{path}: llama.cpp refuses {what}: {reason}; its log (SPILLWAY_LOG=debug) says more");
        LoadFailure { kind, message, gpu_layers: self.layers }
    }
}

/// All memory of this machine, in bytes.
fn system_memory() -> Option<u64> {
    memory::kib_line(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

/// Cells that cannot be cut and copied stay in one pool.
fn divided(spec: &LoadSpec, trained: u32, can_be_copied: bool) -> Cells {
    let LoadSpec { context_tokens, parallel, max_request_tokens, frugal, .. } = *spec;
    if can_be_copied {
        Cells::divided(context_tokens, parallel, max_request_tokens, trained, frugal)
    } else {
        Cells::pooled(context_tokens, parallel, trained)
    }
}

fn limits(spec: &LoadSpec, device: &Device, model: &LlamaModel, cells: Cells, batch: u32) -> Limits {
    let trained = model.n_ctx_train().max(1);
    let (pool, apart) = match cells {
        Cells::Pooled(pool) => (pool, false),
        Cells::Apart { each, .. } => (each.saturating_mul(spec.parallel), true),
    };
    let longest = spec.max_request_tokens.unwrap_or(u32::MAX).min(trained).min(pool);
    let keeps_all = apart || device.is_gpu();
    let batch_tokens = as_usize(batch.min(batch_tokens(device, spec)));
    // Alone on a sequence of its own, a job's batches must be the same every time.
    let waits = !device.is_gpu() && spec.parallel > 1;
    let first_prompt_tokens = if waits { batch_tokens.min(FIRST_PROMPT_TOKENS_CPU) } else { batch_tokens };
    Limits {
        batch_tokens,
        first_prompt_tokens,
        parallel: spec.parallel,
        pool_cells: as_usize(pool),
        canary_cells: as_usize(CANARY_CELLS),
        max_request_tokens: as_usize(longest),
        vocab: model.n_vocab(),
        prefix_reuse: keeps_its_past(model),
        kept_cells: if keeps_all { usize::MAX } else { kept_cells(model) },
        apart,
    }
}

/// On a CPU attention asks of every cell of the pool, for every token, layer and head, whether the token may see it. How
/// many cells that nobody holds cost a token a twentieth of the time that its weights take.
fn kept_cells(model: &LlamaModel) -> usize {
    let looks = u64::from(model.n_layer().max(1)) * u64::from(model.n_head().max(1));
    usize::try_from(model.n_params() / PARAMETERS_PER_LOOK / looks).unwrap_or(usize::MAX)
}

/// A recurrent model folds its past into one state, a sliding window forgets it: their cells cannot be cut and shared at
/// any position. The window is read from the file, so a model that has one and does not use it is judged too strictly.
fn keeps_its_past(model: &LlamaModel) -> bool {
    let arch = model.meta_val_str("general.architecture").unwrap_or_default();
    let window = model.meta_val_str(&format!("{arch}.attention.sliding_window"));
    let no_window = window.map_or(true, |window| window.trim() == "0");
    no_window && !model.is_recurrent() && !model.is_hybrid()
}

fn loaded_info(trying: &Trying<'_>, model: &LlamaModel, limits: &Limits, started: Instant) -> LoadedInfo {
    let (spec, device) = (trying.spec, trying.device);
    let file_name = || Path::new(&spec.model_path).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let as_u32 = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    LoadedInfo {
        name: model.meta_val_str("general.name").ok().filter(|name| !name.is_empty()).unwrap_or_else(file_name),
        device: device.name(),
        on_gpu: device.is_gpu(),
        context_tokens: as_u32(limits.pool_cells),
        max_request_tokens: as_u32(limits.max_request_tokens),
        parallel: spec.parallel,
        has_chat_template: file_template(model).is_some(),
        chat: ChatTraits::default(),
        layers: model.n_layer().saturating_add(1),
        gpu_layers: trying.layers,
        load_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        generates: true,
        embeddings: None,
        infills: fim_tokens(model).is_some(),
    }
}

fn file_template(model: &LlamaModel) -> Option<String> {
    let template = model.chat_template(None).ok()?;
    template.to_str().ok().filter(|text| !text.trim().is_empty()).map(str::to_owned)
}

/// How a special token is written in a template; empty when the model has none.
fn special_text(model: &LlamaModel, token: LlamaToken) -> String {
    if !(0..model.n_vocab()).contains(&token.0) {
        return String::new();
    }
    String::from_utf8_lossy(&model.vocab().token_to_piece(token, true, None)).into_owned()
}

pub(super) fn other(message: String) -> LoadFailure {
    LoadFailure { kind: LoadFailureKind::Other, message, gpu_layers: 0 }
}

fn as_usize(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
