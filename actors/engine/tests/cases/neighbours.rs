//! What the engine does beside processes that never sleep.

use crate::{
    alone,
    support::{DEADLINE, Engine, Heard, greedy},
};
use spillway_actors::gpu::frame::JobEvent;
use std::{
    collections::HashMap,
    process::{Child, Command},
    thread::available_parallelism,
    time::Instant,
};

/// Keeps one core busy until it is dropped.
struct Busy(Child);

impl Busy {
    fn start() -> Self {
        Self(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn threads_make_way_for_busy_processes_and_no_stream_loses_its_place() {
    if available_parallelism().unwrap().get() < 2 {
        eprintln!("one core has no thread to give");
        return;
    }
    let _cores = alone();
    let (mut engine, _) = Engine::loaded(3, 4096, &[]);
    let question = "Name three colours and say why you like them.";
    let before = engine.run_one(greedy(1, question, 16));
    let _busy: Vec<Busy> = (0..available_parallelism().unwrap().get()).map(|_| Busy::start()).collect();
    let (mut heard, mut jobs) = (HashMap::<u64, Heard>::new(), 100..);
    let deadline = Instant::now() + DEADLINE;
    while !engine.has_said("decodes with 1 thread ") {
        assert!(Instant::now() < deadline, "it does not notice");
        if heard.values().all(|heard| heard.end.is_some()) {
            engine.submit(greedy(jobs.next().unwrap(), "Write a very long story.", 300));
            engine.submit(greedy(jobs.next().unwrap(), "Count from one to a thousand.", 300));
        }
        engine.hear_step(&mut heard);
    }
    while heard.values().any(|heard| heard.end.is_none()) {
        engine.hear_step(&mut heard);
    }
    for (job, heard) in &heard {
        assert!(heard.tokens.len() > 1 && !heard.text.contains('\u{fffd}'), "job {job}: {:?}", heard.end);
        heard.reason();
    }
    // The cells of the first prompt were carried over, and say the same.
    let after = engine.run_one(greedy(2, question, 16));
    let Some(JobEvent::Finished { cached_tokens, .. }) = after.end else { panic!("{:?}", after.end) };
    assert!(cached_tokens > 0);
    assert_eq!(after.text.get(..12), before.text.get(..12));
}
