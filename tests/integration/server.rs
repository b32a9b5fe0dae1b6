//! `engine = "http"`: an OpenAI-compatible server as a member of the local fleet. It is a simulated one on loopback, in
//! this process; what it says of what reached it is its own account. It dies, hangs, cuts streams and comes back.

use crate::support::{Ask, Gateway, History, Outcome, Record, Setup, Status, cloud::Cloud, setup::KEY_VAR};
use reqwest::Method;
use serde_json::{Value, json};
use spillway::sim::SimOptions;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
/// Quick to come back, so that tests are.
const RESTART: &str = "[supervision.gpu]\nbackoff_min_ms = 50\nbackoff_max_ms = 200\n";

fn words(tokens: u32) -> SimOptions {
    SimOptions { tokens, ..SimOptions::default() }
}

fn slow(tokens: u32) -> SimOptions {
    SimOptions { tokens_per_second: Some(40.0), ..words(tokens) }
}

/// A gateway whose local target is this server.
fn with(server: &Cloud, more: &str) -> Setup {
    let lines = format!(
        "engine = \"http\"\nbase_url = \"{}\"\nupstream = \"ok\"\napi_key_env = \"{KEY_VAR}\"\n{more}",
        server.base_url()
    );
    Setup { local_extra: lines, extra: RESTART.to_owned(), ..Setup::default().model("served") }
}

async fn ask(gateway: &Gateway, ask: Ask) -> Record {
    gateway.client.ask(&gateway.api, ask).await
}

