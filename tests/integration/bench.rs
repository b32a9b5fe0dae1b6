//! `spillway bench gateway`: that it measures what was asked, and whose fault a failure is.

use crate::support::{Setup, cloud::KEY, gateway::binary};
use serde_json::Value;
use std::process::Output;
use tokio::process::Command;

async fn bench(args: &[&str]) -> Output {
    Command::new(binary())
        .args(["bench", "gateway", "--json", "--rounds", "1", "--seconds", "1"])
        .args(args)
        .output()
        .await
        .unwrap()
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
        assert!(level["resident_mib"].as_f64() > Some(1.0), "{level}");
    }
    assert!(levels[1]["gateway"]["events_per_request"].as_f64() > Some(1.0), "{}", levels[1]);

    let refused =
        bench(&["--url", &url, "--direct", &direct, "--connections", "1", "--kinds", "whole", "--model", "nobody"])
            .await;
    let levels: Vec<Value> = serde_json::from_slice(&refused.stdout).unwrap();
    assert!(levels[0]["gateway"]["failures"].as_u64() > Some(0), "a refusal is no answer");
    let nobody = bench(&["--url", "http://127.0.0.1:1/v1", "--direct", &direct]).await;
    assert_eq!(nobody.status.code(), Some(1));
    gateway.shutdown().await;
}
