//! The journal: what must be on disk before a paid call may start, and before a paid answer may end. Append-only segments
//! of checked frames, written by whoever queued one; the database is filled from them. Knows nothing of budgets.
//!
//! A write that has returned survives the death of the process; within 100 ms a sync makes it survive the machine's.

mod folder;
mod frame;
mod reader;
mod record;
mod replay;
mod writer;

pub(in crate::ledger) use folder::OWNER_FILE;
pub use folder::{Folder, FolderError};
pub use reader::Reader;
pub use record::{Entry, Record, RecordRef};
pub use replay::{Replay, replay};
pub use writer::{Begin, Disk, Journal, NotWritten, Position, Receipt, SystemDisk};

/// A segment this large gets a successor.
pub const SEGMENT_BYTES: u64 = 16 << 20;

#[cfg(test)]
pub(in crate::ledger) mod tests {
    //! What other tests of the ledger borrow.
    pub(in crate::ledger) use super::{
        record::tests::{request_row, row},
        writer::tests::{SmallDisk, TestFolder},
    };
}
