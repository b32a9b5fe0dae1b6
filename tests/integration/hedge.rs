//! Hedges: a local attempt whose first token is late is raced by the cloud. The engine is stopped in its tracks, so that
//! who wins is no matter of luck.

use crate::support::{Ask, Gateway, History, Record, Setup, Status, accounts::Books, gateway::Gpu, poll::until};
use rustix::process::{Pid, Signal, kill_process};
use spillway::sim::SimOptions;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

/// Hedged so early that the answer is there before anybody thinks the engine dead.
fn hedging(lines: &str) -> Setup {
    let table = format!("[router.hedge]\nenabled = true\nafter_ms = 50\n{lines}\n");
    Setup::default().extra(&table)
}

fn signal(gpu: &Gpu, signal: Signal) {
    let pid = gpu.engine_pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).expect("a pid");
    kill_process(pid, signal).expect("the engine can be signalled");
}

async fn ask(gateway: &Gateway, ask: Ask) -> Record {
    let record = gateway.client.ask(&gateway.api, ask).await;
    record.assert_complete();
    record
}

fn outcomes(record: &Record) -> Vec<(&str, &str)> {
    let attempts = record.routing.as_ref().unwrap()["attempts"].as_array().unwrap();
    attempts.iter().map(|one| (one["target"].as_str().unwrap(), one["outcome"].as_str().unwrap())).collect()
}

