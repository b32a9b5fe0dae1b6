//! What the journal says when a gateway starts: every record in order, which reservations nobody closed, and what was
//! damaged. Decides nothing about them.

use super::{
    Folder, FolderError,
    folder::{file, segments},
    frame::{self, SEGMENT_HEAD, SegmentStart},
    record::{Entry, Record},
};
use crate::{domain::UnixMs, ledger::row::AttemptRow};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

#[derive(Debug, Default)]
pub struct Replay {
    /// Reservations without an end, by their ids.
    pub open: BTreeMap<u64, (AttemptRow, UnixMs)>,
    /// Above every sequence number that was seen.
    pub next_seq: u64,
    /// Above every attempt's number that was seen.
    pub next_number: u64,
    /// Above every segment's number.
    pub next_segment: u64,
    /// The oldest segment that is there.
    pub first_segment: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Segments with damage that is no torn tail, and how many bytes of it. A copy of each was kept.
    pub damaged: Vec<(PathBuf, usize)>,
}

impl Replay {
    fn see(&mut self, entry: &Entry) {
        self.next_seq = self.next_seq.max(entry.seq + 1);
        match &entry.record {
            Record::Reserved { id, deadline, row } => {
                self.open.insert(*id, (row.clone(), *deadline));
            }
            Record::Voided { id } => {
                self.open.remove(id);
            }
            Record::Attempt { number, reservation, .. } => {
                self.next_number = self.next_number.max(number + 1);
                if let Some(id) = reservation {
                    self.open.remove(id);
                }
            }
            Record::Request { .. } => {}
        }
    }
}

/// Reads every segment; `posted` hears each record in order.
///
/// # Errors
/// A segment cannot be read, or another version wrote it.
pub fn replay(folder: &Folder, mut posted: impl FnMut(&Entry)) -> Result<Replay, FolderError> {
    let numbers = segments(folder.path()).map_err(|error| folder.failed(error))?;
    let mut replay = Replay { next_seq: 1, next_segment: 1, ..Replay::default() };
    replay.first_segment = numbers.first().copied().unwrap_or(1);
    for number in numbers {
        let path = file(folder.path(), number);
        let bytes = fs::read(&path).map_err(|error| folder.failed(error))?;
        (replay.next_segment, replay.bytes) = (number + 1, replay.bytes + bytes.len() as u64);
        let scan = match frame::segment_start(&bytes, number) {
            SegmentStart::OtherVersion(version) => return Err(FolderError::OtherVersion { file: path, version }),
            SegmentStart::Good => frame::scan(&bytes, SEGMENT_HEAD),
            // Cut off while it was begun, or its head is damaged: its frames tell.
            SegmentStart::Bad => frame::scan(&bytes, 0),
        };
        if scan.damaged > 0 {
            keep_copy(&path).map_err(|error| folder.failed(error))?;
            replay.damaged.push((path, scan.damaged));
        }
        for entry in &scan.entries {
            replay.see(entry);
            posted(entry);
        }
    }
    Ok(replay)
}

/// Of a damaged segment, because the segment itself goes once its good records are in the database.
fn keep_copy(path: &Path) -> io::Result<()> {
    let copy = path.with_extension("damaged");
    if copy.exists() {
        return Ok(());
    }
    fs::copy(path, copy).map(|_| ())
}
