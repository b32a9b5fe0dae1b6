//! A client that writes down everything it saw of a request, and judges only the protocol: what a stream may and may not
//! do. It never retries.

use super::checks::{self, COUNT};
use futures_util::StreamExt;
use reqwest::{StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

pub fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Ask {
    pub path: &'static str,
    pub body: Value,
    pub headers: Vec<(&'static str, String)>,
}

impl Ask {
    pub fn chat(prompt: &str) -> Self {
        let body = json!({"messages": [{"role": "user", "content": prompt}], "max_tokens": 16, "temperature": 0});
        Self { path: "/v1/chat/completions", body, headers: Vec::new() }
    }

    pub fn completion(prompt: &str) -> Self {
        let body = json!({"prompt": prompt, "max_tokens": 16, "temperature": 0});
        Self { path: "/v1/completions", body, headers: Vec::new() }
    }

    /// A prompt that the default model goes on with, whatever else is in its batch: numbers, counted up.
    pub fn count() -> Self {
        Self::completion(COUNT)
    }

    /// Graded complex by the keyword rule, so it goes to the cloud first.
    pub fn hard() -> Self {
        Self::chat("Please analyze this.")
    }

    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.body[key] = value.into();
        self
    }

    pub fn max_tokens(self, tokens: u32) -> Self {
        self.with("max_tokens", tokens)
    }

    pub fn model(self, model: &str) -> Self {
        self.with("model", model)
    }

    pub fn stream(self) -> Self {
        self.with("stream", true).with("stream_options", json!({"include_usage": true}))
    }

    pub fn local_only(mut self) -> Self {
        self.headers.push(("x-spillway-local-only", "true".to_owned()));
        self
    }

    /// With this API key.
    pub fn key(mut self, secret: &str) -> Self {
        self.headers.push(("authorization", format!("Bearer {secret}")));
        self
    }

    pub fn is_stream(&self) -> bool {
        self.body["stream"].as_bool().unwrap_or(false)
    }
}

/// How a request ended, as its client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A whole answer.
    Complete,
    /// An error object, as the answer or as a frame of the stream.
    Error { status: u16, kind: String, code: Value, message: String },
    /// The connection failed or closed early: nobody said why.
    Broken(String),
}

/// One request, as its client saw it.
#[derive(Debug, Clone)]
pub struct Record {
    pub id: Option<String>,
    pub stream: bool,
    pub local_only: bool,
    pub prompt: String,
    pub sent_ns: u64,
    /// When the head of the answer came.
    pub head_ns: Option<u64>,
    /// When the first text came.
    pub first_ns: Option<u64>,
    pub ended_ns: u64,
    pub status: Option<u16>,
    pub headers: HeaderMap,
    pub outcome: Outcome,
    pub text: String,
    pub finish_reason: Option<String>,
    pub usage: Option<Value>,
    pub routing: Option<Value>,
    /// The whole answer, when it came in one piece.
    pub body: Option<Value>,
    /// Of a stream: every delta of a call, and every entry of its logprobs.
    pub calls: Vec<Value>,
    pub logprobs: Vec<Value>,
    /// Rules of the protocol that this answer broke.
    pub faults: Vec<String>,
}

impl Record {
    /// Of a request that has yet to be sent.
    pub(super) fn unasked() -> Self {
        Self {
            id: None,
            stream: false,
            local_only: false,
            prompt: String::new(),
            sent_ns: 0,
            head_ns: None,
            first_ns: None,
            ended_ns: 0,
            status: None,
            headers: HeaderMap::new(),
            outcome: Outcome::Broken("no end was seen".to_owned()),
            text: String::new(),
            finish_reason: None,
            usage: None,
            routing: None,
            body: None,
            calls: Vec::new(),
            logprobs: Vec::new(),
            faults: Vec::new(),
        }
    }

    pub fn is_complete(&self) -> bool {
        self.outcome == Outcome::Complete
    }

    /// The target that answered.
    pub fn target(&self) -> &str {
        self.routing.as_ref().and_then(|routing| routing["target"].as_str()).unwrap_or_default()
    }

    pub fn attempts(&self) -> usize {
        self.routing.as_ref().and_then(|routing| routing["attempts"].as_array()).map_or(0, Vec::len)
    }

