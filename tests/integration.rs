//! Black-box tests of the gateway as it ships: the release binary, its real engine and the default model, a simulated
//! cloud provider, and every way to break them. `make model` must have run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test that fails should say so"
)]

#[path = "support/mod.rs"]
mod support;

#[path = "integration/actors.rs"]
mod actors;
#[path = "integration/anthropic.rs"]
mod anthropic;
#[path = "integration/api.rs"]
mod api;
#[path = "integration/bench.rs"]
mod bench;
#[path = "integration/bill.rs"]
mod bill;
#[path = "integration/cascade.rs"]
mod cascade;
#[path = "integration/chaos.rs"]
mod chaos;
#[path = "integration/compat.rs"]
mod compat;
#[path = "integration/console.rs"]
mod console;
#[path = "integration/counts.rs"]
mod counts;
#[path = "integration/dashboards.rs"]
mod dashboards;
#[path = "integration/doctor.rs"]
mod doctor;
#[path = "integration/edge.rs"]
mod edge;
#[path = "integration/embeddings.rs"]
mod embeddings;
#[path = "integration/engine.rs"]
mod engine;
#[path = "integration/errors.rs"]
mod errors;
#[path = "integration/fleet.rs"]
mod fleet;
#[path = "integration/gpu_health.rs"]
mod gpu_health;
#[path = "integration/hedge.rs"]
mod hedge;
#[path = "integration/keys.rs"]
mod keys;
#[path = "integration/local_only.rs"]
mod local_only;
#[path = "integration/memory.rs"]
mod memory;
#[path = "integration/models.rs"]
mod models;
#[path = "integration/online.rs"]
mod online;
#[path = "integration/operate.rs"]
mod operate;
#[path = "integration/packaging.rs"]
mod packaging;
#[path = "integration/poison.rs"]
mod poison;
#[path = "integration/postgres.rs"]
mod postgres;
#[path = "integration/queue.rs"]
mod queue;
#[path = "integration/route.rs"]
mod route;
#[path = "integration/server.rs"]
mod server;
#[path = "integration/several.rs"]
mod several;
#[path = "integration/shutdown.rs"]
mod shutdown;
#[path = "integration/start.rs"]
mod start;
#[path = "integration/structured.rs"]
mod structured;
#[path = "integration/take_over.rs"]
mod take_over;
#[path = "integration/terminal.rs"]
mod terminal;
#[path = "integration/traces.rs"]
mod traces;
#[path = "integration/typed.rs"]
mod typed;
