//! Faults on demand: what `/admin/chaos/kill` can do to an actor from inside, and what `/admin/chaos/fault` lets befall
//! calls. Reached only when `[chaos] enabled`.

pub mod faults;

use ractor::ActorProcessingErr;

/// How an actor's handler ends itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Panic,
    Error,
}

/// Obeys a chaos message.
pub fn obey(fault: Fault) -> Result<(), ActorProcessingErr> {
    match fault {
        #[expect(clippy::panic, reason = "the panic is the fault that was asked for")]
        Fault::Panic => panic!("chaos panic"),
        Fault::Error => Err("chaos error".into()),
    }
}
