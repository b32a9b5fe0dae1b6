//! Objects: the properties a schema names, in its order, or a map of any names.

use super::{MAX_PROPERTIES, Unfit, Walk, alike::Shape};
use crate::constrain::gbnf::literal;
use serde_json::{Map, Value};

struct Property<'a> {
    name: &'a str,
    schema: &'a Value,
    is_required: bool,
}

const ANY: Value = Value::Bool(true);
const NEVER: Value = Value::Bool(false);

impl Walk<'_> {
    pub(super) fn object(&mut self, schema: &Map<String, Value>) -> Result<String, Unfit> {
        let others = schema.get("additionalProperties").unwrap_or(&ANY);
        let properties = properties(schema, *others != NEVER)?;
        self.properties += properties.len();
        if self.properties > MAX_PROPERTIES {
            return Err(Unfit::new(format!("it has more than {MAX_PROPERTIES} properties")));
        }
        let least = self.count(schema, "minProperties", MAX_PROPERTIES)?.unwrap_or(0);
        let most = self.count(schema, "maxProperties", MAX_PROPERTIES)?;
        if properties.is_empty() {
            return self.map(others, least, most);
        }
        let required = properties.iter().filter(|property| property.is_required).count();
        let is_within = required >= least && most.is_none_or(|most| properties.len() <= most);
        if self.is_exact && !is_within {
            return Err(Unfit::new("'minProperties' or 'maxProperties' beside optional properties is not supported"));
        }
        self.named_properties(&properties)
    }

    /// Names may repeat, and then count once: so at most one is ever asked for.
    fn map(&mut self, others: &Value, least: usize, most: Option<usize>) -> Result<String, Unfit> {
        if self.is_exact && least > 1 {
            return Err(Unfit::new("'minProperties' above 1 is not supported without named properties"));
        }
        if *others == NEVER || most == Some(0) {
            return if least == 0 {
                Ok(self.rules.rule(r#""{" ws "}""#))
            } else {
                Err(Unfit::new("an object of no properties cannot have some"))
            };
        }
        if *others == ANY && least == 0 && most.is_none() {
            return Ok(self.rules.any_object());
        }
        let value = self.inner(others, "additionalProperties")?;
        let name = self.rules.string();
        let member = self.rules.rule(&format!(r#"{name} ":" ws {value}"#));
        let next = self.rules.rule(&format!(r#""," ws {member}"#));
        let more = self.rules.repeat(&next, 0, most.map(|most| most - 1));
        let optional = if least == 0 { "?" } else { "" };
        let shape = Shape::Object { first: None, inner: vec![value], optional: 0 };
        Ok(self.shaped(&format!(r#""{{" ws ({member} {more}){optional} ws "}}""#), shape))
    }

    /// Two rules a property: what may come when nothing came yet, and when something did.
    fn named_properties(&mut self, properties: &[Property<'_>]) -> Result<String, Unfit> {
        // Nothing more, and nothing at all.
        let (mut after_some, mut after_none) = (r#""""#.to_owned(), r#""""#.to_owned());
        let (mut inner, mut first_value) = (Vec::with_capacity(properties.len()), None);
        for property in properties.iter().rev() {
            let value = self.inner(property.schema, &format!("properties.{}", property.name))?;
            let key = literal(&format!("{}:", Value::from(property.name)));
            let member = self.rules.rule(&format!("{key} ws {value}"));
            let (with, first) = (format!(r#""," ws {member} {after_some}"#), format!("{member} {after_some}"));
            if property.is_required {
                (after_some, after_none) = (self.rules.rule(&with), self.rules.rule(&first));
            } else {
                after_none = self.rules.rule(&format!("{first} | {after_none}"));
                after_some = self.rules.rule(&format!("{with} | {after_some}"));
            }
            first_value = property.is_required.then(|| (property.name.to_owned(), value.clone()));
            inner.push(value);
        }
        let optional = properties.iter().filter(|property| !property.is_required).count();
        let shape = Shape::Object { first: first_value, inner, optional };
        Ok(self.shaped(&format!(r#""{{" ws {after_none} ws "}}""#), shape))
    }
}

fn properties(schema: &Map<String, Value>, takes_others: bool) -> Result<Vec<Property<'_>>, Unfit> {
    let required = match schema.get("required") {
        None => &[],
        Some(Value::Array(names)) => names.as_slice(),
        Some(_) => return Err(Unfit::new("'required' must be an array of names")),
    };
    let required: Vec<&str> = required
        .iter()
        .map(|name| name.as_str().ok_or_else(|| Unfit::new("'required' must be an array of names")))
        .collect::<Result<_, _>>()?;
    let named = match schema.get("properties") {
        None => None,
        Some(Value::Object(named)) => Some(named),
        Some(_) => return Err(Unfit::new("'properties' must be an object")),
    };
    let mut properties = Vec::new();
    for (name, schema) in named.into_iter().flatten() {
        let is_required = required.contains(&name.as_str());
        if *schema == NEVER {
            if is_required {
                return Err(Unfit::new("a required property is not allowed").under(&format!("properties.{name}")));
            }
            continue;
        }
        properties.push(Property { name, schema, is_required });
    }
    for name in required {
        if named.is_some_and(|named| named.contains_key(name)) || properties.iter().any(|known| known.name == name) {
            continue;
        }
        if !takes_others {
            return Err(Unfit::new("'required' names a property that is not allowed"));
        }
        let schema = schema.get("additionalProperties").unwrap_or(&ANY);
        properties.push(Property { name, schema, is_required: true });
    }
    Ok(properties)
}
