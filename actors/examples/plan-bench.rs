//! How long a decision takes: facts read from a fleet of 32 targets, conversation recognised, gates, estimates, policy
//! and sentence. `cargo run --release -p spillway-actors --example plan-bench` prints p50 and p99 in microseconds, which
//! `make bench-micro` does not. Measures no actor and no mailbox.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints its figures and may fail")]
#![allow(unreachable_pub, reason = "shared with a bench")]

#[path = "../../benches/micro/fleet.rs"]
mod fleet;

use fleet::{Scene, TARGETS};
use std::{hint::black_box, time::Duration};
use tokio::time::Instant;

const DECISIONS: usize = 200_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let scene = Scene::new();
    let mut took: Vec<Duration> = Vec::with_capacity(DECISIONS);
    for at in 0..DECISIONS {
        let began = Instant::now();
        let candidates = black_box(scene.decide(at % 7));
        took.push(began.elapsed());
        assert_eq!(candidates, TARGETS);
    }
    took.sort_unstable();
    let at = |share: f64| took[((DECISIONS - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    println!(
        "{TARGETS} targets, {DECISIONS} decisions: p50 {:.1} µs, p99 {:.1} µs, worst {:.1} µs",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}
