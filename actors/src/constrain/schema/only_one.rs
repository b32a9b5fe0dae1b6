//! Whether what is generated for one alternative of a `oneOf` can never satisfy another one. Careful: an unproved "never"
//! is a "maybe".

use super::{TYPES, is_of, merge::Merger, types};
use serde_json::{Map, Value};

/// Properties inside properties that are compared.
const MAX_DEPTH: usize = 4;

/// No alternative's answer satisfies another alternative.
pub(super) fn matches(merger: &Merger<'_>, alternatives: &[Value]) -> bool {
    let pairs = alternatives.iter().enumerate().flat_map(|(at, one)| {
        alternatives.iter().enumerate().filter(move |(other, _)| *other != at).map(move |(_, other)| (one, other))
    });
    alternatives.len() <= 64 && pairs.into_iter().all(|(one, other)| never(merger, one, other, MAX_DEPTH))
}

/// What is generated for `one` never satisfies `other`.
fn never(merger: &Merger<'_>, one: &Value, other: &Value, depth: usize) -> bool {
    if *other == Value::Bool(false) {
        return true;
    }
    let (Value::Object(one), Value::Object(other)) = (one, other) else { return false };
    let (Ok(one), Ok(other)) = (merger.all_of(one), merger.all_of(other)) else { return false };
    if let (Some(ours), Some(theirs)) = (values(&one), values(&other)) {
        return !ours.iter().any(|value| theirs.contains(value));
    }
    let (ours, theirs) = (kinds(&one), kinds(&other));
    if let Some(values) = values(&one) {
        return values.iter().all(|value| !theirs.iter().any(|name| is_of(value, name)));
    }
    let overlaps = |name: &str| match name {
        // A decimal may be whole.
        "integer" | "number" => theirs.contains(&"integer") || theirs.contains(&"number"),
        name => theirs.contains(&name),
    };
    match ours.iter().find(|name| overlaps(name)) {
        None => true,
        Some(&"object") if ours.len() == 1 => objects_never(merger, &one, &other, depth),
        Some(_) => false,
    }
}

fn objects_never(merger: &Merger<'_>, one: &Map<String, Value>, other: &Map<String, Value>, depth: usize) -> bool {
    let property =
        |schema: &Map<String, Value>, name: &str| schema.get("properties").and_then(|all| all.get(name)).cloned();
    let named = one.get("properties").and_then(Value::as_object);
    let is_open_map = named.is_none_or(Map::is_empty);
    let lacks = required(other).any(|name| property(one, name).is_none() && !required(one).any(|ours| ours == name));
    let is_refused = other.get("additionalProperties") == Some(&Value::Bool(false))
        && required(one).any(|name| property(other, name).is_none());
    let differs = depth > 0
        && required(one).any(|name| match (property(one, name), property(other, name)) {
            (Some(ours), Some(theirs)) => never(merger, &ours, &theirs, depth - 1),
            _ => false,
        });
    (lacks && !is_open_map) || is_refused || differs
}

fn required(schema: &Map<String, Value>) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn values(schema: &Map<String, Value>) -> Option<Vec<Value>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(value), _) => Some(vec![value.clone()]),
        (None, Some(Value::Array(values))) => Some(values.clone()),
        _ => None,
    }
}

/// Types it may be; all of them when it does not say.
fn kinds(schema: &Map<String, Value>) -> Vec<&'static str> {
    types(schema).ok().flatten().unwrap_or_else(|| TYPES.to_vec())
}
