//! `POST /v1/completions`.

use super::{
    chat::StreamOptions,
    shared::{Free, Ours, Routing, Usage, array_of, stop},
};
use serde_json::Value;
use utoipa::{
    ToSchema,
    openapi::{ObjectBuilder, OneOfBuilder, Schema, Type},
};

/// A text to go on with.
#[derive(ToSchema)]
pub(super) struct CompletionRequest {
    #[schema(schema_with = texts_or_tokens)]
    prompt: String,
    /// `auto` (the default), `local`, or a name from `GET /v1/models`.
    model: Option<String>,
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    #[schema(exclusive_minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f64>,
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f64>,
    seed: Option<i64>,
    /// 0 only with `echo`: then nothing follows the prompt.
    #[schema(minimum = 0, maximum = 9200000000000000000_i64)]
    max_tokens: Option<i64>,
    #[schema(schema_with = stop)]
    stop: Option<Vec<String>>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    #[schema(minimum = 1, maximum = 128)]
    n: Option<i64>,
    /// Answers generated for each prompt, of which the `n` most likely are given; at least `n`.
    #[schema(minimum = 0, maximum = 128)]
    best_of: Option<i64>,
    /// Gives the prompt back before the answer.
    echo: Option<bool>,
    /// What follows the answer, for models that can write between two texts.
    suffix: Option<String>,
    /// Alternatives of each token.
    #[schema(minimum = 0, maximum = 20)]
    logprobs: Option<i64>,
    logit_bias: Option<std::collections::HashMap<String, f64>>,
    user: Option<Value>,
    #[serde(flatten)]
    ours: Ours,
}

/// A text, token ids, or an array of either: what is completed, and what becomes vectors.
pub(super) fn texts_or_tokens() -> Schema {
    let text = || ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).build();
    let token =
        || ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(i64::from(i32::MAX))).build();
    let tokens = || array_of(token(), 1);
    Schema::OneOf(
        OneOfBuilder::new()
            .item(text())
            .item(array_of(text(), 1))
            .item(tokens())
            .item(array_of(Schema::Array(tokens()), 1))
            .build(),
    )
}

/// A completion in one piece.
#[derive(ToSchema)]
pub(super) struct Completion {
    id: String,
    object: CompletionObject,
    created: u64,
    model: String,
    #[schema(min_items = 1)]
    choices: Vec<CompletionChoice>,
    usage: Usage,
    routing: Routing,
    /// Of local targets only.
    #[schema(nullable = false)]
    latency_ms: Option<f64>,
    /// Of local targets only.
    #[schema(nullable = false)]
    tokens_generated: Option<u64>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(super) enum CompletionObject {
    TextCompletion,
}

#[derive(ToSchema)]
pub(super) struct CompletionChoice {
    text: String,
    index: u32,
    #[schema(required)]
    logprobs: Option<Free>,
    #[schema(required)]
    finish_reason: Option<String>,
}

/// One event's data in a streamed completion.
#[derive(ToSchema)]
pub(super) struct CompletionChunk {
    id: String,
    object: CompletionObject,
    created: u64,
    model: String,
    choices: Vec<CompletionChoice>,
    usage: Option<Usage>,
    #[schema(nullable = false)]
    routing: Option<Routing>,
    /// Of local targets only, beside the usage.
    #[schema(nullable = false)]
    latency_ms: Option<f64>,
    /// Of local targets only, beside the usage.
    #[schema(nullable = false)]
    tokens_generated: Option<u64>,
}
