//! `POST /v1/messages/count_tokens`: how long a prompt is, nothing run.

use super::chat_request;
use crate::http::{dialect::Arrived, parse};
use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue};
use serde_json::json;
use spillway_actors::{
    config::Config,
    domain::{ChatRequest, GatewayError},
    flight::{Services, TokenCount},
};

/// Says whether the count is exact.
const KIND: &str = "x-spillway-token-count";

/// A body of the endpoint.
///
/// # Errors
/// As for a message, but that `max_tokens` may be missing.
pub(in crate::http) fn read(
    arrived: Arrived,
    body: &[u8],
    headers: &HeaderMap,
    config: &Config,
) -> Result<ChatRequest, GatewayError> {
    chat_request(arrived, parse::json::object(body)?, headers, config)
}

/// The answer; by the tokenizer of a local engine if one would serve the request, else estimated.
pub(in crate::http) async fn counted(services: &Services, request: ChatRequest) -> Response {
    let TokenCount { tokens, is_exact } = spillway_actors::flight::count_tokens(services, request).await;
    let mut response = Json(json!({"input_tokens": tokens})).into_response();
    let kind = if is_exact { "exact" } else { "estimated" };
    response.headers_mut().insert(KIND, HeaderValue::from_static(kind));
    response
}
