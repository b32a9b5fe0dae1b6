//! `POST /v1/chat/completions`.

use super::shared::{Free, Ours, Routing, Usage, nullable_text_or_array, stop, text_or_array};
use serde_json::Value;
use utoipa::ToSchema;

/// A chat. Every field but `messages` is optional, null counts as absent, and what is not listed goes to the cloud as it is.
#[derive(ToSchema)]
pub(super) struct ChatCompletionRequest {
    #[schema(min_items = 1)]
    messages: Vec<ChatMessage>,
    /// `auto` (the default), `local`, or a name from `GET /v1/models`.
    model: Option<String>,
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    #[schema(exclusive_minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    #[schema(minimum = -1, maximum = 2147483647)]
    top_k: Option<i64>,
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f64>,
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f64>,
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f64>,
    seed: Option<i64>,
    /// 0 counts as absent.
    #[schema(minimum = 0, maximum = 9200000000000000000_i64)]
    max_completion_tokens: Option<i64>,
    /// The old name of `max_completion_tokens`.
    #[schema(minimum = 0, maximum = 9200000000000000000_i64)]
    max_tokens: Option<i64>,
    #[schema(schema_with = stop)]
    stop: Option<Vec<String>>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    #[schema(minimum = 1, maximum = 128)]
    n: Option<i64>,
    tools: Option<Vec<ChatTool>>,
    /// `none`, `auto`, `required`, or one function.
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    response_format: Option<ResponseFormat>,
    logprobs: Option<bool>,
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<i64>,
    /// Token ids to biases from -100 to 100.
    logit_bias: Option<std::collections::HashMap<String, f64>>,
    user: Option<Value>,
    metadata: Option<Value>,
    #[serde(flatten)]
    ours: Ours,
}

#[derive(ToSchema)]
pub(super) struct StreamOptions {
    /// One more chunk at the end, with `usage` and `routing`.
    include_usage: Option<bool>,
}

#[derive(ToSchema)]
#[serde(tag = "role", rename_all = "lowercase")]
pub(super) enum ChatMessage {
    System(Said),
    Developer(Said),
    User(Said),
    Assistant(AssistantMessage),
    Tool(ToolMessage),
}

#[derive(ToSchema)]
pub(super) struct Said {
    #[schema(schema_with = parts)]
    content: String,
    #[schema(nullable = false)]
    name: Option<String>,
}

#[derive(ToSchema)]
pub(super) struct AssistantMessage {
    #[schema(required, schema_with = nullable_parts)]
    content: Option<String>,
    #[schema(nullable = false)]
    tool_calls: Option<Vec<ToolCall>>,
}

#[derive(ToSchema)]
pub(super) struct ToolMessage {
    tool_call_id: String,
    #[schema(schema_with = parts)]
    content: String,
}

fn parts() -> utoipa::openapi::Schema {
    text_or_array("ContentPart", 1)
}

fn nullable_parts() -> utoipa::openapi::Schema {
    nullable_text_or_array("ContentPart", 1)
}

#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ContentPart {
    Text { text: String },
    ImageUrl { image_url: ImageUrl },
    InputAudio { input_audio: Free },
    File { file: Free },
    Refusal { refusal: String },
}

#[derive(ToSchema)]
pub(super) struct ImageUrl {
    /// An address, or a data URI.
    url: String,
    #[schema(nullable = false)]
    detail: Option<String>,
}

#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum ChatTool {
    Function { function: ChatFunction },
}

#[derive(ToSchema)]
pub(super) struct ChatFunction {
    #[schema(pattern = "^[a-zA-Z0-9_-]{1,64}$")]
    name: String,
    #[schema(nullable = false)]
    description: Option<String>,
    /// A JSON schema.
    #[schema(nullable = false)]
    parameters: Option<Free>,
    strict: Option<bool>,
}

#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ResponseFormat {
    Text,
    JsonObject,
    JsonSchema { json_schema: NamedSchema },
}

#[derive(ToSchema)]
pub(super) struct NamedSchema {
    name: String,
    /// A JSON schema.
    schema: Free,
    strict: Option<bool>,
}

/// A call of a function; its arguments are JSON as text.
#[derive(ToSchema)]
pub(super) struct ToolCall {
    id: String,
    r#type: FunctionType,
    function: CalledFunction,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum FunctionType {
    Function,
}

#[derive(ToSchema)]
pub(super) struct CalledFunction {
    name: String,
    arguments: String,
}

/// An answer in one piece. What else a provider said is in it as it came.
#[derive(ToSchema)]
pub(super) struct ChatCompletion {
    id: String,
    object: ChatObject,
    created: u64,
    /// The model that answered.
    model: String,
    /// As a provider told it.
    #[schema(nullable = false)]
    service_tier: Option<String>,
    /// As a provider told it.
    #[schema(nullable = false)]
    system_fingerprint: Option<String>,
    #[schema(min_items = 1)]
    choices: Vec<ChatChoice>,
    usage: Usage,
    routing: Routing,
}

#[derive(ToSchema)]
pub(super) enum ChatObject {
    #[schema(rename = "chat.completion")]
    Whole,
}

#[derive(ToSchema)]
pub(super) struct ChatChoice {
    index: u32,
    message: ChatAnswer,
    #[schema(required)]
    logprobs: Option<Free>,
    finish_reason: String,
}

#[derive(ToSchema)]
pub(super) struct ChatAnswer {
    role: AssistantRole,
    #[schema(required)]
    content: Option<Value>,
    #[schema(required)]
    refusal: Option<String>,
    #[schema(nullable = false)]
    tool_calls: Option<Vec<Free>>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum AssistantRole {
    Assistant,
}

/// One event's data in a streamed chat; the last one is `[DONE]`, or an error if the answer broke off.
#[derive(ToSchema)]
pub(super) struct ChatCompletionChunk {
    id: String,
    object: ChunkObject,
    created: u64,
    model: String,
    /// As a provider told it.
    #[schema(nullable = false)]
    service_tier: Option<String>,
    /// As a provider told it.
    #[schema(nullable = false)]
    system_fingerprint: Option<String>,
    choices: Vec<ChunkChoice>,
    usage: Option<Usage>,
    #[schema(nullable = false)]
    routing: Option<Routing>,
}

#[derive(ToSchema)]
pub(super) enum ChunkObject {
    #[schema(rename = "chat.completion.chunk")]
    Chunk,
}

#[derive(ToSchema)]
pub(super) struct ChunkChoice {
    index: u32,
    delta: Free,
    #[schema(required)]
    logprobs: Option<Free>,
    #[schema(required)]
    finish_reason: Option<String>,
}
