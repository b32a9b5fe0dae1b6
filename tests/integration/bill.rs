//! What the ledger says of requests that did not run to their end: what came is paid, not what might have come.

use crate::support::{Ask, Gateway, Setup, Status, accounts::Attempt, poll::until};
use serde_json::Value;
use spillway::sim::SimOptions;
use std::time::Duration;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

const SOON: Duration = Duration::from_secs(10);

/// Reads `pieces` of a stream, then closes the connection.
async fn leave_after(gateway: &Gateway, pieces: usize, ask: Ask) {
    let (sender, mut heard) = mpsc::channel(1);
    let leaving = async {
        for _ in 0..pieces {
            heard.recv().await.expect("the stream goes on");
        }
        heard.close();
    };
    tokio::join!(gateway.client.ask_telling(&gateway.api, ask, Some(sender)), leaving);
}

async fn page(gateway: &Gateway, kind: &str) -> Vec<Value> {
    let page = gateway.client.get_json(&gateway.admin_url(&format!("/admin/usage/{kind}"))).await.unwrap();
    page[kind].as_array().unwrap().clone()
}

/// The only attempt that is written down, once its flight is over; and its request's row, which must say the same.
async fn only_attempt(gateway: &Gateway) -> Attempt {
    let over = |status: &Status| status.requests.running == 0;
    gateway.until_status("the flight is over", SOON, over).await;
    let rows = until("its rows are there", SOON, || async {
        let rows = (page(gateway, "attempts").await, page(gateway, "requests").await);
        (!rows.0.is_empty() && !rows.1.is_empty()).then_some(rows)
    })
    .await;
    let (attempts, requests) = (rows.0, rows.1);
    assert_eq!((attempts.len(), requests.len()), (1, 1), "{attempts:?} {requests:?}");
    assert_eq!(requests[0]["usage"], attempts[0]["usage"], "{requests:?}");
    assert_eq!(requests[0]["outcome"], "client_gone");
    serde_json::from_value(attempts[0].clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paid_stream_that_its_client_leaves_costs_what_came_and_a_little_more() {
    let slow = SimOptions { tokens: 4000, tokens_per_second: Some(40.0), ..SimOptions::default() };
    let gateway = Setup::default().without_local().cloud(slow).start().await;
    leave_after(&gateway, 20, Ask::hard().max_tokens(4000).stream()).await;
    let row = only_attempt(&gateway).await;
    let call = until("the provider has seen its client go", SOON, || async {
        gateway.cloud().arrived().await.into_iter().find(|call| call.outcome == "client_gone")
    })
    .await;
    assert_eq!((row.outcome.as_str(), row.usage.estimated), ("abandoned", true), "{row:?}");
    assert!(row.usage.completion_tokens >= call.completion_tokens, "{row:?} {call:?}");
    assert!(row.reserved > 0 && row.cost > 0 && row.cost * 4 < row.reserved, "nothing near the whole: {row:?}");
    let status = gateway.client.get_json(&gateway.admin_url("/admin/usage")).await.unwrap();
    assert_eq!((&status["reserved_nanousd"], &status["cost_nanousd"]), (&0.into(), &row.cost.into()), "{status}");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paid_request_that_is_left_before_its_first_token_costs_little() {
    let silent = SimOptions { ttft: Duration::from_secs(60), ..SimOptions::default() };
    let gateway = Setup::default().without_local().cloud(silent).start().await;
    tokio::select! {
        record = gateway.client.ask(&gateway.api, Ask::hard().max_tokens(100_000)) => panic!("{record:#?}"),
        () = until("the provider has it", SOON, || async { (gateway.cloud().calls().await == 1).then_some(()) }) => {}
    }
    let row = only_attempt(&gateway).await;
    assert_eq!((row.outcome.as_str(), row.usage.estimated), ("abandoned", true), "{row:?}");
    assert!(row.usage.prompt_tokens > 0 && row.cost > 0 && row.cost * 4 < row.reserved, "{row:?}");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_stream_that_its_client_leaves_has_its_row_and_its_tokens() {
    let gateway = Setup::default().without_cloud().warm().await;
    leave_after(&gateway, 5, Ask::count().model("local").max_tokens(1500).stream()).await;
    let row = only_attempt(&gateway).await;
    assert_eq!((row.target.as_str(), row.outcome.as_str()), ("local", "abandoned"));
    assert!(row.usage.prompt_tokens > 0 && row.usage.completion_tokens >= 5, "{row:?}");
    assert_eq!((row.cost, row.reserved), (0, 0));
    let counted = gateway.metric("spillway_attempts_total{target=\"local\",outcome=\"abandoned\"}").await;
    assert_eq!(counted, Some(1.0), "one row for each attempt that is counted");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_run_at_once_share_what_their_target_draws() {
    let setup = Setup::default().without_cloud().parallel(4).extra("[energy]\nlocal_watts = 100\n");
    let gateway = setup.warm().await;
    let began = Instant::now();
    let mut asking = JoinSet::new();
    for _ in 0..4 {
        let (client, api) = (gateway.client.clone(), gateway.api.clone());
        asking.spawn(async move { client.ask(&api, Ask::count().model("local").max_tokens(120)).await });
    }
    for record in asking.join_all().await {
        record.assert_complete();
    }
    let most_mj = (100_000.0 * began.elapsed().as_secs_f64()) as u64;
    let rows = until("all rows are there", SOON, || async {
        let rows = page(&gateway, "attempts").await;
        (rows.len() == 4).then_some(rows)
    })
    .await;
    let shares: Vec<u64> = rows.iter().map(|row| row["energy_mj"].as_u64().unwrap()).collect();
    let drawn: u64 = shares.iter().sum();
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
    assert!(drawn <= most_mj && drawn * 3 > most_mj, "{shares:?} of at most {most_mj}: they ran most of the time");
    gateway.shutdown().await;
}
