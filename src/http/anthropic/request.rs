//! A body of `POST /v1/messages` → a chat's body. Pure.

use super::turns;
use crate::http::parse::{
    fault,
    fields::{Bounds, Fields, missing, wrong_type},
};
use serde_json::{Map, Value, json};
use spillway_actors::domain::GatewayError;

/// Goes on under the same name: this API's fields that a chat has too, and the gateway's own.
const SAME: [&str; 6] = ["model", "stream", "top_p", "budget_sensitive", "local_only", "max_latency_ms"];

/// # Errors
/// `max_tokens` is missing: the one field that a message needs and its count does not.
pub(super) fn needs_max_tokens(body: &Map<String, Value>) -> Result<(), GatewayError> {
    Fields(body).get("max_tokens").map(|_| ()).ok_or_else(|| missing("max_tokens"))
}

/// Whether the client asked for the model's thoughts.
pub(super) fn shows_thoughts(body: &Map<String, Value>) -> bool {
    let thinking = body.get("thinking").and_then(|thinking| thinking.get("type")).and_then(Value::as_str);
    thinking.is_some_and(|kind| kind != "disabled")
}

/// What a chat has no words for, and a target that speaks this API understands: how much it shall think.
pub(super) fn own(body: &Map<String, Value>) -> Map<String, Value> {
    let object = |name: &str| body.get(name).and_then(Value::as_object);
    let mut own = Map::new();
    own.extend(object("thinking").map(|thinking| ("thinking".to_owned(), Value::Object(thinking.clone()))));
    if let Some(mut config) = object("output_config").cloned() {
        // It goes on as the chat's `response_format`.
        config.shift_remove("format");
        if !config.is_empty() {
            own.insert("output_config".into(), config.into());
        }
    }
    own
}

/// The same request as a chat. What only Anthropic's own service knows (containers, servers of tools, cache marks) is
/// left out where an answer can go without, and refused where it cannot.
///
/// # Errors
/// The body is malformed, or asks for what cannot be done here.
pub(super) fn chat_body(body: Map<String, Value>) -> Result<Map<String, Value>, GatewayError> {
    let fields = Fields(&body);
    let mut chat = Map::new();
    chat.insert("messages".into(), turns::messages(fields)?.into());
    if let Some(most) = fields.integer("max_tokens", Bounds::new(1.0, 9.2e18))? {
        chat.insert("max_tokens".into(), most.into());
    }
    if let Some(temperature) = fields.decimal("temperature", Bounds::new(0.0, 1.0))? {
        chat.insert("temperature".into(), temperature.into());
    }
    if let Some(top_k) = fields.integer("top_k", Bounds::new(0.0, 9.2e18))? {
        chat.insert("top_k".into(), top_k.into());
    }
    if let Some(stops) = fields.array("stop_sequences")?.filter(|stops| !stops.is_empty()) {
        set_stops(&mut chat, stops)?;
    }
    set_tools(&mut chat, fields)?;
    set_format(&mut chat, fields)?;
    fields.object("thinking")?;
    if let Some(user) = fields.object("metadata")?.map(|metadata| metadata.text("user_id")).transpose()?.flatten() {
        chat.insert("user".into(), user.into());
    }
    for name in SAME {
        chat.extend(fields.get(name).map(|value| (name.to_owned(), value.clone())));
    }
    Ok(chat)
}

fn set_stops(chat: &mut Map<String, Value>, stops: &[Value]) -> Result<(), GatewayError> {
    for (index, stop) in stops.iter().enumerate() {
        let at = format!("stop_sequences[{index}]");
        match stop {
            Value::String(text) if text.is_empty() => {
                return Err(fault(&at, format!("Invalid '{at}': a stop sequence must not be empty.")));
            }
            Value::String(_) => {}
            other => return Err(wrong_type(at, "a string", other)),
        }
    }
    chat.insert("stop".into(), stops.into());
    Ok(())
}

