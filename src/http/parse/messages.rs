//! The `messages` array: roles, content in its three forms, and what its parts need of a target.

use super::fields::{Fields, fault, missing, wrong_type};
use serde_json::{Map, Value};
use spillway_actors::domain::{GatewayError, Message, Needs};

const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];
const PARTS: &str = "'text', 'image_url', 'input_audio', 'file', and 'refusal'";

/// Every message, and the abilities their parts ask for.
pub(super) fn messages(body: Fields<'_>) -> Result<(Vec<Message>, Needs), GatewayError> {
    let items = body.array("messages")?.ok_or_else(|| missing("messages"))?;
    if items.is_empty() {
        let message =
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.";
        return Err(fault("messages", message));
    }
    let mut needs = Needs::default();
    let messages = items.iter().enumerate().map(|(index, item)| message(index, item, &mut needs));
    Ok((messages.collect::<Result<_, _>>()?, needs))
}

fn message(index: usize, item: &Value, needs: &mut Needs) -> Result<Message, GatewayError> {
    let place = format!("messages[{index}]");
    let Value::Object(raw) = item else { return Err(wrong_type(place, "an object", item)) };
    let role = role(&place, raw)?;
    let content = content(&place, role, raw, needs)?;
    Ok(Message { role: role.to_owned(), content, raw: raw.clone() })
}

fn role<'a>(place: &str, raw: &'a Map<String, Value>) -> Result<&'a str, GatewayError> {
    let place = format!("{place}.role");
    let role = match raw.get("role") {
        Some(Value::String(role)) => role.as_str(),
        Some(other) => return Err(wrong_type(place, "a string", other)),
        None => return Err(missing(place)),
    };
    if !ROLES.contains(&role) {
        let known = ROLES.map(|role| format!("'{role}'")).join(", ");
        let message = format!("Invalid value for '{place}'. Supported values are: {known}.");
        return Err(fault(place, message));
    }
    Ok(role)
}

/// The text of a message; parts joined with a newline.
fn content(place: &str, role: &str, raw: &Map<String, Value>, needs: &mut Needs) -> Result<String, GatewayError> {
    let place = format!("{place}.content");
    match raw.get("content") {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => texts(&place, parts, needs),
        // An assistant that called a tool or refused has said nothing.
        None if role == "assistant" && says_something_else(raw) => Ok(String::new()),
        None => Err(missing(place)),
        Some(Value::Null) if matches!(role, "assistant" | "function") => Ok(String::new()),
        Some(other) => Err(wrong_type(place, "a string or an array of parts", other)),
    }
}

fn says_something_else(raw: &Map<String, Value>) -> bool {
    ["tool_calls", "function_call", "refusal", "audio"].iter().any(|name| raw.get(*name).is_some_and(|v| !v.is_null()))
}

fn texts(place: &str, parts: &[Value], needs: &mut Needs) -> Result<String, GatewayError> {
    if parts.is_empty() {
        let message = format!("Invalid '{place}': empty array. Expected at least one part.");
        return Err(fault(place, message));
    }
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        let place = format!("{place}[{index}]");
        let Value::Object(part) = part else { return Err(wrong_type(place, "an object", part)) };
        if let Some(piece) = piece(&place, part, needs)? {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(piece);
        }
    }
    Ok(text)
}

/// The part's text, if it is one of text.
fn piece<'a>(place: &str, part: &'a Map<String, Value>, needs: &mut Needs) -> Result<Option<&'a str>, GatewayError> {
    let kind = match part.get("type") {
        Some(Value::String(kind)) => kind.as_str(),
        Some(other) => return Err(wrong_type(format!("{place}.type"), "a string", other)),
        None => return Err(missing(format!("{place}.type"))),
    };
    match kind {
        "text" | "refusal" => match part.get(kind) {
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(format!("{place}.{kind}"), "a string", other)),
            None => Err(missing(format!("{place}.{kind}"))),
        },
        // A document is read by the same targets that read images.
        "image_url" | "input_audio" | "file" => {
            *(if kind == "input_audio" { &mut needs.audio } else { &mut needs.images }) = true;
            match part.get(kind) {
                Some(Value::Object(object)) => {
                    needs.links |= object.iter().any(|(name, value)| is_link(name, value));
                    Ok(None)
                }
                Some(other) => Err(wrong_type(format!("{place}.{kind}"), "an object", other)),
                None => Err(missing(format!("{place}.{kind}"))),
            }
        }
        _ => {
            let message = format!("Invalid value for '{place}.type'. Supported values are: {PARTS}.");
            Err(fault(format!("{place}.type"), message))
        }
    }
}

/// Whether whoever reads this member would fetch something for it. The data of a file has no colon but in `data:`.
fn is_link(name: &str, value: &Value) -> bool {
    let Value::String(text) = value else { return false };
    let inline = text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"));
    match name {
        "file_id" => true,
        "url" | "file_url" => !inline,
        "filename" | "detail" | "format" => false,
        _ => !inline && text.contains(':'),
    }
}
