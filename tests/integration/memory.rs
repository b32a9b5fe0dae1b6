//! The ladder: what a local target gives up when memory runs out, one thing for each failure, and how it takes it back. There
//! is no GPU here: the engine, with `--chaos`, counts memory as if the CPU were one of a given size.

use crate::support::{
    Ask, Gateway, History, Setup,
    files::gguf,
    poll::{eventually, until},
    setup::{Folder, model_path},
};
use reqwest::Method;
use serde_json::{Value, json};
use spillway_actors::{
    gguf::{KvType, inspect},
    gpu::memory::{Shape, estimate},
};
use std::{fs, time::Duration};

const SOON: Duration = Duration::from_secs(60);

async fn memory(gateway: &Gateway) -> Value {
    let status = gateway.client.get_json(&gateway.admin_url("/admin/status")).await.expect("the status answers");
    status["gpus"][0]["memory"].clone()
}

async fn simulate(gateway: &Gateway, bytes: Option<u64>) {
    let order = json!({"gpu": "local", "bytes": bytes});
    let answer = gateway.client.raw().post(gateway.admin_url("/admin/chaos/memory")).json(&order).send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    let counted = metric(gateway, "spillway_chaos_orders_total{actor=\"gpu/local\",how=\"memory\"}").await;
    assert!(counted >= Some(1.0), "an order like every other: {counted:?}");
}

async fn metric(gateway: &Gateway, line: &str) -> Option<f64> {
    let text = gateway.client.raw().get(gateway.admin_url("/metrics")).send().await.ok()?.text().await.ok()?;
    text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
}

/// The ladder's words in the log, in order: what was given up and what was taken back.
fn trace(gateway: &Gateway) -> Vec<String> {
    let word = |line: &str, key: &str| Some(line.split(&format!("{key}=\"")).nth(1)?.split('"').next()?.to_owned());
    let lines = gateway.log_lines();
    let moves = lines.iter().filter_map(|line| match (word(line, "gave_up"), word(line, "took_back")) {
        (Some(what), _) => Some(format!("- {what}")),
        (None, Some(what)) => Some(format!("+ {what}")),
        _ => None,
    });
    moves.collect()
}

