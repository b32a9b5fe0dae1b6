//! Refuses grammars and schemas that llama.cpp would crash on, expand without bound, or silently not obey.
//!
//! Pure: turning a schema into a grammar and a grammar into a sampler is llama.cpp's. Texts of refusals name the rule that
//! was broken, never the schema's words: those are a client's data.

use serde_json::{Map, Value};
use spillway_actors::gpu::frame::Grammar;

const MAX_BYTES: usize = 64 << 10;
const MAX_DEPTH: usize = 32;
/// Properties of all objects together.
const MAX_PROPERTIES: usize = 1024;
/// Values of all `enum`s together.
const MAX_ENUM_VALUES: usize = 2048;
/// Schemas inside the schema.
const MAX_NODES: usize = 4096;
/// Largest length, item count or repetition; llama.cpp writes each one out.
const MAX_REPEAT: u64 = 1024;
const MAX_PATTERN_BYTES: usize = 256;
const MAX_PATTERN_DEPTH: usize = 8;
/// Brackets inside brackets in a grammar; llama.cpp's parser calls itself for each.
const MAX_GROUP_DEPTH: usize = 64;

/// What is wrong, for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadGrammar(String);

fn bad<T>(what: impl Into<String>) -> Result<T, BadGrammar> {
    Err(BadGrammar(what.into()))
}

/// `Ok`: llama.cpp may see it. It may still refuse it.
pub fn check(grammar: &Grammar) -> Result<(), BadGrammar> {
    let (name, text) = match grammar {
        Grammar::Gbnf(text) => ("grammar", text),
        Grammar::JsonSchema(text) => ("JSON schema", text),
    };
    if text.len() > MAX_BYTES {
        return bad(format!("the {name} has {} bytes, more than {MAX_BYTES}", text.len()));
    }
    if text.contains('\0') {
        return bad(format!("the {name} holds a zero byte"));
    }
    match grammar {
        Grammar::Gbnf(text) => check_gbnf(text),
        Grammar::JsonSchema(text) => match serde_json::from_str::<Value>(text) {
            Ok(schema) => check_schema(&schema),
            Err(_) => bad("the JSON schema is no JSON"),
        },
    }
}

/// Only what costs or crashes: llama.cpp's parser finds the rest.
fn check_gbnf(text: &str) -> Result<(), BadGrammar> {
    let (mut depth, mut chars) = (0usize, text.chars());
    while let Some(char) = chars.next() {
        match char {
            '"' => skip_to(&mut chars, '"'),
            '[' => skip_to(&mut chars, ']'),
            '#' => drop(chars.by_ref().find(|char| *char == '\n')),
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '{' => check_repeat(&chars.by_ref().take_while(|char| *char != '}').collect::<String>())?,
            _ => {}
        }
        if depth > MAX_GROUP_DEPTH {
            return bad(format!("the grammar nests more than {MAX_GROUP_DEPTH} groups"));
        }
    }
    Ok(())
}

fn skip_to(chars: &mut std::str::Chars<'_>, end: char) {
    while let Some(char) = chars.next() {
        match char {
            '\\' => drop(chars.next()),
            char if char == end => return,
            _ => {}
        }
    }
}

/// The inside of `{m,n}`.
fn check_repeat(inside: &str) -> Result<(), BadGrammar> {
    let bounds: Vec<&str> = inside.split(',').map(str::trim).collect();
    let number = |text: &str| text.parse::<u64>().ok().filter(|count| *count <= MAX_REPEAT);
    let fine = match bounds[..] {
        [exactly] => number(exactly).is_some(),
        [least, ""] => number(least).is_some(),
        [least, most] => matches!((number(least), number(most)), (Some(least), Some(most)) if least <= most),
        _ => false,
    };
    if fine {
        Ok(())
    } else {
        bad(format!("a repetition must be {{m}}, {{m,}} or {{m,n}} with numbers up to {MAX_REPEAT}"))
    }
}

#[derive(Default)]
struct Counts {
    nodes: usize,
    properties: usize,
    enum_values: usize,
}

fn check_schema(schema: &Value) -> Result<(), BadGrammar> {
    if !schema.is_object() {
        return bad("the JSON schema must be an object");
    }
    let mut counts = Counts::default();
    check_value(schema, 0, &mut counts)?;
    match counts {
        Counts { properties, .. } if properties > MAX_PROPERTIES => {
            bad(format!("the JSON schema has more than {MAX_PROPERTIES} properties"))
        }
        Counts { enum_values, .. } if enum_values > MAX_ENUM_VALUES => {
            bad(format!("the JSON schema has more than {MAX_ENUM_VALUES} enum values"))
        }
        Counts { nodes, .. } if nodes > MAX_NODES => bad("the JSON schema has too many parts"),
        _ => Ok(()),
    }
}

