//! A client's body with some fields changed, written out without a copy of the rest: prompts are long.

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value};

/// Few: each field of the body is compared with all of them.
pub(super) struct Edited<'a> {
    body: &'a Map<String, Value>,
    /// By the latest edit of each; `None` = removed.
    edits: Vec<(&'static str, Option<Value>)>,
}

impl<'a> Edited<'a> {
    pub(super) fn new(body: &'a Map<String, Value>) -> Self {
        Self { body, edits: Vec::with_capacity(32) }
    }

    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        match self.edit_of(field) {
            Some(edit) => edit.as_ref(),
            None => self.body.get(field),
        }
    }

    /// A field that the body has keeps its place.
    pub(super) fn set(&mut self, field: &'static str, value: impl Into<Value>) {
        self.edit(field, Some(value.into()));
    }

    pub(super) fn remove(&mut self, field: &'static str) {
        self.edit(field, None);
    }

    fn edit(&mut self, field: &'static str, value: Option<Value>) {
        match self.edits.iter_mut().find(|(edited, _)| *edited == field) {
            Some((_, edit)) => *edit = value,
            None => self.edits.push((field, value)),
        }
    }

    fn edit_of(&self, field: &str) -> Option<&Option<Value>> {
        self.edits.iter().find_map(|(edited, value)| (*edited == field).then_some(value))
    }
}

impl Serialize for Edited<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (field, value) in self.body {
            match self.edit_of(field) {
                None => map.serialize_entry(field, value)?,
                Some(Some(value)) => map.serialize_entry(field, value)?,
                Some(None) => {}
            }
        }
        for (field, value) in &self.edits {
            if let Some(value) = value.as_ref().filter(|_| !self.body.contains_key(*field)) {
                map.serialize_entry(field, value)?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_edited_is_written_as_it_is_and_the_rest_as_it_was_edited_last() {
        let Value::Object(body) = json!({"a": 1, "b": [2], "c": 3, "d": 4}) else { panic!("an object") };
        let mut edited = Edited::new(&body);
        edited.set("e", 5);
        edited.set("c", "x");
        edited.remove("a");
        edited.remove("d");
        edited.set("d", 6);
        edited.set("f", 7);
        edited.remove("f");
        assert_eq!((edited.get("a"), edited.get("b"), edited.get("e")), (None, Some(&json!([2])), Some(&json!(5))));
        assert_eq!(serde_json::to_string(&edited).unwrap(), r#"{"b":[2],"c":"x","d":6,"e":5}"#);
    }
}
