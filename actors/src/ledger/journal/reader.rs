//! Follows the journal while it grows: what the database is filled from. Blocking; remembers where it is.

use super::{
    folder::{file, segments},
    frame::{self, SEGMENT_HEAD, SegmentStart},
    record::Entry,
    writer::Position,
};
use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
};

/// Read from a growing segment at a time.
const CHUNK: u64 = 1 << 20;

#[derive(Debug)]
pub struct Reader {
    folder: PathBuf,
    segment: u64,
    offset: u64,
    /// Records up to here are in the database already.
    applied: u64,
    /// Read and not yet taken.
    buffer: VecDeque<Entry>,
}

impl Reader {
    pub fn new(folder: PathBuf, segment: u64, applied: u64) -> Self {
        Self { folder, segment, offset: 0, applied, buffer: VecDeque::new() }
    }

    /// Reads on, unless something read waits to be taken. Blocking.
    ///
    /// # Errors
    /// A segment cannot be read.
    pub fn read(&mut self, written: Position) -> io::Result<()> {
        while self.buffer.is_empty() && self.advance(written)? {}
        Ok(())
    }

    /// Up to `most` entries that were read and not taken, in order; none at the end of what is written.
    pub fn entries(&mut self, most: usize) -> &[Entry] {
        let count = most.min(self.buffer.len());
        &self.buffer.make_contiguous()[..count]
    }

    /// The first `count` entries are in the database.
    pub fn take(&mut self, count: usize) {
        for entry in self.buffer.drain(..count.min(self.buffer.len())) {
            self.applied = self.applied.max(entry.seq);
        }
    }

    /// The oldest segment that is still needed.
    pub const fn needs(&self) -> u64 {
        self.segment
    }

    pub const fn applied(&self) -> u64 {
        self.applied
    }

    pub fn is_idle(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Reads on. `false`: this is the end.
    fn advance(&mut self, written: Position) -> io::Result<bool> {
        if self.segment < written.segment {
            self.read_rest()?;
            self.offset = 0;
            self.segment =
                segments(&self.folder)?.into_iter().find(|number| *number > self.segment).unwrap_or(written.segment);
            return Ok(true);
        }
        let begin = self.offset.max(SEGMENT_HEAD as u64);
        let end = written.bytes.min(begin + CHUNK);
        if self.segment > written.segment || end <= begin {
            return Ok(false);
        }
        let mut bytes = vec![0; usize::try_from(end - begin).unwrap_or_default()];
        File::open(file(&self.folder, self.segment))?.read_exact_at(&mut bytes, begin)?;
        let mut at = 0;
        while let Some((entry, next)) = frame::read(&bytes, at) {
            self.keep(entry);
            at = next;
        }
        self.offset = begin + at as u64;
        // A frame cut by the chunk is read with the next one; written bytes hold whole frames only.
        Ok(at > 0)
    }

    /// A segment that is complete, damage and torn tail and all.
    fn read_rest(&mut self) -> io::Result<()> {
        let bytes = match fs::read(file(&self.folder, self.segment)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let good = frame::segment_start(&bytes, self.segment) == SegmentStart::Good;
        let head = if good { SEGMENT_HEAD } else { 0 };
        let begin = usize::try_from(self.offset).unwrap_or(usize::MAX).max(head);
        for entry in frame::scan(&bytes, begin).entries {
            self.keep(entry);
        }
        Ok(())
    }

    fn keep(&mut self, entry: Entry) {
        if entry.seq > self.applied {
            self.buffer.push_back(entry);
        }
    }
}
