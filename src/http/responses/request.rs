//! A body of `POST /v1/responses` → a chat's body. Pure; what both know by the same name goes through as it is.

use super::items;
use crate::http::parse::{
    fault,
    fields::{Bounds, Fields, missing, wrong_type},
};
use serde_json::{Map, Value, json};
use spillway_actors::domain::GatewayError;

/// Fields that mean something only where responses are stored.
const STATEFUL: [(&str, &str); 4] = [
    ("previous_response_id", "no response is stored here: send the whole conversation as 'input'"),
    ("conversation", "no conversation is stored here: send it as 'input'"),
    ("prompt", "no prompt template is stored here: send its text as 'instructions'"),
    ("background", "no response is stored here, so none can be fetched later: leave it out and wait or stream"),
];
/// What a chat calls otherwise, or what only responses know: never handed on under these names.
const NOT_OF_A_CHAT: [&str; 23] = [
    "background",
    "context_management",
    "conversation",
    "include",
    "input",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "previous_response_id",
    "prompt",
    "reasoning",
    "stream_options",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "truncation",
    // A chat's own words, which mean nothing here.
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "n",
    "response_format",
];
/// The one thing in `include` that a chat can give.
const LOGPROBS: &str = "message.output_text.logprobs";

/// Whether a body sent to `/chat/completions` speaks this API instead.
pub(in crate::http) fn is_meant(body: &Map<String, Value>) -> bool {
    let fields = Fields(body);
    let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    fields.get("messages").is_none_or(empty) && fields.get("input").is_some()
}

/// The same request as a chat.
///
/// # Errors
/// The body is malformed, or asks for something a stateless gateway cannot do.
pub(in crate::http) fn chat_body(body: Map<String, Value>) -> Result<Map<String, Value>, GatewayError> {
    let fields = Fields(&body);
    refuse_stateful(fields)?;
    let mut chat = Map::new();
    chat.insert("messages".into(), messages(fields)?.into());
    set_tools(&mut chat, fields)?;
    set_text(&mut chat, fields)?;
    set_reasoning(&mut chat, fields)?;
    set_logprobs(&mut chat, fields)?;
    if let Some(most) = fields.integer("max_output_tokens", Bounds::new(1.0, 9.2e18))? {
        chat.insert("max_tokens".into(), most.into());
    }
    fields.integer("max_tool_calls", Bounds::new(0.0, 9.2e18))?;
    fields.object("metadata")?;
    fields.object("stream_options")?;
    fields.text("truncation")?;
    fields.flag("parallel_tool_calls")?;
    fields.flag("store")?;
    for (name, value) in body {
        if !NOT_OF_A_CHAT.contains(&name.as_str()) {
            chat.entry(name).or_insert(value);
        }
    }
    Ok(chat)
}

fn refuse_stateful(body: Fields<'_>) -> Result<(), GatewayError> {
    for (name, why) in STATEFUL {
        match body.get(name) {
            None | Some(Value::Bool(false)) => {}
            Some(_) => return Err(fault(name, format!("'{name}' is not supported: {why}."))),
        }
    }
    Ok(())
}

fn messages(body: Fields<'_>) -> Result<Vec<Value>, GatewayError> {
    let instructions = body.text("instructions")?.filter(|text| !text.is_empty());
    let mut messages: Vec<Value> =
        instructions.map(|text| json!({"role": "system", "content": text})).into_iter().collect();
    match body.get("input") {
        None => return Err(missing("input")),
        Some(Value::String(text)) => messages.push(json!({"role": "user", "content": text})),
        Some(Value::Array(input)) if input.is_empty() => {
            return Err(fault("input", "Invalid 'input': empty array. Expected at least one item."));
        }
        Some(Value::Array(input)) => messages.extend(items::messages(input)?),
        Some(other) => return Err(wrong_type("input", "a string or an array of items", other)),
    }
    if messages.is_empty() {
        return Err(fault("input", "Invalid 'input': it holds no message."));
    }
    Ok(messages)
}

