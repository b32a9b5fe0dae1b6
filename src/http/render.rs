//! Whole answers and the parts they share with streams: ids, usage, the `routing` object. Pure.

use serde::Serialize;
use serde_json::{Map, Value, json};
use spillway_actors::{
    cloud::WholeAnswer,
    domain::{Complexity, RequestId, RequestKind, TokenUsage},
    flight::{FlightReport, Resumed},
    upstream::client::WholeChoice,
};
use std::time::Duration;

/// What every object of one answer repeats.
#[derive(Debug, Clone)]
pub struct Stamp {
    pub kind: RequestKind,
    /// `chatcmpl-…` or `cmpl-…`.
    pub id: String,
    /// Unix seconds.
    pub created: u64,
}

impl Stamp {
    pub fn new(kind: RequestKind, id: RequestId, created: u64) -> Self {
        let id = id.to_string();
        let digits = id.strip_prefix("req_").unwrap_or(&id);
        let prefix = match kind {
            RequestKind::Chat => "chatcmpl",
            RequestKind::Completion => "cmpl",
            RequestKind::Embedding => "embd",
        };
        Self { kind, id: format!("{prefix}-{digits}"), created }
    }

    const fn object(&self) -> &'static str {
        match self.kind {
            RequestKind::Chat => "chat.completion",
            RequestKind::Completion => "text_completion",
            RequestKind::Embedding => "list",
        }
    }
}

/// Milliseconds with one decimal.
pub fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

pub fn usage(usage: TokenUsage) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("prompt_tokens".into(), usage.prompt_tokens.into());
    object.insert("completion_tokens".into(), usage.completion_tokens.into());
    object.insert("total_tokens".into(), usage.prompt_tokens.saturating_add(usage.completion_tokens).into());
    object.insert("prompt_tokens_details".into(), json!({"cached_tokens": usage.cached_tokens}));
    if usage.reasoning_tokens > 0 {
        object.insert("completion_tokens_details".into(), json!({"reasoning_tokens": reasoning_tokens(usage)}));
    }
    object
}

/// Never more than the completion, which may be counted by what was shown.
pub(super) fn reasoning_tokens(usage: TokenUsage) -> u64 {
    usage.reasoning_tokens.min(usage.completion_tokens)
}

/// The `routing` object: where the answer came from and why.
#[derive(Debug, Serialize)]
pub struct Routing<'a> {
    target: &'a str,
    model: &'a str,
    complexity: Complexity,
    confidence: f64,
    reasoning: &'a str,
    budget_sensitive: bool,
    estimated_cost_per_1k: f64,
    estimated_cost_usd: f64,
    estimated_latency_ms: f64,
    actual_latency_ms: f64,
    attempts: Vec<Attempt<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resumed: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Attempt<'a> {
    target: &'a str,
    outcome: &'static str,
    ttft_ms: Option<f64>,
    latency_ms: f64,
    prompt_tokens: u64,
    completion_tokens: u64,
    cost_usd: f64,
}

impl<'a> Routing<'a> {
    pub fn of(report: &'a FlightReport) -> Self {
        let attempts = report.attempts.iter().map(|attempt| Attempt {
            target: &attempt.target,
            outcome: attempt.outcome,
            ttft_ms: attempt.first_token.map(ms),
            latency_ms: ms(attempt.took),
            prompt_tokens: attempt.usage.prompt_tokens,
            completion_tokens: attempt.usage.completion_tokens,
            cost_usd: attempt.cost.as_usd(),
        });
        Self {
            target: &report.target,
            model: &report.model,
            complexity: report.complexity,
            confidence: report.confidence,
            reasoning: &report.reasoning,
            budget_sensitive: report.budget_sensitive,
            estimated_cost_per_1k: report.estimated_cost_per_1k,
            estimated_cost_usd: report.estimated_cost.as_usd(),
            estimated_latency_ms: ms(report.estimated_latency),
            actual_latency_ms: ms(report.actual_latency),
            attempts: attempts.collect(),
            resumed: report.resumed.map(Resumed::label),
        }
    }
}

