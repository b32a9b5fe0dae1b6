//! Explanations: `POST /v1/route` and `spillway route` show every step, run nothing and keep the prompt to themselves.

use crate::support::{Gateway, Setup, gateway::binary};
use reqwest::Method;
use serde_json::{Value, json};
use std::process::Command;

async fn explained(gateway: &Gateway, body: &Value) -> (u16, Value) {
    let (status, _, bytes) = gateway.client.send(Method::POST, &gateway.url("/v1/route"), body.to_string()).await;
    (status, serde_json::from_slice(&bytes).expect("JSON"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_is_explained_and_nothing_is_run() {
    let gateway = Setup::default().warm().await;
    let messages = json!([{"role": "user", "content": "analyze xyzzy"}]);
    let (status, shown) = explained(&gateway, &json!({"messages": messages})).await;
    assert_eq!((status, &shown["score"]["complexity"]), (200, &json!("complex")));
    assert_eq!(shown["plan"]["candidates"][0]["target"], "sim");
    assert!(!shown.to_string().contains("xyzzy"));
    let (_, kept) = explained(&gateway, &json!({"messages": messages, "local_only": true})).await;
    assert_eq!(kept["plan"]["candidates"].as_array().map(Vec::len), Some(1));
    assert_eq!(kept["gates"][1]["stopped_by"], "local_only");
    let (status, refused) = explained(&gateway, &json!({"messages": [], "model": 7})).await;
    assert!(status == 400 && refused["error"]["message"].is_string(), "{refused}");
    let totals = gateway.status().await;
    totals.assert_conserved();
    assert!(gateway.cloud().arrived().await.is_empty());
    gateway.shutdown().await;
}

#[test]
fn the_command_explains_without_a_gateway_and_its_exit_code_says_whether_there_is_a_plan() {
    let run = |args: &[&str]| {
        let output = Command::new(binary()).arg("route").args(args).env_remove("SPILLWAY_CONFIG").output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = run(&["say xyzzy", "--history", "3"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("gates\n") && text.contains("local is warm") && !text.contains("xyzzy"), "{text}");
    let (code, text) = run(&["hello", "--local-only", "--json"]);
    let shown: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &shown["plan"]["candidates"][0]["target"]), (Some(0), &json!("local")));
    assert_eq!(run(&["hello", "--model", "nobody"]).0, Some(1));
    assert_eq!(run(&["hello", "--history", "many"]).0, Some(2));
}
