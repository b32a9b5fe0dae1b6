//! Typed reading of one table: every key asked for is known, every wrong type or value is a fault, and at the end every
//! key nobody asked for is a fault too. Knows no key by itself.

use super::{
    fault::{Fault, Show, Warning},
    raw::{Entry, Node, Origin, Texts, Value},
    schema::{EACH, Kind, Known},
};
use std::{cell::RefCell, collections::BTreeSet, ops::RangeInclusive, time::Duration};

/// Largest duration a key may hold: ten years, far from any overflow in later sums.
const MAX_MS: u64 = 10 * 365 * 24 * 3_600_000;

/// Collects faults and warnings while everything is read, so that one run shows all of them.
pub(super) struct Report<'t> {
    pub(super) texts: &'t Texts,
    faults: RefCell<Vec<Fault>>,
    warnings: RefCell<Vec<Warning>>,
    /// Which keys were asked for, and what each may hold.
    known: RefCell<Known>,
}

impl<'t> Report<'t> {
    pub(super) fn new(texts: &'t Texts) -> Self {
        Self { texts, faults: RefCell::default(), warnings: RefCell::default(), known: RefCell::default() }
    }

    pub(super) fn into_known(self) -> Known {
        self.known.into_inner()
    }

    pub(super) fn fault(&self, origin: &Origin, message: impl Into<String>) {
        self.fault_showing(origin, Show::Line, message);
    }

    pub(super) fn fault_showing(&self, origin: &Origin, show: Show, message: impl Into<String>) {
        self.faults.borrow_mut().push(Fault::at(self.texts, origin, show, message.into()));
    }

    pub(super) fn fault_of_whole(&self, message: impl Into<String>) {
        self.faults.borrow_mut().push(Fault::of_whole(message.into()));
    }

    pub(super) fn add(&self, fault: Fault) {
        self.faults.borrow_mut().push(fault);
    }

    pub(super) fn warn(&self, message: impl Into<String>) {
        self.warnings.borrow_mut().push(Warning(message.into()));
    }

    pub(super) fn is_clean(&self) -> bool {
        self.faults.borrow().is_empty()
    }

    pub(super) fn into_parts(self) -> (Vec<Fault>, Vec<Warning>) {
        (self.faults.into_inner(), self.warnings.into_inner())
    }
}

/// A value with the place it was read from.
#[derive(Debug, Clone)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

