//! F23: every way an engine can end, under load. The gateway stays, every request that had sent nothing is answered,
//! streams go on or end with an explicit error, and the local target serves again.

use crate::support::{Ask, History, Load, Mix, Setup, Status, process};
use std::time::Duration;

/// The engine dies once under load; afterwards the local target serves again, with a new engine.
async fn engine_dies(how: &str) {
    let gateway = Setup::default().warm().await;
    let history = History::default();
    let warm_up = Load::start(&gateway, &history, 3, Mix::All, 8);
    warm_up.flow(8).await;
    warm_up.stop().await;
    let before = gateway.until_serving().await;
    let baseline = gateway.open_files();
    let load = Load::start(&gateway, &history, 8, Mix::All, 24);
    load.flow(8).await;
    let kill = gateway.kill("gpu/local", how).await;
    history.note(kill);
    let died = |status: &Status| status.gpu().epoch > before.epoch;
    gateway.until_status("the death is declared", Duration::from_secs(20), died).await;
    load.flow(8).await;
    let after = gateway.until_serving().await;
    load.flow(8).await;
    load.stop().await;

    assert_ne!(after.engine_pid, before.engine_pid, "{how}");
    assert_eq!(after.epoch, before.epoch + 1, "one death, declared once");
    assert!(after.last_death.is_some(), "its cause is on view");
    let record = gateway.client.ask(&gateway.api, Ask::count()).await;
    assert_eq!(record.assert_complete().target(), "local", "traffic comes back: {record:#?}");
    history.add(record);
    let tally = history.tally();
    assert_eq!(tally.lost + tally.torn + tally.broken_protocol, 0, "{:#?}", history.violations());
    assert_eq!(tally.uncommitted, tally.uncommitted_complete, "{:#?}", history.violations());
    assert_eq!(process::zombies_of(gateway.pid), Vec::new());
    gateway.assert_quiet(&baseline).await;
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_sigkill_under_load() {
    engine_dies("sigkill").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_sigabrt_under_load() {
    engine_dies("sigabrt").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_sigstop_under_load() {
    engine_dies("sigstop").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_exit_under_load() {
    engine_dies("exit").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_garbage_frames_under_load() {
    engine_dies("garbage").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_half_a_frame_under_load() {
    engine_dies("half-frame").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_a_hang_in_decode_under_load() {
    engine_dies("hang-decode").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_engine_that_dies_is_replaced_before_anyone_asks() {
    let gateway = Setup::default().warm().await;
    let before = gateway.gpu().await;
    gateway.kill("gpu/local", "sigkill").await;
    gateway.until_status("the death is seen", Duration::from_secs(5), |s| s.gpu().epoch > before.epoch).await;
    let after = gateway.until_serving().await;
    assert_ne!(after.engine_pid, before.engine_pid);
    gateway.shutdown().await;
}

/// What a stream had shown when its engine was killed is never sent twice and nothing is missing: the text is that of an
/// undisturbed run. At one sequence and temperature 0, with a text whose every token is far more likely than the next
/// best: reading sent tokens back as a prompt rounds differently from having generated them one by one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_engine_is_killed_goes_on_to_the_very_text_of_an_undisturbed_run() {
    let gateway = Setup::default().parallel(1).warm().await;
    let history = History::default();
    let ask = Ask::count().model("local").max_tokens(100).stream();
    let undisturbed = gateway.client.ask(&gateway.api, ask.clone()).await;
    undisturbed.assert_complete();
    for (how, after_pieces) in [("sigkill", 1), ("exit", 10), ("sigabrt", 25)] {
        let (pieces, mut heard) = tokio::sync::mpsc::channel(4096);
        let killing = async {
            for _ in 0..after_pieces {
                heard.recv().await.expect("the stream goes on");
            }
            history.note(gateway.kill("gpu/local", how).await);
            while heard.recv().await.is_some() {}
        };
        let (record, ()) = tokio::join!(gateway.client.ask_telling(&gateway.api, ask.clone(), Some(pieces)), killing);
        record.assert_complete();
        assert_eq!(record.text, undisturbed.text, "{how} after {after_pieces} pieces");
        assert_eq!(record.finish_reason, undisturbed.finish_reason);
        assert_eq!(record.attempts(), 2, "{record:#?}");
        assert_eq!(record.usage, undisturbed.usage, "what was sent before counts once: {how}");
        history.add(record);
        gateway.until_serving().await;
    }
    history.add(undisturbed);
    gateway.finish(&history).await;
}

/// A whole answer is invisible until its end, so it is simply made anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_answer_survives_its_engine_on_the_next_candidate() {
    let gateway = Setup::default().warm().await;
    let history = History::default();
    let asking = {
        let (client, api) = (gateway.client.clone(), gateway.api.clone());
        async move { client.ask(&api, Ask::count().max_tokens(1000)).await }
    };
    let killing = async {
        gateway.until_status("it has a lease", Duration::from_secs(10), |status| status.leases == 1).await;
        gateway.kill("gpu/local", "sigkill").await
    };
    let (record, kill) = tokio::join!(asking, killing);
    history.note(kill);
    assert_eq!(record.assert_complete().target(), "sim");
    let attempts = record.routing.as_ref().unwrap()["attempts"].as_array().unwrap().clone();
    let outcomes: Vec<&str> = attempts.iter().filter_map(|attempt| attempt["outcome"].as_str()).collect();
    assert_eq!(outcomes, ["engine_died", "ok"], "{record:#?}");
    assert_eq!(record.headers["x-spillway-attempts"], "2");
    history.add(record);
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_only_request_waits_for_the_engine_and_never_reaches_the_cloud() {
    let gateway = Setup::default().parallel(2).warm().await;
    let history = History::default();
    let mut asking = tokio::task::JoinSet::new();
    let mut ask = |ask: Ask| {
        let (client, api, history) = (gateway.client.clone(), gateway.api.clone(), history.clone());
        asking.spawn(async move {
            let record = client.ask(&api, ask).await;
            history.add(record);
        });
    };
    // Two in work and two queued when the engine dies, two more while it is away.
    for stream in [false, true, false, true] {
        let local = Ask::count().local_only().max_tokens(80);
        ask(if stream { local.stream() } else { local });
    }
    let full = |status: &Status| status.leases == 2 && status.queue == Some(2);
    gateway.until_status("two in work, two queued", Duration::from_secs(10), full).await;
    history.note(gateway.kill("gpu/local", "sigkill").await);
    gateway.until_status("it is away", Duration::from_secs(5), |status| !status.gpu().serving).await;
    ask(Ask::count().local_only());
    ask(Ask::count().with("local_only", true).stream());
    asking.join_all().await;
    for record in history.records() {
        assert_eq!(record.assert_complete().target(), "local");
    }
    assert_eq!(history.len(), 6);
    let arrived = gateway.cloud().arrived().await;
    assert!(arrived.is_empty(), "local-only requests reached the cloud: {arrived:?}");
    gateway.finish(&history).await;
}

/// Twenty deaths are too many for trust: the target is quarantined and the cloud serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_keeps_dying_is_quarantined_and_the_cloud_serves() {
    let extra = "[supervision.gpu]\nmax_deaths = 3\nbackoff_min_ms = 50\nbackoff_max_ms = 100\n";
    let gateway = Setup::default().extra(extra).warm().await;
    let history = History::default();
    for _ in 0..3 {
        let before = gateway.until_serving().await;
        gateway.kill("gpu/local", "sigkill").await;
        let died = |status: &Status| status.gpu().epoch > before.epoch;
        gateway.until_status("the death is seen", Duration::from_secs(5), died).await;
    }
    let quarantined = |status: &Status| status.gpu().state == "quarantined";
    let status = gateway.until_status("it is quarantined", Duration::from_secs(5), quarantined).await;
    assert!(status.gpu().cause.is_some(), "{status:?}");
    let record = gateway.client.ask(&gateway.api, Ask::count()).await;
    assert_eq!(record.assert_complete().target(), "sim");
    history.add(record);
    gateway.finish(&history).await;
}
