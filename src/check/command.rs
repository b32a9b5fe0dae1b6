//! The command itself: the configuration's own faults and damaged model files first, providers only when asked to.

use super::{ModelFiles, ask_all, costs_at_most, models, saves_nothing};
use crate::{
    cli::{ConfigArgs, UNHEALTHY, failed, load, note, say},
    serve::{ServeError, load::LoadError},
};
use clap::Args;
use serde_json::{Value, json};
use spillway_actors::config::Fault;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Ask every cloud model that has a key whether it answers as configured; costs a few tokens.
    #[arg(long)]
    online: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &CheckArgs) -> ExitCode {
    if args.online { online(args).await } else { offline(args) }
}

fn offline(args: &CheckArgs) -> ExitCode {
    match load(&args.config, None) {
        Ok((config, warnings)) => {
            let mut told: Vec<String> = warnings.iter().map(ToString::to_string).collect();
            told.extend(saves_nothing(&config));
            tell(&models(&config), told, args.json)
        }
        Err(error) if args.json => {
            say(&json!({"ok": false, "warnings": [], "faults": faults(&error)}));
            ExitCode::FAILURE
        }
        Err(error) => failed(&error),
    }
}

/// One object for each fault, whatever kind of error it came in.
pub(crate) fn faults(error: &ServeError) -> Value {
    match error {
        ServeError::Config(LoadError::Faults(faults)) => json!(faults),
        other => json!([{"file": "configuration", "line": 0, "column": 0, "message": other.to_string()}]),
    }
}

/// A configuration without faults of its own; its model files may have some.
fn tell(models: &ModelFiles, warnings: Vec<String>, as_json: bool) -> ExitCode {
    let place = |fault: &Fault| format!("{}:{}:{}: {}", fault.file, fault.line, fault.column, fault.message);
    let warnings: Vec<String> = warnings.into_iter().chain(models.missing.iter().map(place)).collect();
    let ok = models.damaged.is_empty();
    if as_json {
        say(&json!({"ok": ok, "warnings": warnings, "faults": models.damaged}));
    } else {
        warnings.iter().for_each(|warning| say(&format!("warning: {warning}")));
        if !ok {
            let damaged: Vec<String> = models.damaged.iter().map(ToString::to_string).collect();
            return failed(&damaged.join("\n\n"));
        }
        say(&"the configuration is good");
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The configuration's faults first; what is asked of providers depends on it.
async fn online(args: &CheckArgs) -> ExitCode {
    let config = match load(&args.config, None) {
        Ok((config, _)) => config,
        Err(_) => return offline(args),
    };
    // Said before anything is asked, and not into the data.
    note(&format!("asking every cloud model that has a key costs at most {}", costs_at_most(&config)));
    match ask_all(&config).await {
        Ok(report) => {
            if args.json {
                say(&serde_json::to_string_pretty(&report).unwrap_or_default());
            } else {
                say(&report.table().trim_end());
            }
            if report.ok { ExitCode::SUCCESS } else { ExitCode::from(UNHEALTHY) }
        }
        Err(error) => failed(&error),
    }
}
