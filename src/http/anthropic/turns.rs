//! System text and turns of blocks → chat messages. Results of tools become messages of their own, before the rest of their
//! turn; thoughts are dropped, because no chat carries them. Pure.

use crate::http::parse::{
    fault,
    fields::{Fields, missing, wrong_type},
};
use serde_json::{Map, Value, json};
use spillway_actors::domain::GatewayError;

pub(super) fn messages(body: Fields<'_>) -> Result<Vec<Value>, GatewayError> {
    let turns = body.array("messages")?.ok_or_else(|| missing("messages"))?;
    if turns.is_empty() {
        return Err(fault("messages", "Invalid 'messages': at least one message is required."));
    }
    let mut messages: Vec<Value> = system(body)?.into_iter().collect();
    for (index, raw) in turns.iter().enumerate() {
        let place = format!("messages[{index}]");
        let Value::Object(turn) = raw else { return Err(wrong_type(place, "an object", raw)) };
        match text(&place, turn, "role")? {
            "user" => user(&mut messages, &place, turn)?,
            "assistant" => messages.push(assistant(&place, turn)?),
            "system" => messages.push(json!({"role": "system", "content": joined(&place, turn)?})),
            _ => {
                let at = format!("{place}.role");
                return Err(fault(
                    &at,
                    format!("Invalid value for '{at}'. Supported values are: 'user' and 'assistant'."),
                ));
            }
        }
    }
    Ok(messages)
}

fn system(body: Fields<'_>) -> Result<Option<Value>, GatewayError> {
    let text = match body.get("system") {
        None => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(blocks)) => texts("system", blocks)?,
        Some(other) => return Err(wrong_type("system", "a string or an array of text blocks", other)),
    };
    Ok((!text.is_empty()).then(|| json!({"role": "system", "content": text})))
}

/// The content of a turn that holds text and nothing else.
fn joined(place: &str, turn: &Map<String, Value>) -> Result<String, GatewayError> {
    match content(place, turn)? {
        Content::Text(text) => Ok(text.to_owned()),
        Content::Blocks(blocks) => texts(&format!("{place}.content"), blocks),
    }
}

fn texts(place: &str, blocks: &[Value]) -> Result<String, GatewayError> {
    let text = |(index, raw): (usize, &Value)| {
        let place = format!("{place}[{index}]");
        let Value::Object(block) = raw else { return Err(wrong_type(place, "an object", raw)) };
        match text(&place, block, "type")? {
            "text" => text(&place, block, "text").map(str::to_owned),
            _ => {
                let at = format!("{place}.type");
                Err(fault(&at, format!("Invalid value for '{at}'. Supported value is: 'text'.")))
            }
        }
    };
    Ok(blocks.iter().enumerate().map(text).collect::<Result<Vec<_>, _>>()?.join("\n"))
}

enum Content<'a> {
    Text(&'a str),
    Blocks(&'a [Value]),
}

fn content<'a>(place: &str, turn: &'a Map<String, Value>) -> Result<Content<'a>, GatewayError> {
    match turn.get("content") {
        Some(Value::String(text)) => Ok(Content::Text(text)),
        Some(Value::Array(blocks)) => Ok(Content::Blocks(blocks)),
        Some(other) => Err(wrong_type(format!("{place}.content"), "a string or an array of blocks", other)),
        None => Err(missing(format!("{place}.content"))),
    }
}

fn user(messages: &mut Vec<Value>, place: &str, turn: &Map<String, Value>) -> Result<(), GatewayError> {
    let blocks = match content(place, turn)? {
        Content::Text(text) => {
            messages.push(json!({"role": "user", "content": text}));
            return Ok(());
        }
        Content::Blocks(blocks) => blocks,
    };
    let mut parts = Vec::new();
    let mut answers_tools = false;
    for (index, raw) in blocks.iter().enumerate() {
        let place = format!("{place}.content[{index}]");
        let Value::Object(block) = raw else { return Err(wrong_type(place, "an object", raw)) };
        if text(&place, block, "type")? == "tool_result" {
            answers_tools = true;
            messages.push(result(&place, block, &mut parts)?);
        } else {
            parts.push(part(&place, block)?);
        }
    }
    if !parts.is_empty() || !answers_tools {
        messages.push(json!({"role": "user", "content": plain(parts)}));
    }
    Ok(())
}

/// One text stays a string, which every provider takes.
fn plain(parts: Vec<Value>) -> Value {
    match parts.as_slice() {
        [] => "".into(),
        [only] if only["type"] == "text" => only["text"].clone(),
        _ => parts.into(),
    }
}

