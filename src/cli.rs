//! The command line: which command, with what exit code. 0 ok, 1 failed, 2 usage, 3 unhealthy. Data goes to stdout, logs
//! and complaints to stderr.

mod help;
mod reference;

use crate::{
    bench::{self, BenchArgs},
    chaos::{self, ChaosArgs},
    chat::{self, ChatArgs, clean::clean},
    check::{self, CheckArgs},
    doctor::{self, DoctorArgs},
    keys::{self, KeysArgs},
    models::{self, ModelsArgs},
    route::{self, RouteArgs},
    serve::{
        self, ServeError, StopSignals,
        load::{Loaded, Loader},
        tidy,
    },
    sim::{Sim, SimArgs},
    top::{self, TopArgs},
    usage::{self, UsageArgs},
};
use clap::{Args, CommandFactory, Parser, Subcommand};
use reference::{CompletionsArgs, ConfigCommand, ManArgs};
use secrecy::SecretString;
use spillway_actors::config::{Config, DemoCloud, Warning};
use std::{
    fmt::Display,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};
use tokio_util::sync::CancellationToken;

/// A hybrid LLM inference gateway: easy requests on the local GPU, hard ones in the cloud, none lost.
#[derive(Debug, Parser)]
#[command(name = "spillway", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API and the admin listener.
    #[command(after_help = help::SERVE)]
    Serve(ServeArgs),
    /// Check a configuration and report every fault at once.
    #[command(after_help = help::CHECK)]
    Check(CheckArgs),
    /// Look at everything a gateway needs on this machine and say what to do about what is wrong.
    #[command(after_help = help::DOCTOR)]
    Doctor(DoctorArgs),
    /// Talk to a gateway in the terminal, or ask it one thing.
    #[command(after_help = help::CHAT)]
    Chat(ChatArgs),
    /// Watch a running gateway in the terminal.
    #[command(after_help = help::TOP)]
    Top(TopArgs),
    /// Fetch, list, describe, verify and remove model files.
    Models(ModelsArgs),
    /// Measure what clients see of a running server.
    Bench(BenchArgs),
    /// Break things in a running instance on purpose, and judge what that did to its clients.
    Chaos(ChaosArgs),
    /// Make, list and revoke API keys.
    Keys(KeysArgs),
    /// Explain where a prompt would go and why, without a running gateway and without running it; or score prompts.
    #[command(after_help = help::ROUTE)]
    Route(Box<RouteArgs>),
    /// Show what was used and what it cost, from the ledger's database.
    #[command(after_help = help::USAGE)]
    Usage(UsageArgs),
    /// Run the simulated provider: for tests, demo and benchmarks, never for answers.
    #[command(after_help = help::SIM)]
    Sim(SimArgs),
    /// Describe the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print what completes this command line in a shell.
    #[command(after_help = help::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Print the manual page, or write all of them into a folder.
    #[command(after_help = help::MAN)]
    Man(ManArgs),
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ConfigArgs {
    /// Configuration file; the built-in defaults apply where it is silent.
    #[arg(long, env = "SPILLWAY_CONFIG", global = true)]
    config: Option<PathBuf>,
}

/// The admin listener's token, by the same options at every command that asks there.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct TokenArgs {
    /// File with the admin token; the variable SPILLWAY_ADMIN_TOKEN may hold it instead.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// As a value, which anybody can read in the list of processes.
    #[arg(long, env = "SPILLWAY_ADMIN_TOKEN", hide = true, hide_env_values = true)]
    admin_token: Option<SecretString>,
}

/// What an answer of 401 is told as.
pub(crate) const WANTS_TOKEN: &str = "wants its token: --token-file FILE, or SPILLWAY_ADMIN_TOKEN";

impl TokenArgs {
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn token(&self) -> Result<Option<SecretString>, String> {
        let Some(path) = &self.token_file else { return Ok(self.admin_token.clone()) };
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Some(SecretString::from(text.trim())))
    }
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Put a simulated cloud provider (labelled as such) on loopback in place of the configured ones.
    #[arg(long)]
    demo: bool,
}

/// Exit code of a wrong command line, as clap's own.
pub(crate) const USAGE: u8 = 2;
/// Exit code of a check that found something unhealthy.
pub(crate) const UNHEALTHY: u8 = 3;

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().enable_all().on_thread_park(tidy::before_sleep).build() {
            Ok(runtime) => runtime,
            Err(error) => return failed(&format!("no runtime: {error}")),
        };
    let code = runtime.block_on(async {
        match cli.command {
            Command::Serve(args) => serve(args).await,
            Command::Check(args) => check::run(&args).await,
            Command::Doctor(args) => doctor::run(&args).await,
            Command::Chat(args) => chat::run(args).await,
            Command::Top(args) => top::run(args).await,
            Command::Models(args) => models::run(&args).await,
            Command::Bench(args) => bench::run(args).await,
            Command::Chaos(args) => chaos::run(args).await,
            Command::Keys(args) => keys::run(args).await,
            Command::Route(args) => route::run(&args),
            Command::Usage(args) => usage::run(&args).await,
            Command::Sim(args) => simulate(&args).await,
            Command::Config(command) => reference::config(&command),
            Command::Completions(args) => reference::completions(&args, Cli::command()),
            Command::Man(args) => reference::man(&args, Cli::command()),
        }
    });
    // Threads that wait for children or the driver must not hold up the exit.
    runtime.shutdown_background();
    code
}