/// [`Routing`] as a value.
pub fn routing(report: &FlightReport) -> Value {
    // Our own types: cannot fail.
    serde_json::to_value(Routing::of(report)).unwrap_or_default()
}

/// One `chat.completion` or `text_completion`.
#[derive(Debug, Serialize)]
pub(super) struct Whole<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice>,
    usage: Map<String, Value>,
    /// What else the provider said.
    #[serde(flatten)]
    rest: Map<String, Value>,
    routing: Routing<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_generated: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Choice {
    Chat { index: u32, message: Map<String, Value>, logprobs: Option<Value>, finish_reason: String },
    Text { text: String, index: u32, logprobs: Option<Value>, finish_reason: String },
}

/// What else a provider said stays; what the gateway says wins.
pub(super) fn whole<'a>(stamp: &'a Stamp, answer: WholeAnswer, report: &'a FlightReport) -> Whole<'a> {
    const OURS: [&str; 7] = ["id", "object", "created", "model", "choices", "usage", "routing"];
    let WholeAnswer { choices, raw: mut rest, .. } = answer;
    let usage = whole_usage(rest.shift_remove("usage"), report.usage);
    let (latency_ms, tokens_generated) = local_text(stamp.kind, report).unzip();
    let ours: &[&str] = if latency_ms.is_some() { &["latency_ms", "tokens_generated"] } else { &[] };
    rest.retain(|name, _| !OURS.contains(&name.as_str()) && !ours.contains(&name.as_str()));
    Whole {
        id: &stamp.id,
        object: stamp.object(),
        created: stamp.created,
        model: &report.model,
        choices: choices.into_iter().map(|choice| one_choice(stamp.kind, choice)).collect(),
        usage,
        rest,
        routing: Routing::of(report),
        latency_ms,
        tokens_generated,
    }
}

/// What a local text completion tells beside: milliseconds, and tokens.
pub(super) fn local_text(kind: RequestKind, report: &FlightReport) -> Option<(f64, u64)> {
    let is_local_text = kind == RequestKind::Completion && report.is_local;
    is_local_text.then(|| (ms(report.actual_latency), report.usage.completion_tokens))
}

fn one_choice(kind: RequestKind, choice: WholeChoice) -> Choice {
    let WholeChoice { index, message, finish_reason, logprobs } = choice;
    match kind {
        RequestKind::Chat | RequestKind::Embedding => {
            Choice::Chat { index, message: complete_message(message), logprobs, finish_reason }
        }
        RequestKind::Completion => Choice::Text {
            text: message.get("content").and_then(Value::as_str).unwrap_or_default().to_owned(),
            index,
            logprobs: logprobs.map(|logprobs| completion_logprobs(&logprobs, &mut 0)),
            finish_reason,
        },
    }
}

/// The keys that the API promises in every message.
fn complete_message(mut message: Map<String, Value>) -> Map<String, Value> {
    message.entry("role").or_insert_with(|| "assistant".into());
    message.entry("content").or_insert(Value::Null);
    message.entry("refusal").or_insert(Value::Null);
    message
}

/// The provider's details (reasoning tokens and the like) around our counts.
fn whole_usage(theirs: Option<Value>, counted: TokenUsage) -> Map<String, Value> {
    let mut object = usage(counted);
    let Some(Value::Object(theirs)) = theirs else { return object };
    for (name, value) in theirs {
        match (object.get_mut(&name), value) {
            (None, value) => {
                object.insert(name, value);
            }
            (Some(Value::Object(ours)), Value::Object(more)) => {
                for (name, value) in more {
                    ours.entry(name).or_insert(value);
                }
            }
            (Some(_), _) => {}
        }
    }
    object
}