fn set_tools(chat: &mut Map<String, Value>, body: Fields<'_>) -> Result<(), GatewayError> {
    let mut tools = Vec::new();
    for (index, tool) in body.array("tools")?.unwrap_or_default().iter().enumerate() {
        tools.push(tool_of(&format!("tools[{index}]"), tool)?);
    }
    let choice = body.get("tool_choice").map(|choice| choice_of(choice, &mut tools)).transpose()?;
    if !tools.is_empty() {
        chat.insert("tools".into(), tools.into());
        chat.extend(choice.map(|choice| ("tool_choice".to_owned(), choice)));
    } else if matches!(choice.as_ref().and_then(Value::as_str), None | Some("auto" | "none")) {
        // Nothing to choose from, and nothing that must be.
    } else {
        return Err(fault("tool_choice", "Invalid 'tool_choice': there are no 'tools' to choose from."));
    }
    Ok(())
}

fn tool_of(place: &str, tool: &Value) -> Result<Value, GatewayError> {
    let Value::Object(raw) = tool else { return Err(wrong_type(place, "an object", tool)) };
    match raw.get("type") {
        Some(Value::String(kind)) if kind == "function" || kind == "custom" => {}
        Some(Value::String(_)) => {
            let at = format!("{place}.type");
            let why = "this gateway runs no tools of its own; offer a 'function' or a 'custom' one";
            return Err(fault(&at, format!("Unsupported value for '{at}': {why}.")));
        }
        Some(other) => return Err(wrong_type(format!("{place}.type"), "a string", other)),
        None => return Err(missing(format!("{place}.type"))),
    }
    match raw.get("name") {
        Some(Value::String(_)) => {}
        Some(other) => return Err(wrong_type(format!("{place}.name"), "a string", other)),
        None => return Err(missing(format!("{place}.name"))),
    }
    if raw["type"] == "custom" {
        if let Some(other) = Fields(raw).get("format").filter(|format| !format.is_object()) {
            return Err(wrong_type(format!("{place}.format"), "an object", other));
        }
        return Ok(nested_custom(raw));
    }
    if let Some(other) = Fields(raw).get("parameters").filter(|parameters| !parameters.is_object()) {
        return Err(wrong_type(format!("{place}.parameters"), "an object", other));
    }
    Ok(nested(raw))
}

/// `{"type": "function", "name": …}` as a chat nests it.
fn nested(tool: &Map<String, Value>) -> Value {
    let known = ["name", "description", "parameters", "strict"];
    let given = known.iter().filter_map(|name| Fields(tool).get(name).map(|value| ((*name).to_owned(), value.clone())));
    json!({"type": "function", "function": given.collect::<Map<String, Value>>()})
}

/// A tool that is called with text of its own kind, which chats of some providers know, too.
fn nested_custom(tool: &Map<String, Value>) -> Value {
    let given = |name: &str| Fields(tool).get(name).map(|value| (name.to_owned(), value.clone()));
    let mut custom: Map<String, Value> = ["name", "description"].into_iter().filter_map(given).collect();
    if let Some(format) = Fields(tool).get("format") {
        let is_flat_grammar = format["type"] == "grammar" && format.get("grammar").is_none();
        let grammar = || json!({"syntax": format["syntax"], "definition": format["definition"]});
        let format = if is_flat_grammar { json!({"type": "grammar", "grammar": grammar()}) } else { format.clone() };
        custom.insert("format".into(), format);
    }
    json!({"type": "custom", "custom": custom})
}

/// A wish for some of the tools becomes those tools and a plain wish.
fn choice_of(choice: &Value, tools: &mut Vec<Value>) -> Result<Value, GatewayError> {
    const PLACE: &str = "tool_choice";
    let invalid = || {
        let message = format!(
            "Invalid value for '{PLACE}'. Supported values are: 'none', 'auto', 'required', one function, and allowed_tools."
        );
        fault(PLACE, message)
    };
    let raw = match choice {
        Value::String(mode) if ["none", "auto", "required"].contains(&mode.as_str()) => return Ok(choice.clone()),
        Value::String(_) => return Err(invalid()),
        Value::Object(raw) => raw,
        other => return Err(wrong_type(PLACE, "a string or an object", other)),
    };
    let name = |of: &Value| of.get("name").and_then(Value::as_str).map(str::to_owned);
    match raw.get("type").and_then(Value::as_str) {
        Some(kind @ ("function" | "custom")) => {
            let name = name(choice).ok_or_else(|| missing("tool_choice.name"))?;
            Ok(json!({"type": kind, kind: {"name": name}}))
        }
        Some("allowed_tools") => {
            let allowed = raw.get("tools").and_then(Value::as_array).ok_or_else(|| missing("tool_choice.tools"))?;
            let names: Vec<String> = allowed.iter().filter_map(name).collect();
            let is_allowed = |tool: &Value| name_of(tool).is_some_and(|n| names.iter().any(|a| a == n));
            tools.retain(is_allowed);
            match raw.get("mode").and_then(Value::as_str) {
                Some(mode @ ("auto" | "required")) => Ok(mode.into()),
                _ => Err(invalid()),
            }
        }
        _ => Err(invalid()),
    }
}

