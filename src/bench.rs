//! `spillway bench`: measures what clients see of any OpenAI-compatible server, this gateway or another, and prints a
//! table or JSON. It changes nothing on the server and judges nothing: the figures are for the reader.

pub mod client;
pub mod edge;
pub mod engine;
pub mod gateway;
pub mod scenarios;
pub mod stats;
pub mod workload;

use clap::{Args, Subcommand};
use std::{io, process::ExitCode};

const SCENARIOS_HELP: &str = "\
The same requests are sent once for each scenario: `local` (every request to the local model), `hybrid` (the gateway
decides), and each cloud model named with --cloud. Tokens, latency and success are measured; costs are those of the
gateway's own accounts, priced from its configuration. Requests to a real provider cost real money.

Example, with the simulated provider:
  spillway serve --demo &
  spillway bench scenarios --cloud deepseek-v3.2 --cloud gpt-4.1";

const ENGINE_HELP: &str = "\
Every --url is measured in alternation, level after level, so that a busy machine is unfair to none. A URL may have a
name: --url ours=http://127.0.0.1:8080/v1 --url llama-server=http://127.0.0.1:9000/v1. Ratios are against the last URL.

Example:
  spillway bench engine --clients 1,8 --url ours=http://127.0.0.1:8080/v1 --url llama-server=http://127.0.0.1:9000/v1";

const EDGE_HELP: &str = "\
Ordinary requests are measured without and with bad company, in alternation: connections that drip a header, and clients
that ask for a long stream and read nothing of it. Then many more requests than are admitted are sent, and the refusals
are measured. The gateway should have nothing else to do, and answers should come at once, so that clients that read
nothing are soon all that there is; with a provider of its own process that costs nothing.

Example:
  spillway sim --listen 127.0.0.1:9100 --tokens 4000 &
  spillway serve --config FILE &    # [[cloud]]: base_url http://127.0.0.1:9100/v1, simulated, max_concurrency 600
  spillway bench edge --pid $! --model MODEL";

const GATEWAY_HELP: &str = "\
The same load goes to the provider directly and through the gateway, in alternation; times are those of the client. The
provider should answer at once and cost nothing. `make bench` does all of this.

Example:
  spillway sim --listen 127.0.0.1:9100 --tokens 64 &
  spillway serve --config FILE &    # [[cloud]]: base_url http://127.0.0.1:9100/v1, simulated
  spillway bench gateway --pid $! --model MODEL --direct-model ok";

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The cost table: all local, all cloud, hybrid, on a running gateway.
    #[command(after_help = SCENARIOS_HELP)]
    Scenarios(scenarios::ScenarioArgs),
    /// Time to first token, inter-token latency and tokens per second at several numbers of clients.
    #[command(after_help = ENGINE_HELP)]
    Engine(engine::EngineArgs),
    /// What the gateway adds to a request: the provider directly against through the gateway.
    #[command(after_help = GATEWAY_HELP)]
    Gateway(gateway::GatewayArgs),
    /// What slow, stalled and too many clients cost everybody else.
    #[command(after_help = EDGE_HELP)]
    Edge(edge::EdgeArgs),
}

/// Runs the benchmark that the arguments name. Results go to stdout, progress to stderr.
pub async fn run(args: BenchArgs) -> ExitCode {
    let outcome = match args.what {
        What::Scenarios(args) => scenarios::run(args).await,
        What::Engine(args) => engine::run(args).await,
        What::Gateway(args) => gateway::run(args).await,
        What::Edge(args) => edge::run(args).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress(&format!("spillway bench: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Why a benchmark could not be run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{0}")]
    Usage(String),
    #[error("{url} cannot be measured: {why}")]
    Unreachable { url: String, why: String },
    #[error("the result cannot be written: {0}")]
    Output(#[from] io::Error),
}

/// A line for the person who waits.
fn progress(line: &str) {
    crate::cli::note(&line);
}
