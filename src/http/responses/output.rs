//! A chat's answer → output items, and the whole response around them. Pure.

use super::object::{Echo, Standing};
use crate::http::{
    dialect::{reasoning_of, tool_calls_of},
    frames::bug,
};
use serde_json::{Map, Value, json};
use spillway_actors::{cloud::WholeAnswer, flight::FlightReport};

/// The response in one piece.
pub(super) fn whole(echo: &Echo, answer: WholeAnswer, report: &FlightReport) -> Value {
    let model = report.model.as_str().into();
    // This API knows one choice.
    let Some(choice) = answer.choices.into_iter().next() else {
        return echo.object(&model, Vec::new(), &Standing::Failed(&bug()));
    };
    let status = Standing::item_status(&choice.finish_reason);
    let mut output = items(echo, &choice.message, choice.logprobs.as_ref(), "completed");
    // Only the last can have been cut.
    if let Some(last) = output.last_mut() {
        last["status"] = status.into();
    }
    echo.object(&model, output, &Standing::Ended { reason: &choice.finish_reason, report })
}

fn items(echo: &Echo, message: &Map<String, Value>, logprobs: Option<&Value>, status: &'static str) -> Vec<Value> {
    let mut items = Vec::new();
    if let Some(thoughts) = reasoning_of(message) {
        items.push(reasoning(&echo.item_id("rs", 0), status, thoughts));
    }
    let mut parts = Vec::new();
    if let Some(said) = message.get("content").and_then(Value::as_str).filter(|said| !said.is_empty()) {
        parts.push(text_part(said, logprobs_of(logprobs)));
    }
    if let Some(refusal) = message.get("refusal").and_then(Value::as_str).filter(|refusal| !refusal.is_empty()) {
        parts.push(refusal_part(refusal));
    }
    let calls = tool_calls_of(message);
    // An answer of nothing is still an answer.
    if parts.is_empty() && calls.is_empty() {
        parts.push(text_part("", Vec::new()));
    }
    if !parts.is_empty() {
        items.push(said(&echo.item_id("msg", items.len()), status, parts));
    }
    for call in calls {
        let Piece { is_custom, id, name, said } = Piece::of(call);
        let item = echo.item_id(if is_custom { "ctc" } else { "fc" }, items.len());
        items.push(if is_custom {
            called_custom(&item, status, id, name, said)
        } else {
            called(&item, status, id, name, said)
        });
    }
    items
}

pub(super) fn said(id: &str, status: &str, parts: Vec<Value>) -> Value {
    json!({"id": id, "type": "message", "status": status, "role": "assistant", "content": parts})
}

pub(super) fn called(id: &str, status: &str, call: &str, name: &str, arguments: &str) -> Value {
    json!({"id": id, "type": "function_call", "status": status, "call_id": call, "name": name, "arguments": arguments})
}

/// The call of a tool that takes text instead of arguments.
pub(super) fn called_custom(id: &str, status: &str, call: &str, name: &str, input: &str) -> Value {
    json!({"id": id, "type": "custom_tool_call", "status": status, "call_id": call, "name": name, "input": input})
}

/// A call in a chat's words, or a piece of one.
pub(super) struct Piece<'a> {
    pub(super) is_custom: bool,
    pub(super) id: &'a str,
    pub(super) name: &'a str,
    /// Arguments, or text.
    pub(super) said: &'a str,
}

impl<'a> Piece<'a> {
    pub(super) fn of(call: &'a Value) -> Self {
        let is_custom = call.get("custom").is_some();
        let (kind, words) = if is_custom { ("custom", "input") } else { ("function", "arguments") };
        let text = |of: Option<&'a Value>| of.and_then(Value::as_str).unwrap_or_default();
        let part = |name: &str| text(call.get(kind).and_then(|call| call.get(name)));
        Self { is_custom, id: text(call.get("id")), name: part("name"), said: part(words) }
    }
}

pub(super) fn reasoning(id: &str, status: &str, thoughts: &str) -> Value {
    let content = if thoughts.is_empty() { json!([]) } else { json!([reasoning_part(thoughts)]) };
    json!({"id": id, "type": "reasoning", "status": status, "summary": [], "content": content})
}

pub(super) fn text_part(text: &str, logprobs: Vec<Value>) -> Value {
    json!({"type": "output_text", "annotations": [], "logprobs": logprobs, "text": text})
}

pub(super) fn refusal_part(refusal: &str) -> Value {
    json!({"type": "refusal", "refusal": refusal})
}

pub(super) fn reasoning_part(thoughts: &str) -> Value {
    json!({"type": "reasoning_text", "text": thoughts})
}

/// A chat's logprobs in this API's form, which promises bytes.
pub(super) fn logprobs_of(chat: Option<&Value>) -> Vec<Value> {
    let entries = chat.and_then(|chat| chat.get("content")).and_then(Value::as_array);
    let one = |entry: &Value| {
        let token = entry.get("token").and_then(Value::as_str).unwrap_or_default();
        let bytes = entry.get("bytes").filter(|bytes| bytes.is_array()).cloned();
        let bytes = bytes.unwrap_or_else(|| token.as_bytes().to_vec().into());
        json!({"token": token, "bytes": bytes, "logprob": entry.get("logprob").and_then(Value::as_f64).unwrap_or(0.0)})
    };
    let with_top = |entry: &Value| {
        let top = entry.get("top_logprobs").and_then(Value::as_array).into_iter().flatten();
        let mut logprob = one(entry);
        logprob["top_logprobs"] = top.map(one).collect::<Vec<_>>().into();
        logprob
    };
    entries.into_iter().flatten().map(with_top).collect()
}
