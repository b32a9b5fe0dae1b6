//! One streamed chat as its client sees it: when each piece came, what it cost, how it ended. Never retries.

use super::BenchError;
use crate::call;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use spillway_actors::cloud::sse::SseParser;
use std::time::Duration;
use tokio::time::Instant;

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(300);
/// Characters of a foreign error that are worth showing.
const SHOWN: usize = 200;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question {
    pub system: Option<String>,
    pub user: String,
    pub max_tokens: u32,
}

impl Question {
    fn body(&self, model: &str) -> Value {
        let mut messages = Vec::new();
        if let Some(system) = &self.system {
            messages.push(json!({"role": "system", "content": system}));
        }
        messages.push(json!({"role": "user", "content": self.user}));
        json!({
            "model": model, "messages": messages, "max_tokens": self.max_tokens, "temperature": 0,
            "stream": true, "stream_options": {"include_usage": true},
        })
    }
}

/// The gateway's own account of the request, from its `routing` object.
#[derive(Debug, Clone, Deserialize)]
pub struct Routing {
    pub target: String,
    pub attempts: Vec<RoutedAttempt>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct RoutedAttempt {
    pub cost_usd: f64,
}

/// What became of one question.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// `None` = a whole answer.
    pub failure: Option<String>,
    pub took: Duration,
    pub first_token: Option<Duration>,
    /// Between one piece of text and the next.
    pub gaps: Vec<Duration>,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub cached_tokens: u64,
    pub routing: Option<Routing>,
}

/// One server under `base_url`, as SDKs take it.
#[derive(Debug, Clone)]
pub struct BenchClient {
    http: reqwest::Client,
    base_url: String,
    key: String,
}

impl BenchClient {
    /// # Errors
    /// No HTTP client can be made on this host.
    pub fn new(base_url: &str, key: &str) -> Result<Self, BenchError> {
        // Some servers end a connection after an answer without saying so: each request has its own.
        let builder = call::client(base_url).tcp_nodelay(true).pool_max_idle_per_host(0).timeout(PATIENCE);
        let http = builder
            .build()
            .map_err(|error| BenchError::Unreachable { url: base_url.to_owned(), why: error.to_string() })?;
        Ok(Self { http, base_url: base_url.trim_end_matches('/').to_owned(), key: key.to_owned() })
    }

    /// Names under `GET /models`.
    ///
    /// # Errors
    /// Nothing answers there as an OpenAI-compatible server does.
    pub async fn models(&self) -> Result<Vec<String>, BenchError> {
        let unreachable = |why: String| BenchError::Unreachable { url: self.base_url.clone(), why };
        let asked = self.http.get(format!("{}/models", self.base_url)).bearer_auth(&self.key).send().await;
        let answer = asked.map_err(|e| unreachable(e.to_string()))?;
        if let Some(elsewhere) = call::elsewhere(&answer) {
            return Err(unreachable(elsewhere));
        }
        let list: Value = answer.json().await.map_err(|e| unreachable(e.to_string()))?;
        let names = list["data"].as_array().ok_or_else(|| unreachable("it lists no models".to_owned()))?;
        Ok(names.iter().filter_map(|model| model["id"].as_str().map(str::to_owned)).collect())
    }

    /// Asks and reads to the end.
    pub async fn ask(&self, model: &str, question: &Question) -> Sample {
        let began = Instant::now();
        let mut reading = Reading { began, last: began, sample: Sample::default(), finished: false };
        let outcome = reading.read(self, &question.body(model)).await;
        let mut sample = reading.sample;
        sample.took = began.elapsed();
        sample.failure = outcome.err();
        sample
    }
}

/// An error with what caused it.
fn whole(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

struct Reading {
    began: Instant,
    last: Instant,
    sample: Sample,
    finished: bool,
}

impl Reading {
    async fn read(&mut self, client: &BenchClient, body: &Value) -> Result<(), String> {
        let url = format!("{}/chat/completions", client.base_url);
        let sent = client.http.post(url).bearer_auth(&client.key).json(body).send().await;
        let answer = sent.map_err(|error| whole(&error))?;
        if let Some(elsewhere) = call::elsewhere(&answer) {
            return Err(elsewhere);
        }
        if !answer.status().is_success() {
            let status = answer.status().as_u16();
            let text = answer.text().await.unwrap_or_default();
            return Err(format!("{status}: {}", text.chars().take(SHOWN).collect::<String>()));
        }
        let (mut bytes, mut events) = (answer.bytes_stream(), SseParser::new());
        while let Some(piece) = bytes.next().await {
            events.push(&piece.map_err(|error| whole(&error))?).map_err(|error| error.to_string())?;
            while let Some(event) = events.next_event().map_err(|error| error.to_string())? {
                self.event(&event.data)?;
            }
        }
        if self.finished { Ok(()) } else { Err("the stream was cut".to_owned()) }
    }

    fn event(&mut self, data: &str) -> Result<(), String> {
        if data == "[DONE]" {
            return Ok(());
        }
        let chunk: Value = serde_json::from_str(data).map_err(|_| "a chunk that is no JSON".to_owned())?;
        if let Some(error) = chunk.get("error") {
            return Err(error["message"]
                .as_str()
                .unwrap_or("an error without a message")
                .chars()
                .take(SHOWN)
                .collect());
        }
        let choice = &chunk["choices"][0];
        if choice["delta"]["content"].as_str().is_some_and(|text| !text.is_empty()) {
            self.token();
        }
        self.finished |= choice["finish_reason"].is_string();
        let usage = &chunk["usage"];
        if let (Some(prompt), Some(completion)) = (usage["prompt_tokens"].as_u64(), usage["completion_tokens"].as_u64())
        {
            self.sample.prompt_tokens = prompt;
            self.sample.completion_tokens = completion;
            self.sample.cached_tokens = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0);
        }
        if let Some(routing) = chunk.get("routing") {
            self.sample.routing = Routing::deserialize(routing).ok();
        }
        Ok(())
    }

    fn token(&mut self) {
        let now = Instant::now();
        match self.sample.first_token {
            None => self.sample.first_token = Some(now - self.began),
            Some(_) => self.sample.gaps.push(now - self.last),
        }
        self.last = now;
    }
}
