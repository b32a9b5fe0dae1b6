//! Arrays: the items a tuple names, then items of one kind, so many of them.

use super::{Unfit, Walk, alike::Shape};
use serde_json::{Map, Value};

/// Most items that are ever asked for or allowed by number; llama.cpp writes each one out.
const MAX_ITEMS: usize = 1024;
const MAX_TUPLE: usize = 64;

impl Walk<'_> {
    pub(super) fn array(&mut self, schema: &Map<String, Value>) -> Result<String, Unfit> {
        let least = self.count(schema, "minItems", MAX_ITEMS)?.unwrap_or(0);
        let most = self.count(schema, "maxItems", MAX_ITEMS)?;
        let is_unique = schema.get("uniqueItems") == Some(&Value::Bool(true));
        if is_unique && self.is_exact && most.is_none_or(|most| most > 1) {
            return Err(Unfit::new("'uniqueItems' is not supported"));
        }
        if most.is_some_and(|most| most < least) {
            return Err(Unfit::new("'minItems' is above 'maxItems'"));
        }
        let (tuple, rest) = items(schema)?;
        if tuple.len() > MAX_TUPLE {
            return Err(Unfit::new(format!("a tuple has more than {MAX_TUPLE} items")));
        }
        let mut places = Vec::with_capacity(tuple.len());
        for (index, item) in tuple.iter().enumerate().take(most.unwrap_or(usize::MAX)) {
            places.push(self.inner(item, &format!("prefixItems.{index}"))?);
        }
        let room = most.is_none_or(|most| most > places.len());
        let item = match rest {
            Value::Bool(false) => None,
            _ if !room => None,
            schema => Some(self.inner(schema, "items")?),
        };
        if item.is_none() && least > places.len() {
            return Err(Unfit::new("'minItems' asks for more items than are allowed"));
        }
        let inside = self.items_after(&places, item.as_deref(), least, most);
        let inner = places.into_iter().chain(item).collect();
        Ok(self.shaped(&format!(r#""[" ws {inside} ws "]""#), Shape::Array(inner)))
    }

    /// From the last place of the tuple to the first; what is not asked for may end the array.
    fn items_after(&mut self, tuple: &[String], item: Option<&str>, least: usize, most: Option<usize>) -> String {
        let fixed = tuple.len();
        let Some(item) = item else { return self.tuple(tuple, least, String::new()) };
        let next = self.rules.rule(&format!(r#""," ws {item}"#));
        if fixed > 0 {
            let most = most.map(|most| most - fixed);
            let more = self.rules.repeat(&next, least.saturating_sub(fixed), most);
            return self.tuple(tuple, least, more);
        }
        let more = self.rules.repeat(&next, least.saturating_sub(1), most.map(|most| most.saturating_sub(1)));
        if least == 0 { format!("({item} {more})?") } else { format!("{item} {more}") }
    }

    fn tuple(&mut self, tuple: &[String], least: usize, after: String) -> String {
        let mut inside = after;
        for (index, item) in tuple.iter().enumerate().rev() {
            let comma = if index == 0 { "" } else { r#""," ws "# };
            let body = self.rules.rule(&format!("{comma}{item} {inside}"));
            inside = if index < least { body } else { format!("{body}?") };
        }
        if inside.is_empty() { r#""""#.to_owned() } else { inside }
    }
}

/// The tuple and what follows it, in the words of any draft.
pub(super) fn items(schema: &Map<String, Value>) -> Result<(&[Value], &Value), Unfit> {
    const ANY: &Value = &Value::Bool(true);
    let rest = |word: &str| schema.get(word).unwrap_or(ANY);
    match (schema.get("prefixItems"), schema.get("items")) {
        (Some(Value::Array(tuple)), _) => Ok((tuple, rest("items"))),
        (Some(_), _) => Err(Unfit::new("'prefixItems' must be an array")),
        (None, Some(Value::Array(tuple))) => Ok((tuple, rest("additionalItems"))),
        (None, _) => Ok((&[], rest("items"))),
    }
}
