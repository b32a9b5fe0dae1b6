//! The API as a stock client uses it: both endpoints, streamed and whole, served locally and by the cloud.

use crate::support::{Ask, Gateway, History, Record, Setup, setup::MODEL};
use serde_json::Value;
use std::collections::BTreeSet;

async fn ask(gateway: &Gateway, history: &History, ask: Ask) -> Record {
    let record = gateway.client.ask(&gateway.api, ask).await;
    history.add(record.clone());
    record.assert_complete();
    record
}

fn assert_routing(record: &Record, target: &str, model: &str) {
    let routing = record.routing.as_ref().unwrap_or_else(|| panic!("a routing object: {record:#?}"));
    assert_eq!((routing["target"].as_str(), routing["model"].as_str()), (Some(target), Some(model)), "{routing}");
    for key in
        ["confidence", "estimated_cost_per_1k", "estimated_cost_usd", "estimated_latency_ms", "actual_latency_ms"]
    {
        assert!(routing[key].is_number(), "{key}: {routing}");
    }
    assert!(routing["reasoning"].as_str().is_some_and(|text| !text.is_empty()), "{routing}");
    assert!(routing["budget_sensitive"].is_boolean(), "{routing}");
    let attempts = routing["attempts"].as_array().expect("attempts");
    assert_eq!(attempts.len(), 1, "{routing}");
    assert_eq!((attempts[0]["target"].as_str(), attempts[0]["outcome"].as_str()), (Some(target), Some("ok")));
}

fn assert_headers(record: &Record, target: &str) {
    let header = |name: &str| record.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    assert!(!header("x-request-id").is_empty(), "{record:#?}");
    assert_eq!(header("x-spillway-target"), target);
    assert!(["trivial", "moderate", "complex", "premium"].contains(&header("x-spillway-complexity")));
    assert_eq!(header("x-spillway-attempts"), "1");
}

