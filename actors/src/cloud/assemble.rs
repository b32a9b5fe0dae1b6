//! From a stream's deltas to a whole answer. Providers are always asked to stream, because a stream shows within seconds
//! that nobody is there; a client that wants one piece gets it from here. Pure.

use crate::domain::{Delta, Imprint};
use crate::upstream::chunk::{WholeAnswer, WholeChoice};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Fields that a provider may repeat in every delta: the first one counts.
const SAID_ONCE: [&str; 5] = ["id", "type", "name", "index", "role"];

#[derive(Debug, Default)]
struct Choice {
    content: Option<String>,
    other: Map<String, Value>,
    logprobs: Option<Value>,
    finish_reason: Option<String>,
}

/// Collects the deltas of one answer.
#[derive(Debug, Default)]
pub struct Assembler {
    choices: BTreeMap<u32, Choice>,
    bytes: usize,
}

/// The answer is larger than any answer may be.
#[derive(Debug, PartialEq, Eq)]
pub struct TooMuch;

/// Largest answer that is put together, in bytes of its JSON; at most this many choices.
const MAX_BYTES: usize = 32 << 20;
const MAX_CHOICES: usize = 256;
/// Elements of a list that are told apart by their index, like tool calls: more than any API allows.
const MAX_INDEXED: usize = 256;
/// Charged for a delta whatever it holds.
const DELTA_BYTES: usize = 16;

impl Assembler {
    /// Adds one delta.
    ///
    /// # Errors
    /// The answer has grown beyond its bound; what is here must be thrown away.
    pub fn delta(&mut self, delta: Delta) -> Result<(), TooMuch> {
        let others = delta.other.values().chain(&delta.logprobs).map(size).sum::<usize>();
        self.bytes += delta.content.as_ref().map_or(0, String::len) + others + DELTA_BYTES;
        let new_choice = !self.choices.contains_key(&delta.choice);
        if self.bytes > MAX_BYTES || (new_choice && self.choices.len() >= MAX_CHOICES) {
            return Err(TooMuch);
        }
        let choice = self.choices.entry(delta.choice).or_default();
        if let Some(text) = delta.content {
            choice.content.get_or_insert_default().push_str(&text);
        }
        for (name, value) in delta.other {
            merge_field(&mut choice.other, name, value)?;
        }
        if let Some(logprobs) = delta.logprobs {
            match &mut choice.logprobs {
                Some(sofar) => merge(sofar, logprobs)?,
                none => *none = Some(logprobs),
            }
        }
        Ok(())
    }

    pub fn finish(&mut self, choice: u32, reason: String) {
        if self.choices.len() < MAX_CHOICES || self.choices.contains_key(&choice) {
            self.choices.entry(choice).or_default().finish_reason = Some(reason);
        }
    }

    /// With what was said of whatever made it, if anything was.
    pub fn into_answer(self, imprint: Option<&Imprint>) -> WholeAnswer {
        let choices = self.choices.into_iter().map(|(index, choice)| choice.whole(index)).collect();
        let fields = imprint.into_iter().flat_map(Imprint::fields);
        let raw = fields.map(|(name, said)| (name.to_owned(), said.into())).collect();
        WholeAnswer { choices, raw, usage: None }
    }
}

impl Choice {
    fn whole(mut self, index: u32) -> WholeChoice {
        if let Some(Value::Array(calls)) = self.other.get_mut("tool_calls") {
            for call in calls {
                // An index orders deltas; a whole answer's array is ordered already.
                call.as_object_mut().map(|call| call.shift_remove("index"));
            }
        }
        let mut message = Map::new();
        message.insert("role".into(), "assistant".into());
        message.insert("content".into(), self.content.map_or(Value::Null, Value::String));
        message.extend(self.other);
        let finish_reason = self.finish_reason.unwrap_or_else(|| "stop".to_owned());
        WholeChoice { index, message, finish_reason, logprobs: self.logprobs }
    }
}

/// Roughly the memory of a value's JSON, in bytes.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + DELTA_BYTES,
        Value::Array(items) => items.iter().map(size).sum::<usize>() + DELTA_BYTES,
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| name.len() + size(value)).sum::<usize>() + DELTA_BYTES
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => DELTA_BYTES,
    }
}

fn merge_field(into: &mut Map<String, Value>, name: String, value: Value) -> Result<(), TooMuch> {
    match into.get_mut(&name) {
        Some(Value::Null) | None if value.is_array() => {
            let mut list = Value::Array(Vec::new());
            merge(&mut list, value)?;
            into.insert(name, list);
        }
        Some(Value::Null) | None => drop(into.insert(name, value)),
        Some(_) if SAID_ONCE.contains(&name.as_str()) => {}
        Some(sofar) => merge(sofar, value)?,
    }
    Ok(())
}

