//! `spillway bench engine`: several OpenAI-compatible servers under the same load in alternation.

use super::{
    BenchError,
    client::{BenchClient, Question, Sample},
    progress,
    stats::{Percentiles, columns, median},
    workload::{self, Salt},
};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;
use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{task::JoinSet, time::Instant};

/// Words of the shared instructions: about a thousand tokens.
const SHARED_WORDS: usize = 900;
/// Words of a prompt that arrives in the middle: about two thousand tokens.
const LONG_WORDS: usize = 1800;

#[derive(Debug, clap::Args)]
pub struct EngineArgs {
    /// A server, as [NAME=]http://host:port/v1; may be repeated.
    #[arg(long = "url", default_value = "http://127.0.0.1:8080/v1")]
    urls: Vec<String>,
    /// Model to ask for; a gateway's `local` keeps the cloud out.
    #[arg(long, default_value = "local")]
    model: String,
    #[arg(long, env = "SPILLWAY_API_KEY", default_value = "none", hide_env_values = true)]
    key: String,
    /// Numbers of clients, one level each.
    #[arg(long, value_delimiter = ',', default_value = "1,4,8,16,32", value_parser = clap::value_parser!(u32).range(1..=512))]
    clients: Vec<u32>,
    #[arg(long, value_enum, default_value_t = Workload::Lengths)]
    workload: Workload,
    /// Requests of each level and round, at least two for each client.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    requests: u32,
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=8192))]
    max_tokens: u32,
    /// Rounds in alternation; figures are medians over them.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Workload {
    /// Prompts from a line to a page, none like another.
    Lengths,
    /// The same thousand tokens of instructions before every question.
    SharedPrefix,
    /// One stream less than clients, and prompts of two thousand tokens that arrive one after the other beside them.
    LongPrompt,
}

/// One server at one level in one round.
#[derive(Debug, Clone, Default, Serialize)]
struct Run {
    failures: usize,
    /// Why the first of them failed.
    failure: Option<String>,
    requests_per_second: f64,
    tokens_per_second: f64,
    first_token_ms: Percentiles,
    inter_token_ms: Percentiles,
    cached_tokens: u64,
}

impl Run {
    /// `streams` are judged; `beside` only count as failures when they fail.
    fn of(streams: &[Sample], beside: &[Sample], took: Duration) -> Self {
        let seconds = took.as_secs_f64().max(1e-9);
        let complete = || streams.iter().filter(|sample| sample.failure.is_none());
        let tokens: u64 = complete().map(|sample| sample.completion_tokens).sum();
        let failures: Vec<&String> =
            streams.iter().chain(beside).filter_map(|sample| sample.failure.as_ref()).collect();
        Self {
            failures: failures.len(),
            failure: failures.first().copied().cloned(),
            requests_per_second: complete().count() as f64 / seconds,
            tokens_per_second: tokens as f64 / seconds,
            first_token_ms: Percentiles::of(complete().filter_map(|sample| sample.first_token)),
            inter_token_ms: Percentiles::of(complete().flat_map(|sample| sample.gaps.iter().copied())),
            cached_tokens: complete().map(|sample| sample.cached_tokens).sum(),
        }
    }

    /// The medians over rounds.
    fn median(runs: &[Self]) -> Self {
        let of = |value: fn(&Self) -> f64| median(runs.iter().map(value).collect());
        let times = |of_run: fn(&Self) -> Percentiles| {
            let of = |value: fn(Percentiles) -> f64| median(runs.iter().map(|run| value(of_run(run))).collect());
            let samples = runs.iter().map(|run| of_run(run).samples).sum();
            Percentiles { samples, p50: of(|p| p.p50), p95: of(|p| p.p95), p99: of(|p| p.p99), max: of(|p| p.max) }
        };
        Self {
            failures: runs.iter().map(|run| run.failures).sum(),
            failure: runs.iter().find_map(|run| run.failure.clone()),
            requests_per_second: of(|run| run.requests_per_second),
            tokens_per_second: of(|run| run.tokens_per_second),
            first_token_ms: times(|run| run.first_token_ms),
            inter_token_ms: times(|run| run.inter_token_ms),
            cached_tokens: runs.iter().map(|run| run.cached_tokens).sum(),
        }
    }
}

/// One server at one level, over all rounds.
#[derive(Debug, Serialize)]
struct Line {
    clients: u32,
    server: String,
    #[serde(flatten)]
    run: Run,
    /// This server's figures divided by the last one's.
    tokens_ratio: f64,
    requests_ratio: f64,
    first_token_p50_ratio: f64,
    first_token_p99_ratio: f64,
    inter_token_p99_ratio: f64,
}

