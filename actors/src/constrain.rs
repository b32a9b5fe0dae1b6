//! What an answer may be, written as a grammar that a local engine obeys: JSON schemas, patterns, any JSON object.
//!
//! Pure. llama.cpp has a translator of its own, which crashes on some schemas and silently ignores what it does not know;
//! this one says a clear no to both, and llama.cpp sees nothing of a client's but literals of a grammar that is well-formed
//! by construction. A grammar here says a *part* of what its schema allows, never more: properties come in the schema's
//! order, none is added that the schema does not name, numbers have at most 15 digits.

mod charset;
mod gbnf;
mod pattern;
mod schema;

pub(crate) use gbnf::{Rules, literal};
pub(crate) use schema::rule_of;
pub use schema::{Strictness, Unfit};

use serde_json::Value;

/// The grammar of an answer that validates against `schema`.
///
/// # Errors
/// The schema is too large, is no schema, or asks what no grammar here can promise.
pub fn schema_grammar(schema: &Value) -> Result<String, Unfit> {
    let mut rules = Rules::default();
    let value = rule_of(schema, Strictness::Exact, &mut rules)?;
    rules.finish(&value)
}

/// The grammar of any JSON object.
pub fn object_grammar() -> String {
    let mut rules = Rules::default();
    let object = rules.any_object();
    rules.finish(&object).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod derive;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod ways;