/// Strings go on, objects merge by field, lists merge by their elements' `index` or go on.
fn merge(into: &mut Value, value: Value) -> Result<(), TooMuch> {
    match (into, value) {
        (_, Value::Null) => {}
        (Value::String(sofar), Value::String(more)) => sofar.push_str(&more),
        (Value::Object(sofar), Value::Object(more)) => {
            more.into_iter().try_for_each(|(name, value)| merge_field(sofar, name, value))?;
        }
        (Value::Array(sofar), Value::Array(more)) => {
            more.into_iter().try_for_each(|value| merge_element(sofar, value))?;
        }
        (sofar, value) => *sofar = value,
    }
    Ok(())
}

/// Every element with an index is looked for among those before it, which is why they are bounded.
fn merge_element(sofar: &mut Vec<Value>, value: Value) -> Result<(), TooMuch> {
    let Some(index) = value.get("index") else {
        sofar.push(value);
        return Ok(());
    };
    let is_full = sofar.len() >= MAX_INDEXED;
    match sofar.iter_mut().rev().find(|other| other.get("index") == Some(index)) {
        Some(twin) => merge(twin, value),
        None if is_full => Err(TooMuch),
        None => {
            sofar.push(value);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn other(value: Value) -> Delta {
        let Value::Object(other) = value else { panic!("an object") };
        Delta { other, ..Delta::default() }
    }

    #[test]
    fn text_tool_calls_and_unknown_fields_are_put_together() {
        let mut assembler = Assembler::default();
        assembler.delta(Delta { content: Some("Hel".into()), ..Delta::default() }).unwrap();
        assembler.delta(Delta { content: Some("lo".into()), ..Delta::default() }).unwrap();
        assembler
            .delta(other(json!({"reasoning_content": "be", "tool_calls": [
            {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\""}}]})))
            .unwrap();
        assembler
            .delta(other(json!({"reasoning_content": "cause", "tool_calls": [
            {"index": 0, "id": "a", "function": {"arguments": ":1}"}},
            {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}]})))
            .unwrap();
        assembler.finish(0, "tool_calls".into());
        let answer = assembler.into_answer(None);
        assert_eq!(
            Value::Object(answer.choices[0].message.clone()),
            json!({"role": "assistant", "content": "Hello", "reasoning_content": "because", "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
                {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}]})
        );
        assert_eq!(answer.choices[0].finish_reason, "tool_calls");
        assert!(answer.raw.is_empty());
    }

    #[test]
    fn who_made_a_stream_is_told_of_the_whole() {
        let imprint = Imprint { system_fingerprint: Some("fp_1".into()), service_tier: None };
        let answer = Assembler::default().into_answer(Some(&imprint));
        assert_eq!(Value::Object(answer.raw), json!({"system_fingerprint": "fp_1"}));
    }

    #[test]
    fn an_answer_without_end_is_refused() {
        let mut assembler = Assembler::default();
        let piece = Delta { content: Some("x".repeat(1 << 20)), ..Delta::default() };
        assert!((0..31).all(|_| assembler.delta(piece.clone()).is_ok()));
        assert_eq!(assembler.delta(piece), Err(TooMuch));
    }

    #[test]
    fn a_list_of_endlessly_many_indexed_elements_is_refused() {
        let mut assembler = Assembler::default();
        let calls = |indices: std::ops::Range<usize>| -> Delta {
            other(json!({"tool_calls": indices.map(|index| json!({"index": index})).collect::<Vec<_>>()}))
        };
        assembler.delta(calls(0..MAX_INDEXED)).unwrap();
        assembler.delta(calls(0..MAX_INDEXED)).unwrap();
        assert_eq!(assembler.delta(calls(MAX_INDEXED..MAX_INDEXED + 1)), Err(TooMuch));
        assert_eq!(Assembler::default().delta(calls(0..MAX_INDEXED + 1)), Err(TooMuch));
    }

    #[test]
    fn several_choices_stay_apart_and_logprobs_go_on() {
        let mut assembler = Assembler::default();
        for (choice, text) in [(1, "b"), (0, "a"), (1, "c")] {
            let logprobs = Some(json!({"content": [{"token": text}]}));
            assembler.delta(Delta { choice, content: Some(text.into()), logprobs, ..Delta::default() }).unwrap();
        }
        let answer = assembler.into_answer(None);
        let text = |at: usize| answer.choices[at].message["content"].clone();
        assert_eq!((text(0), text(1)), (json!("a"), json!("bc")));
        assert_eq!(answer.choices[1].logprobs, Some(json!({"content": [{"token": "b"}, {"token": "c"}]})));
    }
}
