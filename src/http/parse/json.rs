//! Bytes → a JSON object that is safe to keep: depth, number of values and kinds of strings are bounded while parsing.
//!
//! Not `serde_json::Value`'s own `Deserialize`: with raw values enabled somewhere in the build, one special key makes it
//! parse a string's text as JSON again, depth counted from zero, until the stack overflows.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use spillway_actors::domain::GatewayError;
use std::{cell::Cell, fmt};

/// More values than this in one body are refused: a value takes 16 times the memory of its shortest text.
const MAX_VALUES: usize = 1 << 17;
/// Keys that serde_json reads as instructions.
const PRIVATE: &str = "$serde_json::private::";

/// The body as an object. A key given twice is refused: which of the two a provider would take is not ours to guess.
pub(in crate::http) fn object(bytes: &[u8]) -> Result<Map<String, Value>, GatewayError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(GatewayError::invalid(None, "The request body is empty; a JSON object was expected."));
    }
    let values = Cell::new(0);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Plain { values: &values }.deserialize(&mut deserializer);
    match value.and_then(|value| deserializer.end().map(|()| value)) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(GatewayError::invalid(None, "The request body must be a JSON object.")),
        Err(error) => {
            Err(GatewayError::invalid(None, format!("The request body could not be parsed as JSON: {error}")))
        }
    }
}

/// Reads any JSON value, every key and string as what it is.
#[derive(Clone, Copy)]
struct Plain<'a> {
    values: &'a Cell<usize>,
}

impl Plain<'_> {
    fn count<E: Error>(self) -> Result<(), E> {
        self.values.set(self.values.get() + 1);
        if self.values.get() > MAX_VALUES {
            return Err(E::custom(format_args!("more than {MAX_VALUES} values")));
        }
        Ok(())
    }
}

/// The engine's C strings end at NUL, and no prompt needs one.
fn without_nul<E: Error>(text: &str) -> Result<(), E> {
    if memchr::memchr(0, text.as_bytes()).is_some() {
        return Err(E::custom("strings must not contain NUL (U+0000)"));
    }
    Ok(())
}

impl<'de> DeserializeSeed<'de> for Plain<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Plain<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.count().map(|()| Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.count().map(|()| value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.count().map(|()| value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.count().map(|()| value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.count().map(|()| value.into())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.visit_string(text.to_owned())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        self.count()?;
        without_nul(&text)?;
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.count()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.count()?;
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            without_nul(&key)?;
            if key.starts_with(PRIVATE) {
                return Err(A::Error::custom("a key of this name is not allowed"));
            }
            let value = entries.next_value_seed(self)?;
            if object.insert(key, value).is_some() {
                return Err(A::Error::custom("a key stands twice in one object"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> String {
        object(bytes).expect_err("refused").message
    }

    #[test]
    fn an_object_is_read_as_serde_json_would() {
        let text =
            r#"{"a": [1, -2, 2.5, 1e3, 18446744073709551615, null, true, "\u00e9\ud83d\ude00"], "b": {"c": {}}}"#;
        let expected: Value = serde_json::from_str(text).unwrap();
        assert_eq!(Value::Object(object(text.as_bytes()).unwrap()), expected);
    }

    #[test]
    fn what_is_no_object_is_refused_and_never_quoted() {
        for (bytes, part) in [
            (&b""[..], "empty"),
            (b" \n", "empty"),
            (b"[]", "must be a JSON object"),
            (b"\"secret words\"", "must be a JSON object"),
            (b"{\"a\": secret}", "could not be parsed"),
            (b"{} {}", "trailing characters"),
            (b"{\"a\": 1e999}", "number out of range"),
            (b"{\"a\": \"\\ud800\"}", "could not be parsed"),
            (b"{\"a\": \"\\udc00 \"}", "could not be parsed"),
            (b"{\"a\": \"\xff\"}", "could not be parsed"),
            (b"{\"a\": \"\0\"}", "control character"),
            (b"{\"a\": \"x\\u0000\"}", "NUL"),
            (b"{\"\\u0000\": 1}", "NUL"),
            (b"{\"secret\": 1, \"secret\": 2}", "twice"),
            (b"{\"a\": [{\"b\": 1, \"\\u0062\": 2}]}", "twice"),
        ] {
            let message = refusal(bytes);
            assert!(message.contains(part) && !message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn depth_and_number_of_values_are_bounded() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(refusal(deep.as_bytes()).contains("recursion limit"));
        let wide = format!("{{\"a\":[{}0]}}", "0,".repeat(MAX_VALUES));
        assert!(refusal(wide.as_bytes()).contains("values"));
    }

    #[test]
    fn nested_raw_values_cannot_reset_the_depth() {
        let mut inner = "1".to_owned();
        for _ in 0..17 {
            let wrapped = format!("{}{inner}{}", "[".repeat(120), "]".repeat(120));
            inner = format!("{{\"$serde_json::private::RawValue\":{}}}", serde_json::to_string(&wrapped).unwrap());
        }
        assert!(refusal(inner.as_bytes()).contains("not allowed"));
    }
}
