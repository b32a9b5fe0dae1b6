//! F19: a client that leaves frees what it held: its place at the engine, in the queue, and the provider's socket.

use crate::support::{Ask, Gateway, Setup, Status, poll::until};
use spillway::sim::SimOptions;
use std::time::Duration;
use tokio::sync::mpsc;

const QUICK: Duration = Duration::from_secs(1);

/// Reads a stream up to its first text, then closes the connection.
async fn leave_after_first_text(gateway: &Gateway, ask: Ask) {
    let (pieces, mut heard) = mpsc::channel(1);
    let leaving = async {
        heard.recv().await.expect("the stream begins");
        heard.close();
    };
    // The answer is dropped with the reading, which closes its connection.
    tokio::join!(gateway.client.ask_telling(&gateway.api, ask, Some(pieces)), leaving);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f19_a_client_that_leaves_a_local_stream_frees_its_place_within_a_second() {
    let gateway = Setup::default().parallel(1).warm().await;
    for _ in 0..3 {
        leave_after_first_text(&gateway, Ask::count().model("local").max_tokens(1500).stream()).await;
        let free = |status: &Status| status.leases == 0 && status.requests.running == 0;
        gateway.until_status("its place is free", QUICK, free).await;
        // The engine has stopped, too: the next one need not wait for the rest of it.
        let asked = gateway.client.ask(&gateway.api, Ask::count().model("local").max_tokens(4));
        tokio::time::timeout(Duration::from_secs(3), asked).await.expect("no wait").assert_complete();
    }
    let status = gateway.status().await;
    assert_eq!(status.requests.ended.get("client_gone"), Some(&3), "{status:?}");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f19_a_client_that_leaves_a_cloud_stream_closes_the_providers_socket() {
    let slow = SimOptions { tokens: 4000, tokens_per_second: Some(20.0), ..SimOptions::default() };
    let gateway = Setup::default().cloud(slow).start().await;
    leave_after_first_text(&gateway, Ask::hard().max_tokens(4000).stream()).await;
    until("the provider sees its client go", QUICK, || async {
        gateway.cloud().arrived().await.iter().any(|arrived| arrived.outcome == "client_gone").then_some(())
    })
    .await;
    gateway.until_status("nothing runs", QUICK, |status| status.requests.running == 0).await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f19_a_client_that_leaves_before_the_first_token_leaves_nothing_behind() {
    let silent = SimOptions { ttft: Duration::from_secs(60), ..SimOptions::default() };
    let gateway = Setup::default().parallel(1).cloud(silent).warm().await;
    let mut asking = tokio::task::JoinSet::new();
    // One at the engine, two in the queue, one at a provider that does not answer.
    for ask in [
        Ask::count().model("local").max_tokens(1500),
        Ask::count().model("local").max_tokens(1500),
        Ask::count().model("local").max_tokens(1500).stream(),
        Ask::hard(),
    ] {
        let (client, api) = (gateway.client.clone(), gateway.api.clone());
        asking.spawn(async move { client.ask(&api, ask).await });
    }
    let placed = |status: &Status| status.leases == 1 && status.queue == Some(2) && status.requests.running == 4;
    gateway.until_status("all have their place", Duration::from_secs(10), placed).await;
    until("the provider has the request", Duration::from_secs(5), || async {
        (gateway.cloud().arrived().await.len() == 1).then_some(())
    })
    .await;
    asking.shutdown().await;
    let empty = |status: &Status| status.leases == 0 && status.queue == Some(0) && status.requests.running == 0;
    let status = gateway.until_status("all have left", QUICK, empty).await;
    status.assert_conserved();
    until("the provider's socket is closed", QUICK, || async {
        gateway.cloud().arrived().await.iter().all(|arrived| arrived.outcome == "client_gone").then_some(())
    })
    .await;
    gateway.client.ask(&gateway.api, Ask::count().model("local")).await.assert_complete();
    gateway.shutdown().await;
}
