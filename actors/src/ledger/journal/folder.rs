//! The journal's folder: its lock, and its segments by number. One process at a time may hold it.

use super::frame::SEGMENT_HEAD;
use crate::lock::try_hold;
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

const LOCK: &str = "lock";
const EXTENSION: &str = "journal";
/// Nobody but the gateway's user reads the ledger.
const OWNER_FOLDER: u32 = 0o700;
pub(in crate::ledger) const OWNER_FILE: u32 = 0o600;

#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error(
        "another gateway holds the ledger's journal in {}; stop it, or give this one another [ledger] url and journal_dir",
        .0.display()
    )]
    Held(PathBuf),
    #[error("the ledger's journal in {} cannot be used: {source}", .folder.display())]
    Io { folder: PathBuf, source: io::Error },
    #[error(
        "{} was written by another version of the gateway (journal version {version}); start that version once and \
         stop it in good order, which empties its journal",
        .file.display()
    )]
    OtherVersion { file: PathBuf, version: u16 },
}

/// The folder, held until this is dropped or the process ends.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder if it is missing, and takes it.
    ///
    /// # Errors
    /// Another process holds it, or it cannot be made.
    pub fn hold(path: &Path) -> Result<Self, FolderError> {
        let io = |source| FolderError::Io { folder: path.to_owned(), source };
        // What was spent, on what and by whom is the operator's to know.
        DirBuilder::new().recursive(true).mode(OWNER_FOLDER).create(path).map_err(io)?;
        match try_hold(&path.join(LOCK)).map_err(io)? {
            Some(lock) => Ok(Self { path: path.to_owned(), _lock: lock }),
            None => Err(FolderError::Held(path.to_owned())),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a record in it, applied or not.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn holds_records(&self) -> io::Result<bool> {
        for number in segments(&self.path)? {
            if fs::metadata(file(&self.path, number))?.len() > SEGMENT_HEAD as u64 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn failed(&self, source: io::Error) -> FolderError {
        FolderError::Io { folder: self.path.clone(), source }
    }
}

pub(super) fn file(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:012}.{EXTENSION}"))
}

/// Numbers of the segments that are there, in order.
pub(super) fn segments(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let (Some(number), true) = (number, path.extension().is_some_and(|ext| ext == EXTENSION)) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Removes every segment before `number`; gives the bytes that frees.
pub(super) fn remove_before(folder: &Path, number: u64) -> io::Result<u64> {
    let mut freed = 0;
    for old in segments(folder)?.into_iter().filter(|old| *old < number) {
        let path = file(folder, old);
        freed += fs::metadata(&path).map(|meta| meta.len()).unwrap_or(SEGMENT_HEAD as u64);
        fs::remove_file(path)?;
    }
    Ok(freed)
}

/// Makes names in the folder durable.
pub(super) fn sync_names(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
