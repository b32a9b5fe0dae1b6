//! The money as it is now: reservations under way, budgets, sums. Shared by all who spend, behind one short lock; whatever
//! changes it leaves for the journal in the same breath, so that the journal has the same order. No disk is touched here.

use super::{
    actor::LedgerMsg,
    budget::{Amounts, Booked, Bound, Bounded, Budgets},
    journal::{Entry, Journal, Receipt, Record, RecordRef},
    open::Waiting,
    reservation::{Refused, Reservation},
    row::{ABANDONED, AttemptRow, EXPIRED, INTERRUPTED, RequestRow},
    store::{MemoryStore, Opening, Store, StoreError, Sums},
};
use crate::{
    domain::{BudgetLimits, Caller, KeyId, NanoUsd, TokenUsage, UnixMs},
    observe,
    supervise::Address,
};
use parking_lot::Mutex;
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Rows in memory that LedgerActor has not moved yet; past that they are moved by who posts.
const PENDING: usize = 8192;
/// How long after its deadline a reservation that nobody closes is taken to be forgotten.
const GRACE: Duration = Duration::from_secs(30);

/// Shared by all who spend. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    pub(super) inner: Arc<Inner>,
    pub address: Address<LedgerMsg>,
}

pub(super) struct Inner {
    pub(super) books: Mutex<Books>,
    /// Not there while the ledger waits to be opened: then nothing paid starts, and nothing is written down.
    pub(super) opened: OnceLock<(Outlet, Arc<dyn Store>)>,
    pub(super) waiting: Option<Waiting>,
    pub(super) feed: super::filler::Feed,
    /// LedgerActor was told that there is something to do, and has not begun.
    pub(super) told: AtomicBool,
    /// The last record that the store has.
    pub(super) applied: AtomicU64,
    /// Rows are kept for so long; `None` = for ever.
    pub(super) retention: Option<Duration>,
    /// Of whom a share that is left was published last.
    told_ratios: Mutex<Vec<Arc<str>>>,
}

/// Where records go first.
pub(super) enum Outlet {
    Journal(Journal),
    Memory(Arc<MemoryStore>),
}

impl Inner {
    pub(super) fn outlet(&self) -> Option<&Outlet> {
        self.opened.get().map(|(outlet, _)| outlet)
    }

    pub(super) fn journal(&self) -> Option<&Journal> {
        match self.outlet() {
            Some(Outlet::Journal(journal)) => Some(journal),
            _ => None,
        }
    }

    pub(super) fn store(&self) -> Result<&Arc<dyn Store>, StoreError> {
        let why = || self.waiting.as_ref().map(|waiting| waiting.why.clone()).unwrap_or_default();
        self.opened.get().map(|(_, store)| store).ok_or_else(|| StoreError::NotOpen { why: why() })
    }
}

#[derive(Debug)]
struct Open {
    row: AttemptRow,
    deadline: UnixMs,
    /// `None`: it costs nothing, so no budget knows of it.
    booked: Option<Booked>,
}

#[derive(Debug, Default)]
pub(super) struct Books {
    budgets: Budgets,
    limits: BudgetLimits,
    reserved: NanoUsd,
    open: HashMap<u64, Open>,
    next_id: u64,
    next_number: u64,
    sums: BTreeMap<(String, String), Sums>,
    /// In memory: what the store does not have yet.
    pub(super) pending: VecDeque<Entry>,
    next_seq: u64,
}

impl Books {
    pub(super) fn new(limits: BudgetLimits) -> Self {
        Self { budgets: Budgets::new(limits), limits, next_id: 1, next_seq: 1, ..Self::default() }
    }

    /// Takes over what earlier runs have posted.
    pub(super) fn open(&mut self, opening: Opening, now: UnixMs) {
        self.next_number = self.next_number.max(opening.next_number);
        self.budgets.open(opening.all, opening.keys, now);
        self.sums.extend(opening.sums);
    }

    /// Takes over a record that the journal has and the store does not.
    pub(super) fn replay(&mut self, record: &Record, now: UnixMs) {
        if let Record::Attempt { number, row, .. } = record {
            self.next_number = self.next_number.max(number + 1);
            self.budgets.post(row.key.as_ref(), row.cost, row.at, now);
            self.count(row);
        }
    }

    pub(super) fn begin_ids(&mut self, id: u64) {
        self.next_id = id;
    }

    /// Takes the place of books that were kept while the ledger waited: what those held cost nothing, and its ids are never
    /// given again.
    pub(super) fn instead_of(mut self, before: &Self) -> Self {
        self.next_id = self.next_id.max(before.next_id);
        self.limits = before.limits;
        self.budgets.set_limits(before.limits);
        self
    }