    /// One line for whoever looks for what went wrong.
    pub fn brief(&self) -> String {
        let Self { id, stream, outcome, status, text, routing, .. } = self;
        let id = id.as_deref().unwrap_or("(no id)");
        let ms = |ns: u64| ns.saturating_sub(self.sent_ns) / 1_000_000;
        format!(
            "{id} stream={stream} status={status:?} first text after {:?} ms, ended after {} ms, {outcome:?}, text {text:?}, routing {}",
            self.first_ns.map(ms),
            ms(self.ended_ns),
            routing.as_ref().map_or(String::new(), ToString::to_string),
        )
    }

    /// For tests.
    ///
    /// # Panics
    /// It is no whole answer.
    pub fn assert_complete(&self) -> &Self {
        assert!(self.is_complete() && self.faults.is_empty(), "a whole answer: {self:#?}");
        self
    }
}

/// Asks and writes down what comes, to the end or until `patience` is over. `pieces` hears every piece of text as it comes,
/// and stops the reading when it is closed.
pub async fn ask(
    http: &reqwest::Client,
    api: &str,
    ask: &Ask,
    pieces: Option<mpsc::Sender<String>>,
    patience: Duration,
) -> Record {
    let mut reading = Reading::new(ask, pieces);
    let asking = reading.run(http, api, ask);
    if tokio::time::timeout(patience, asking).await.is_err() {
        reading.record.outcome = Outcome::Broken(format!("no end within {patience:?}"));
    }
    reading.finish()
}

/// One answer while it is read.
struct Reading {
    record: Record,
    pieces: Option<mpsc::Sender<String>>,
    buffer: Vec<u8>,
    done: bool,
    error: bool,
    identity: Option<(Value, Value, Value)>,
    left: bool,
}

impl Reading {
    fn new(ask: &Ask, pieces: Option<mpsc::Sender<String>>) -> Self {
        let record = Record {
            stream: ask.is_stream(),
            local_only: ask.headers.iter().any(|(name, _)| *name == "x-spillway-local-only"),
            prompt: ask.body["prompt"].as_str().unwrap_or_default().to_owned(),
            sent_ns: unix_ns(),
            ..Record::unasked()
        };
        Self { record, pieces, buffer: Vec::new(), done: false, error: false, identity: None, left: false }
    }

    fn fault(&mut self, what: impl Into<String>) {
        self.record.faults.push(what.into());
    }

