//! From a [`LoadSpec`] to llama.cpp's two sets of parameters.

use super::load::{batch_tokens, other};
use crate::{devices::Device, threads::physical_cores};
use llama_cpp_2::{
    context::params::{KvCacheType, LlamaContextParams, RopeScalingType},
    model::params::{LlamaModelParams, kv_overrides::ParamOverrideValue},
};
use spillway_actors::{
    domain::MAX_OVERRIDE_BYTES,
    gpu::{
        frame::{KvType, LoadFailure, LoadSpec, OverrideValue, RopeScaling},
        memory::Cells,
    },
};
use std::{
    ffi::{CString, c_char},
    num::NonZeroU32,
    pin::Pin,
};

/// Every layer there is: llama.cpp takes the smaller number.
const ALL_LAYERS: u32 = 9999;

/// On a GPU without a number of layers llama.cpp's own default is left, which `fit` needs.
pub(super) fn model_params(spec: &LoadSpec, device: &Device) -> Result<LlamaModelParams, LoadFailure> {
    let params = LlamaModelParams::default().with_use_mmap(spec.use_mmap).with_use_mlock(spec.use_mlock);
    let params = match device {
        Device::Cpu | Device::Simulated { .. } => params.with_n_gpu_layers(0),
        Device::Gpu { only, .. } => {
            let params = match spec.gpu_layers {
                Some(layers) => params.with_n_gpu_layers(layers.min(ALL_LAYERS)),
                None => params,
            };
            match only {
                Some(index) => params.with_devices(&[*index]).map_err(|error| other(error.to_string()))?,
                None => params,
            }
        }
    };
    let mut params = Box::pin(params);
    for (key, value) in &spec.overrides {
        set_override(params.as_mut(), key, value)?;
    }
    Ok(*Pin::into_inner(params))
}

/// llama.cpp copies key and text into fixed arrays and checks neither.
fn set_override(params: Pin<&mut LlamaModelParams>, key: &str, value: &OverrideValue) -> Result<(), LoadFailure> {
    let bad = || other(format!("the override of {key:?} is too long or no plain text"));
    let fits = |text: &str| text.len() <= MAX_OVERRIDE_BYTES && !text.contains('\0');
    if !fits(key) || key.is_empty() || !key.is_ascii() {
        return Err(bad());
    }
    let value = match value {
        OverrideValue::Bool(value) => ParamOverrideValue::Bool(*value),
        OverrideValue::Int(value) => ParamOverrideValue::Int(*value),
        OverrideValue::Float(value) => ParamOverrideValue::Float(*value),
        OverrideValue::Text(text) if fits(text) => {
            let mut array: [c_char; MAX_OVERRIDE_BYTES + 1] = [0; MAX_OVERRIDE_BYTES + 1];
            for (slot, byte) in array.iter_mut().zip(text.bytes()) {
                *slot = c_char::from_ne_bytes([byte]);
            }
            ParamOverrideValue::Str(array)
        }
        OverrideValue::Text(_) => return Err(bad()),
    };
    params.append_kv_override(&CString::new(key).map_err(|_| bad())?, value);
    Ok(())
}

pub(super) fn context_params(spec: &LoadSpec, device: &Device, cells: Cells) -> LlamaContextParams {
    let on_gpu = device.is_gpu();
    let batch = batch_tokens(device, spec);
    let threads = i32::try_from(spec.threads.unwrap_or_else(physical_cores).max(1)).unwrap_or(1);
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(cells.in_all()))
        .with_n_batch(batch)
        .with_n_ubatch(spec.ubatch_tokens.clamp(1, batch))
        .with_n_seq_max(spec.parallel + 1)
        .with_kv_unified(matches!(cells, Cells::Pooled(_)))
        .with_swa_full(false)
        .with_type_k(kv_type(spec.kv_type_k))
        .with_type_v(kv_type(spec.kv_type_v))
        .with_n_threads(threads)
        .with_n_threads_batch(threads)
        .with_offload_kqv(on_gpu)
        .with_op_offload(on_gpu)
        .with_no_perf(true);
    with_rope(params, spec)
}

fn with_rope(mut params: LlamaContextParams, spec: &LoadSpec) -> LlamaContextParams {
    if let Some(base) = spec.rope.freq_base {
        params = params.with_rope_freq_base(base);
    }
    if let Some(scale) = spec.rope.freq_scale {
        params = params.with_rope_freq_scale(scale);
    }
    match spec.rope.scaling {
        None => params,
        Some(RopeScaling::None) => params.with_rope_scaling_type(RopeScalingType::None),
        Some(RopeScaling::Linear) => params.with_rope_scaling_type(RopeScalingType::Linear),
        Some(RopeScaling::Yarn) => params.with_rope_scaling_type(RopeScalingType::Yarn),
    }
}

const fn kv_type(kind: KvType) -> KvCacheType {
    match kind {
        KvType::F32 => KvCacheType::F32,
        KvType::F16 => KvCacheType::F16,
        KvType::Bf16 => KvCacheType::BF16,
        KvType::Q8_0 => KvCacheType::Q8_0,
        KvType::Q5_1 => KvCacheType::Q5_1,
        KvType::Q5_0 => KvCacheType::Q5_0,
        KvType::Q4_1 => KvCacheType::Q4_1,
        KvType::Q4_0 => KvCacheType::Q4_0,
    }
}
