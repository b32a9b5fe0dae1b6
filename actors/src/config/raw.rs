//! Configuration as written: every layer's TOML as a tree whose nodes know their place, and the merged tree of all
//! layers. Checks syntax only; what keys exist and what values mean is `resolve`'s business.

mod assign;
mod layers;

pub(super) use layers::{Merged, merged};

use std::{collections::BTreeMap, ops::Range};
use toml::{Spanned, de::DeTable, de::DeValue};

/// Deepest nesting taken from a file. Real files need 4; the bound keeps recursion off the stack's end.
pub(super) const MAX_DEPTH: usize = 32;

/// Where a layer ranks; later ones win.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    BuiltIn,
    File,
    Environment,
    Flag,
}

/// Every text that configuration came from; nodes refer to it by index.
#[derive(Debug, Default)]
pub(super) struct Texts(Vec<SourceText>);

#[derive(Debug)]
pub(super) struct SourceText {
    /// As a fault names it.
    pub(super) name: String,
    pub(super) layer: Layer,
    pub(super) text: String,
}

impl Texts {
    pub(super) fn add(&mut self, name: String, layer: Layer, text: String) -> usize {
        self.0.push(SourceText { name, layer, text });
        self.0.len() - 1
    }

    pub(super) fn get(&self, source: usize) -> Option<&SourceText> {
        self.0.get(source)
    }

    /// Whether a person wrote this, as against the built-in file.
    pub(super) fn is_users(&self, origin: &Origin) -> bool {
        self.get(origin.source).is_some_and(|source| source.layer > Layer::BuiltIn)
    }
}

/// A place: bytes `span` of text `source`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) source: usize,
    pub(super) span: Range<usize>,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
    /// The text of a value from the environment, which may be meant as a string whatever TOML makes of it
    /// (`SPILLWAY__LOCAL__0__NAME=7`).
    pub(super) text: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    /// `None` when it does not fit 64 bits.
    Integer(Option<i64>),
    /// The digits as written: money must not pass through a float.
    Float(String),
    Bool(bool),
    Datetime(String),
    Array(Vec<Node>),
    Table(Table),
}

pub(super) type Table = BTreeMap<String, Entry>;

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: Origin,
    pub(super) node: Node,
}

impl Node {
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Text(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a decimal number",
            Value::Bool(_) => "true or false",
            Value::Datetime(_) => "a date",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
        }
    }

    pub(super) fn table(&self) -> Option<&Table> {
        if let Value::Table(table) = &self.value { Some(table) } else { None }
    }

    pub(super) fn array(&self) -> Option<&[Node]> {
        if let Value::Array(items) = &self.value { Some(items) } else { None }
    }

    fn empty_table(origin: Origin) -> Self {
        Self { value: Value::Table(Table::new()), origin, text: None }
    }

    /// Fills what this table leaves open, recursively. Lists and single values stay whole.
    pub(super) fn fill_from(&mut self, lower: &Self) {
        let (Value::Table(table), Value::Table(lower)) = (&mut self.value, &lower.value) else { return };
        for (key, entry) in lower {
            match table.get_mut(key) {
                Some(own) => own.node.fill_from(&entry.node),
                None => {
                    table.insert(key.clone(), entry.clone());
                }
            }
        }
    }
}

/// Turns parsed TOML into a tree; what lies deeper than [`MAX_DEPTH`] is reported through `too_deep`.
struct Planting<'a> {
    source: usize,
    too_deep: &'a mut Vec<Origin>,
}

impl Planting<'_> {
    fn origin(&self, span: Range<usize>) -> Origin {
        Origin { source: self.source, span }
    }

    fn table(&mut self, table: &DeTable<'_>, depth: usize) -> Table {
        table
            .iter()
            .map(|(key, value)| {
                let entry = Entry { key: self.origin(key.span()), node: self.node(value, depth + 1) };
                (key.get_ref().clone().into_owned(), entry)
            })
            .collect()
    }

    fn node(&mut self, value: &Spanned<DeValue<'_>>, depth: usize) -> Node {
        let origin = self.origin(value.span());
        if depth > MAX_DEPTH {
            self.too_deep.push(origin.clone());
            return Node::empty_table(origin);
        }
        let value = match value.get_ref() {
            DeValue::String(text) => Value::Text(text.clone().into_owned()),
            DeValue::Integer(number) => Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()),
            DeValue::Float(number) => Value::Float(number.as_str().to_owned()),
            DeValue::Boolean(value) => Value::Bool(*value),
            DeValue::Datetime(value) => Value::Datetime(value.to_string()),
            DeValue::Array(items) => Value::Array(items.iter().map(|item| self.node(item, depth + 1)).collect()),
            DeValue::Table(table) => Value::Table(self.table(table, depth)),
        };
        Node { value, origin, text: None }
    }
}

/// One document as a tree, with every syntax fault. After faults the tree holds what could be read.
pub(super) fn parse(texts: &mut Texts, name: String, layer: Layer, text: &str) -> (Node, Vec<(Origin, String)>) {
    let source = texts.add(name, layer, text.to_owned());
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut faults: Vec<(Origin, String)> = errors
        .iter()
        .map(|error| (Origin { source, span: error.span().unwrap_or(0..0) }, format!("not TOML: {}", error.message())))
        .collect();
    let mut too_deep = Vec::new();
    let mut planting = Planting { source, too_deep: &mut too_deep };
    let root = Node {
        value: Value::Table(planting.table(table.get_ref(), 0)),
        origin: Origin { source, span: table.span() },
        text: None,
    };
    faults.extend(too_deep.into_iter().map(|origin| (origin, format!("nested deeper than {MAX_DEPTH} levels"))));
    (root, faults)
}
