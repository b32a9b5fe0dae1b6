//! A local-only request stays on this machine: the provider's own account of what reached it is empty, whatever happens
//! to engine, actors and queue meanwhile.

use crate::support::{Ask, Gateway, History, Setup};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::time::Duration;
use tokio::task::JoinSet;

const REQUESTS: usize = 60;
const DEATHS: [(&str, &str); 8] = [
    ("gpu/local", "sigkill"),
    ("gpu/local", "exit"),
    ("gpu/local", "garbage"),
    ("gpu/local", "kill"),
    ("router", "kill"),
    ("classifier", "panic"),
    ("cloud-supervisor", "kill"),
    ("ledger", "error"),
];

fn any_ask(random: &mut StdRng) -> Ask {
    let ask = if random.random() { Ask::count() } else { Ask::hard() };
    let ask = ask.local_only().max_tokens(random.random_range(1..24));
    let ask = if random.random() { ask.stream() } else { ask };
    match random.random_range(0..4) {
        0 => ask.with("budget_sensitive", true),
        1 => ask.with("max_latency_ms", 1),
        2 => ask.model("local"),
        _ => ask,
    }
}

async fn send(gateway: &Gateway, history: &History, random: &mut StdRng) -> JoinSet<()> {
    let mut asking = JoinSet::new();
    for at in 0..REQUESTS {
        let (client, api, records, ask) =
            (gateway.client.clone(), gateway.api.clone(), history.clone(), any_ask(random));
        asking.spawn(async move { records.add(client.ask(&api, ask).await) });
        if at % 10 == 9 {
            let (actor, how) = DEATHS.choose(random).unwrap();
            if let Some(kill) = gateway.try_kill(actor, how).await {
                history.note(kill);
            }
        }
    }
    asking
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_local_only_request_reaches_the_provider_while_everything_dies() {
    let gateway = Setup { request_timeout: Duration::from_secs(20), ..Setup::default() }.parallel(2).warm().await;
    let history = History::default();
    let seed = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    send(&gateway, &history, &mut random).await.join_all().await;
    assert_eq!(history.len(), REQUESTS);
    let arrived = gateway.cloud().arrived().await;
    assert!(arrived.is_empty(), "seed {seed}: {arrived:?}");
    // The provider is there, and counts: anybody else does reach it.
    let other = gateway.client.ask(&gateway.api, Ask::hard().max_tokens(4)).await;
    assert_eq!(other.assert_complete().target(), "sim");
    history.add(other);
    assert_eq!(gateway.cloud().arrived().await.len(), 1);
    gateway.until_serving().await;
    // On a busy machine some run into their deadline while the engine comes back: an honest end, and it stays local.
    gateway.assert_account(&history).await;
    gateway.shutdown().await;
}
