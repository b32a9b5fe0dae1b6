//! What a soak asks beside plain chats: other APIs, wrong requests, clients that leave. An open loop; what is asked follows
//! from the seed. Each answer is judged by its kind, purely: a 500 is always a bug, and so is a wrong request that is
//! answered. How many right ones may be refused is judged when all have ended.

use crate::chaos::{
    checks::error_object,
    draw::Draw,
    history::{Trouble, too_many_failed},
    reading::unix_ns,
};
use futures_util::StreamExt;
use parking_lot::Mutex;
use reqwest::{Client, RequestBuilder, Response};
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

impl Kind {
    /// Whether it should be answered.
    const fn is_right(self) -> bool {
        !matches!(self, Self::NoJson | Self::WrongField | Self::UnknownModel)
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Answered,
    /// With an error object, as an answer or at the end of a stream.
    Refused,
    /// The client left, as it meant to.
    Left,
}

/// A right request: from when to when it was open, and whether it was refused.
#[derive(Debug, Clone, Copy)]
struct Right {
    sent_ns: u64,
    ended_ns: u64,
    refused: bool,
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
    /// Right requests that no trouble touched, and those of them that were refused.
    pub(super) untouched: usize,
    pub(super) untouched_refused: usize,
    #[serde(skip)]
    pub(super) violations: Vec<String>,
    pub(super) more_violations: usize,
    #[serde(skip)]
    right: Vec<Right>,
}

impl Mixed {
    fn add(&mut self, kind: Kind, sent_ns: u64, ended_ns: u64, end: Result<End, String>) {
        let count = self.kinds.entry(kind).or_default();
        count.sent += 1;
        if kind.is_right() {
            self.right.push(Right { sent_ns, ended_ns, refused: end == Ok(End::Refused) });
        }
        match end {
            Ok(End::Answered) => count.answered += 1,
            Ok(End::Refused) => count.refused += 1,
            Ok(End::Left) => count.left += 1,
            Err(why) if self.violations.len() < TOLD => self.violations.push(format!("{kind:?}: {why}")),
            Err(_) => self.more_violations += 1,
        }
    }

    /// Once all have ended: each right kind was answered, and no more were refused than `wanted_percent` and what was broken
    /// on purpose explain.
    pub(super) fn judge(&mut self, troubles: &[Trouble], wanted_percent: f64) {
        let untouched = |one: &&Right| !troubles.iter().any(|trouble| trouble.meets(one.sent_ns, one.ended_ns));
        let refused: Vec<bool> = self.right.iter().filter(untouched).map(|one| one.refused).collect();
        self.untouched = refused.len();
        self.untouched_refused = refused.into_iter().filter(|refused| *refused).count();
        let too_many = too_many_failed(self.untouched_refused, self.untouched, wanted_percent);
        self.violations.extend(too_many.map(|why| format!("beside the chats, {why}")));
        let unanswered = self.kinds.iter().filter(|(kind, count)| kind.is_right() && count.answered + count.left == 0);
        let unanswered = unanswered.map(|(kind, count)| format!("{kind:?}: none of {} was answered", count.sent));
        self.violations.extend(unanswered.collect::<Vec<_>>());
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
                let sent_ns = unix_ns();
                let end = mix.one(kind).await;
                mix.mixed.lock().add(kind, sent_ns, unix_ns(), end);
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
        let sending = self.request(kind).send();
        let sent = if kind == Kind::LeavesWhole {
            let Ok(sent) = timeout(BRIEF, sending).await else { return Ok(End::Left) };
            sent
        } else {
            timeout(PATIENCE, sending).await.map_err(|_| format!("no answer within {PATIENCE:?}"))?
        };
        let answer = sent.map_err(|error| format!("no answer: {error:?}"))?;
        let reading = timeout(PATIENCE, read(kind, answer));
        reading.await.unwrap_or_else(|_| Err(format!("no end within {PATIENCE:?}")))
    }
}

/// An answer to its end, or to where its client leaves.
async fn read(kind: Kind, answer: Response) -> Result<End, String> {
    let broke_off = |error: reqwest::Error| format!("the answer broke off: {error:?}");
    let status = answer.status().as_u16();
    match kind {
        // It was quicker than its client's patience.
        Kind::LeavesWhole if status == 200 => Ok(End::Left),
        Kind::LeavesStream if status == 200 => {
            let first = answer.bytes_stream().next().await;
            first.ok_or("a stream without a byte")?.map(|_| End::Left).map_err(broke_off)
        }
        _ => judge(kind, status, &answer.text().await.map_err(broke_off)?),
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
    fn refusals_that_no_trouble_explains_break_a_rule_and_so_does_a_kind_that_is_never_answered() {
        let of = |ends: &[(Kind, u64, End, usize)], troubles: &[Trouble], wanted: f64| {
            let mut mixed = Mixed::default();
            for (kind, at, end, times) in ends {
                (0..*times).for_each(|_| mixed.add(*kind, *at, at + 10, Ok(*end)));
            }
            mixed.judge(troubles, wanted);
            mixed.violations
        };
        let one_refused = [(Kind::Message, 0, End::Answered, 500), (Kind::Message, 100, End::Refused, 1)];
        assert!(of(&one_refused, &[], 100.0)[0].contains("1 of 501"));
        assert_eq!(of(&one_refused, &[], 99.0), [""; 0]);
        assert_eq!(of(&one_refused, &[Trouble::at(105)], 100.0), [""; 0], "it was open when something broke");
        let most_refused = [(Kind::Models, 0, End::Answered, 20), (Kind::LeavesWhole, 0, End::Refused, 20)];
        let told = of(&most_refused, &[Trouble::at(50)], 99.0);
        assert!(told[0].contains("20 of 40") && told[1] == "LeavesWhole: none of 20 was answered", "{told:?}");
        let wrong = [(Kind::NoJson, 0, End::Refused, 9), (Kind::LeavesStream, 0, End::Left, 9)];
        assert_eq!(of(&wrong, &[], 100.0), [""; 0], "those are to be refused, and these to leave");
    }

    #[tokio::test]
    async fn a_client_that_leaves_sees_what_came_before() {
        let answer = |status: u16, body: &'static str| {
            Response::from(http::Response::builder().status(status).body(body).unwrap())
        };
        for kind in [Kind::LeavesWhole, Kind::LeavesStream] {
            assert!(read(kind, answer(500, REFUSAL)).await.unwrap_err().contains("a 500 is a bug"));
            assert_eq!(read(kind, answer(429, REFUSAL)).await, Ok(End::Refused));
            assert_eq!(read(kind, answer(200, "{}")).await, Ok(End::Left));
        }
        assert!(read(Kind::LeavesStream, answer(200, "")).await.unwrap_err().contains("without a byte"));
    }

    #[test]
    fn what_is_wrong_is_told_and_then_counted() {
        let mut mixed = Mixed::default();
        for _ in 0..TOLD + 2 {
            mixed.add(Kind::Models, 0, 1, Err("gone".to_owned()));
        }
        mixed.add(Kind::Models, 0, 1, Ok(End::Answered));
        let count = mixed.kinds[&Kind::Models];
        assert_eq!((count.sent, count.answered, mixed.violations.len(), mixed.more_violations), (TOLD + 3, 1, TOLD, 2));
    }
}
