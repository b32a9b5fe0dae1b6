//! Deterministic simulation: whole schedules of the real actors, job table, router, flights, supervisors, breakers and ledger in
//! virtual time, against simulated engines, providers, clients and a disk, all driven by one seed. The same seed gives the same
//! log, byte for byte, so what a seed has found once it finds again.
//!
//! Each seed runs in a process of its own (this test binary again), because the runtime counts what it draws chance from.
//!
//! `SPILLWAY_SIM_SEED=123` runs one seed and shows its log, `SPILLWAY_SIM_SEEDS=1000` so many, from `SPILLWAY_SIM_FROM` on.

mod chance;
mod client;
mod dial;
mod dice;
mod disk;
mod engine;
mod provider;
mod seeds;
mod stage;
mod world;

pub(crate) use dial::Dialer;

use stage::Stage;
use std::cell::Cell;

thread_local! {
    static HERE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread plays a simulation: then nothing may happen in another one.
pub(crate) fn is_here() -> bool {
    HERE.get()
}

fn come_here() {
    HERE.set(true);
}

/// A panic that nobody ordered is a bug.
fn watch_panics(stage: &Stage) {
    let stage = stage.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let told = panic.to_string();
        if !told.contains("chaos panic") {
            stage.wrong(format_args!("a panic: {told}"));
        }
    }));
}