/// Why it did not go well. Servers have a say in it, so it steers no terminal.
pub(crate) fn failed(why: &dyn Display) -> ExitCode {
    note(&format!("spillway: {why}"));
    ExitCode::FAILURE
}

/// The same, and for a program that reads JSON an object, as everywhere: {"ok": false, "error"}.
pub(crate) fn failed_as(json: bool, why: &dyn Display) -> ExitCode {
    if json {
        say(&serde_json::json!({"ok": false, "error": why.to_string()}));
    }
    failed(why)
}

/// Tells the operator what happens, beside the data. Whoever's words these are, they steer no terminal.
pub(crate) fn note(line: &dyn Display) {
    let _ = writeln!(io::stderr(), "{}", clean(&line.to_string()));
}

/// Prints a table for people, in which a server has a say.
pub(crate) fn show(table: &str) {
    say(&clean(table));
}

/// Prints a line of data; a closed stdout is nobody's fault.
pub(crate) fn say(line: &dyn Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

async fn serve(args: ServeArgs) -> ExitCode {
    serve::init_logs();
    let outcome = if args.demo { serve_demo(&args).await } else { serve_configured(&args.config, None).await };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Starts the simulated provider beside the gateway, for as long as it serves.
async fn serve_demo(args: &ServeArgs) -> Result<(), ServeError> {
    let sim = serve::demo_provider().await?;
    let base_url = format!("http://{}/v1", sim.local_addr);
    let stop = CancellationToken::new();
    let serving = spillway_actors::task::detached(sim.serve(stop.clone()));
    say(&"demo: cloud answers come from a SIMULATED provider on this machine");
    let outcome = serve_configured(&args.config, Some(DemoCloud { base_url })).await;
    stop.cancel();
    let _ = serving.await;
    outcome
}

async fn serve_configured(args: &ConfigArgs, demo: Option<DemoCloud>) -> Result<(), ServeError> {
    serve::run(Loader::new(args.config.clone(), demo)).await
}

pub(crate) fn load(args: &ConfigArgs, demo: Option<DemoCloud>) -> Result<(Config, Vec<Warning>), ServeError> {
    let (_, loaded) = Loader::new(args.config.clone(), demo).load();
    let Loaded { config, warnings } = loaded?;
    Ok((config, warnings))
}

/// For a command that serves nothing: neither a provider's key nor a model need be there.
pub(crate) fn load_to_look(args: &ConfigArgs) -> Result<Config, ServeError> {
    Ok(Loader::for_looking(args.config.clone()).load().1?.config)
}

async fn simulate(args: &SimArgs) -> ExitCode {
    let mut signals = match StopSignals::catch() {
        Ok(signals) => signals,
        Err(error) => return failed(&format!("signals cannot be caught: {error}")),
    };
    let sim = match Sim::bind(args.listen, args.options()).await {
        Ok(sim) => sim,
        Err(error) => return failed(&format!("cannot listen on {}: {error}", args.listen)),
    };
    say(&format!("SIMULATED provider on http://{}/v1 (no model answers here)", sim.local_addr));
    let stop = CancellationToken::new();
    let signalled = stop.clone();
    let waiting = spillway_actors::task::owned(async move {
        signals.next().await;
        signalled.cancel();
    });
    sim.serve(stop).await;
    drop(waiting);
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn a_token_comes_out_of_a_file_before_a_value() {
        let file = std::env::temp_dir().join(format!("spillway-token-{}", std::process::id()));
        std::fs::write(&file, "of-a-file\n").unwrap();
        let value = Some(SecretString::from("of-a-value"));
        let token = |token_file: Option<PathBuf>, admin_token: Option<SecretString>| {
            let token = TokenArgs { token_file, admin_token }.token();
            token.map(|token| token.map(|token| token.expose_secret().to_owned()))
        };
        assert_eq!(token(Some(file.clone()), value.clone()), Ok(Some("of-a-file".to_owned())));
        assert_eq!(token(None, value), Ok(Some("of-a-value".to_owned())));
        assert_eq!(token(None, None), Ok(None));
        std::fs::remove_file(&file).unwrap();
        assert!(token(Some(file), None).unwrap_err().contains("spillway-token-"));
    }

    /// Every command that asks an admin listener takes them.
    #[test]
    fn the_token_has_the_same_options_everywhere() {
        for command in [
            "top",
            "keys ls",
            "keys create --name x",
            "keys revoke x",
            "chaos run everything",
            "chaos kill router kill",
            "chaos fault x error",
            "chaos faults",
            "chaos clear",
        ] {
            for options in [["--token-file", "secrets/admin_token"], ["--admin-token", "x"]] {
                let words = ["spillway"].into_iter().chain(command.split(' ')).chain(options);
                let parsed = Cli::try_parse_from(words);
                assert!(parsed.is_ok(), "{command} {options:?}: {}", parsed.unwrap_err());
            }
        }
    }
}
