//! Typed reading of one object's fields. `null` counts as absent, as the API's own clients send it for "not set".

use serde_json::{Map, Value};
use spillway_actors::domain::GatewayError;
use std::fmt::Display;

/// A fault of the request at `param`.
pub(in crate::http) fn fault(param: impl Display, message: impl Into<String>) -> GatewayError {
    let mut error = GatewayError::invalid(None, message);
    error.param = Some(param.to_string());
    error
}

pub(in crate::http) fn wrong_type(param: impl Display, expected: &str, got: &Value) -> GatewayError {
    let message = format!("Invalid type for '{param}': expected {expected}, but got {} instead.", type_name(got));
    fault(param, message)
}

pub(in crate::http) fn missing(param: impl Display) -> GatewayError {
    let message = format!("Missing required parameter: '{param}'.");
    fault(param, message)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a decimal",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Which numbers a field takes.
#[derive(Clone, Copy)]
pub(in crate::http) struct Bounds {
    pub least: f64,
    pub most: f64,
    /// `least` itself is not allowed.
    pub above: bool,
}

impl Bounds {
    pub(in crate::http) const fn new(least: f64, most: f64) -> Self {
        Self { least, most, above: false }
    }

    pub(in crate::http) const fn above(least: f64, most: f64) -> Self {
        Self { least, most, above: true }
    }

    fn check(self, param: impl Display, value: f64) -> Result<(), GatewayError> {
        let (least, most) = (self.least, self.most);
        if value < least || (self.above && value <= least) {
            let relation = if self.above { ">" } else { ">=" };
            let message = format!(
                "Invalid '{param}': value below minimum. Expected a value {relation} {least}, but got {value} instead."
            );
            return Err(fault(param, message));
        }
        if value > most {
            let message =
                format!("Invalid '{param}': value above maximum. Expected a value <= {most}, but got {value} instead.");
            return Err(fault(param, message));
        }
        Ok(())
    }
}

/// An object being read.
#[derive(Clone, Copy)]
pub(in crate::http) struct Fields<'a>(pub(in crate::http) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(in crate::http) fn get(self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(in crate::http) fn flag(self, name: &str) -> Result<Option<bool>, GatewayError> {
        self.get(name).map(|value| value.as_bool().ok_or_else(|| wrong_type(name, "a boolean", value))).transpose()
    }

    pub(in crate::http) fn text(self, name: &str) -> Result<Option<&'a str>, GatewayError> {
        self.get(name).map(|value| value.as_str().ok_or_else(|| wrong_type(name, "a string", value))).transpose()
    }

    pub(in crate::http) fn array(self, name: &str) -> Result<Option<&'a [Value]>, GatewayError> {
        let read = |value: &'a Value| match value {
            Value::Array(items) => Ok(items.as_slice()),
            other => Err(wrong_type(name, "an array", other)),
        };
        self.get(name).map(read).transpose()
    }

    pub(in crate::http) fn object(self, name: &str) -> Result<Option<Fields<'a>>, GatewayError> {
        let read = |value: &'a Value| match value {
            Value::Object(fields) => Ok(Fields(fields)),
            other => Err(wrong_type(name, "an object", other)),
        };
        self.get(name).map(read).transpose()
    }

    pub(in crate::http) fn decimal(self, name: &str, bounds: Bounds) -> Result<Option<f64>, GatewayError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| wrong_type(name, "a decimal", value))?;
        bounds.check(name, number)?;
        Ok(Some(number))
    }

    /// A whole number; `5.0` is one, because some languages know no other numbers.
    pub(in crate::http) fn integer(self, name: &str, bounds: Bounds) -> Result<Option<i64>, GatewayError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let whole = whole(value).ok_or_else(|| wrong_type(name, "an integer", value))?;
        bounds.check(name, whole as f64)?;
        Ok(Some(whole))
    }
}

/// The number if it is whole; what exceeds 64 bits becomes the nearest bound.
pub(in crate::http) fn whole(value: &Value) -> Option<i64> {
    let number = value.as_number()?;
    if let Some(integer) = number.as_i64() {
        return Some(integer);
    }
    let decimal = number.as_f64()?;
    // `as` saturates.
    (decimal.fract() == 0.0).then_some(decimal as i64)
}
