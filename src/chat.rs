//! `spillway chat`: one more client of the API, for people. Streams an answer into the terminal, keeps the conversation of a
//! session in memory and nowhere else, and says at the end where the answer came from and what it cost. Asks only the address it
//! was given, and lets nothing of an answer steer the terminal (`clean`).

mod ask;
pub(crate) mod clean;
mod line;
mod prompt;
mod talk;
mod told;

use crate::cli::{self, ConfigArgs, USAGE, failed, note, say};
use ask::{Answer, Api, Conversation, Failure};
use clap::Args;
use clean::Clean;
use secrecy::SecretString;
use serde_json::json;
use std::{
    io::{self, IsTerminal, Read, Write},
    process::ExitCode,
};

/// Of standard input: more fits no context.
const MAX_INPUT_BYTES: u64 = 8 << 20;

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The gateway, as SDKs take it, with or without /v1; without it, where the configuration says that it listens.
    #[arg(long, env = "SPILLWAY_URL")]
    url: Option<String>,
    /// An API key.
    #[arg(long, env = "SPILLWAY_API_KEY", hide_env_values = true, value_parser = secret)]
    key: Option<SecretString>,
    /// auto, local, or the name of a model.
    #[arg(long, default_value = "auto")]
    model: String,
    /// What the model is told before the conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens of an answer; without it, what the target's defaults say.
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// Print one JSON object when the answer is whole: {"ok", "content", "finish_reason", "usage", "routing", "error"}.
    #[arg(long)]
    json: bool,
    /// What is asked.
    prompt: Option<String>,
}

/// In the form of a value parser; never fails.
fn secret(text: &str) -> Result<SecretString, String> {
    Ok(SecretString::from(text))
}

/// Asks what is to be asked, once or as long as somebody types.
pub(crate) async fn run(args: ChatArgs) -> ExitCode {
    let api = match Api::new(&args) {
        Ok(api) => api,
        Err(why) => return failed(&why),
    };
    let mut conversation = Conversation::new(args.model.clone(), args.system.clone(), args.max_tokens);
    if io::stdin().is_terminal() && args.prompt.is_none() {
        if args.json {
            note(&"spillway: --json needs a PROMPT, or standard input that is no terminal");
            return ExitCode::from(USAGE);
        }
        return talk::talk(&api, conversation).await;
    }
    match question(args.prompt) {
        Ok(question) => conversation.say(question),
        Err(why) => {
            note(&format!("spillway: {why}"));
            return ExitCode::from(USAGE);
        }
    }
    let outcome = until_interrupted(&api, &conversation, !args.json).await;
    if args.json { tell_json(&outcome) } else { tell(&outcome) }
}

/// The prompt, what stands on standard input, or both.
fn question(prompt: Option<String>) -> Result<String, String> {
    let mut input = String::new();
    if !io::stdin().is_terminal() {
        let mut stdin = io::stdin().lock().take(MAX_INPUT_BYTES + 1);
        stdin.read_to_string(&mut input).map_err(|error| format!("standard input: {error}"))?;
        if input.len() as u64 > MAX_INPUT_BYTES {
            return Err(format!("standard input is longer than {} MiB", MAX_INPUT_BYTES >> 20));
        }
    }
    let parts = [prompt.unwrap_or_default(), input.trim_end().to_owned()];
    let whole = parts.iter().filter(|part| !part.trim().is_empty()).cloned().collect::<Vec<_>>().join("\n\n");
    if whole.is_empty() {
        Err("nothing was asked: give a PROMPT, or something on standard input".to_owned())
    } else {
        Ok(whole)
    }
}

/// Asks until the answer ends or Ctrl-C ends it; what has come by then is kept.
async fn until_interrupted(api: &Api, conversation: &Conversation, shown: bool) -> (Answer, Option<Failure>) {
    let mut answer = Answer::default();
    let mut clean = Clean::default();
    let outcome = {
        let show = |piece: &str| {
            if shown {
                let _ = write!(io::stdout(), "{}", clean.pass(piece));
                let _ = io::stdout().flush();
            }
        };
        tokio::select! {
            outcome = api.ask(conversation, &mut answer, show) => outcome,
            _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
        }
    };
    (answer, outcome.err())
}

fn tell((answer, failure): &(Answer, Option<Failure>)) -> ExitCode {
    if !answer.text.is_empty() && !answer.text.ends_with('\n') {
        say(&"");
    }
    told::lines(answer).iter().for_each(|line| note(line));
    match failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            note(&format!("spillway: {failure}"));
            ExitCode::from(failure.exit_code())
        }
    }
}

fn tell_json((answer, failure): &(Answer, Option<Failure>)) -> ExitCode {
    let error = failure
        .as_ref()
        .map(|failure| json!({"message": failure.to_string(), "status": failure.status(), "code": failure.code()}));
    say(&json!({
        "ok": failure.is_none(),
        "content": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": answer.usage,
        "routing": answer.routing,
        "error": error,
    }));
    failure.as_ref().map_or(ExitCode::SUCCESS, |failure| ExitCode::from(failure.exit_code()))
}

/// Where the configuration says that the API listens.
fn configured_url(args: &ConfigArgs) -> Result<String, String> {
    let config = cli::load_to_look(args).map_err(|error| format!("{error}\nor name the gateway with --url"))?;
    let scheme = if config.server.tls.is_some() { "https" } else { "http" };
    Ok(format!("{scheme}://{}", crate::keys::reachable(config.server.listen)))
}
