//! A provider that answers by key, model and count of calls, and a gateway without local targets in front of it.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use spillway::http::{
    Door,
    routes::{EdgeState, api_router},
};
use spillway_actors::{
    config::{Sources, load},
    runtime::Runtime,
    task,
};
use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{net::TcpListener, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What the provider does with one call.
#[derive(Clone)]
pub enum Answer {
    Text(&'static str),
    /// A tool call without usage.
    ToolCall,
    /// Status, Retry-After, message (also its code).
    Status(u16, Option<String>, &'static str),
    Hang,
}

impl Answer {
    pub fn limited(after: &str) -> Self {
        Self::Status(429, Some(after.to_owned()), "slow down")
    }
}

/// Key, model as the gateway calls it, and how many calls for that model came before.
pub type Call<'a> = (&'a str, &'a str, usize);
type Decide = Arc<dyn Fn(Call<'_>) -> Answer + Send + Sync>;

#[derive(Default)]
struct Seen {
    calls: Vec<(String, String)>,
    bodies: Vec<Value>,
    peers: BTreeSet<SocketAddr>,
    lists: usize,
}

#[derive(Clone)]
struct Shared {
    decide: Decide,
    seen: Arc<Mutex<Seen>>,
}

pub struct Stub {
    addr: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    _stop: DropGuard,
}

impl Stub {
    pub async fn start(decide: impl Fn(Call<'_>) -> Answer + Send + Sync + 'static) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = Shared { decide: Arc::new(decide), seen: Arc::clone(&seen) };
        let router = Router::new()
            .route("/v1/models", get(models))
            .route("/v1/chat/completions", post(answer))
            .with_state(shared)
            .into_make_service_with_connect_info::<SocketAddr>();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let guard = stop.clone().drop_guard();
        task::detached(async move {
            tokio::select! {
                served = axum::serve(listener, router) => served.unwrap(),
                () = stop.cancelled() => {}
            }
        });
        Self { addr, seen, _stop: guard }
    }

    pub fn calls(&self) -> usize {
        self.seen.lock().unwrap().calls.len()
    }

    pub fn calls_of(&self, key: &str) -> usize {
        self.seen.lock().unwrap().calls.iter().filter(|(of, _)| of == key).count()
    }

    pub fn calls_of_model(&self, model: &str) -> usize {
        self.seen.lock().unwrap().calls.iter().filter(|(_, of)| of == model).count()
    }

    pub fn lists(&self) -> usize {
        self.seen.lock().unwrap().lists
    }

    pub fn connections(&self) -> usize {
        self.seen.lock().unwrap().peers.len()
    }

    pub fn last_body(&self) -> Value {
        self.seen.lock().unwrap().bodies.last().cloned().unwrap_or_default()
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !holds(self) {
            assert!(Instant::now() < deadline, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn models(State(shared): State<Shared>, ConnectInfo(peer): ConnectInfo<SocketAddr>) -> Json<Value> {
    let mut seen = shared.seen.lock().unwrap();
    seen.peers.insert(peer);
    seen.lists += 1;
    // `local` means something else here, and `a-upstream` is configured.
    Json(json!({"object": "list", "data": [{"id": "a-upstream"}, {"id": "local"}, {"id": "found"}]}))
}

async fn answer(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let key = headers[header::AUTHORIZATION].to_str().unwrap().trim_start_matches("Bearer ").to_owned();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let model = body["model"].as_str().unwrap().trim_end_matches("-upstream").to_owned();
    let answer = {
        let mut seen = shared.seen.lock().unwrap();
        let before = seen.calls.iter().filter(|call| call.1 == model).count();
        seen.peers.insert(peer);
        seen.bodies.push(body);
        seen.calls.push((key.clone(), model.clone()));
        (shared.decide)((&key, &model, before))
    };
    let whole = |message: Value, reason: &str| {
        Json(json!({"id": "x", "object": "chat.completion", "created": 1, "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": reason}]}))
        .into_response()
    };
    match answer {
        Answer::Text(text) => whole(json!({"role": "assistant", "content": text}), "stop"),
        Answer::ToolCall => whole(
            json!({"role": "assistant", "content": null, "tool_calls": [{"id": "call_1", "type": "function",
                "function": {"name": "look", "arguments": "{\"where\":\"nowhere\"}"}}]}),
            "tool_calls",
        ),
        Answer::Status(status, after, message) => {
            let error = Json(json!({"error": {"message": message, "type": "error", "param": null, "code": message}}));
            let mut response = (StatusCode::from_u16(status).unwrap(), error).into_response();
            if let Some(after) = after {
                response.headers_mut().insert(header::RETRY_AFTER, after.parse().unwrap());
            }
            response
        }
        Answer::Hang => std::future::pending().await,
    }
}

/// What a client got.
pub struct Got {
    pub status: reqwest::StatusCode,
    headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Got {
    /// In seconds.
    pub fn retry_after(&self) -> u64 {
        self.headers.get("retry-after").and_then(|after| after.to_str().ok()?.parse().ok()).unwrap_or(0)
    }

    pub fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }
}

pub struct Pool {
    runtime: Runtime,
    api: String,
    client: reqwest::Client,
    _stop: DropGuard,
}

impl Pool {
    /// Two keys and two models, `a` preferred and `b` next; `extra` are more keys of the provider's table.
    pub async fn start(stub: &Stub, extra: &str) -> Self {
        let mut file = format!(
            "local = []\n[ledger]\nurl = 'memory:'\nbaseline_model = ''\n[[cloud]]\nname = 'stub'\n\
             base_url = 'http://{}/v1'\napi_keys_env = ['KEY_ONE', 'KEY_TWO']\n{extra}",
            stub.addr
        );
        for model in ["a", "b"] {
            file += &format!(
                "[[cloud.models]]\nname = '{model}'\nupstream = '{model}-upstream'\ninput_usd_per_mtok = 1\n\
                 output_usd_per_mtok = 1\n"
            );
        }
        for tier in ["trivial", "moderate", "complex", "premium"] {
            file += &format!("[router.rules.{tier}]\nprefer = ['a']\nfallback = ['b']\nmax_latency_ms = 9000\n");
        }
        let env = [("KEY_ONE", "key-one"), ("KEY_TWO", "key-two")];
        let sources = Sources {
            file: Some((PathBuf::from("pool.toml"), file)),
            env: env.map(|(name, key)| (name.to_owned(), key.to_owned())).to_vec(),
            cache_dir: PathBuf::from("/nonexistent"),
            ..Sources::default()
        };
        let (config, _) = load(&sources, &|_| Err(io::ErrorKind::NotFound.into())).expect("a valid configuration");
        let runtime = Runtime::start(Arc::new(config), Err("no engine".into())).await.expect("the actors start");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (api, stop) = (format!("http://{}", listener.local_addr().unwrap()), CancellationToken::new());
        let router = api_router(EdgeState::new(runtime.services.clone()));
        // Places for whole crowds: who finds none waits until one that is idle is closed.
        task::detached(spillway::http::serve(listener, router, stop.clone(), 1024, Door::default));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { runtime, api, client, _stop: stop.drop_guard() }
    }

    /// A chat whose body also has these fields.
    pub async fn chat(&self, fields: Value) -> Got {
        let mut body = json!({"messages": [{"role": "user", "content": "hello"}]});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let url = format!("{}/v1/chat/completions", self.api);
        let response = self.client.post(url).json(&body).send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Got { status, headers, body: response.json().await.unwrap() }
    }

    pub async fn get(&self, path: &str) -> Value {
        self.client.get(format!("{}{path}", self.api)).send().await.unwrap().json().await.unwrap()
    }

    pub fn breaker(&self, model: &str) -> &'static str {
        let breakers = self.runtime.services.fleet.providers[0].breakers(Instant::now());
        breakers.into_iter().find(|(name, ..)| name == model).map(|(_, state, _)| state).unwrap()
    }

    pub fn key_states(&self) -> Vec<&'static str> {
        self.runtime.services.fleet.providers[0].keys(Instant::now()).into_iter().map(|key| key.state).collect()
    }

    /// Takes every extra attempt as soon as there is one.
    pub async fn spend_retries(&self) {
        loop {
            while self.runtime.services.retries.withdraw(Instant::now()) {}
            tokio::task::yield_now().await;
        }
    }

    pub fn found(&self) -> Vec<String> {
        self.runtime.services.fleet.found_models().into_iter().map(|(model, _)| model.to_string()).collect()
    }
}