struct Server {
    name: String,
    client: BenchClient,
}

pub async fn run(args: EngineArgs) -> Result<(), BenchError> {
    let servers = servers(&args)?;
    let salt = u64::from(std::process::id())
        ^ SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
    for server in &servers {
        // The first request of a server may load, compile or warm something.
        let sample = server.client.ask(&args.model, &workload::lengths(Salt::new(salt, u32::MAX, 0), 0, 8)).await;
        if let Some(why) = sample.failure {
            return Err(BenchError::Unreachable { url: server.name.clone(), why });
        }
    }
    let mut lines = Vec::new();
    let numbers = Arc::new(AtomicUsize::new(1));
    for &clients in &args.clients {
        let mut runs: Vec<Vec<Run>> = servers.iter().map(|_| Vec::new()).collect();
        for round in 0..args.rounds {
            let first = numbers.load(Ordering::Relaxed);
            let mut order: Vec<usize> = (0..servers.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let (Some(server), Some(of_server)) = (servers.get(index), runs.get_mut(index)) else { continue };
                progress(&format!("{clients} clients, round {} of {}: {} …", round + 1, args.rounds, server.name));
                // The same numbers for every server: the same work.
                numbers.store(first, Ordering::Relaxed);
                let salt = Salt::new(salt, round, index);
                of_server.push(level(&server.client, &args, clients, &numbers, salt).await);
            }
        }
        lines.extend(compared(clients, &servers, &runs));
    }
    print(&lines, &args)?;
    if lines.iter().all(|line| line.run.tokens_per_second == 0.0) {
        return Err(BenchError::Usage("no request was answered".to_owned()));
    }
    Ok(())
}

fn servers(args: &EngineArgs) -> Result<Vec<Server>, BenchError> {
    let server = |given: &String| {
        let (name, url) = match given.split_once('=') {
            Some((name, url)) if !name.contains(':') => (name, url),
            _ => (given.as_str(), given.as_str()),
        };
        Ok(Server { name: name.to_owned(), client: BenchClient::new(url, &args.key)? })
    };
    args.urls.iter().map(server).collect()
}

/// One server under `clients` clients that ask one question after the other.
async fn level(client: &BenchClient, args: &EngineArgs, clients: u32, numbers: &Arc<AtomicUsize>, salt: Salt) -> Run {
    let requests = args.requests.max(clients * 2) as usize;
    let end = numbers.load(Ordering::Relaxed) + requests;
    let beside = args.workload == Workload::LongPrompt;
    let streams = if beside { clients.saturating_sub(1).max(1) } else { clients };
    let began = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..streams {
        let (client, model, numbers) = (client.clone(), args.model.clone(), Arc::clone(numbers));
        let (kind, max_tokens) = (args.workload, args.max_tokens);
        workers.spawn(async move {
            let mut samples = Vec::new();
            loop {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                if number >= end {
                    return samples;
                }
                samples.push(client.ask(&model, &question(kind, salt, number, max_tokens)).await);
            }
        });
    }
    let mut long = Vec::new();
    let mut streamed = Vec::new();
    if beside {
        let mut number = end;
        while let Some(done) = beside_a_long_prompt(&mut workers, client, &args.model, (salt, number), &mut long).await
        {
            streamed.extend(done);
            number += 1;
        }
    }
    streamed.extend(workers.join_all().await.into_iter().flatten());
    numbers.store(end + long.len(), Ordering::Relaxed);
    Run::of(&streamed, &long, began.elapsed())
}

/// Sends one long prompt while streams run; `None` once all of them have ended.
async fn beside_a_long_prompt(
    workers: &mut JoinSet<Vec<Sample>>,
    client: &BenchClient,
    model: &str,
    (salt, number): (Salt, usize),
    long: &mut Vec<Sample>,
) -> Option<Vec<Sample>> {
    if workers.is_empty() {
        return None;
    }
    long.push(client.ask(model, &workload::long(salt, number, LONG_WORDS)).await);
    let mut done = Vec::new();
    while let Some(Ok(samples)) = workers.try_join_next() {
        done.extend(samples);
    }
    Some(done)
}

fn question(kind: Workload, salt: Salt, number: usize, max_tokens: u32) -> Question {
    match kind {
        Workload::Lengths | Workload::LongPrompt => workload::lengths(salt, number, max_tokens),
        Workload::SharedPrefix => workload::shared_prefix(salt, number, SHARED_WORDS, max_tokens),
    }
}

