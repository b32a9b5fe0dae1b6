//! Sums of attempts, by day, key, target and model; and how they are asked for. Pure.

use crate::{
    domain::{Day, NanoUsd},
    ledger::{
        journal::{Entry, Record},
        row::AttemptRow,
    },
};
use serde::Serialize;
use std::collections::BTreeMap;

/// Sums of some attempts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    pub attempts: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub cached_tokens: u64,
    pub cost_nanousd: NanoUsd,
    /// What the answers would have cost on the baseline model.
    pub baseline_nanousd: NanoUsd,
    /// Electricity of local attempts, in thousandths of a joule.
    pub energy_mj: u64,
}

impl Sums {
    pub fn count(&mut self, row: &AttemptRow) {
        self.add(&Self {
            attempts: 1,
            prompt_tokens: row.usage.prompt_tokens,
            completion_tokens: row.usage.completion_tokens,
            cached_tokens: row.usage.cached_tokens,
            cost_nanousd: row.cost,
            baseline_nanousd: row.baseline,
            energy_mj: row.energy_mj,
        });
    }

    pub fn add(&mut self, other: &Self) {
        self.attempts = self.attempts.saturating_add(other.attempts);
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(other.completion_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
        self.cost_nanousd = self.cost_nanousd + other.cost_nanousd;
        self.baseline_nanousd = self.baseline_nanousd + other.baseline_nanousd;
        self.energy_mj = self.energy_mj.saturating_add(other.energy_mj);
    }

    /// What was not spent because something cheaper than the baseline answered.
    pub fn saved(&self) -> NanoUsd {
        self.baseline_nanousd.saturating_sub(self.cost_nanousd)
    }
}

/// What one line of usage stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Model,
    Target,
    Key,
    Day,
}

impl By {
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "model" => Some(Self::Model),
            "target" => Some(Self::Target),
            "key" => Some(Self::Key),
            "day" => Some(Self::Day),
            _ => None,
        }
    }

    pub const fn word(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Target => "target",
            Self::Key => "key",
            Self::Day => "day",
        }
    }
}

/// Usage of the days from `since` to `until`, both included; `None` = no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    pub by: By,
    pub since: Option<Day>,
    pub until: Option<Day>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// A model, a target, a key's id ("" = without a key) or a day.
    pub name: String,
    #[serde(flatten)]
    pub sums: Sums,
}

/// What attempts are summed by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slice {
    pub(super) day: Day,
    pub(super) key: String,
    pub(super) target: String,
    pub(super) model: String,
}

impl Slice {
    pub(super) fn of(row: &AttemptRow) -> Self {
        Self { day: row.at.day(), key: row.key_text().to_owned(), target: row.target.clone(), model: row.model.clone() }
    }

    pub(super) fn name(&self, by: By) -> String {
        match by {
            By::Model => self.model.clone(),
            By::Target => self.target.clone(),
            By::Key => self.key.clone(),
            By::Day => self.day.to_string(),
        }
    }
}

/// The attempts among `entries`, summed.
pub(super) fn sum_up<'e>(entries: impl Iterator<Item = &'e Entry>) -> BTreeMap<Slice, Sums> {
    let mut slices: BTreeMap<Slice, Sums> = BTreeMap::new();
    for entry in entries {
        if let Record::Attempt { row, .. } = &entry.record {
            slices.entry(Slice::of(row)).or_default().count(row);
        }
    }
    slices
}

/// Lines of one question, in the order of their names.
pub(super) fn lines<'s>(slices: impl Iterator<Item = (&'s Slice, &'s Sums)>, question: Question) -> Vec<Line> {
    let mut lines: BTreeMap<String, Sums> = BTreeMap::new();
    let meant = |slice: &Slice| {
        question.since.is_none_or(|since| slice.day >= since) && question.until.is_none_or(|until| slice.day <= until)
    };
    for (slice, sums) in slices.filter(|(slice, _)| meant(slice)) {
        lines.entry(slice.name(question.by)).or_default().add(sums);
    }
    lines.into_iter().map(|(name, sums)| Line { name, sums }).collect()
}
