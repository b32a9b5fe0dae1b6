//! `spillway route`: questions about routing that need no server. A prompt is explained from configuration alone, `eval`
//! scores a file of prompts, `calibrate` finds cut points for one's own traffic. Runs nothing and asks nobody.

mod calibrate;
mod eval;
mod explain;
mod labels;
mod rows;

use crate::cli::{self, ConfigArgs};
use clap::{Args, Subcommand};
use spillway_actors::{
    classify::{keyword_score, keywords::keywords, learned},
    config::ClassifierKind,
    domain::Complexity,
};
use std::process::ExitCode;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct RouteArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    explain: explain::ExplainArgs,
    #[command(subcommand)]
    command: Option<RouteCommand>,
}

#[derive(Debug, Subcommand)]
enum RouteCommand {
    /// Score a file of prompts: one {"id","score","tier"} line for each to stdout, measures of labelled rows to stderr.
    #[command(after_help = eval::HELP)]
    Eval(eval::EvalArgs),
    /// Find the cut points that give each tier its share of your own traffic; prints them as configuration.
    #[command(after_help = calibrate::HELP)]
    Calibrate(calibrate::CalibrateArgs),
}

/// Score and grade of a bare prompt. The keyword rule grades by itself; its score only follows.
fn judge(classifier: ClassifierKind, prompt: &str) -> (f64, Complexity) {
    match classifier {
        ClassifierKind::Learned(cuts) => {
            let opinion = learned::opinion(prompt);
            (opinion.score, cuts.grade(opinion.fails))
        }
        ClassifierKind::Keywords => {
            let grade = keywords(prompt, 0);
            (keyword_score(grade), grade)
        }
    }
}

pub fn run(args: &RouteArgs) -> ExitCode {
    match &args.command {
        Some(RouteCommand::Eval(args)) => eval::run(args),
        Some(RouteCommand::Calibrate(args)) => calibrate::run(args),
        None => match cli::load(&args.config, None) {
            Ok((config, _)) => explain::run(&args.explain, &config),
            Err(error) => cli::failed(&error),
        },
    }
}
