//! What everything costs. Money is set aside before a paid attempt starts and settled when it ends; both are in the
//! [`journal`] before anybody relies on them. [`books`] holds the present outside the actor, [`store`] the past; LedgerActor
//! moves the one into the other.

pub mod actor;
mod books;
pub mod budget;
mod filler;
pub mod journal;
mod open;
mod reservation;
mod row;
pub mod store;

pub use actor::{LedgerActor, LedgerMsg};
pub use books::{BudgetLine, Ledger, LedgerSnapshot, Purchasing};
pub use budget::{Bound, Bounded, Payer, Period};
pub use journal::Receipt;
pub use open::OpenError;
pub use reservation::{Refused, Reservation};
pub use row::{AttemptRow, RequestRow};

use crate::domain::UnixMs;
use std::time::{SystemTime, UNIX_EPOCH};

/// The wall clock, for those who pass `now` on.
pub fn unix_now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs::new(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
