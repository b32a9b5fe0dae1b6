//! Reservations, rows and totals, in memory. A reservation is a guard: settled with the real cost, or voided if nothing
//! was sent, or (dropped by an abandoned attempt) settled at what was reserved, so that spending is never understated.

use super::actor::LedgerMsg;
use crate::{
    domain::{NanoUsd, RequestId, TokenUsage},
    observe,
    supervise::Address,
};
use parking_lot::Mutex;
use serde::Serialize;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// Rows kept for inspection; older ones live on in the totals.
const ROWS: usize = 2048;
/// Rows posted and not yet moved by LedgerActor; past that they are moved by who posts.
const PENDING: usize = 8192;

/// Outcome of an attempt that was dropped: its tokens and cost are those reserved.
const ABANDONED: &str = "abandoned";

/// One attempt of one request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AttemptRow {
    #[serde(serialize_with = "display")]
    pub request: RequestId,
    pub target: String,
    pub model: String,
    pub outcome: &'static str,
    pub usage: TokenUsage,
    pub cost: NanoUsd,
    /// What was set aside for it; zero for an attempt that costs nothing.
    pub reserved: NanoUsd,
    /// What the same tokens would have cost on the baseline model.
    pub baseline: NanoUsd,
}

fn display<S: serde::Serializer>(id: &RequestId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// Sums of one (target, model).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    pub attempts: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub cost_nanousd: NanoUsd,
}

#[derive(Debug, Default)]
struct Books {
    reserved: NanoUsd,
    pending: VecDeque<AttemptRow>,
    rows: VecDeque<AttemptRow>,
    /// Rows that have left `rows`: the number of its first one.
    dropped: u64,
    sums: BTreeMap<(String, String), Sums>,
}

impl Books {
    fn move_pending(&mut self) {
        while let Some(row) = self.pending.pop_front() {
            let sums = self.sums.entry((row.target.clone(), row.model.clone())).or_default();
            sums.attempts += 1;
            sums.prompt_tokens += row.usage.prompt_tokens;
            sums.completion_tokens += row.usage.completion_tokens;
            sums.cost_nanousd = sums.cost_nanousd + row.cost;
            if self.rows.len() == ROWS {
                self.rows.pop_front();
                self.dropped += 1;
            }
            self.rows.push_back(row);
        }
    }
}

/// Shared by all who spend. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    books: Arc<Mutex<Books>>,
    pub address: Address<LedgerMsg>,
}

/// What `/admin/status` and the tests read.
#[derive(Debug, Clone, Serialize)]
pub struct LedgerSnapshot {
    pub reserved_nanousd: NanoUsd,
    pub cost_nanousd: NanoUsd,
    pub attempts: u64,
    /// "target/model" → sums.
    pub by_model: BTreeMap<String, Sums>,
}

impl Ledger {
    /// Sets money aside before a paid attempt starts.
    pub fn reserve(&self, row: AttemptRow) -> Reservation {
        let row = AttemptRow { reserved: row.cost, ..row };
        let mut books = self.books.lock();
        books.reserved = books.reserved + row.cost;
        Reservation { ledger: self.clone(), row: Some(row) }
    }

    /// Records an attempt that cost nothing or whose cost is final.
    pub fn post(&self, row: AttemptRow) {
        // An abandoned attempt is charged at what was reserved, but nobody saw those tokens.
        if row.outcome != ABANDONED {
            observe::tokens(&row.target, &row.model, row.usage.prompt_tokens, row.usage.completion_tokens);
        }
        observe::cost(&row.model, row.cost.get(), row.baseline.saturating_sub(row.cost).get());
        {
            let mut books = self.books.lock();
            books.pending.push_back(row);
            if books.pending.len() > PENDING {
                books.move_pending();
            }
            // Only the first row of a batch wakes the actor.
            if books.pending.len() > 1 {
                return;
            }
        }
        self.address.cast(LedgerMsg::Posted);
    }

    /// LedgerActor's work.
    pub(super) fn settle_pending(&self) {
        self.books.lock().move_pending();
    }

    pub fn snapshot(&self) -> LedgerSnapshot {
        let mut books = self.books.lock();
        books.move_pending();
        LedgerSnapshot {
            reserved_nanousd: books.reserved,
            cost_nanousd: books.sums.values().map(|sums| sums.cost_nanousd).sum(),
            attempts: books.sums.values().map(|sums| sums.attempts).sum(),
            by_model: books
                .sums
                .iter()
                .map(|((target, model), sums)| (format!("{target}/{model}"), sums.clone()))
                .collect(),
        }
    }