fn compared(clients: u32, servers: &[Server], runs: &[Vec<Run>]) -> Vec<Line> {
    let medians: Vec<Run> = runs.iter().map(|runs| Run::median(runs)).collect();
    let Some(last) = medians.last().cloned() else { return Vec::new() };
    let ratio = |ours: f64, theirs: f64| if theirs > 0.0 { ours / theirs } else { 0.0 };
    let line = |(server, run): (&Server, Run)| Line {
        clients,
        server: server.name.clone(),
        tokens_ratio: ratio(run.tokens_per_second, last.tokens_per_second),
        requests_ratio: ratio(run.requests_per_second, last.requests_per_second),
        first_token_p50_ratio: ratio(run.first_token_ms.p50, last.first_token_ms.p50),
        first_token_p99_ratio: ratio(run.first_token_ms.p99, last.first_token_ms.p99),
        inter_token_p99_ratio: ratio(run.inter_token_ms.p99, last.inter_token_ms.p99),
        run,
    };
    servers.iter().zip(medians).map(line).collect()
}

fn print(lines: &[Line], args: &EngineArgs) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if args.json {
        let settings = json!({
            "workload": args.workload, "model": args.model, "requests": args.requests, "max_tokens": args.max_tokens,
            "rounds": args.rounds,
        });
        return writeln!(out, "{}", json!({"settings": settings, "levels": lines}));
    }
    let head = [
        "clients",
        "server",
        "tokens/s",
        "requests/s",
        "first token p50",
        "p99",
        "inter-token p50",
        "p99",
        "failed",
        "tokens/s ×",
        "requests/s ×",
        "first p50 ×",
        "p99 ×",
        "inter p99 ×",
    ];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    table.extend(lines.iter().map(cells));
    writeln!(out, "{}", columns(&table))?;
    writeln!(out, "milliseconds; medians over {} round(s); ×: against the last server of the level", args.rounds)?;
    for (line, why) in lines.iter().filter_map(|line| Some((line, line.run.failure.as_ref()?))) {
        writeln!(out, "failed at {} with {} clients, for example: {why}", line.server, line.clients)?;
    }
    Ok(())
}

fn cells(line: &Line) -> Vec<String> {
    let number = |value: f64| format!("{value:.1}");
    let ratio = |value: f64| format!("{value:.2}");
    vec![
        line.clients.to_string(),
        line.server.clone(),
        number(line.run.tokens_per_second),
        ratio(line.run.requests_per_second),
        number(line.run.first_token_ms.p50),
        number(line.run.first_token_ms.p99),
        number(line.run.inter_token_ms.p50),
        number(line.run.inter_token_ms.p99),
        line.run.failures.to_string(),
        ratio(line.tokens_ratio),
        ratio(line.requests_ratio),
        ratio(line.first_token_p50_ratio),
        ratio(line.first_token_p99_ratio),
        ratio(line.inter_token_p99_ratio),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(tokens: u64, first: u64, gaps: &[u64], failure: Option<&str>) -> Sample {
        Sample {
            failure: failure.map(str::to_owned),
            first_token: Some(Duration::from_millis(first)),
            gaps: gaps.iter().copied().map(Duration::from_millis).collect(),
            completion_tokens: tokens,
            ..Sample::default()
        }
    }

    #[test]
    fn a_run_counts_whole_answers_only_and_rounds_give_medians() {
        let streams = [sample(10, 5, &[1, 2], None), sample(10, 7, &[3], None), sample(99, 1, &[50], Some("cut"))];
        let run = Run::of(&streams, &[sample(1, 1, &[], Some("cut"))], Duration::from_secs(2));
        assert_eq!((run.failures, run.requests_per_second, run.tokens_per_second), (2, 1.0, 10.0));
        assert_eq!((run.first_token_ms.p99, run.inter_token_ms.max), (7.0, 3.0));
        let fast = Run { tokens_per_second: 30.0, ..run.clone() };
        let slow = Run { tokens_per_second: 2.0, ..run.clone() };
        assert_eq!(Run::median(&[fast, run, slow]).tokens_per_second, 10.0);
    }

    #[test]
    fn urls_may_have_names() {
        let args = |url: &str| EngineArgs {
            urls: vec![url.to_owned()],
            model: String::new(),
            key: String::new(),
            clients: vec![1],
            workload: Workload::Lengths,
            requests: 1,
            max_tokens: 1,
            rounds: 1,
            json: false,
        };
        let name = |url: &str| servers(&args(url)).unwrap().remove(0).name;
        assert_eq!(name("ours=http://h:1/v1"), "ours");
        assert_eq!(name("http://h:1/v1?a=b"), "http://h:1/v1?a=b");
    }
}
