//! How the answer shall look: `response_format`, tools, `logprobs`, `logit_bias`. What is malformed is a fault of the
//! request; what only local targets cannot do is noted, because a provider may.

use super::fields::{Bounds, Fields, fault, missing, wrong_type};
use serde_json::Value;
use spillway_actors::{
    domain::{Format, GatewayError, OutputWish, RequestKind, Tool, ToolChoice, ToolWish, Unmet},
    tools,
};
use std::sync::Arc;

/// Longest name of a function, as in OpenAI's interface.
const MAX_NAME: usize = 64;
const MAX_TOOLS: usize = 128;

pub(super) fn output(body: Fields<'_>, kind: RequestKind) -> Result<OutputWish, GatewayError> {
    let mut output = OutputWish { logit_bias: logit_bias(body)?, ..OutputWish::default() };
    if kind == RequestKind::Completion {
        output.logprobs = body.integer("logprobs", Bounds::new(0.0, 20.0))?.map(narrow);
        output.unmet = tools::unmet(&output);
        return Ok(output);
    }
    output.logprobs = chat_logprobs(body)?;
    output.format = format(body)?;
    let mut unmet = None;
    output.tools = offered(body, &mut unmet)?.map(Arc::new);
    output.unmet = unmet.or_else(|| tools::unmet(&output));
    Ok(output)
}

fn narrow(count: i64) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}

fn chat_logprobs(body: Fields<'_>) -> Result<Option<u8>, GatewayError> {
    let wanted = body.flag("logprobs")?.unwrap_or(false);
    let top = body.integer("top_logprobs", Bounds::new(0.0, 20.0))?.unwrap_or(0);
    if top > 0 && !wanted {
        return Err(fault("top_logprobs", "'top_logprobs' needs 'logprobs' to be true."));
    }
    Ok(wanted.then(|| narrow(top)))
}

/// Keys are token ids of the model that answers.
fn logit_bias(body: Fields<'_>) -> Result<Vec<(i32, f32)>, GatewayError> {
    let Some(biases) = body.object("logit_bias")? else { return Ok(Vec::new()) };
    // A bias of nothing is none, whatever it is for.
    let counts = |(_, value): &(&String, &Value)| value.as_f64() != Some(0.0);
    let bias = |(token, value): (&String, &Value)| {
        let value = value.as_f64().filter(|bias| (-100.0..=100.0).contains(bias));
        let value = value.ok_or_else(|| {
            fault("logit_bias", "Invalid 'logit_bias': every bias must be a number from -100 to 100.")
        })?;
        let token = token.trim().parse::<i32>().ok().filter(|token| *token >= 0);
        let token = token.ok_or_else(|| fault("logit_bias", "Invalid 'logit_bias': every key must be a token id."))?;
        Ok((token, value as f32))
    };
    biases.0.iter().filter(counts).map(bias).collect()
}

fn format(body: Fields<'_>) -> Result<Format, GatewayError> {
    let Some(format) = body.object("response_format")? else { return Ok(Format::Text) };
    let at = "response_format.type";
    match format.get("type") {
        Some(Value::String(kind)) if kind == "text" => Ok(Format::Text),
        Some(Value::String(kind)) if kind == "json_object" => Ok(Format::Object),
        Some(Value::String(kind)) if kind == "json_schema" => match format.get("json_schema") {
            Some(Value::Object(named)) => schema(Fields(named)),
            Some(other) => Err(wrong_type("response_format.json_schema", "an object", other)),
            None => Err(missing("response_format.json_schema")),
        },
        Some(Value::String(_)) => Err(fault(
            at,
            format!("Invalid value for '{at}'. Supported values are: 'text', 'json_object', and 'json_schema'."),
        )),
        Some(other) => Err(wrong_type(at, "a string", other)),
        None => Err(missing(at)),
    }
}

fn schema(named: Fields<'_>) -> Result<Format, GatewayError> {
    let at = "response_format.json_schema.schema";
    match named.get("schema") {
        Some(schema @ Value::Object(_)) => Ok(Format::Schema(Arc::new(schema.clone()))),
        Some(other) => Err(wrong_type(at, "an object", other)),
        None => Ok(Format::Object),
    }
}

