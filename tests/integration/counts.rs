//! How many tokens a prompt has, without running it.

use crate::support::{Ask, Gateway, Setup};
use reqwest::Method;
use serde_json::{Value, json};

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
