//! The provider pool from outside, in one process: a real API listener, the real actors, and a provider that answers each
//! key and model as the test says. No engine is needed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "a test that fails should say so"
)]

#[path = "pool/stub.rs"]
mod stub;

use reqwest::StatusCode;
use serde_json::json;
use std::time::Duration;
use stub::{Answer, Pool, Stub};
use tokio::time::Instant;

const TEN: Duration = Duration::from_secs(10);

#[tokio::test]
async fn f01_a_limited_key_gets_no_call_until_its_rest_is_over_and_nobody_notices() {
    let stub = Stub::start(|call| match call {
        ("key-one", _, 0) => Answer::limited("2"),
        _ => Answer::Text("fine"),
    })
    .await;
    let pool = Pool::start(&stub, "").await;
    let began = Instant::now();
    while stub.calls_of("key-one") < 2 {
        assert_eq!(pool.chat(json!({"model": "a"})).await.status, 200);
        assert!(began.elapsed() < TEN, "the key comes back");
    }
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(stub.calls_of("key-two") > 10);
    assert_eq!(pool.breaker("a"), "passing", "a limit is no failure");
}

#[tokio::test]
async fn f01_a_limit_of_one_model_leaves_the_key_to_others() {
    let stub = Stub::start(|call| match call {
        (_, "a", _) => {
            Answer::Status(429, Some("60".to_owned()), "Rate limit reached for a-upstream on requests per minute")
        }
        _ => Answer::Text("fine"),
    })
    .await;
    let pool = Pool::start(&stub, "").await;
    let got = pool.chat(json!({"model": "a"})).await;
    assert_eq!(got.status, 429, "{}", got.body);
    assert!((50..=60).contains(&got.retry_after()), "{}", got.retry_after());
    assert_eq!(pool.chat(json!({"model": "b"})).await.status, 200);
    assert_eq!(pool.chat(json!({})).await.status, 200, "`auto` prefers a, and goes to b at once");
    assert_eq!(stub.calls_of_model("a"), 2, "one per key");
}

#[tokio::test]
async fn f02_limited_for_ever_falls_back_then_says_who_limits_and_when_the_earliest_is_over() {
    let stub = Stub::start(|call| match call {
        ("key-one", ..) => Answer::limited("90"),
        _ => Answer::limited("40"),
    })
    .await;
    let pool = Pool::start(&stub, "").await;
    for _ in 0..10 {
        let got = pool.chat(json!({})).await;
        assert_eq!(got.status, 429, "{}", got.body);
        assert_eq!(got.body["error"]["code"], "rate_limit_exceeded");
        assert!(got.message().contains("stub"), "{}", got.body);
        assert!((35..=40).contains(&got.retry_after()), "{}", got.retry_after());
    }
    assert_eq!(stub.calls(), 2, "one per key, none meanwhile");
}

#[tokio::test]
async fn f03_one_500_is_repeated_once_and_503s_open_the_breaker() {
    let stub = Stub::start(|call| match call {
        (_, "a", 0) => Answer::Status(500, None, "oops"),
        (_, "b", _) => Answer::Status(503, None, "down"),
        _ => Answer::Text("fine"),
    })
    .await;
    let pool = Pool::start(&stub, "").await;
    let got = pool.chat(json!({"model": "a"})).await;
    assert_eq!((got.status, stub.calls_of_model("a")), (StatusCode::OK, 2), "{}", got.body);
    let began = Instant::now();
    for _ in 0..40 {
        let got = pool.chat(json!({"model": "b"})).await;
        assert!(matches!(got.status.as_u16(), 502 | 503), "{}", got.body);
    }
    let allowed = 2 + began.elapsed().as_secs() as usize;
    assert!(stub.calls_of_model("b") <= allowed, "{} calls, at most one a second", stub.calls_of_model("b"));
    assert_eq!(pool.breaker("b"), "tripped");
}

