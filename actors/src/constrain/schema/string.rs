//! Strings: by length, by pattern, by format.

use super::{Unfit, Walk, alike::Shape};
use crate::constrain::{gbnf::MAX_REPEAT, pattern};
use serde_json::{Map, Value};

/// Formats as patterns. Each allows a part of what its format does.
const FORMATS: [(&str, &str); 10] = [
    ("date", "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])$"),
    ("time", "^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"),
    (
        "date-time",
        "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$",
    ),
    ("duration", "^P([1-9][0-9]{0,3}D(T[1-9][0-9]{0,3}[HMS])?|T[1-9][0-9]{0,3}[HMS]|[1-9][0-9]{0,3}[WMY])$"),
    ("uuid", "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"),
    (
        "email",
        "^[A-Za-z0-9]{1,20}([._+-][A-Za-z0-9]{1,20}){0,2}@[A-Za-z0-9]{1,20}([.-][A-Za-z0-9]{1,20}){0,2}\\.[A-Za-z]{2,6}$",
    ),
    ("hostname", "^[A-Za-z0-9]{1,30}([.-][A-Za-z0-9]{1,30}){0,4}$"),
    ("ipv4", "^(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(\\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])){3}$"),
    ("ipv6", "^[0-9a-f]{1,4}(:[0-9a-f]{1,4}){7}$"),
    (
        "uri",
        "^https?://[A-Za-z0-9]{1,30}([.-][A-Za-z0-9]{1,30}){0,4}(:[1-9][0-9]{1,3})?(/[A-Za-z0-9._~-]{0,60}){0,8}(\\?[A-Za-z0-9._~=&-]{0,60})?$",
    ),
];

/// Formats of the standard that have no pattern here. Words that are no format of the standard are notes to readers.
const NO_PATTERN: [&str; 9] = [
    "idn-email",
    "idn-hostname",
    "uri-reference",
    "iri",
    "iri-reference",
    "uri-template",
    "json-pointer",
    "relative-json-pointer",
    "regex",
];

impl Walk<'_> {
    pub(super) fn string(&mut self, schema: &Map<String, Value>) -> Result<String, Unfit> {
        let least = self.count(schema, "minLength", MAX_REPEAT)?.unwrap_or(0);
        let most = self.count(schema, "maxLength", MAX_REPEAT)?;
        if most.is_some_and(|most| most < least) {
            return Err(Unfit::new("'minLength' is above 'maxLength'"));
        }
        let has_length = least > 0 || most.is_some();
        let pattern = match schema.get("pattern") {
            None => None,
            Some(Value::String(pattern)) => Some(pattern.as_str()),
            Some(_) => return Err(Unfit::new("'pattern' must be a string")),
        };
        let format = self.format(schema)?;
        let several = usize::from(has_length) + usize::from(pattern.is_some()) + usize::from(format.is_some()) > 1;
        if several && self.is_exact {
            return Err(Unfit::new("only one of 'pattern', 'format' and a length is supported at a place"));
        }
        if let Some(pattern) = pattern.or(format) {
            match pattern::inside(pattern, self.rules) {
                Ok(inside) => return Ok(self.shaped(&format!(r#""\"" {inside} "\"""#), Shape::string(4))),
                Err(unfit) if self.is_exact => return Err(unfit),
                Err(_) => {}
            }
        }
        if !has_length {
            return Ok(self.rules.string());
        }
        let char = self.rules.char();
        let inside = self.rules.repeat(&char, least, most);
        Ok(self.shaped(&format!(r#""\"" {inside} "\"""#), Shape::string(3)))
    }

    fn format(&self, schema: &Map<String, Value>) -> Result<Option<&'static str>, Unfit> {
        let Some(format) = schema.get("format").and_then(Value::as_str) else { return Ok(None) };
        if self.is_exact && NO_PATTERN.contains(&format) {
            return Err(Unfit::new(format!("the format '{format}' is not supported")));
        }
        Ok(FORMATS.into_iter().find(|(name, _)| *name == format).map(|(_, pattern)| pattern))
    }
}
