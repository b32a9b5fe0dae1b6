//! F21: bodies that no client should send, at every endpoint that takes one: a clear error, never a panic, and the
//! gateway goes on. And the same from the other side: a provider that sends what no provider should.

use crate::support::{
    Ask, Gateway, Outcome, Setup,
    rude::{self, Rude},
};
use reqwest::Method;
use serde_json::Value;
use std::time::Duration;

/// The smallest body that each endpoint takes.
const GOOD: [(&str, &str); 7] = [
    ("/v1/chat/completions", r#""messages":[{"role":"user","content":"hi"}]"#),
    ("/v1/completions", r#""prompt":"hi""#),
    ("/v1/route", r#""messages":[{"role":"user","content":"hi"}]"#),
    ("/v1/embeddings", r#""input":"hi""#),
    ("/v1/responses", r#""input":"hi""#),
    ("/v1/messages", r#""max_tokens":4,"messages":[{"role":"user","content":"hi"}]"#),
    ("/v1/messages/count_tokens", r#""messages":[{"role":"user","content":"hi"}]"#),
];

/// Bad whatever the endpoint.
fn bad_anywhere() -> Vec<(&'static str, Vec<u8>)> {
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        ("nothing", Vec::new()),
        ("white space", text(" \n")),
        ("no JSON", text("hello")),
        ("half an object", text("{\"messages\":")),
        ("null", text("null")),
        ("a list", text("[]")),
        ("a string", text("\"x\"")),
        ("a number", text("1")),
        ("an empty object", text("{}")),
        ("more behind it", text("{} {}")),
        ("no UTF-8", b"{\"a\":\"\xff\xfe\"}".to_vec()),
        ("a raw NUL", b"{\"a\":\"\0\"}".to_vec()),
        ("only NULs", vec![0; 4096]),
        ("depth", format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)).into_bytes()),
        ("depth in objects", format!("{}1{}", "{\"a\":".repeat(50_000), "}".repeat(50_000)).into_bytes()),
        ("one long line", format!("\"{}\"", "x".repeat(2 << 20)).into_bytes()),
        ("a long number", format!("{{\"a\":{}}}", "9".repeat(1 << 20)).into_bytes()),
        ("many values", format!("{{\"a\":[{}0]}}", "0,".repeat(300_000)).into_bytes()),
    ]
}

/// Bad inside an object that would be good without it.
const BAD_FIELDS: [(&str, &str); 12] = [
    ("NUL", r#""user":"a\u0000b""#),
    ("NUL in a key", r#""a\u0000b":1"#),
    ("a lone high surrogate", r#""user":"\ud800""#),
    ("a lone low surrogate", r#""user":"\udc00x""#),
    ("surrogates the wrong way round", r#""user":"\udc00\ud800""#),
    ("twice the same key", r#""user":"a","user":"b""#),
    ("twice the same key, deep down", r#""metadata":{"a":{"b":1,"b":2}}"#),
    ("a number too large", r#""metadata":{"a":1e999}"#),
    ("wrong type of model", r#""model":7"#),
    ("model is a list", r#""model":["auto"]"#),
    ("wrong type of stream", r#""stream":"yes""#),
    ("serde's own key", r#""metadata":{"$serde_json::private::RawValue":"[1]"}"#),
];

fn deep_field(good: &str) -> Vec<u8> {
    format!("{{{good},\"metadata\":{}1{}}}", "[".repeat(5_000), "]".repeat(5_000)).into_bytes()
}

async fn refused(gateway: &Gateway, path: &str, what: &str, body: Vec<u8>) {
    let (status, headers, bytes) = gateway.client.send(Method::POST, &gateway.url(path), body).await;
    let answer = String::from_utf8_lossy(&bytes);
    assert!((400..500).contains(&status), "{path}, {what}: {status} {answer}");
    assert!(headers.contains_key("x-request-id"), "{path}, {what}: {headers:?}");
    let answer: Value = serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("{path}, {what}: no JSON: {answer}"));
    let error = answer["error"].as_object().unwrap_or_else(|| panic!("{path}, {what}: no error object: {answer}"));
    assert!(
        error["message"].as_str().is_some_and(|text| !text.is_empty() && text.len() < 1000),
        "{path}, {what}: {answer}"
    );
}

/// Whether this version has the endpoint.
async fn exists(gateway: &Gateway, path: &str) -> bool {
    gateway.client.send(Method::POST, &gateway.url(path), "{}").await.0 != 404
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f21_no_body_brings_down_any_endpoint() {
    let gateway = Setup::default().without_local().start().await;
    let mut tested = 0;
    for (path, good) in GOOD {
        if !exists(&gateway, path).await {
            continue;
        }
        tested += 1;
        for (what, body) in bad_anywhere() {
            refused(&gateway, path, what, body).await;
        }
        for (what, field) in BAD_FIELDS {
            refused(&gateway, path, what, format!("{{{good},{field}}}").into_bytes()).await;
        }
        let first = good.split_once(':').map_or(good, |(key, _)| key);
        refused(&gateway, path, "its own field twice", format!("{{{good},{first}:7}}").into_bytes()).await;
        refused(&gateway, path, "a deep field", deep_field(good)).await;
        let huge = format!("{{{good},\"user\":\"{}\"}}", "x".repeat(10_485_761));
        let (status, _, _) = gateway.client.send(Method::POST, &gateway.url(path), huge).await;
        assert_eq!(status, 413, "{path}");
    }
    assert!(tested >= 3);
    assert!(!gateway.logged("panicked"), "{}", gateway.log_tail());
    gateway.client.ask(&gateway.api, Ask::hard()).await.assert_complete();
    let status = gateway.status().await;
    assert_eq!(status.requests.ended.get("internal"), None, "{status:?}");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f21_no_answer_of_a_provider_brings_down_the_gateway() {
    let events = |body: String| rude::reply("200 OK", "content-type: text/event-stream\r\n", &body);
    let chunk = |content: &str| {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":{content}}},\"finish_reason\":null}}]}}\n\n"
        )
    };
    let answers: Vec<(&str, Vec<u8>)> = vec![
        ("an endless line", events(format!("data: {}", "x".repeat(3 << 20)))),
        ("an endless event", events("data: x\n".repeat(400_000))),
        ("depth", events(format!("data: {{\"choices\":{}{}}}\n\n", "[".repeat(100_000), "]".repeat(100_000)))),
        ("no UTF-8", rude::reply("200 OK", "content-type: text/event-stream\r\n", "data: \u{fffd}\n\n")),
        ("a lone surrogate", events(chunk("\"\\ud800\""))),
        ("wrong types", events("data: {\"choices\":{\"a\":1}}\n\ndata: [1]\n\ndata: \"x\"\n\n".to_owned())),
        (
            "a choice beyond counting",
            events("data: {\"choices\":[{\"index\":4294967295,\"delta\":{}}]}\n\n".to_owned()),
        ),
        ("NUL", events("data: \0\0\0\n\n".to_owned())),
        ("no HTTP", b"\x16\x03\x01 this is no HTTP".to_vec()),
        ("a huge header", rude::reply("200 OK", &format!("x: {}\r\n", "y".repeat(1 << 20)), "")),
        ("status 999", rude::reply("999 What", "", "")),
        ("a bomb that claims to be zipped", rude::reply("200 OK", "content-encoding: gzip\r\n", "zzzz")),
    ];
    for (what, answer) in answers {
        let rude = Rude::start(move |_| answer.clone()).await;
        let gateway = Setup::default().without_local().extra(&rude.provider("rude")).start().await;
        for asked in [Ask::hard().model("rude-model").stream(), Ask::hard().model("rude-model")] {
            let record = gateway.client.ask(&gateway.api, asked).await;
            assert!(matches!(record.outcome, Outcome::Error { .. }), "{what}: {record:#?}");
            assert_eq!(record.faults, Vec::<String>::new(), "{what}: {record:#?}");
            assert!(
                record.status.is_none_or(|status| status == 200 || (501..=504).contains(&status)),
                "{what}: {record:#?}"
            );
        }
        gateway.client.ask(&gateway.api, Ask::hard()).await.assert_complete();
        assert!(!gateway.logged("panicked"), "{what}: {}", gateway.log_tail());
        let small = gateway.resident_bytes() < 128 << 20;
        assert!(small, "{what}: {} bytes", gateway.resident_bytes());
        gateway.until_status("nothing runs", Duration::from_secs(5), |status| status.requests.running == 0).await;
        gateway.shutdown().await;
    }
}
