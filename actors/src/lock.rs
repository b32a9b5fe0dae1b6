//! Files that one process at a time holds, as long as it lives.

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Nobody but the gateway's user needs to know that it is there.
const OWNER_FILE: u32 = 0o600;

/// Makes the file if it is missing, and holds it until what is returned is dropped; `None`: another one holds it. Never waits.
///
/// # Errors
/// It cannot be made or locked.
pub(crate) fn try_hold(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(OWNER_FILE).open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
