//! F24: every actor may be killed, panic, fail or stop under load. Nothing is lost, it is restarted, and no actor's death
//! touches another's work or the engine.

use crate::support::{Ask, Gateway, History, Load, Mix, Outcome, Setup, poll::until};
use std::time::Duration;

const ACTORS: [&str; 8] =
    ["router", "classifier", "health", "ledger", "gpu/local", "cloud/sim/0", "cloud-supervisor", "gpu-supervisor"];

/// Ends every kind of actor once, in this way, under load.
async fn every_actor_dies(how: &str) {
    let gateway = Setup::default().warm().await;
    let history = History::default();
    // Pools and connections that come with first use belong to the baseline.
    let warm_up = Load::start(&gateway, &history, 3, Mix::All, 8);
    warm_up.flow(8).await;
    warm_up.stop().await;
    let before = gateway.until_serving().await;
    let baseline = gateway.open_files();
    let load = Load::start(&gateway, &history, 6, Mix::All, 12);
    for actor in ACTORS {
        let line = gateway.actor(actor).await;
        let kill = gateway.kill(actor, how).await;
        history.note(kill);
        let after = gateway.until_restarted(actor, line.restarts).await;
        assert!(after.last_exit_cause.is_some(), "{after:?}");
        load.flow(3).await;
    }
    load.stop().await;
    let after = gateway.until_serving().await;
    assert_eq!(
        (after.engine_pid, after.epoch),
        (before.engine_pid, before.epoch),
        "no actor's death is an engine death:\n{}",
        gateway.log_tail()
    );
    let tally = history.tally();
    assert_eq!(tally.complete, tally.requests, "an actor's death cuts nothing: {:#?}", history.violations());
    gateway.assert_quiet(&baseline).await;
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f24_every_actor_may_be_killed_under_load() {
    every_actor_dies("kill").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f24_every_actor_may_panic_under_load() {
    every_actor_dies("panic").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f24_every_actor_may_fail_under_load() {
    every_actor_dies("error").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f24_every_actor_may_stop_under_load() {
    every_actor_dies("stop").await;
}

/// Opens this many long local streams and waits until each has shown text.
async fn open_streams(gateway: &Gateway, history: &History, count: u32, max_tokens: u32) -> tokio::task::JoinSet<()> {
    let mut streams = tokio::task::JoinSet::new();
    let (begun, mut begins) = tokio::sync::mpsc::channel(4096);
    for _ in 0..count {
        let (client, api, history) = (gateway.client.clone(), gateway.api.clone(), history.clone());
        let begun = begun.clone();
        streams.spawn(async move {
            let (pieces, mut heard) = tokio::sync::mpsc::channel(4096);
            let ask = Ask::count().model("local").max_tokens(max_tokens).stream();
            let telling = async {
                if heard.recv().await.is_some() {
                    let _ = begun.send(()).await;
                }
                while heard.recv().await.is_some() {}
            };
            let (record, ()) = tokio::join!(client.ask_telling(&api, ask, Some(pieces)), telling);
            history.add(record);
        });
    }
    for _ in 0..count {
        let began = tokio::time::timeout(Duration::from_secs(20), begins.recv()).await;
        assert!(began.is_ok_and(|began| began.is_some()), "a stream begins:\n{}", gateway.log_tail());
    }
    streams
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpu_actor_dies_and_its_successor_adopts_the_engine_with_its_running_streams() {
    let gateway = Setup::default().warm().await;
    let history = History::default();
    let before = gateway.gpu().await;
    for how in ["kill", "panic", "error", "stop"] {
        let streams = open_streams(&gateway, &history, 3, 60).await;
        history.note(gateway.kill("gpu/local", how).await);
        let after = gateway.until_serving().await;
        assert_eq!((after.engine_pid, after.epoch), (before.engine_pid, before.epoch), "{how}");
        streams.join_all().await;
    }
    for record in history.records() {
        assert_eq!(record.assert_complete().target(), "local");
        assert_eq!(record.attempts(), 1, "the stream never noticed: {record:#?}");
    }
    assert_eq!(gateway.gpu().await.last_death, None, "no engine died");
    gateway.finish(&history).await;
}

/// The canary has a sequence of its own: it need not wait for a running stream to end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_whose_every_place_is_taken_is_adopted_while_its_streams_run() {
    let gateway = Setup::default().parallel(2).warm().await;
    let history = History::default();
    let before = gateway.gpu().await;
    let streams = open_streams(&gateway, &history, 2, 800).await;
    history.note(gateway.kill("gpu/local", "kill").await);
    let after = gateway.until_serving().await;
    assert_eq!((after.engine_pid, after.epoch, after.leases), (before.engine_pid, before.epoch, 2));
    drop(streams);
    gateway.until_status("its clients have left", Duration::from_secs(5), |status| status.leases == 0).await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_that_dies_takes_the_gateway_along_with_one_end_for_every_open_request() {
    let gateway = Setup::default().warm().await;
    let history = History::default();
    let streams = open_streams(&gateway, &history, 4, 1500).await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (client, api, history) = (gateway.client.clone(), gateway.api.clone(), history.clone());
        waiting.spawn(async move {
            history.add(client.ask(&api, Ask::count().model("local").max_tokens(1500)).await);
        });
    }
    gateway.until_status("three wait", Duration::from_secs(5), |status| status.requests.running == 7).await;
    let kill = gateway.kill("root", "kill").await;
    assert_eq!(kill.how, "kill");
    let exit = gateway.until_ended().await;
    assert_eq!(exit.code(), Some(1), "a dead root is no orderly end:\n{}", gateway.log_tail());
    streams.join_all().await;
    waiting.join_all().await;
    for record in history.records() {
        assert!(matches!(record.outcome, Outcome::Error { .. }), "an explicit error: {record:#?}");
        assert_eq!(record.faults, Vec::<String>::new(), "{record:#?}");
    }
    assert_eq!(history.len(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_dies_again_and_again_spends_its_supervisors_budget_and_the_gateway_ends_loudly() {
    let gateway = Setup::default().without_cloud().warm().await;
    let mut deaths = 0_u64;
    while gateway.try_kill("health", "panic").await.is_some() {
        deaths += 1;
        // Its successor is the next to die, unless the budget is spent.
        let lives_or_over = || async {
            let tree = gateway.client.get_json(&gateway.admin_url("/admin/actors")).await;
            let health = tree
                .and_then(|tree| tree["actors"].as_array()?.iter().find(|actor| actor["name"] == "health").cloned());
            let successor = health.is_some_and(|line| line["restarts"] == deaths && line["state"] == "running");
            (successor || gateway.ended().is_some()).then_some(())
        };
        until("the actor lives again or the gateway has ended", Duration::from_secs(10), lives_or_over).await;
    }
    let exit = gateway.until_ended().await;
    assert_eq!(exit.code(), Some(1), "{}", gateway.log_tail());
    assert_eq!(deaths, 6, "five deaths in ten seconds are forgiven, the sixth is not");
}
