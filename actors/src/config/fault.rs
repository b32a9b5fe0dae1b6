//! What is wrong with a configuration, and where: one fault shows its file, line, column and the source line with a
//! caret. Nothing here decides what a fault is, and no secret is printed: a fault can leave out the rest of its line.

use super::raw::{Layer, Origin, Texts};
use serde::Serialize;
use std::fmt;

/// One mistake. Serialises for `check --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file, "environment variable X" or "flag x.y".
    pub file: String,
    /// From 1; 0 when the fault has no place (the configuration as a whole).
    pub line: usize,
    /// From 1, in characters; 0 when the fault has no place.
    pub column: usize,
    pub message: String,
    #[serde(skip)]
    excerpt: Option<Excerpt>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Excerpt {
    /// Whether line and column tell a reader anything; a variable's value is one line.
    numbered: bool,
    line: String,
    /// Carets under the line, in characters.
    width: usize,
}

/// How much of the source line a fault may show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    Line,
    /// Up to the end of the marked span: what follows may be a secret.
    UpToSpan,
    /// Up to the start of the marked span: the span itself may hold a secret.
    BeforeSpan,
}

impl Fault {
    pub(super) fn at(texts: &Texts, origin: &Origin, show: Show, message: String) -> Self {
        let Some(source) = texts.get(origin.source) else { return Self::of_whole(message) };
        let place = Spot::find(&source.text, origin.span.start, origin.span.end);
        Self {
            file: source.name.clone(),
            line: place.line,
            column: place.column,
            message,
            excerpt: Some(Excerpt { numbered: source.layer <= Layer::File, ..place.excerpt(show) }),
        }
    }

    /// A fault of the configuration as a whole.
    pub(super) fn of_whole(message: String) -> Self {
        Self { file: "configuration".to_owned(), line: 0, column: 0, message, excerpt: None }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        let Some(excerpt) = &self.excerpt else { return Ok(()) };
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        write!(f, "\n{gutter}--> {}", self.file)?;
        if excerpt.numbered {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        writeln!(f, "\n{gutter} |")?;
        writeln!(f, "{number} | {}", excerpt.line)?;
        let indent = " ".repeat(self.column.saturating_sub(1));
        write!(f, "{gutter} | {indent}{}", "^".repeat(excerpt.width))
    }
}

/// A place in the configuration, kept for what is found wrong only later.
#[derive(Clone, Default)]
pub struct Place(Option<Fault>);

/// Where a value was written is no part of what it means: two configurations that mean the same are equal and print the
/// same.
impl PartialEq for Place {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}

impl Place {
    pub(super) fn at(texts: &Texts, origin: &Origin) -> Self {
        Self(Some(Fault::at(texts, origin, Show::Line, String::new())))
    }

    /// A fault that points here.
    pub fn fault(&self, message: impl Into<String>) -> Fault {
        match &self.0 {
            Some(fault) => Fault { message: message.into(), ..fault.clone() },
            None => Fault::of_whole(message.into()),
        }
    }
}

/// A span, found in its text.
struct Spot<'t> {
    line: usize,
    column: usize,
    text: &'t str,
    /// Byte range of the span inside `text`.
    start: usize,
    end: usize,
}

impl<'t> Spot<'t> {
    fn find(text: &'t str, start: usize, end: usize) -> Self {
        let start = floor_boundary(text, start);
        let before = text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = text.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default();
        let start_in_line = floor_boundary(line, start - line_start);
        Self {
            line: before.matches('\n').count() + 1,
            column: line.get(..start_in_line).unwrap_or_default().chars().count() + 1,
            text: line,
            start: start_in_line,
            end: floor_boundary(line, end.saturating_sub(line_start)).max(start_in_line),
        }
    }

    fn excerpt(&self, show: Show) -> Excerpt {
        let width = self.text.get(self.start..self.end).unwrap_or_default().chars().count().max(1);
        let cut = match show {
            Show::Line => self.text.len(),
            Show::UpToSpan => self.end,
            Show::BeforeSpan => self.start,
        };
        // A tab is as wide as the terminal likes: one space keeps the caret under its character.
        let mut line = self.text.get(..cut).unwrap_or_default().replace('\t', " ");
        if cut < self.text.len() {
            line.push('…');
        }
        Excerpt { numbered: true, line, width: if show == Show::BeforeSpan { 1 } else { width } }
    }
}

fn floor_boundary(text: &str, index: usize) -> usize {
    let mut index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

/// Every fault of one configuration, in the order of its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ConfigFaults(Vec<Fault>);

impl ConfigFaults {
    pub(super) fn new(mut faults: Vec<Fault>) -> Self {
        faults.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        faults.dedup();
        Self(faults)
    }

    pub fn faults(&self) -> &[Fault] {
        &self.0
    }
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.0 {
            writeln!(f, "{fault}\n")?;
        }
        let plural = if self.0.len() == 1 { "" } else { "s" };
        write!(f, "{} fault{plural} in the configuration", self.0.len())
    }
}

impl std::error::Error for ConfigFaults {}

/// Something the operator should know that does not stop the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Warning(pub String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
