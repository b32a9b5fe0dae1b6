//! From a [`LoadSpec`] to a model in memory, or the reason why not.
//!
//! Refuses what would make llama.cpp abort before it is called. Does not step down an OOM ladder and does not choose how
//! many layers fit: the gateway decides what to try next.

use super::{
    Llama,
    embed::{self, EmbedPlan},
    fim_tokens,
};
use crate::{backend::Limits, gguf, session::Progress, template::ChatTemplate, threads::physical_cores};
use llama_cpp_2::{
    LlamaBackendDevice, LlamaBackendDeviceType,
    context::params::LlamaContextParams,
    list_llama_ggml_backend_devices,
    llama_backend::LlamaBackend,
    llama_batch::LlamaBatch,
    model::{LlamaModel, params::LlamaModelParams},
    token::{LlamaToken, data_array::LlamaTokenDataArray},
};
use spillway_actors::gpu::frame::{LoadFailure, LoadFailureKind, LoadSpec, LoadedInfo};
use std::{num::NonZeroU32, path::Path, time::Instant};

/// Tokens of one decode.
const BATCH_TOKENS: u32 = 512;
/// On a CPU a decode of 512 prompt tokens takes seconds, in which nothing is cancelled and no canary answered. Still room
/// for every sequence at once.
const BATCH_TOKENS_CPU: usize = 256;
/// On a CPU a prompt token costs as much time as a generated one, so prompts get less room beside running jobs.
const MIXED_PROMPT_TOKENS_CPU: usize = 128;
/// Cells the canary has for itself.
const CANARY_CELLS: u32 = 256;
/// llama.cpp's own limit is 256 sequences; one is the canary's.
const MAX_PARALLEL: u32 = 255;

/// Where the layers go.
enum Device {
    Cpu,
    /// All of them, or the one at this index of llama.cpp's device list.
    Gpu {
        name: String,
        only: Option<usize>,
    },
}

/// Loads the model and makes its context.
pub fn load(spec: &LoadSpec, progress: Progress) -> Result<(Llama, LoadedInfo), LoadFailure> {
    #[expect(clippy::disallowed_methods, reason = "measures a real load; this process has no tokio")]
    let started = Instant::now();
    let path = Path::new(&spec.model_path);
    gguf::check(path)?;
    if !(1..=MAX_PARALLEL).contains(&spec.parallel) || spec.context_tokens == 0 {
        return Err(other(format!("parallel must be 1 to {MAX_PARALLEL} and context_tokens above 0")));
    }
    let library = LlamaBackend::init().map_err(|error| other(error.to_string()))?;
    let device = choose_device(spec)?;
    let model: &'static LlamaModel = Box::leak(Box::new(load_model(&library, spec, &device, progress)?));
    let trained = model.n_ctx_train().max(1);
    let pool = spec.context_tokens.min(trained.saturating_mul(spec.parallel));
    let params = context_params(spec, &device, pool);
    let context = model.new_context(&library, params.clone()).map_err(|_| LoadFailure {
        kind: LoadFailureKind::OutOfMemory,
        message: format!("no memory for a context of {pool} tokens of {}", spec.model_path),
    })?;
    let limits = limits(spec, &device, model, pool, context.n_batch());
    let embed_plan = EmbedPlan::new(model, spec.embedding_tokens, limits.batch_tokens);
    let info = LoadedInfo {
        generates: embed::writes_text(model),
        embeddings: embed_plan.map(|plan| plan.info()),
        ..loaded_info(spec, &device, model, &limits, started)
    };
    let (bos, eos) = (special_text(model, model.vocab().bos()), special_text(model, model.vocab().eos()));
    let llama = Llama {
        context,
        embedder: None,
        embed_plan,
        params,
        model,
        batch: LlamaBatch::new(limits.batch_tokens, 1),
        rows: Vec::with_capacity(limits.batch_tokens),
        limits,
        template: ChatTemplate::new(file_template(model).as_deref(), &bos, &eos),
        bos,
        candidates: LlamaTokenDataArray::new(Vec::new(), false),
        library,
    };
    Ok((llama, info))
}

fn load_model(
    library: &LlamaBackend,
    spec: &LoadSpec,
    device: &Device,
    progress: Progress,
) -> Result<LlamaModel, LoadFailure> {
    let path = &spec.model_path;
    let params = model_params(spec, device)?.with_progress_callback(progress);
    LlamaModel::load_from_file(library, path, &params).map_err(|_| {
        // llama.cpp says only "no". A file whose header, vocabulary and tensor sizes are in order failed for want of
        // memory; opening it without its weights costs little.
        let header_only = LlamaModelParams::default().with_vocab_only(true);
        match LlamaModel::load_from_file(library, path, &header_only) {
            Ok(_) => LoadFailure {
                kind: LoadFailureKind::OutOfMemory,
                message: format!("no memory for the weights of {path}"),
            },
            Err(_) => LoadFailure {
                kind: LoadFailureKind::Corrupt,
                message: format!("{path} is damaged, or of a kind that this llama.cpp does not know"),
            },
        }
    })
}

