//! What several endpoints have in common.

use std::borrow::Cow;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{Array, ArrayBuilder, Object, ObjectBuilder, OneOfBuilder, Ref, RefOr, Schema, Type},
};

/// An error as OpenAI's clients read it: always these four keys.
#[derive(ToSchema)]
pub(super) struct ErrorReply {
    error: ErrorObject,
}

#[derive(ToSchema)]
pub(super) struct ErrorObject {
    message: String,
    r#type: String,
    /// The field at fault.
    #[schema(required)]
    param: Option<String>,
    #[schema(required)]
    code: Option<String>,
}

/// Where an answer came from, and why.
#[derive(ToSchema)]
pub(super) struct Routing {
    target: String,
    model: String,
    complexity: Complexity,
    confidence: f64,
    reasoning: String,
    budget_sensitive: bool,
    /// US dollars per 1,000 tokens of the chosen target.
    estimated_cost_per_1k: f64,
    estimated_cost_usd: f64,
    estimated_latency_ms: f64,
    actual_latency_ms: f64,
    attempts: Vec<Attempt>,
    /// How a cut stream went on.
    #[schema(nullable = false)]
    resumed: Option<String>,
}

#[derive(ToSchema)]
pub(super) struct Attempt {
    target: String,
    outcome: String,
    #[schema(required)]
    ttft_ms: Option<f64>,
    latency_ms: f64,
    prompt_tokens: u64,
    completion_tokens: u64,
    cost_usd: f64,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum Complexity {
    Trivial,
    Moderate,
    Complex,
    Premium,
}

/// Token counts as chats and completions tell them; a provider's details are added as they came.
#[derive(ToSchema)]
pub(super) struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: CachedTokens,
    /// Where the target counted the tokens that it thought.
    #[schema(nullable = false)]
    completion_tokens_details: Option<ReasoningTokens>,
}

#[derive(ToSchema)]
pub(super) struct ReasoningTokens {
    reasoning_tokens: u64,
}

#[derive(ToSchema)]
pub(super) struct CachedTokens {
    cached_tokens: u64,
}

/// Fields of the gateway's own, in any body; each has a twin among the headers, which wins.
#[derive(ToSchema)]
pub(super) struct Ours {
    /// Easy requests stay on the local GPU whatever the rule prefers. Twin: `x-spillway-budget-sensitive`.
    budget_sensitive: Option<bool>,
    /// This request never leaves the machine. Twin: `x-spillway-local-only`.
    local_only: Option<bool>,
    /// Bound on the expected time to the first token. Twin: `x-spillway-max-latency-ms`.
    #[schema(exclusive_minimum = 0)]
    max_latency_ms: Option<f64>,
}

/// A string, or an array of these.
pub(super) fn text_or_array(item: &str, least: usize) -> Schema {
    Schema::OneOf(OneOfBuilder::new().item(string()).item(array_of(Ref::from_schema_name(item), least)).build())
}

/// As [`text_or_array`], or null.
pub(super) fn nullable_text_or_array(item: &str, least: usize) -> Schema {
    let null = ObjectBuilder::new().schema_type(Type::Null).build();
    let array = array_of(Ref::from_schema_name(item), least);
    Schema::OneOf(OneOfBuilder::new().item(string()).item(array).item(null).build())
}

pub(super) fn array_of(item: impl Into<RefOr<Schema>>, least: usize) -> Array {
    ArrayBuilder::new().items(item.into()).min_items(Some(least)).build()
}

pub(super) fn string() -> Object {
    ObjectBuilder::new().schema_type(Type::String).build()
}

/// One or more stop strings.
pub(super) fn stop() -> Schema {
    let some = || ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(1024)).build();
    let null = ObjectBuilder::new().schema_type(Type::Null).build();
    let several = ArrayBuilder::new().items(some()).max_items(Some(16)).build();
    Schema::OneOf(OneOfBuilder::new().item(some()).item(several).item(null).build())
}

/// Any JSON object.
pub(super) struct Free;

impl PartialSchema for Free {
    fn schema() -> RefOr<Schema> {
        Schema::Object(ObjectBuilder::new().schema_type(Type::Object).build()).into()
    }
}

impl ToSchema for Free {
    fn name() -> Cow<'static, str> {
        "AnyObject".into()
    }
}