fn assert_usage(record: &Record) {
    let usage = record.usage.as_ref().unwrap_or_else(|| panic!("usage: {record:#?}"));
    let count = |key: &str| usage[key].as_u64().unwrap_or_else(|| panic!("{key}: {usage}"));
    assert_eq!(count("total_tokens"), count("prompt_tokens") + count("completion_tokens"));
    assert!(count("prompt_tokens") > 0 && count("completion_tokens") > 0, "{usage}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_endpoints_answer_streamed_and_whole_from_the_local_model_and_from_the_cloud() {
    let gateway = Setup::default().warm().await;
    let history = History::default();
    for (asked, target, model) in [
        (Ask::chat("Say hello."), "local", MODEL),
        (Ask::count(), "local", MODEL),
        (Ask::hard(), "sim", "ok"),
        (Ask::completion("Please analyze this."), "sim", "ok"),
        (Ask::chat("Say hello.").model("other"), "sim", "other"),
        (Ask::chat("Please analyze this.").model("local"), "local", MODEL),
        (Ask::chat("Please analyze this.").model(MODEL), "local", MODEL),
        (Ask::hard().local_only(), "local", MODEL),
    ] {
        for asked in [asked.clone(), asked.stream()] {
            let record = ask(&gateway, &history, asked).await;
            assert_routing(&record, target, model);
            assert_headers(&record, target);
            assert_usage(&record);
            assert!(!record.text.is_empty(), "{record:#?}");
        }
    }
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_answer_is_the_same_streamed_and_whole_and_ends_at_its_limit() {
    let gateway = Setup::default().parallel(1).warm().await;
    let history = History::default();
    let whole = ask(&gateway, &history, Ask::count().max_tokens(12)).await;
    let streamed = ask(&gateway, &history, Ask::count().max_tokens(12).stream()).await;
    assert_eq!(whole.text, streamed.text);
    assert_eq!(whole.finish_reason.as_deref(), Some("length"));
    assert_eq!(whole.usage.as_ref().unwrap()["completion_tokens"], 12);
    let body = whole.body.expect("a whole body");
    assert_eq!(body["tokens_generated"], 12, "{body}");
    assert!(body["latency_ms"].is_number(), "{body}");
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_work_with_and_without_the_version_prefix() {
    let gateway = Setup::default().warm().await;
    let history = History::default();
    for path in ["/chat/completions", "/completions"] {
        let asked = if path == "/completions" { Ask::count() } else { Ask::chat("Say hello.") };
        ask(&gateway, &history, Ask { path, ..asked }).await;
    }
    for path in ["/models", "/v1/models"] {
        let models = gateway.client.get_json(&gateway.url(path)).await.expect("models are listed");
        let ids: BTreeSet<&str> = models["data"].as_array().unwrap().iter().filter_map(|m| m["id"].as_str()).collect();
        for id in [MODEL, "ok", "other"] {
            assert!(ids.contains(id), "{id} in {models}");
        }
        let one = gateway.client.get_json(&gateway.url(&format!("{path}/{MODEL}"))).await.expect("one model");
        assert_eq!((one["id"].as_str(), one["object"].as_str()), (Some(MODEL), Some("model")));
    }
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_readiness_status_and_metrics_answer() {
    let gateway = Setup::default().warm().await;
    let history = History::default();
    for url in [gateway.url("/health"), gateway.url("/ready"), gateway.admin_url("/health")] {
        gateway.client.get_json(&url).await.unwrap_or_else(|| panic!("{url} answers 200"));
    }
    ask(&gateway, &history, Ask::count().stream()).await;
    ask(&gateway, &history, Ask::hard()).await;
    gateway.assert_account(&history).await;
    let text = gateway.client.raw().get(gateway.admin_url("/metrics")).send().await.unwrap().text().await.unwrap();
    let samples = parse_metrics(&text);
    let sum = |name: &str, label: &str| -> f64 {
        samples.iter().filter(|(n, labels, _)| n == name && labels.contains(label)).map(|(_, _, value)| value).sum()
    };
    assert_eq!(sum("spillway_requests_total", "target=\"local\""), 1.0, "{text}");
    assert_eq!(sum("spillway_requests_total", "target=\"sim\""), 1.0, "{text}");
    assert_eq!(sum("spillway_requests_running", ""), 0.0);
    assert!(sum("spillway_actor_up", "router") >= 1.0, "{text}");
    for name in ["spillway_build_info", "spillway_gpu_state", "spillway_time_to_first_token_seconds_bucket"] {
        assert!(samples.iter().any(|(n, _, _)| n == name), "{name} in {text}");
    }
    let gpu = gateway.client.get_json(&gateway.admin_url("/admin/health/gpu")).await.expect("GPU health answers");
    for key in ["status", "gpu_available", "memory_used_bytes", "system_memory", "timestamp"] {
        assert!(gpu.get(key).is_some(), "{key} in {gpu}");
    }
    gateway.finish(&history).await;
}

/// Name, labels and value of every sample; panics on a line that is none.
fn parse_metrics(text: &str) -> Vec<(String, String, f64)> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("a sample: {line}"));
            let value = value.parse().unwrap_or_else(|_| panic!("a number: {line}"));
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            (name.to_owned(), labels.to_owned(), value)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tree_of_actors_is_the_documented_one() {
    let gateway = Setup::default().warm().await;
    let tree: BTreeSet<(String, Option<String>)> =
        gateway.actors().await.into_iter().map(|actor| (actor.name, actor.parent)).collect();
    let expected = [
        ("root", None),
        ("ledger", Some("root")),
        ("cloud-supervisor", Some("root")),
        ("cloud/sim/0", Some("cloud-supervisor")),
        ("cloud/sim/1", Some("cloud-supervisor")),
        ("gpu-supervisor", Some("root")),
        ("gpu/local", Some("gpu-supervisor")),
        ("health", Some("root")),
        ("classifier", Some("root")),
        ("router", Some("root")),
    ];
    let expected = expected.map(|(name, parent)| (name.to_owned(), parent.map(str::to_owned)));
    assert_eq!(tree, BTreeSet::from(expected));
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_provider_key_reaches_the_provider_and_nobody_else() {
    let gateway = Setup { log: "trace".to_owned(), ..Setup::default() }.warm().await;
    let history = History::default();
    ask(&gateway, &history, Ask::hard()).await;
    let key = crate::support::cloud::KEY;
    let engine = gateway.gpu().await.engine_pid.expect("an engine");
    let environment = std::fs::read(format!("/proc/{engine}/environ")).expect("the environment of a child");
    assert!(!String::from_utf8_lossy(&environment).contains(key));
    let text = gateway.client.raw().get(gateway.admin_url("/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(!text.contains(key));
    let status: Value = gateway.client.get_json(&gateway.admin_url("/admin/status")).await.unwrap();
    assert!(!status.to_string().contains(key));
    assert!(!gateway.logged(key), "the log holds the key");
    gateway.finish(&history).await;
}
