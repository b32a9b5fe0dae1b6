//! The fault table, row by row: what a provider or a client does wrong, and what of it a client, the provider and the
//! accounts may notice. Each test is named after its row. Against the real binary and a simulated provider.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test that fails should say so"
)]

#[path = "support/mod.rs"]
mod support;

#[path = "faults/accounts.rs"]
mod accounts;
#[path = "faults/answers.rs"]
mod answers;
#[path = "faults/bodies.rs"]
mod bodies;
#[path = "faults/budgets.rs"]
mod budgets;
#[path = "faults/clients.rs"]
mod clients;
#[path = "faults/crashes.rs"]
mod crashes;
#[path = "faults/crowd.rs"]
mod crowd;
#[path = "faults/disks.rs"]
mod disks;
#[path = "faults/failures.rs"]
mod failures;
#[path = "faults/leavers.rs"]
mod leavers;
#[path = "faults/limits.rs"]
mod limits;
#[path = "faults/reload.rs"]
mod reload;
#[path = "faults/secrets.rs"]
mod secrets;
#[path = "faults/silence.rs"]
mod silence;
#[path = "faults/streams.rs"]
mod streams;

use support::{Ask, Gateway, Outcome, Record, Setup};

/// Short waits for providers that keep silent.
const IMPATIENT: &str = "first_byte_timeout_ms = 400\nidle_timeout_ms = 400\n";

/// Two providers and no local target: hard requests go to `ok` of `sim`, then to `spare` of `backup`.
fn two_providers() -> Setup {
    Setup::default().without_local().backup(spillway::sim::SimOptions { tokens: 24, ..Default::default() })
}

async fn ask(gateway: &Gateway, ask: Ask) -> Record {
    gateway.client.ask(&gateway.api, ask).await
}

/// Whole answers, streamed and not, of `target`.
async fn both_answered_by(gateway: &Gateway, target: &str) {
    for asked in [Ask::hard(), Ask::hard().stream()] {
        let record = ask(gateway, asked).await;
        assert_eq!(record.assert_complete().target(), target, "{record:#?}");
    }
}

/// Status and code of an error that the client was told.
fn told(record: &Record) -> (u16, String) {
    assert_eq!(record.faults, Vec::<String>::new(), "{record:#?}");
    let Outcome::Error { status, code, .. } = &record.outcome else { panic!("an explicit error: {record:#?}") };
    (*status, code.as_str().unwrap_or_default().to_owned())
}