    fn count(&mut self, row: &AttemptRow) {
        self.sums.entry((row.target.clone(), row.model.clone())).or_default().count(row);
    }

    /// What a new segment of the journal begins with.
    pub(super) fn carried(&self) -> impl Iterator<Item = RecordRef<'_>> {
        self.open.iter().map(|(id, open)| RecordRef::Reserved { id: *id, deadline: open.deadline, row: &open.row })
    }
}

/// What may be spent on one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purchasing {
    /// By the bound that leaves the least; `None` = no bound.
    pub bound: Option<Bound>,
    /// A paid attempt can be written down.
    pub recordable: bool,
}

/// One period's budget and what has become of it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct BudgetLine {
    pub limit_nanousd: Option<NanoUsd>,
    pub posted_nanousd: NanoUsd,
    pub reserved_nanousd: NanoUsd,
}

/// What `/admin/status` and the tests read.
#[derive(Debug, Clone, Serialize)]
pub struct LedgerSnapshot {
    /// Paid attempts can be written down.
    pub up: bool,
    /// Why it could not be opened yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_because: Option<String>,
    pub reserved_nanousd: NanoUsd,
    pub open_reservations: usize,
    pub cost_nanousd: NanoUsd,
    pub attempts: u64,
    /// "target/model" → sums.
    pub by_model: BTreeMap<String, Sums>,
    /// The operator's own, for day, month and ever.
    pub budget: BTreeMap<&'static str, BudgetLine>,
    pub journal_bytes: u64,
    /// Records that the database does not have yet.
    pub unapplied: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::in_memory(BudgetLimits::default())
    }
}

impl Ledger {
    /// A ledger that ends with the process.
    pub fn in_memory(limits: BudgetLimits) -> Self {
        let store = Arc::new(MemoryStore::default());
        Self::of(Books::new(limits), Outlet::Memory(Arc::clone(&store)), store, 0, None)
    }

    pub(super) fn of(
        books: Books,
        outlet: Outlet,
        store: Arc<dyn Store>,
        applied: u64,
        retention: Option<Duration>,
    ) -> Self {
        let opened = OnceLock::from((outlet, store));
        Self::with(books, opened, None, applied, retention)
    }

    pub(super) fn with(
        books: Books,
        opened: OnceLock<(Outlet, Arc<dyn Store>)>,
        waiting: Option<Waiting>,
        applied: u64,
        retention: Option<Duration>,
    ) -> Self {
        let inner = Inner {
            books: Mutex::new(books),
            opened,
            waiting,
            feed: super::filler::Feed::default(),
            told: AtomicBool::new(false),
            applied: AtomicU64::new(applied),
            retention,
            told_ratios: Mutex::default(),
        };
        Self { inner: Arc::new(inner), address: Address::default() }
    }

    /// From now on; what is reserved stays reserved.
    pub fn set_limits(&self, limits: BudgetLimits) {
        let mut books = self.inner.books.lock();
        books.limits = limits;
        books.budgets.set_limits(limits);
    }

    /// Whether paid attempts can be written down.
    pub fn is_up(&self) -> bool {
        match self.inner.outlet() {
            Some(Outlet::Journal(journal)) => journal.is_up(),
            Some(Outlet::Memory(_)) => true,
            None => false,
        }
    }

    /// What this caller may still spend.
    pub fn purchasing(&self, caller: Option<&Caller>, now: UnixMs) -> Purchasing {
        let key = caller.map(|caller| (&caller.key, caller.budget));
        let bound = self.inner.books.lock().budgets.tightest(key, now);
        Purchasing { bound, recordable: self.is_up() }
    }

    /// Sets `row.cost` aside before a paid attempt starts: inside every budget, and written down. `row.at` is now, `limits`
    /// are those of `row.key`. Dropped on its way, it voids itself.
    ///
    /// # Errors
    /// A budget does not cover it, or it cannot be written down: the attempt must not start.
    pub async fn reserve(
        &self,
        row: AttemptRow,
        limits: BudgetLimits,
        deadline: UnixMs,
    ) -> Result<Reservation, Refused> {
        let (reservation, receipt) = self.set_aside(row, limits, deadline)?;
        let asked = tokio::time::Instant::now();
        if receipt.written().await.is_err() {
            reservation.void();
            return Err(Refused::NotWritten);
        }
        observe::ledger_commit(asked.elapsed());
        Ok(reservation.granted())
    }

