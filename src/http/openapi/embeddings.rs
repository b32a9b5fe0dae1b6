//! `POST /v1/embeddings`.

use super::{
    completion::texts_or_tokens,
    shared::{Ours, Routing, array_of},
};
use serde_json::Value;
use utoipa::{
    ToSchema,
    openapi::{ObjectBuilder, OneOfBuilder, Schema, Type},
};

/// Texts that become vectors.
#[derive(ToSchema)]
pub(super) struct EmbeddingsRequest {
    #[schema(schema_with = texts_or_tokens)]
    input: String,
    /// `auto` (the default) and `local` mean one fixed model of the configuration; or a name from `GET /v1/models`.
    model: Option<String>,
    encoding_format: Option<EncodingFormat>,
    /// Where the model can shorten its vectors.
    #[schema(minimum = 1, maximum = 65536)]
    dimensions: Option<i64>,
    user: Option<Value>,
    #[serde(flatten)]
    ours: Ours,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum EncodingFormat {
    Float,
    Base64,
}

/// One vector for each input, in their order.
#[derive(ToSchema)]
pub(super) struct Embeddings {
    object: ListObject,
    data: Vec<Embedding>,
    model: String,
    usage: EmbeddingsUsage,
    routing: Routing,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum ListObject {
    List,
}

#[derive(ToSchema)]
pub(super) struct Embedding {
    object: EmbeddingObject,
    index: u32,
    #[schema(schema_with = numbers)]
    embedding: Vec<f32>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum EmbeddingObject {
    Embedding,
}

/// Numbers, or little-endian 32-bit floats in base64.
fn numbers() -> Schema {
    let number = ObjectBuilder::new().schema_type(Type::Number).build();
    let text = ObjectBuilder::new().schema_type(Type::String).build();
    Schema::OneOf(OneOfBuilder::new().item(array_of(number, 1)).item(text).build())
}

#[derive(ToSchema)]
pub(super) struct EmbeddingsUsage {
    prompt_tokens: u64,
    total_tokens: u64,
}
