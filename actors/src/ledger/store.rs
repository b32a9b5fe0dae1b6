//! Where rows end up: SQLite, PostgreSQL or memory behind one trait. Filled from the journal off the request path, in order
//! and exactly once; holds no reservation and knows no budget.

mod db;
mod memory;
mod schema;
mod sql;
mod sums;

pub use memory::MemoryStore;
pub use sql::{Access, SqlStore};
pub use sums::{By, Line, Question, Sums};

use super::{
    budget::Spent,
    journal::Entry,
    row::{AttemptRow, RequestRow},
};
use crate::domain::{KeyId, UnixMs};
use futures_util::future::BoxFuture;

pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// `place` is a file or a database's address without its password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the ledger's database {place} is damaged ({message}). Nothing was changed. Restore it from a backup; or move it \
         aside together with its -wal and -shm files and start anew: what it had counted then counts for no budget"
    )]
    Damaged { place: String, message: String },
    #[error(
        "the ledger's database {place} was made by a newer version of the gateway (schema {found}, this one knows \
         {known}): run that version, or name another [ledger] url"
    )]
    Newer { place: String, found: i64, known: i64 },
    #[error("there is no ledger yet: {place} is not there. Is this the gateway's folder, and has a gateway run in it?")]
    Missing { place: String },
    #[error("another gateway writes to the ledger's database {place}: stop it, or name another [ledger] url")]
    Held { place: String },
    #[error("the ledger's database {place} cannot be used: {message}")]
    Unusable { place: String, message: String },
    #[error("the ledger's database {place} cannot be written: {message}")]
    NoRoom { place: String, message: String },
    #[error("the ledger is not open yet: {why}")]
    NotOpen { why: String },
}

/// What was posted before this run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Opening {
    /// Its name, made when it was.
    pub ledger: String,
    /// Records up to here are in the store.
    pub applied: u64,
    /// Above every attempt's number.
    pub next_number: u64,
    /// (target, model) → sums of all time.
    pub sums: Vec<((String, String), Sums)>,
    pub all: Spent,
    pub keys: Vec<(KeyId, Spent)>,
}

/// A name for a ledger that is filled from a journal from now on.
pub(super) fn new_name() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Implementations pass `store/tests.rs`.
pub trait Store: Send + Sync {
    /// Read once at the start.
    fn opening(&self, now: UnixMs) -> Answer<'_, Opening>;

    /// From now on it is filled from another journal.
    fn rename<'a>(&'a self, ledger: &'a str) -> Answer<'a, ()>;

    /// Writes all of them or none. Entries that it has already are skipped by their sequence numbers.
    fn apply<'a>(&'a self, entries: &'a [Entry]) -> Answer<'a, ()>;

    /// Attempts numbered from `from` on, oldest first, at most `limit`.
    fn attempts(&self, from: u64, limit: usize) -> Answer<'_, Vec<(u64, AttemptRow)>>;

    /// The newest requests, newest first, at most `limit`.
    fn requests(&self, limit: usize) -> Answer<'_, Vec<RequestRow>>;

    fn usage(&self, question: Question) -> Answer<'_, Vec<Line>>;

    /// Removes rows from before `before`, at most about `limit` of each kind. Sums stay. Gives how many went.
    fn prune(&self, before: UnixMs, limit: usize) -> Answer<'_, u64>;

    /// Leaves it in good order; nothing is written afterwards.
    fn close(&self) -> Answer<'_, ()>;
}

#[cfg(test)]
mod tests;