/// Chat logprobs in the older form of `/v1/completions`. `offset`: characters of text before these tokens, moved on.
pub(super) fn completion_logprobs(chat: &Value, offset: &mut u64) -> Value {
    let (mut tokens, mut logprobs, mut tops, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for entry in chat.get("content").and_then(Value::as_array).into_iter().flatten() {
        let token = entry.get("token").and_then(Value::as_str).unwrap_or_default();
        let top = entry.get("top_logprobs").and_then(Value::as_array).into_iter().flatten();
        let top: Map<String, Value> =
            top.filter_map(|top| Some((top.get("token")?.as_str()?.to_owned(), top.get("logprob")?.clone()))).collect();
        tokens.push(Value::from(token));
        logprobs.push(entry.get("logprob").cloned().unwrap_or_default());
        tops.push(if top.is_empty() { Value::Null } else { Value::Object(top) });
        offsets.push(Value::from(*offset));
        *offset += token.chars().count() as u64;
    }
    // Without alternatives OpenAI sends no list of them.
    let tops = if tops.iter().all(Value::is_null) { Value::Null } else { Value::Array(tops) };
    json!({"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets})
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use spillway_actors::{
        domain::NanoUsd,
        flight::{AttemptReport, Course},
    };

    pub(in crate::http) fn report() -> FlightReport {
        let usage = TokenUsage { prompt_tokens: 21, completion_tokens: 8, cached_tokens: 5, ..TokenUsage::default() };
        FlightReport {
            target: "local".into(),
            model: "smollm2-135m".into(),
            complexity: Complexity::Trivial,
            confidence: 0.8,
            reasoning: "trivial (p=0.80), preferred: local is warm, expected wait 0 ms".into(),
            budget_sensitive: false,
            estimated_cost_per_1k: 0.0,
            estimated_cost: NanoUsd::ZERO,
            estimated_latency: Duration::from_micros(31_000),
            actual_latency: Duration::from_micros(28_449),
            attempts: vec![
                AttemptReport {
                    target: "sheep".into(),
                    model: "m".into(),
                    outcome: "upstream",
                    first_token: None,
                    took: Duration::from_millis(3),
                    usage: TokenUsage::default(),
                    cost: NanoUsd::new(420),
                    course: Course::default(),
                },
                AttemptReport {
                    target: "local".into(),
                    model: "smollm2-135m".into(),
                    outcome: "ok",
                    first_token: Some(Duration::from_micros(9_060)),
                    took: Duration::from_micros(28_400),
                    usage,
                    cost: NanoUsd::ZERO,
                    course: Course::default(),
                },
            ],
            usage,
            is_local: true,
            met_stop: None,
            resumed: None,
        }
    }

    pub(in crate::http) fn answer(message: Value, raw: Value) -> WholeAnswer {
        let Value::Object(message) = message else { panic!("an object") };
        let Value::Object(raw) = raw else { panic!("an object") };
        let choice = WholeChoice { index: 0, message, finish_reason: "stop".into(), logprobs: None };
        WholeAnswer { choices: vec![choice], raw, usage: None }
    }

    fn stamp(kind: RequestKind) -> Stamp {
        Stamp::new(kind, RequestId::from_bits(0xab), 1_764_000_000)
    }

    #[test]
    fn a_local_chat_answer_is_exactly_this() {
        let answer = answer(json!({"role": "assistant", "content": "Hello."}), json!({}));
        let text = serde_json::to_string(&whole(&stamp(RequestKind::Chat), answer, &report())).unwrap();
        let expected = concat!(
            r#"{"id":"chatcmpl-000000000000000000000000000000ab","object":"chat.completion","created":1764000000,"#,
            r#""model":"smollm2-135m","choices":[{"index":0,"message":{"role":"assistant","content":"Hello.","refusal":null},"#,
            r#""logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":21,"completion_tokens":8,"total_tokens":29,"#,
            r#""prompt_tokens_details":{"cached_tokens":5}},"routing":{"target":"local","model":"smollm2-135m","#,
            r#""complexity":"trivial","confidence":0.8,"reasoning":"trivial (p=0.80), preferred: local is warm, expected wait 0 ms","#,
            r#""budget_sensitive":false,"estimated_cost_per_1k":0.0,"estimated_cost_usd":0.0,"estimated_latency_ms":31.0,"#,
            r#""actual_latency_ms":28.4,"attempts":[{"target":"sheep","outcome":"upstream","ttft_ms":null,"latency_ms":3.0,"#,
            r#""prompt_tokens":0,"completion_tokens":0,"cost_usd":4.2e-7},{"target":"local","outcome":"ok","ttft_ms":9.1,"#,
            r#""latency_ms":28.4,"prompt_tokens":21,"completion_tokens":8,"cost_usd":0.0}]}}"#
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_local_text_completion_also_tells_latency_and_tokens() {
        let answer = answer(json!({"role": "assistant", "content": "Hello."}), json!({}));
        let object = json!(whole(&stamp(RequestKind::Completion), answer, &report()));
        assert_eq!(object["id"], "cmpl-000000000000000000000000000000ab");
        assert_eq!(object["object"], "text_completion");
        let choice = json!([{"text": "Hello.", "index": 0, "logprobs": null, "finish_reason": "stop"}]);
        assert_eq!(object["choices"], choice);
        assert_eq!((&object["latency_ms"], &object["tokens_generated"]), (&json!(28.4), &json!(8)));
    }

    #[test]
    fn a_providers_own_fields_stay_but_ours_win() {
        let message = json!({"role": "assistant", "content": null, "tool_calls": [{"id": "c"}], "refusal": null});
        let raw = json!({
            "id": "theirs", "object": "x", "created": 1, "model": "up-1", "system_fingerprint": "fp", "routing": 1,
            "usage": {"prompt_tokens": 99, "completion_tokens": 99, "total_tokens": 198,
                "prompt_tokens_details": {"cached_tokens": 9, "audio_tokens": 1},
                "completion_tokens_details": {"reasoning_tokens": 4}}
        });
        let mut report = report();
        report.is_local = false;
        let object = json!(whole(&stamp(RequestKind::Chat), answer(message.clone(), raw), &report));
        assert_eq!(object["choices"][0]["message"], message);
        assert_eq!((&object["model"], &object["system_fingerprint"]), (&json!("smollm2-135m"), &json!("fp")));
        assert_eq!(object["routing"]["target"], "local");
        let usage = json!({"prompt_tokens": 21, "completion_tokens": 8, "total_tokens": 29,
            "prompt_tokens_details": {"cached_tokens": 5, "audio_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 4}});
        assert_eq!(object["usage"], usage);
        assert_eq!(object.get("latency_ms"), None);
    }

    #[test]
    fn thoughts_that_were_counted_are_told() {
        let counted = TokenUsage { completion_tokens: 8, reasoning_tokens: 5, ..TokenUsage::default() };
        assert_eq!(usage(counted)["completion_tokens_details"], json!({"reasoning_tokens": 5}));
        let shown = TokenUsage { completion_tokens: 3, ..counted };
        assert_eq!(usage(shown)["completion_tokens_details"], json!({"reasoning_tokens": 3}));
        assert_eq!(usage(TokenUsage::default()).get("completion_tokens_details"), None);
    }

    #[test]
    fn chat_logprobs_take_the_older_form() {
        let chat = json!({"content": [
            {"token": "é", "logprob": -0.1, "top_logprobs": [{"token": "é", "logprob": -0.1}]},
            {"token": "b", "logprob": -0.2}
        ]});
        let mut offset = 3;
        let older = json!({"tokens": ["é", "b"], "token_logprobs": [-0.1, -0.2],
            "top_logprobs": [{"é": -0.1}, null], "text_offset": [3, 4]});
        assert_eq!(completion_logprobs(&chat, &mut offset), older);
        assert_eq!(offset, 5);
    }
}
