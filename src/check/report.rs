//! What was found, as a table or as JSON. Pure; holds no key and nothing a model said.

use super::prefill::Verdict;
use serde::Serialize;
use std::fmt::Write as _;

/// One configured cloud model.
#[derive(Debug, Clone, Serialize)]
pub struct ModelReport {
    pub provider: String,
    pub model: String,
    pub upstream: String,
    /// Whether the provider's own list names it; `None` = it gave no list.
    pub listed: Option<bool>,
    /// It answered.
    pub answers: bool,
    /// Its stream told how many tokens it took.
    pub usage: Option<bool>,
    pub first_token_ms: Option<f64>,
    pub prefill_configured: &'static str,
    pub prefill_recommended: &'static str,
    pub prefill_found: Verdict,
    /// What does not work.
    pub faults: Vec<String>,
    /// What works and may surprise.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Nothing has a fault.
    pub ok: bool,
    pub models: Vec<ModelReport>,
    /// Providers without a key.
    pub not_asked: Vec<String>,
}

impl Report {
    pub fn table(&self) -> String {
        let head = ["model", "answers", "listed", "usage", "first token", "prefill_style", "recommended"];
        let rows: Vec<[String; 7]> = self.models.iter().map(row).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([head[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let mut text = String::new();
        let mut line = |cells: [&str; 7]| {
            let padded: Vec<String> =
                cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            // Writing to a string does not fail.
            let _ = writeln!(text, "{}", padded.join("  ").trim_end());
        };
        line(head);
        for row in &rows {
            line(row.each_ref().map(String::as_str));
        }
        self.remarks(&mut text);
        text
    }

    fn remarks(&self, text: &mut String) {
        for model in &self.models {
            let name = format!("{}/{}", model.provider, model.model);
            for fault in &model.faults {
                let _ = writeln!(text, "fault: {name}: {fault}");
            }
            for note in &model.notes {
                let _ = writeln!(text, "note: {name}: {note}");
            }
        }
        for provider in &self.not_asked {
            let _ = writeln!(text, "note: {provider} has no key and was not asked");
        }
    }
}

fn row(model: &ModelReport) -> [String; 7] {
    let yes = |fact: bool| if fact { "yes" } else { "no" }.to_owned();
    let maybe = |fact: Option<bool>| fact.map_or_else(|| "?".to_owned(), yes);
    [
        format!("{}/{}", model.provider, model.model),
        yes(model.answers),
        maybe(model.listed),
        maybe(model.usage),
        model.first_token_ms.map_or_else(|| "?".to_owned(), |ms| format!("{ms} ms")),
        model.prefill_configured.to_owned(),
        model.prefill_recommended.to_owned(),
    ]
}
