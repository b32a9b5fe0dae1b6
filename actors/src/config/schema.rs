//! The configuration's JSON Schema, for editors. Derived from what the reading itself asks for: each typed read notes which key it
//! wants and what that may hold. Descriptions and defaults are those of the documented file. It judges less than the reading
//! does: what one key means for another, only `spillway check` says.

use super::{
    raw::{self, Node, Texts, Value as Raw},
    resolve::known,
    sources::{BUILT_IN, Sources},
};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, ops::RangeInclusive, path::PathBuf};

/// Stands in a trail for an entry of a list, or for a name of the operator's own.
pub(super) const EACH: &str = "*";

/// Keys by their trail.
pub(super) type Known = BTreeMap<Vec<&'static str>, Kind>;

/// What a key may hold.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// It is read by hand; only the reading knows.
    Any,
    Text,
    Texts,
    Flag,
    Integer(RangeInclusive<u64>),
    Decimal(f64, f64),
    /// The word, or the other.
    OrWord(String, Box<Kind>),
    Words(Vec<String>),
    Table,
    Tables,
    /// A table whose keys are the operator's own names.
    TablesByName,
    TextsByName,
}

impl Kind {
    pub(super) fn or_word(word: &str, other: Self) -> Self {
        Self::OrWord(word.to_owned(), Box::new(other))
    }

    pub(super) fn decimal(range: &RangeInclusive<f32>) -> Self {
        Self::Decimal(f64::from(*range.start()), f64::from(*range.end()))
    }
}

/// What the documented file leaves out because it need not be said; read once for its keys.
const REST: &str = r#"
[[local]]
engine = "http"
model = "m"
base_url = "http://127.0.0.1:9/v1"
[[cloud]]
name = "c"
base_url = "https://c.test/v1"
api_keys_env = ["C"]
[[cloud.models]]
name = "n"
upstream = "n"
kind = "chat"
context_tokens = 4096
prefill_style = "none"
input_usd_per_mtok = 1
cached_usd_per_mtok = 1
cache_write_usd_per_mtok = 1
output_usd_per_mtok = 1
source = "s"
as_of = "2026-11-23"
typical_latency_ms = 1
[models.own]
sources = ["hf:o/r/f.gguf"]
title = "t"
file = "f.gguf"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
bytes = 1
context_tokens = 1
capabilities = []
smaller = []
"#;

/// The schema of a configuration file. No key is required: what a file leaves out, the built-in defaults say.
pub fn schema() -> Value {
    let mut all = known(&Sources::default());
    for (trail, kind) in known(&Sources { file: Some((PathBuf::from("rest"), REST.to_owned())), ..Sources::default() })
    {
        if kind != Kind::Any || !all.contains_key(&trail) {
            all.insert(trail, kind);
        }
    }
    let mut texts = Texts::default();
    let (built_in, _) = raw::parse(&mut texts, "built-in".to_owned(), raw::Layer::BuiltIn, BUILT_IN);
    let facts = Facts { known: &all, comments: comments(BUILT_IN), built_in: &built_in };
    let mut schema = facts.table(&[]);
    if let Some(object) = schema.as_object_mut() {
        object.shift_insert(0, "$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
        object.shift_insert(1, "title".to_owned(), "Spillway's configuration".into());
    }
    schema
}

struct Facts<'a> {
    known: &'a Known,
    comments: BTreeMap<Vec<String>, String>,
    built_in: &'a Node,
}

impl Facts<'_> {
    /// The schema of the table at `trail`.
    fn table(&self, trail: &[&'static str]) -> Value {
        let below = self.known.iter().filter(|(key, _)| key.len() == trail.len() + 1 && key.starts_with(trail));
        let keys: Map<String, Value> = below
            .filter_map(|(key, kind)| Some(((*key.last()?).to_owned(), self.key(key, kind))))
            .filter(|(name, _)| name != EACH)
            .collect();
        json!({"type": "object", "properties": keys, "additionalProperties": false})
    }

    fn key(&self, trail: &[&'static str], kind: &Kind) -> Value {
        let each = || self.table(&[trail, &[EACH]].concat());
        let mut schema = match kind {
            Kind::Table => self.table(trail),
            Kind::Tables => json!({"type": "array", "items": each()}),
            Kind::TablesByName => json!({"type": "object", "additionalProperties": each()}),
            Kind::TextsByName => json!({"type": "object", "additionalProperties": {"type": "string"}}),
            plain => of_plain(plain),
        };
        let named: Vec<String> = trail.iter().map(|step| (*step).to_owned()).collect();
        if let Some(object) = schema.as_object_mut() {
            if let Some(comment) = self.comments.get(&named) {
                object.insert("description".to_owned(), comment.as_str().into());
            }
            if let Some(default) = self.default_of(trail) {
                object.insert("default".to_owned(), default);
            }
        }
        schema
    }

    /// A single value that a file may leave out. What makes a provider, or one of its models, has none.
    fn default_of(&self, trail: &[&str]) -> Option<Value> {
        let own = ["name", "base_url", "api_keys_env", "models"];
        if let ["cloud", EACH, key, ..] = trail
            && own.contains(key)
        {
            return None;
        }
        let found = trail.iter().try_fold(self.built_in, |node, step| match *step {
            EACH => node.array()?.first(),
            key => Some(&node.table()?.get(key)?.node),
        });
        json_of(found?)
    }
}

fn of_plain(kind: &Kind) -> Value {
    match kind {
        Kind::Text => json!({"type": "string"}),
        Kind::Texts => json!({"type": "array", "items": {"type": "string"}}),
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Integer(range) => json!({"type": "integer", "minimum": range.start(), "maximum": range.end()}),
        Kind::Decimal(least, most) => json!({"type": "number", "minimum": least, "maximum": most}),
        Kind::OrWord(word, other) => json!({"anyOf": [{"const": word}, of_plain(other)]}),
        Kind::Words(words) => json!({"enum": words}),
        _ => json!({}),
    }
}

/// `None`: a table, or a list of them.
fn json_of(node: &Node) -> Option<Value> {
    Some(match &node.value {
        Raw::Text(text) | Raw::Datetime(text) => text.as_str().into(),
        Raw::Integer(number) => (*number)?.into(),
        Raw::Float(digits) => digits.parse::<f64>().ok()?.into(),
        Raw::Bool(value) => (*value).into(),
        Raw::Array(items) => Value::Array(items.iter().map(json_of).collect::<Option<_>>()?),
        Raw::Table(_) => return None,
    })
}

/// What the documented file says beside each key: the comment of its line and of the lines below that go on with it.
fn comments(text: &str) -> BTreeMap<Vec<String>, String> {
    let mut found: BTreeMap<Vec<String>, String> = BTreeMap::new();
    let (mut table, mut last, mut lists): (Vec<String>, Option<Vec<String>>, Vec<Vec<String>>) = Default::default();
    for line in text.lines() {
        let (code, comment) = split(line);
        if let (false, Some(comment), Some(key)) = (line.starts_with('#'), comment, &last)
            && code.is_empty()
            && let Some(text) = found.get_mut(key)
        {
            text.push(' ');
            text.push_str(comment);
            continue;
        }
        if let Some(name) = code.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = trail_of_header(name, &mut lists);
            last = Some(table.iter().rev().skip_while(|step| *step == EACH).cloned().collect::<Vec<_>>());
            last.iter_mut().for_each(|key| key.reverse());
        } else if let Some((key, _)) = code.split_once('=') {
            last = Some(table.iter().cloned().chain([key.trim().to_owned()]).collect());
        } else {
            last = None;
        }
        if let (Some(key), Some(comment)) = (&last, comment) {
            found.entry(key.clone()).or_insert_with(|| comment.to_owned());
        }
    }
    found
}