fn attempts(record: &Record) -> Vec<String> {
    let attempts = record.routing.as_ref().unwrap()["attempts"].as_array().unwrap();
    let line = |value: &Value| format!("{} {}", value["target"].as_str().unwrap(), value["outcome"].as_str().unwrap());
    attempts.iter().map(line).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_on_loopback_is_a_local_target_and_serves_what_must_stay_local() {
    let server = Cloud::start(words(12)).await;
    let gateway = with(&server, "").warm().await;
    let history = History::default();
    let gpu = gateway.gpu().await;
    assert_eq!((gpu.state.as_str(), gpu.engine_pid), ("warm", None));
    for asked in [Ask::chat("Hello"), Ask::chat("Hello").stream(), Ask::count(), Ask::chat("Hello").model("served")] {
        let record = ask(&gateway, asked.local_only()).await;
        assert_eq!(record.assert_complete().target(), "local");
        assert_eq!(record.routing.as_ref().unwrap()["model"], "served");
        assert_eq!(record.routing.as_ref().unwrap()["attempts"][0]["cost_usd"], 0.0);
        assert!(record.usage.as_ref().unwrap()["completion_tokens"].as_u64().unwrap() > 0);
        history.add(record);
    }
    let tool = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    let with_tools = ask(&gateway, Ask::chat("Hello").with("tools", tool).local_only()).await;
    assert_eq!(with_tools.assert_complete().target(), "local", "it says it can");
    history.add(with_tools);
    let arrived = server.arrived().await;
    assert_eq!(arrived.len(), 5);
    assert!(arrived.iter().all(|call| call.model == "ok"), "the server's own id: {arrived:?}");
    assert!(gateway.cloud().arrived().await.is_empty());
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_cannot_do_goes_elsewhere() {
    let server = Cloud::start(words(12)).await;
    let gateway = with(&server, "abilities = [\"response_format\"]\n").warm().await;
    let history = History::default();
    let tool = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    let record = ask(&gateway, Ask::chat("Hello").with("tools", tool.clone())).await;
    assert_eq!(record.assert_complete().target(), "sim");
    history.add(record);
    let refused = ask(&gateway, Ask::chat("Hello").with("tools", tool).local_only()).await;
    let Outcome::Error { status: 400, message, .. } = &refused.outcome else { panic!("a clear 400: {refused:#?}") };
    assert!(message.contains("tools"), "{message}");
    history.add(refused);
    assert!(server.arrived().await.is_empty());
    gateway.assert_account(&history).await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_it_can_makes_vectors_and_its_death_is_seen() {
    let server = Cloud::start(words(12)).await;
    let addr = server.addr;
    let gateway = with(&server, "abilities = [\"embeddings\"]\n").without_cloud().warm().await;
    let vectors = async |input: Value| {
        let body = json!({"model": "served", "input": input}).to_string();
        let (status, _, answer) = gateway.client.send(Method::POST, &gateway.url("/v1/embeddings"), body).await;
        (status, serde_json::from_slice::<Value>(&answer).expect("JSON"))
    };
    let (status, answer) = vectors(json!(["red green", "blue", "red green"])).await;
    assert_eq!(status, 200, "{answer}");
    let data = answer["data"].as_array().expect("a list");
    assert_eq!(data.len(), 3);
    assert_eq!(data[0]["embedding"], data[2]["embedding"], "each text its own: {answer}");
    assert_ne!(data[0]["embedding"], data[1]["embedding"]);
    assert!(answer["usage"]["prompt_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{answer}");
    gateway.until_status("its lease is back", SOON, |status| status.leases == 0).await;

    // Who asks while it is dead waits for it.
    let before = gateway.gpu().await;
    drop(server);
    let back = async {
        gateway.until_status("its death is seen", SOON, |status| status.gpu().epoch > before.epoch).await;
        Cloud::start_at(addr, words(12)).await
    };
    let ((status, answer), _server) = tokio::join!(vectors(json!("red")), back);
    assert_eq!(status, 200, "{answer}");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_say_so_is_asked_for_no_vectors() {
    let server = Cloud::start(words(12)).await;
    let gateway = with(&server, "").without_cloud().warm().await;
    let body = json!({"model": "served", "input": "red"}).to_string();
    let (status, _, answer) = gateway.client.send(Method::POST, &gateway.url("/v1/embeddings"), body).await;
    assert!((400..500).contains(&status), "{status} {answer:?}");
    assert!(server.arrived().await.is_empty());
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_bounded_and_the_rest_waits_in_order() {
    let server = Cloud::start(slow(40)).await;
    let gateway = with(&server, "").parallel(2).without_cloud().warm().await;
    let history = History::default();
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (client, api, records) = (gateway.client.clone(), gateway.api.clone(), history.clone());
        asking.spawn(async move { records.add(client.ask(&api, Ask::chat("Hello").max_tokens(40).stream()).await) });
    }
    let full = |status: &Status| status.leases == 2 && status.queue == Some(2);
    gateway.until_status("two in work, two queued", SOON, full).await;
    asking.join_all().await;
    for record in history.records() {
        assert_eq!(record.assert_complete().target(), "local");
    }
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_is_down_with_its_cause_and_comes_back_by_itself() {
    let server = Cloud::start(words(12)).await;
    let addr = server.addr;
    let gateway = with(&server, "").warm().await;
    let history = History::default();
    let before = gateway.gpu().await;
    drop(server);
    // Nobody looks until somebody asks: the attempt finds out, and its request goes on in the cloud.
    let record = ask(&gateway, Ask::chat("Hello")).await;
    assert_eq!(record.assert_complete().target(), "sim");
    assert_eq!(attempts(&record), ["local engine_died", "sim ok"]);
    history.add(record);
    let down = |status: &Status| !status.gpu().serving && status.gpu().cause.is_some();
    let status = gateway.until_status("it is down", SOON, down).await;
    assert!(status.gpu().cause.as_ref().unwrap().contains("could not be reached"), "{status:?}");
    assert!(status.gpu().epoch > before.epoch);
    // What must stay local waits for it.
    let waiting = ask(&gateway, Ask::chat("Hello").local_only());
    let reviving = async {
        gateway.until_status("it waits", SOON, |status| status.queue == Some(1)).await;
        Cloud::start_at(addr, words(12)).await
    };
    let (record, _server) = tokio::join!(waiting, reviving);
    assert_eq!(record.assert_complete().target(), "local");
    history.add(record);
    gateway.until_serving().await;
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_in_mid_stream_is_an_engine_that_died() {
    let server = Cloud::start(slow(60)).await;
    let addr = server.addr;
    // It continues what it began, once it is back; no other target may.
    let gateway = with(&server, "prefill_style = \"assistant\"\n").without_cloud().warm().await;
    let history = History::default();
    let (pieces, mut heard) = tokio::sync::mpsc::channel(4096);
    let asked = Ask::chat("Hello").max_tokens(60).stream().local_only();
    let dying = async {
        for _ in 0..5 {
            heard.recv().await.expect("the stream goes on");
        }
        drop(server);
        let died = |status: &Status| !status.gpu().serving;
        gateway.until_status("its death is seen", SOON, died).await;
        let server = Cloud::start_at(addr, slow(60)).await;
        server.fault("ok", "prefix-ok").await;
        while heard.recv().await.is_some() {}
        server
    };
    let (record, server) = tokio::join!(gateway.client.ask_telling(&gateway.api, asked, Some(pieces)), dying);
    record.assert_complete();
    assert_eq!(record.routing.as_ref().unwrap()["resumed"], "local_prefill", "{record:#?}");
    assert_eq!(attempts(&record), ["local engine_died", "local ok"]);
    crate::support::checks::continuity("", &record.text).unwrap();
    let continuing = server.arrived().await.pop().unwrap().text.unwrap();
    assert!(record.text.ends_with(&continuing) && record.text.len() > continuing.len(), "{record:#?}");
    history.add(record);
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_a_living_server_cuts_ends_honestly_or_goes_on_elsewhere() {
    let server = Cloud::start(words(40)).await;
    let gateway = with(&server, "").without_cloud().warm().await;
    let before = gateway.gpu().await.epoch;
    server.fault("ok", "cut-12").await;
    let record = ask(&gateway, Ask::chat("Hello").max_tokens(40).stream()).await;
    let Outcome::Error { .. } = &record.outcome else { panic!("an explicit error: {record:#?}") };
    assert_eq!((record.finish_reason.as_deref(), &record.faults), (None, &Vec::new()), "{record:#?}");
    assert_eq!(record.text.split_whitespace().count(), 12);
    assert_eq!(gateway.gpu().await.epoch, before, "the server lives");
    gateway.until_serving().await;
    gateway.shutdown().await;

    // A cloud model that continues prefixes takes it over.
    let ok = "upstream = \"prefix-ok\"\nprefill_style = \"assistant\"\n".to_owned();
    let gateway = Setup { ok, ..with(&server, "").cloud(words(40)) }.warm().await;
    let history = History::default();
    let record = ask(&gateway, Ask::chat("Hello").max_tokens(40).stream()).await;
    record.assert_complete();
    assert_eq!(attempts(&record), ["local upstream", "sim ok"]);
    assert_eq!(record.routing.as_ref().unwrap()["resumed"], "cloud_prefill");
    history.add(record);
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_accepts_and_never_answers_is_found_out() {
    let server = Cloud::start(words(12)).await;
    let gateway = with(&server, "first_token_timeout_ms = 700\n").warm().await;
    let history = History::default();
    server.fault("ok", "hang").await;
    let record = ask(&gateway, Ask::chat("Hello")).await;
    assert_eq!(record.assert_complete().target(), "sim");
    assert_eq!(attempts(&record), ["local upstream", "sim ok"]);
    history.add(record);
    // Its front door opens: it is not dead, only this call was lost.
    server.fault("ok", "ok").await;
    gateway.until_serving().await;
    let record = ask(&gateway, Ask::chat("Hello").local_only()).await;
    assert_eq!(record.assert_complete().target(), "local");
    history.add(record);
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_stay_local_never_goes_to_a_server_that_may_be_anywhere() {
    let server = Cloud::start(words(12)).await;
    // This address reaches it, and does not say that it is this machine.
    let elsewhere = server.base_url().replace("127.0.0.1", "0.0.0.0");
    let lines = |more: &str| {
        format!("engine = \"http\"\nbase_url = \"{elsewhere}\"\nupstream = \"ok\"\napi_key_env = \"{KEY_VAR}\"\n{more}")
    };
    let setup = |more: &str| Setup { local_extra: lines(more), ..Setup::default().model("served").without_cloud() };
    let gateway = setup("").warm().await;
    let history = History::default();
    let open = ask(&gateway, Ask::chat("Hello")).await;
    assert_eq!(open.assert_complete().target(), "local");
    history.add(open);
    for asked in [Ask::chat("Hello"), Ask::chat("Hello").stream(), Ask::chat("Hello").model("local")] {
        let record = ask(&gateway, asked.local_only()).await;
        let Outcome::Error { status, code, .. } = &record.outcome else { panic!("a clear error: {record:#?}") };
        assert_eq!((*status, code.as_str()), (503, Some("local_only_unavailable")), "{record:#?}");
        history.add(record);
    }
    assert_eq!(server.calls().await, 1);
    gateway.assert_account(&history).await;
    gateway.shutdown().await;

    let gateway = setup("is_local = true\n").warm().await;
    let record = ask(&gateway, Ask::chat("Hello").local_only()).await;
    assert_eq!(record.assert_complete().target(), "local", "its operator vouches for it");
    assert_eq!(server.calls().await, 2);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_ends_the_actor_of_a_server_and_says_that_it_cannot_end_the_server() {
    let server = Cloud::start(slow(30)).await;
    let gateway = with(&server, "").warm().await;
    let history = History::default();
    for how in ["kill", "panic", "error", "stop"] {
        let before = gateway.actor("gpu/local").await.restarts;
        let asking = ask(&gateway, Ask::chat("Hello").max_tokens(30).stream().local_only());
        let killing = async {
            gateway.until_status("it has a lease", SOON, |status| status.leases == 1).await;
            gateway.kill("gpu/local", how).await
        };
        let (record, kill) = tokio::join!(asking, killing);
        history.note(kill);
        assert_eq!(record.assert_complete().attempts(), 1, "{how}: the stream does not notice: {record:#?}");
        history.add(record);
        gateway.until_restarted("gpu/local", before).await;
        gateway.until_serving().await;
    }
    let body = json!({"actor": "gpu/local", "how": "sigkill"});
    let asked = gateway.client.raw().post(gateway.admin_url("/admin/chaos/kill")).json(&body).send().await.unwrap();
    assert_eq!(asked.status().as_u16(), 400);
    let said: Value = asked.json().await.unwrap();
    assert!(said["error"]["message"].as_str().unwrap().contains("did not start"), "{said}");
    gateway.finish(&history).await;
}
