//! Two schemas that hold at once, as one. What cannot be said as one is refused.

use super::{Unfit, constraints, pointer::resolve, types};
use serde_json::{Map, Value, json};
use std::cell::Cell;

/// Merges of one schema. Merging copies, and a part may be merged in many places.
const MAX_MERGES: usize = 1024;
/// Merges inside merges.
const MAX_DEPTH: usize = 32;

const NEVER: Value = Value::Bool(false);

/// Merges the parts of one schema, so many of them.
pub(super) struct Merger<'a> {
    root: &'a Value,
    left: Cell<usize>,
    depth: Cell<usize>,
}

impl<'a> Merger<'a> {
    pub(super) const fn new(root: &'a Value) -> Self {
        Self { root, left: Cell::new(MAX_MERGES), depth: Cell::new(0) }
    }

    /// A schema with its reference and its `allOf` worked in.
    pub(super) fn all_of(&self, schema: &Map<String, Value>) -> Result<Map<String, Value>, Unfit> {
        let mut merged = self.followed(schema)?;
        let Some(parts) = merged.shift_remove("allOf") else { return Ok(merged) };
        let Value::Array(parts) = parts else { return Err(Unfit::new("'allOf' must be an array")) };
        for part in &parts {
            let both = self.both(&merged, part)?;
            merged = both.ok_or_else(|| Unfit::new("the parts of 'allOf' contradict each other"))?;
        }
        Ok(merged)
    }

    /// One merge deeper.
    fn inside<T>(&self, merge: impl FnOnce() -> Result<T, Unfit>) -> Result<T, Unfit> {
        let left = self.left.get().checked_sub(1).filter(|_| self.depth.get() < MAX_DEPTH);
        self.left.set(left.ok_or_else(|| Unfit::new("it refers to itself without end, or has too many parts"))?);
        self.depth.set(self.depth.get() + 1);
        let merged = merge();
        self.depth.set(self.depth.get() - 1);
        merged
    }

    /// The target of a reference, together with what stands beside it.
    fn followed(&self, schema: &Map<String, Value>) -> Result<Map<String, Value>, Unfit> {
        let Some(reference) = schema.get("$ref") else { return Ok(schema.clone()) };
        let mut beside = schema.clone();
        beside.shift_remove("$ref");
        let target = match resolve(self.root, reference)?.1 {
            Value::Object(target) => self.inside(|| self.followed(target))?,
            Value::Bool(true) => Map::new(),
            _ => return Err(Unfit::new("'$ref' points to no schema")),
        };
        join(target, beside)?.ok_or_else(|| Unfit::new("'$ref' and what stands beside it contradict each other"))
    }

    /// `None`: nothing satisfies both.
    pub(super) fn both(&self, one: &Map<String, Value>, other: &Value) -> Result<Option<Map<String, Value>>, Unfit> {
        let other = match other {
            Value::Object(other) => self.inside(|| self.all_of(other))?,
            Value::Bool(true) => Map::new(),
            Value::Bool(false) => return Ok(None),
            _ => return Err(Unfit::new("a schema must be an object")),
        };
        join(self.inside(|| self.all_of(one))?, other)
    }
}

fn join(mut one: Map<String, Value>, mut other: Map<String, Value>) -> Result<Option<Map<String, Value>>, Unfit> {
    close(&mut one, &mut other);
    let words: Vec<String> = constraints(&other).map(str::to_owned).collect();
    for word in words {
        let Some(theirs) = other.shift_remove(&word) else { continue };
        let joined = match one.get(&word) {
            None => Some(theirs),
            Some(ours) if *ours == theirs => Some(theirs),
            Some(ours) => join_word(&word, ours, &theirs)?,
        };
        match joined {
            Some(joined) => drop(one.insert(word, joined)),
            None => return Ok(None),
        }
    }
    Ok(Some(one))
}

