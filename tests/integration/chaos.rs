//! Chaos as a feature: faults of providers on demand, the simulated engine, and `spillway chaos run` against a live gateway.

use crate::support::{Ask, Gateway, Setup, gateway::binary, poll::until, setup::Folder};
use reqwest::Method;
use serde_json::{Value, json};
use spillway::sim::SimOptions;
use std::{
    process::{Command, Output, Stdio},
    time::Duration,
};

const FAULT: &str = "/admin/chaos/fault";
const FAULTS: &str = "/admin/chaos/faults";
/// Quick enough for a test, slow enough to be broken under way.
const ENGINE: &str = "sim:tokens_per_second=200,tokens=4000,load_ms=100";

/// A gateway with a simulated engine and two providers that go on with each other's answers.
pub fn stage() -> Setup {
    let sim = SimOptions { tokens: 4000, tokens_per_second: Some(200.0), ..SimOptions::default() };
    let going_on = "upstream = \"prefix-ok\"\nprefill_style = \"assistant\"\n".to_owned();
    Setup {
        model: ENGINE.to_owned(),
        parallel: 64,
        context_tokens: 65536,
        max_inflight: 512,
        cloud: Some(sim.clone()),
        backup: Some(sim),
        ok: going_on.clone(),
        spare: going_on,
        provider: "max_concurrency = 256\n".to_owned(),
        // Deaths come in seconds that otherwise come in months.
        extra: "[supervision.gpu]\nmax_deaths = 10000\nmax_failed_starts = 1000\nbackoff_max_ms = 500\n".to_owned(),
        ..Setup::default()
    }
}

async fn order(gateway: &Gateway, wish: Value) -> (u16, Value) {
    let (status, _, body) = gateway.client.send(Method::POST, &gateway.admin_url(FAULT), wish.to_string()).await;
    (status, serde_json::from_slice(&body).expect("JSON"))
}

async fn chaos(gateway: &Gateway, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("chaos").args(arguments).args(["--admin", &gateway.admin]);
    if arguments[0] == "run" {
        command.args(["--url", &gateway.api]);
    }
    command.stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().expect("the binary runs")).await.expect("a thread")
}

fn report(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: no report, but {said}"))
}

#[tokio::test]
async fn every_shipped_scenario_is_survived_and_reported() {
    // Each long enough to break something.
    tokio::join!(survived("gpu-flap", "4"), survived("provider-blackout", "8"), survived("everything", "5"));
}