/// The first model has a smaller sibling, which is the same file under another name, so that it is sure to load.
fn setup(folder: &Folder) -> Setup {
    let (big, small) = (folder.path().join("models/big.gguf"), folder.path().join("models/small.gguf"));
    fs::create_dir_all(big.parent().unwrap()).unwrap();
    for path in [&big, &small] {
        std::os::unix::fs::symlink(model_path(), path).expect("a link");
    }
    let catalogue = "[models.big]\nsources = [\"hf:o/r/big.gguf\"]\nfile = \"big.gguf\"\nsmaller = [\"small\"]\n\
                     [models.small]\nsources = [\"hf:o/r/small.gguf\"]\nfile = \"small.gguf\"\n";
    let restart = "[supervision.gpu]\nbackoff_min_ms = 20\nbackoff_max_ms = 50\nreset_after_ms = 1500\n\
                   probe_min_ms = 300\nprobe_max_ms = 600\n";
    let setup = Setup { context_tokens: 4096, parallel: 4, ..Setup::default() }.model("big");
    let cache = ("SPILLWAY_CACHE".to_owned(), folder.path().to_string_lossy().into_owned());
    Setup { vars: vec![cache], ..setup.extra(&(catalogue.to_owned() + restart)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_without_memory_one_thing_after_another_is_given_up_the_cloud_serves_and_all_is_taken_back() {
    let folder = Folder::new().unwrap();
    let (gateway, history) = (setup(&folder).warm().await, History::default());
    assert_eq!(memory(&gateway).await["rung"], 0);

    // No size is small enough: one rung a failure, down to the last, then the cloud.
    simulate(&gateway, Some(1 << 20)).await;
    gateway.kill("gpu/local", "sigkill").await;
    let exhausted = until("nothing is left to give up", SOON, || async {
        Some(memory(&gateway).await).filter(|memory| memory["exhausted"] == true)
    })
    .await;
    let way_down = [
        "- smaller_batch",
        "- quantised_kv",
        "- fewer_slots",
        "- smaller_context",
        "- smaller_context",
        "- fewer_gpu_layers",
        "- fewer_gpu_layers",
        "- smaller_model",
    ];
    let told = eventually(SOON, || async { Some(trace(&gateway)).filter(|trace| trace.len() == way_down.len()) }).await;
    assert_eq!(told.unwrap_or_else(|| trace(&gateway)), way_down);
    assert_eq!(exhausted["plan"]["file"], "small.gguf", "{exhausted}");
    assert_eq!(exhausted["plan"]["gpu_layers"], 16, "of 31, and never none: {exhausted}");
    assert_eq!(metric(&gateway, "spillway_gpu_memory_rung{gpu=\"local\"}").await, Some(8.0));
    let gpu = gateway.gpu().await;
    assert!(gpu.cause.is_some_and(|cause| cause.contains("out of memory")), "the cause is in view");
    let record = gateway.client.ask(&gateway.api, Ask::count()).await;
    assert_eq!(record.assert_complete().target(), "sim");
    history.add(record);

    // There is memory again: the last rung serves, and each healthy time takes one thing back.
    simulate(&gateway, Some(1 << 40)).await;
    let back =
        eventually(SOON * 2, || async { Some(memory(&gateway).await).filter(|memory| memory["rung"] == 0) }).await;
    assert!(back.is_some(), "{:?}\n{}", memory(&gateway).await, gateway.log_tail());
    let way_up: Vec<String> = way_down.iter().rev().map(|step| step.replace('-', "+")).collect();
    // The log is read a little later than the status.
    let told =
        eventually(SOON, || async { Some(trace(&gateway)).filter(|trace| trace.len() == 2 * way_up.len()) }).await;
    assert_eq!(told.unwrap_or_else(|| trace(&gateway))[way_down.len()..], way_up);
    gateway.until_serving().await;
    let record = gateway.client.ask(&gateway.api, Ask::count()).await;
    assert_eq!(record.assert_complete().target(), "local");
    history.add(record);
    eprintln!("the ladder's trace: {:?}", trace(&gateway));
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_memory_that_runs_out_in_a_decode_costs_one_rung_and_no_request() {
    let folder = Folder::new().unwrap();
    let setup = setup(&folder);
    let extra = setup.extra.replace("reset_after_ms = 1500", "reset_after_ms = 600000");
    let (gateway, history) = (Setup { extra, ..setup }.warm().await, History::default());
    let stream = gateway.client.ask(&gateway.api, Ask::count().max_tokens(200).stream());
    let failing = async {
        gateway.until_status("it has a lease", SOON, |status| status.leases == 1).await;
        gateway.kill("gpu/local", "out-of-memory").await;
    };
    let (record, ()) = tokio::join!(stream, failing);
    record.assert_complete();
    history.add(record);
    gateway.until_serving().await;
    let memory = memory(&gateway).await;
    assert_eq!((&memory["rung"], &memory["given_up"]), (&1.into(), &json!(["smaller_batch"])), "{memory}");
    assert_eq!(memory["plan"]["ubatch_tokens"], 128, "{memory}");
    let death = gateway.gpu().await.last_death.expect("it died");
    assert!(death["cause"].to_string().contains("out of memory"), "{death}");
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_vectors_that_find_no_memory_are_given_up_and_text_goes_on() {
    let folder = Folder::new().unwrap();
    let setup = setup(&folder);
    let extra = setup.extra.replace("reset_after_ms = 1500", "reset_after_ms = 600000");
    let gateway = Setup { extra, ..setup }.without_cloud().warm().await;
    // Just enough for what writes text, with a small batch and quantised cells.
    let shape = Shape {
        context_tokens: 4096,
        parallel: 4,
        max_request_tokens: None,
        frugal: false,
        batch_tokens: None,
        ubatch_tokens: 128,
        embedding_tokens: Some(2048),
        kv_type_k: KvType::Q8_0,
        kv_type_v: KvType::Q8_0,
        gpu_layers: u32::MAX,
    };
    let needs = estimate(&inspect(&model_path()).expect("the model"), &shape);
    simulate(&gateway, Some(needs.gpu.total() + needs.embeddings / 2)).await;
    gateway.kill("gpu/local", "sigkill").await;
    gateway.until_status("it died", SOON, |status| status.gpu().epoch > 1).await;
    gateway.until_serving().await;
    let before = memory(&gateway).await;
    assert_eq!(before["given_up"], json!(["smaller_batch", "quantised_kv"]), "{before}");

    let wish = json!({"model": "big", "input": "a lighthouse"}).to_string();
    let (status, _, body) = gateway.client.send(Method::POST, &gateway.url("/v1/embeddings"), wish).await;
    assert!((400..=503).contains(&status) && status != 500, "{status} {body:?}");
    gateway.until_serving().await;
    let after = memory(&gateway).await;
    assert_eq!(after["given_up"], json!(["smaller_batch", "quantised_kv", "no_embeddings"]), "{after}");
    assert_eq!(after["plan"]["context_tokens"], before["plan"]["context_tokens"], "{after}");
    let record = gateway.client.ask(&gateway.api, Ask::count()).await;
    assert_eq!(record.assert_complete().target(), "local");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_model_costs_no_engine() {
    let folder = Folder::new().unwrap();
    let mut bytes = gguf(10_000);
    bytes.truncate(bytes.len() - 1);
    let path = folder.write("cut.gguf", &bytes);
    let gateway = Setup::default().model(path.to_str().expect("a plain path")).start().await;
    let down = |cause: &str| cause.contains("cut short");
    gateway
        .until_status("it is down", SOON, |status| {
            status.gpu().state == "down" && status.gpu().cause.as_deref().is_some_and(down)
        })
        .await;
    assert!(gateway.children().is_empty(), "no engine was started for it");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_load_option_reaches_the_engine() {
    let options = "batch_tokens = 128\nubatch_tokens = 64\nkv_type_k = \"q8_0\"\nkv_type_v = \"q8_0\"\n\
                   overrides = { \"llama.context_length\" = 1024 }\n[local.rope]\nfreq_scale = 0.5\nscaling = \"linear\"\n";
    let setup = Setup { local_extra: options.to_owned(), log: "debug".to_owned(), ..Setup::default() };
    let gateway = setup.warm().await;
    // Stretched positions make a worse counter: it must answer, not count.
    let record = gateway.client.ask(&gateway.api, Ask::count().local_only()).await;
    assert_eq!(record.assert_complete().target(), "local");
    for told in ["n_batch               = 128", "n_ubatch              = 64", "freq_scale            = 0.5"] {
        gateway.until_logged(told).await;
    }
    for told in ["K (q8_0)", "V (q8_0)"] {
        gateway.until_logged(told).await;
    }
    gateway.shutdown().await;
}