/// Of a chat's tool.
fn name_of(tool: &Value) -> Option<&str> {
    ["function", "custom"].iter().find_map(|kind| tool.get(*kind)?.get("name")?.as_str())
}

/// `text.format` and `text.verbosity`.
fn set_text(chat: &mut Map<String, Value>, body: Fields<'_>) -> Result<(), GatewayError> {
    let Some(text) = body.object("text")? else { return Ok(()) };
    if let Some(verbosity) = text.get("verbosity") {
        chat.insert("verbosity".into(), verbosity.clone());
    }
    let Some(format) = text.get("format") else { return Ok(()) };
    let Value::Object(raw) = format else { return Err(wrong_type("text.format", "an object", format)) };
    let at = "text.format.type";
    match raw.get("type") {
        Some(Value::String(kind)) => match kind.as_str() {
            "text" => {}
            "json_object" => drop(chat.insert("response_format".into(), json!({"type": "json_object"}))),
            "json_schema" => drop(chat.insert("response_format".into(), schema_format(raw)?)),
            _ => {
                let message = format!(
                    "Invalid value for '{at}'. Supported values are: 'text', 'json_object', and 'json_schema'."
                );
                return Err(fault(at, message));
            }
        },
        Some(other) => return Err(wrong_type(at, "a string", other)),
        None => return Err(missing(at)),
    }
    Ok(())
}

fn schema_format(format: &Map<String, Value>) -> Result<Value, GatewayError> {
    for (name, expected, is_right) in
        [("name", "a string", Value::is_string as fn(&Value) -> bool), ("schema", "an object", Value::is_object)]
    {
        match format.get(name) {
            Some(value) if is_right(value) => {}
            Some(other) => return Err(wrong_type(format!("text.format.{name}"), expected, other)),
            None => return Err(missing(format!("text.format.{name}"))),
        }
    }
    let mut schema = format.clone();
    schema.shift_remove("type");
    schema.retain(|_, value| !value.is_null());
    Ok(json!({"type": "json_schema", "json_schema": schema}))
}

fn set_reasoning(chat: &mut Map<String, Value>, body: Fields<'_>) -> Result<(), GatewayError> {
    if let Some(effort) = body.object("reasoning")?.and_then(|reasoning| reasoning.get("effort")) {
        if !effort.is_string() {
            return Err(wrong_type("reasoning.effort", "a string", effort));
        }
        chat.insert("reasoning_effort".into(), effort.clone());
    }
    Ok(())
}

fn set_logprobs(chat: &mut Map<String, Value>, body: Fields<'_>) -> Result<(), GatewayError> {
    let include = body.array("include")?.unwrap_or_default();
    if let Some((index, item)) = include.iter().enumerate().find(|(_, item)| !item.is_string()) {
        return Err(wrong_type(format!("include[{index}]"), "a string", item));
    }
    let top = body.integer("top_logprobs", Bounds::new(0.0, 20.0))?.unwrap_or(0);
    if top > 0 || include.iter().any(|item| item == LOGPROBS) {
        chat.insert("logprobs".into(), true.into());
        chat.insert("top_logprobs".into(), top.into());
    }
    Ok(())
}

/// Tools in this API's flat form inside a chat's body, as some clients mix them, become a chat's.
pub(in crate::http) fn normalise_tools(chat: &mut Map<String, Value>) {
    let flat = |tool: &Value| {
        let kind = ["function", "custom"].into_iter().find(|kind| tool["type"] == *kind)?;
        (tool["name"].is_string() && tool.get(kind).is_none()).then_some(kind)
    };
    if let Some(Value::Array(tools)) = chat.get_mut("tools") {
        for tool in tools {
            match (flat(tool), &*tool) {
                (Some("custom"), Value::Object(custom)) => *tool = nested_custom(custom),
                (Some(_), Value::Object(function)) => *tool = nested(function),
                _ => {}
            }
        }
    }
    if let Some(choice) = chat.get_mut("tool_choice")
        && let Some(kind) = flat(choice)
    {
        *choice = json!({"type": kind, kind: {"name": choice["name"]}});
    }
}