/// A tool's result as text; its images go into the turn, because a chat's tools answer in text.
fn result(place: &str, block: &Map<String, Value>, parts: &mut Vec<Value>) -> Result<Value, GatewayError> {
    let id = text(place, block, "tool_use_id")?;
    let said = match block.get("content") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(blocks)) => {
            let mut said = Vec::new();
            for (index, raw) in blocks.iter().enumerate() {
                let place = format!("{place}.content[{index}]");
                let Value::Object(block) = raw else { return Err(wrong_type(place, "an object", raw)) };
                let part = part(&place, block)?;
                match part["text"].as_str() {
                    Some(text) => said.push(text.to_owned()),
                    None => parts.push(part),
                }
            }
            said.join("\n")
        }
        Some(other) => return Err(wrong_type(format!("{place}.content"), "a string or an array of blocks", other)),
    };
    Ok(json!({"role": "tool", "tool_call_id": id, "content": said}))
}

fn part(place: &str, block: &Map<String, Value>) -> Result<Value, GatewayError> {
    match text(place, block, "type")? {
        "text" => Ok(json!({"type": "text", "text": text(place, block, "text")?})),
        "image" => {
            let (place, source) = source(place, block)?;
            let url = match text(&place, source, "type")? {
                "base64" => data_uri(&place, source)?,
                "url" => text(&place, source, "url")?.to_owned(),
                _ => return Err(unknown(&place, "'base64' and 'url'")),
            };
            Ok(json!({"type": "image_url", "image_url": {"url": url}}))
        }
        "document" => {
            let (place, source) = source(place, block)?;
            match text(&place, source, "type")? {
                "text" => Ok(json!({"type": "text", "text": text(&place, source, "data")?})),
                "base64" => {
                    let name = Fields(block).text("title")?.unwrap_or("document");
                    Ok(json!({"type": "file", "file": {"filename": name, "file_data": data_uri(&place, source)?}}))
                }
                _ => Err(unknown(&place, "'base64' and 'text'")),
            }
        }
        _ => Err(unknown(place, "'text', 'image', 'document', and 'tool_result'")),
    }
}

fn source<'a>(place: &str, block: &'a Map<String, Value>) -> Result<(String, &'a Map<String, Value>), GatewayError> {
    let place = format!("{place}.source");
    match block.get("source") {
        Some(Value::Object(source)) => Ok((place, source)),
        Some(other) => Err(wrong_type(place, "an object", other)),
        None => Err(missing(place)),
    }
}

fn data_uri(place: &str, source: &Map<String, Value>) -> Result<String, GatewayError> {
    Ok(format!("data:{};base64,{}", text(place, source, "media_type")?, text(place, source, "data")?))
}

fn unknown(place: &str, known: &str) -> GatewayError {
    let at = format!("{place}.type");
    fault(&at, format!("Invalid value for '{at}'. Supported values are: {known}."))
}

fn assistant(place: &str, turn: &Map<String, Value>) -> Result<Value, GatewayError> {
    let blocks = match content(place, turn)? {
        Content::Text(text) => return Ok(json!({"role": "assistant", "content": text})),
        Content::Blocks(blocks) => blocks,
    };
    let (mut said, mut calls) = (Vec::new(), Vec::new());
    for (index, raw) in blocks.iter().enumerate() {
        let place = format!("{place}.content[{index}]");
        let Value::Object(block) = raw else { return Err(wrong_type(place, "an object", raw)) };
        match text(&place, block, "type")? {
            "text" => said.push(text(&place, block, "text")?),
            "tool_use" => calls.push(call(&place, block)?),
            "thinking" | "redacted_thinking" => {}
            _ => return Err(unknown(&place, "'text', 'tool_use', 'thinking', and 'redacted_thinking'")),
        }
    }
    // Blocks of one turn go on with each other.
    let mut message = json!({"role": "assistant", "content": said.concat()});
    if !calls.is_empty() {
        if said.is_empty() {
            message["content"] = Value::Null;
        }
        message["tool_calls"] = calls.into();
    }
    Ok(message)
}

fn call(place: &str, block: &Map<String, Value>) -> Result<Value, GatewayError> {
    let (id, name) = (text(place, block, "id")?, text(place, block, "name")?);
    let arguments = match block.get("input") {
        Some(input @ Value::Object(_)) => input.to_string(),
        Some(other) => return Err(wrong_type(format!("{place}.input"), "an object", other)),
        None => return Err(missing(format!("{place}.input"))),
    };
    Ok(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}))
}

fn text<'a>(place: &str, object: &'a Map<String, Value>, name: &str) -> Result<&'a str, GatewayError> {
    match object.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(wrong_type(format!("{place}.{name}"), "a string", other)),
        None => Err(missing(format!("{place}.{name}"))),
    }
}
