//! `spillway doctor`: looks at everything a gateway needs on this machine, and says what to do about what is wrong. Changes
//! nothing, asks no provider, starts an engine for its handshake only. Keys are counted, never shown.

mod engine;
mod look;

use crate::{
    check,
    cli::{self, ConfigArgs, UNHEALTHY, say},
};
use clap::Args;
use serde::Serialize;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Ok,
    /// Worth knowing; it serves all the same.
    Note,
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) what: String,
    pub(crate) verdict: Verdict,
    /// What was found; more lines are details.
    pub(crate) found: Vec<String>,
    /// What to do about it.
    pub(crate) remedy: Option<String>,
}

impl Finding {
    pub(crate) fn ok(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Ok, found: vec![found.into()], remedy: None }
    }

    pub(crate) fn note(what: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Note, remedy: Some(remedy.into()), ..Self::ok(what, found) }
    }

    pub(crate) fn problem(what: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Problem, ..Self::note(what, found, remedy) }
    }

    pub(crate) fn with(mut self, details: impl IntoIterator<Item = String>) -> Self {
        self.found.extend(details);
        self
    }
}

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    findings: Vec<Finding>,
}

pub async fn run(args: &DoctorArgs) -> ExitCode {
    let (config, warnings) = match cli::load(&args.config, None) {
        Ok(loaded) => loaded,
        Err(error) if args.json => {
            say(&serde_json::json!({"ok": false, "faults": check::faults(&error)}));
            return ExitCode::FAILURE;
        }
        Err(error) => return cli::failed(&error),
    };
    let mut findings = vec![look::configuration(&warnings)];
    findings.extend(look::all(&config).await);
    let ok = findings.iter().all(|finding| finding.verdict != Verdict::Problem);
    let report = Report { ok, findings };
    if args.json {
        say(&serde_json::to_string_pretty(&report).unwrap_or_default());
    } else {
        lines(&report).iter().for_each(|line| say(line));
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::from(UNHEALTHY) }
}

fn lines(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for finding in &report.findings {
        let mark = match finding.verdict {
            Verdict::Ok => "ok     ",
            Verdict::Note => "note   ",
            Verdict::Problem => "PROBLEM",
        };
        for (at, found) in finding.found.iter().enumerate() {
            let head = if at == 0 { format!("{mark}  {:<20}", finding.what) } else { " ".repeat(29) };
            lines.push(format!("{head}{found}"));
        }
    }
    let todo: Vec<&Finding> = report.findings.iter().filter(|finding| finding.remedy.is_some()).collect();
    lines.push(String::new());
    lines.push(if report.ok { "All that is needed is here." } else { "What to do:" }.to_owned());
    for finding in todo.iter().filter(|finding| report.ok || finding.verdict == Verdict::Problem) {
        lines.push(format!("  {}: {}", finding.what, finding.remedy.as_deref().unwrap_or_default()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_ends_in_what_to_do_about_it() {
        let findings = vec![
            Finding::ok("engine", "here"),
            Finding::note("keys", "none", "set one"),
            Finding::problem("model", "missing", "pull it").with(["a detail".to_owned()]),
        ];
        let told = lines(&Report { ok: false, findings }).join("\n");
        assert!(told.contains("PROBLEM  model") && told.contains("a detail"), "{told}");
        assert!(told.ends_with("What to do:\n  model: pull it"), "{told}");
    }
}
