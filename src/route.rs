//! `spillway route`: what the router would do with a prompt, from configuration alone. Runs nothing and asks nobody.

mod explain;

use clap::Args;
use spillway_actors::config::Config;
use std::process::ExitCode;

/// The prompt form. Subcommands beside it take their own arguments.
#[derive(Debug, Args)]
pub struct RouteArgs {
    #[command(flatten)]
    explain: explain::ExplainArgs,
}

impl RouteArgs {
    pub fn run(&self, config: &Config) -> ExitCode {
        explain::run(&self.explain, config)
    }
}