/// Everything is looked at, also where no schema belongs: a value that is none costs only its count.
fn check_value(value: &Value, depth: usize, counts: &mut Counts) -> Result<(), BadGrammar> {
    if depth > MAX_DEPTH {
        return bad(format!("the JSON schema is nested more than {MAX_DEPTH} deep"));
    }
    match value {
        Value::Object(object) => {
            counts.nodes += 1;
            check_keywords(object, counts)?;
            object.values().try_for_each(|value| check_value(value, depth + 1, counts))
        }
        Value::Array(values) => values.iter().try_for_each(|value| check_value(value, depth + 1, counts)),
        _ => Ok(()),
    }
}

fn check_keywords(object: &Map<String, Value>, counts: &mut Counts) -> Result<(), BadGrammar> {
    counts.properties += object.get("properties").and_then(Value::as_object).map_or(0, Map::len);
    counts.enum_values += object.get("enum").and_then(Value::as_array).map_or(0, Vec::len);
    for keyword in ["minLength", "maxLength", "minItems", "maxItems"] {
        if let Some(number) = object.get(keyword).filter(|value| value.is_number())
            && number.as_u64().is_none_or(|number| number > MAX_REPEAT)
        {
            return bad(format!("{keyword} must be a whole number up to {MAX_REPEAT}"));
        }
    }
    for keyword in ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"] {
        if let Some(number) = object.get(keyword).filter(|value| value.is_number())
            && number.as_f64().is_none_or(|number| number.abs() > 9e15)
        {
            return bad(format!("{keyword} is out of range"));
        }
    }
    if let Some(Value::String(reference)) = object.get("$ref")
        && !reference.starts_with('#')
    {
        return bad("$ref must point into the schema itself (#/…)");
    }
    match object.get("pattern") {
        Some(Value::String(pattern)) => check_pattern(pattern),
        _ => Ok(()),
    }
}

/// The regular expressions that llama.cpp translates faithfully: anchored at both ends; literals, classes, groups, `|`,
/// and repetitions. For others it accepts any string, without a word to the client.
fn check_pattern(pattern: &str) -> Result<(), BadGrammar> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return bad(format!("a pattern has more than {MAX_PATTERN_BYTES} bytes"));
    }
    let Some(inside) = pattern.strip_prefix('^').and_then(|rest| rest.strip_suffix('$')) else {
        return bad("a pattern must begin with ^ and end with $");
    };
    let mut walk = PatternWalk { rest: inside.chars().collect::<Vec<_>>(), depth: 0, may_repeat: false };
    walk.rest.reverse();
    while let Some(char) = walk.rest.pop() {
        walk.step(char)?;
    }
    if walk.depth == 0 { Ok(()) } else { bad("a pattern has an open group") }
}

struct PatternWalk {
    /// Reversed.
    rest: Vec<char>,
    depth: usize,
    /// Whether a repetition may follow.
    may_repeat: bool,
}

impl PatternWalk {
    fn step(&mut self, char: char) -> Result<(), BadGrammar> {
        match char {
            '*' | '+' | '?' | '{' if !self.may_repeat => return bad("a pattern repeats nothing"),
            '*' | '+' | '?' => self.may_repeat = false,
            '{' => {
                let inside = self.until('}', "a pattern has an open repetition")?;
                check_repeat(&inside)?;
                self.may_repeat = false;
            }
            '(' => self.open()?,
            ')' if self.depth == 0 => return bad("a pattern closes a group that is not open"),
            ')' => {
                self.depth -= 1;
                self.may_repeat = true;
            }
            '|' => self.may_repeat = false,
            '[' => {
                let inside = self.until(']', "a pattern has an open character class")?;
                if inside.is_empty() || inside == "^" || inside.contains('[') {
                    return bad("a pattern has a character class that is not supported");
                }
                self.may_repeat = true;
            }
            '^' | '$' => return bad("a pattern has an anchor inside"),
            '\\' => self.escape()?,
            _ => self.may_repeat = true,
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), BadGrammar> {
        if self.rest.last() == Some(&'?') {
            self.rest.pop();
            if self.rest.pop() != Some(':') {
                return bad("a pattern has a kind of group that is not supported");
            }
        }
        self.depth += 1;
        self.may_repeat = false;
        if self.depth > MAX_PATTERN_DEPTH {
            bad(format!("a pattern nests more than {MAX_PATTERN_DEPTH} groups"))
        } else {
            Ok(())
        }
    }

    fn escape(&mut self) -> Result<(), BadGrammar> {
        match self.rest.pop() {
            Some(char) if char.is_ascii_punctuation() => {}
            Some('n' | 't' | 'r') => {}
            _ => {
                return bad(
                    "a pattern has an escape that is not supported: write the characters out, e.g. [0-9] for \\d",
                );
            }
        }
        self.may_repeat = true;
        Ok(())
    }

    fn until(&mut self, end: char, missing: &str) -> Result<String, BadGrammar> {
        let mut inside = String::new();
        while let Some(char) = self.rest.pop() {
            if char == end {
                return Ok(inside);
            }
            inside.push(char);
            if char == '\\' {
                match self.rest.pop() {
                    Some(escaped) if escaped.is_ascii_punctuation() || "ntr".contains(escaped) => inside.push(escaped),
                    _ => return bad("a pattern has an escape that is not supported in a character class"),
                }
            }
        }
        bad(missing)
    }
}

#[cfg(test)]
mod tests;
