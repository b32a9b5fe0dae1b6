//! What the journal says, one record at a time, in postcard. The borrowed form is written, the owned one is read; a test
//! holds them together.

use super::super::row::{AttemptRow, RequestRow};
use crate::domain::UnixMs;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, Serialize)]
pub enum RecordRef<'a> {
    /// Money is set aside; `row.cost` is how much. Repeated at the beginning of a new segment while it is open.
    Reserved {
        id: u64,
        deadline: UnixMs,
        row: &'a AttemptRow,
    },
    /// An attempt has ended; it closes the reservation of that id, if it had one.
    Attempt {
        number: u64,
        reservation: Option<u64>,
        row: &'a AttemptRow,
    },
    /// A reservation ends and nothing was spent or sent.
    Voided {
        id: u64,
    },
    Request {
        row: &'a RequestRow,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Record {
    Reserved { id: u64, deadline: UnixMs, row: AttemptRow },
    Attempt { number: u64, reservation: Option<u64>, row: AttemptRow },
    Voided { id: u64 },
    Request { row: RequestRow },
}

/// A record in its place: `seq` only ever rises, over segments and runs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Entry {
    pub seq: u64,
    pub record: Record,
}

#[derive(Serialize)]
struct EntryRef<'a> {
    seq: u64,
    record: RecordRef<'a>,
}

/// Appends the entry's bytes.
pub(super) fn encode(seq: u64, record: RecordRef<'_>, out: &mut Vec<u8>) -> Result<(), postcard::Error> {
    postcard::to_io(&EntryRef { seq, record }, &mut *out).map(|_| ())
}

/// `None`: it is no entry, or has something after it.
pub(super) fn decode(payload: &[u8]) -> Option<Entry> {
    let (entry, rest) = postcard::take_from_bytes(payload).ok()?;
    rest.is_empty().then_some(entry)
}

#[cfg(test)]
pub(in crate::ledger) mod tests {
    use super::*;
    use crate::domain::{KeyId, NanoUsd, RequestId, TokenUsage};

    pub(in crate::ledger) fn row(request: u128, cost: u64) -> AttemptRow {
        AttemptRow {
            outcome: "ok".into(),
            usage: TokenUsage {
                prompt_tokens: 10,
                completion_tokens: 100,
                cached_tokens: 3,
                estimated: true,
                ..TokenUsage::default()
            },
            cost: NanoUsd::new(cost),
            reserved: NanoUsd::new(cost * 2),
            baseline: NanoUsd::new(7),
            energy_mj: 9,
            ..AttemptRow::new(
                RequestId::from_bits(request),
                Some(KeyId::from("key-1")),
                UnixMs::new(1_796_083_199_999),
                "sim",
                "m",
            )
        }
    }

    pub(in crate::ledger) fn request_row(request: u128) -> RequestRow {
        RequestRow {
            request: RequestId::from_bits(request),
            key: None,
            at: UnixMs::new(1_796_083_199_000),
            target: "sim".into(),
            model: "m".into(),
            complexity: "complex".into(),
            outcome: "ok".into(),
            stream: true,
            attempts: 2,
            usage: TokenUsage::default(),
            took_ms: 12,
        }
    }

    #[test]
    fn what_is_written_borrowed_is_read_owned() {
        let (row, request) = (row(u128::MAX, u64::MAX / 2), request_row(3));
        let deadline = UnixMs::new(5);
        for (borrowed, owned) in [
            (
                RecordRef::Reserved { id: 1, deadline, row: &row },
                Record::Reserved { id: 1, deadline, row: row.clone() },
            ),
            (
                RecordRef::Attempt { number: 2, reservation: Some(1), row: &row },
                Record::Attempt { number: 2, reservation: Some(1), row: row.clone() },
            ),
            (RecordRef::Voided { id: 9 }, Record::Voided { id: 9 }),
            (RecordRef::Request { row: &request }, Record::Request { row: request.clone() }),
        ] {
            let mut bytes = Vec::new();
            encode(77, borrowed, &mut bytes).unwrap();
            assert_eq!(decode(&bytes), Some(Entry { seq: 77, record: owned }));
            bytes.push(0);
            assert_eq!(decode(&bytes), None, "nothing may follow");
        }
    }
}
