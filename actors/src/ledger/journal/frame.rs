//! Frames: length, checksum, payload. Reading says exactly where good frames end, and finds those behind damage. Pure.

use super::record::{Entry, RecordRef, decode, encode};

/// Length (4 bytes) and checksum (8).
const HEAD: usize = 12;
/// A longer payload is no frame of ours: names are short and there is nothing else in it.
const MAX_PAYLOAD: usize = 64 * 1024;

/// The first bytes of every segment: what it is, in which version, and its number, checked.
pub(super) const SEGMENT_HEAD: usize = 24;
const MAGIC: &[u8; 6] = b"SPWJRN";
/// Changes when old segments can no longer be read.
const VERSION: u16 = 1;

fn checksum(payload: &[u8]) -> [u8; 8] {
    let mut short = [0; 8];
    short.copy_from_slice(&blake3::hash(payload).as_bytes()[..8]);
    short
}

pub(super) fn segment_head(number: u64) -> [u8; SEGMENT_HEAD] {
    let mut head = [0; SEGMENT_HEAD];
    head[..6].copy_from_slice(MAGIC);
    head[6..8].copy_from_slice(&VERSION.to_le_bytes());
    head[8..16].copy_from_slice(&number.to_le_bytes());
    let check = checksum(&head[..16]);
    head[16..].copy_from_slice(&check);
    head
}

/// How a segment begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SegmentStart {
    Good,
    /// Written by a version that frames its records otherwise.
    OtherVersion(u16),
    /// Cut off, or something else.
    Bad,
}

pub(super) fn segment_start(bytes: &[u8], number: u64) -> SegmentStart {
    let Some(head) = bytes.first_chunk::<SEGMENT_HEAD>() else { return SegmentStart::Bad };
    let version = u16::from_le_bytes([head[6], head[7]]);
    let intact = &head[..6] == MAGIC && head[16..] == checksum(&head[..16]);
    match intact {
        true if version != VERSION => SegmentStart::OtherVersion(version),
        true if head[8..16] == number.to_le_bytes() => SegmentStart::Good,
        _ => SegmentStart::Bad,
    }
}

/// Appends one frame.
pub(super) fn write(seq: u64, record: RecordRef<'_>, out: &mut Vec<u8>) -> Result<(), postcard::Error> {
    let begin = out.len();
    out.extend_from_slice(&[0; HEAD]);
    if let Err(error) = encode(seq, record, out) {
        out.truncate(begin);
        return Err(error);
    }
    let (head, payload) = out[begin..].split_at_mut(HEAD);
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..].copy_from_slice(&checksum(payload));
    Ok(())
}

/// The frame that begins at `at`, and where the next one would.
pub(super) fn read(bytes: &[u8], at: usize) -> Option<(Entry, usize)> {
    let (head, rest) = bytes.get(at..)?.split_first_chunk::<HEAD>()?;
    let length = usize::try_from(u32::from_le_bytes([head[0], head[1], head[2], head[3]])).ok()?;
    let payload = rest.get(..length).filter(|_| (1..=MAX_PAYLOAD).contains(&length))?;
    if head[4..] != checksum(payload) {
        return None;
    }
    Some((decode(payload)?, at + HEAD + length))
}

/// What a segment holds behind its head.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Scan {
    pub(super) entries: Vec<Entry>,
    /// Where the last good frame ends.
    pub(super) end: usize,
    /// Bytes that are no frames and have good frames behind them. A torn tail is none of them.
    pub(super) damaged: usize,
}

/// Reads every good frame from `at` on.
pub(super) fn scan(bytes: &[u8], at: usize) -> Scan {
    let mut scan = Scan { end: at.min(bytes.len()), ..Scan::default() };
    loop {
        if let Some((entry, next)) = read(bytes, scan.end) {
            scan.entries.push(entry);
            scan.end = next;
            continue;
        }
        // Torn here, or damaged: is there anything good further on?
        let found = (scan.end + 1..bytes.len()).find_map(|at| Some((at, read(bytes, at)?)));
        let Some((at, (entry, next))) = found else { return scan };
        scan.damaged += at - scan.end;
        scan.entries.push(entry);
        scan.end = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::journal::record::{Record, tests::row};

    fn frames(count: u64) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut ends) = (Vec::new(), vec![0]);
        for seq in 1..=count {
            let row = row(u128::from(seq), seq);
            write(seq, RecordRef::Attempt { number: seq, reservation: None, row: &row }, &mut bytes).unwrap();
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn seqs(scan: &Scan) -> Vec<u64> {
        scan.entries.iter().map(|entry| entry.seq).collect()
    }

    #[test]
    fn f26_torn_at_every_byte_the_whole_frames_before_are_read_and_no_more() {
        let (bytes, ends) = frames(6);
        for cut in 0..=bytes.len() {
            let scan = scan(&bytes[..cut], 0);
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            assert_eq!((scan.entries.len(), scan.end, scan.damaged), (whole, ends[whole], 0), "cut at {cut}");
        }
    }

    #[test]
    fn f26_a_changed_byte_anywhere_costs_its_own_frame_and_no_other() {
        let (bytes, ends) = frames(4);
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x41;
            let hit = ends.iter().filter(|end| **end <= at).count() as u64;
            let scan = scan(&bytes, 0);
            let rest: Vec<u64> = (1..=4).filter(|seq| *seq != hit).collect();
            assert_eq!(seqs(&scan), rest, "byte {at}");
            let is_tail = hit == 4;
            assert_eq!(scan.damaged > 0, !is_tail, "byte {at}: a bad last frame is a torn tail");
        }
    }

    #[test]
    fn f26_zeros_after_the_end_are_a_torn_tail() {
        let (mut bytes, ends) = frames(2);
        bytes.resize(bytes.len() + 4096, 0);
        let scan = scan(&bytes, 0);
        assert_eq!((seqs(&scan), scan.end, scan.damaged), (vec![1, 2], ends[2], 0));
    }

    #[test]
    fn a_frame_that_claims_too_much_is_none() {
        let mut bytes = vec![0xff; 64];
        assert_eq!(read(&bytes, 0), None);
        bytes[..4].copy_from_slice(&0_u32.to_le_bytes());
        assert_eq!(read(&bytes, 0), None);
        assert_eq!(read(&[], 0), None);
        let (good, _) = frames(1);
        let (entry, next) = read(&good, 0).unwrap();
        assert!(matches!(entry.record, Record::Attempt { number: 1, .. }) && next == good.len());
    }

    #[test]
    fn a_segments_head_tells_its_version_and_number() {
        let head = segment_head(7);
        assert_eq!(segment_start(&head, 7), SegmentStart::Good);
        assert_eq!(segment_start(&head, 8), SegmentStart::Bad, "a file that was renamed");
        for cut in 0..SEGMENT_HEAD {
            assert_eq!(segment_start(&head[..cut], 7), SegmentStart::Bad);
        }
        let mut newer = head;
        newer[6] = 2;
        let check = checksum(&newer[..16]);
        newer[16..].copy_from_slice(&check);
        assert_eq!(segment_start(&newer, 7), SegmentStart::OtherVersion(2));
    }
}
