//! The command line: which command, with what exit code. 0 ok, 1 failed, 2 usage, 3 unhealthy. Data goes to stdout, logs
//! and complaints to stderr.

use crate::{
    bench::{self, BenchArgs},
    chaos::{self, ChaosArgs},
    check,
    doctor::{self, DoctorArgs},
    keys::{self, KeysArgs},
    models::{self, ModelsArgs},
    route::{self, RouteArgs},
    serve::{
        self, ServeError, StopSignals,
        load::{Loaded, Loader},
    },
    sim::{Sim, SimArgs},
    usage::{self, UsageArgs},
};
use clap::{Args, Parser, Subcommand};
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

const SIM_HELP: &str = "\
A model's name, or its end after `-`, `/` or `:`, chooses the fault (any other name answers well):
  ok  slow-N (ms)  error-N  error-500-2 (twice)  429  429-N (Retry-After)  429-date-N  429-once  401  402  403
  cut-N  stall-N  truncate  malformed  no-done  sse-error  split-utf8  no-usage  (N = tokens before it)
  hang  reset  html  empty  error-body  context-length  content-filter  prefix-ok  prefix-ignored  prefix-rejected

Its own books: GET /sim/requests, GET /sim/stats, DELETE /sim/requests
Faults at run time: PUT /sim/faults {\"model\": \"...\", \"fault\": \"...\"}, GET /sim/faults, DELETE /sim/faults
  (a model \"*\" is every model, \"key:6789\" every call with the key that ends so)

Example:
  spillway sim --listen 127.0.0.1:9100 --ttft-ms 50 --tokens-per-second 60";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API and the admin listener.
    Serve(ServeArgs),
    /// Check a configuration and report every fault at once.
    Check(CheckArgs),
    /// Look at everything a gateway needs on this machine and say what to do about what is wrong.
    Doctor(DoctorArgs),
    /// Fetch, list, describe, verify and remove model files.
    Models(ModelsArgs),
    /// Measure what clients see of a running server.
    Bench(BenchArgs),
    /// Break things in a running instance on purpose, and judge what that did to its clients.
    Chaos(ChaosArgs),
    /// Make, list and revoke API keys.
    Keys(KeysArgs),
    /// Explain where a prompt would go and why, without a running gateway and without running it; or score prompts.
    Route(Box<RouteArgs>),
    /// Show what was used and what it cost, from the ledger's database.
    Usage(UsageArgs),
    /// Run the simulated provider: for tests, demo and benchmarks, never for answers.
    #[command(after_help = SIM_HELP)]
    Sim(SimArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Configuration file; the built-in defaults apply where it is silent.
    #[arg(long, env = "SPILLWAY_CONFIG", global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Put a simulated cloud provider (labelled as such) on loopback in place of the configured ones.
    #[arg(long)]
    demo: bool,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Ask every cloud model that has a key whether it answers as configured; costs a few tokens.
    #[arg(long)]
    online: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Exit code of a check that found something unhealthy.
pub(crate) const UNHEALTHY: u8 = 3;

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("no runtime: {error}")),
    };
    let code = runtime.block_on(async {
        match cli.command {
            Command::Serve(args) => serve(args).await,
            Command::Check(args) if args.online => check_online(&args).await,
            Command::Check(args) => check_offline(&args),
            Command::Doctor(args) => doctor::run(&args).await,
            Command::Models(args) => models::run(&args).await,
            Command::Bench(args) => bench::run(args).await,
            Command::Chaos(args) => chaos::run(args).await,
            Command::Keys(args) => keys::run(args).await,
            Command::Route(args) => route::run(&args),
            Command::Usage(args) => usage::run(&args).await,
            Command::Sim(args) => simulate(&args).await,
        }
    });
    // Threads that wait for children or the driver must not hold up the exit.
    runtime.shutdown_background();
    code
}

pub(crate) fn failed(why: &dyn Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "spillway: {why}");
    ExitCode::FAILURE
}

/// Tells the operator what happens, beside the data.
pub(crate) fn note(line: &dyn Display) {
    let _ = writeln!(io::stderr(), "{line}");
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

fn check_offline(args: &CheckArgs) -> ExitCode {
    match load(&args.config, None) {
        Ok((config, warnings)) => {
            let mut told: Vec<String> = warnings.iter().map(ToString::to_string).collect();
            told.extend(check::saves_nothing(&config));
            tell_checked(&check::models(&config), told, args.json)
        }
        Err(error) if args.json => {
            say(&serde_json::json!({"ok": false, "faults": error.to_string()}));
            ExitCode::FAILURE
        }
        Err(error) => failed(&error),
    }
}

/// A configuration without faults of its own; its model files may have some.
fn tell_checked(models: &check::ModelFiles, warnings: Vec<String>, json: bool) -> ExitCode {
    let damaged: Vec<String> = models.damaged.iter().map(ToString::to_string).collect();
    let missing =
        models.missing.iter().map(|fault| format!("{}:{}:{}: {}", fault.file, fault.line, fault.column, fault.message));
    let warnings: Vec<String> = warnings.into_iter().chain(missing).collect();
    let ok = damaged.is_empty();
    if json {
        let mut told = serde_json::json!({"ok": ok, "warnings": warnings});
        if let (false, Some(told)) = (ok, told.as_object_mut()) {
            told.insert("faults".to_owned(), damaged.join("\n\n").into());
        }
        say(&told);
    } else {
        warnings.iter().for_each(|warning| say(&format!("warning: {warning}")));
        if ok {
            say(&"the configuration is good");
        } else {
            return failed(&damaged.join("\n\n"));
        }
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The configuration's faults first; what is asked of providers depends on it.
async fn check_online(args: &CheckArgs) -> ExitCode {
    let config = match load(&args.config, None) {
        Ok((config, _)) => config,
        Err(_) => return check_offline(args),
    };
    let cost = format!("asking every cloud model that has a key costs at most {}", check::costs_at_most(&config));
    // Said before anything is asked, and not into the data.
    let _ = writeln!(io::stderr(), "{cost}");
    match check::ask_all(&config).await {
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