    fn set_aside(
        &self,
        row: AttemptRow,
        limits: BudgetLimits,
        deadline: UnixMs,
    ) -> Result<(Reservation, Receipt), Refused> {
        let (amount, now) = (row.cost, row.at);
        let is_free = amount == NanoUsd::ZERO;
        if !is_free && !self.is_up() {
            return Err(Refused::NotWritten);
        }
        let row = AttemptRow { reserved: amount, ..row };
        let mut books = self.inner.books.lock();
        let key = row.key.as_ref().map(|key| (key, limits));
        let booked = if is_free { None } else { Some(books.budgets.reserve(key, amount, now)?) };
        let id = books.next_id;
        books.next_id += 1;
        books.reserved = books.reserved + amount;
        let receipt = self.write(&mut books, RecordRef::Reserved { id, deadline, row: &row });
        books.open.insert(id, Open { row, deadline, booked });
        drop(books);
        // What costs nothing waits for nothing.
        let receipt = if is_free { Receipt::default() } else { receipt };
        Ok((Reservation::new(self.clone(), id, amount), receipt))
    }

    /// Records an attempt that cost nothing.
    pub fn post(&self, row: AttemptRow) {
        note(&row);
        let mut books = self.inner.books.lock();
        if row.cost > NanoUsd::ZERO {
            books.budgets.post(row.key.as_ref(), row.cost, row.at, row.at);
        }
        let receipt = self.close_attempt(&mut books, row, None);
        drop(books);
        drop(receipt);
        self.tell();
    }

    /// Records a request that has ended.
    pub fn note_request(&self, row: &RequestRow) -> Receipt {
        let mut books = self.inner.books.lock();
        let receipt = self.write(&mut books, RecordRef::Request { row });
        drop(books);
        self.tell();
        receipt
    }

    /// A reservation ends: `end` makes its final row of the one it was reserved with.
    pub(super) fn settle(&self, id: u64, end: impl FnOnce(AttemptRow) -> AttemptRow) -> Receipt {
        let mut books = self.inner.books.lock();
        let Some(open) = books.open.remove(&id) else { return Receipt::default() };
        let (amount, row) = (open.row.cost, end(open.row));
        books.reserved = books.reserved.saturating_sub(amount);
        if let Some(booked) = open.booked {
            books.budgets.settle(row.key.as_ref(), booked, amount, row.cost);
        }
        note(&row);
        let receipt = self.close_attempt(&mut books, row, Some(id));
        drop(books);
        self.tell();
        receipt
    }

    /// A reservation ends and nothing was sent.
    pub(super) fn void(&self, id: u64) {
        let mut books = self.inner.books.lock();
        let Some(open) = books.open.remove(&id) else { return };
        books.reserved = books.reserved.saturating_sub(open.row.cost);
        if let Some(booked) = open.booked {
            books.budgets.settle(open.row.key.as_ref(), booked, open.row.cost, NanoUsd::ZERO);
        }
        let receipt = self.write(&mut books, RecordRef::Voided { id });
        drop(books);
        drop(receipt);
    }

    /// Reservations found open in the journal: their gateway died, and what their providers did nobody knows. They are
    /// charged in full, so that spending is never understated.
    pub(super) fn resolve(&self, found: impl IntoIterator<Item = (u64, AttemptRow)>, now: UnixMs) -> usize {
        let mut books = self.inner.books.lock();
        let mut receipts = Vec::new();
        for (id, row) in found {
            let row = AttemptRow { outcome: INTERRUPTED.into(), reserved: row.cost, ..row };
            books.budgets.post(row.key.as_ref(), row.cost, row.at, now);
            receipts.push(self.close_attempt(&mut books, row, Some(id)));
        }
        drop(books);
        receipts.len()
    }

    /// Nothing stays reserved past its deadline: what nobody closed is charged in full.
    pub(super) fn expire(&self, now: UnixMs) {
        let late: Vec<u64> = {
            let books = self.inner.books.lock();
            let late = books.open.iter().filter(|(_, open)| open.deadline.plus(GRACE) < now);
            late.map(|(id, _)| *id).collect()
        };
        for id in late {
            tracing::warn!(reservation = id, "a reservation was still open after its deadline: charged in full");
            drop(self.settle(id, |row| AttemptRow { outcome: EXPIRED.into(), ..row }));
        }
    }

    fn close_attempt(&self, books: &mut Books, row: AttemptRow, reservation: Option<u64>) -> Receipt {
        books.count(&row);
        let number = books.next_number;
        books.next_number += 1;
        self.write(books, RecordRef::Attempt { number, reservation, row: &row })
    }

