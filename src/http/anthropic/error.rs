//! Errors in Anthropic's form. Statuses and headers stay: its clients go by them as OpenAI's do.

use crate::http::error::ErrorReply;
use serde_json::{Value, json};

/// `{"type": "error", "error": {"type", "message"}}`.
pub(in crate::http) fn object(reply: &ErrorReply) -> Value {
    json!({"type": "error", "error": {"type": kind(reply), "message": reply.message}})
}

fn kind(reply: &ErrorReply) -> &'static str {
    match reply.status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 if reply.kind == "insufficient_quota" => "billing_error",
        429 => "rate_limit_error",
        408 | 504 => "timeout_error",
        503 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}
