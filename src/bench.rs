//! `spillway bench`: measures what clients see of any OpenAI-compatible server, this gateway or another, and prints a
//! table or JSON. It changes nothing on the server and judges nothing: the figures are for the reader.

pub mod client;
pub mod edge;
pub mod engine;
pub mod gateway;
pub mod overload;
pub mod scenarios;
pub mod soak;
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

const OVERLOAD_HELP: &str = "\
First --clients ask as fast as they are answered: that is the peak. Then requests come at --times that rate whether or not
those before were answered, each at its time, and waiting counts from then: what is answered, and how quickly the others are
refused. A provider that takes its time at no cost (spillway sim --tokens-per-second 20) makes the places the bottleneck; one
that answers at once makes the processor the bottleneck, which client, gateway and provider then share.

Example:
  spillway sim --listen 127.0.0.1:9100 --tokens 20 --tokens-per-second 20 &
  spillway serve --config FILE &    # [[cloud]]: base_url http://127.0.0.1:9100/v1, simulated, max_concurrency 600
  spillway bench overload --pid $! --model MODEL --key low=$LOW --key high=$HIGH";

const SOAK_HELP: &str = "\
Everything at once, gently and for long: chats and text completions, whole and streamed, of local and cloud models, checked
token by token; Anthropic messages, responses, embeddings, lists; requests that are wrong; clients that leave. Meanwhile
something breaks now and then as the scenario says (config/chaos/soak.toml). Memory, open files, tasks and threads of the
gateway are looked at all the time.

Exit code 0: every rule of `spillway chaos run` was kept, no answer was wrong, every kind of right request was answered and
hardly one refused that nothing broken explains (with --calm: none), memory grew no faster than allowed (judged from 10
minutes behind the warm-up on) and afterwards was near its size, and open files and tasks at their number. 1: something was
not, or could not be seen.

Example:
  spillway serve --demo --config config/chaos/gateway.toml &
  spillway bench soak --url http://127.0.0.1:18080 --admin http://127.0.0.1:18081 --pid $!";

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
    /// Many times more requests than can be served: what is answered, how quickly the others are refused, what is left behind.
    #[command(after_help = OVERLOAD_HELP)]
    Overload(overload::OverloadArgs),
    /// Mixed traffic with a little chaos for a long time: whether anything is lost, and whether anything grows.
    #[command(after_help = SOAK_HELP)]
    Soak(soak::SoakArgs),
}

/// Runs the benchmark that the arguments name. Results go to stdout, progress to stderr.
pub async fn run(args: BenchArgs) -> ExitCode {
    let outcome = match args.what {
        What::Scenarios(args) => scenarios::run(args).await.map(done),
        What::Engine(args) => engine::run(args).await.map(done),
        What::Gateway(args) => gateway::run(args).await.map(done),
        What::Edge(args) => edge::run(args).await.map(done),
        What::Overload(args) => overload::run(args).await.map(done),
        What::Soak(args) => soak::run(&args).await,
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            progress(&format!("spillway bench: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// An argument that is more than nothing and at most `MOST`.
fn positive<const MOST: u32>(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text} is no number"))?;
    let fits = number > 0.0 && number <= f64::from(MOST);
    fits.then_some(number).ok_or_else(|| format!("must be more than 0 and at most {MOST}"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        what: What,
    }

    #[test]
    fn a_rate_is_a_number_that_can_be_kept() {
        let asked = |line: &str| Line::try_parse_from(["x"].into_iter().chain(line.split(' '))).map(|_| ());
        for good in ["soak --rate 0.5", "soak --rate 800", "overload --times 0.5", "overload --peak 100000 --times 10"]
        {
            assert!(asked(good).is_ok(), "{good}");
        }
        for option in ["soak --rate", "soak --max-mib-at-rest", "overload --times", "overload --peak"] {
            for number in ["nan", "inf", "-inf", "0", "-1", "1e300", "many"] {
                let line = format!("{option}={number}");
                assert!(asked(&line).is_err(), "{line}");
            }
        }
    }
}
