//! F19 in numbers: many clients that leave at random moments, of whom nothing stays behind, and for whom the engine computes
//! at most the token that was under way.

use crate::support::{Ask, Gateway, Record, Setup, Status};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

/// As many as `SPILLWAY_TEST_DISCONNECTS` says, else this many.
const DISCONNECTS: usize = 60;
/// More than the engine has places for: some leave the queue.
const CLIENTS: usize = 6;
const PARALLEL: u32 = 4;
/// Whoever waits for a time waits at most so long.
const LONGEST_MS: u64 = 1500;

/// What a client asks for.
fn some_ask(random: &mut StdRng) -> Ask {
    let long = "The lighthouse keeper wrote down every ship that passed. ".repeat(random.random_range(1..25));
    let ask = match random.random_range(0..6) {
        0 => Ask::chat(&long),
        1 => Ask::count().with("n", 3),
        2 => Ask::completion("").with("prompt", json!(["One, two,", "Red, green,", long])),
        3 => Ask::completion(&long),
        _ => Ask::count(),
    };
    let ask = ask.model("local").max_tokens(300);
    if random.random_ratio(2, 3) { ask.stream() } else { ask }
}

/// Asks, and leaves: after some pieces of text, after some time whatever has come, or, one in ten, not at all.
async fn ask_and_leave(gateway: &Gateway, mut random: StdRng) -> Option<Record> {
    let ask = some_ask(&mut random);
    if random.random_ratio(1, 10) {
        return Some(gateway.client.ask(&gateway.api, ask.max_tokens(8)).await);
    }
    if ask.is_stream() && random.random() {
        let (pieces, mut heard) = mpsc::channel(1);
        let leaving = async {
            for _ in 0..random.random_range(0..12) {
                heard.recv().await;
            }
            heard.close();
        };
        tokio::join!(gateway.client.ask_telling(&gateway.api, ask, Some(pieces)), leaving);
        return None;
    }
    let patience = Duration::from_millis(random.random_range(0..LONGEST_MS));
    // What is dropped closes its connection.
    let _ = tokio::time::timeout(patience, gateway.client.ask(&gateway.api, ask)).await;
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f19_of_many_clients_that_leave_at_random_moments_nothing_stays_behind() {
    let asked = std::env::var("SPILLWAY_TEST_DISCONNECTS").ok().and_then(|number| number.parse().ok());
    let gateway = Setup { context_tokens: 8192, ..Setup::default() }.parallel(PARALLEL).without_cloud().warm().await;
    let gateway = Arc::new(gateway);
    let before = gateway.gpu().await;
    let places = Arc::new(Semaphore::new(CLIENTS));
    let mut clients = JoinSet::new();
    for number in 0..asked.unwrap_or(DISCONNECTS) {
        let place = Arc::clone(&places).acquire_owned().await.expect("it is never closed");
        let (gateway, random) = (Arc::clone(&gateway), StdRng::seed_from_u64(number as u64));
        clients.spawn(async move {
            let record = ask_and_leave(&gateway, random).await;
            drop(place);
            record
        });
    }
    let stayed: Vec<Record> = clients.join_all().await.into_iter().flatten().collect();
    // The client's own rules know streams of one answer only.
    for record in &stayed {
        assert!(record.is_complete(), "who stays is answered: {record:#?}");
    }
    let idle = |status: &Status| {
        let work = &status.gpu().work;
        let none = [work.running, work.waiting, work.kv_used].iter().all(|count| *count == Some(0));
        none && status.leases == 0 && status.queue == Some(0) && status.requests.running == 0
    };
    let status = gateway.until_status("nothing of them is left", Duration::from_secs(2), idle).await;
    status.assert_conserved();
    let (after, gone) = (status.gpu(), status.requests.ended.get("client_gone"));
    println!("{} clients stayed, {gone:?} left: {:?}", stayed.len(), after.work);
    assert_eq!((after.epoch, after.engine_pid), (before.epoch, before.engine_pid), "the engine lives");
    assert!(after.work.left > 0, "some left in the middle: {status:?}");
    assert!(after.work.tokens_after_leaving <= after.work.left, "at most a token each: {status:?}");
    // Every place can be used.
    let all = (0..PARALLEL).map(|_| gateway.client.ask(&gateway.api, Ask::count().model("local").max_tokens(4)));
    for record in futures_util::future::join_all(all).await {
        record.assert_complete();
    }
    Arc::into_inner(gateway).expect("no client is left").shutdown().await;
}