fn set_tools(chat: &mut Map<String, Value>, body: Fields<'_>) -> Result<(), GatewayError> {
    let tools = body.array("tools")?.unwrap_or_default();
    let tools = tools.iter().enumerate().map(|(index, raw)| tool(&format!("tools[{index}]"), raw));
    let tools = tools.collect::<Result<Vec<Value>, _>>()?;
    let choice = body.object("tool_choice")?.map(choice).transpose()?;
    if tools.is_empty() {
        return match choice {
            Some((Value::String(wish), _)) if wish == "required" => Err(no_tools()),
            Some((Value::Object(_), _)) => Err(no_tools()),
            _ => Ok(()),
        };
    }
    chat.insert("tools".into(), tools.into());
    if let Some((wish, one_by_one)) = choice {
        chat.insert("tool_choice".into(), wish);
        if one_by_one {
            chat.insert("parallel_tool_calls".into(), false.into());
        }
    }
    Ok(())
}

fn no_tools() -> GatewayError {
    fault("tool_choice", "Invalid 'tool_choice': there are no 'tools' to choose from.")
}

fn tool(place: &str, raw: &Value) -> Result<Value, GatewayError> {
    let Value::Object(fields) = raw else { return Err(wrong_type(place, "an object", raw)) };
    let kind =
        Fields(fields).text("type").map_err(|_| wrong_type(format!("{place}.type"), "a string", &raw["type"]))?;
    if kind.is_some_and(|kind| kind != "custom") {
        let at = format!("{place}.type");
        let message =
            format!("Unsupported value for '{at}': this gateway runs no tools of its own; offer a 'custom' one.");
        return Err(fault(at, message));
    }
    let name = match fields.get("name") {
        Some(Value::String(name)) => name,
        Some(other) => return Err(wrong_type(format!("{place}.name"), "a string", other)),
        None => return Err(missing(format!("{place}.name"))),
    };
    let schema = match fields.get("input_schema") {
        Some(schema @ Value::Object(_)) => schema,
        Some(other) => return Err(wrong_type(format!("{place}.input_schema"), "an object", other)),
        None => return Err(missing(format!("{place}.input_schema"))),
    };
    let mut function = json!({"name": name, "parameters": schema});
    for name in ["description", "strict"] {
        if let Some(value) = Fields(fields).get(name) {
            function[name] = value.clone();
        }
    }
    Ok(json!({"type": "function", "function": function}))
}

/// The wish in a chat's words, and whether calls must come one by one.
fn choice(choice: Fields<'_>) -> Result<(Value, bool), GatewayError> {
    let one_by_one = choice.flag("disable_parallel_tool_use")?.unwrap_or(false);
    let wish = match choice.text("type")?.ok_or_else(|| missing("tool_choice.type"))? {
        "auto" => "auto".into(),
        "any" => "required".into(),
        "none" => "none".into(),
        "tool" => {
            let name = choice.text("name")?.ok_or_else(|| missing("tool_choice.name"))?;
            json!({"type": "function", "function": {"name": name}})
        }
        _ => {
            let at = "tool_choice.type";
            let message = format!("Invalid value for '{at}'. Supported values are: 'auto', 'any', 'tool', and 'none'.");
            return Err(fault(at, message));
        }
    };
    Ok((wish, one_by_one))
}

/// `output_config.format`, or `output_format` as it was called before.
fn set_format(chat: &mut Map<String, Value>, body: Fields<'_>) -> Result<(), GatewayError> {
    let config = body.object("output_config")?;
    let (at, format) = match config.map(|config| config.object("format")).transpose()?.flatten() {
        Some(format) => ("output_config.format", format),
        None => match body.object("output_format")? {
            Some(format) => ("output_format", format),
            None => return Ok(()),
        },
    };
    if format.text("type")? != Some("json_schema") {
        let at = format!("{at}.type");
        return Err(fault(&at, format!("Invalid value for '{at}'. Supported value is: 'json_schema'.")));
    }
    let schema = format.get("schema").ok_or_else(|| missing(format!("{at}.schema")))?;
    if !schema.is_object() {
        return Err(wrong_type(format!("{at}.schema"), "an object", schema));
    }
    let named = json!({"name": "answer", "schema": schema, "strict": true});
    chat.insert("response_format".into(), json!({"type": "json_schema", "json_schema": named}));
    Ok(())
}