fn model_params(spec: &LoadSpec, device: &Device) -> Result<LlamaModelParams, LoadFailure> {
    let params = LlamaModelParams::default().with_use_mmap(spec.use_mmap).with_use_mlock(spec.use_mlock);
    match device {
        Device::Cpu => Ok(params.with_n_gpu_layers(0)),
        Device::Gpu { only, .. } => {
            let params = params.with_n_gpu_layers(spec.gpu_layers.unwrap_or(999));
            match only {
                Some(index) => params.with_devices(&[*index]).map_err(|error| other(error.to_string())),
                None => Ok(params),
            }
        }
    }
}

fn context_params(spec: &LoadSpec, device: &Device, pool: u32) -> LlamaContextParams {
    let on_gpu = matches!(device, Device::Gpu { .. });
    let threads = i32::try_from(spec.threads.unwrap_or_else(physical_cores).max(1)).unwrap_or(1);
    LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(pool.saturating_add(CANARY_CELLS)))
        .with_n_batch(BATCH_TOKENS)
        .with_n_ubatch(BATCH_TOKENS)
        .with_n_seq_max(spec.parallel + 1)
        .with_kv_unified(true)
        .with_swa_full(false)
        .with_n_threads(threads)
        .with_n_threads_batch(threads)
        .with_offload_kqv(on_gpu)
        .with_op_offload(on_gpu)
        .with_no_perf(true)
}

fn limits(spec: &LoadSpec, device: &Device, model: &LlamaModel, pool: u32, batch: u32) -> Limits {
    let trained = model.n_ctx_train().max(1);
    let most = as_usize(batch.min(BATCH_TOKENS));
    let (batch_tokens, mixed_prompt_tokens) = match device {
        Device::Cpu => (most.min(BATCH_TOKENS_CPU), MIXED_PROMPT_TOKENS_CPU),
        Device::Gpu { .. } => (most, most),
    };
    Limits {
        batch_tokens,
        mixed_prompt_tokens,
        parallel: spec.parallel,
        pool_cells: as_usize(pool),
        canary_cells: as_usize(CANARY_CELLS),
        max_request_tokens: as_usize(pool.min(trained)),
        vocab: model.n_vocab(),
        prefix_reuse: keeps_its_past(model),
    }
}

/// A recurrent model folds its past into one state, a sliding window forgets it: their cells cannot be cut and shared at
/// any position. The window is read from the file, so a model that has one and does not use it is judged too strictly.
fn keeps_its_past(model: &LlamaModel) -> bool {
    let arch = model.meta_val_str("general.architecture").unwrap_or_default();
    let window = model.meta_val_str(&format!("{arch}.attention.sliding_window"));
    let no_window = window.map_or(true, |window| window.trim() == "0");
    no_window && !model.is_recurrent() && !model.is_hybrid()
}

fn loaded_info(spec: &LoadSpec, device: &Device, model: &LlamaModel, limits: &Limits, started: Instant) -> LoadedInfo {
    let file_name = || Path::new(&spec.model_path).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let as_u32 = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    LoadedInfo {
        name: model.meta_val_str("general.name").ok().filter(|name| !name.is_empty()).unwrap_or_else(file_name),
        device: match device {
            Device::Cpu => "cpu".into(),
            Device::Gpu { name, .. } => name.clone(),
        },
        on_gpu: matches!(device, Device::Gpu { .. }),
        context_tokens: as_u32(limits.pool_cells),
        max_request_tokens: as_u32(limits.max_request_tokens),
        parallel: spec.parallel,
        has_chat_template: file_template(model).is_some(),
        load_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        generates: true,
        embeddings: None,
        infills: fim_tokens(model).is_some(),
    }
}

/// `"cpu"`, the n-th GPU, or whatever the build and the machine have.
fn choose_device(spec: &LoadSpec) -> Result<Device, LoadFailure> {
    let is_gpu = |device: &LlamaBackendDevice| {
        matches!(device.device_type, LlamaBackendDeviceType::Gpu | LlamaBackendDeviceType::IntegratedGpu)
    };
    let gpus: Vec<LlamaBackendDevice> = list_llama_ggml_backend_devices().into_iter().filter(is_gpu).collect();
    let name = |gpu: &LlamaBackendDevice| {
        if gpu.description.is_empty() { gpu.name.clone() } else { gpu.description.clone() }
    };
    match (spec.device.as_deref(), spec.gpu_layers) {
        (Some("cpu"), _) | (None, Some(0)) => Ok(Device::Cpu),
        (None, _) => Ok(gpus.first().map_or(Device::Cpu, |gpu| Device::Gpu { name: name(gpu), only: None })),
        (Some(wanted), _) => {
            let found = wanted.parse::<usize>().ok().and_then(|index| gpus.get(index));
            let gpu =
                found.ok_or_else(|| other(format!("there is no device {wanted:?}; {} GPUs found", gpus.len())))?;
            Ok(Device::Gpu { name: name(gpu), only: Some(gpu.index) })
        }
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

fn other(message: String) -> LoadFailure {
    LoadFailure { kind: LoadFailureKind::Other, message }
}

fn as_usize(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
