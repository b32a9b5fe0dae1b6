//! F16: every attempt in the ledger, equal to the provider's own list, whatever went wrong.

use super::{IMPATIENT, two_providers};
use crate::support::{Ask, Gateway, Record, accounts::Books};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::time::Duration;
use tokio::{sync::mpsc, task::JoinSet};

/// Faults of a chaotic day, the commonest first.
const FAULTS: [&str; 14] = [
    "ok",
    "ok",
    "ok",
    "error-500-1",
    "error-503",
    "cut-5",
    "truncate",
    "reset",
    "malformed",
    "sse-error",
    "empty",
    "no-usage",
    "429-1",
    "stall-3",
];
const CLIENTS: usize = 8;
/// As many as `SPILLWAY_TEST_REQUESTS` says, else this many.
const REQUESTS: usize = 1200;
/// One stream in so many is left after its first text.
const LEAVERS: u32 = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn f16_the_ledgers_attempts_are_the_providers_own_list() {
    let gateway = two_providers().provider(IMPATIENT).start().await;
    let mut books = Books::default();
    let mut chaos = StdRng::seed_from_u64(16);
    let requests = std::env::var("SPILLWAY_TEST_REQUESTS").ok().and_then(|number| number.parse().ok());
    for _ in 0..requests.unwrap_or(REQUESTS) / 100 {
        for (cloud, model) in [(gateway.cloud(), "ok"), (gateway.backup(), "spare")] {
            cloud.fault(model, FAULTS[chaos.random_range(0..FAULTS.len())]).await;
        }
        for record in hundred(&gateway, chaos.random()).await {
            assert_eq!(record.faults, Vec::<String>::new(), "{record:#?}");
            books.client(record);
        }
        books.read_ledger(&gateway).await;
    }
    let quiet = |status: &crate::support::Status| status.requests.running == 0;
    gateway.until_status("who left is forgotten", Duration::from_secs(5), quiet).await.assert_conserved();
    books.read_ledger(&gateway).await;
    books.read_provider(gateway.cloud().arrived().await);
    books.read_provider(gateway.backup().arrived().await);
    println!("{:?}", books.compare());
    books.assert_equal();
    gateway.shutdown().await;
}

/// A hundred requests, streamed and not; some clients leave after the first text.
async fn hundred(gateway: &Gateway, seed: u64) -> Vec<Record> {
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (client, api) = (gateway.client.clone(), gateway.api.clone());
        let mut turns = StdRng::seed_from_u64(seed ^ number as u64);
        clients.spawn(async move {
            let mut records = Vec::new();
            for _ in 0..100_usize.div_ceil(CLIENTS) {
                let ask = if turns.random() { Ask::hard().stream() } else { Ask::hard() };
                let leaves = ask.is_stream() && turns.random_ratio(1, LEAVERS);
                // Nobody hears the first piece, so the reading ends with it and closes the connection.
                let pieces = leaves.then(|| mpsc::channel(1).0);
                records.push(client.ask_telling(&api, ask, pieces).await);
            }
            records
        });
    }
    clients.join_all().await.into_iter().flatten().collect()
}
