//! How many ways of reading an answer a schema leaves open at once. llama.cpp keeps each of them, so they are bounded.
//!
//! Alternatives that begin alike are all open until something tells them apart. Where such alternatives hold each other,
//! the ways multiply with every level. An object that begins with a required property of a known name or value is told
//! apart before anything else can be inside it.

use serde_json::Value;
use std::collections::HashMap;

const MAX_WAYS: u64 = 1024;
/// Alternatives at one place.
const MAX_ALTERNATIVES: usize = 1024;
/// How deep answers are looked into, in rules inside rules.
const DEPTH: usize = 96;

const OBJECT: u8 = 1;
const ARRAY: u8 = 2;
const STRING: u8 = 4;
const NUMBER: u8 = 8;
const WORD: u8 = 16;
const ANY: u8 = 31;

/// What stands behind a rule, as far as it matters here. Parts are names of rules.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    Value {
        kinds: u8,
        ways: u64,
        texts: Vec<String>,
    },
    /// `first`: a required property that nothing precedes, with the rule of its value.
    Object {
        first: Option<(String, String)>,
        inner: Vec<String>,
        optional: usize,
    },
    Array(Vec<String>),
    Union(Vec<String>),
    Same(String),
}

impl Shape {
    pub(super) const fn string(ways: u64) -> Self {
        Self::Value { kinds: STRING, ways, texts: Vec::new() }
    }

    pub(super) const fn number(ways: u64) -> Self {
        Self::Value { kinds: NUMBER, ways, texts: Vec::new() }
    }

    pub(super) const fn word() -> Self {
        Self::Value { kinds: WORD, ways: 1, texts: Vec::new() }
    }

    pub(super) fn one_of<'v>(values: impl Iterator<Item = &'v Value>) -> Self {
        let (mut kinds, mut texts) = (0, Vec::new());
        for value in values {
            kinds |= match value {
                Value::Object(_) => OBJECT,
                Value::Array(_) => ARRAY,
                Value::String(_) => STRING,
                Value::Number(_) => NUMBER,
                Value::Bool(_) | Value::Null => WORD,
            };
            texts.push(value.to_string());
        }
        Self::Value { kinds, ways: 1 + texts.len() as u64 / 16, texts }
    }

    /// Of a rule that is not a schema's own.
    fn builtin(name: &str) -> Self {
        let kinds = match name {
            "object" => OBJECT,
            "array" => ARRAY,
            "string" => STRING,
            "number" | "integer" => NUMBER,
            _ => ANY,
        };
        Self::Value { kinds, ways: 1, texts: Vec::new() }
    }

    fn parts(&self) -> &[String] {
        match self {
            Self::Value { .. } => &[],
            Self::Object { inner, .. } => inner,
            Self::Array(inner) | Self::Union(inner) => inner,
            Self::Same(name) => std::slice::from_ref(name),
        }
    }
}

/// Shapes by the names of their rules.
#[derive(Debug, Default)]
pub(super) struct Shapes(HashMap<String, Shape>);

impl Shapes {
    pub(super) fn note(&mut self, rule: &str, shape: Shape) {
        // A rule that says nothing but another's name stays what it is.
        if !matches!(&shape, Shape::Union(names) if names.iter().any(|name| name == rule)) {
            self.0.insert(rule.to_owned(), shape);
        }
    }

    /// Whether what a rule stands for is an object and nothing else.
    pub(super) fn is_object(&self, rule: &str) -> bool {
        matches!(self.behind(rule), Some(Shape::Object { .. })) || rule == "object"
    }

    /// Whether the ways stay few, however deep the answer.
    pub(super) fn are_few(&self) -> bool {
        let graph = Graph::of(self);
        graph.is_some_and(|graph| graph.are_few())
    }

    /// The shape that a chain of references ends at.
    fn behind(&self, rule: &str) -> Option<&Shape> {
        let mut shape = self.0.get(rule)?;
        for _ in 0..DEPTH {
            match shape {
                Shape::Same(name) => shape = self.0.get(name)?,
                shape => return Some(shape),
            }
        }
        None
    }

