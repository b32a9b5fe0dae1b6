//! `input` items → chat messages. Calls of one turn become one assistant message, beside what it said.

use crate::http::parse::{
    fault,
    fields::{missing, wrong_type},
};
use serde_json::{Map, Value, json};
use spillway_actors::domain::GatewayError;

const ROLES: [&str; 4] = ["system", "developer", "user", "assistant"];

/// # Errors
/// An item is malformed, or of a kind that only a stateful service or one with tools of its own knows.
pub(super) fn messages(items: &[Value]) -> Result<Vec<Value>, GatewayError> {
    let mut messages = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let place = format!("input[{index}]");
        let Value::Object(item) = item else { return Err(wrong_type(place, "an object", item)) };
        add(&mut messages, &place, item)?;
    }
    Ok(messages)
}

fn add(messages: &mut Vec<Value>, place: &str, item: &Map<String, Value>) -> Result<(), GatewayError> {
    let kind = match item.get("type") {
        Some(Value::String(kind)) => kind.as_str(),
        Some(Value::Null) | None => "message",
        Some(other) => return Err(wrong_type(format!("{place}.type"), "a string", other)),
    };
    match kind {
        "message" => messages.push(message(place, item)?),
        "function_call" => call(messages, place, item, "function", "arguments")?,
        "custom_tool_call" => call(messages, place, item, "custom", "input")?,
        "function_call_output" | "custom_tool_call_output" => messages.push(result(place, item)?),
        // What a model thought before is between it and its maker; no chat carries it.
        "reasoning" => {}
        "item_reference" => {
            let message = format!("'{place}' refers to a stored item, and none is stored here: send the item itself.");
            return Err(fault(place, message));
        }
        _ => {
            let at = format!("{place}.type");
            let message = format!(
                "Invalid value for '{at}'. Supported values are: 'message', 'function_call', 'function_call_output', 'custom_tool_call', 'custom_tool_call_output', and 'reasoning'."
            );
            return Err(fault(at, message));
        }
    }
    Ok(())
}

fn message(place: &str, item: &Map<String, Value>) -> Result<Value, GatewayError> {
    let role = text(place, item, "role")?;
    if !ROLES.contains(&role) {
        let at = format!("{place}.role");
        let known = ROLES.map(|role| format!("'{role}'")).join(", ");
        return Err(fault(&at, format!("Invalid value for '{at}'. Supported values are: {known}.")));
    }
    let content = match item.get("content") {
        Some(Value::String(text)) => Value::from(text.as_str()),
        Some(Value::Array(parts)) => parts_of(&format!("{place}.content"), parts)?,
        Some(other) => return Err(wrong_type(format!("{place}.content"), "a string or an array of parts", other)),
        None => return Err(missing(format!("{place}.content"))),
    };
    Ok(json!({"role": role, "content": content}))
}

/// One text stays a string, which every provider takes.
fn parts_of(place: &str, parts: &[Value]) -> Result<Value, GatewayError> {
    let parts = parts.iter().enumerate().map(|(index, raw)| part(&format!("{place}[{index}]"), raw));
    let parts = parts.collect::<Result<Vec<Value>, GatewayError>>()?;
    match parts.as_slice() {
        [] => Ok("".into()),
        [only] if only["type"] == "text" => Ok(only["text"].clone()),
        _ => Ok(parts.into()),
    }
}

fn part(place: &str, raw: &Value) -> Result<Value, GatewayError> {
    let Value::Object(part) = raw else { return Err(wrong_type(place, "an object", raw)) };
    match text(place, part, "type")? {
        "input_text" | "output_text" | "text" => Ok(json!({"type": "text", "text": text(place, part, "text")?})),
        "refusal" => Ok(json!({"type": "refusal", "refusal": text(place, part, "refusal")?})),
        "input_image" => {
            let mut image = json!({"url": by_value(place, part, "image_url")?});
            if let Some(detail @ Value::String(_)) = part.get("detail") {
                image["detail"] = detail.clone();
            }
            Ok(json!({"type": "image_url", "image_url": image}))
        }
        "input_file" => {
            let mut file = json!({"file_data": by_value(place, part, "file_data")?});
            if let Some(name @ Value::String(_)) = part.get("filename") {
                file["filename"] = name.clone();
            }
            Ok(json!({"type": "file", "file": file}))
        }
        "input_audio" => match part.get("input_audio") {
            Some(audio @ Value::Object(_)) => Ok(json!({"type": "input_audio", "input_audio": audio})),
            Some(other) => Err(wrong_type(format!("{place}.input_audio"), "an object", other)),
            None => Err(missing(format!("{place}.input_audio"))),
        },
        _ => {
            let at = format!("{place}.type");
            let message = format!(
                "Invalid value for '{at}'. Supported values are: 'input_text', 'input_image', 'input_file', 'input_audio', 'output_text', and 'refusal'."
            );
            Err(fault(at, message))
        }
    }
}

/// The field that holds the thing itself; an uploaded file's id leads nowhere.
fn by_value<'a>(place: &str, part: &'a Map<String, Value>, name: &str) -> Result<&'a str, GatewayError> {
    let at = format!("{place}.{name}");
    match part.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Null) | None if part.get("file_id").is_some_and(|id| !id.is_null()) => {
            Err(fault(format!("{place}.file_id"), format!("No file is stored here: send it inside '{at}'.")))
        }
        Some(Value::Null) | None => Err(missing(at)),
        Some(other) => Err(wrong_type(at, "a string", other)),
    }
}

/// A call belongs to the assistant's turn that stands last, or begins one.
fn call(
    messages: &mut Vec<Value>,
    place: &str,
    item: &Map<String, Value>,
    kind: &str,
    said: &str,
) -> Result<(), GatewayError> {
    let (id, name) = (text(place, item, "call_id")?, text(place, item, "name")?);
    let call = json!({"id": id, "type": kind, kind: {"name": name, said: text(place, item, said)?}});
    if let Some(Value::Object(last)) = messages.last_mut().filter(|last| last["role"] == "assistant")
        && let Value::Array(calls) = last.entry("tool_calls").or_insert_with(|| json!([]))
    {
        calls.push(call);
    } else {
        messages.push(json!({"role": "assistant", "content": null, "tool_calls": [call]}));
    }
    Ok(())
}

fn result(place: &str, item: &Map<String, Value>) -> Result<Value, GatewayError> {
    let id = text(place, item, "call_id")?;
    let content = match item.get("output") {
        Some(Value::String(text)) => Value::from(text.as_str()),
        Some(Value::Array(parts)) => parts_of(&format!("{place}.output"), parts)?,
        Some(other) => return Err(wrong_type(format!("{place}.output"), "a string or an array of parts", other)),
        None => return Err(missing(format!("{place}.output"))),
    };
    Ok(json!({"role": "tool", "tool_call_id": id, "content": content}))
}

fn text<'a>(place: &str, item: &'a Map<String, Value>, name: &str) -> Result<&'a str, GatewayError> {
    match item.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(wrong_type(format!("{place}.{name}"), "a string", other)),
        None => Err(missing(format!("{place}.{name}"))),
    }
}
