//! What everything cost. [`store`] holds reservations and books outside the actor; LedgerActor moves posted rows into the
//! books. In this version the store is in memory: it ends with the process.

pub mod actor;
pub mod store;

pub use actor::{LedgerActor, LedgerMsg};
pub use store::{AttemptRow, Ledger, Reservation};
