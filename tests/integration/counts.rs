//! What is counted: the tokens of a prompt, without running it; every request, whatever becomes of it; and how long it takes until
//! another target has taken over.

use crate::support::{Ask, Gateway, Setup};
use reqwest::Method;
use serde_json::{Value, json};
use spillway::sim::SimOptions;

async fn counted(gateway: &Gateway, body: &Value) -> (u64, String) {
    let url = gateway.url("/v1/messages/count_tokens");
    let (status, headers, bytes) = gateway.client.send(Method::POST, &url, body.to_string()).await;
    let answer: Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!(status, 200, "{answer}");
    (answer["input_tokens"].as_u64().unwrap(), headers["x-spillway-token-count"].to_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_for_the_local_engine_is_counted_by_its_own_tokenizer() {
    let gateway = Setup::default().warm().await;
    let content = "Antidisestablishmentarianism, in one word; 0123456789 or so, naïvely.";
    let messages = json!([{"role": "user", "content": content}]);
    let (tokens, kind) = counted(&gateway, &json!({"model": "local", "messages": messages})).await;
    assert_eq!(kind, "exact");
    let ask = Ask::chat(content).model("local").max_tokens(1);
    let (status, _, bytes) = gateway.client.send(Method::POST, &gateway.url(ask.path), ask.body.to_string()).await;
    let answer: Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!((status, answer["usage"]["prompt_tokens"].as_u64()), (200, Some(tokens)), "{answer}");
    // What goes to a provider is estimated, and nothing is sent there.
    let (_, kind) = counted(&gateway, &json!({"model": "ok", "messages": messages})).await;
    assert_eq!(kind, "estimated");
    // So is what fits nowhere.
    let long = json!([{"role": "user", "content": "word ".repeat(100_000)}]);
    assert_eq!(counted(&gateway, &json!({"model": "local", "messages": long})).await.1, "estimated");
    assert_eq!(gateway.cloud().calls().await, 0);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_refused_at_the_door_are_counted_too_and_once() {
    let gateway = Setup::default().without_local().start().await;
    let post =
        async |path: &str, body: &str| gateway.client.send(Method::POST, &gateway.url(path), body.to_owned()).await.0;
    let typo = r#"{"model": "no-such-model", "messages": [{"role": "user", "content": "hi"}]}"#;
    for (path, body, status) in [
        ("/v1/chat/completions", typo, 404),
        (
            "/v1/messages",
            r#"{"model": "no-such-model", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]}"#,
            404,
        ),
        ("/v1/completions", "{", 400),
        // No request for an answer, and no route.
        ("/v1/route", "{", 400),
        ("/v1/nowhere", typo, 404),
    ] {
        assert_eq!(post(path, body).await, status, "{path}");
    }
    gateway.client.ask(&gateway.api, Ask::hard()).await.assert_complete();
    let counted = async |target: &str, model: &str, complexity: &str, outcome: &str| {
        let labels = format!(r#"target="{target}",model="{model}",complexity="{complexity}",outcome="{outcome}""#);
        gateway.metric(&format!("spillway_requests_total{{{labels}}}")).await
    };
    let typo = gateway.client.ask(&gateway.api, Ask::hard().model("no-such-model")).await;
    let id = typo.id.expect("an id to complain with");
    let line = gateway.log_lines().into_iter().find(|line| line.contains(&id)).expect("a line of the log has it");
    assert!(line.contains("request refused") && line.contains("status=404"), "{line}");
    assert_eq!(counted("none", "none", "none", "model_not_found").await, Some(3.0));
    assert_eq!(counted("none", "none", "none", "invalid_request").await, Some(1.0));
    assert_eq!(counted("sim", "ok", "complex", "ok").await, Some(1.0));
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_from_a_provider_has_its_stages_and_a_repetition_is_none() {
    let spare = SimOptions { tokens: 12, ..SimOptions::default() };
    let gateway = Setup::default().without_local().backup(spare).start().await;
    let samples = async || {
        let mut found = Vec::new();
        for stage in ["detect", "redispatch", "first_token"] {
            let series = format!("spillway_failover_seconds_count{{stage=\"{stage}\"}}");
            found.push(gateway.metric(&series).await);
        }
        found
    };
    assert_eq!(samples().await, [Some(0.0); 3]);
    gateway.cloud().fault("*", "error-503").await;
    gateway.client.ask(&gateway.api, Ask::hard()).await.assert_complete();
    assert_eq!(samples().await, [Some(1.0); 3]);
    gateway.cloud().fault("*", "ok").await;
    // The only target of its model is asked again, after a pause.
    gateway.backup().fault("*", "error-500-2").await;
    drop(gateway.client.ask(&gateway.api, Ask::hard().model("spare")).await);
    assert_eq!(samples().await, [Some(1.0); 3]);
    gateway.shutdown().await;
}
