//! What a soak asks beside plain chats: other APIs, wrong requests, clients that leave. An open loop; what is asked follows
//! from the seed. Each answer is judged by its kind, purely; a refusal with the right error object is none of our business,
//! but a 500 is always a bug, and so is a wrong request that is answered.

use crate::chaos::{checks::error_object, draw::Draw};
use futures_util::StreamExt;
use parking_lot::Mutex;
use reqwest::{Client, RequestBuilder};
use serde::Serialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

const PATIENCE: Duration = Duration::from_secs(120);
/// Open at once; those beyond are not sent.
const OPEN: usize = 256;
/// After this long a client that does not stream leaves.
const BRIEF: Duration = Duration::from_millis(30);
/// Violations that are told in full.
const TOLD: usize = 20;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Embedding,
    Message,
    MessageStream,
    Response,
    ResponseStream,
    Models,
    NoJson,
    WrongField,
    UnknownModel,
    LeavesStream,
    LeavesWhole,
}

const KINDS: [Kind; 11] = [
    Kind::Embedding,
    Kind::Message,
    Kind::MessageStream,
    Kind::Response,
    Kind::ResponseStream,
    Kind::Models,
    Kind::NoJson,
    Kind::WrongField,
    Kind::UnknownModel,
    Kind::LeavesStream,
    Kind::LeavesWhole,
];

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Answered,
    /// With an error object, as an answer or at the end of a stream.
    Refused,
    /// The client left, as it meant to.
    Left,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Count {
    pub(super) sent: usize,
    pub(super) answered: usize,
    pub(super) refused: usize,
    pub(super) left: usize,
}

/// Everything that ended.
#[derive(Debug, Default, Serialize)]
pub(super) struct Mixed {
    pub(super) kinds: BTreeMap<Kind, Count>,
    pub(super) held_back: usize,
    #[serde(skip)]
    pub(super) violations: Vec<String>,
    pub(super) more_violations: usize,
}

impl Mixed {
    fn add(&mut self, kind: Kind, end: Result<End, String>) {
        let count = self.kinds.entry(kind).or_default();
        count.sent += 1;
        match end {
            Ok(End::Answered) => count.answered += 1,
            Ok(End::Refused) => count.refused += 1,
            Ok(End::Left) => count.left += 1,
            Err(why) if self.violations.len() < TOLD => self.violations.push(format!("{kind:?}: {why}")),
            Err(_) => self.more_violations += 1,
        }
    }
}

/// Who asks.
#[derive(Clone)]
pub(super) struct Mix {
    http: Client,
    api: String,
    key: Option<String>,
    seed: u64,
    embedding_model: Option<String>,
    mixed: Arc<Mutex<Mixed>>,
}

impl Mix {
    pub(super) fn new(
        api: &str,
        key: Option<String>,
        seed: u64,
        embedding_model: Option<String>,
    ) -> Result<Self, String> {
        let builder = Client::builder().no_proxy().tcp_nodelay(true).pool_idle_timeout(Duration::from_secs(5));
        let builder = if api.starts_with("https:") { builder } else { builder.tls_certs_only([]) };
        Ok(Self {
            http: builder.build().map_err(|error| error.to_string())?,
            api: api.trim_end_matches('/').trim_end_matches("/v1").to_owned(),
            key,
            seed,
            embedding_model,
            mixed: Arc::default(),
        })
    }

    /// Asks for `seconds`, then waits for every answer.
    pub(super) async fn drive(&self, per_second: f64, seconds: u64) -> Mixed {
        let (began, mut open) = (Instant::now(), JoinSet::new());
        for number in 0_u64.. {
            let due = began + Duration::from_secs_f64(number as f64 / per_second.max(0.01));
            if per_second <= 0.0 || due >= began + Duration::from_secs(seconds) {
                break;
            }
            sleep_until(due).await;
            while open.try_join_next().is_some() {}
            if open.len() >= OPEN {
                self.mixed.lock().held_back += 1;
                continue;
            }
            let mix = self.clone();
            let kind = Draw::of(self.seed, (1 << 50) + number).one_of(&KINDS).copied().unwrap_or(Kind::Models);
            open.spawn(async move {
                let end = mix.one(kind).await;
                mix.mixed.lock().add(kind, end);
            });
        }
        while open.join_next().await.is_some() {}
        std::mem::take(&mut *self.mixed.lock())
    }

