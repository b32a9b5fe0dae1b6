//! The response object: what it repeats of the request, and its frame around the output. Pure.

use crate::http::{dialect::Arrived, render};
use serde_json::{Map, Value, json};
use spillway_actors::{
    domain::{ErrorKind, GatewayError, ModelName, TokenUsage},
    flight::FlightReport,
};

/// What a response repeats of its request, complete, whatever the request left open.
#[derive(Debug, Clone)]
pub(in crate::http) struct Echo {
    digits: String,
    created_at: u64,
    request: Map<String, Value>,
}

/// How a response stands.
#[derive(Debug)]
pub(super) enum Standing<'a> {
    InProgress,
    /// The model's own reason for its end, in a chat's words.
    Ended {
        reason: &'a str,
        report: &'a FlightReport,
    },
    Failed(&'a GatewayError),
}

impl Standing<'_> {
    /// "completed", …; and why it is incomplete.
    fn status(&self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::InProgress => ("in_progress", None),
            Self::Failed(_) => ("failed", None),
            Self::Ended { reason: "length", .. } => ("incomplete", Some("max_output_tokens")),
            Self::Ended { reason: "content_filter", .. } => ("incomplete", Some("content_filter")),
            Self::Ended { .. } => ("completed", None),
        }
    }

    /// The last event of a stream.
    pub(super) fn event(&self) -> &'static str {
        match self.status().0 {
            "in_progress" => "response.in_progress",
            "failed" => "response.failed",
            "incomplete" => "response.incomplete",
            _ => "response.completed",
        }
    }

    /// Of the items of the output.
    pub(super) fn item_status(reason: &str) -> &'static str {
        if matches!(reason, "length" | "content_filter") { "incomplete" } else { "completed" }
    }
}

impl Echo {
    pub(in crate::http) fn of(arrived: Arrived, body: &Map<String, Value>) -> Self {
        let id = arrived.id.to_string();
        let digits = id.strip_prefix("req_").unwrap_or(&id).to_owned();
        Self { digits, created_at: arrived.at, request: repeated(body) }
    }

    /// Of one item of the output.
    pub(super) fn item_id(&self, kind: &str, index: usize) -> String {
        format!("{kind}_{}_{index}", self.digits)
    }

    /// The object around `output`.
    pub(super) fn object(&self, model: &ModelName, output: Vec<Value>, standing: &Standing<'_>) -> Value {
        let (status, incomplete) = standing.status();
        let mut object = Map::new();
        object.insert("id".into(), format!("resp_{}", self.digits).into());
        object.insert("object".into(), "response".into());
        object.insert("created_at".into(), self.created_at.into());
        object.insert("status".into(), status.into());
        object.insert("background".into(), false.into());
        if let (Standing::Ended { report, .. }, "completed") = (standing, status) {
            object.insert("completed_at".into(), (self.created_at + report.actual_latency.as_secs()).into());
        }
        object.insert("error".into(), error(standing));
        object.insert("incomplete_details".into(), incomplete.map_or(Value::Null, |reason| json!({"reason": reason})));
        object.insert("model".into(), model.as_str().into());
        object.insert("output".into(), output.into());
        object.extend(self.request.clone());
        match standing {
            Standing::Ended { report, .. } => {
                object.insert("usage".into(), usage(report.usage));
                object.insert("routing".into(), render::routing(report));
            }
            Standing::InProgress | Standing::Failed(_) => drop(object.insert("usage".into(), Value::Null)),
        }
        Value::Object(object)
    }
}

/// Every field of the request that a response has, with the API's own defaults.
fn repeated(body: &Map<String, Value>) -> Map<String, Value> {
    let given = |name: &str| body.get(name).filter(|value| !value.is_null()).cloned();
    let or_null = |name: &str| given(name).unwrap_or(Value::Null);
    let mut echo = Map::new();
    for name in ["instructions", "max_output_tokens", "max_tool_calls"] {
        echo.insert(name.into(), or_null(name));
    }
    echo.insert("metadata".into(), given("metadata").unwrap_or_else(|| json!({})));
    echo.insert("parallel_tool_calls".into(), given("parallel_tool_calls").unwrap_or(true.into()));
    echo.insert("previous_response_id".into(), Value::Null);
    for name in ["prompt_cache_key", "safety_identifier", "user"] {
        echo.extend(given(name).map(|value| (name.to_owned(), value)));
    }
    let reasoning = |name: &str| body.get("reasoning").and_then(|reasoning| reasoning.get(name)).cloned();
    echo.insert("reasoning".into(), json!({"effort": reasoning("effort"), "summary": reasoning("summary")}));
    // Whatever was asked for: nothing is stored here.
    echo.insert("store".into(), false.into());
    echo.insert("temperature".into(), or_null("temperature"));
    echo.insert("text".into(), text(body.get("text")));
    echo.insert("tool_choice".into(), given("tool_choice").unwrap_or("auto".into()));
    let tools = body.get("tools").and_then(Value::as_array).into_iter().flatten();
    echo.insert("tools".into(), tools.map(tool).collect::<Vec<_>>().into());
    echo.insert("top_logprobs".into(), given("top_logprobs").unwrap_or(0.into()));
    echo.insert("top_p".into(), or_null("top_p"));
    // Nothing is ever cut out of a conversation here.
    echo.insert("truncation".into(), "disabled".into());
    echo
}

fn text(given: Option<&Value>) -> Value {
    let part = |name: &str| given.and_then(|text| text.get(name)).filter(|value| !value.is_null()).cloned();
    let mut text = json!({"format": part("format").unwrap_or_else(|| json!({"type": "text"}))});
    if let Some(verbosity) = part("verbosity") {
        text["verbosity"] = verbosity;
    }
    text
}

fn tool(given: &Value) -> Value {
    if given["type"] == "custom" {
        return given.clone();
    }
    let part = |name: &str| given.get(name).cloned().unwrap_or(Value::Null);
    json!({
        "type": "function",
        "name": part("name"),
        "description": part("description"),
        "parameters": part("parameters"),
        "strict": part("strict"),
    })
}

fn error(standing: &Standing<'_>) -> Value {
    let Standing::Failed(error) = standing else { return Value::Null };
    let code = match error.kind {
        ErrorKind::RateLimited | ErrorKind::InsufficientQuota => "rate_limit_exceeded",
        ErrorKind::InvalidRequest | ErrorKind::ContextLengthExceeded | ErrorKind::ContentFilter => "invalid_prompt",
        _ => "server_error",
    };
    json!({"code": code, "message": crate::http::error::ErrorReply::from(*error).message})
}

fn usage(counted: TokenUsage) -> Value {
    json!({
        "input_tokens": counted.prompt_tokens,
        "input_tokens_details": {"cached_tokens": counted.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": counted.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": render::reasoning_tokens(counted)},
        "total_tokens": counted.prompt_tokens.saturating_add(counted.completion_tokens),
    })
}
