//! Two schemas that hold at once, as one. What cannot be said as one is refused.

use super::{Unfit, array::items, constraints, pointer::resolve, types};
use serde_json::{Map, Value, json};
use std::cell::Cell;

/// Merges of one schema. Merging copies, and a part may be merged in many places.
const MAX_MERGES: usize = 1024;
/// Merges inside merges.
const MAX_DEPTH: usize = 32;

const NEVER: Value = Value::Bool(false);
const ANYTHING: Value = Value::Bool(true);

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
    spread(&mut one, &mut other);
    line_up(&mut one, &mut other)?;
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

/// What one side says of other properties holds for those that only the other side names.
fn spread(one: &mut Map<String, Value>, other: &mut Map<String, Value>) {
    let names = |schema: &Map<String, Value>| -> Vec<String> {
        schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys).cloned().collect()
    };
    let (ours, theirs) = (names(one), names(other));
    let rest = |schema: &Map<String, Value>| schema.get("additionalProperties").cloned().unwrap_or(ANYTHING);
    let (our_rest, their_rest) = (rest(one), rest(other));
    let hold = |schema: &mut Map<String, Value>, named: &[String], rest: &Value| {
        for (name, property) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
            if !named.contains(name) {
                *property = both_of(property, rest);
            }
        }
    };
    hold(other, &ours, &our_rest);
    hold(one, &theirs, &their_rest);
}

/// The same for arrays: where either side names items by their place, both do, and as many.
fn line_up(one: &mut Map<String, Value>, other: &mut Map<String, Value>) -> Result<(), Unfit> {
    let ((our_tuple, our_rest), (their_tuple, their_rest)) = (items(one)?, items(other)?);
    let places = our_tuple.len().max(their_tuple.len());
    if places == 0 {
        return Ok(());
    }
    let at = |tuple: &[Value], rest: &Value, place: usize| tuple.get(place).unwrap_or(rest).clone();
    let both = |place| both_of(&at(our_tuple, our_rest, place), &at(their_tuple, their_rest, place));
    let tuple: Vec<Value> = (0..places).map(both).collect();
    let rest = both_of(our_rest, their_rest);
    for word in ["prefixItems", "items", "additionalItems"] {
        one.shift_remove(word);
        other.shift_remove(word);
    }
    one.insert("prefixItems".to_owned(), tuple.into());
    one.insert("items".to_owned(), rest);
    Ok(())
}

fn both_of(ours: &Value, theirs: &Value) -> Value {
    match (ours, theirs) {
        (Value::Bool(false), _) | (_, Value::Bool(false)) => NEVER,
        (Value::Bool(true), only) | (only, Value::Bool(true)) => only.clone(),
        (ours, theirs) if ours == theirs => ours.clone(),
        (ours, theirs) => json!({"allOf": [ours, theirs]}),
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
                    Some(ours) => both_of(ours, theirs),
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
        ("additionalProperties" | "items", ours, theirs) => Ok(Some(both_of(ours, theirs))),
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