    fn request(&self, kind: Kind) -> RequestBuilder {
        let path = match kind {
            Kind::Embedding => "embeddings",
            Kind::Message | Kind::MessageStream => "messages",
            Kind::Response | Kind::ResponseStream => "responses",
            Kind::Models => "models",
            _ => "chat/completions",
        };
        let url = format!("{}/v1/{path}", self.api);
        let request = if kind == Kind::Models { self.http.get(url) } else { self.http.post(url) };
        let request = match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        match kind {
            Kind::Models => request,
            Kind::NoJson => {
                request.header("content-type", "application/json").body("{\"model\":\"auto\",\"messages\":[")
            }
            Kind::Message | Kind::MessageStream => {
                request.header("anthropic-version", "2023-06-01").json(&self.body(kind))
            }
            _ => request.json(&self.body(kind)),
        }
    }

    fn body(&self, kind: Kind) -> Value {
        let hello = json!([{"role": "user", "content": "Say hello"}]);
        match kind {
            Kind::Embedding => {
                let mut body = json!({"input": ["a mill by the river", "a river by the mill"]});
                if let Some(model) = &self.embedding_model {
                    body["model"] = json!(model);
                }
                body
            }
            Kind::Message | Kind::MessageStream => {
                json!({"model": "auto", "max_tokens": 12, "messages": hello, "stream": kind == Kind::MessageStream})
            }
            Kind::Response | Kind::ResponseStream => {
                json!({"model": "auto", "max_output_tokens": 16, "input": "Say hello", "stream": kind == Kind::ResponseStream})
            }
            Kind::WrongField => json!({"model": "auto", "messages": hello, "temperature": "hot"}),
            Kind::UnknownModel => json!({"model": "no-such-model-anywhere", "messages": hello}),
            Kind::LeavesStream | Kind::LeavesWhole => {
                json!({"model": "auto", "messages": hello, "max_tokens": 200, "stream": kind == Kind::LeavesStream})
            }
            Kind::Models | Kind::NoJson => Value::Null,
        }
    }

    async fn one(&self, kind: Kind) -> Result<End, String> {
        let request = self.request(kind);
        if kind == Kind::LeavesWhole {
            return match timeout(BRIEF, request.send()).await {
                Ok(Err(error)) => Err(format!("no answer: {error:?}")),
                // Its answer may have been quicker.
                Ok(Ok(_)) | Err(_) => Ok(End::Left),
            };
        }
        let asking = async {
            let answer = request.send().await.map_err(|error| format!("no answer: {error:?}"))?;
            let status = answer.status().as_u16();
            if kind == Kind::LeavesStream && status == 200 {
                let _first = answer.bytes_stream().next().await;
                return Ok(End::Left);
            }
            let text = answer.text().await.map_err(|error| format!("the answer broke off: {error:?}"))?;
            judge(kind, status, &text)
        };
        timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err(format!("no end within {PATIENCE:?}")))
    }
}

