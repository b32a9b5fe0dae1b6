//! A JSON schema as grammar rules: which part of it is looked at, alternatives, references. Types are in the files below.
//!
//! A schema is a client's, so everything is bounded: bytes, depth, parts, values. What constrains and has no rule here is
//! refused when the answer must be exact, and left out when it need not.

mod alike;
mod array;
mod merge;
mod number;
mod object;
mod only_one;
mod pointer;
mod string;

use super::gbnf::{Rules, literal};
use alike::{Shape, Shapes};
use merge::Merger;
use pointer::resolve;
use serde_json::{Map, Value};
use std::collections::HashMap;

const MAX_BYTES: usize = 64 << 10;
const MAX_DEPTH: usize = 48;
/// Parts that are looked at, once for each place they are used in.
const MAX_PARTS: usize = 8192;
const MAX_ENUM_VALUES: usize = 2048;
const MAX_PROPERTIES: usize = 1024;
/// Longest place that is told.
const MAX_PLACE: usize = 200;

/// What happens to words that no rule stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Refused: what is generated validates.
    Exact,
    /// Left out: what is generated is of the right types.
    Loose,
}

/// Why a schema cannot be obeyed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{why}", self.prefix())]
pub struct Unfit {
    /// Where in the schema, as `properties.name.items`; empty = the schema itself.
    pub at: String,
    pub why: String,
}

impl Unfit {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self { at: String::new(), why: why.into() }
    }

    fn prefix(&self) -> String {
        if self.at.is_empty() { String::new() } else { format!("at '{}': ", self.at) }
    }

    /// One step further out.
    fn under(mut self, step: &str) -> Self {
        let step = step.get(..step.floor_char_boundary(64)).unwrap_or_default();
        if self.at.len() < MAX_PLACE {
            self.at = if self.at.is_empty() { step.to_owned() } else { format!("{step}.{}", self.at) };
        }
        self
    }
}

/// Words that constrain. Every other one is a note to readers.
const CONSTRAINTS: [&str; 43] = [
    "$ref",
    "$dynamicRef",
    "$recursiveRef",
    "type",
    "enum",
    "const",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "properties",
    "required",
    "additionalProperties",
    "patternProperties",
    "propertyNames",
    "minProperties",
    "maxProperties",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedProperties",
    "items",
    "prefixItems",
    "additionalItems",
    "contains",
    "minItems",
    "maxItems",
    "uniqueItems",
    "unevaluatedItems",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minContains",
    "maxContains",
    "then",
    "else",
];

/// Words that constrain and that no grammar here stands for.
const UNSUPPORTED: [&str; 13] = [
    "$dynamicRef",
    "$recursiveRef",
    "not",
    "if",
    "patternProperties",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedProperties",
    "unevaluatedItems",
    "contains",
    "multipleOf",
];

/// The rule of a whole schema.
pub(crate) fn rule_of(schema: &Value, strictness: Strictness, rules: &mut Rules) -> Result<String, Unfit> {
    let bytes = schema.to_string().len();
    if bytes > MAX_BYTES {
        return Err(Unfit::new(format!("it has {bytes} bytes, more than {MAX_BYTES}")));
    }
    let mut walk = Walk {
        root: schema,
        merger: Merger::new(schema),
        is_exact: strictness == Strictness::Exact,
        rules,
        named: HashMap::new(),
        shapes: Shapes::default(),
        open: Vec::new(),
        depth: 0,
        parts: 0,
        enum_values: 0,
        properties: 0,
    };
    let rule = walk.value(schema)?;
    if walk.shapes.are_few() {
        return Ok(rule);
    }
    if walk.is_exact {
        return Err(Unfit::new(
            "alternatives that begin alike can be read in too many ways at once: let each begin with a required property \
             that tells it from the others, or use fewer",
        ));
    }
    Ok(if walk.shapes.is_object(&rule) { rules.any_object() } else { rules.any_value() })
}

/// The kinds of JSON values, by their names in schemas.
const TYPES: [&str; 7] = ["object", "array", "string", "number", "integer", "boolean", "null"];

struct Walk<'a> {
    root: &'a Value,
    merger: Merger<'a>,
    is_exact: bool,
    rules: &'a mut Rules,
    /// Rules of references, by pointer; also of those that are being written.
    named: HashMap<String, String>,
    shapes: Shapes,
    /// References being followed since the last bracket: meeting one again would never end.
    open: Vec<String>,
    depth: usize,
    parts: usize,
    enum_values: usize,
    properties: usize,
}

