//! A checked grammar or schema as a llama.cpp sampler.
//!
//! Both parsers are llama.cpp's. What they say about a text they refuse quotes it, so it is not heard.

use crate::{job::failure, process::hushed};
use llama_cpp_2::{json_schema_to_grammar, model::LlamaModel, sampling::LlamaSampler};
use spillway_actors::gpu::frame::{Grammar, JobFailure, JobFailureKind};

/// Expanded, a schema may be longer than it was; beyond this it would take seconds per token.
const MAX_GBNF_BYTES: usize = 512 << 10;

pub(super) fn sampler(wanted: &Grammar, model: &LlamaModel) -> Result<LlamaSampler, JobFailure> {
    let invalid = |message: &str| failure(JobFailureKind::Invalid, message);
    hushed(|| match wanted {
        Grammar::Gbnf(text) => LlamaSampler::grammar(model, text, "root")
            .map_err(|_| invalid("the grammar is not one llama.cpp understands")),
        Grammar::JsonSchema(schema) => {
            let grammar = json_schema_to_grammar(schema).map_err(|_| invalid("the JSON schema is not supported"))?;
            if grammar.len() > MAX_GBNF_BYTES {
                return Err(invalid("the JSON schema is too large once written out"));
            }
            LlamaSampler::grammar(model, &grammar, "root").map_err(|_| invalid("the JSON schema is not supported"))
        }
    })
}
