//! F03, F04, F15: providers that fail with a status, once, for a while, or on and off.

use super::{ask, both_answered_by, told, two_providers};
use crate::support::{Ask, History, Load, Mix, Setup, poll::until};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f03_one_500_is_asked_again_once() {
    let gateway = Setup::default().without_local().start().await;
    for (asked, calls) in [(Ask::hard().model("ok"), 2), (Ask::hard().model("ok").stream(), 4)] {
        gateway.cloud().fault("ok", "error-500-1").await;
        let record = ask(&gateway, asked).await;
        assert_eq!(record.assert_complete().attempts(), 2, "{record:#?}");
        assert_eq!(gateway.cloud().calls().await, calls);
    }
    gateway.cloud().forget().await;
    gateway.cloud().fault("ok", "error-500").await;
    let record = ask(&gateway, Ask::hard().model("ok")).await;
    assert!(matches!(told(&record).0, 502 | 503), "{record:#?}");
    assert_eq!(gateway.cloud().calls().await, 2, "once again, not for ever");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_after_a_run_of_failures_the_breaker_opens_and_one_probe_closes_it() {
    let gateway = two_providers().start().await;
    gateway.cloud().fault("ok", "error-503").await;
    let tripped_after = until("the breaker opens", Duration::from_secs(10), || async {
        let record = ask(&gateway, Ask::hard()).await;
        assert_eq!(record.assert_complete().target(), "backup");
        let open = gateway.status().await.breaker("ok") == "tripped";
        let calls = gateway.cloud().calls().await;
        open.then_some(calls)
    })
    .await;
    assert!(tripped_after <= 5, "{tripped_after} failures in a row");
    gateway.cloud().fault("ok", "ok").await;
    until("a probe closes it", Duration::from_secs(10), || async {
        let record = ask(&gateway, Ask::hard()).await;
        (record.assert_complete().target() == "sim").then_some(())
    })
    .await;
    let status = gateway.status().await;
    assert_eq!(status.breaker("ok"), "passing", "{status:?}");
    both_answered_by(&gateway, "sim").await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_while_it_is_half_open_one_probe_is_under_way() {
    let gateway = two_providers().start().await;
    gateway.cloud().fault("ok", "error-503").await;
    until("the breaker opens", Duration::from_secs(10), || async {
        ask(&gateway, Ask::hard()).await.assert_complete();
        (gateway.status().await.breaker("ok") == "tripped").then_some(())
    })
    .await;
    gateway.cloud().forget().await;
    gateway.cloud().fault("ok", "hang").await;
    let history = History::default();
    let load = Load::start(&gateway, &history, 6, Mix::Hard, 8);
    until("the probe is under way", Duration::from_secs(10), || async {
        (gateway.cloud().calls().await == 1).then_some(())
    })
    .await;
    load.flow(60).await;
    assert_eq!(gateway.cloud().calls().await, 1, "one probe, however many ask");
    gateway.cloud().fault("ok", "ok").await;
    load.stop().await;
    history.assert_rules();
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_a_flapping_provider_is_called_once_a_probe_interval_and_costs_no_request() {
    let gateway = two_providers().start().await;
    let history = History::default();
    let clients = 4;
    let load = Load::start(&gateway, &history, clients, Mix::Hard, 8);
    let mut failed_calls = 0;
    let mut down_for = Duration::ZERO;
    for _ in 0..3 {
        load.flow(20).await;
        gateway.cloud().fault("ok", "error-503").await;
        gateway.cloud().forget().await;
        let began = Instant::now();
        // Down for as long as it takes the rest to answer two hundred.
        load.flow(200).await;
        gateway.cloud().fault("ok", "ok").await;
        down_for += began.elapsed();
        failed_calls += gateway.cloud().arrived().await.iter().filter(|arrived| arrived.status == 503).count();
        until("it is used again", Duration::from_secs(35), || async {
            gateway.cloud().arrived().await.iter().any(|arrived| arrived.status == 200).then_some(())
        })
        .await;
    }
    load.stop().await;
    // To trip: five in a row and what was under way beside them; then a probe each interval, of half a second at least.
    let probes = (down_for.as_secs_f64() / 0.5).ceil() as usize;
    let bound = 3 * (5 + clients) + probes;
    assert!(failed_calls <= bound, "{failed_calls} failed calls in {down_for:?} of failure, at most {bound}");
    let tally = history.tally();
    assert_eq!((tally.complete, tally.lost), (tally.requests, 0), "{tally:?}");
    history.assert_rules();
    gateway.shutdown().await;
}
