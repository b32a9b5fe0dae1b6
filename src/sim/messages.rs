//! The exact events and JSON of Anthropic's `POST /v1/messages`, for the same answers and faults as OpenAI's. Pure.
//!
//! A request that offers tools is answered by calling one, unless it brings a tool's result: then by text.

mod request;

pub(super) use request::parse;

use super::shape::{Shape, Usage};
use bytes::Bytes;
use serde_json::{Value, json};

pub(super) const STOP: Bytes = Bytes::from_static(b"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
/// One event of broken JSON.
pub(super) const BROKEN: Bytes = Bytes::from_static(
    b"event: content_block_delta\ndata: {\"type\": \"content_block_delta\", \"index\": 0, \"delta\": {\"type\": \"te\n\n",
);
/// A called tool's only argument holds the words.
const ARGUMENT: (&str, &str) = ("{\"text\": \"", "\"}");

/// What comes before the first token.
pub(super) fn opening(shape: &Shape, prompt_tokens: u64) -> Bytes {
    let mut message = message(shape, json!([]), Value::Null);
    if shape.usage_asked {
        message["usage"] = usage(Usage { prompt: prompt_tokens, completion: 1 });
    }
    let block = match &shape.tool {
        Some(name) => json!({"type": "tool_use", "id": tool_id(shape), "name": name, "input": {}}),
        None => json!({"type": "text", "text": ""}),
    };
    let mut events = event(&json!({"type": "message_start", "message": message})).to_vec();
    events.extend(event(&json!({"type": "content_block_start", "index": 0, "content_block": block})));
    events.extend(event(&json!({"type": "ping"})));
    if shape.tool.is_some() {
        events.extend(piece(shape, ARGUMENT.0));
    }
    events.into()
}

/// One token.
pub(super) fn piece(shape: &Shape, text: &str) -> Bytes {
    let delta = match shape.tool {
        Some(_) => json!({"type": "input_json_delta", "partial_json": text}),
        None => json!({"type": "text_delta", "text": text}),
    };
    event(&json!({"type": "content_block_delta", "index": 0, "delta": delta}))
}

/// What comes after the last token, but for [`STOP`].
pub(super) fn closing(shape: &Shape, reason: &str, counts: Usage) -> Bytes {
    let mut events = Vec::new();
    if shape.tool.is_some() && reason != "length" {
        events.extend(piece(shape, ARGUMENT.1));
    }
    events.extend(event(&json!({"type": "content_block_stop", "index": 0})));
    let delta = json!({"stop_reason": stop_reason(shape, reason), "stop_sequence": null});
    let mut end = json!({"type": "message_delta", "delta": delta});
    if shape.usage_asked {
        end["usage"] = json!({"output_tokens": counts.completion});
    }
    events.extend(event(&end));
    events.into()
}

/// The answer in one piece.
pub(super) fn whole(shape: &Shape, text: &str, reason: &str, counts: Option<Usage>) -> Vec<u8> {
    let block = match &shape.tool {
        Some(name) => json!({"type": "tool_use", "id": tool_id(shape), "name": name, "input": {"text": text}}),
        None => json!({"type": "text", "text": text}),
    };
    let mut message = message(shape, json!([block]), stop_reason(shape, reason).into());
    if let Some(counts) = counts {
        message["usage"] = usage(counts);
    }
    message.to_string().into_bytes()
}

/// Anthropic's error object. It has no codes: what OpenAI's code says is in the type or the words.
pub(super) fn error(status: u16, code: &str, message: &str) -> Value {
    let (kind, message) = match (status, code) {
        (_, "context_length_exceeded") => ("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"),
        (_, "content_filter") => ("invalid_request_error", "Output blocked by content filtering policy"),
        (401, _) => ("authentication_error", message),
        (402, _) => ("billing_error", message),
        (403, _) => ("permission_error", message),
        (404, _) => ("not_found_error", message),
        (413, _) => ("request_too_large", message),
        (429, _) => ("rate_limit_error", message),
        // Of an answer that has begun, and of a provider that has no place.
        (200 | 503 | 529, _) => ("overloaded_error", message),
        (500.., _) => ("api_error", message),
        _ => ("invalid_request_error", message),
    };
    json!({"type": "error", "error": {"type": kind, "message": format!("{message} (simulated)")}})
}

/// What `GET /v1/models` lists, from OpenAI's list of the same.
pub(super) fn models(openai: &Value) -> Value {
    let ids: Vec<&Value> = openai["data"].as_array().into_iter().flatten().map(|model| &model["id"]).collect();
    let model =
        |id: &&Value| json!({"type": "model", "id": id, "display_name": id, "created_at": "2026-01-01T00:00:00Z"});
    let data: Vec<Value> = ids.iter().map(model).collect();
    json!({"data": data, "has_more": false, "first_id": ids.first(), "last_id": ids.last()})
}

pub(super) fn event(data: &Value) -> Bytes {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default()).into()
}

fn message(shape: &Shape, content: Value, stop_reason: Value) -> Value {
    json!({
        "id": shape.id, "type": "message", "role": "assistant", "model": shape.model, "content": content,
        "stop_reason": stop_reason, "stop_sequence": null
    })
}

fn stop_reason(shape: &Shape, reason: &str) -> &'static str {
    match (reason, &shape.tool) {
        ("length", _) => "max_tokens",
        (_, Some(_)) => "tool_use",
        (_, None) => "end_turn",
    }
}

fn tool_id(shape: &Shape) -> String {
    format!("toolu_{}", shape.id)
}

fn usage(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
        "output_tokens": usage.completion
    })
}
