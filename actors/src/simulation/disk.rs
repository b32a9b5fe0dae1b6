//! The journal's disk: real files, which are full or do not sync when the schedule says so.

use super::stage::Stage;
use crate::ledger::journal::Disk;
use std::{fs::File, io, os::unix::fs::FileExt, sync::atomic::Ordering};

pub(super) struct FaultyDisk(pub(super) Stage);

impl Disk for FaultyDisk {
    /// When it is full half of what is written still fits.
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        if self.0.disk_is_full.load(Ordering::Relaxed) {
            file.write_all_at(&bytes[..bytes.len() / 2], at)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.write_all_at(bytes, at)
    }

    /// Nothing is as slow as waiting for a disk, and here nothing depends on it.
    fn sync(&self, _: &File) -> io::Result<()> {
        if self.0.disk_does_not_sync.load(Ordering::Relaxed) { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
    }
}
