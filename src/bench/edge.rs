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
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

/// How long bad company may take to fill every buffer.
const SETTLED: Duration = Duration::from_secs(3);

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
    /// Ordinary requests of each half of a round.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    requests: u32,
    /// Ordinary clients at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=512))]
    clients: u32,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Requests of the overload, each for a long stream that nobody reads: ten times what is admitted, over the time they hold a place.
    #[arg(long, default_value_t = 5120)]
    overload: u32,
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

/// Ordinary requests in one half of a round.
#[derive(Debug, Clone, Default, Serialize)]
struct Half {
    failures: usize,
    took_ms: Percentiles,
    memory_mib: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    alone: Half,
    /// While bad company arrives and fills what buffers there are.
    arriving: Half,
    /// Once it only waits.
    in_company: Half,
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
    let args = Arc::new(args);
    let client = BenchClient::new(&format!("http://{}/v1", args.address), &args.key)?;
    client.models().await?;
    let (mut alone, mut arriving, mut in_company) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        progress(&format!("round {round} of {}: alone", args.rounds));
        alone.push(half(&args, &client).await);
        progress(&format!("round {round} of {}: beside {} + {}", args.rounds, args.slowloris, args.stalled));
        let company = Company::gather(&args.address, args.slowloris, &stalled(&args), args.stalled).await;
        arriving.push(half(&args, &client).await);
        tokio::time::sleep(SETTLED).await;
        in_company.push(half(&args, &client).await);
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

fn stalled(args: &EdgeArgs) -> String {
    let body = format!(
        r#"{{"model":"{}","stream":true,"max_tokens":{},"messages":[{{"role":"user","content":"Tell me everything"}}]}}"#,
        args.model, args.stalled_tokens
    );
    company::post(&args.key, &body)
}

/// Closed loop: each client asks again when it has its answer.
async fn half(args: &Arc<EdgeArgs>, client: &BenchClient) -> Half {
    let asked = Arc::new(AtomicU32::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..args.clients {
        let (args, client, asked) = (Arc::clone(args), client.clone(), Arc::clone(&asked));
        clients.spawn(async move {
            let mut samples = Vec::new();
            while asked.fetch_add(1, Ordering::Relaxed) < args.requests {
                let question = Question { system: None, user: "Say hello".to_owned(), max_tokens: 8 };
                samples.push(client.ask(&args.model, &question).await);
            }
            samples
        });
    }
    let samples: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
    Half {
        failures: samples.iter().filter(|sample| sample.failure.is_some()).count(),
        took_ms: Percentiles::of(samples.iter().filter(|s| s.failure.is_none()).map(|sample| sample.took)),
        memory_mib: args.pid.and_then(resident_mib).unwrap_or_default(),
    }
}

/// The medians over rounds.
fn middle(halves: &[Half]) -> Half {
    let of = |value: fn(&Half) -> f64| median(halves.iter().map(value).collect());
    Half {
        failures: halves.iter().map(|half| half.failures).sum(),
        took_ms: Percentiles {
            samples: halves.iter().map(|half| half.took_ms.samples).sum(),
            p50: of(|half| half.took_ms.p50),
            p95: of(|half| half.took_ms.p95),
            p99: of(|half| half.took_ms.p99),
            max: of(|half| half.took_ms.max),
        },
        memory_mib: of(|half| half.memory_mib),
    }
}

/// An open loop: who is refused does not keep the next from coming.
async fn overload(args: &EdgeArgs) -> Overload {
    progress(&format!("overload: {} requests in {} s", args.overload, args.overload_seconds));
    let request: Arc<str> = stalled(args).into();
    let apart = Duration::from_secs(args.overload_seconds) / args.overload.max(1);
    let began = Instant::now();
    let mut asking = JoinSet::new();
    for number in 0..args.overload {
        tokio::time::sleep_until(began + apart * number).await;
        let (address, request) = (args.address.clone(), Arc::clone(&request));
        asking.spawn(async move { company::ask(&address, &request).await });
    }
    let answers = asking.join_all().await;
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
fn resident_mib(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}

impl Report {
    fn table(&self) -> String {
        let row = |name: &str, half: &Half| {
            let p = half.took_ms;
            vec![
                name.to_owned(),
                p.samples.to_string(),
                half.failures.to_string(),
                format!("{:.1}", p.p50),
                format!("{:.1}", p.p99),
                format!("{:.1}", half.memory_mib),
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
