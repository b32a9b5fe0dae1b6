//! References inside a schema: what `#/…` points to.

use super::Unfit;
use serde_json::Value;

/// The pointer and what is there.
pub(super) fn resolve<'a>(root: &'a Value, reference: &Value) -> Result<(String, &'a Value), Unfit> {
    let reference = reference.as_str().ok_or_else(|| Unfit::new("'$ref' must be a string"))?;
    let Some(pointer) = reference.strip_prefix('#') else {
        return Err(Unfit::new("'$ref' must point into the schema itself (#/…)"));
    };
    let pointer = percent_decoded(pointer);
    match root.pointer(&pointer) {
        Some(target) => Ok((pointer, target)),
        None => Err(Unfit::new("'$ref' points to nothing")),
    }
}

fn percent_decoded(pointer: &str) -> String {
    let mut bytes = Vec::with_capacity(pointer.len());
    let mut rest = pointer.as_bytes();
    while let [first, after @ ..] = rest {
        let code = (*first == b'%').then(|| after.get(..2)).flatten();
        let code =
            code.and_then(|code| std::str::from_utf8(code).ok()).and_then(|code| u8::from_str_radix(code, 16).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
