//! Bad requests: each gets the OpenAI error object with its status, none a 500, and the gateway goes on.

use crate::support::{Ask, Gateway, Outcome, Setup, checks::error_object};
use reqwest::Method;
use serde_json::Value;
use spillway::sim::SimOptions;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const CHAT: &str = "/v1/chat/completions";
const COMPLETION: &str = "/v1/completions";

async fn refused(gateway: &Gateway, method: Method, path: &str, body: impl Into<bytes::Bytes>) -> (u16, Value) {
    let (status, headers, bytes) = gateway.client.send(method.clone(), &gateway.url(path), body).await;
    let text = String::from_utf8_lossy(&bytes);
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("{method} {path}: JSON, not {text}"));
    error_object(&body).unwrap_or_else(|what| panic!("{method} {path}: {what}"));
    assert!((400..500).contains(&status), "{method} {path}: {status} {body}");
    assert!(headers.contains_key("x-request-id"), "{method} {path}: an id to complain with");
    (status, body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_get_the_error_object_and_never_a_500() {
    let gateway = Setup::default().warm().await;
    let user = r#"[{"role":"user","content":"hi"}]"#;
    let chat = |rest: &str| format!(r#"{{"messages":{user}{rest}}}"#);
    for body in [
        String::new(),
        "{".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        "\"text\"".to_owned(),
        "{}".to_owned(),
        r#"{"messages":[]}"#.to_owned(),
        r#"{"messages":"hi"}"#.to_owned(),
        r#"{"messages":[1]}"#.to_owned(),
        r#"{"messages":[{"role":"user"}]}"#.to_owned(),
        r#"{"messages":[{"role":7,"content":"hi"}]}"#.to_owned(),
        r#"{"messages":[{"content":"hi"}]}"#.to_owned(),
        r#"{"messages":[{"role":"user","content":7}]}"#.to_owned(),
        chat(r#","max_tokens":"many""#),
        chat(r#","max_tokens":-1"#),
        chat(r#","max_tokens":1.5"#),
        chat(r#","max_tokens":99999999999999999999"#),
        chat(r#","temperature":"hot""#),
        chat(r#","temperature":-1"#),
        chat(r#","temperature":1e999"#),
        chat(r#","top_p":2"#),
        chat(r#","stream":"yes""#),
        chat(r#","model":7"#),
        chat(r#","stop":7"#),
        chat(r#","stop":[7]"#),
        chat(r#","max_latency_ms":-5"#),
        chat(r#","local_only":"yes""#),
        format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)),
        format!(r#"{{"messages":{user},"metadata":{}1{}}}"#, "[".repeat(5_000), "]".repeat(5_000)),
        r#"{"messages":[{"role":"user","content":"a lone \ud800 surrogate"}]}"#.to_owned(),
    ] {
        let (status, answer) = refused(&gateway, Method::POST, CHAT, body.clone()).await;
        let start: String = body.chars().take(80).collect();
        assert_eq!(status, 400, "{start}: {answer}");
        assert_eq!(answer["error"]["type"], "invalid_request_error", "{start}: {answer}");
    }
    for body in ["{}", r#"{"prompt":7}"#, r#"{"prompt":{}}"#, r#"{"prompt":[]}"#, r#"{"prompt":["a",1]}"#] {
        let (status, answer) = refused(&gateway, Method::POST, COMPLETION, body).await;
        assert_eq!(status, 400, "{body}: {answer}");
    }
    // Bytes that are no UTF-8.
    let (status, _) = refused(&gateway, Method::POST, CHAT, b"{\"messages\":\"\xff\xfe\"}".to_vec()).await;
    assert_eq!(status, 400);
    still_serves(&gateway).await;
    gateway.shutdown().await;
}

async fn still_serves(gateway: &Gateway) {
    gateway.client.ask(&gateway.api, Ask::count()).await.assert_complete();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nul_in_a_prompt_is_refused_or_answered() {
    let gateway = Setup::default().warm().await;
    for ask in [Ask::chat("a\0b"), Ask::completion("a\0b"), Ask::hard().with("user", "\0")] {
        for ask in [ask.clone(), ask.stream()] {
            let record = gateway.client.ask(&gateway.api, ask).await;
            assert!(record.is_complete() || record.status == Some(400), "{record:#?}");
            assert_eq!(record.faults, Vec::<String>::new(), "{record:#?}");
        }
    }
    still_serves(&gateway).await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_models_routes_and_methods_are_told_apart() {
    let gateway = Setup::default().start().await;
    let body = r#"{"model":"nobody","messages":[{"role":"user","content":"hi"}]}"#;
    let (status, answer) = refused(&gateway, Method::POST, CHAT, body).await;
    assert_eq!((status, &answer["error"]["code"]), (404, &Value::from("model_not_found")), "{answer}");
    let (status, _) = refused(&gateway, Method::GET, "/v1/models/nobody", "").await;
    assert_eq!(status, 404);
    for path in ["/", "/v1", "/v1/chat", "/v1/nothing", "/v1/chat/completions/", "/admin/status", "/metrics"] {
        let (status, answer) = refused(&gateway, Method::GET, path, "").await;
        assert_eq!(status, 404, "{path}: {answer}");
    }
    for (method, path) in [(Method::GET, CHAT), (Method::PUT, COMPLETION), (Method::DELETE, "/v1/models")] {
        let (status, answer) = refused(&gateway, method.clone(), path, "").await;
        assert_eq!(status, 405, "{method} {path}: {answer}");
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_longer_than_every_context_is_refused_at_once() {
    let gateway = Setup::default().warm().await;
    let long = "word ".repeat(4000);
    for ask in [Ask::chat(&long).model("local"), Ask::completion(&long).model("local"), Ask::chat(&long).local_only()] {
        for ask in [ask.clone(), ask.stream()] {
            let record = gateway.client.ask(&gateway.api, ask).await;
            let Outcome::Error { status, code, .. } = &record.outcome else { panic!("{record:#?}") };
            assert_eq!((*status, code), (400, &Value::from("context_length_exceeded")), "{record:#?}");
            assert_eq!(record.faults, Vec::<String>::new(), "{record:#?}");
        }
    }
    // Too long here, but not for the cloud.
    let record = gateway.client.ask(&gateway.api, Ask::chat(&long)).await;
    assert_eq!(record.assert_complete().target(), "sim");
    still_serves(&gateway).await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_beyond_the_limit_is_answered_413() {
    let gateway = Setup::default().start().await;
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{}"}}]}}"#, "x".repeat(10_485_761));
    let (status, answer) = refused(&gateway, Method::POST, CHAT, body).await;
    assert_eq!(status, 413, "{answer}");
    // Told by its length alone: at once to who asks first, after some patience to who is sending.
    for expect in ["expect: 100-continue\r\n", ""] {
        let head = format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\n{expect}content-length: 99999999999\r\n\r\n");
        let answer = raw(&gateway, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{expect}: {answer}");
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_request_end_one_connection_only() {
    let gateway = Setup::default().warm().await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let answer = raw(&gateway, bytes).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    still_serves(&gateway).await;
    gateway.shutdown().await;
}

/// What the API listener answers to these bytes, until it closes or falls silent.
async fn raw(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(gateway.api.trim_start_matches("http://")).await.expect("the API listens");
    socket.write_all(bytes).await.expect("the request goes out");
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(read)) = tokio::time::timeout(Duration::from_secs(8), socket.read(&mut buffer)).await {
        if read == 0 {
            break;
        }
        answer.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_than_admitted_are_refused_with_retry_after() {
    let setup = Setup { max_inflight: 2, ..Setup::default().parallel(1) };
    let gateway = setup.warm().await;
    let held: Vec<_> = (0..2).map(|_| hold(&gateway)).collect();
    gateway.until_status("both are admitted", Duration::from_secs(5), |status| status.requests.running == 2).await;
    let record = gateway.client.ask(&gateway.api, Ask::count()).await;
    assert_eq!(record.status, Some(429), "{record:#?}");
    assert!(record.headers.contains_key("retry-after"), "{record:#?}");
    assert_eq!(record.faults, Vec::<String>::new(), "{record:#?}");
    drop(held);
    gateway.until_status("both have gone", Duration::from_secs(5), |status| status.requests.running == 0).await;
    still_serves(&gateway).await;
    gateway.shutdown().await;
}

/// A request whose own time is over says nothing about the provider that was answering it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f03_streams_that_reach_their_deadline_do_not_shut_their_provider_for_others() {
    let cloud = SimOptions { tokens: 4000, tokens_per_second: Some(100.0), ..SimOptions::default() };
    let setup = Setup { local: false, request_timeout: Duration::from_millis(2000), ..Setup::default() }.cloud(cloud);
    let gateway = setup.start().await;
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (client, api) = (gateway.client.clone(), gateway.api.clone());
        streams.spawn(async move { client.ask(&api, Ask::hard().model("ok").max_tokens(4000).stream()).await });
    }
    while let Some(record) = streams.join_next().await {
        let record = record.unwrap();
        assert!(matches!(record.outcome, Outcome::Error { .. }) && !record.text.is_empty(), "{record:#?}");
    }
    gateway.client.ask(&gateway.api, Ask::hard().model("ok").max_tokens(2)).await.assert_complete();
    gateway.shutdown().await;
}

/// A long local stream whose reader goes with the value.
fn hold(gateway: &Gateway) -> tokio::task::JoinSet<()> {
    let (client, api) = (gateway.client.clone(), gateway.api.clone());
    let mut holding = tokio::task::JoinSet::new();
    holding.spawn(async move {
        let _ = client.ask(&api, Ask::count().model("local").max_tokens(1500).stream()).await;
    });
    holding
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_listener_answers_known_hosts_only() {
    let gateway = Setup::default().start().await;
    let url = gateway.admin_url("/admin/status");
    let asked = gateway.client.raw().get(&url).header("host", "evil.example").send().await.unwrap();
    assert_eq!(asked.status().as_u16(), 403);
    error_object(&asked.json().await.unwrap()).unwrap();
    for (body, status) in [
        ("{", 400),
        (r#"{"actor":"nobody","how":"kill"}"#, 400),
        (r#"{"actor":"router","how":"tickle"}"#, 400),
        (r#"{"actor":"router","how":"sigkill"}"#, 400),
        (r#"{"actor":"cloud/sim/7","how":"kill"}"#, 400),
    ] {
        let (answered, _, bytes) =
            gateway.client.send(Method::POST, &gateway.admin_url("/admin/chaos/kill"), body).await;
        assert_eq!(answered, status, "{body}");
        error_object(&serde_json::from_slice(&bytes).unwrap()).unwrap();
    }
    gateway.shutdown().await;
}