    fn are_told_apart(&self, one: &str, other: &str) -> bool {
        let first = |rule: &str| match self.behind(rule) {
            Some(Shape::Object { first: Some((name, value)), .. }) => Some((name.clone(), value.clone())),
            _ => None,
        };
        let texts = |rule: &str| match self.behind(rule) {
            Some(Shape::Value { texts, .. }) if !texts.is_empty() => Some(texts),
            _ => None,
        };
        let (Some((name, value)), Some((other_name, other_value))) = (first(one), first(other)) else { return false };
        let are_disjoint = || match (texts(&value), texts(&other_value)) {
            (Some(ours), Some(theirs)) => !ours.iter().any(|text| theirs.contains(text)),
            _ => false,
        };
        name != other_name || are_disjoint()
    }
}

struct Node {
    /// Ways it has by itself.
    ways: u64,
    parts: Vec<usize>,
    /// Of a union, for each part: the parts that may be open at the same time.
    alike: Option<Vec<Vec<usize>>>,
}

struct Graph(Vec<Node>);

impl Graph {
    /// `None`: more alternatives than are looked at.
    fn of(shapes: &Shapes) -> Option<Self> {
        let mut all: Vec<(&str, Shape)> = shapes.0.iter().map(|(name, shape)| (name.as_str(), shape.clone())).collect();
        let mut index: HashMap<&str, usize> = all.iter().enumerate().map(|(at, (name, _))| (*name, at)).collect();
        for name in shapes.0.values().flat_map(Shape::parts) {
            if !index.contains_key(name.as_str()) {
                index.insert(name, all.len());
                all.push((name, Shape::builtin(name)));
            }
        }
        let parts: Vec<Vec<usize>> = all
            .iter()
            .map(|(_, shape)| shape.parts().iter().filter_map(|name| index.get(name.as_str()).copied()).collect())
            .collect();
        let kinds = kinds(&all, &parts);
        let kind = |at: usize| kinds.get(at).copied().unwrap_or(ANY);
        let name = |at: usize| all.get(at).map_or("", |(name, _)| *name);
        let mut nodes = Vec::with_capacity(all.len());
        for ((_, shape), parts) in all.iter().zip(&parts) {
            let ways = match shape {
                Shape::Value { ways, .. } => *ways,
                Shape::Object { optional, .. } => 1 + *optional as u64 / 4,
                _ => 1,
            };
            let alike = match shape {
                Shape::Union(_) if parts.len() > MAX_ALTERNATIVES => return None,
                Shape::Union(_) => {
                    let open = |one: usize| {
                        let may_be = |other: &usize| {
                            *other != one
                                && kind(one) & kind(*other) != 0
                                && !shapes.are_told_apart(name(one), name(*other))
                        };
                        parts.iter().copied().filter(may_be).collect()
                    };
                    Some(parts.iter().map(|part| open(*part)).collect())
                }
                _ => None,
            };
            nodes.push(Node { ways, parts: parts.clone(), alike });
        }
        Some(Self(nodes))
    }

    fn are_few(&self) -> bool {
        let mut ways = vec![1_u64; self.0.len()];
        for _ in 0..DEPTH {
            let of = |at: &usize| ways.get(*at).copied().unwrap_or(1);
            let next: Vec<u64> = self
                .0
                .iter()
                .map(|node| {
                    let open = |(at, part): (usize, &usize)| {
                        let alike = node.alike.as_ref().and_then(|alike| alike.get(at));
                        alike.into_iter().flatten().map(of).fold(of(part), u64::saturating_add)
                    };
                    node.parts.iter().enumerate().map(open).fold(node.ways, u64::max)
                })
                .collect();
            if next.iter().any(|ways| *ways > MAX_WAYS) {
                return false;
            }
            if next == ways {
                return true;
            }
            ways = next;
        }
        true
    }
}

/// How the values of each rule may begin.
fn kinds(all: &[(&str, Shape)], parts: &[Vec<usize>]) -> Vec<u8> {
    let own = |(_, shape): &(&str, Shape)| match shape {
        Shape::Value { kinds, .. } => *kinds,
        Shape::Object { .. } => OBJECT,
        Shape::Array(_) => ARRAY,
        Shape::Union(_) | Shape::Same(_) => 0,
    };
    let mut kinds: Vec<u8> = all.iter().map(own).collect();
    loop {
        let of = |at: &usize| kinds.get(*at).copied().unwrap_or(ANY);
        let next: Vec<u8> = all
            .iter()
            .zip(parts)
            .zip(&kinds)
            .map(|(((_, shape), parts), own)| match shape {
                Shape::Union(_) | Shape::Same(_) => parts.iter().map(of).fold(*own, |all, one| all | one),
                _ => *own,
            })
            .collect();
        if next == kinds {
            return kinds;
        }
        kinds = next;
    }
}
