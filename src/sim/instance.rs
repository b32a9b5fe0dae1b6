//! JSON that fits a schema, with a place for words in it: what is said when a tool is called or a format demanded. Knows
//! the common part of JSON Schema only. Pure.

use serde_json::{Map, Value, json};

/// Deeper schemas are cut off.
const MAX_DEPTH: usize = 16;
/// Stands for the words.
const MARK: &str = "\u{1}words\u{1}";

/// What comes before the words and after them; a schema without room for a text gets an object of its own.
pub(super) fn around(schema: Option<&Value>) -> (String, String) {
    let mut filler = Filler { root: schema.unwrap_or(&Value::Null), has_mark: false };
    let instance = filler.fill(filler.root, 0);
    let instance = if filler.has_mark && instance.is_object() { instance } else { json!({"text": MARK}) };
    let mark = Value::from(MARK).to_string();
    let text = instance.to_string();
    match text.split_once(mark.trim_matches('"')) {
        Some((before, after)) => (before.to_owned(), after.to_owned()),
        None => (String::new(), String::new()),
    }
}

struct Filler<'a> {
    root: &'a Value,
    has_mark: bool,
}

impl<'a> Filler<'a> {
    fn fill(&mut self, schema: &'a Value, depth: usize) -> Value {
        if depth > MAX_DEPTH {
            return Value::Null;
        }
        if let Some(fixed) = schema.get("const").or_else(|| schema.get("enum")?.get(0)) {
            return fixed.clone();
        }
        if let Some(target) = schema.get("$ref").and_then(Value::as_str).and_then(|place| place.strip_prefix('#')) {
            return self.root.pointer(target).map_or(Value::Null, |target| self.fill(target, depth + 1));
        }
        if let Some(one) = ["anyOf", "oneOf", "allOf"].iter().find_map(|name| schema.get(name)?.get(0)) {
            return self.fill(one, depth + 1);
        }
        let kind = schema.get("type").and_then(|kind| kind.as_str().or_else(|| kind.get(0)?.as_str()));
        match kind {
            Some("string") => self.text(),
            Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(0.into()),
            Some("boolean") => false.into(),
            Some("array") => match schema.get("items") {
                Some(items) => vec![self.fill(items, depth + 1)].into(),
                None => json!([]),
            },
            Some("object") => self.object(schema, depth),
            _ => Value::Null,
        }
    }

    /// The first text holds the words.
    fn text(&mut self) -> Value {
        if std::mem::replace(&mut self.has_mark, true) { "simulated".into() } else { MARK.into() }
    }

    fn object(&mut self, schema: &'a Value, depth: usize) -> Value {
        let properties = schema.get("properties").and_then(Value::as_object);
        let fields = properties.into_iter().flatten().map(|(name, of)| (name.clone(), self.fill(of, depth + 1)));
        Value::Object(fields.collect::<Map<String, Value>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(schema: Value) -> Value {
        let (before, after) = around(Some(&schema));
        serde_json::from_str(&format!("{before}a b{after}")).unwrap()
    }

    #[test]
    fn words_fill_the_first_text_of_a_schema() {
        let schema = json!({"type": "object", "$defs": {"Unit": {"enum": ["c", "f"]}}, "properties": {
            "n": {"type": "integer", "minimum": 3}, "city": {"type": "string"}, "unit": {"$ref": "#/$defs/Unit"},
            "more": {"type": "array", "items": {"type": "object", "properties": {"x": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}},
            "ok": {"type": ["boolean", "null"]}
        }});
        let expected = json!({"n": 3, "city": "a b", "unit": "c", "more": [{"x": "simulated"}], "ok": false});
        assert_eq!(filled(schema), expected);
    }

    #[test]
    fn where_no_text_fits_an_object_of_its_own_holds_them() {
        for schema in [json!(null), json!({"type": "object"}), json!({"type": "integer"}), json!({"$ref": "#"})] {
            assert_eq!(filled(schema), json!({"text": "a b"}));
        }
    }
}
