//! F25: what the driver says of a card decides what happens on it. The library is a fake that plays scenarios; the
//! engine computes on the processor, and its health is tied to the fake card by `health_gpu`. And the canaries and probes
//! that need no card.

use crate::support::{
    Ask, Gateway, History, Setup, Status,
    nvml::{FakeNvml, card},
    poll::until,
};
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(15);

/// Waits for a state of the local target whose cause holds `cause`.
async fn until_state(gateway: &Gateway, state: &str, cause: &str) -> Status {
    let holds = |status: &Status| {
        let gpu = status.gpu();
        gpu.state == state && (cause.is_empty() || gpu.cause.as_ref().is_some_and(|text| text.contains(cause)))
    };
    gateway.until_status(&format!("it is {state} ({cause})"), SOON, holds).await
}

/// One request that may go anywhere: where it went.
async fn goes_to(gateway: &Gateway, history: &History) -> String {
    let record = gateway.client.ask(&gateway.api, Ask::count().max_tokens(8)).await;
    let target = record.assert_complete().target().to_owned();
    history.add(record);
    target
}

async fn gpu_health(gateway: &Gateway) -> Value {
    gateway.client.get_json(&gateway.admin_url("/admin/health/gpu")).await.expect("the health endpoint answers")
}

async fn metric(gateway: &Gateway, line: &str) -> Option<String> {
    let text = gateway.client.raw().get(gateway.admin_url("/metrics")).send().await.ok()?.text().await.ok()?;
    text.lines().find(|found| found.starts_with(line)).map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f25_xid_79_takes_the_card_out_at_once_and_the_cloud_serves_until_the_card_is_back() {
    let fake = FakeNvml::playing(&card(""));
    let (gateway, history) = (fake.setup().warm().await, History::default());
    until("the card is seen", SOON, || async {
        Some(gpu_health(&gateway).await).filter(|health| health["status"] == "ok")
    })
    .await;
    assert_eq!(goes_to(&gateway, &history).await, "local");
    fake.play(&(card("status=15") + "event 1 0 8 79\n"));
    let status = until_state(&gateway, "quarantined", "").await;
    assert!(status.gpu().cause.as_ref().is_some_and(|cause| cause.contains("bus")), "{status:?}");
    assert_eq!(goes_to(&gateway, &history).await, "sim");
    let health = gpu_health(&gateway).await;
    assert_eq!((&health["status"], &health["gpu_available"]), (&"degraded".into(), &false.into()), "{health}");
    assert_eq!(health["gpus"][0]["fault"], "lost", "{health}");
    // The card was reset.
    fake.play(&card(""));
    gateway.until_serving().await;
    assert_eq!(goes_to(&gateway, &history).await, "local");
    gateway.finish(&history).await;
}

/// Some cards go without an Xid: the driver lists one less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f25_a_card_that_is_no_longer_listed_has_fallen_off_the_bus_and_what_ran_on_it_is_lost_to_nobody() {
    let fake = FakeNvml::playing(&card(""));
    let (gateway, history) = (fake.setup().warm().await, History::default());
    until("the card is seen", SOON, || async {
        Some(gpu_health(&gateway).await).filter(|health| health["status"] == "ok")
    })
    .await;
    let asking = gateway.client.ask(&gateway.api, Ask::count().max_tokens(120));
    let failing = async {
        gateway.until_status("it has a lease", SOON, |status| status.leases == 1).await;
        fake.play("");
        until_state(&gateway, "quarantined", "bus").await;
    };
    let (record, ()) = tokio::join!(asking, failing);
    assert_eq!(record.assert_complete().target(), "sim", "no time to drain: {record:#?}");
    history.add(record);
    assert_eq!(goes_to(&gateway, &history).await, "sim");
    fake.play(&card(""));
    gateway.until_serving().await;
    assert_eq!(goes_to(&gateway, &history).await, "local");
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f25_xid_13_restarts_the_engine_and_is_counted() {
    let fake = FakeNvml::playing(&card(""));
    let (gateway, history) = (fake.setup().warm().await, History::default());
    until("the card is seen", SOON, || async { metric(&gateway, "spillway_gpu_energy_joules_total").await }).await;
    let before = gateway.gpu().await;
    fake.play(&(card("") + "event 1 0 8 13\n"));
    gateway.until_status("the engine is ended", SOON, |status| status.gpu().epoch > before.epoch).await;
    let after = gateway.until_serving().await;
    assert_ne!(after.engine_pid, before.engine_pid);
    assert!(after.last_death.is_some_and(|death| death["cause"].to_string().contains("Xid 13")));
    let of_13 = "spillway_gpu_xid_errors_total{gpu=\"GPU-00000000-0000-0000-0000-000000000001\",xid=\"13\"}";
    let counted = metric(&gateway, of_13).await.expect("it is counted");
    assert!(counted.ends_with(" 1"), "{counted}");
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f25_ecc_errors_drain_the_card_and_what_runs_on_it_ends_in_peace() {
    let fake = FakeNvml::playing(&card("ecc=0"));
    let (gateway, history) = (fake.setup().warm().await, History::default());
    until("the card is seen", SOON, || async {
        Some(gpu_health(&gateway).await).filter(|health| health["status"] == "ok")
    })
    .await;
    let asking = gateway.client.ask(&gateway.api, Ask::count().model("local").max_tokens(120).stream());
    let failing = async {
        gateway.until_status("it has a lease", SOON, |status| status.leases == 1).await;
        fake.play(&(card("ecc=1") + "event 1 0 8 48\n"));
        until_state(&gateway, "draining", "").await;
        assert_eq!(goes_to(&gateway, &history).await, "sim", "no new lease");
    };
    let (record, ()) = tokio::join!(asking, failing);
    assert_eq!(record.assert_complete().attempts(), 1, "{record:#?}");
    history.add(record);
    until_state(&gateway, "quarantined", "bad GPU").await;
    gateway.finish(&history).await;
}

/// Plays two scenarios: the target is degraded by the first, serves through the cloud, and is warm again after the second.
async fn degrades(strained: &str, cause: &str) {
    let fake = FakeNvml::playing(&card(""));
    let (gateway, history) = (fake.setup().warm().await, History::default());
    until("the card is seen", SOON, || async {
        Some(gpu_health(&gateway).await).filter(|health| health["status"] == "ok")
    })
    .await;
    let before = gateway.gpu().await;
    fake.play(strained);
    until_state(&gateway, "degraded", cause).await;
    assert_eq!(goes_to(&gateway, &history).await, "sim", "another target is there");
    let local = gateway.client.ask(&gateway.api, Ask::count().local_only().max_tokens(8)).await;
    assert_eq!(local.assert_complete().target(), "local", "degraded is not down");
    history.add(local);
    fake.play(&card(""));
    until_state(&gateway, "warm", "").await;
    assert_eq!(goes_to(&gateway, &history).await, "local");
    assert_eq!(gateway.gpu().await.engine_pid, before.engine_pid, "no engine died of it");
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f25_thermal_throttling_degrades_and_cooling_recovers() {
    degrades(&card("throttle=64 temp=91"), "heat").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f25_leaking_memory_degrades_before_the_card_is_full() {
    degrades(&card("used=23900"), "memory").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f25_a_hung_driver_degrades_and_blocks_nobody() {
    degrades(&("hang 2000\n".to_owned() + &card("")), "nvml").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f25_a_driver_mismatch_is_told_and_leaves_a_target_without_a_card_alone() {
    let fake = FakeNvml::playing(&("init 18\n".to_owned() + &card("")));
    let setup = Setup { local_extra: String::new(), ..fake.setup() };
    let (gateway, history) = (setup.warm().await, History::default());
    let health = until("the driver's fault shows", SOON, || async {
        Some(gpu_health(&gateway).await).filter(|health| health["status"] == "error")
    })
    .await;
    assert!(health["detail"].as_str().is_some_and(|why| why.contains("different versions")), "{health}");
    assert_eq!(gateway.gpu().await.state, "warm");
    assert_eq!(goes_to(&gateway, &history).await, "local");
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strain_outlives_health_actor_and_its_successor_goes_on() {
    let fake = FakeNvml::playing(&card(""));
    let gateway = fake.setup().warm().await;
    fake.play(&card("temp=95"));
    until_state(&gateway, "degraded", "heat").await;
    gateway.kill("health", "panic").await;
    assert_eq!(gateway.gpu().await.state, "degraded");
    gateway.until_restarted("health", 0).await;
    fake.play(&card(""));
    until_state(&gateway, "warm", "").await;
    gateway.shutdown().await;
}

/// The classic lie: a heart that beats beside a decode that hangs, and nobody asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_engine_whose_decode_hangs_is_found_out_by_its_canary() {
    let gateway = Setup::default().extra("[health]\ncanary_interval_ms = 500\n").warm().await;
    let before = gateway.gpu().await;
    gateway.kill("gpu/local", "hang-decode").await;
    let died = |status: &Status| status.gpu().epoch > before.epoch;
    gateway.until_status("the hang is found", Duration::from_secs(30), died).await;
    gateway.until_serving().await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_provider_is_probed_and_what_it_says_is_shown() {
    let gateway = Setup::default().extra("[health]\nprovider_probe_ms = 100\n").start().await;
    let provider = until("the provider was probed", SOON, || async {
        let status = gateway.client.get_json(&gateway.admin_url("/admin/status")).await?;
        Some(status["providers"][0].clone()).filter(|provider| provider["reachable"] == true)
    })
    .await;
    assert_eq!(provider["name"], "sim");
    assert!(provider["models_listed"].as_u64().is_some_and(|count| count > 0), "{provider}");
    gateway.shutdown().await;
}
