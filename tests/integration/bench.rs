//! `spillway bench`: that it measures what was asked, and whose fault a failure is. Figures are counted here and no times are
//! judged: that is for machines with nothing else to do.

use super::chaos::stage;
use crate::support::{Setup, cloud::KEY, gateway::binary, setup::Folder};
use reqwest::Method;
use serde_json::{Value, json};
use spillway::sim::SimOptions;
use std::{process::Output, time::Duration};
use tokio::process::Command;

/// The one model that has a price for vectors.
const VECTORS: &str = "[[cloud.models]]\nname = \"vectors\"\nkind = \"embedding\"\nupstream = \"ok\"\n\
    input_usd_per_mtok = 0.02\ncontext_tokens = 64\n";

fn with_vectors(setup: Setup) -> Setup {
    Setup { extra: setup.extra + VECTORS, ..setup }
}

async fn run(args: &[&str]) -> Output {
    Command::new(binary()).arg("bench").args(args).arg("--json").output().await.unwrap()
}

async fn bench(args: &[&str]) -> Output {
    run(&[&["gateway", "--rounds", "1", "--seconds", "1"], args].concat()).await
}

fn report(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: no report, but {said}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_is_measured_directly_and_through_the_gateway() {
    let gateway = Setup::default().without_local().start().await;
    let (url, direct) = (gateway.url("/v1"), gateway.cloud().base_url());
    let pid = gateway.pid.to_string();
    let both = [
        "--url",
        &url,
        "--direct",
        &direct,
        "--model",
        "ok",
        "--direct-model",
        "ok",
        "--direct-key",
        KEY,
        "--pid",
        &pid,
    ];
    let output = bench(&[&both[..], &["--connections", "2", "--rate", "40"]].concat()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let levels: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(levels.iter().map(|level| level["kind"].as_str().unwrap()).collect::<Vec<_>>(), ["whole", "stream"]);
    for level in &levels {
        for way in ["direct", "gateway"] {
            let way = &level[way];
            assert_eq!(way["failures"], 0, "{level}");
            assert!(way["p50_us"].as_f64() > Some(0.0) && way["p50_us"].as_f64() <= way["p99_us"].as_f64(), "{level}");
            assert!(way["requests_per_second"].as_f64() <= Some(41.0), "at the rate that was set: {level}");
        }
        assert!(level["peak_mib"].as_f64() > Some(1.0), "{level}");
    }
    assert!(levels[1]["gateway"]["events_per_request"].as_f64() > Some(1.0), "{}", levels[1]);
    assert!(
        levels[1]["added_per_event_p50_us"].is_f64() && levels[0]["added_per_event_p50_us"].is_null(),
        "{levels:?}"
    );

    let refused =
        bench(&["--url", &url, "--direct", &direct, "--connections", "1", "--kinds", "whole", "--model", "nobody"])
            .await;
    let levels: Vec<Value> = serde_json::from_slice(&refused.stdout).unwrap();
    assert!(levels[0]["gateway"]["failures"].as_u64() > Some(0), "a refusal is no answer");
    assert_eq!((refused.status.code(), &levels[0]["added_p50_us"]), (Some(1), &Value::Null), "{levels:?}");
    let said = levels[0]["gateway"]["failure"].as_str().unwrap();
    assert!(said.starts_with("404, refused: ") && said.contains("nobody"), "{said}");
    let nobody = bench(&["--url", "http://127.0.0.1:1/v1", "--direct", &direct]).await;
    assert_eq!(nobody.status.code(), Some(1));
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_soak_of_seconds_loses_nothing_and_leaves_nothing_behind() {
    let gateway = with_vectors(stage()).warm().await;
    let pid = gateway.pid.to_string();
    let soak = ["soak", "--scenario", "gpu-flap", "--seconds", "6", "--rate", "20", "--settle-seconds", "30"];
    let at = ["--pid", &pid, "--embedding-model", "vectors", "--url", &gateway.api, "--admin", &gateway.admin];
    let output = run(&[&soak[..], &at].concat()).await;
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!((&report["ok"], &report["violations"]), (&Value::Bool(true), &json!([])), "{report:#}");
    let chats = &report["chaos"]["requests"];
    assert!(chats["requests"].as_u64() > Some(20) && chats["lost"] == 0 && chats["torn"] == 0, "{report:#}");
    let kinds = report["others"]["kinds"].as_object().unwrap();
    let count = |kind: &str, end: &str| kinds[kind][end].as_u64().unwrap_or(0);
    assert!(kinds.len() >= 8, "most kinds were asked: {report:#}");
    for kind in ["embedding", "message", "message_stream", "response", "response_stream", "models"] {
        assert!(!kinds.contains_key(kind) || count(kind, "answered") > 0, "{kind}: {report:#}");
    }
    let others = &report["others"];
    assert!(others["untouched"].as_u64() > Some(0) && others["untouched_refused"] == 0, "{report:#}");
    assert!(report["not_judged"].to_string().contains("600 wanted") && report["failed_looks"] == 0, "{report:#}");
    let refused: u64 = ["no_json", "wrong_field", "unknown_model"].into_iter().map(|kind| count(kind, "refused")).sum();
    let left: u64 = ["leaves_stream", "leaves_whole"].into_iter().map(|kind| count(kind, "left")).sum();
    assert!(refused > 0 && left > 0, "{report:#}");
    assert!(
        report["looks"].as_array().unwrap().len() > 5 && report["tasks"]["most"].as_f64() > Some(5.0),
        "{report:#}"
    );
    let status =
        gateway.until_status("nothing runs", Duration::from_secs(5), |status| status.requests.running == 0).await;
    assert_eq!((status.leases, status.queue), (0, Some(0)));
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_soak_that_is_refused_without_a_cause_is_no_good_one() {
    let folder = Folder::new().unwrap();
    let mut setup = with_vectors(stage()).server("require_keys = true");
    setup.extra += &format!("[keys]\nfile = \"{}\"\n", folder.path().join("keys.json").display());
    let gateway = setup.warm().await;
    let wish = json!({"name": "narrow", "requests_per_minute": 20}).to_string();
    let (_, _, made) = gateway.client.send(Method::POST, &gateway.admin_url("/admin/keys"), wish).await;
    let key = serde_json::from_slice::<Value>(&made).unwrap()["secret"].as_str().unwrap().to_owned();
    let soak = ["soak", "--calm", "--seconds", "4", "--rate", "20", "--settle-seconds", "5", "--key", &key];
    let at = ["--embedding-model", "vectors", "--url", &gateway.api, "--admin", &gateway.admin];
    let output = run(&[&soak[..], &at].concat()).await;
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert!(report["chaos"]["violations"].to_string().contains("that no trouble touched failed"), "{report:#}");
    assert!(report["violations"].to_string().contains("beside the chats"), "{report:#}");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_ends_in_an_error_is_no_answer_of_a_benchmark() {
    let cut =
        "[[cloud.models]]\nname = \"broken\"\nupstream = \"cut-3\"\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 1\n";
    let gateway = Setup::default().without_local().extra(cut).start().await;
    let address = gateway.api.trim_start_matches("http://").to_owned();
    let short =
        ["overload", "--stream", "--clients", "2", "--seconds", "1", "--after-seconds", "0", "--address", &address];
    let broken = [&short[..], &["--peak-seconds", "1", "--model", "broken"]].concat();
    let output = run(&broken).await;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("200, a stream that ended in an error: data: {"), "{said}");
    let flooded = run(&[&short[..], &["--peak", "4", "--times", "1", "--model", "broken"]].concat()).await;
    let report = report(&flooded);
    assert_eq!((flooded.status.code(), &report["all"]["answered"]), (Some(1), &json!(0)), "{report:#}");
    assert!(report["failure"].as_str().is_some_and(|why| !why.is_empty()), "{report:#}");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overload_is_answered_or_refused_and_nobody_is_forgotten() {
    let slow = SimOptions { tokens: 4, ttft: Duration::from_millis(100), ..SimOptions::default() };
    let gateway = Setup { max_inflight: 4, adaptive_admission: true, ..Setup::default().without_local().cloud(slow) }
        .start()
        .await;
    let (address, pid) = (gateway.api.trim_start_matches("http://").to_owned(), gateway.pid.to_string());
    let flood = ["overload", "--clients", "4", "--peak-seconds", "1", "--seconds", "2", "--after-seconds", "0"];
    let at = ["--address", &address, "--pid", &pid, "--model", "ok", "--key", "low=sk-a", "--key", "high=sk-b"];
    let output = run(&[&flood[..], &at].concat()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = report(&output);
    let all = &report["all"];
    let count = |class: &Value, name: &str| class[name].as_u64().unwrap();
    assert_eq!((count(all, "failed"), count(all, "without_retry_after")), (0, 0), "{report:#}");
    assert!(count(all, "answered") > 0 && count(all, "refused") > 0, "{report:#}");
    assert_eq!(count(all, "sent"), count(all, "answered") + count(all, "refused"), "{report:#}");
    let classes = report["classes"].as_array().unwrap();
    let of_classes: u64 = classes.iter().map(|class| count(class, "sent")).sum();
    assert_eq!((classes.len(), of_classes), (2, count(all, "sent")), "{report:#}");
    assert!(report["memory"]["most_mib"].as_f64() >= report["memory"]["before_mib"].as_f64(), "{report:#}");
    let refused = gateway.metric("spillway_requests_refused_total{reason=\"full\",priority=\"normal\"}").await;
    assert!(refused >= Some(count(all, "refused") as f64), "{refused:?} {report:#}");
    gateway.shutdown().await;
}
