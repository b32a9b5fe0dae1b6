//! `spillway route eval`: scores prompts as the gateway would, from the text alone, and measures the scores where rows carry
//! labels.

use super::{judge, labels::Labels, rows};
use crate::{
    cli::{self, ConfigArgs},
    serve::ServeError,
};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;
use spillway_actors::{classify::Cuts, config::ClassifierKind};
use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
    process::ExitCode,
};

pub(super) const HELP: &str = "\
Input: one JSON object a line with `prompt` and, if there is one, `id` (any scalar; else the line number).
Labels, where a row has them: weak_soft/strong_soft (or weak_score/strong_score, or weak_correct/strong_correct), 0 to 1:
how well local-class and cloud-class models answer it; weak_correct; min_tier: the lowest tier that solves it.
A line that cannot be read is reported on stderr; the others are scored and the exit code is 1.

Examples:
  spillway route eval prompts.jsonl
  spillway route eval --classifier keywords prompts.jsonl > scores.jsonl";

#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    /// JSON lines; `-` reads stdin.
    file: PathBuf,
    /// Which classifier scores; without it, the configured one.
    #[arg(long, value_enum)]
    classifier: Option<Named>,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Named {
    Learned,
    Keywords,
}

/// The configuration says which classifier and which cut points; the flag can overrule the first.
fn classifier(args: &EvalArgs) -> Result<ClassifierKind, ServeError> {
    let configured = cli::load(&args.config, None)?.0.router.classifier;
    Ok(match (args.classifier, configured) {
        (Some(Named::Keywords), _) => ClassifierKind::Keywords,
        (Some(Named::Learned), ClassifierKind::Keywords) => ClassifierKind::Learned(Cuts::trained()),
        _ => configured,
    })
}

#[derive(Serialize)]
struct Line {
    id: Value,
    score: f64,
    tier: String,
}

pub(super) fn run(args: &EvalArgs) -> ExitCode {
    let classifier = match classifier(args) {
        Ok(classifier) => classifier,
        Err(error) => return cli::failed(&error),
    };
    let lines = match rows::open(&args.file) {
        Ok(lines) => lines,
        Err(error) => return cli::failed(&error),
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut labels = Labels::default();
    let mut closed = false;
    let good = rows::each(lines, complain, |number, row| {
        let prompt = row.prompt.as_deref().ok_or("there is no `prompt`")?;
        let id = row.id.clone().unwrap_or_else(|| number.into());
        if id.is_object() || id.is_array() {
            return Err("`id` must be a scalar".to_owned());
        }
        let (score, tier) = judge(classifier, prompt);
        labels.add(&row, score, tier);
        let line = Line { id, score, tier: tier.as_str().to_ascii_uppercase() };
        let text = serde_json::to_string(&line).map_err(|error| error.to_string())?;
        closed |= writeln!(out, "{text}").is_err();
        Ok(())
    });
    closed |= out.flush().is_err();
    drop(out);
    let _ = write!(io::stderr(), "{}", labels.report());
    if good && !closed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

pub(super) fn complain(error: &rows::RowError) {
    let _ = writeln!(io::stderr(), "spillway: {error}");
}