impl Walk<'_> {
    /// The name of the rule of a schema.
    fn value(&mut self, schema: &Value) -> Result<String, Unfit> {
        self.depth += 1;
        self.parts += 1;
        if self.depth > MAX_DEPTH {
            return Err(Unfit::new(format!("it is nested more than {MAX_DEPTH} deep")));
        }
        if self.parts > MAX_PARTS || self.rules.is_too_large() {
            return Err(Unfit::new("it has too many parts"));
        }
        let rule = match schema {
            Value::Bool(true) => Ok(self.rules.any_value()),
            Value::Bool(false) => Err(Unfit::new("nothing is allowed here")),
            Value::Object(schema) => self.schema(schema),
            _ => Err(Unfit::new("a schema must be an object")),
        };
        self.depth -= 1;
        rule
    }

    /// A schema inside brackets, where a reference may be met again.
    fn inner(&mut self, schema: &Value, step: &str) -> Result<String, Unfit> {
        let open = std::mem::take(&mut self.open);
        let rule = self.value(schema).map_err(|unfit| unfit.under(step));
        self.open = open;
        rule
    }

    fn schema(&mut self, schema: &Map<String, Value>) -> Result<String, Unfit> {
        self.check_words(schema)?;
        if let Some(reference) = schema.get("$ref") {
            return self.reference(reference, schema);
        }
        if schema.contains_key("allOf") {
            let merged = self.merger.all_of(schema)?;
            return self.value(&Value::Object(merged));
        }
        for (word, exclusive) in [("anyOf", false), ("oneOf", true)] {
            if let Some(alternatives) = schema.get(word) {
                return self.alternatives(word, alternatives, schema, exclusive);
            }
        }
        if let Some(values) = schema.get("const").map(std::slice::from_ref).or(match schema.get("enum") {
            Some(Value::Array(values)) => Some(values.as_slice()),
            Some(_) => return Err(Unfit::new("'enum' must be an array")),
            None => None,
        }) {
            return self.one_of_values(values, schema);
        }
        self.typed(schema)
    }

    fn check_words(&self, schema: &Map<String, Value>) -> Result<(), Unfit> {
        let unsupported = |word: &&&str| schema.get(**word).is_some_and(|value| !changes_nothing(word, value));
        match UNSUPPORTED.iter().find(unsupported) {
            Some(word) if self.is_exact => Err(Unfit::new(format!("'{word}' is not supported"))),
            _ => Ok(()),
        }
    }

    fn reference(&mut self, reference: &Value, schema: &Map<String, Value>) -> Result<String, Unfit> {
        if constraints(schema).any(|word| word != "$ref") {
            let merged = self.merger.all_of(schema)?;
            return self.value(&Value::Object(merged));
        }
        let (pointer, target) = resolve(self.root, reference)?;
        if self.open.contains(&pointer) {
            return Err(Unfit::new("'$ref' refers to itself without end"));
        }
        if let Some(name) = self.named.get(&pointer) {
            return Ok(name.clone());
        }
        let name = self.rules.reserve();
        self.named.insert(pointer.clone(), name.clone());
        self.open.push(pointer);
        let body = self.value(target).map_err(|unfit| unfit.under("$ref"))?;
        self.open.pop();
        self.rules.define(&name, &body);
        self.shapes.note(&name, Shape::Same(body));
        Ok(name)
    }

    fn alternatives(
        &mut self,
        word: &str,
        alternatives: &Value,
        schema: &Map<String, Value>,
        exclusive: bool,
    ) -> Result<String, Unfit> {
        let Value::Array(alternatives) = alternatives else {
            return Err(Unfit::new(format!("'{word}' must be an array")));
        };
        let rest: Map<String, Value> = schema
            .iter()
            .filter(|(name, _)| *name != word)
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let mut possible = Vec::new();
        for alternative in alternatives {
            if constraints(&rest).next().is_none() {
                possible.push(alternative.clone());
            } else if let Some(both) = self.merger.both(&rest, alternative)? {
                possible.push(Value::Object(both));
            }
        }
        possible.retain(|alternative| *alternative != Value::Bool(false));
        if possible.is_empty() {
            return Err(Unfit::new(format!("no alternative of '{word}' is possible")));
        }
        if exclusive && self.is_exact && !only_one::matches(&self.merger, &possible) {
            return Err(Unfit::new("'oneOf' whose alternatives may overlap is not supported: use 'anyOf'"));
        }
        let mut names: Vec<String> = Vec::with_capacity(possible.len());
        for alternative in &possible {
            let name = self.value(alternative).map_err(|unfit| unfit.under(word))?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(self.union(names))
    }

    fn union(&mut self, names: Vec<String>) -> String {
        let rule = self.rules.rule(&names.join(" | "));
        self.shapes.note(&rule, Shape::Union(names));
        rule
    }

    /// A rule of the schema's own, and what it stands for.
    fn shaped(&mut self, body: &str, shape: Shape) -> String {
        let rule = self.rules.rule(body);
        self.shapes.note(&rule, shape);
        rule
    }

    fn one_of_values(&mut self, values: &[Value], schema: &Map<String, Value>) -> Result<String, Unfit> {
        let mut others = constraints(schema).filter(|word| !matches!(*word, "enum" | "const" | "type"));
        if self.is_exact
            && let Some(word) = others.next()
        {
            return Err(Unfit::new(format!("'{word}' beside values is not supported")));
        }
        self.enum_values += values.len();
        if self.enum_values > MAX_ENUM_VALUES {
            return Err(Unfit::new(format!("it has more than {MAX_ENUM_VALUES} enum values")));
        }
        let types = types(schema)?;
        let fits = |value: &&Value| {
            let is_listed = match schema.get("enum") {
                Some(Value::Array(listed)) => listed.contains(value),
                _ => true,
            };
            is_listed && types.as_ref().is_none_or(|types| types.iter().any(|name| is_of(value, name)))
        };
        let literals: Vec<String> = values.iter().filter(fits).map(|value| literal(&value.to_string())).collect();
        if literals.is_empty() {
            return Err(Unfit::new("none of the listed values is possible"));
        }
        let shape = Shape::one_of(values.iter().filter(fits));
        Ok(self.shaped(&literals.join(" | "), shape))
    }

    fn typed(&mut self, schema: &Map<String, Value>) -> Result<String, Unfit> {
        let Some(types) = types(schema)?.or_else(|| implied(schema)) else { return Ok(self.rules.any_value()) };
        let mut names = Vec::with_capacity(types.len());
        for name in types {
            names.push(match name {
                "object" => self.object(schema)?,
                "array" => self.array(schema)?,
                "string" => self.string(schema)?,
                "number" => self.number(schema)?,
                "integer" => self.integer(schema)?,
                "boolean" => self.shaped(r#""true" | "false""#, Shape::word()),
                _ => self.shaped(r#""null""#, Shape::word()),
            });
        }
        Ok(if names.len() == 1 { names.swap_remove(0) } else { self.union(names) })
    }

    /// A limit that must be a whole number.
    fn count(&self, schema: &Map<String, Value>, word: &str, most: usize) -> Result<Option<usize>, Unfit> {
        let Some(value) = schema.get(word) else { return Ok(None) };
        let whole = value.as_u64().or_else(|| {
            value.as_f64().filter(|number| number.fract() == 0.0 && *number >= 0.0).map(|number| number as u64)
        });
        let count = whole.and_then(|count| usize::try_from(count).ok());
        match count {
            Some(count) if count <= most => Ok(Some(count)),
            Some(_) if !self.is_exact && word.starts_with("max") => Ok(None),
            _ => Err(Unfit::new(format!("'{word}' must be a whole number up to {most}"))),
        }
    }
}

/// Words that have no effect with this value.
fn changes_nothing(word: &str, value: &Value) -> bool {
    match word {
        "multipleOf" => value.as_f64() == Some(1.0),
        "unevaluatedProperties" | "unevaluatedItems" => *value == Value::Bool(true),
        _ => value.as_object().is_some_and(Map::is_empty) && word != "not" && word != "if",
    }
}

/// The words of a schema that constrain.
fn constraints(schema: &Map<String, Value>) -> impl Iterator<Item = &str> {
    schema.keys().map(String::as_str).filter(|word| CONSTRAINTS.contains(word))
}

/// `None`: no `type`. An integer is a number, so beside "number" it says nothing.
fn types(schema: &Map<String, Value>) -> Result<Option<Vec<&'static str>>, Unfit> {
    let names = match schema.get("type") {
        None => return Ok(None),
        Some(Value::Array(names)) => names.as_slice(),
        Some(name) => std::slice::from_ref(name),
    };
    let known = |name: &Value| TYPES.into_iter().find(|known| name.as_str() == Some(known));
    let types = names.iter().map(known).collect::<Option<Vec<_>>>().filter(|types| !types.is_empty());
    let mut types = types.ok_or_else(|| Unfit::new(format!("'type' must be one of {}", TYPES.join(", "))))?;
    if types.contains(&"number") {
        types.retain(|name| *name != "integer");
    }
    Ok(Some(types))
}

/// The type whose words are used without it being named.
fn implied(schema: &Map<String, Value>) -> Option<Vec<&'static str>> {
    let of = |word: &str| match word {
        "properties" | "required" | "additionalProperties" | "minProperties" | "maxProperties" => Some("object"),
        "items" | "prefixItems" | "additionalItems" | "minItems" | "maxItems" | "uniqueItems" => Some("array"),
        "minLength" | "maxLength" | "pattern" | "format" => Some("string"),
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => Some("number"),
        _ => None,
    };
    schema.keys().find_map(|word| of(word)).map(|name| vec![name])
}

fn is_of(value: &Value, name: &str) -> bool {
    match value {
        Value::Null => name == "null",
        Value::Bool(_) => name == "boolean",
        Value::String(_) => name == "string",
        Value::Array(_) => name == "array",
        Value::Object(_) => name == "object",
        Value::Number(number) => {
            name == "number" || (name == "integer" && number.as_f64().is_some_and(|number| number.fract() == 0.0))
        }
    }
}
