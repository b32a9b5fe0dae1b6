//! Budgets: what each payer has spent and set aside in the running day, month and for ever. Pure; `now` is an argument.
//!
//! Invariant: posted + reserved never exceeds a bound by a reservation that was granted. A provider that counts more than
//! was reserved is charged what it counted, and the next reservation finds that much less.

use crate::domain::{BudgetLimits, Day, KeyId, Month, NanoUsd, UnixMs};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Money of one payer in one period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    pub posted: NanoUsd,
    pub reserved: NanoUsd,
}

impl Amounts {
    fn left(self, limit: NanoUsd) -> NanoUsd {
        limit.saturating_sub(self.posted + self.reserved)
    }
}

/// Which periods a reservation was booked in: it leaves the same ones, whatever the clock says by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Booked {
    day: Day,
    month: Month,
}

/// One payer's money. Its periods only move forward: a clock that is set back books into the running ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purse {
    day: Day,
    month: Month,
    of_day: Amounts,
    of_month: Amounts,
    total: Amounts,
}

/// What a payer had spent when the ledger was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    pub day: NanoUsd,
    pub month: NanoUsd,
    pub total: NanoUsd,
}

impl Purse {
    pub fn opened(spent: Spent, now: UnixMs) -> Self {
        let posted = |posted| Amounts { posted, reserved: NanoUsd::ZERO };
        Self {
            day: now.day(),
            month: now.day().month(),
            of_day: posted(spent.day),
            of_month: posted(spent.month),
            total: posted(spent.total),
        }
    }

    fn roll(&mut self, now: UnixMs) {
        let (day, month) = (now.day(), now.day().month());
        if day > self.day {
            (self.day, self.of_day) = (day, Amounts::default());
        }
        if month > self.month {
            (self.month, self.of_month) = (month, Amounts::default());
        }
    }

    /// The bound that leaves the least to be reserved, the longest-lived of equals; `None` = no bound.
    fn tightest(&mut self, payer: Payer, limits: BudgetLimits, now: UnixMs) -> Option<Bound> {
        self.roll(now);
        let bounds = [
            (Period::Total, limits.total, self.total),
            (Period::Month, limits.month, self.of_month),
            (Period::Day, limits.day, self.of_day),
        ];
        let bound = |(period, limit, amounts): (Period, Option<NanoUsd>, Amounts)| {
            let limit = limit?;
            let renewed = period.renewed(self.day);
            Some(Bound { payer, period, limit, left: amounts.left(limit), renewed })
        };
        bounds.into_iter().filter_map(bound).min_by_key(|bound| bound.left)
    }

    fn reserve(&mut self, amount: NanoUsd, now: UnixMs) -> Booked {
        self.roll(now);
        for amounts in [&mut self.of_day, &mut self.of_month, &mut self.total] {
            amounts.reserved = amounts.reserved + amount;
        }
        Booked { day: self.day, month: self.month }
    }

    /// The reservation ends: `amount` is free again and `cost` is spent.
    fn settle(&mut self, booked: Booked, amount: NanoUsd, cost: NanoUsd) {
        let turn = |amounts: &mut Amounts| {
            amounts.reserved = amounts.reserved.saturating_sub(amount);
            amounts.posted = amounts.posted + cost;
        };
        turn(&mut self.total);
        // A period that is over keeps no account here.
        if booked.day == self.day {
            turn(&mut self.of_day);
        }
        if booked.month == self.month {
            turn(&mut self.of_month);
        }
    }

    /// Spent at `at` without a reservation, as found in the journal.
    fn post(&mut self, cost: NanoUsd, at: UnixMs) {
        let booked = Booked { day: at.day(), month: at.day().month() };
        self.settle(booked, NanoUsd::ZERO, cost);
    }

    pub fn amounts(&self) -> [Amounts; 3] {
        [self.of_day, self.of_month, self.total]
    }

    /// Share of the tightest bound that is left, 0 to 1; `None` = no bound, or one that leaves nothing to be spent by anybody.
    fn remaining_ratio(&mut self, limits: BudgetLimits, now: UnixMs) -> Option<f64> {
        self.roll(now);
        let bounds = [(limits.day, self.of_day), (limits.month, self.of_month), (limits.total, self.total)].into_iter();
        let ratio = |(limit, amounts): (Option<NanoUsd>, Amounts)| {
            let limit = limit.filter(|limit| *limit > NanoUsd::ZERO)?;
            Some(amounts.left(limit).get() as f64 / limit.get() as f64)
        };
        bounds.filter_map(ratio).min_by(f64::total_cmp)
    }
}

/// The operator's budget among the groups of keys.
const EVERYBODY: &str = "all";

/// Every payer's money: the operator's as a whole, and each key's.
#[derive(Debug, Default)]
pub struct Budgets {
    limits: BudgetLimits,
    all: Purse,
    keys: HashMap<KeyId, Purse>,
}