/// `[a.b]` and `[[a.b]]`, as the trail of the keys that follow.
fn trail_of_header(name: &str, lists: &mut Vec<Vec<String>>) -> Vec<String> {
    let (plain, is_list) = match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(plain) => (plain, true),
        None => (name, false),
    };
    let mut trail = Vec::new();
    for step in plain.split('.') {
        trail.push(step.trim().to_owned());
        if lists.contains(&trail) {
            trail.push(EACH.to_owned());
        }
    }
    if is_list && trail.last().is_some_and(|step| step != EACH) {
        lists.push(trail.clone());
        trail.push(EACH.to_owned());
    }
    trail
}

/// The code of a line, and its comment: the first `#` outside of a string begins it.
fn split(line: &str) -> (&str, Option<&str>) {
    let mut quoted = false;
    for (at, character) in line.char_indices() {
        match character {
            '"' => quoted = !quoted,
            '#' if !quoted => return (line[..at].trim(), Some(line[at + 1..].trim())),
            _ => {}
        }
    }
    (line.trim(), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    #[test]
    fn what_is_read_for_its_keys_is_a_good_file() {
        let file = Some((PathBuf::from("rest"), REST.to_owned()));
        let sources = Sources { file, ..Sources::default() };
        load(&sources, &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap();
    }

    #[test]
    fn a_key_has_its_type_its_bounds_its_default_and_its_reason() {
        let schema = schema();
        let at = |pointer: &str| schema.pointer(pointer).unwrap_or_else(|| panic!("{pointer} in {schema:#}"));
        let server = "/properties/server/properties";
        assert_eq!(at(&format!("{server}/max_inflight/type")), "integer");
        assert_eq!(at(&format!("{server}/max_inflight/maximum")), 100_000);
        assert_eq!(at(&format!("{server}/max_inflight/default")), 512);
        let reason = at(&format!("{server}/require_keys/description")).as_str().unwrap();
        assert!(reason.contains("spillway keys create") && reason.ends_with("held to its limits"), "{reason}");
        let local = "/properties/local/items/properties";
        assert_eq!(at(&format!("{local}/engine/enum")), &json!(["llama", "http"]));
        assert_eq!(at(&format!("{local}/gpu_layers/anyOf/0/const")), "auto");
        assert_eq!(at(&format!("{local}/rope/properties/scaling/enum/0")), "model");
        let model = "/properties/cloud/items/properties/models/items/properties";
        assert_eq!(at(&format!("{model}/input_usd_per_mtok/type")), "number");
        assert!(schema.pointer(&format!("{model}/input_usd_per_mtok/default")).is_none(), "a price has no default");
        assert_eq!(at("/properties/models/additionalProperties/properties/bytes/type"), "integer");
        assert_eq!(at("/properties/router/properties/aliases/additionalProperties/type"), "string");
        assert_eq!(at("/additionalProperties"), false);
    }

    /// A key that only the reading knows is one that an editor cannot help with: there are few, and they are known.
    #[test]
    fn few_keys_may_hold_anything() {
        let mut all = known(&Sources::default());
        let rest = Some((PathBuf::from("rest"), REST.to_owned()));
        all.extend(
            known(&Sources { file: rest, ..Sources::default() }).into_iter().filter(|(_, kind)| *kind != Kind::Any),
        );
        let any: Vec<String> =
            all.iter().filter(|(_, kind)| **kind == Kind::Any).map(|(key, _)| key.join(".")).collect();
        assert_eq!(any, ["local.*.gpu", "local.*.health_gpu", "local.*.overrides"]);
    }
}
