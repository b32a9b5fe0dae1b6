//! The endpoints of the simulated provider.

use super::SimOptions;
use super::embeddings;
use super::fault::{Fault, Refusal};
use super::faults::Faults;
use super::log::{Arrival, Log, Outcome, Served};
use super::messages;
use super::play::{self, Breaker, Pace};
use super::request::{Endpoint, SimRequest};
use super::script::{self, Script};
use super::shape;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

const MAX_BODY_BYTES: usize = 32 << 20;
/// Bound on what a record keeps of a client's strings.
const MAX_NOTED_CHARS: usize = 200;
const JSON: &str = "application/json";
const ANTHROPIC_VERSION: &str = "anthropic-version";
const EVENTS: &str = "text/event-stream; charset=utf-8";

#[derive(Debug)]
pub(super) struct Provider {
    options: SimOptions,
    log: Log,
    faults: Faults,
    calls: AtomicU64,
}

type Shared = State<Arc<Provider>>;

pub(super) fn router(options: SimOptions) -> Router {
    let provider = Provider { options, log: Log::default(), faults: Faults::default(), calls: AtomicU64::new(0) };
    let mut router = Router::new()
        .route("/sim/requests", get(requests).delete(reset))
        .route("/sim/stats", get(stats))
        .route("/sim/faults", get(list_faults).put(set_fault).delete(clear_faults));
    for prefix in ["", "/v1"] {
        router = router
            .route(&format!("{prefix}/chat/completions"), answers(Endpoint::Chat))
            .route(&format!("{prefix}/completions"), answers(Endpoint::Completion))
            .route(&format!("{prefix}/messages"), answers(Endpoint::Messages))
            .route(&format!("{prefix}/embeddings"), answers(Endpoint::Embeddings))
            .route(&format!("{prefix}/models"), get(models));
    }
    router
        .fallback(async || error(Endpoint::Chat, 404, "not_found", "there is nothing here"))
        .method_not_allowed_fallback(async || error(Endpoint::Chat, 405, "method_not_allowed", "wrong method"))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(Arc::new(provider))
}

fn answers(endpoint: Endpoint) -> MethodRouter<Arc<Provider>> {
    post(
        async move |State(provider): Shared,
                    Extension(breaker): Extension<Breaker>,
                    headers: HeaderMap,
                    body: Result<Bytes, BytesRejection>| {
            provider.answer(endpoint, breaker, &headers, body).await
        },
    )
}

/// In the words of whom the client takes it for.
async fn models(State(provider): Shared, headers: HeaderMap) -> Response<Body> {
    let endpoint = if headers.contains_key(ANTHROPIC_VERSION) { Endpoint::Messages } else { Endpoint::Chat };
    if !provider.admits(endpoint, &headers) {
        return error(endpoint, 401, "invalid_api_key", "wrong API key");
    }
    let models = script::models(unix_now().as_secs());
    let models = if endpoint == Endpoint::Messages { messages::models(&models) } else { models };
    response(200, JSON, models.to_string())
}

async fn requests(State(provider): Shared) -> Json<Value> {
    Json(json!(provider.log.records()))
}

async fn reset(State(provider): Shared) -> StatusCode {
    provider.log.reset();
    StatusCode::NO_CONTENT
}

async fn stats(State(provider): Shared) -> Json<Value> {
    Json(json!(provider.log.stats()))
}

async fn list_faults(State(provider): Shared) -> Json<Value> {
    Json(json!(provider.faults.list()))
}

#[derive(Deserialize)]
struct SetFault {
    model: String,
    fault: String,
}

async fn set_fault(State(provider): Shared, body: Bytes) -> Response<Body> {
    let set = serde_json::from_slice::<SetFault>(&body)
        .map_err(|error| error.to_string())
        .and_then(|set| provider.faults.set(&set.model, &set.fault));
    match set {
        Ok(()) => response(204, JSON, Body::empty()),
        Err(why) => error(Endpoint::Chat, 400, "invalid_fault", &why),
    }
}

async fn clear_faults(State(provider): Shared) -> StatusCode {
    provider.faults.clear();
    StatusCode::NO_CONTENT
}

impl Provider {
    async fn answer(
        &self,
        endpoint: Endpoint,
        breaker: Breaker,
        headers: &HeaderMap,
        body: Result<Bytes, BytesRejection>,
    ) -> Response<Body> {
        let started = Instant::now();
        let call = self.calls.fetch_add(1, Relaxed);
        let parsed = body.map_err(|error| error.to_string()).and_then(|body| SimRequest::parse(endpoint, &body));
        let served = self.log.begin(arrival(endpoint, call, headers, parsed.as_ref().ok()));
        let refused = |status, code, why: &str| refused(endpoint, &served, status, code, why);
        let request = match parsed {
            Err(why) => return refused(400, "invalid_request", &why),
            Ok(_) if endpoint == Endpoint::Messages && !headers.contains_key(ANTHROPIC_VERSION) => {
                return refused(400, "invalid_request", "anthropic-version: header is required");
            }
            Ok(_) if !self.admits(endpoint, headers) => return refused(401, "invalid_api_key", "wrong API key"),
            Ok(request) => request,
        };
        match self.faults.of_call(&request.model, key_tail(endpoint, headers)) {
            Fault::Hang => pending().await,
            Fault::Reset => {
                served.end(Outcome::Fault);
                match breaker.break_off(true).await {}
            }
            Fault::Refuse(refusal) => refuse(endpoint, &served, refusal),
            Fault::PrefixRejected if request.prefix.is_some() => {
                refused(400, "invalid_request", "the last message must not be the assistant's")
            }
            Fault::ErrorBody => {
                useless(&served, JSON, shape::error(endpoint, 200, "server_error", "the answer failed").to_string())
            }
            Fault::Html => {
                useless(&served, "text/html", "<!doctype html><title>simulated</title><p>Welcome (simulated).")
            }
            Fault::Empty => useless(&served, if request.stream { EVENTS } else { JSON }, ""),
            fault if endpoint == Endpoint::Embeddings => self.embed(&request, fault, started, &served).await,
            fault => self.play(&request, fault, call, started, served, breaker).await,
        }
    }

