//! Anthropic's request, as strictly as Anthropic takes it: a gateway that sends what would be refused there must learn it
//! here. Pure.

use crate::sim::embeddings::Texts;
use crate::sim::request::{Endpoint, SimRequest, text_of, tokens_of};
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    model: String,
    max_tokens: u32,
    messages: Vec<Turn>,
    system: Option<Value>,
    stream: Option<bool>,
    stop_sequences: Option<Vec<String>>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    #[serde(rename = "top_k")]
    _top_k: Option<u32>,
    tools: Option<Vec<Tool>>,
    tool_choice: Option<Map<String, Value>>,
    #[serde(rename = "metadata")]
    _metadata: Option<Metadata>,
    #[serde(rename = "thinking")]
    _thinking: Option<Map<String, Value>>,
    #[serde(rename = "output_config")]
    _output_config: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Turn {
    role: String,
    content: Value,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tool {
    name: String,
    input_schema: Map<String, Value>,
    #[serde(rename = "description")]
    _description: Option<String>,
    #[serde(rename = "strict")]
    _strict: Option<bool>,
    #[serde(rename = "cache_control")]
    _cache_control: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    #[serde(rename = "user_id")]
    _user_id: Option<String>,
}

/// # Errors
/// What is wrong with the body, for its sender.
pub(in crate::sim) fn parse(body: &[u8]) -> Result<SimRequest, String> {
    let raw: Raw = serde_json::from_slice(body).map_err(|error| format!("invalid body: {error}"))?;
    sampling(&raw)?;
    let (last, before) = raw.messages.split_last().ok_or("messages: at least one message is required")?;
    let mut calls = Vec::new();
    for turn in &raw.messages {
        calls = check(turn, &calls)?;
    }
    let mut spoken: Vec<(&str, String)> = raw.system.iter().map(|system| ("system", text_of(system))).collect();
    spoken.extend(before.iter().map(|turn| (turn.role.as_str(), said(&turn.content))));
    let prefix = (last.role == "assistant").then(|| said(&last.content));
    if prefix.is_none() {
        spoken.push((&last.role, said(&last.content)));
    }
    let prompt: String = spoken.iter().map(|(role, text)| format!("{role}\n{text}\n")).collect();
    let texts = spoken.iter().map(|(_, text)| text).chain(&prefix);
    Ok(SimRequest {
        endpoint: Endpoint::Messages,
        prompt_tokens: texts.map(|text| tokens_of(text) + 4).sum(),
        prompt,
        prefix,
        tool: tool(&raw, last)?,
        model: raw.model,
        stream: raw.stream.unwrap_or(false),
        include_usage: true,
        max_tokens: Some(raw.max_tokens),
        choices: 1,
        texts: Texts::default(),
        around: None,
        echo: Vec::new(),
        logprobs: None,
    })
}

fn sampling(raw: &Raw) -> Result<(), String> {
    if raw.max_tokens == 0 {
        return Err("max_tokens: must be at least 1".into());
    }
    if raw.temperature.is_some_and(|temperature| !(0.0..=1.0).contains(&temperature)) {
        return Err("temperature: must be from 0 to 1".into());
    }
    if raw.temperature.is_some() && raw.top_p.is_some() {
        return Err("temperature and top_p cannot both be specified".into());
    }
    if raw.stop_sequences.iter().flatten().any(|stop| stop.trim().is_empty()) {
        return Err("stop_sequences: each must contain non-whitespace".into());
    }
    Ok(())
}

/// One turn after `calls`; gives the calls that the next turn must answer.
fn check(turn: &Turn, calls: &[String]) -> Result<Vec<String>, String> {
    if !matches!(turn.role.as_str(), "user" | "assistant") {
        return Err(format!("messages: there is no role {:?}", turn.role));
    }
    let blocks = blocks(&turn.content);
    let texts = blocks.iter().filter(|block| block["type"] == "text").map(text_of);
    if blocks.is_empty() || texts.clone().any(|text| text.trim().is_empty()) {
        return Err("messages: text content blocks must contain non-whitespace text".into());
    }
    let id = |block: &Value, name: &str| block[name].as_str().unwrap_or_default().to_owned();
    let (mut results, mut next) = (Vec::new(), Vec::new());
    for block in &blocks {
        match (block["type"].as_str().unwrap_or_default(), turn.role.as_str()) {
            ("text" | "image" | "document", _) => {}
            ("tool_use", "assistant") if block["input"].is_object() && block["name"].is_string() => {
                next.push(id(block, "id"));
            }
            ("tool_result", "user") => results.push(id(block, "tool_use_id")),
            (kind, role) => return Err(format!("messages: no {kind:?} block in a turn of the {role}")),
        }
    }
    if results.iter().any(|id| !calls.contains(id)) {
        return Err("messages: a tool_result without its tool_use in the turn before".into());
    }
    if calls.iter().any(|id| !results.contains(id)) {
        return Err("messages: a tool_use without its tool_result in the turn after".into());
    }
    if let Some(strange) = next.iter().find(|id| !id.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))) {
        return Err(format!("messages: a tool cannot be called {strange:?}"));
    }
    Ok(next)
}

/// Which tool is called, if one is. The last turn is judged here: it may begin the answer.
fn tool(raw: &Raw, last: &Turn) -> Result<Option<String>, String> {
    if last.role == "assistant" && said(&last.content).ends_with(char::is_whitespace) {
        return Err("messages: final assistant content cannot end with trailing whitespace".into());
    }
    let tools = raw.tools.as_deref().unwrap_or_default();
    if tools.iter().any(|tool| tool.input_schema.get("type") != Some(&"object".into())) {
        return Err("tools: input_schema.type must be object".into());
    }
    let choice = |name: &str| raw.tool_choice.as_ref()?.get(name)?.as_str();
    match choice("type") {
        Some(_) if tools.is_empty() => return Err("tool_choice: without tools".into()),
        None | Some("auto" | "any" | "tool" | "none") => {}
        Some(other) => return Err(format!("tool_choice: there is no type {other:?}")),
    }
    let answered = blocks(&last.content).iter().any(|block| block["type"] == "tool_result");
    let called = tools.iter().find(|tool| choice("name").is_none_or(|name| name == tool.name));
    Ok(called.filter(|_| !answered && choice("type") != Some("none")).map(|tool| tool.name.clone()))
}

fn blocks(content: &Value) -> Vec<Value> {
    match content {
        Value::String(text) => vec![serde_json::json!({"type": "text", "text": text})],
        Value::Array(blocks) => blocks.clone(),
        _ => Vec::new(),
    }
}

/// The texts of a turn, results of tools included.
fn said(content: &Value) -> String {
    let text = |block: &Value| match block["type"].as_str() {
        Some("tool_result") => text_of(&block["content"]),
        _ => text_of(block),
    };
    blocks(content).iter().map(text).collect::<Vec<_>>().join("\n")
}
