//! `POST /v1/messages` and `/v1/messages/count_tokens`.

use super::{
    chat::AssistantRole,
    shared::{Free, Ours, Routing, array_of, string, text_or_array},
};
use utoipa::{
    ToSchema,
    openapi::{ObjectBuilder, OneOfBuilder, Ref, Schema, Type},
};

/// A request of Anthropic's API.
#[derive(ToSchema)]
pub(super) struct MessagesRequest {
    #[schema(minimum = 1, maximum = 9200000000000000000_i64)]
    max_tokens: i64,
    stream: Option<bool>,
    #[serde(flatten)]
    rest: CountTokensRequest,
}

/// The same request, of which only the length of its prompt is asked.
#[derive(ToSchema)]
pub(super) struct CountTokensRequest {
    /// `auto` (the default), `local`, or a name from `GET /v1/models`.
    model: Option<String>,
    #[schema(min_items = 1)]
    messages: Vec<Turn>,
    #[schema(schema_with = system)]
    system: Option<String>,
    stop_sequences: Option<Vec<NotEmpty>>,
    #[schema(minimum = 0, maximum = 1)]
    temperature: Option<f64>,
    #[schema(exclusive_minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    #[schema(minimum = 0, maximum = 2147483647)]
    top_k: Option<i64>,
    tools: Option<Vec<AnthropicTool>>,
    tool_choice: Option<ToolChoice>,
    metadata: Option<Metadata>,
    thinking: Option<Free>,
    #[serde(flatten)]
    ours: Ours,
}

#[derive(ToSchema)]
#[schema(value_type = String, min_length = 1)]
pub(super) struct NotEmpty(String);

#[derive(ToSchema)]
pub(super) struct Metadata {
    user_id: Option<String>,
}

fn system() -> Schema {
    let null = ObjectBuilder::new().schema_type(Type::Null).build();
    let blocks = array_of(Ref::from_schema_name("TextBlock"), 0);
    Schema::OneOf(OneOfBuilder::new().item(string()).item(blocks).item(null).build())
}

#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum TextBlock {
    Text { text: String },
}

#[derive(ToSchema)]
#[serde(tag = "role", rename_all = "lowercase")]
pub(super) enum Turn {
    User {
        #[schema(schema_with = user_blocks)]
        content: String,
    },
    Assistant {
        #[schema(schema_with = assistant_blocks)]
        content: String,
    },
}

fn user_blocks() -> Schema {
    text_or_array("UserBlock", 0)
}

fn assistant_blocks() -> Schema {
    text_or_array("ContentBlock", 0)
}

#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum UserBlock {
    Text {
        text: String,
    },
    Image {
        source: ImageSource,
    },
    ToolResult {
        tool_use_id: String,
        #[schema(nullable = false)]
        content: Option<String>,
    },
}

#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ImageSource {
    Base64 { media_type: String, data: String },
    Url { url: String },
}

#[derive(ToSchema)]
pub(super) struct AnthropicTool {
    #[schema(pattern = "^[a-zA-Z0-9_-]{1,64}$")]
    name: String,
    description: Option<String>,
    /// A JSON schema.
    input_schema: Free,
}

#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ToolChoice {
    Auto,
    None,
}

/// A message in one piece.
#[derive(ToSchema)]
pub(super) struct Message {
    id: String,
    r#type: MessageType,
    role: AssistantRole,
    model: String,
    content: Vec<ContentBlock>,
    stop_reason: StopReason,
    #[schema(required)]
    stop_sequence: Option<String>,
    usage: MessageUsage,
    routing: Routing,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum MessageType {
    Message,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(super) enum StopReason {
    EndTurn,
    MaxTokens,
    StopSequence,
    ToolUse,
    Refusal,
}

/// What an assistant says, in an answer or in an earlier turn of a request.
#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ContentBlock {
    Text { text: String },
    ToolUse { id: String, name: String, input: Free },
    Thinking { thinking: String, signature: String },
}

#[derive(ToSchema)]
pub(super) struct MessageUsage {
    /// Without what came from a cache.
    input_tokens: u64,
    cache_creation_input_tokens: u64,
    cache_read_input_tokens: u64,
    output_tokens: u64,
}

/// One event's data in a streamed message.
#[derive(ToSchema)]
pub(super) struct MessageEvent {
    r#type: String,
}

#[derive(ToSchema)]
pub(super) struct TokensCounted {
    input_tokens: u64,
}

/// An error as Anthropic's clients read it.
#[derive(ToSchema)]
pub(super) struct AnthropicErrorReply {
    r#type: ErrorType,
    error: AnthropicError,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum ErrorType {
    Error,
}

#[derive(ToSchema)]
pub(super) struct AnthropicError {
    r#type: String,
    message: String,
}

/// A page of the list of models, for requests with an `anthropic-version` header.
#[derive(ToSchema)]
pub(super) struct AnthropicModels {
    data: Vec<AnthropicModel>,
    has_more: bool,
    #[schema(required)]
    first_id: Option<String>,
    #[schema(required)]
    last_id: Option<String>,
}

#[derive(ToSchema)]
pub(super) struct AnthropicModel {
    r#type: ModelType,
    id: String,
    display_name: String,
    created_at: String,
    lifecycle: String,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum ModelType {
    Model,
}
