//! What the ledger costs a request, and what a start costs after a million rows. Not a test: it needs the machine for itself.
//!
//! `cargo run --release --example ledger-bench -- [FOLDER]` (default: a new folder in the temporary one)

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement")]

use spillway_actors::{
    config::{LedgerConfig, LedgerPlace},
    domain::{BudgetLimits, NanoUsd, RequestId, TokenUsage},
    ledger::{AttemptRow, Ledger, RequestRow, unix_now},
};
use std::{path::Path, time::Duration};
use tokio::{task::JoinSet, time::Instant};

const ROWS: u64 = 1_000_000;

fn row(cost: u64) -> AttemptRow {
    let usage = TokenUsage { prompt_tokens: 100, completion_tokens: 100, ..TokenUsage::default() };
    let row = AttemptRow::new(RequestId::random(), None, unix_now(), "holysheep", "deepseek-v3.2");
    AttemptRow { usage, cost: NanoUsd::new(cost), ..row }
}

fn request(attempt: &AttemptRow) -> RequestRow {
    RequestRow {
        request: attempt.request,
        key: None,
        at: attempt.at,
        target: attempt.target.clone(),
        model: attempt.model.clone(),
        complexity: "complex".into(),
        outcome: "ok".into(),
        stream: true,
        attempts: 1,
        usage: attempt.usage,
        took_ms: 100,
    }
}

fn config(folder: &Path) -> LedgerConfig {
    LedgerConfig {
        place: LedgerPlace::Sqlite(folder.join("ledger.db")),
        journal_dir: Some(folder.join("ledger.journal")),
        max_journal_bytes: 8 << 30,
        retention: None,
        budget: BudgetLimits { day: Some(NanoUsd::new(u64::MAX / 4)), ..BudgetLimits::default() },
        default_output_tokens: 4096,
        baseline: None,
    }
}

fn percentiles(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{what}: p50 {:?}, p99 {:?}, max {:?} ({} samples)", at(0.5), at(0.99), at(1.0), times.len());
}

/// Reserve and settle, the waits in between included; gives the waits for the reservation and the end.
async fn pay(ledger: &Ledger) -> (Duration, Duration) {
    let deadline = unix_now().plus(Duration::from_secs(60));
    let began = Instant::now();
    let reserved = ledger.reserve(row(1000), BudgetLimits::default(), deadline).await.unwrap();
    let reserving = began.elapsed();
    let began = Instant::now();
    let attempt = row(400);
    drop(reserved.settle("ok", attempt.usage, attempt.cost, NanoUsd::ZERO));
    ledger.note_request(&request(&attempt)).written().await.unwrap();
    (reserving, began.elapsed())
}

async fn in_memory() {
    let ledger = Ledger::default();
    let rounds = 100_000;
    let began = Instant::now();
    for _ in 0..rounds {
        pay(&ledger).await;
    }
    println!("in memory, reserve + settle + request row: {:?} each", began.elapsed() / rounds);
}

async fn waits(ledger: &Ledger, clients: usize, pause: Duration) {
    let mut paying = JoinSet::new();
    for _ in 0..clients {
        let ledger = ledger.clone();
        paying.spawn(async move {
            let mut waits = Vec::new();
            for _ in 0..1000 {
                waits.push(pay(&ledger).await);
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
            }
            waits
        });
    }
    let waits: Vec<_> = paying.join_all().await.into_iter().flatten().collect();
    percentiles(&format!("{clients} clients, wait before a paid call"), waits.iter().map(|wait| wait.0).collect());
    percentiles(&format!("{clients} clients, wait before its end"), waits.iter().map(|wait| wait.1).collect());
}

async fn start_after(folder: &Path) {
    let began = Instant::now();
    let ledger = Ledger::open(&config(folder), unix_now()).await.unwrap();
    for number in 0..ROWS {
        ledger.post(row(number % 7));
        if number % 50_000 == 0 {
            ledger.attempts(number, 1).await.unwrap();
        }
    }
    while ledger.snapshot().unapplied > 0 {
        let _ = ledger.attempts(ROWS, 1).await;
    }
    ledger.close().await;
    println!("{ROWS} rows written and applied in {:?}", began.elapsed());
    drop(ledger);
    let began = Instant::now();
    let ledger = Ledger::open(&config(folder), unix_now()).await.unwrap();
    println!("start after an orderly end, {} attempts known: {:?}", ledger.snapshot().attempts, began.elapsed());
    // A journal that the database has nothing of yet.
    for number in 0..100_000 {
        ledger.post(row(number % 7));
    }
    drop(ledger);
    let began = Instant::now();
    let ledger = Ledger::open(&config(folder), unix_now()).await.unwrap();
    let snapshot = ledger.snapshot();
    println!("start with {} records to replay: {:?}", snapshot.unapplied, began.elapsed());
    ledger.close().await;
}

#[tokio::main]
async fn main() {
    let named = std::env::args().nth(1).map(std::path::PathBuf::from);
    let folder = named.unwrap_or_else(|| std::env::temp_dir().join(format!("ledger-bench-{}", std::process::id())));
    std::fs::create_dir_all(&folder).unwrap();
    in_memory().await;
    let waiting = folder.join("waits");
    std::fs::create_dir_all(&waiting).unwrap();
    let ledger = Ledger::open(&config(&waiting), unix_now()).await.unwrap();
    waits(&ledger, 1, Duration::ZERO).await;
    waits(&ledger, 16, Duration::from_millis(20)).await;
    waits(&ledger, 64, Duration::ZERO).await;
    ledger.close().await;
    drop(ledger);
    start_after(&folder).await;
    std::fs::remove_dir_all(&folder).unwrap();
}