/// Hedges that ended so.
async fn hedges(gateway: &Gateway, outcome: &str) -> u64 {
    let url = gateway.admin_url("/metrics");
    let (_, _, text) = gateway.client.send(reqwest::Method::GET, &url, "").await;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let name = format!("spillway_hedges_total{{outcome=\"{outcome}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_while_the_local_engine_is_silent_the_cloud_answers_and_the_local_place_is_free_again() {
    let gateway = hedging("").warm().await;
    let (history, mut books) = (History::default(), Books::default());
    for asked in [Ask::chat("Say hello"), Ask::chat("Say hello").stream()] {
        let gpu = gateway.until_serving().await;
        signal(&gpu, Signal::STOP);
        let record = ask(&gateway, asked).await;
        assert_eq!(outcomes(&record), [("local", "hedged"), ("sim", "ok")]);
        assert_eq!(record.target(), "sim");
        assert!(record.text.starts_with("sim0-"), "the first token is not lost: {record:#?}");
        signal(&gpu, Signal::CONT);
        gateway.until_status("the lease is back", SOON, |status| status.leases == 0).await;
        assert_eq!(ask(&gateway, Ask::chat("Say hello").local_only()).await.target(), "local");
        history.add(record.clone());
        books.client(record);
    }
    books.read_ledger(&gateway).await;
    books.read_provider(gateway.cloud().arrived().await);
    assert_eq!(books.outcomes("local"), ["hedged", "ok", "hedged", "ok"]);
    let found = books.compare();
    assert_eq!((found.difference, found.token_difference, found.counted), (0, 0, 2), "{found:#?}");
    assert_eq!(hedges(&gateway, "won").await, 2);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hedge_that_loses_is_closed_and_charged_and_the_client_has_one_answer() {
    // The provider says 200 and then nothing for longer than the test lasts.
    let slow = SimOptions { ttft: Duration::from_secs(60), ..SimOptions::default() };
    let gateway =
        hedging("").cloud(slow).provider("first_byte_timeout_ms = 90000\nfirst_token_timeout_ms = 0\n").warm().await;
    let (history, mut books) = (History::default(), Books::default());
    let gpu = gateway.gpu().await;
    signal(&gpu, Signal::STOP);
    let asking = gateway.client.ask(&gateway.api, Ask::chat("Say hello").stream());
    let release = async {
        until("the hedge has left", SOON, || async { (gateway.cloud().calls().await == 1).then_some(()) }).await;
        signal(&gpu, Signal::CONT);
    };
    let (record, ()) = tokio::join!(asking, release);
    assert_eq!(record.assert_complete().target(), "local");
    assert_eq!(outcomes(&record), [("sim", "abandoned"), ("local", "ok")]);
    let closed = || async { (gateway.cloud().arrived().await[0].outcome == "client_gone").then_some(()) };
    until("the hedge's socket is closed", SOON, closed).await;
    history.add(record.clone());
    books.client(record);
    books.read_ledger(&gateway).await;
    books.read_provider(gateway.cloud().arrived().await);
    assert_eq!((books.outcomes("local"), books.outcomes("sim")), (vec!["ok"], vec!["abandoned"]));
    let found = books.compare();
    assert_eq!((found.difference, found.estimated), (0, 1), "{found:#?}");
    assert!(found.out_of_bounds.is_empty(), "{found:#?}");
    assert_eq!(hedges(&gateway, "lost").await, 1);
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_closes_both_and_the_hedge_is_charged() {
    let slow = SimOptions { ttft: Duration::from_secs(60), ..SimOptions::default() };
    let setup = hedging("").cloud(slow);
    let gateway = setup.provider("first_byte_timeout_ms = 90000\nfirst_token_timeout_ms = 0\n").warm().await;
    let gpu = gateway.gpu().await;
    signal(&gpu, Signal::STOP);
    tokio::select! {
        record = gateway.client.ask(&gateway.api, Ask::chat("Say hello")) => panic!("nobody can answer: {record:#?}"),
        () = until("the hedge has left", SOON, || async { (gateway.cloud().calls().await == 1).then_some(()) }) => {}
    }
    let over = |status: &Status| status.requests.running == 0 && status.leases == 0;
    gateway.until_status("the request is over and its lease is back", SOON, over).await;
    signal(&gpu, Signal::CONT);
    let closed = || async { (gateway.cloud().arrived().await[0].outcome == "client_gone").then_some(()) };
    until("the hedge's socket is closed", SOON, closed).await;
    let mut books = Books::default();
    books.read_ledger(&gateway).await;
    books.read_provider(gateway.cloud().arrived().await);
    assert_eq!(books.outcomes("sim"), ["abandoned"]);
    let found = books.compare();
    assert_eq!((found.difference, found.estimated), (0, 1), "{found:#?}");
    assert!(found.out_of_bounds.is_empty(), "{found:#?}");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hedge_that_fails_changes_nothing_but_is_written_down() {
    let gateway = hedging("").warm().await;
    gateway.cloud().fault("*", "error-500").await;
    let (gpu, history) = (gateway.gpu().await, History::default());
    signal(&gpu, Signal::STOP);
    let asking = gateway.client.ask(&gateway.api, Ask::chat("Say hello"));
    let release = async {
        until("the hedge has left", SOON, || async { (gateway.cloud().calls().await == 1).then_some(()) }).await;
        signal(&gpu, Signal::CONT);
    };
    let (record, ()) = tokio::join!(asking, release);
    assert_eq!(record.assert_complete().target(), "local");
    assert_eq!(outcomes(&record).last(), Some(&("local", "ok")));
    assert_eq!(record.attempts(), 2);
    assert_eq!(gateway.cloud().calls().await, 1);
    history.add(record);
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_attempt_that_dies_under_its_hedge_leaves_the_answer_to_it() {
    let slow = SimOptions { ttft: Duration::from_millis(700), ..SimOptions::default() };
    let gateway = hedging("").cloud(slow).warm().await;
    let history = History::default();
    let gpu = gateway.gpu().await;
    signal(&gpu, Signal::STOP);
    let asking = gateway.client.ask(&gateway.api, Ask::chat("Say hello"));
    let kill = async {
        until("the hedge has left", SOON, || async { (gateway.cloud().calls().await == 1).then_some(()) }).await;
        history.note(gateway.kill("gpu/local", "sigkill").await);
    };
    let (record, ()) = tokio::join!(asking, kill);
    assert_eq!(record.assert_complete().target(), "sim");
    assert_eq!(outcomes(&record), [("local", "engine_died"), ("sim", "ok")]);
    assert_eq!(gateway.cloud().calls().await, 1, "the call under way is the next attempt");
    history.add(record);
    gateway.finish(&history).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_money_without_leave_or_switched_off_there_is_no_hedge() {
    let gateway = hedging("max_usd_per_hour = 0").warm().await;
    let gpu = gateway.gpu().await;
    signal(&gpu, Signal::STOP);
    let asking = gateway.client.ask(&gateway.api, Ask::chat("Say hello"));
    let release = async {
        until("the cap was met", SOON, || async { (hedges(&gateway, "capped").await == 1).then_some(()) }).await;
        signal(&gpu, Signal::CONT);
    };
    let (record, ()) = tokio::join!(asking, release);
    assert_eq!(outcomes(&record), [("local", "ok")]);
    assert_eq!(gateway.cloud().calls().await, 0);
    gateway.shutdown().await;

    // An hour of money, and requests that may not be hedged; then nothing is switched on at all.
    let long = || Ask::chat(&"Tell me a long story. ".repeat(60));
    let gateway = hedging("").warm().await;
    for asked in [long().local_only(), long().model("local"), long().with("budget_sensitive", true)] {
        assert_eq!(outcomes(&ask(&gateway, asked).await), [("local", "ok")]);
    }
    assert_eq!(gateway.cloud().calls().await, 0);
    gateway.shutdown().await;
    let gateway = Setup::default().warm().await;
    assert_eq!(outcomes(&ask(&gateway, long()).await), [("local", "ok")]);
    gateway.shutdown().await;
}