    /// All at once, after the time of a first token.
    async fn embed(&self, request: &SimRequest, fault: Fault, started: Instant, served: &Served) -> Response<Body> {
        let ttft = if let Fault::Slow(ttft) = fault { ttft } else { self.options.ttft };
        Pace { first: started + ttft, between: None }.wait(0).await;
        served.status(200);
        served.end(Outcome::Completed);
        response(200, JSON, embeddings::answer(request, fault).to_string())
    }

    async fn play(
        &self,
        request: &SimRequest,
        fault: Fault,
        call: u64,
        started: Instant,
        served: Served,
        breaker: Breaker,
    ) -> Response<Body> {
        let options = &self.options;
        let id = match request.endpoint {
            Endpoint::Chat => format!("chatcmpl-sim-{call}"),
            Endpoint::Completion => format!("cmpl-sim-{call}"),
            Endpoint::Messages => format!("msg_sim_{call}"),
            Endpoint::Embeddings => format!("embd-sim-{call}"),
        };
        let script = Script::new(request, fault, options.seed, options.tokens, id, unix_now().as_secs());
        let ttft = if let Fault::Slow(ttft) = fault { ttft } else { options.ttft };
        let pace = Pace { first: started + ttft, between: options.between_tokens() };
        let (choices, words) = (script.choices(), options.keep_text.then(|| script.words()));
        if request.stream {
            served.status(200);
            return response(200, EVENTS, play::body(script.stream(), pace, served, breaker, choices, words));
        }
        let tokens = script.tokens();
        pace.wait(tokens).await;
        served.status(200);
        served.sent(u64::from(fault.reach().unwrap_or(tokens).min(tokens)) * u64::from(choices));
        let (steps, length) = script.whole();
        let mut answer = response(200, JSON, play::body(steps, pace, served, breaker, choices, None));
        answer.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        answer
    }

    fn admits(&self, endpoint: Endpoint, headers: &HeaderMap) -> bool {
        let given = key_of(endpoint, headers);
        self.options.api_key.as_deref().is_none_or(|keys| keys.split(',').any(|key| given == key))
    }
}

fn arrival(endpoint: Endpoint, call: u64, headers: &HeaderMap, request: Option<&SimRequest>) -> Arrival {
    let request_id = headers.get("x-request-id").and_then(|id| id.to_str().ok());
    Arrival {
        request_id: request_id.map_or_else(|| format!("sim-{call}"), noted),
        model: request.map(|request| noted(&request.model)).unwrap_or_default(),
        received_unix_ns: u64::try_from(unix_now().as_nanos()).unwrap_or(u64::MAX),
        prompt_tokens: request.map_or(0, |request| request.prompt_tokens),
        stream: request.is_some_and(|request| request.stream),
        key_tail: key_tail(endpoint, headers).to_owned(),
        trace: trace(headers),
    }
}

fn trace(headers: &HeaderMap) -> BTreeMap<&'static str, String> {
    let named = |name| Some((name, noted(headers.get(name)?.to_str().ok()?)));
    ["traceparent", "tracestate", "baggage"].into_iter().filter_map(named).collect()
}

fn noted(text: &str) -> String {
    text.chars().take(MAX_NOTED_CHARS).collect()
}

fn key_of(endpoint: Endpoint, headers: &HeaderMap) -> &str {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match endpoint {
        Endpoint::Messages => text("x-api-key"),
        Endpoint::Chat | Endpoint::Completion | Endpoint::Embeddings => {
            text(header::AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "))
        }
    }
    .unwrap_or_default()
}

/// The last four characters of a long key.
fn key_tail(endpoint: Endpoint, headers: &HeaderMap) -> &str {
    let key = key_of(endpoint, headers);
    if key.len() >= 12 { key.get(key.len() - 4..).unwrap_or_default() } else { "" }
}

fn refuse(endpoint: Endpoint, served: &Served, refusal: Refusal) -> Response<Body> {
    let mut answer = refused(endpoint, served, refusal.status, refusal.code, "refused as the model's name asks");
    if let Some(seconds) = refusal.retry_after_s {
        let at = SystemTime::now() + Duration::from_secs(seconds);
        let date = refusal.as_date.then(|| header::HeaderValue::from_str(&httpdate::fmt_http_date(at)).ok()).flatten();
        answer.headers_mut().insert(header::RETRY_AFTER, date.unwrap_or_else(|| seconds.into()));
    }
    answer
}

fn refused(endpoint: Endpoint, served: &Served, status: u16, code: &str, message: &str) -> Response<Body> {
    served.status(status);
    served.end(Outcome::Fault);
    error(endpoint, status, code, message)
}

/// 200, and nothing to be had.
fn useless(served: &Served, media: &'static str, body: impl Into<Body>) -> Response<Body> {
    served.status(200);
    served.end(Outcome::Fault);
    response(200, media, body)
}

fn error(endpoint: Endpoint, status: u16, code: &str, message: &str) -> Response<Body> {
    response(status, JSON, shape::error(endpoint, status, code, message).to_string())
}

fn response(status: u16, media: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media));
    response
}

fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
