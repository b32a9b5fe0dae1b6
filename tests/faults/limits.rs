//! F01, F02, F18: keys that are limited, refused or spent.

use super::{ask, both_answered_by, told, two_providers};
use crate::support::{Ask, Setup, poll::until};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_a_limited_key_rests_and_the_next_key_serves_at_once() {
    let gateway = Setup::default().without_local().keys(2).start().await;
    for retry_after in ["429-2", "429-date-3"] {
        gateway.cloud().forget().await;
        gateway.cloud().fault_of_key(0, retry_after).await;
        let began = Instant::now();
        for _ in 0..12 {
            ask(&gateway, Ask::hard()).await.assert_complete();
        }
        // A date has whole seconds: a second less is left at worst.
        assert!(began.elapsed() < Duration::from_millis(1800), "no request waits for the limited key");
        assert_eq!(gateway.cloud().calls_with_key(0).await, 1, "{retry_after}: one call tells, none follows");
        assert_eq!(gateway.cloud().calls_with_key(1).await, 12);
        assert_eq!(gateway.status().await.breaker("ok"), "passing");
        gateway.cloud().fault_of_key(0, "ok").await;
        until("the key serves again after its rest", Duration::from_secs(8), || async {
            ask(&gateway, Ask::hard()).await.assert_complete();
            (gateway.cloud().calls_with_key(0).await > 1).then_some(())
        })
        .await;
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_with_its_only_key_limited_a_provider_is_left_for_the_next_target() {
    let gateway = two_providers().start().await;
    gateway.cloud().fault("*", "429-20").await;
    for _ in 0..5 {
        both_answered_by(&gateway, "backup").await;
    }
    assert_eq!(gateway.cloud().calls().await, 1);
    assert_eq!(gateway.status().await.breaker("ok"), "passing");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f02_limited_for_ever_everywhere_is_a_429_with_the_earliest_retry_after() {
    let gateway = two_providers().start().await;
    gateway.cloud().fault("*", "429-40").await;
    gateway.backup().fault("*", "429-20").await;
    for asked in [Ask::hard(), Ask::hard().stream(), Ask::hard()] {
        let record = ask(&gateway, asked).await;
        assert_eq!(told(&record), (429, "rate_limit_exceeded".to_owned()), "{record:#?}");
        let retry_after: u64 = record.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((15..=20).contains(&retry_after), "the earliest of both: {retry_after}");
    }
    assert_eq!((gateway.cloud().calls().await, gateway.backup().calls().await), (1, 1));
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f18_a_refused_or_spent_key_is_left_alone() {
    for refusal in ["401", "402", "403"] {
        let gateway = two_providers().start().await;
        gateway.cloud().fault("*", refusal).await;
        for _ in 0..10 {
            both_answered_by(&gateway, "backup").await;
        }
        assert_eq!(gateway.cloud().calls().await, 1, "{refusal}: no retry storm");
        let metrics =
            gateway.client.raw().get(gateway.admin_url("/metrics")).send().await.unwrap().text().await.unwrap();
        let alert = metrics.lines().find(|line| line.contains("exhausted") && line.contains("target=\"sim\""));
        assert!(alert.is_some_and(|line| line.ends_with(" 1")), "{refusal}: a metric to alert on: {alert:?}");
        gateway.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f18_one_refused_key_of_two_costs_no_request() {
    let gateway = Setup::default().without_local().keys(2).start().await;
    gateway.cloud().fault_of_key(0, "401").await;
    for _ in 0..10 {
        ask(&gateway, Ask::hard()).await.assert_complete();
        ask(&gateway, Ask::hard().stream()).await.assert_complete();
    }
    assert_eq!((gateway.cloud().calls_with_key(0).await, gateway.cloud().calls_with_key(1).await), (1, 20));
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f18_without_any_other_target_a_refused_key_is_a_clear_error_of_the_gateway() {
    let gateway = Setup::default().without_local().start().await;
    gateway.cloud().fault("*", "401").await;
    for _ in 0..5 {
        let record = ask(&gateway, Ask::hard()).await;
        let (status, _) = told(&record);
        assert!((500..=503).contains(&status), "not the client's key is wrong: {record:#?}");
    }
    assert_eq!(gateway.cloud().calls().await, 1);
    gateway.shutdown().await;
}
