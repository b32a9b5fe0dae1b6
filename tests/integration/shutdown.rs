//! F26, F29: how the gateway ends. SIGTERM drains and exits 0; SIGKILL leaves no engine behind.

use crate::support::{Ask, Gateway, History, Outcome, Setup, poll::until, process::Process};
use rustix::process::Signal;
use spillway::sim::SimOptions;
use std::time::Duration;
use tokio::{sync::mpsc, task::JoinSet};

/// Streams of this many tokens from both targets, each of which has shown text.
async fn streams(gateway: &Gateway, history: &History, max_tokens: u32) -> JoinSet<()> {
    let mut streams = JoinSet::new();
    let (begun, mut begins) = mpsc::channel(8);
    for ask in [Ask::count().model("local"), Ask::count().model("local"), Ask::hard(), Ask::hard()] {
        let (client, api, history, begun) =
            (gateway.client.clone(), gateway.api.clone(), history.clone(), begun.clone());
        streams.spawn(async move {
            let (pieces, mut heard) = mpsc::channel(64);
            let telling = async {
                if heard.recv().await.is_some() {
                    let _ = begun.send(()).await;
                }
                while heard.recv().await.is_some() {}
            };
            let ask = ask.max_tokens(max_tokens).stream();
            let (record, ()) = tokio::join!(client.ask_telling(&api, ask, Some(pieces)), telling);
            history.add(record);
        });
    }
    for _ in 0..4 {
        let began = tokio::time::timeout(Duration::from_secs(20), begins.recv()).await;
        assert!(began.is_ok_and(|began| began.is_some()), "a stream begins:\n{}", gateway.log_tail());
    }
    streams
}

fn slow_cloud() -> SimOptions {
    SimOptions { tokens: 2000, tokens_per_second: Some(40.0), ..SimOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f29_sigterm_lets_running_streams_end_admits_nothing_more_and_exits_0() {
    let gateway = Setup::default().cloud(slow_cloud()).warm().await;
    let history = History::default();
    let streams = streams(&gateway, &history, 80).await;
    gateway.signal(Signal::TERM);
    gateway.until_status("it drains", Duration::from_secs(2), |status| status.draining).await;
    let ready = gateway.client.raw().get(gateway.url("/ready")).send().await.expect("it still answers");
    assert_eq!(ready.status().as_u16(), 503);
    let late = gateway.client.ask(&gateway.api, Ask::count()).await;
    assert!(matches!(late.outcome, Outcome::Error { status: 503, .. }), "{late:#?}");
    assert!(late.headers.contains_key("retry-after"), "{late:#?}");
    streams.join_all().await;
    let exit = gateway.until_ended().await;
    assert_eq!(exit.code(), Some(0), "{}", gateway.log_tail());
    for record in history.records() {
        record.assert_complete();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f29_sigterm_right_after_the_greeting_is_an_orderly_end_too() {
    for _ in 0..5 {
        let gateway = Setup::default().start().await;
        gateway.signal(Signal::TERM);
        let exit = gateway.until_ended().await;
        assert_eq!(exit.code(), Some(0), "{}", gateway.log_tail());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f29_streams_longer_than_the_drain_end_with_an_error_frame() {
    let setup = Setup::default().cloud(slow_cloud()).drain_timeout(Duration::from_millis(300));
    let gateway = setup.warm().await;
    let history = History::default();
    let streams = streams(&gateway, &history, 1500).await;
    gateway.signal(Signal::TERM);
    streams.join_all().await;
    let exit = gateway.until_ended().await;
    assert_eq!(exit.code(), Some(0), "{}", gateway.log_tail());
    for record in history.records() {
        assert!(matches!(record.outcome, Outcome::Error { .. }), "{record:#?}");
        assert_eq!(record.faults, Vec::<String>::new(), "{record:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f26_an_engine_dies_with_a_gateway_that_is_killed() {
    let gateway = Setup::default().cloud(slow_cloud()).warm().await;
    let history = History::default();
    let engine = gateway.gpu().await.engine_pid.and_then(Process::of).expect("an engine");
    let streams = streams(&gateway, &history, 1500).await;
    assert!(engine.is_alive());
    gateway.signal(Signal::KILL);
    until("the engine is gone", Duration::from_secs(2), || async { (!engine.is_alive()).then_some(()) }).await;
    gateway.until_ended().await;
    streams.join_all().await;
    for record in history.records() {
        assert!(matches!(record.outcome, Outcome::Broken(_)), "nobody is left to say anything: {record:#?}");
    }
}
