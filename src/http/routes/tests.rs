//! The whole router with services that nobody answers: what the edge alone decides.

mod keys;

use super::*;
use crate::http::listen::{self, Door};
use axum::body::{Body, to_bytes};
use http::{Method, Request as HttpRequest};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use spillway_actors::{
    chaos::faults::Faults,
    cloud::{Provider, RetryBudget},
    config::{Sources, UnknownModels, load},
    domain::NanoUsd,
    flight::{HedgeBudget, Recent},
    health::Scores,
    jobs::JobTable,
    keys::Keys,
    ledger::Ledger,
    route::Fleet,
    supervise::Address,
};
use std::{io, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

fn services(limit: usize) -> Services {
    services_with(limit, |_| Fleet::default())
}

fn services_with(limit: usize, fleet: impl FnOnce(&Config) -> Fleet) -> Services {
    let file = "[server]\nrequest_timeout_ms = 1000\nmax_body_bytes = 4096\n[router.aliases]\nfast = \"local\"\n";
    let sources = Sources {
        file: Some((PathBuf::from("my.toml"), file.to_owned())),
        env: vec![("HOLYSHEEP_API_KEY".into(), "secret-key".into())],
        cache_dir: PathBuf::from("/cache"),
        ..Sources::default()
    };
    let (config, _) = load(&sources, &|_| Err(io::Error::other("no file"))).unwrap();
    let shared = Shared {
        jobs: JobTable::new(limit, true),
        fleet: fleet(&config),
        ledger: Ledger::default(),
        hedges: HedgeBudget::new(NanoUsd::ZERO, Instant::now()),
        retries: RetryBudget::new(Instant::now()),
        classifier: Address::default(),
        router: Address::default(),
        scores: Scores::default(),
        keys: Keys::in_memory(),
        recent: Recent::default(),
        faults: Faults::default(),
    };
    Services::new(Arc::new(config), shared)
}

struct Got {
    status: u16,
    headers: http::HeaderMap,
    json: Value,
}

impl Got {
    /// "status type code param" of an error object with exactly its four keys.
    fn error(&self) -> String {
        let error = self.json["error"].as_object().unwrap();
        assert_eq!(error.keys().collect::<Vec<_>>(), ["message", "type", "param", "code"]);
        let part = |name: &str| error[name].as_str().unwrap_or("null");
        format!("{} {} {} {}", self.status, part("type"), part("code"), part("param"))
    }
}

async fn send(services: &Services, method: Method, path: &str, body: &str) -> Got {
    let request = HttpRequest::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
    got(services, request).await
}

async fn got(services: &Services, request: HttpRequest<Body>) -> Got {
    let router = TowerToHyperService::new(api_router(EdgeState::new(services.clone())));
    let response = router.call(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, 1 << 20).await.unwrap();
    let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    assert!(parts.headers["x-request-id"].to_str().unwrap().starts_with("req_"));
    assert!(parts.headers.contains_key("openai-processing-ms"));
    Got { status: parts.status.as_u16(), headers: parts.headers, json }
}

/// The methods that a path answers to, as it tells whoever tries another.
pub(in crate::http) async fn send_anything(method: Method, path: &str) -> String {
    let got = send(&services(1), method, path, "").await;
    assert_eq!(got.status, 405, "{path}");
    got.headers["allow"].to_str().unwrap().to_owned()
}

const HI: &str = r#"{"messages": [{"role": "user", "content": "hi"}]}"#;

#[tokio::test]
async fn every_refusal_is_an_error_object() {
    let services = services(4);
    let big = format!("{{\"messages\": \"{}\"}}", "x".repeat(5000));
    let unknown = HI.replace("{\"m", "{\"model\": \"gpt-9\", \"m");
    for (method, path, body, expected) in [
        (Method::GET, "/", "", "404 invalid_request_error unknown_url null"),
        (Method::POST, "/v1/nothing", "{}", "404 invalid_request_error unknown_url null"),
        (Method::GET, "/v1/chat/completions", "", "405 invalid_request_error method_not_supported null"),
        (Method::DELETE, "/models", "", "405 invalid_request_error method_not_supported null"),
        (Method::POST, "/v1/chat/completions", "{", "400 invalid_request_error null null"),
        (Method::POST, "/v1/chat/completions", "", "400 invalid_request_error null null"),
        (Method::POST, "/chat/completions", "{}", "400 invalid_request_error null messages"),
        (Method::POST, "/v1/completions", "{}", "400 invalid_request_error null prompt"),
        (Method::POST, "/v1/chat/completions", &unknown, "404 invalid_request_error model_not_found model"),
        (Method::POST, "/v1/chat/completions", &big, "413 invalid_request_error request_too_large null"),
        (Method::GET, "/v1/models/gpt-9", "", "404 invalid_request_error model_not_found model"),
    ] {
        assert_eq!(send(&services, method, path, body).await.error(), expected, "{path}");
    }
    assert_eq!(services.jobs.totals().admitted, 0);
}

#[tokio::test]
async fn a_decision_is_explained_without_being_admitted() {
    let services = services(0);
    for path in ["/route", "/v1/route"] {
        let got = send(&services, Method::POST, path, HI).await;
        assert_eq!(
            (got.status, &got.json["object"], &got.json["score"]["complexity"]),
            (200, &json!("route"), &json!("trivial"))
        );
        assert_eq!(got.json["refusal"]["kind"], "unavailable", "nobody is there in this test");
    }
    assert_eq!(send(&services, Method::POST, "/v1/route", "{").await.error(), "400 invalid_request_error null null");
    let totals = services.jobs.totals();
    assert_eq!((totals.admitted, totals.refused), (0, 0));
}

#[tokio::test]
async fn anthropics_clients_read_errors_and_models_in_their_own_form() {
    let services = services(1);
    for (method, path, body, status, kind) in [
        (Method::POST, "/v1/messages", "{", 400, "invalid_request_error"),
        (
            Method::POST,
            "/messages",
            r#"{"model": "gpt-9", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}]}"#,
            404,
            "not_found_error",
        ),
        (Method::GET, "/v1/messages", "", 405, "invalid_request_error"),
        (Method::POST, "/v1/messages/nothing", "{}", 404, "not_found_error"),
        (Method::POST, "/v1/messages/count_tokens", "{}", 400, "invalid_request_error"),
    ] {
        let got = send(&services, method, path, body).await;
        assert_eq!((got.status, &got.json["error"]["type"]), (status, &json!(kind)), "{path}");
        assert_eq!((got.json["type"].as_str(), got.json["error"].as_object().unwrap().len()), (Some("error"), 2));
        assert_eq!(got.headers["request-id"], got.headers["x-request-id"]);
    }
    let router = TowerToHyperService::new(api_router(EdgeState::new(services)));
    let get = async |path: &str| {
        let request = HttpRequest::builder().uri(path).header("anthropic-version", "2023-06-01").body(Body::empty());
        let body = router.call(request.unwrap()).await.unwrap().into_body();
        serde_json::from_slice::<Value>(&to_bytes(body, 1 << 16).await.unwrap()).unwrap()
    };
    let page = get("/v1/models?limit=2").await;
    assert_eq!(
        (&page["data"][1]["id"], &page["has_more"], &page["last_id"]),
        (&json!("local"), &json!(true), &json!("local"))
    );
    assert_eq!(get("/v1/models/gpt-4.1").await["type"], "model");
    assert_eq!(get("/v1/models/gpt-9").await["error"]["type"], "not_found_error");
    assert_eq!(get("/v1/models?limit=x").await["error"]["type"], "invalid_request_error");
}

#[tokio::test]
async fn tokens_are_counted_and_the_count_says_how() {
    let body = r#"{"messages": [{"role": "user", "content": "one two three"}]}"#;
    let got = send(&services(1), Method::POST, "/v1/messages/count_tokens", body).await;
    assert_eq!((got.status, got.headers["x-spillway-token-count"].to_str().unwrap()), (200, "estimated"));
    assert!(got.json["input_tokens"].as_u64().unwrap() > 3, "{}", got.json);
}

#[tokio::test]
async fn an_unknown_model_is_auto_where_that_is_configured() {
    let mut services = services(1);
    let mut config = Config::clone(&services.config);
    config.router.unknown_models = UnknownModels::Auto;
    services.config = Arc::new(config);
    let unknown = HI.replace("{\"m", "{\"model\": \"gpt-9\", \"m");
    let got = send(&services, Method::POST, "/v1/route", &unknown).await;
    assert_eq!((got.status, &got.json["object"]), (200, &json!("route")));
    let got = send(&services, Method::GET, "/v1/models/gpt-9", "").await;
    assert_eq!((&got.json["id"], &got.json["owned_by"]), (&json!("gpt-9"), &json!("spillway")));
}

#[tokio::test]
async fn a_wrong_method_learns_the_right_one() {
    let got = send(&services(1), Method::GET, "/v1/completions", "").await;
    assert_eq!(got.headers["allow"], "POST");
}

#[tokio::test(start_paused = true)]
async fn without_actors_a_request_ends_in_a_timeout_with_a_proper_status() {
    let services = services(1);
    for body in [HI.to_owned(), HI.replace("{\"m", "{\"stream\": true, \"m")] {
        let got = send(&services, Method::POST, "/v1/chat/completions", &body).await;
        assert_eq!(got.error(), "504 server_error timeout null");
        assert_eq!(got.headers["content-type"], "application/json");
    }
    assert!(services.jobs.drained(Duration::from_secs(1)).await);
}

#[tokio::test(start_paused = true)]
async fn a_full_house_and_a_closed_one_say_when_to_come_back() {
    let services = services(1);
    let waiting = send(&services, Method::POST, "/v1/chat/completions", HI);
    let second = async {
        while services.jobs.running() == 0 {
            tokio::task::yield_now().await;
        }
        let got = send(&services, Method::POST, "/v1/chat/completions", HI).await;
        assert_eq!(got.error(), "429 rate_limit_exceeded rate_limit_exceeded null");
        assert_eq!(got.headers["retry-after"], "1");
    };
    tokio::join!(waiting, second);
    services.jobs.close();
    let got = send(&services, Method::POST, "/v1/chat/completions", HI).await;
    assert_eq!(
        (got.error().as_str(), &got.headers["retry-after"]),
        ("503 server_error shutting_down null", &"5".parse().unwrap())
    );
}

#[tokio::test]
async fn models_are_listed_each_once_and_found_by_name() {
    let services = services(1);
    for prefix in ["", "/v1"] {
        let got = send(&services, Method::GET, &format!("{prefix}/models"), "").await;
        let ids: Vec<&str> = got.json["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
        let expected = [
            "auto",
            "local",
            "smollm2-135m",
            "deepseek-v3.2",
            "gemini-2.5-flash",
            "gpt-4.1",
            "claude-sonnet-4.5",
            "fast",
        ];
        assert_eq!(ids, expected);
    }
    let got = send(&services, Method::GET, "/v1/models/gpt-4.1", "").await;
    assert_eq!((&got.json["object"], &got.json["owned_by"]), (&json!("model"), &json!("holysheep")));
}

#[tokio::test]
async fn health_is_alive_and_ready_needs_a_target() {
    let services = services(1);
    let got = send(&services, Method::GET, "/health", "").await;
    assert_eq!((got.status, got.json), (200, json!({"status": "ok"})));
    let got = send(&services, Method::GET, "/ready", "").await;
    assert_eq!((got.status, &got.json["status"]), (503, &json!("not_ready")));
    services.jobs.close();
    let got = send(&services, Method::GET, "/ready", "").await;
    assert!(got.json["reasons"][0].as_str().unwrap().contains("draining"));
}

#[tokio::test]
async fn a_provider_with_a_key_makes_it_ready() {
    let services = services_with(1, |config| {
        let provider = Provider::new(Arc::clone(&config.clouds[0])).unwrap();
        Fleet { providers: [provider].into(), ..Fleet::default() }
    });
    let got = send(&services, Method::GET, "/ready", "").await;
    assert_eq!((got.status, &got.json["reasons"]), (200, &json!([])));
    assert_eq!(got.json["targets"][0]["model"], "deepseek-v3.2");
}

/// A connection to the API over TCP; the server ends with the token's guard.
async fn connected(services: &Services) -> (TcpStream, tokio_util::sync::DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let router = api_router(EdgeState::new(services.clone()));
    spillway_actors::task::detached(listen::serve(listener, router, shutdown.clone(), 64, Door::default));
    (TcpStream::connect(address).await.unwrap(), shutdown.drop_guard())
}

fn head(length: usize) -> String {
    format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n")
}

#[tokio::test]
async fn an_upload_that_is_too_large_is_taken_in_so_that_its_sender_reads_the_answer() {
    const LENGTH: usize = 8 << 20;
    let services = services(1);
    let (mut socket, _server) = connected(&services).await;
    socket.write_all(head(LENGTH).as_bytes()).await.unwrap();
    socket.write_all(&vec![b' '; LENGTH]).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("request_too_large"), "{answer}");
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_ends_its_request() {
    let services = services(1);
    let (mut socket, _server) = connected(&services).await;
    socket.write_all(head(HI.len()).as_bytes()).await.unwrap();
    socket.write_all(HI.as_bytes()).await.unwrap();
    let admitted = async {
        while services.jobs.running() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), admitted).await.unwrap();
    drop(socket);
    assert!(services.jobs.drained(Duration::from_secs(5)).await);
    assert_eq!(services.jobs.totals().ended.into_iter().collect::<Vec<_>>(), [("client_gone", 1)]);
}
