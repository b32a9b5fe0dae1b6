//! A chat's answer → one message of Anthropic's API. Pure.

use crate::http::{
    dialect::{reasoning_of, tool_calls_of},
    render,
};
use serde_json::{Value, json};
use spillway_actors::{cloud::WholeAnswer, domain::TokenUsage, flight::FlightReport};

/// The message in one piece.
pub(super) fn whole(id: &str, shows_thoughts: bool, answer: WholeAnswer, report: &FlightReport) -> Value {
    // This API knows one choice; a flight that lands has one.
    let (message, reason) =
        answer.choices.into_iter().next().map(|choice| (choice.message, choice.finish_reason)).unwrap_or_default();
    let mut content = Vec::new();
    if let Some(thoughts) = reasoning_of(&message).filter(|_| shows_thoughts) {
        content.push(json!({"type": "thinking", "thinking": thoughts, "signature": ""}));
    }
    let said = |name: &str| message.get(name).and_then(Value::as_str).filter(|said| !said.is_empty());
    let refusal = said("refusal");
    content.extend(said("content").into_iter().chain(refusal).map(|said| json!({"type": "text", "text": said})));
    let calls = tool_calls_of(&message);
    content.extend(calls.iter().map(tool_use));
    let reason = if refusal.is_some() { "refusal" } else { stop_reason(&reason, !calls.is_empty()) };
    let mut object = frame(id, &report.model, content);
    let (reason, met) = ending(reason, report);
    (object["stop_reason"], object["stop_sequence"]) = (reason.into(), met.into());
    object["usage"] = usage(report.usage);
    object["routing"] = render::routing(report);
    object
}

/// The message as a stream begins with it.
pub(super) fn start(id: &str, model: &str, input_tokens: u64) -> Value {
    let mut object = frame(id, model, Vec::new());
    object["usage"] = usage(TokenUsage { prompt_tokens: input_tokens, ..TokenUsage::default() });
    object
}

fn frame(id: &str, model: &str, content: Vec<Value>) -> Value {
    json!({
        "id": id, "type": "message", "role": "assistant", "model": model, "content": content,
        "stop_reason": null, "stop_sequence": null, "usage": null
    })
}

fn tool_use(call: &Value) -> Value {
    let part = |pointer: &str| call.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let arguments = part("/function/arguments");
    let input = match arguments.trim() {
        "" => json!({}),
        // Cut or broken by the model: the client shall see it, in the one form it can take.
        text => serde_json::from_str(text).ok().filter(Value::is_object).unwrap_or_else(|| json!({"unreadable": text})),
    };
    json!({"type": "tool_use", "id": part("/id"), "name": part("/function/name"), "input": input})
}

/// A chat's reason in this API's words. Some providers end a call that was demanded with "stop".
pub(super) fn stop_reason(reason: &str, calls: bool) -> &'static str {
    match reason {
        "length" => "max_tokens",
        "content_filter" => "refusal",
        _ if calls => "tool_use",
        _ => "end_turn",
    }
}

/// The reason, and the stop sequence that was met: a local engine tells which, most providers do not.
pub(super) fn ending<'a>(reason: &'static str, report: &'a FlightReport) -> (&'static str, Option<&'a str>) {
    match report.met_stop.as_deref() {
        Some(met) if reason == "end_turn" => ("stop_sequence", Some(met)),
        _ => (reason, None),
    }
}

/// What came from a cache counts apart here.
pub(super) fn usage(counted: TokenUsage) -> Value {
    json!({
        "input_tokens": counted.prompt_tokens.saturating_sub(counted.cached_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counted.cached_tokens,
        "output_tokens": counted.completion_tokens,
    })
}