    /// Rows numbered from `from` on, oldest first, at most `limit`, and the number after the last of them. Rows too old to be
    /// kept are left out.
    pub fn rows(&self, from: u64, limit: usize) -> (Vec<AttemptRow>, u64) {
        let mut books = self.books.lock();
        books.move_pending();
        let skipped = usize::try_from(from.saturating_sub(books.dropped)).unwrap_or(usize::MAX);
        let rows: Vec<AttemptRow> = books.rows.iter().skip(skipped).take(limit).cloned().collect();
        let next = books.dropped.max(from) + rows.len() as u64;
        (rows, next)
    }

    fn unreserve(&self, amount: NanoUsd) {
        let mut books = self.books.lock();
        books.reserved = books.reserved.saturating_sub(amount);
    }
}

/// Money set aside for one paid attempt.
#[derive(Debug)]
pub struct Reservation {
    ledger: Ledger,
    /// The row at its reserved cost; `None` once settled.
    row: Option<AttemptRow>,
}

impl Reservation {
    /// The attempt ended: the real cost, never more than was reserved unless the provider counted more.
    pub fn settle(mut self, outcome: &'static str, usage: TokenUsage, cost: NanoUsd, baseline: NanoUsd) {
        if let Some(row) = self.row.take() {
            self.ledger.unreserve(row.cost);
            self.ledger.post(AttemptRow { outcome, usage, cost, baseline, ..row });
        }
    }

    /// What is set aside.
    pub fn amount(&self) -> NanoUsd {
        self.row.as_ref().map_or(NanoUsd::ZERO, |row| row.cost)
    }

    /// Nothing was sent.
    pub fn void(mut self) {
        if let Some(row) = self.row.take() {
            self.ledger.unreserve(row.cost);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(row) = self.row.take() {
            self.ledger.unreserve(row.cost);
            self.ledger.post(AttemptRow { outcome: ABANDONED, ..row });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cost: u64) -> AttemptRow {
        AttemptRow {
            request: RequestId::from_bits(1),
            target: "cloud".into(),
            model: "m".into(),
            outcome: "reserved",
            usage: TokenUsage { prompt_tokens: 10, completion_tokens: 100, cached_tokens: 0, estimated: true },
            cost: NanoUsd::new(cost),
            reserved: NanoUsd::ZERO,
            baseline: NanoUsd::ZERO,
        }
    }

    #[test]
    fn every_reservation_ends_settled_voided_or_at_what_was_reserved() {
        let ledger = Ledger::default();
        let usage = TokenUsage { prompt_tokens: 10, completion_tokens: 3, ..TokenUsage::default() };
        let (settled, voided, dropped) = (ledger.reserve(row(100)), ledger.reserve(row(50)), ledger.reserve(row(25)));
        assert_eq!(ledger.snapshot().reserved_nanousd, NanoUsd::new(175));
        settled.settle("ok", usage, NanoUsd::new(40), NanoUsd::ZERO);
        voided.void();
        drop(dropped);
        let snapshot = ledger.snapshot();
        assert_eq!(snapshot.reserved_nanousd, NanoUsd::ZERO);
        assert_eq!(snapshot.cost_nanousd, NanoUsd::new(65));
        assert_eq!(snapshot.attempts, 2);
        assert_eq!(snapshot.by_model["cloud/m"].completion_tokens, 103);
    }

    #[test]
    fn rows_are_read_in_order_and_old_ones_make_way() {
        let ledger = Ledger::default();
        for cost in 0..ROWS as u64 + 3 {
            ledger.post(row(cost));
        }
        let costs = |rows: &[AttemptRow]| rows.iter().map(|row| row.cost.get()).collect::<Vec<_>>();
        let (first, next) = ledger.rows(0, 2);
        assert_eq!((costs(&first), next), (vec![3, 4], 5));
        let (last, end) = ledger.rows(ROWS as u64 + 1, 10);
        assert_eq!((costs(&last), end), (vec![ROWS as u64 + 1, ROWS as u64 + 2], ROWS as u64 + 3));
        assert_eq!(ledger.rows(end, 10), (Vec::new(), end));
    }
}
