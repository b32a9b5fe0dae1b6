//! Reading JSON lines from a file or stdin, one at a time: memory holds the longest line, not the file.

use serde::Deserialize;
use serde_json::Value;
use std::{
    borrow::Cow,
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

/// One row. Everything but the prompt is optional; fields that are not listed are ignored.
#[derive(Debug, Deserialize)]
pub(super) struct Row<'a> {
    pub id: Option<Value>,
    #[serde(borrow)]
    pub prompt: Option<Cow<'a, str>>,
    /// Probability that a local model fails: what a request was graded by.
    pub fails: Option<f64>,
    #[serde(default)]
    pub fields: Fields,
    pub weak_correct: Option<f64>,
    pub strong_correct: Option<f64>,
    pub weak_score: Option<f64>,
    pub strong_score: Option<f64>,
    pub weak_soft: Option<f64>,
    pub strong_soft: Option<f64>,
    #[serde(borrow)]
    pub min_tier: Option<Cow<'a, str>>,
}

/// Where a log line in JSON has its values.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Fields {
    pub fails: Option<f64>,
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
    let mut line = String::new();
    let mut good = true;
    for number in 1.. {
        line.clear();
        let outcome = match lines.read_line(&mut line) {
            Ok(0) => break,
            Ok(_) if line.trim().is_empty() => continue,
            Ok(_) => row(&line).and_then(|row| take(number, row)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err("not UTF-8".to_owned()),
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
fn row(line: &str) -> Result<Row<'_>, String> {
    serde_json::from_str(line).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => format!("a field has the wrong type (column {})", error.column()),
        _ => format!("not a JSON object (column {})", error.column()),
    })
}