    async fn run(&mut self, http: &reqwest::Client, api: &str, ask: &Ask) {
        let mut request = http.post(format!("{api}{}", ask.path)).json(&ask.body);
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => {
                self.record.outcome = Outcome::Broken(format!("no answer: {error:?}"));
                return;
            }
        };
        self.record.head_ns = Some(unix_ns());
        self.record.status = Some(answer.status().as_u16());
        self.record.headers = answer.headers().clone();
        self.record.id = text_header(answer.headers(), "x-request-id");
        let is_events =
            text_header(answer.headers(), "content-type").is_some_and(|t| t.starts_with("text/event-stream"));
        if answer.status() == StatusCode::OK && is_events != self.record.stream {
            self.fault("a stream was asked for and none came, or the other way round");
        }
        if is_events { self.read_events(answer).await } else { self.read_whole(answer).await }
    }

    async fn read_whole(&mut self, answer: reqwest::Response) {
        let status = answer.status().as_u16();
        let bytes = match answer.bytes().await {
            Ok(bytes) => bytes,
            Err(error) => {
                self.record.outcome = Outcome::Broken(format!("the body broke off: {error:?}"));
                return;
            }
        };
        let Ok(body) = serde_json::from_slice::<Value>(&bytes) else {
            self.fault("the body is no JSON");
            return;
        };
        if body.get("error").is_some() {
            self.hear_error(status, &body);
            if status < 400 {
                self.fault("an error came with a status of success");
            }
            return;
        }
        if status != 200 {
            self.fault(format!("status {status} without an error object"));
            return;
        }
        let choice = &body["choices"][0];
        let text = choice["message"]["content"].as_str().or(choice["text"].as_str());
        self.record.text = text.unwrap_or_default().to_owned();
        let calls = ["tool_calls", "function_call"].iter().any(|call| choice["message"].get(*call).is_some());
        if text.is_none() && !calls {
            self.fault("no text");
        }
        self.record.finish_reason = choice["finish_reason"].as_str().map(str::to_owned);
        if self.record.finish_reason.is_none() {
            self.fault("no finish_reason");
        }
        self.record.usage = body.get("usage").filter(|usage| usage.is_object()).cloned();
        self.record.routing = body.get("routing").cloned();
        self.record.body = Some(body);
        self.record.outcome = Outcome::Complete;
    }

    fn hear_error(&mut self, status: u16, body: &Value) {
        if let Err(what) = checks::error_object(body) {
            self.fault(what);
        }
        let error = &body["error"];
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        self.record.outcome =
            Outcome::Error { status, kind: text("type"), code: error["code"].clone(), message: text("message") };
    }

    async fn read_events(&mut self, answer: reqwest::Response) {
        let mut chunks = answer.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            match chunk {
                Ok(bytes) => self.buffer.extend_from_slice(&bytes),
                Err(error) => {
                    if !self.done && !self.error {
                        self.record.outcome = Outcome::Broken(format!("the stream broke off: {error:?}"));
                    } else {
                        self.fault(format!("the connection broke after the last frame: {error:?}"));
                    }
                    return;
                }
            }
            while let Some(end) = find(&self.buffer, b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                self.event(&String::from_utf8_lossy(&event)).await;
            }
            if self.left {
                return;
            }
        }
        self.end_of_stream();
    }

    fn end_of_stream(&mut self) {
        if !self.buffer.is_empty() {
            self.fault("the stream ends in half a frame");
        }
        match (self.done, self.error) {
            (true, false) => {
                self.record.outcome = Outcome::Complete;
                if self.record.finish_reason.is_none() {
                    self.fault("[DONE] without a finish_reason");
                }
            }
            (false, false) => {
                self.record.outcome = Outcome::Broken("the stream ended without [DONE] or error".to_owned());
                self.fault("a stream was silently cut");
            }
            _ => {}
        }
    }

    async fn event(&mut self, event: &str) {
        for line in event.lines().filter(|line| !line.is_empty() && !line.starts_with(':')) {
            let Some(data) = line.strip_prefix("data:") else {
                self.fault(format!("a line that is no data: {line}"));
                continue;
            };
            if self.done || self.error {
                self.fault(format!("a frame after the last one: {data}"));
            }
            match data.trim() {
                "[DONE]" => self.done = true,
                json => match serde_json::from_str::<Value>(json) {
                    Ok(chunk) => self.chunk(&chunk).await,
                    Err(error) => self.fault(format!("a frame that is no JSON: {error}")),
                },
            }
        }
    }

    async fn chunk(&mut self, chunk: &Value) {
        if chunk.get("error").is_some() {
            self.error = true;
            self.hear_error(200, chunk);
            if self.record.finish_reason.is_some() {
                self.fault("an error after the finish_reason");
            }
            return;
        }
        let identity = (chunk["id"].clone(), chunk["created"].clone(), chunk["model"].clone());
        if self.identity.get_or_insert_with(|| identity.clone()) != &identity {
            self.fault(format!("id, created and model change: {:?}, then {identity:?}", self.identity));
        }
        if let Some(usage) = chunk.get("usage").filter(|usage| usage.is_object()) {
            self.record.usage = Some(usage.clone());
        }
        if let Some(routing) = chunk.get("routing").filter(|routing| routing.is_object()) {
            self.record.routing = Some(routing.clone());
        }
        let Some(choice) = chunk["choices"].as_array().and_then(|choices| choices.first()) else { return };
        let text = choice["delta"]["content"].as_str().or(choice["text"].as_str()).unwrap_or_default();
        if !text.is_empty() {
            self.piece(text).await;
        }
        self.record.logprobs.extend(choice["logprobs"]["content"].as_array().into_iter().flatten().cloned());
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            self.record.calls.push(call.clone());
            if let (Some(pieces), Some(arguments)) = (&self.pieces, call["function"]["arguments"].as_str()) {
                self.left |= pieces.send(arguments.to_owned()).await.is_err();
            }
        }
        if let Some(reason) = choice["finish_reason"].as_str()
            && self.record.finish_reason.replace(reason.to_owned()).is_some()
        {
            self.fault("two finish_reasons");
        }
    }

    async fn piece(&mut self, text: &str) {
        if self.record.finish_reason.is_some() {
            self.fault("text after the finish_reason");
        }
        self.record.first_ns.get_or_insert_with(unix_ns);
        self.record.text.push_str(text);
        if let Some(pieces) = &self.pieces {
            self.left |= pieces.send(text.to_owned()).await.is_err();
        }
    }

    fn finish(mut self) -> Record {
        self.record.ended_ns = unix_ns();
        self.record
    }
}

fn text_header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