/// What may be called: `tools`, or `functions` as they were called before.
fn offered(body: Fields<'_>, unmet: &mut Option<Unmet>) -> Result<Option<ToolWish>, GatewayError> {
    for choice in ["tool_choice", "function_call"] {
        match body.get(choice) {
            None | Some(Value::String(_) | Value::Object(_)) => {}
            Some(other) => return Err(wrong_type(choice, "a string or an object", other)),
        }
    }
    let parallel = body.flag("parallel_tool_calls")?;
    let modern = body.array("tools")?.unwrap_or_default();
    let old = body.array("functions")?.unwrap_or_default();
    let (list, items, legacy) = if modern.is_empty() { ("functions", old, true) } else { ("tools", modern, false) };
    let wanted = choice(body, legacy, unmet)?;
    if items.is_empty() {
        return match wanted {
            Some(ToolChoice::Required | ToolChoice::Named(_)) => {
                let name = if body.get("tool_choice").is_some() { "tool_choice" } else { "function_call" };
                Err(fault(name, format!("Invalid '{name}': it needs 'tools' to choose from.")))
            }
            Some(ToolChoice::Auto) | None => Ok(None),
        };
    }
    if items.len() > MAX_TOOLS {
        return Err(fault(list, format!("Invalid '{list}': array too long. Expected at most {MAX_TOOLS} items.")));
    }
    let mut tools = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        tools.extend(tool(&format!("{list}[{index}]"), item, legacy, unmet)?);
    }
    let Some(choice) = wanted else { return Ok(None) };
    if let ToolChoice::Named(name) = &choice
        && !tools.iter().any(|tool| tool.name == *name)
    {
        let field = if legacy { "function_call" } else { "tool_choice" };
        return Err(fault(field, format!("Invalid '{field}': no function of that name is in '{list}'.")));
    }
    // Tools of kinds that only providers know leave none: noted as unmet.
    Ok((!tools.is_empty()).then_some(ToolWish { tools, choice, parallel, legacy }))
}

/// `None`: nothing may be called.
fn choice(body: Fields<'_>, legacy: bool, unmet: &mut Option<Unmet>) -> Result<Option<ToolChoice>, GatewayError> {
    let field = if legacy && body.get("tool_choice").is_none() { "function_call" } else { "tool_choice" };
    let choice = match body.get(field) {
        None => ToolChoice::Auto,
        Some(Value::String(choice)) => match choice.as_str() {
            "none" => return Ok(None),
            "auto" => ToolChoice::Auto,
            "required" => ToolChoice::Required,
            _ => {
                let known = "Supported values are: 'none', 'auto', and 'required'.";
                return Err(fault(field, format!("Invalid value for '{field}'. {known}")));
            }
        },
        Some(Value::Object(choice)) => {
            let kind = choice.get("type").and_then(Value::as_str);
            let function = choice.get("function").and_then(Value::as_object);
            let name = if field == "function_call" { choice.get("name") } else { function.and_then(|f| f.get("name")) };
            match (kind, name) {
                (None | Some("function"), Some(Value::String(name))) => ToolChoice::Named(name.clone()),
                (None | Some("function"), Some(other)) => {
                    return Err(wrong_type(format!("{field}.function.name"), "a string", other));
                }
                (None | Some("function"), None) => return Err(missing(format!("{field}.function.name"))),
                (Some(_), _) => {
                    note(unmet, format!("{field}.type"));
                    ToolChoice::Auto
                }
            }
        }
        Some(other) => return Err(wrong_type(field, "a string or an object", other)),
    };
    Ok(Some(choice))
}

/// Something whose kind only a provider may know.
fn note(unmet: &mut Option<Unmet>, param: String) {
    let message = format!("Invalid value for '{param}': local models know the type 'function' only.");
    unmet.get_or_insert(Unmet { param, message });
}

/// `None`: a tool of another kind than a function.
fn tool(place: &str, item: &Value, legacy: bool, unmet: &mut Option<Unmet>) -> Result<Option<Tool>, GatewayError> {
    let Value::Object(item) = item else { return Err(wrong_type(place, "an object", item)) };
    if legacy {
        return function(place, item).map(Some);
    }
    match item.get("type") {
        Some(Value::String(kind)) if kind == "function" => {}
        Some(Value::String(_)) => {
            note(unmet, format!("{place}.type"));
            return Ok(None);
        }
        Some(other) => return Err(wrong_type(format!("{place}.type"), "a string", other)),
        None => return Err(missing(format!("{place}.type"))),
    }
    match item.get("function") {
        Some(Value::Object(object)) => function(&format!("{place}.function"), object).map(Some),
        Some(other) => Err(wrong_type(format!("{place}.function"), "an object", other)),
        None => Err(missing(format!("{place}.function"))),
    }
}

fn function(place: &str, object: &serde_json::Map<String, Value>) -> Result<Tool, GatewayError> {
    let at = format!("{place}.name");
    let name = match object.get("name") {
        Some(Value::String(name)) => name.clone(),
        Some(other) => return Err(wrong_type(at, "a string", other)),
        None => return Err(missing(at)),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_name) {
        let expected = format!("expected 1 to {MAX_NAME} letters, digits, '_' or '-'");
        return Err(fault(&at, format!("Invalid '{at}': {expected}.")));
    }
    let parameters = match object.get("parameters") {
        None | Some(Value::Null) => None,
        Some(schema @ Value::Object(_)) => Some(schema.clone()),
        Some(other) => return Err(wrong_type(format!("{place}.parameters"), "an object", other)),
    };
    let strict = object.get("strict").and_then(Value::as_bool).unwrap_or(false);
    Ok(Tool { name, function: Value::Object(object.clone()), parameters, strict })
}
