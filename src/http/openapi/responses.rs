//! `POST /v1/responses`.

use super::{
    chat::AssistantRole,
    shared::{Free, Ours, Routing, text_or_array},
};
use serde_json::Value;
use utoipa::{ToSchema, openapi::Schema};

/// A request of OpenAI's newer API, the stateless part of it: `previous_response_id`, `conversation`, `prompt` and
/// `background` are refused, because nothing is stored.
#[derive(ToSchema)]
pub(super) struct ResponsesRequest {
    #[schema(schema_with = input)]
    input: String,
    /// `auto` (the default), `local`, or a name from `GET /v1/models`.
    model: Option<String>,
    instructions: Option<String>,
    #[schema(minimum = 1, maximum = 9200000000000000000_i64)]
    max_output_tokens: Option<i64>,
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    #[schema(exclusive_minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<i64>,
    tools: Option<Vec<ResponsesTool>>,
    /// `none`, `auto`, `required`, one function, or allowed_tools.
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    text: Option<ResponsesText>,
    reasoning: Option<Reasoning>,
    include: Option<Vec<String>>,
    metadata: Option<Free>,
    store: Option<bool>,
    stream: Option<bool>,
    truncation: Option<String>,
    user: Option<Value>,
    #[serde(flatten)]
    ours: Ours,
}

fn input() -> Schema {
    text_or_array("InputItem", 1)
}

#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum InputItem {
    Message {
        role: InputRole,
        #[schema(schema_with = parts)]
        content: String,
    },
    FunctionCall {
        call_id: String,
        name: String,
        arguments: String,
    },
    FunctionCallOutput {
        call_id: String,
        #[schema(schema_with = parts)]
        output: String,
    },
    CustomToolCall {
        call_id: String,
        name: String,
        input: String,
    },
    CustomToolCallOutput {
        call_id: String,
        #[schema(schema_with = parts)]
        output: String,
    },
}

fn parts() -> Schema {
    text_or_array("InputPart", 0)
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum InputRole {
    System,
    Developer,
    User,
    Assistant,
}

#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum InputPart {
    InputText { text: String },
    OutputText { text: String },
    Refusal { refusal: String },
    InputImage { image_url: String },
    InputFile { file_data: String },
}

#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ResponsesTool {
    Function {
        #[schema(pattern = "^[a-zA-Z0-9_-]{1,64}$")]
        name: String,
        description: Option<String>,
        /// A JSON schema.
        parameters: Option<Free>,
        strict: Option<bool>,
    },
    /// Takes text; for cloud models that know such tools.
    Custom { name: String, description: Option<String>, format: Option<Free> },
}

#[derive(ToSchema)]
pub(super) struct ResponsesText {
    format: Option<TextFormat>,
    verbosity: Option<String>,
}

#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum TextFormat {
    Text,
    JsonObject,
    JsonSchema { name: String, schema: Free },
}

#[derive(ToSchema)]
pub(super) struct Reasoning {
    effort: Option<String>,
}

/// A response. What it repeats of its request is in it too.
#[derive(ToSchema)]
pub(super) struct Response {
    id: String,
    object: ResponseObject,
    created_at: u64,
    status: ResponseStatus,
    #[schema(nullable = false)]
    completed_at: Option<u64>,
    background: bool,
    #[schema(required)]
    error: Option<ResponseError>,
    #[schema(required)]
    incomplete_details: Option<IncompleteDetails>,
    model: String,
    output: Vec<OutputItem>,
    #[schema(required)]
    instructions: Option<String>,
    #[schema(required)]
    max_output_tokens: Option<u64>,
    metadata: Free,
    parallel_tool_calls: bool,
    store: bool,
    #[schema(required)]
    temperature: Option<f64>,
    #[schema(required)]
    top_p: Option<f64>,
    text: Free,
    tool_choice: Value,
    tools: Vec<Free>,
    truncation: String,
    #[schema(required)]
    usage: Option<ResponseUsage>,
    #[schema(nullable = false)]
    routing: Option<Routing>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum ResponseObject {
    Response,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(super) enum ResponseStatus {
    InProgress,
    Completed,
    Incomplete,
    Failed,
}

#[derive(ToSchema)]
pub(super) struct ResponseError {
    code: String,
    message: String,
}

#[derive(ToSchema)]
pub(super) struct IncompleteDetails {
    reason: String,
}

#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum OutputItem {
    Message { id: String, status: ResponseStatus, role: AssistantRole, content: Vec<OutputPart> },
    FunctionCall { id: String, status: ResponseStatus, call_id: String, name: String, arguments: String },
    CustomToolCall { id: String, status: ResponseStatus, call_id: String, name: String, input: String },
    Reasoning { id: String, summary: Vec<Free>, content: Vec<Free> },
}

#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum OutputPart {
    OutputText { text: String, annotations: Vec<Free>, logprobs: Vec<Free> },
    Refusal { refusal: String },
}

#[derive(ToSchema)]
pub(super) struct ResponseUsage {
    input_tokens: u64,
    input_tokens_details: InputDetails,
    output_tokens: u64,
    output_tokens_details: OutputDetails,
    total_tokens: u64,
}

#[derive(ToSchema)]
pub(super) struct InputDetails {
    cached_tokens: u64,
    cache_write_tokens: u64,
}

#[derive(ToSchema)]
pub(super) struct OutputDetails {
    reasoning_tokens: u64,
}

/// One event's data in a streamed response: `response.created` first, then items and their pieces, and
/// `response.completed`, `response.incomplete` or `response.failed` last.
#[derive(ToSchema)]
pub(super) struct ResponseEvent {
    r#type: String,
    sequence_number: u64,
    #[schema(nullable = false)]
    response: Option<Response>,
}