/// A key that is bounded, and whom it belongs to.
#[derive(Debug, Clone)]
pub struct Bounded {
    pub group: Arc<str>,
    pub key: KeyId,
    pub limits: BudgetLimits,
}

/// Whose bound refused a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payer {
    Operator,
    Key,
}

/// How long a bound holds, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    Day,
    Month,
    Total,
}

impl Period {
    /// The first moment of the next one after `today`; the last period has none.
    fn renewed(self, today: Day) -> Option<UnixMs> {
        match self {
            Self::Day => Some(today.next().start()),
            Self::Month => Some(today.first_of_next_month().start()),
            Self::Total => None,
        }
    }
}

/// One bound, and what it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    pub payer: Payer,
    pub period: Period,
    pub limit: NanoUsd,
    pub left: NanoUsd,
    /// When its next period begins.
    pub renewed: Option<UnixMs>,
}

impl Bound {
    pub fn covers(self, amount: NanoUsd) -> bool {
        // With nothing left nothing paid starts, however cheap.
        self.left > NanoUsd::ZERO && amount <= self.left
    }
}

impl Budgets {
    pub fn new(limits: BudgetLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// The operator's own, from now on.
    pub fn set_limits(&mut self, limits: BudgetLimits) {
        self.limits = limits;
    }

    /// What was spent before this run.
    pub fn open(&mut self, all: Spent, keys: impl IntoIterator<Item = (KeyId, Spent)>, now: UnixMs) {
        self.all = Purse::opened(all, now);
        for (key, spent) in keys {
            self.keys.insert(key, Purse::opened(spent, now));
        }
    }

    /// The bound that leaves the least to be reserved for this key; `None` = no bound.
    pub fn tightest(&mut self, key: Option<(&KeyId, BudgetLimits)>, now: UnixMs) -> Option<Bound> {
        let all = self.all.tightest(Payer::Operator, self.limits, now);
        let own = key.and_then(|(key, limits)| match self.keys.get_mut(key) {
            Some(known) => known.tightest(Payer::Key, limits, now),
            None => Purse::default().tightest(Payer::Key, limits, now),
        });
        all.into_iter().chain(own).min_by_key(|bound| bound.left)
    }

    /// All bounds or none: either every account has the reservation, or nothing was changed.
    ///
    /// # Errors
    /// The bound that it would break.
    pub fn reserve(
        &mut self,
        key: Option<(&KeyId, BudgetLimits)>,
        amount: NanoUsd,
        now: UnixMs,
    ) -> Result<Booked, Bound> {
        let covers = |bound: Option<Bound>| bound.filter(|bound| !bound.covers(amount)).map_or(Ok(()), Err);
        covers(self.all.tightest(Payer::Operator, self.limits, now))?;
        if let Some((key, limits)) = key {
            let known = self.keys.entry(key.clone()).or_default();
            covers(known.tightest(Payer::Key, limits, now))?;
            known.reserve(amount, now);
        }
        Ok(self.all.reserve(amount, now))
    }

    pub fn settle(&mut self, key: Option<&KeyId>, booked: Booked, amount: NanoUsd, cost: NanoUsd) {
        self.all.settle(booked, amount, cost);
        if let Some(known) = key.and_then(|key| self.keys.get_mut(key)) {
            known.settle(booked, amount, cost);
        }
    }

    /// Spent without a reservation of this run.
    pub fn post(&mut self, key: Option<&KeyId>, cost: NanoUsd, at: UnixMs, now: UnixMs) {
        self.all.roll(now);
        self.all.post(cost, at);
        if let Some(key) = key {
            let known = self.keys.entry(key.clone()).or_default();
            known.roll(now);
            known.post(cost, at);
        }
    }

    pub fn all(&self) -> [Amounts; 3] {
        self.all.amounts()
    }

    pub fn of_key(&self, key: &KeyId) -> Option<[Amounts; 3]> {
        self.keys.get(key).map(|known| known.amounts())
    }

    /// Shares that are left: the operator's, and of each group the key's that is nearest to its bound.
    pub fn remaining_ratios(&mut self, bounded: &[Bounded], now: UnixMs) -> BTreeMap<Arc<str>, f64> {
        let all = self.all.remaining_ratio(self.limits, now);
        let mut ratios: BTreeMap<Arc<str>, f64> = all.map(|ratio| (EVERYBODY.into(), ratio)).into_iter().collect();
        for Bounded { group, key, limits } in bounded {
            let ratio = match self.keys.get_mut(key) {
                Some(purse) => purse.remaining_ratio(*limits, now),
                None => Purse::default().remaining_ratio(*limits, now),
            };
            if let Some(ratio) = ratio {
                let least = ratios.entry(Arc::clone(group)).or_insert(ratio);
                *least = least.min(ratio);
            }
        }
        ratios
    }
}

#[cfg(test)]
mod tests;
