//! F05, F06, F07: connections that are reset, and providers that accept and keep silent.

use super::{IMPATIENT, ask, both_answered_by, told, two_providers};
use crate::support::{Ask, Setup};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f05_a_reset_connection_sends_the_request_to_the_next_target() {
    let gateway = two_providers().start().await;
    gateway.cloud().fault("ok", "reset").await;
    let began = Instant::now();
    both_answered_by(&gateway, "backup").await;
    assert!(began.elapsed() < Duration::from_secs(2), "nothing is waited for");
    assert!(gateway.cloud().calls().await >= 1, "it was tried");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f06_a_provider_that_never_answers_is_left_after_the_first_byte_limit() {
    let gateway = two_providers().provider(IMPATIENT).start().await;
    gateway.cloud().fault("ok", "hang").await;
    let began = Instant::now();
    let record = ask(&gateway, Ask::hard()).await;
    let took = began.elapsed();
    assert_eq!(record.assert_complete().target(), "backup", "{record:#?}");
    assert!(took > Duration::from_millis(350) && took < Duration::from_secs(3), "{took:?}");
    both_answered_by(&gateway, "backup").await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f06_with_nobody_else_to_ask_silence_becomes_an_explicit_error() {
    let gateway = Setup::default().without_local().provider(IMPATIENT).start().await;
    gateway.cloud().fault("*", "hang").await;
    for asked in [Ask::hard(), Ask::hard().stream()] {
        let record = ask(&gateway, asked).await;
        assert!((502..=504).contains(&told(&record).0), "{record:#?}");
    }
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_a_first_token_later_than_the_limit_goes_to_the_next_target() {
    let gateway = two_providers().provider(IMPATIENT).start().await;
    gateway.cloud().fault("ok", "slow-20000").await;
    let began = Instant::now();
    both_answered_by(&gateway, "backup").await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    gateway.shutdown().await;
}
