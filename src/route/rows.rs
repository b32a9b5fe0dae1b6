//! Reading JSON lines from a file or stdin, one at a time: memory holds the longest line, not the file.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::{
    borrow::Cow,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

/// A longer line is reported and passed over.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// One row. Everything but the prompt is optional; fields that are not listed are ignored, and a label that cannot be read
/// is none: it never costs a row its score.
#[derive(Debug, Deserialize)]
pub(super) struct Row<'a> {
    #[serde(default, deserialize_with = "present")]
    pub id: Option<Value>,
    #[serde(borrow)]
    pub prompt: Option<Cow<'a, str>>,
    /// Probability that a local model fails: what a request was graded by.
    #[serde(default, deserialize_with = "number")]
    pub fails: Option<f64>,
    #[serde(default, deserialize_with = "logged")]
    pub fields: Fields,
    #[serde(default, deserialize_with = "number")]
    pub weak_correct: Option<f64>,
    #[serde(default, deserialize_with = "number")]
    pub strong_correct: Option<f64>,
    #[serde(default, deserialize_with = "number")]
    pub weak_score: Option<f64>,
    #[serde(default, deserialize_with = "number")]
    pub strong_score: Option<f64>,
    #[serde(default, deserialize_with = "number")]
    pub weak_soft: Option<f64>,
    #[serde(default, deserialize_with = "number")]
    pub strong_soft: Option<f64>,
    #[serde(default, deserialize_with = "text")]
    pub min_tier: Option<String>,
}

/// Where a log line in JSON has its values.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub fails: Option<f64>,
}

/// `null` is an id, too.
fn present<'de, D: Deserializer<'de>>(field: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(field).map(Some)
}

/// A number, or a truth value as 0 or 1.
fn number<'de, D: Deserializer<'de>>(field: D) -> Result<Option<f64>, D::Error> {
    Ok(match Value::deserialize(field)? {
        Value::Bool(truth) => Some(f64::from(u8::from(truth))),
        other => other.as_f64(),
    })
}

fn text<'de, D: Deserializer<'de>>(field: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(field)? {
        Value::String(text) => Some(text),
        _ => None,
    })
}

fn logged<'de, D: Deserializer<'de>>(field: D) -> Result<Fields, D::Error> {
    Ok(Fields { fails: Value::deserialize(field)?.get("fails").and_then(Value::as_f64) })
}

/// A line that is no row, and why.
#[derive(Debug, thiserror::Error)]
pub(super) enum RowError {
    #[error("cannot read {0}: {1}")]
    Open(String, io::Error),
    #[error("line {0}: {1}")]
    Line(u64, String),
}

/// `-` is stdin.
pub(super) fn open(path: &Path) -> Result<Box<dyn BufRead>, RowError> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file = File::open(path).map_err(|error| RowError::Open(path.display().to_string(), error))?;
    Ok(Box::new(BufReader::with_capacity(1 << 16, file)))
}

/// Hands every row to `take` with its line number, from 1; blank lines are passed over. A bad line goes to `complain` and
/// the rest is still read. Says whether all lines were good.
pub(super) fn each(
    mut lines: impl BufRead,
    mut complain: impl FnMut(&RowError),
    mut take: impl FnMut(u64, Row<'_>) -> Result<(), String>,
) -> bool {
    let mut line = Vec::new();
    let mut good = true;
    for number in 1.. {
        line.clear();
        let outcome = match lines.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(read) if read as u64 == MAX_LINE_BYTES && line.last() != Some(&b'\n') => match lines.skip_until(b'\n') {
                Ok(_) => Err(format!("longer than {MAX_LINE_BYTES} bytes")),
                Err(error) => Err(error.to_string()),
            },
            Ok(_) if line.trim_ascii().is_empty() => continue,
            Ok(_) => row(&line).and_then(|row| take(number, row)),
            Err(error) => {
                complain(&RowError::Line(number, error.to_string()));
                return false;
            }
        };
        if let Err(why) = outcome {
            good = false;
            complain(&RowError::Line(number, why));
        }
    }
    good
}

/// The parser's message names kinds and places, never the text.
fn row(line: &[u8]) -> Result<Row<'_>, String> {
    serde_json::from_slice(line).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => format!("a field has the wrong type (column {})", error.column()),
        _ => format!("not a JSON object (column {})", error.column()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<(String, Option<f64>)>, usize, bool) {
        let (mut rows, mut complaints) = (Vec::new(), 0);
        let good = each(
            text.as_bytes(),
            |_| complaints += 1,
            |_, row| {
                rows.push((row.id.map_or_else(|| "none".to_owned(), |id| id.to_string()), row.weak_correct));
                Ok(())
            },
        );
        (rows, complaints, good)
    }

    #[test]
    fn a_label_that_cannot_be_read_costs_no_row() {
        let text = r#"{"id":1,"prompt":"a","weak_correct":true}
{"id":"b","prompt":"b","weak_correct":"yes","fields":7,"min_tier":3,"fails":null}

{"id":null,"prompt":"c","weak_correct":0.5}
{"prompt":"d"}"#;
        let expected = [("1", Some(1.0)), ("\"b\"", None), ("null", Some(0.5)), ("none", None)];
        let expected = expected.map(|(id, label)| (id.to_owned(), label)).to_vec();
        assert_eq!(read(text), (expected, 0, true));
    }

    #[test]
    fn a_bad_line_is_told_and_the_rest_is_read() {
        let (rows, complaints, good) = read("nonsense\n{\"prompt\":7}\n[1]\n{\"prompt\":\"x\"}\n");
        assert_eq!((rows.len(), complaints, good), (1, 3, false));
    }
}