async fn survived(scenario: &str, seconds: &str) {
    let gateway = stage().warm().await;
    let output = chaos(&gateway, &["run", scenario, "--seconds", seconds, "--seed", "1", "--json"]).await;
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{scenario}: {report:#}");
    let requests = &report["requests"];
    let count = |name: &str| requests[name].as_u64().unwrap();
    assert!(count("requests") >= 20 && count("complete") > 0, "{report:#}");
    assert_eq!(count("requests"), count("complete") + count("explicit_errors"), "{report:#}");
    let broken = [count("lost"), count("torn"), count("shown_as_complete"), count("broken_protocol")];
    assert_eq!(broken, [0; 4], "{report:#}");
    assert!(report["checked"].as_u64() > Some(0) && report["same_process"] == true, "{report:#}");
    assert!(!report["orders"].as_object().unwrap().is_empty(), "{report:#}");
    assert_eq!((&report["seed"], &report["ok"]), (&json!(1), &json!(true)));
    gateway.shutdown().await;
}

#[tokio::test]
async fn the_same_seed_plans_the_same_orders() {
    let gateway = stage().warm().await;
    let plan = async |seed: &str| {
        let output = chaos(&gateway, &["run", "everything", "--plan", "--seed", seed]).await;
        assert_eq!(output.status.code(), Some(0));
        output.stdout
    };
    let (one, again, other) = (plan("7").await, plan("7").await, plan("8").await);
    assert!(one == again && one != other);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_run_that_broke_a_rule_ends_with_1() {
    // Nobody is there to answer when the only provider fails.
    let gateway = Setup { backup: None, ..stage() }.without_local().start().await;
    let folder = Folder::new().unwrap();
    let scenario = folder.write(
        "blackout.toml",
        b"seconds = 4\n[load]\nrequests_per_second = 20\nstreams = 0\nstream_share = 0.5\nhard_share = 1\nmax_tokens = [4]\n\
          [[fault]]\ntargets = [\"sim\"]\nkind = \"error\"\nfor_ms = 1500\nevery_ms = 800\n\
          [expect]\nuncommitted_success_percent = 100\n",
    );
    let output = chaos(&gateway, &["run", scenario.to_str().unwrap(), "--json"]).await;
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert!(report["violations"].to_string().contains("% are expected"), "{report:#}");
    assert_eq!(report["requests"]["lost"], 0, "they were told: {report:#}");
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_run_that_is_ended_reports_what_it_has_seen_and_leaves_no_fault() {
    let gateway = stage().warm().await;
    let folder = Folder::new().unwrap();
    let scenario = folder.write(
        "long.toml",
        b"seconds = 600\n[load]\nrequests_per_second = 20\nstreams = 2\nstream_share = 0.5\nhard_share = 0.5\nmax_tokens = [8]\n\
          [[fault]]\ntargets = [\"sim\"]\nkind = \"latency\"\nms = 1\nfor_ms = 300000\nevery_ms = 400\n\
          [expect]\nuncommitted_success_percent = 0\n",
    );
    let mut command = Command::new(binary());
    command.args([
        "chaos",
        "run",
        scenario.to_str().unwrap(),
        "--json",
        "--admin",
        &gateway.admin,
        "--url",
        &gateway.api,
    ]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("a fault is in force", Duration::from_secs(60), async || {
        let listed = gateway.client.get_json(&gateway.admin_url(FAULTS)).await?;
        listed["data"].as_array().filter(|faults| !faults.is_empty()).map(|_| ())
    })
    .await;
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert!(report["seconds"].as_u64() < Some(600) && report["requests"]["requests"].as_u64() > Some(0), "{report:#}");
    let listed = gateway.client.get_json(&gateway.admin_url(FAULTS)).await.unwrap();
    assert_eq!(listed["data"], json!([]));
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_run_against_nobody_or_without_chaos_ends_with_3_and_a_bad_scenario_with_2() {
    let off = Setup { model: "smollm2-135m".to_owned(), ..stage() };
    let off = Setup { vars: vec![("SPILLWAY__CHAOS__ENABLED".to_owned(), "false".to_owned())], ..off }.start().await;
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    for arguments in [&["run", "everything"][..], &["kill", "router", "kill"], &["fault", "sim", "error"], &["clear"]] {
        let output = chaos(&off, arguments).await;
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains("chaos is off"), "{}", said(&output));
    }
    for (method, path) in [(Method::POST, FAULT), (Method::GET, FAULTS), (Method::DELETE, FAULTS)] {
        let (status, ..) = off.client.send(method, &off.admin_url(path), "{}").await;
        assert_eq!(status, 404, "{path} is not there");
    }
    let folder = Folder::new().unwrap();
    let bad = folder.write("bad.toml", b"seconds = 3\nsecond = 4\n");
    let output = chaos(&off, &["run", bad.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("line 2, column 1"), "{}", said(&output));
    let nobody = Command::new(binary())
        .args(["chaos", "run", "gpu-flap", "--json", "--admin", "http://127.0.0.1:9"])
        .output()
        .unwrap();
    assert_eq!(nobody.status.code(), Some(3));
    assert_eq!(report(&nobody)["ok"], false, "a program is told, too");
    assert!(said(&nobody).contains("http://127.0.0.1:9 does not answer"), "{}", said(&nobody));
    off.shutdown().await;
}

#[tokio::test]
async fn an_injected_error_calls_and_costs_nothing_and_the_next_target_answers() {
    let gateway = stage().without_local().start().await;
    for (fault, outcome) in [("error", "upstream"), ("429", "rate_limited")] {
        let (before, spare) = (gateway.cloud().calls().await, gateway.backup().calls().await);
        let (status, told) =
            order(&gateway, json!({"target": "ok", "kind": fault, "times": 9, "for_ms": 60_000})).await;
        assert_eq!((status, &told["fault"]["kind"]), (200, &json!(fault)));
        let record = gateway.client.ask(&gateway.api, Ask::hard().max_tokens(4)).await;
        let attempts = record.assert_complete().routing.as_ref().unwrap()["attempts"].as_array().unwrap().clone();
        let (last, failed) = attempts.split_last().unwrap();
        assert!(!failed.is_empty() && failed.iter().all(|one| one["outcome"] == outcome && one["cost_usd"] == 0.0));
        assert!(last["outcome"] == "ok" && last["cost_usd"].as_f64() > Some(0.0), "{attempts:?}");
        assert_eq!(gateway.cloud().calls().await, before, "nobody was called");
        assert_eq!(gateway.backup().calls().await, spare + 1);
        let (_, _, body) = gateway.client.send(Method::DELETE, &gateway.admin_url(FAULTS), "").await;
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["cleared"], 1);
    }
    let record = gateway.client.ask(&gateway.api, Ask::hard().model("other").max_tokens(4)).await;
    assert!(record.is_complete() || record.status == Some(429), "the key may rest still: {record:?}");
    gateway.shutdown().await;
}

#[tokio::test]
async fn an_injected_cut_is_paid_for_and_the_stream_goes_on_without_a_seam() {
    let gateway = stage().without_local().start().await;
    order(&gateway, json!({"target": "sim", "kind": "cut", "after_tokens": 5, "times": 1})).await;
    let record = gateway.client.ask(&gateway.api, Ask::hard().max_tokens(12).stream()).await;
    let routing = record.assert_complete().routing.clone().unwrap();
    let attempts = routing["attempts"].as_array().unwrap();
    assert_eq!((attempts.len(), &routing["resumed"]), (2, &json!("cloud_prefill")), "{routing:#}");
    assert!(attempts.iter().all(|attempt| attempt["cost_usd"].as_f64() > Some(0.0)), "{routing:#}");
    crate::support::checks::continuity("", &record.text).unwrap();
    gateway.shutdown().await;
}

#[tokio::test]
async fn an_injected_stall_ends_with_the_gateways_patience_and_a_delay_with_itself() {
    let setup = stage().without_local().provider("idle_timeout_ms = 300\n");
    let gateway = Setup { ok: String::new(), spare: String::new(), ..setup }.start().await;
    order(&gateway, json!({"target": "ok", "kind": "stall", "after_tokens": 2, "times": 1})).await;
    let record = gateway.client.ask(&gateway.api, Ask::hard().max_tokens(12).stream()).await;
    assert!(!record.is_complete() && record.faults.is_empty() && !record.text.is_empty(), "{record:?}");
    order(&gateway, json!({"target": "ok", "kind": "latency", "ms": 250, "times": 1})).await;
    let record = gateway.client.ask(&gateway.api, Ask::hard().max_tokens(2)).await;
    record.assert_complete();
    assert!(record.ended_ns - record.sent_ns >= 250_000_000, "{record:?}");
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_wrong_fault_is_refused_with_its_field() {
    let gateway = stage().start().await;
    for (wish, field) in [
        (json!({"target": "nobody", "kind": "error"}), json!("target")),
        (json!({"target": "local", "kind": "error"}), json!("target")),
        (json!({"target": "ok", "kind": "latency"}), json!("ms")),
        (json!({"target": "ok", "kind": "stall", "share": 2}), json!("share")),
        (json!({"target": "ok", "kind": "tickle"}), Value::Null),
        (json!({"target": "ok", "kind": "error", "often": 1}), Value::Null),
    ] {
        let (status, body) = order(&gateway, wish.clone()).await;
        assert_eq!((status, &body["error"]["param"]), (400, &field), "{wish}: {body}");
        crate::support::checks::error_object(&body).unwrap();
    }
    gateway.until_serving().await;
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_simulated_engine_says_so_everywhere_and_counts_out_loud() {
    let gateway = stage().warm().await;
    let record = gateway.client.ask(&gateway.api, Ask::chat("Hello").max_tokens(3)).await;
    assert_eq!(record.assert_complete().text, "sim0-simulated sim1-local sim2-local");
    let status = gateway.client.get_json(&gateway.admin_url("/admin/status")).await.unwrap();
    assert_eq!(
        (&status["gpus"][0]["engine"], &status["gpus"][0]["device"]),
        (&json!("simulated"), &json!("SIMULATED"))
    );
    assert!(gateway.log().contains("SIMULATED engine"), "{}", gateway.log());
    let config = gateway.folder.path().join("spillway.toml");
    let look = |command: &str, enabled: &str| {
        let mut look = Command::new(binary());
        look.args([command, "--config", config.to_str().unwrap()]).env("SPILLWAY__CHAOS__ENABLED", enabled);
        let output = look.env("SPILLWAY_TEST_CLOUD_KEY", "none").output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    assert!(look("check", "true").contains("SIMULATED") && look("doctor", "true").contains("SIMULATED engine"));
    let refused = look("check", "false");
    assert!(refused.contains("is simulated: that is for [chaos] enabled = true only"), "{refused}");
    assert!(refused.contains("spillway.toml:") && refused.contains("model = \"sim:"), "with its place: {refused}");
    gateway.shutdown().await;
}