pub(super) struct Section<'a> {
    report: &'a Report<'a>,
    node: &'a Node,
    /// Dotted path, for messages.
    path: String,
    /// The same without the operator's own names and numbers.
    trail: Vec<&'static str>,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Section<'a> {
    /// The whole configuration. `None`, with a fault, when `node` is no table.
    pub(super) fn new(report: &'a Report<'a>, node: &'a Node) -> Option<Self> {
        Self::at(report, node, String::new(), Vec::new())
    }

    fn at(report: &'a Report<'a>, node: &'a Node, path: String, trail: Vec<&'static str>) -> Option<Self> {
        if node.table().is_none() {
            report.fault(&node.origin, format!("`{path}` must be a table, not {}", node.kind()));
            return None;
        }
        Some(Self { report, node, path, trail, asked: RefCell::default() })
    }

    fn trail_of(&self, steps: &[&'static str]) -> Vec<&'static str> {
        self.trail.iter().chain(steps).copied().collect()
    }

    /// Notes what a key may hold; who says it last knows it best.
    pub(super) fn learn(&self, key: &'static str, kind: Kind) {
        self.report.known.borrow_mut().insert(self.trail_of(&[key]), kind);
    }

    pub(super) fn origin(&self) -> &'a Origin {
        &self.node.origin
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn entry(&self, key: &'static str) -> Option<&'a Entry> {
        self.asked.borrow_mut().insert(key);
        self.report.known.borrow_mut().entry(self.trail_of(&[key])).or_insert(Kind::Any);
        self.node.table()?.get(key)
    }

    /// The key's node; a fault when it is absent.
    pub(super) fn need(&self, key: &'static str) -> Option<&'a Node> {
        let entry = self.entry(key);
        if entry.is_none() {
            self.report.fault(self.origin(), format!("`{}` is missing", self.path_of(key)));
        }
        entry.map(|entry| &entry.node)
    }

    pub(super) fn section(&self, key: &'static str) -> Option<Section<'a>> {
        self.learn(key, Kind::Table);
        let node = self.need(key)?;
        Section::at(self.report, node, self.path_of(key), self.trail_of(&[key]))
    }

    /// The entries of a list of tables.
    pub(super) fn sections(&self, key: &'static str) -> Vec<Section<'a>> {
        self.learn(key, Kind::Tables);
        let Some(node) = self.need(key) else { return Vec::new() };
        let path = self.path_of(key);
        let Some(items) = node.array() else {
            self.report.fault(&node.origin, format!("`{path}` must be a list of tables, written [[{path}]]"));
            return Vec::new();
        };
        let entries = items.iter().enumerate();
        let section =
            |(index, item)| Section::at(self.report, item, format!("{path}[{index}]"), self.trail_of(&[key, EACH]));
        entries.filter_map(section).collect()
    }

    fn wrong_type(&self, key: &str, node: &Node, wanted: &str) {
        let message = format!("`{}` must be {wanted}, not {}", self.path_of(key), node.kind());
        self.report.fault(&node.origin, message);
    }

    /// A fault about this key's value.
    pub(super) fn refuse(&self, key: &str, origin: &Origin, why: impl std::fmt::Display) {
        self.report.fault(origin, format!("`{}` {why}", self.path_of(key)));
    }

    /// A fault about a key that this table does not say itself.
    pub(super) fn refuse_whole(&self, key: &str, why: impl std::fmt::Display) {
        self.report.fault(self.origin(), format!("`{}` {why}", self.path_of(key)));
    }

    /// As `refuse`, for values that may hold a password.
    pub(super) fn refuse_unseen(&self, key: &str, origin: &Origin, why: impl std::fmt::Display) {
        self.report.fault_showing(origin, Show::BeforeSpan, format!("`{}` {why}", self.path_of(key)));
    }

    pub(super) fn text(&self, key: &'static str) -> Option<Placed<String>> {
        self.learn(key, Kind::Text);
        let node = self.need(key)?;
        let Some(value) = as_text(node) else {
            self.wrong_type(key, node, "a string");
            return None;
        };
        Some(Placed { value, origin: node.origin.clone() })
    }

    /// A string that may be absent; `Some(None)` = absent, `None` = faulty.
    pub(super) fn optional_text(&self, key: &'static str) -> Option<Option<Placed<String>>> {
        self.learn(key, Kind::Text);
        if self.entry(key).is_none() { Some(None) } else { self.text(key).map(Some) }
    }

    /// A key that may be absent, read by `read`; `Some(None)` = absent, `None` = faulty.
    pub(super) fn optional<T>(&self, key: &'static str, read: impl FnOnce(&Self) -> Option<T>) -> Option<Option<T>> {
        if self.entry(key).is_none() { Some(None) } else { read(self).map(Some) }
    }

    /// Every key of a table whose keys are the operator's own names, each a table again.
    pub(super) fn into_named(self) -> Vec<(Placed<String>, Section<'a>)> {
        self.report.known.borrow_mut().insert(self.trail.clone(), Kind::TablesByName);
        let Some(table) = self.node.table() else { return Vec::new() };
        let named = table.iter().filter_map(|(name, entry)| {
            let section = Section::at(self.report, &entry.node, self.path_of(name), self.trail_of(&[EACH]))?;
            Some((Placed { value: name.clone(), origin: entry.key.clone() }, section))
        });
        named.collect()
    }

    pub(super) fn flag(&self, key: &'static str) -> Option<bool> {
        self.learn(key, Kind::Flag);
        let node = self.need(key)?;
        if let Value::Bool(value) = node.value {
            return Some(value);
        }
        self.wrong_type(key, node, "true or false");
        None
    }

    pub(super) fn texts(&self, key: &'static str) -> Option<Vec<Placed<String>>> {
        self.learn(key, Kind::Texts);
        let node = self.need(key)?;
        let Some(items) = node.array() else {
            self.wrong_type(key, node, "a list of strings");
            return None;
        };
        let text = |item: &Node| {
            let Value::Text(value) = &item.value else {
                let message = format!("`{}` must hold strings, not {}", self.path_of(key), item.kind());
                self.report.fault(&item.origin, message);
                return None;
            };
            Some(Placed { value: value.clone(), origin: item.origin.clone() })
        };
        // Every item is looked at before the first fault ends the reading.
        items.iter().map(text).collect::<Vec<_>>().into_iter().collect()
    }

    pub(super) fn integer(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        self.learn(key, Kind::Integer(range.clone()));
        let node = self.need(key)?;
        let Value::Integer(value) = node.value else {
            self.wrong_type(key, node, "an integer");
            return None;
        };
        self.in_range(key, node, value, range)
    }

    fn in_range(&self, key: &str, node: &Node, value: Option<i64>, range: RangeInclusive<u64>) -> Option<u64> {
        let found = value.and_then(|value| u64::try_from(value).ok()).filter(|value| range.contains(value));
        if found.is_none() {
            let (least, most) = (range.start(), range.end());
            self.refuse(key, &node.origin, format_args!("must be from {least} to {most}"));
        }
        found
    }

    pub(super) fn small(&self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let value = self.integer(key, u64::from(*range.start())..=u64::from(*range.end()))?;
        u32::try_from(value).ok()
    }

    pub(super) fn size(&self, key: &'static str, range: RangeInclusive<u32>) -> Option<usize> {
        usize::try_from(self.small(key, range)?).ok()
    }

    /// An integer or the given word, which stands for `None`.
    pub(super) fn small_or(&self, key: &'static str, word: &str, range: RangeInclusive<u32>) -> Option<Option<u32>> {
        let wide = u64::from(*range.start())..=u64::from(*range.end());
        self.learn(key, Kind::or_word(word, Kind::Integer(wide)));
        let node = self.need(key)?;
        match &node.value {
            Value::Text(text) if text == word => Some(None),
            Value::Integer(value) => {
                let value = self.in_range(key, node, *value, u64::from(*range.start())..=u64::from(*range.end()))?;
                u32::try_from(value).ok().map(Some)
            }
            _ => {
                self.wrong_type(key, node, &format!("\"{word}\" or an integer"));
                None
            }
        }
    }

    /// A duration in milliseconds, at least `least`.
    pub(super) fn millis(&self, key: &'static str, least: u64) -> Option<Duration> {
        self.integer(key, least..=MAX_MS).map(Duration::from_millis)
    }

    pub(super) fn decimal(&self, key: &'static str, range: RangeInclusive<f32>) -> Option<f32> {
        self.learn(key, Kind::decimal(&range));
        self.number(key, &range)
    }

    fn number(&self, key: &'static str, range: &RangeInclusive<f32>) -> Option<f32> {
        let node = self.need(key)?;
        let value: Option<f32> = match &node.value {
            Value::Float(digits) => digits.parse().ok(),
            Value::Integer(value) => value.map(|value| value as f32),
            _ => {
                self.wrong_type(key, node, "a number");
                return None;
            }
        };
        let found = value.filter(|value| range.contains(value));
        if found.is_none() {
            self.refuse(key, &node.origin, format_args!("must be from {} to {}", range.start(), range.end()));
        }
        found
    }

    /// A number or the given word, which stands for `None`.
    pub(super) fn decimal_or(&self, key: &'static str, word: &str, range: RangeInclusive<f32>) -> Option<Option<f32>> {
        self.learn(key, Kind::or_word(word, Kind::decimal(&range)));
        let node = self.need(key)?;
        match &node.value {
            Value::Text(text) if text == word => Some(None),
            Value::Float(_) | Value::Integer(_) => self.number(key, &range).map(Some),
            _ => {
                self.wrong_type(key, node, &format!("\"{word}\" or a number"));
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<Placed<T>> {
        let text = self.text(key);
        self.learn(key, Kind::Words(words.iter().map(|(word, _)| (*word).to_owned()).collect()));
        let text = text?;
        let found = words.iter().find(|(word, _)| *word == text.value);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let why =
                format!("must be one of {}{}", known.join(", "), did_you_mean(&text.value, known.iter().copied()));
            self.refuse(key, &text.origin, why);
        }
        found.map(|(_, value)| Placed { value: *value, origin: text.origin })
    }

    /// Call after the last key was asked for: whatever is left is unknown.
    pub(super) fn finish(self) {
        let asked = self.asked.into_inner();
        let Some(table) = self.node.table() else { return };
        for (key, entry) in table.iter().filter(|(key, _)| !asked.contains(key.as_str())) {
            let place = if self.path.is_empty() { String::new() } else { format!(" in `{}`", self.path) };
            let hint = did_you_mean(key, asked.iter().copied());
            let message = format!("unknown key `{key}`{place}{hint}");
            self.report.fault_showing(&entry.key, Show::UpToSpan, message);
        }
    }
}

/// A string, a date (`as_of = 2026-11-23` is meant well), or what the environment said whatever TOML made of it.
pub(super) fn as_text(node: &Node) -> Option<String> {
    match (&node.value, &node.text) {
        (Value::Text(text) | Value::Datetime(text), _) => Some(text.clone()),
        (Value::Array(_) | Value::Table(_), _) => None,
        (_, text) => text.clone(),
    }
}

/// ", did you mean `x`?" for the nearest known word, if one is near.
pub(super) fn did_you_mean<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> String {
    let limit = (word.chars().count() / 3).clamp(1, 3);
    let nearest = known.map(|candidate| (distance(word, candidate), candidate)).min();
    match nearest {
        Some((distance, candidate)) if distance <= limit => format!(", did you mean `{candidate}`?"),
        _ => String::new(),
    }
}

/// Levenshtein distance; words beyond 64 characters count as far.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(65).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().take(65).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(&b) {
            let above = *cell;
            left = (diagonal + usize::from(a != *b)).min(above + 1).min(left + 1);
            *cell = left;
            diagonal = above;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}