/// Where one side takes no other properties, those that only the other side names are not allowed.
fn close(one: &mut Map<String, Value>, other: &mut Map<String, Value>) {
    let names = |schema: &Map<String, Value>| -> Vec<String> {
        schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys).cloned().collect()
    };
    let (ours, theirs) = (names(one), names(other));
    let is_closed = |schema: &Map<String, Value>| schema.get("additionalProperties") == Some(&NEVER);
    let (ours_closed, theirs_closed) = (is_closed(one), is_closed(other));
    let forbid = |schema: &mut Map<String, Value>, allowed: &[String]| {
        for (name, property) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
            if !allowed.contains(name) {
                *property = NEVER;
            }
        }
    };
    if ours_closed {
        forbid(other, &ours);
    }
    if theirs_closed {
        forbid(one, &theirs);
    }
}

/// `None`: they contradict each other.
fn join_word(word: &str, ours: &Value, theirs: &Value) -> Result<Option<Value>, Unfit> {
    let refuse = || Err(Unfit::new(format!("'{word}' in two places that hold at once is not supported")));
    match (word, ours, theirs) {
        ("type", ours, theirs) => join_types(ours, theirs),
        ("properties", Value::Object(ours), Value::Object(theirs)) => {
            let mut joined = ours.clone();
            for (name, theirs) in theirs {
                let both = match joined.get(name) {
                    None => theirs.clone(),
                    Some(ours) if *ours == NEVER || *theirs == NEVER => NEVER,
                    Some(ours) if ours == theirs => theirs.clone(),
                    Some(ours) => json!({"allOf": [ours, theirs]}),
                };
                joined.insert(name.clone(), both);
            }
            Ok(Some(joined.into()))
        }
        ("required", Value::Array(ours), Value::Array(theirs)) => {
            let more = theirs.iter().filter(|name| !ours.contains(name));
            Ok(Some(ours.iter().chain(more).cloned().collect()))
        }
        ("enum", Value::Array(ours), Value::Array(theirs)) => {
            let shared: Vec<Value> = ours.iter().filter(|value| theirs.contains(value)).cloned().collect();
            Ok((!shared.is_empty()).then(|| shared.into()))
        }
        ("const", _, _) => Ok(None),
        ("minimum" | "exclusiveMinimum" | "minLength" | "minItems" | "minProperties", ours, theirs) => {
            Ok(Some(if ours.as_f64() >= theirs.as_f64() { ours } else { theirs }.clone()))
        }
        ("maximum" | "exclusiveMaximum" | "maxLength" | "maxItems" | "maxProperties", ours, theirs) => {
            Ok(Some(if ours.as_f64() <= theirs.as_f64() { ours } else { theirs }.clone()))
        }
        ("additionalProperties" | "items", Value::Bool(false), _)
        | ("additionalProperties" | "items", _, Value::Bool(false)) => Ok(Some(NEVER)),
        ("additionalProperties" | "items", Value::Bool(true), other)
        | ("additionalProperties" | "items", other, Value::Bool(true)) => Ok(Some(other.clone())),
        ("additionalProperties" | "items", ours, theirs) => Ok(Some(json!({"allOf": [ours, theirs]}))),
        ("uniqueItems", _, _) => Ok(Some(Value::Bool(true))),
        _ => refuse(),
    }
}

fn join_types(ours: &Value, theirs: &Value) -> Result<Option<Value>, Unfit> {
    let names = |value: &Value| types(&Map::from_iter([("type".to_owned(), value.clone())]));
    let (ours, theirs) = (names(ours)?.unwrap_or_default(), names(theirs)?.unwrap_or_default());
    let mut shared: Vec<Value> = Vec::new();
    for name in &ours {
        if theirs.contains(name) || (*name == "integer" && theirs.contains(&"number")) {
            shared.push((*name).into());
        } else if *name == "number" && theirs.contains(&"integer") {
            shared.push("integer".into());
        }
    }
    Ok((!shared.is_empty()).then(|| shared.into()))
}
