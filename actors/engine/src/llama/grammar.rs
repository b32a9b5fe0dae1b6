//! A checked grammar as a llama.cpp sampler.
//!
//! The parser is llama.cpp's. What it says about a text it refuses quotes it, so it is not heard.

use crate::{job::failure, process::hushed};
use llama_cpp_2::{model::LlamaModel, sampling::LlamaSampler};
use spillway_actors::gpu::frame::{JobFailure, JobFailureKind};

pub(super) fn sampler(grammar: &str, model: &LlamaModel) -> Result<LlamaSampler, JobFailure> {
    hushed(|| LlamaSampler::grammar(model, grammar, "root"))
        .map_err(|_| failure(JobFailureKind::Invalid, "the grammar is not one llama.cpp understands"))
}
