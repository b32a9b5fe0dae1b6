//! `spillway bench edge`: what slow, stalled and too many clients cost everybody else, measured from outside.

mod company;

use super::{
    BenchError,
    client::{BenchClient, Question},
    progress,
    stats::{Percentiles, columns, median},
};
use company::Company;
use serde::Serialize;
use std::{
    fs,
    future::Future,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

#[derive(Debug, clap::Args)]
pub struct EdgeArgs {
    /// The gateway, as host:port; plain HTTP.
    #[arg(long, default_value = "127.0.0.1:8080")]
    address: String,
    #[arg(long, env = "SPILLWAY_API_KEY", default_value = "none", hide_env_values = true)]
    key: String,
    /// Model of every request; one whose answers cost nothing.
    #[arg(long, default_value = "auto")]
    model: String,
    /// Connections that drip a header, a byte a second.
    #[arg(long, default_value_t = 1000)]
    slowloris: u32,
    /// Clients that ask for a stream and read nothing of it.
    #[arg(long, default_value_t = 500)]
    stalled: u32,
    /// Tokens that each of those asks for: enough to fill what buffers there are.
    #[arg(long, default_value_t = 4000)]
    stalled_tokens: u32,
    /// Ordinary requests of each part of a round. With company the parts should end before the gateway cuts those that do
    /// not read, 20 s after they came: they come back, and that is another arrival.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    requests: u32,
    /// Ordinary requests a second: few, and sent whether or not those before were answered, so that waiting shows and the
    /// measurement itself is no load.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Requests of the overload, each for a long stream that nobody reads: ten times what is admitted, over the time they hold a place.
    #[arg(long, default_value_t = 5120)]
    overload: u32,
    /// Model of those requests. One that is slow holds its places at no cost to the machine: then refusals are measured, and not
    /// how long they wait for a processor. Default: that of every request.
    #[arg(long)]
    overload_model: Option<String>,
    /// Seconds over which they arrive, evenly.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    overload_seconds: u64,
    /// The gateway's process, for its memory.
    #[arg(long)]
    pid: Option<u32>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Ordinary requests in one part of a round.
#[derive(Debug, Clone, Default, Serialize)]
struct Part {
    failures: usize,
    /// The first one's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    took_ms: Percentiles,
    memory_mib: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    alone: Part,
    /// While bad company arrives and fills what buffers there are.
    arriving: Part,
    /// Once it only waits.
    in_company: Part,
    /// Of the 99th percentile, in percent of `alone`.
    p99_grows_by_percent: f64,
    memory_grows_by_mib: f64,
    overload: Option<Overload>,
}

/// Many more requests than are admitted.
#[derive(Debug, Default, Serialize)]
struct Overload {
    sent: usize,
    answered: usize,
    refused: usize,
    without_retry_after: usize,
    failed: usize,
    /// From the request's last byte to the refusal's first.
    refusal_ms: Percentiles,
}

/// # Errors
/// The gateway cannot be reached.
pub async fn run(args: EdgeArgs) -> Result<(), BenchError> {
    let client = BenchClient::new(&format!("http://{}/v1", args.address), &args.key)?;
    client.models().await?;
    let (mut alone, mut arriving, mut in_company) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        progress(&format!("round {round} of {}: alone", args.rounds));
        alone.push(part(&args, &client).await);
        progress(&format!("round {round} of {}: beside {} + {}", args.rounds, args.slowloris, args.stalled));
        let request = long_stream(&args, &args.model);
        let gathering = Company::gather(&args.address, args.slowloris, &request, args.stalled);
        let (company, part_of_arrival) = tokio::join!(gathering, part(&args, &client));
        arriving.push(part_of_arrival);
        in_company.push(part(&args, &client).await);
        company.leave().await;
    }
    let overload = if args.overload > 0 { Some(overload(&args).await) } else { None };
    let (alone, arriving, in_company) = (middle(&alone), middle(&arriving), middle(&in_company));
    let report = Report {
        p99_grows_by_percent: (in_company.took_ms.p99 / alone.took_ms.p99.max(1e-9) - 1.0) * 100.0,
        memory_grows_by_mib: in_company.memory_mib - alone.memory_mib,
        alone,
        arriving,
        in_company,
        overload,
    };
    let text =
        if args.json { serde_json::to_string_pretty(&report).map_err(io::Error::other)? } else { report.table() };
    writeln!(io::stdout(), "{text}")?;
    Ok(())
}

fn long_stream(args: &EdgeArgs, model: &str) -> String {
    let body = format!(
        r#"{{"model":"{}","stream":true,"max_tokens":{},"messages":[{{"role":"user","content":"Tell me everything"}}]}}"#,
        model, args.stalled_tokens
    );
    company::post(&args.key, &body)
}

/// An open loop, each request on time.
async fn part(args: &EdgeArgs, client: &BenchClient) -> Part {
    let question = Question { system: None, user: "Say hello".to_owned(), max_tokens: 8 };
    let samples = paced(args.requests, Duration::from_secs(1) / args.rate, |_| {
        let (client, model, question) = (client.clone(), args.model.clone(), question.clone());
        async move { client.ask(&model, &question).await }
    });
    let samples = samples.await;
    Part {
        failures: samples.iter().filter(|sample| sample.failure.is_some()).count(),
        failure: samples.iter().find_map(|sample| sample.failure.clone()),
        took_ms: Percentiles::of(samples.iter().filter(|s| s.failure.is_none()).map(|sample| sample.took)),
        memory_mib: args.pid.and_then(resident_mib).unwrap_or_default(),
    }
}

/// `count` of them, begun `apart`, whether or not those before have ended.
async fn paced<F, T>(count: u32, apart: Duration, each: impl Fn(u32) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let began = Instant::now();
    let mut running = JoinSet::new();
    for number in 0..count {
        tokio::time::sleep_until(began + apart * number).await;
        running.spawn(each(number));
    }
    running.join_all().await
}

/// The medians over rounds.
fn middle(parts: &[Part]) -> Part {
    let of = |value: fn(&Part) -> f64| median(parts.iter().map(value).collect());
    Part {
        failures: parts.iter().map(|part| part.failures).sum(),
        failure: parts.iter().find_map(|part| part.failure.clone()),
        took_ms: Percentiles {
            samples: parts.iter().map(|part| part.took_ms.samples).sum(),
            p50: of(|part| part.took_ms.p50),
            p95: of(|part| part.took_ms.p95),
            p99: of(|part| part.took_ms.p99),
            max: of(|part| part.took_ms.max),
        },
        memory_mib: of(|part| part.memory_mib),
    }
}

/// An open loop: who is refused does not keep the next from coming.
async fn overload(args: &EdgeArgs) -> Overload {
    progress(&format!("overload: {} requests in {} s", args.overload, args.overload_seconds));
    let request: Arc<str> = long_stream(args, args.overload_model.as_ref().unwrap_or(&args.model)).into();
    let apart = Duration::from_secs(args.overload_seconds) / args.overload.max(1);
    let answers = paced(args.overload, apart, |_| {
        let (address, request) = (args.address.clone(), Arc::clone(&request));
        async move { company::ask(&address, &request).await }
    });
    let answers = answers.await;
    let refusals = || answers.iter().flatten().filter(|(answer, _)| answer.status == 429);
    let answered = answers.iter().flatten().filter(|(answer, _)| answer.status == 200).count();
    Overload {
        sent: answers.len(),
        answered,
        refused: refusals().count(),
        without_retry_after: refusals().filter(|(answer, _)| !answer.retry_after).count(),
        failed: answers.len() - answered - refusals().count(),
        refusal_ms: Percentiles::of(refusals().map(|(answer, _)| answer.took)),
    }
}

/// Of the resident set. Linux only.
pub(super) fn resident_mib(pid: u32) -> Option<f64> {
    of_status(pid, "VmRSS:")
}

/// The most that it ever was.
pub(super) fn peak_mib(pid: u32) -> Option<f64> {
    of_status(pid, "VmHWM:")
}

fn of_status(pid: u32, field: &str) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}