/// F05, F06, F07: silence and slowness end in the next candidate, inside the provider's own limits.
#[tokio::test]
async fn f06_a_provider_that_never_answers_is_left_for_the_next_candidate() {
    let stub = Stub::start(|call| if call.1 == "a" { Answer::Hang } else { Answer::Text("fine") }).await;
    let pool = Pool::start(&stub, "first_byte_timeout_ms = 300\nfirst_token_timeout_ms = 300\n").await;
    let began = Instant::now();
    let got = pool.chat(json!({})).await;
    assert_eq!((got.status, &got.body["model"]), (StatusCode::OK, &json!("b")), "{}", got.body);
    assert!(began.elapsed() >= Duration::from_millis(300) && began.elapsed() < TEN);
    assert_eq!(got.body["routing"]["attempts"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn f18_a_refused_key_is_marked_and_left_alone() {
    for status in [401, 402, 403] {
        let stub = Stub::start(move |call| match call {
            ("key-one", ..) => Answer::Status(status, None, "bad key"),
            _ => Answer::Text("fine"),
        })
        .await;
        let pool = Pool::start(&stub, "").await;
        for _ in 0..20 {
            assert_eq!(pool.chat(json!({"model": "a"})).await.status, 200, "{status}");
        }
        assert_eq!(stub.calls_of("key-one"), 1, "{status}: no storm");
        assert_eq!(pool.key_states(), ["exhausted", "ready"]);
    }
}

#[tokio::test]
async fn f18_when_every_key_is_refused_each_is_asked_once() {
    let stub = Stub::start(|_| Answer::Status(429, None, "insufficient_quota")).await;
    let pool = Pool::start(&stub, "").await;
    for _ in 0..20 {
        let got = pool.chat(json!({})).await;
        assert_eq!(got.status, 503, "{}", got.body);
        assert!(got.retry_after() >= 1);
        assert!(!got.body.to_string().contains("key-"), "{}", got.body);
    }
    assert_eq!((stub.calls(), pool.key_states()), (2, vec!["exhausted", "exhausted"]));
}

#[tokio::test]
async fn attempts_stay_within_the_retry_budget_while_the_cloud_is_down() {
    let stub = Stub::start(|_| Answer::Status(500, None, "down")).await;
    let pool = Pool::start(&stub, "").await;
    let began = Instant::now();
    let requests = 200;
    let all: Vec<_> = (0..requests).map(|_| pool.chat(json!({}))).collect();
    for got in futures_util::future::join_all(all).await {
        assert!(matches!(got.status.as_u16(), 502 | 503), "{}", got.body);
    }
    let allowed = requests * 6 / 5 + 10 * (began.elapsed().as_secs() as usize + 1);
    assert!(stub.calls() <= allowed, "{} of {allowed}", stub.calls());
}

#[tokio::test]
async fn when_the_retry_budget_is_spent_a_request_ends_with_its_first_cause() {
    let stub = Stub::start(|call| if call.1 == "a" { Answer::Status(500, None, "down") } else { Answer::Text("fine") });
    let stub = stub.await;
    let pool = Pool::start(&stub, "").await;
    let got = tokio::select! {
        got = pool.chat(json!({})) => got,
        () = pool.spend_retries() => unreachable!("it never ends"),
    };
    assert_eq!(got.status, 502, "{}", got.body);
    assert!(got.message().contains("500"), "{}", got.body);
    assert_eq!((stub.calls_of_model("a"), stub.calls_of_model("b")), (1, 0));
}

#[tokio::test]
async fn a_connection_is_open_before_the_first_request_and_not_if_warm_up_is_off() {
    let stub = Stub::start(|_| Answer::Text("fine")).await;
    let pool = Pool::start(&stub, "").await;
    stub.until("the warm-up", |stub| stub.lists() == 1).await;
    assert_eq!(pool.chat(json!({"model": "a"})).await.status, 200);
    assert_eq!(stub.connections(), 1, "the first request found it open");

    let stub = Stub::start(|_| Answer::Text("fine")).await;
    let pool = Pool::start(&stub, "warm_up = false\n").await;
    assert_eq!(pool.chat(json!({"model": "a"})).await.status, 200);
    assert_eq!(stub.lists(), 0);
}

#[tokio::test]
async fn models_of_the_providers_list_are_served_by_name_only() {
    let stub = Stub::start(|call| match call {
        (_, "found", _) => Answer::Text("fine"),
        _ => Answer::Status(400, None, "no"),
    })
    .await;
    let pool = Pool::start(&stub, "discover_models = true\n").await;
    stub.until("the list", |_| pool.found() == ["found"]).await;
    let listed = pool.get("/v1/models").await;
    assert!(listed["data"].as_array().unwrap().iter().any(|model| model["id"] == "found"), "{listed}");
    assert_eq!(pool.get("/v1/models/found").await["owned_by"], "stub");

    let got = pool.chat(json!({"model": "found"})).await;
    assert_eq!((got.status, &got.body["model"]), (StatusCode::OK, &json!("found")), "{}", got.body);
    let got = pool.chat(json!({"model": "found", "budget_sensitive": true})).await;
    assert_eq!((got.status, &got.body["error"]["param"]), (StatusCode::BAD_REQUEST, &json!("model")), "{}", got.body);
    assert_eq!(pool.chat(json!({"model": "nobody's"})).await.status, 404);
    assert_eq!(pool.chat(json!({})).await.status, 400, "`auto` never chooses it");
    assert_eq!(stub.calls_of_model("found"), 1);
}

#[tokio::test]
async fn unknown_fields_reach_the_provider_and_what_it_does_not_count_is_estimated() {
    let stub = Stub::start(|_| Answer::ToolCall).await;
    let pool = Pool::start(&stub, "").await;
    let odd = json!({"nested": [1, null, {"x": "é"}]});
    let got = pool.chat(json!({"model": "a", "x_unknown": odd, "tools": [{"type": "function",
        "function": {"name": "look", "parameters": {"type": "object"}}}]}));
    let got = got.await;
    assert_eq!(got.status, 200, "{}", got.body);
    assert_eq!(stub.last_body()["x_unknown"], odd);
    assert_eq!(stub.last_body()["model"], "a-upstream");
    // `look` and its 20 characters of arguments.
    assert_eq!(got.body["usage"]["completion_tokens"], 6, "{}", got.body);
    let prompt = got.body["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(prompt > 20, "the tools are part of the prompt: {prompt}");
}
