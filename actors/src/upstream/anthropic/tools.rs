//! OpenAI's tool definitions and wishes as Anthropic's.

use super::body::unsayable;
use crate::domain::GatewayError;
use serde_json::{Map, Value, json};

/// Sets `tools` and `tool_choice`; neither is sent without a tool.
///
/// # Errors
/// A tool that is no function, or a wish that cannot be said.
pub(super) fn set(body: &mut Map<String, Value>, asked: &Map<String, Value>) -> Result<(), GatewayError> {
    let list = |name: &str| asked.get(name).and_then(Value::as_array).filter(|items| !items.is_empty());
    let (tools, choice) = match (list("tools"), list("functions")) {
        (Some(tools), _) => {
            let tool = |(index, tool): (usize, &Value)| {
                let function = tool.get("function").filter(|_| tool["type"] == "function");
                let place = format!("tools[{index}]");
                let function = function.ok_or_else(|| unsayable(&*place, "only functions can be offered"))?;
                definition(&place, function, tool.get("cache_control"))
            };
            let tools = tools.iter().enumerate().map(tool).collect::<Result<Vec<_>, _>>()?;
            (tools, choice(asked.get("tool_choice"), "tool_choice")?)
        }
        (None, Some(functions)) => {
            let tool = |(index, tool): (usize, &Value)| definition(&format!("functions[{index}]"), tool, None);
            let tools = functions.iter().enumerate().map(tool).collect::<Result<Vec<_>, _>>()?;
            (tools, choice(asked.get("function_call"), "function_call")?)
        }
        (None, None) => return Ok(()),
    };
    body.insert("tools".into(), tools.into());
    let one_by_one = asked.get("parallel_tool_calls") == Some(&Value::Bool(false));
    let choice = choice.or_else(|| one_by_one.then(|| json!({"type": "auto"})));
    if let Some(mut choice) = choice {
        if one_by_one && choice["type"] != "none" {
            choice["disable_parallel_tool_use"] = true.into();
        }
        body.insert("tool_choice".into(), choice);
    }
    Ok(())
}

fn definition(place: &str, function: &Value, cache: Option<&Value>) -> Result<Value, GatewayError> {
    let name = function.get("name").and_then(Value::as_str);
    let name = name.ok_or_else(|| unsayable(format!("{place}.name"), "it must be a string"))?;
    let mut schema = function.get("parameters").filter(|schema| schema.is_object()).cloned().unwrap_or(json!({}));
    // A schema without its type is fine elsewhere.
    if schema.get("type").is_none() {
        schema["type"] = "object".into();
    }
    let mut tool = json!({"name": name, "input_schema": schema});
    if let Some(description) = function.get("description").and_then(Value::as_str) {
        tool["description"] = description.into();
    }
    if function.get("strict") == Some(&Value::Bool(true)) {
        tool["strict"] = true.into();
    }
    if let Some(cache) = cache.filter(|cache| cache.is_object()) {
        tool["cache_control"] = cache.clone();
    }
    Ok(tool)
}

fn choice(choice: Option<&Value>, place: &str) -> Result<Option<Value>, GatewayError> {
    let Some(choice) = choice.filter(|choice| !choice.is_null()) else { return Ok(None) };
    let named = choice.pointer("/function/name").or_else(|| choice.get("name")).and_then(Value::as_str);
    Ok(Some(match (choice.as_str(), named) {
        (Some("auto"), _) => json!({"type": "auto"}),
        (Some("none"), _) => json!({"type": "none"}),
        (Some("required"), _) => json!({"type": "any"}),
        (None, Some(name)) => json!({"type": "tool", "name": name}),
        _ => return Err(unsayable(place, "it must be auto, none, required or one function")),
    }))
}