impl Report {
    fn table(&self) -> String {
        let row = |name: &str, part: &Part| {
            let p = part.took_ms;
            vec![
                name.to_owned(),
                p.samples.to_string(),
                part.failures.to_string(),
                format!("{:.1}", p.p50),
                format!("{:.1}", p.p99),
                format!("{:.1}", part.memory_mib),
            ]
        };
        let head = ["", "answers", "failures", "p50 ms", "p99 ms", "MiB"].map(str::to_owned).to_vec();
        let rows = [
            head,
            row("alone", &self.alone),
            row("as company arrives", &self.arriving),
            row("in company", &self.in_company),
        ];
        let mut text = columns(&rows);
        text += &format!("\np99 {:+.1} %, memory {:+.1} MiB\n", self.p99_grows_by_percent, self.memory_grows_by_mib);
        for part in [&self.alone, &self.arriving, &self.in_company] {
            text += &part.failure.iter().map(|why| format!("a request failed: {why}\n")).collect::<String>();
        }
        if let Some(overload) = &self.overload {
            text += &format!(
                "overload: {} sent, {} answered, {} refused in p50 {:.1} ms, p99 {:.1} ms ({} without Retry-After), {} failed",
                overload.sent,
                overload.answered,
                overload.refused,
                overload.refusal_ms.p50,
                overload.refusal_ms.p99,
                overload.without_retry_after,
                overload.failed
            );
        }
        text
    }
}
