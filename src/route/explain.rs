//! One decision in readable text or JSON. Every local target is taken to be warm and idle, every provider with a key in
//! the environment to be well. The prompt is graded, never printed.

use crate::{cli::say, http::parse};
use clap::Args;
use http::HeaderMap;
use serde_json::{Value, json};
use spillway_actors::{
    config::Config,
    domain::{GatewayError, RequestId},
    route::explain::{CandidateStep, Explanation, GateStep, OrderStep, explain_at_rest},
};
use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
};
use tokio::time::Instant;

/// More earlier messages than a grade can tell apart.
const MAX_HISTORY: u16 = 1000;

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The prompt to decide about.
    #[arg(required = true)]
    prompt: Option<String>,
    /// Earlier user and assistant messages to assume.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=i64::from(MAX_HISTORY)))]
    history: u16,
    /// As the request field of this name.
    #[arg(long)]
    budget_sensitive: bool,
    /// As the request field of this name.
    #[arg(long)]
    local_only: bool,
    /// The model to ask for; `auto` if left out.
    #[arg(long)]
    model: Option<String>,
    /// Print the explanation as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ExplainArgs, config: &Config) -> ExitCode {
    let explanation = match explanation(args, config) {
        Ok(explanation) => explanation,
        Err(error) => {
            let _ = writeln!(io::stderr(), "spillway: {}", error.message);
            return ExitCode::FAILURE;
        }
    };
    let text =
        if args.json { serde_json::to_string_pretty(&explanation).unwrap_or_default() } else { readable(&explanation) };
    say(&text.trim_end());
    if explanation.plan.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The request goes through the parser of the API: what that refuses is refused here.
fn explanation(args: &ExplainArgs, config: &Config) -> Result<Explanation, GatewayError> {
    let request = parse::chat(RequestId::random(), body(args).to_string().as_bytes(), &HeaderMap::new(), config)?;
    explain_at_rest(&request, config, Instant::now())
}

fn body(args: &ExplainArgs) -> Value {
    // The turns end with the user's prompt, so an odd number of earlier ones begins with the assistant's.
    let role = |to_go: u16| if to_go.is_multiple_of(2) { "user" } else { "assistant" };
    let earlier = (1..=args.history).rev().map(|to_go| json!({"role": role(to_go), "content": "…"}));
    let messages: Vec<Value> =
        earlier.chain([json!({"role": "user", "content": args.prompt.as_deref().unwrap_or_default()})]).collect();
    json!({
        "model": args.model.as_deref().unwrap_or("auto"),
        "messages": messages,
        "budget_sensitive": args.budget_sensitive,
        "local_only": args.local_only,
    })
}

fn readable(explanation: &Explanation) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_steps(&mut text, explanation);
    text
}

fn write_steps(text: &mut String, explanation: &Explanation) -> std::fmt::Result {
    let Explanation { gates, score, policy, plan, refusal, .. } = explanation;
    writeln!(text, "gates")?;
    gates.iter().try_for_each(|step| write_gate(text, step))?;
    writeln!(text, "\nscore")?;
    writeln!(text, "  {} (p={:.2}), decided by {}", score.complexity, score.confidence, score.basis)?;
    writeln!(text, "  {}", score.signals.join(", "))?;
    writeln!(text, "  about {} prompt tokens, {} output tokens assumed", score.prompt_tokens, score.output_tokens)?;
    writeln!(text, "\npolicy ({} rule)", policy.tier)?;
    policy.order.iter().enumerate().try_for_each(|(at, step)| write_order(text, at + 1, step))?;
    if let Some(plan) = plan {
        writeln!(text, "\nplan (at most {} attempts)", plan.max_attempts)?;
        plan.candidates.iter().enumerate().try_for_each(|(at, step)| write_candidate(text, at + 1, step))?;
        writeln!(text, "\n{}", plan.reasoning)?;
    }
    if let Some(refusal) = refusal {
        writeln!(text, "\nrefused ({}): {}", refusal.kind, refusal.message)?;
    }
    Ok(())
}

fn write_gate(text: &mut String, step: &GateStep) -> std::fmt::Result {
    let mark = if step.passed { "pass" } else { "stop" };
    writeln!(text, "  {mark}  {:<36} {}", name(&step.target, &step.model), step.why)
}

fn write_order(text: &mut String, at: usize, step: &OrderStep) -> std::fmt::Result {
    let name = name(&step.target, &step.model);
    writeln!(text, "  {at:>2}. {name:<36} {:<16} {}: {}", step.reason, step.standing.label(), step.why)
}

fn write_candidate(text: &mut String, at: usize, step: &CandidateStep) -> std::fmt::Result {
    let name = name(&step.target, &step.model);
    let (first, whole) = (step.expected_first_token_ms, step.estimated_latency_ms);
    writeln!(
        text,
        "  {at:>2}. {name:<36} ${:.6}   first token {first:.0} ms, whole answer {whole:.0} ms",
        step.estimated_cost_usd
    )
}

fn name(target: &str, model: &str) -> String {
    format!("{target} ({model})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use spillway_actors::config::{DemoCloud, Sources, load};

    fn config() -> Config {
        let demo = Some(DemoCloud { base_url: "http://127.0.0.1:9/v1".into() });
        load(&Sources { demo, ..Sources::default() }, &|_| Err(io::ErrorKind::NotFound.into())).unwrap().0
    }

    fn args(prompt: &str) -> ExplainArgs {
        ExplainArgs {
            prompt: Some(prompt.to_owned()),
            history: 0,
            budget_sensitive: false,
            local_only: false,
            model: None,
            json: false,
        }
    }

    fn text(args: &ExplainArgs) -> String {
        readable(&explanation(args, &config()).unwrap())
    }

    #[tokio::test]
    async fn a_readable_explanation_shows_every_step_and_never_the_prompt() {
        let shown = text(&args("hello xyzzy"));
        let places =
            ["gates\n", "score\n", "policy (", "plan (at most 3 attempts)"].map(|part| shown.find(part).unwrap());
        assert!(places.is_sorted(), "{shown}");
        assert!(shown.contains("local is warm") && !shown.contains("xyzzy"), "{shown}");
    }

    #[tokio::test]
    async fn the_options_are_those_of_the_request() {
        let local_only = text(&ExplainArgs { local_only: true, ..args("hello") });
        assert!(local_only.contains("the request may not leave this machine"), "{local_only}");
        let named = ExplainArgs { model: Some("local".into()), ..args("hello") };
        assert!(text(&named).contains("decided by named_local"));
        let frugal = ExplainArgs { budget_sensitive: true, ..args("hello") };
        assert!(text(&frugal).contains("decided by budget_sensitive"));
        let unknown = ExplainArgs { model: Some("nobody".into()), ..args("hello") };
        assert!(explanation(&unknown, &config()).unwrap_err().message.contains("does not exist here"));
    }

    #[test]
    fn assumed_history_alternates_and_ends_before_the_prompt() {
        let with = body(&ExplainArgs { history: 3, ..args("hello") });
        let roles: Vec<&Value> = with["messages"].as_array().unwrap().iter().map(|message| &message["role"]).collect();
        assert_eq!(roles, ["assistant", "user", "assistant", "user"]);
    }
}
