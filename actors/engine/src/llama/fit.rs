//! How many layers go onto the GPU, by llama.cpp's own reckoning: it lays everything out without allocating and counts.

use super::{
    load::Trying,
    params::{context_params, model_params},
};
use llama_cpp_2::{max_devices, model::params::LlamaModelParams};
use spillway_actors::gpu::{frame::LoadFailure, memory::Cells};
use std::{ffi::CString, pin::Pin};

/// Left free on each card: what drivers and other programs take while the model is being loaded.
const MARGIN_BYTES: usize = 512 << 20;
/// Errors only: that a plan does not fit is none.
const LOG_ERRORS: u32 = 4;

/// Parameters that put as many layers onto the GPU as fit beside the pool, which keeps its size; and how many those are.
pub(super) fn as_many_as_fit(trying: &Trying<'_>, cells: Cells) -> Result<(LlamaModelParams, u32), LoadFailure> {
    let spec = trying.spec;
    let mut params = Box::pin(model_params(spec, trying.device)?);
    let mut context = context_params(spec, trying.device, cells);
    let mut margins = vec![MARGIN_BYTES; max_devices()];
    if let Ok(path) = CString::new(spec.model_path.as_str()) {
        let fitted = params.as_mut().fit_params(&path, &mut context, &mut margins, cells.in_all(), LOG_ERRORS);
        fitted.map_err(|error| trying.out_of_memory(&format!("any layout on the GPU: {error}")))?;
    }
    let params = *Pin::into_inner(params);
    // Left as it was, it means all of them.
    let layers = u32::try_from(params.n_gpu_layers()).unwrap_or(trying.layers()).min(trying.layers());
    Ok((params, layers))
}