/// Whether an answer is one that its kind of request may get.
fn judge(kind: Kind, status: u16, text: &str) -> Result<End, String> {
    let shown = || text.chars().take(200).collect::<String>();
    if status != 200 {
        let body: Value = serde_json::from_str(text).map_err(|_| format!("{status} without JSON: {}", shown()))?;
        error_of(kind, &body).map_err(|why| format!("{status}: {why}"))?;
        return if status == 500 { Err(format!("a 500 is a bug: {}", shown())) } else { Ok(End::Refused) };
    }
    if matches!(kind, Kind::NoJson | Kind::WrongField | Kind::UnknownModel) {
        return Err(format!("a wrong request was answered: {}", shown()));
    }
    if matches!(kind, Kind::MessageStream | Kind::ResponseStream) {
        return end_of_stream(text).ok_or_else(|| format!("a stream without its last event: {}", shown()));
    }
    let body: Value = serde_json::from_str(text).map_err(|_| format!("200 without JSON: {}", shown()))?;
    let whole = match kind {
        Kind::Embedding => body["data"].as_array().is_some_and(|data| data.len() == 2),
        Kind::Message => body["type"] == "message" && body["stop_reason"].is_string(),
        Kind::Response => body["object"] == "response" && body["status"].is_string(),
        Kind::Models => body["data"].as_array().is_some_and(|data| !data.is_empty()),
        _ => body["choices"].is_array(),
    };
    if whole { Ok(End::Answered) } else { Err(format!("not the whole of an answer: {}", shown())) }
}

fn error_of(kind: Kind, body: &Value) -> Result<(), String> {
    if !matches!(kind, Kind::Message | Kind::MessageStream) {
        return error_object(body);
    }
    let error = &body["error"];
    let whole = body["type"] == "error" && error["type"].is_string() && error["message"].is_string();
    if whole { Ok(()) } else { Err(format!("no error of this API: {body}")) }
}

/// How a stream says that it is over, by its last named event.
fn end_of_stream(text: &str) -> Option<End> {
    let last = text.lines().filter_map(|line| line.strip_prefix("event:")).next_back()?;
    match last.trim() {
        "message_stop" | "response.completed" | "response.incomplete" => Some(End::Answered),
        "error" | "response.failed" => Some(End::Refused),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSAL: &str = r#"{"error":{"message":"m","type":"t","param":null,"code":null}}"#;

    #[test]
    fn a_refusal_is_no_violation_but_a_500_and_an_answer_to_nonsense_are() {
        assert_eq!(judge(Kind::Embedding, 503, REFUSAL), Ok(End::Refused));
        assert_eq!(judge(Kind::NoJson, 400, REFUSAL), Ok(End::Refused));
        assert!(judge(Kind::Response, 500, REFUSAL).unwrap_err().contains("bug"));
        assert!(judge(Kind::WrongField, 200, "{}").unwrap_err().contains("wrong request"));
        assert!(judge(Kind::Response, 429, "too much").is_err());
        assert!(judge(Kind::Message, 429, REFUSAL).is_err(), "not in that API's form");
        assert_eq!(
            judge(Kind::Message, 429, r#"{"type":"error","error":{"type":"t","message":"m"}}"#),
            Ok(End::Refused)
        );
    }

    #[test]
    fn an_answer_is_whole_or_a_violation() {
        assert_eq!(judge(Kind::Embedding, 200, r#"{"data":[{},{}]}"#), Ok(End::Answered));
        assert!(judge(Kind::Embedding, 200, r#"{"data":[{}]}"#).is_err());
        assert_eq!(judge(Kind::Message, 200, r#"{"type":"message","stop_reason":"end_turn"}"#), Ok(End::Answered));
        let stream = |last: &str| format!("event: message_start\ndata: {{}}\n\nevent: {last}\ndata: {{}}\n\n");
        assert_eq!(judge(Kind::MessageStream, 200, &stream("message_stop")), Ok(End::Answered));
        assert_eq!(judge(Kind::ResponseStream, 200, &stream("response.failed")), Ok(End::Refused));
        assert!(judge(Kind::MessageStream, 200, &stream("content_block_delta")).unwrap_err().contains("last event"));
    }

    #[test]
    fn what_is_wrong_is_told_and_then_counted() {
        let mut mixed = Mixed::default();
        for _ in 0..TOLD + 2 {
            mixed.add(Kind::Models, Err("gone".to_owned()));
        }
        mixed.add(Kind::Models, Ok(End::Answered));
        let count = mixed.kinds[&Kind::Models];
        assert_eq!((count.sent, count.answered, mixed.violations.len(), mixed.more_violations), (TOLD + 3, 1, TOLD, 2));
    }
}