    fn write(&self, books: &mut Books, record: RecordRef<'_>) -> Receipt {
        let store = match self.inner.outlet() {
            Some(Outlet::Journal(journal)) => return journal.push(record),
            Some(Outlet::Memory(store)) => store,
            // It cost nothing, for nothing that costs was let through.
            None => return Receipt::default(),
        };
        let record = match record {
            RecordRef::Attempt { number, reservation, row } => {
                Record::Attempt { number, reservation, row: row.clone() }
            }
            RecordRef::Request { row } => Record::Request { row: row.clone() },
            // What is open ends with the process.
            RecordRef::Reserved { .. } | RecordRef::Voided { .. } => return Receipt::default(),
        };
        books.pending.push_back(Entry { seq: books.next_seq, record });
        books.next_seq += 1;
        if books.pending.len() > PENDING {
            self.inner.applied.store(books.next_seq - 1, Ordering::Release);
            store.apply_now(books.pending.make_contiguous());
            books.pending.clear();
        }
        Receipt::default()
    }

    /// Only the first row of a batch wakes the actor.
    fn tell(&self) {
        if !self.inner.told.swap(true, Ordering::AcqRel) {
            self.address.cast(LedgerMsg::Posted);
        }
    }

    /// The last record that was written, or is about to be.
    pub(super) fn last_seq(&self) -> u64 {
        self.inner.journal().map_or_else(|| self.inner.books.lock().next_seq - 1, Journal::last_seq)
    }

    pub fn snapshot(&self) -> LedgerSnapshot {
        let (up, journal_bytes) = (self.is_up(), self.inner.journal().map_or(0, Journal::bytes));
        let waiting = self.inner.waiting.as_ref().filter(|_| self.inner.opened.get().is_none());
        let unapplied = self.last_seq().saturating_sub(self.inner.applied.load(Ordering::Acquire));
        let books = self.inner.books.lock();
        let limits = [books.limits.day, books.limits.month, books.limits.total];
        let line = |limit_nanousd, amounts: Amounts| BudgetLine {
            limit_nanousd,
            posted_nanousd: amounts.posted,
            reserved_nanousd: amounts.reserved,
        };
        let lines = limits.into_iter().zip(books.budgets.all()).map(|(limit, amounts)| line(limit, amounts));
        LedgerSnapshot {
            up,
            waits_because: waiting.map(|waiting| waiting.why.clone()),
            reserved_nanousd: books.reserved,
            open_reservations: books.open.len(),
            cost_nanousd: books.sums.values().map(|sums| sums.cost_nanousd).sum(),
            attempts: books.sums.values().map(|sums| sums.attempts).sum(),
            by_model: books.sums.iter().map(|((target, model), sums)| (format!("{target}/{model}"), *sums)).collect(),
            budget: ["day", "month", "total"].into_iter().zip(lines).collect(),
            journal_bytes,
            unapplied,
        }
    }

    /// What a key has posted and reserved in its day, its month and ever.
    pub fn spent_by(&self, key: &KeyId) -> [Amounts; 3] {
        self.inner.books.lock().budgets.of_key(key).unwrap_or_default()
    }

    /// Sets the ledger's gauges: by its actor's timer, and before they are read, so that they are never older than
    /// `/admin/status`.
    pub fn publish(&self, bounded: &[Bounded], now: UnixMs) {
        let (reserved, ratios) = {
            let mut books = self.inner.books.lock();
            (books.reserved, books.budgets.remaining_ratios(bounded, now))
        };
        let snapshot_bytes = self.inner.journal().map_or(0, Journal::bytes);
        let unapplied = self.last_seq().saturating_sub(self.inner.applied.load(Ordering::Acquire));
        observe::ledger_up(self.is_up());
        observe::ledger_state(snapshot_bytes, unapplied, reserved.get());
        let mut told = self.inner.told_ratios.lock();
        for group in told.iter().filter(|group| !ratios.contains_key(*group)) {
            // It was bounded and is no more: no number is right, and none may stay.
            observe::budget_remaining(group, f64::NAN);
        }
        ratios.iter().for_each(|(group, ratio)| observe::budget_remaining(group, *ratio));
        *told = ratios.into_keys().collect();
    }
}

impl From<Bound> for Refused {
    fn from(bound: Bound) -> Self {
        Self::Budget(bound)
    }
}

/// Metrics of an attempt that is recorded now.
fn note(row: &AttemptRow) {
    // An attempt that nobody watched to its end is charged at what was reserved, but nobody saw those tokens.
    if ![ABANDONED, EXPIRED, INTERRUPTED].contains(&row.outcome.as_ref()) {
        let TokenUsage { prompt_tokens, cached_tokens, completion_tokens, .. } = row.usage;
        observe::tokens(&row.target, &row.model, prompt_tokens, cached_tokens, completion_tokens);
    }
    observe::cost(&row.model, row.cost.get(), row.baseline.saturating_sub(row.cost).get());
}

#[cfg(test)]
mod tests;
