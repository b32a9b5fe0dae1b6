//! F28: a new configuration while the gateway runs. A bad one changes nothing, a removed model ends no request.

use crate::support::{Ask, Gateway, Outcome, Setup, poll::until};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::Value;
use spillway::sim::SimOptions;
use std::time::Duration;
use tokio::sync::mpsc;

const SOON: Duration = Duration::from_secs(5);

/// What `/admin/status` says of the configuration.
async fn told(gateway: &Gateway) -> Value {
    let status = gateway.client.get_json(&gateway.admin_url("/admin/status")).await.expect("a status");
    status["config"].clone()
}

/// Waits until the latest reading went so.
async fn until_read(gateway: &Gateway, ok: bool, cause: &str) -> Value {
    until("the configuration was read again", SOON, || async {
        let told = told(gateway).await;
        (told["last"]["ok"] == ok && told["last"]["cause"] == cause).then_some(told)
    })
    .await
}

async fn ask(gateway: &Gateway, ask: Ask) -> crate::support::Record {
    gateway.client.ask(&gateway.api, ask).await
}

/// A gateway without a local target that looks at its file only when it is told to.
fn setup() -> Setup {
    Setup::default().without_local().server("reload_poll_ms = 0\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f28_a_bad_file_changes_nothing_and_its_faults_are_told_with_their_place() {
    let gateway = setup().start().await;
    let good = gateway.config_text();
    for (bad, place) in [
        (good.replace("[server]\n", "[server]\nmax_inflite = 7\n"), "max_inflite"),
        (good.replace("max_inflight = 64", "max_inflight = 0"), "max_inflight"),
        ("[server\n".to_owned(), "TOML"),
        (good.replace("prefer = [\"ok\"]", "prefer = [\"nobody\"]"), "nobody"),
    ] {
        gateway.rewrite_config(&bad);
        gateway.signal(Signal::HUP);
        let told = until_read(&gateway, false, "sighup").await;
        let fault = &told["last"]["faults"][0];
        assert!(fault["message"].as_str().unwrap().contains(place), "{told}");
        assert!(
            fault["file"].as_str().unwrap().ends_with("spillway.toml") && fault["line"].as_u64() > Some(0),
            "{told}"
        );
        gateway.until_logged("last good one stays").await;
        ask(&gateway, Ask::hard()).await.assert_complete();
        let (status, _, body) = gateway.client.send(Method::POST, &gateway.admin_url("/admin/reload"), "").await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, &body["reload"]["ok"]), (400, &Value::Bool(false)), "{body}");
        crate::support::checks::error_object(&body).unwrap();
    }
    assert_eq!(told(&gateway).await["reloads"], 0);
    gateway.rewrite_config(&good);
    let (status, _, _) = gateway.client.send(Method::POST, &gateway.admin_url("/admin/reload"), "").await;
    assert_eq!((status, &told(&gateway).await["reloads"]), (200, &1.into()));
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f28_a_model_that_is_removed_while_it_answers_ends_no_request_and_gets_no_new_one() {
    let slow = SimOptions { tokens: 60, tokens_per_second: Some(30.0), ..SimOptions::default() };
    let gateway = setup().cloud(slow).start().await;
    let (pieces, mut heard) = mpsc::channel(64);
    let streaming = {
        let (client, api) = (gateway.client.clone(), gateway.api.clone());
        async move { client.ask_telling(&api, Ask::hard().model("ok").max_tokens(60).stream(), Some(pieces)).await }
    };
    let reloading = async {
        heard.recv().await.expect("the stream begins");
        let text = gateway.config_text();
        let without =
            text.replace("name = \"ok\"", "name = \"fresh\"").replace("prefer = [\"ok\"]", "prefer = [\"fresh\"]");
        let without = without.replace("fallback = [\"ok\"]", "fallback = [\"fresh\"]");
        gateway.rewrite_config(&without);
        gateway.signal(Signal::HUP);
        let told = until_read(&gateway, true, "sighup").await;
        assert_eq!(told["needs_restart"], Value::Array(Vec::new()), "{told}");
        let gone = ask(&gateway, Ask::hard().model("ok")).await;
        assert!(matches!(gone.outcome, Outcome::Error { status: 404, .. }), "{gone:#?}");
        let fresh = ask(&gateway, Ask::hard().model("fresh").max_tokens(4)).await;
        assert_eq!(fresh.assert_complete().routing.as_ref().unwrap()["model"], "fresh");
        while heard.recv().await.is_some() {}
    };
    let (record, ()) = tokio::join!(streaming, reloading);
    assert_eq!(record.assert_complete().routing.as_ref().unwrap()["model"], "ok");
    assert_eq!(record.usage.as_ref().unwrap()["completion_tokens"], 60);
    // And it comes back.
    let models = gateway.client.get_json(&gateway.url("/v1/models")).await.unwrap().to_string();
    assert!(models.contains("fresh") && !models.contains("\"ok\""), "{models}");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f28_prices_limits_and_aliases_are_taken_over_and_the_rest_is_named() {
    let gateway = setup().start().await;
    let text = gateway.config_text();
    let cost = |record: &crate::support::Record| record.routing.as_ref().unwrap()["attempts"][0]["cost_usd"].as_f64();
    let before = ask(&gateway, Ask::hard()).await;
    let dearer = text.replace(
        "input_usd_per_mtok = 0.42\noutput_usd_per_mtok = 0.42",
        "input_usd_per_mtok = 4.2\noutput_usd_per_mtok = 4.2",
    );
    let dearer = dearer + "\n[router.aliases]\n\"gpt-4o\" = \"ok\"\n[health]\ninterval_ms = 4321\n";
    gateway.rewrite_config(&dearer.replace("max_inflight = 64", "max_inflight = 1\nmax_connections = 77"));
    gateway.signal(Signal::HUP);
    let told = until_read(&gateway, true, "sighup").await;
    assert_eq!(told["needs_restart"], serde_json::json!(["server.max_connections", "health"]), "{told}");
    let after = ask(&gateway, Ask::hard().model("gpt-4o")).await;
    let (before, after) = (cost(before.assert_complete()).unwrap(), cost(after.assert_complete()).unwrap());
    assert!((after / before - 10.0).abs() < 0.01, "{before} {after}");
    // The limit of one is in force.
    gateway.cloud().fault("*", "hang").await;
    let (client, api) = (gateway.client.clone(), gateway.api.clone());
    let mut holding = tokio::task::JoinSet::new();
    holding.spawn(async move { client.ask(&api, Ask::hard()).await });
    gateway.until_status("one is admitted", SOON, |status| status.requests.running == 1).await;
    let refused = ask(&gateway, Ask::hard()).await;
    assert!(matches!(refused.outcome, Outcome::Error { status: 429, .. }), "{refused:#?}");
    holding.shutdown().await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f28_a_file_that_changes_is_read_without_being_told() {
    let gateway = Setup::default().without_local().server("reload_poll_ms = 50\n").start().await;
    let text = gateway.config_text();
    gateway.rewrite_config(&(text.clone() + "\n[router.aliases]\nnew = \"ok\"\n"));
    until_read(&gateway, true, "file_changed").await;
    ask(&gateway, Ask::hard().model("new")).await.assert_complete();
    gateway.rewrite_config("nonsense");
    until_read(&gateway, false, "file_changed").await;
    ask(&gateway, Ask::hard().model("new")).await.assert_complete();
    gateway.shutdown().await;
}
