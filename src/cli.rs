//! The command line: which command, with what exit code. 0 ok, 1 failed, 2 usage, 3 unhealthy. Data goes to stdout, logs
//! and complaints to stderr.

use crate::{
    bench::{self, BenchArgs},
    check,
    route::{self, RouteArgs},
    serve::{
        self, ServeError, StopSignals,
        load::{Loaded, Loader},
    },
    sim::{Sim, SimArgs},
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
    /// Measure what clients see of a running server.
    Bench(BenchArgs),
    /// Explain where a prompt would go and why, without a running gateway and without running it; or score prompts.
    Route(Box<RouteArgs>),
    /// Run the simulated provider: for tests, demo and benchmarks, never for answers.
    #[command(after_help = SIM_HELP)]
    Sim(SimArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Configuration file; the built-in defaults apply where it is silent.
    #[arg(long, env = "SPILLWAY_CONFIG")]
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
const UNHEALTHY: u8 = 3;

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
            Command::Bench(args) => bench::run(args).await,
            Command::Route(args) => route::run(&args),
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

fn check_offline(args: &CheckArgs) -> ExitCode {
    match (load(&args.config, None), args.json) {
        (Ok((_, warnings)), true) => {
            say(&serde_json::json!({"ok": true, "warnings": warnings}));
            ExitCode::SUCCESS
        }
        (Ok((_, warnings)), false) => {
            for warning in warnings {
                say(&format!("warning: {warning}"));
            }
            say(&"the configuration is good");
            ExitCode::SUCCESS
        }
        (Err(error), true) => {
            say(&serde_json::json!({"ok": false, "faults": error.to_string()}));
            ExitCode::FAILURE
        }
        (Err(error), false) => failed(&error),
    }
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
