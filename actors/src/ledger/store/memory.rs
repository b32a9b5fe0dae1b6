//! The store that ends with the process: the newest rows and the sums of the newest days, bounded.

use super::{
    Answer, Line, Opening, Question, Store,
    sums::{Slice, Sums, lines, sum_up},
};
use crate::{
    domain::{KeyId, UnixMs},
    ledger::{
        budget::Spent,
        journal::{Entry, Record},
        row::{AttemptRow, RequestRow},
    },
};
use futures_util::future::{FutureExt, ready};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};

/// Rows of each kind that are kept; older ones live on in the sums.
pub(in crate::ledger) const ROWS: usize = 2048;
/// Sums that are kept: (day, key, target, model). The oldest days make way.
const SLICES: usize = 16_384;

#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Rows>);

#[derive(Debug, Default)]
struct Rows {
    applied: u64,
    next_number: u64,
    attempts: VecDeque<(u64, AttemptRow)>,
    requests: VecDeque<RequestRow>,
    slices: BTreeMap<Slice, Sums>,
}

impl Rows {
    fn apply(&mut self, entries: &[Entry]) {
        let applied = self.applied;
        let fresh = || entries.iter().filter(|entry| entry.seq > applied);
        for (slice, sums) in sum_up(fresh()) {
            self.slices.entry(slice).or_default().add(&sums);
        }
        while self.slices.len() > SLICES {
            self.slices.pop_first();
        }
        for entry in fresh() {
            match &entry.record {
                Record::Attempt { number, row, .. } => {
                    self.next_number = self.next_number.max(number + 1);
                    push(&mut self.attempts, (*number, row.clone()));
                }
                Record::Request { row } => push(&mut self.requests, row.clone()),
                Record::Reserved { .. } | Record::Voided { .. } => {}
            }
        }
        self.applied = entries.last().map_or(applied, |last| applied.max(last.seq));
    }

    fn opening(&self, now: UnixMs) -> Opening {
        let today = now.day();
        let mut opening = Opening { applied: self.applied, next_number: self.next_number, ..Opening::default() };
        let (mut sums, mut keys): (BTreeMap<_, Sums>, BTreeMap<String, Spent>) = Default::default();
        for (slice, slice_sums) in &self.slices {
            sums.entry((slice.target.clone(), slice.model.clone())).or_default().add(slice_sums);
            let own = keys.entry(slice.key.clone()).or_default();
            for spent in [own, &mut opening.all] {
                let cost = slice_sums.cost_nanousd;
                spent.total = spent.total + cost;
                if slice.day >= today.first_of_month() {
                    spent.month = spent.month + cost;
                }
                if slice.day == today {
                    spent.day = spent.day + cost;
                }
            }
        }
        opening.sums = sums.into_iter().collect();
        let named = keys.into_iter().filter(|(key, spent)| !key.is_empty() && spent.total.get() > 0);
        opening.keys = named.map(|(key, spent)| (KeyId::from(key.as_str()), spent)).collect();
        opening
    }
}

fn push<T>(rows: &mut VecDeque<T>, row: T) {
    if rows.len() == ROWS {
        rows.pop_front();
    }
    rows.push_back(row);
}

impl MemoryStore {
    /// As `apply`, for who cannot wait.
    pub fn apply_now(&self, entries: &[Entry]) {
        self.0.lock().apply(entries);
    }
}

impl Store for MemoryStore {
    fn opening(&self, now: UnixMs) -> Answer<'_, Opening> {
        ready(Ok(self.0.lock().opening(now))).boxed()
    }

    fn rename<'a>(&'a self, _: &'a str) -> Answer<'a, ()> {
        ready(Ok(())).boxed()
    }

    fn apply<'a>(&'a self, entries: &'a [Entry]) -> Answer<'a, ()> {
        self.apply_now(entries);
        ready(Ok(())).boxed()
    }

    fn attempts(&self, from: u64, limit: usize) -> Answer<'_, Vec<(u64, AttemptRow)>> {
        let rows = self.0.lock();
        let meant = rows.attempts.iter().filter(|(number, _)| *number >= from);
        ready(Ok(meant.take(limit).cloned().collect())).boxed()
    }

    fn requests(&self, limit: usize) -> Answer<'_, Vec<RequestRow>> {
        ready(Ok(self.0.lock().requests.iter().rev().take(limit).cloned().collect())).boxed()
    }

    fn usage(&self, question: Question) -> Answer<'_, Vec<Line>> {
        ready(Ok(lines(self.0.lock().slices.iter(), question))).boxed()
    }

    fn prune(&self, before: UnixMs, limit: usize) -> Answer<'_, u64> {
        let mut rows = self.0.lock();
        let mut pruned = 0;
        for _ in 0..limit {
            let attempt = rows.attempts.front().is_some_and(|(_, row)| row.at < before);
            let request = rows.requests.front().is_some_and(|row| row.at < before);
            if attempt {
                rows.attempts.pop_front();
            }
            if request {
                rows.requests.pop_front();
            }
            pruned += u64::from(attempt) + u64::from(request);
        }
        ready(Ok(pruned)).boxed()
    }

    fn close(&self) -> Answer<'_, ()> {
        ready(Ok(())).boxed()
    }
}
