//! What one client's long prompt costs the others.

use crate::{
    alone,
    support::{Engine, Heard, greedy},
};
use spillway_actors::gpu::frame::FromEngine;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Times of steps that gave job 1 a token, until `done`.
fn gaps(
    engine: &mut Engine,
    heard: &mut HashMap<u64, Heard>,
    done: impl Fn(&HashMap<u64, Heard>) -> bool,
) -> Vec<Duration> {
    let (mut gaps, mut last) = (Vec::new(), Instant::now());
    while !done(heard) {
        let FromEngine::Step { outputs, .. } = engine.hear() else { continue };
        if outputs.iter().any(|output| output.job == 1) {
            gaps.push(last.elapsed());
            last = Instant::now();
        }
        for output in outputs {
            heard.entry(output.job).or_default().hear(output);
        }
    }
    gaps.sort_unstable();
    gaps
}

fn at(gaps: &[Duration], part: f64) -> Duration {
    gaps[((gaps.len() - 1) as f64 * part) as usize]
}

/// That the stream goes on is held here; by how much it slows down depends on who else uses this machine, and is shown.
#[test]
fn a_running_stream_gets_its_tokens_while_a_long_prompt_is_read() {
    let _cores = alone();
    let (mut engine, _) = Engine::loaded(4, 8192, &[]);
    engine.run_one(greedy(100, &"A prompt to measure the pace by. ".repeat(30), 8));
    let mut heard = HashMap::new();
    engine.submit(greedy(1, "Write a very long story.", 4000));
    let idle = gaps(&mut engine, &mut heard, |heard| heard.get(&1).is_some_and(|heard| heard.pieces.len() >= 60));
    let long = "A long report about the state of the harbour and its many ships follows here. ".repeat(130);
    let started = Instant::now();
    engine.submit(greedy(2, &long, 4));
    let beside = gaps(&mut engine, &mut heard, |heard| heard.get(&2).is_some_and(|heard| !heard.pieces.is_empty()));
    let ratio = |part| at(&beside, part).as_secs_f64() / at(&idle, part).as_secs_f64();
    eprintln!(
        "inter-token p50 {:?} idle, {:?} beside a long prompt ({:.1}x); p99 {:?}, {:?} ({:.1}x); its first token after {:?}",
        at(&idle, 0.5),
        at(&beside, 0.5),
        ratio(0.5),
        at(&idle, 0.99),
        at(&beside, 0.99),
        ratio(0.99),
        started.elapsed()
    );
    assert!(beside.len() > 10, "the stream stood still");
}
