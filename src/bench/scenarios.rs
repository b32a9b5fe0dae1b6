//! `spillway bench scenarios`: the same work all local, all cloud and hybrid, on a running gateway; what it cost and how
//! long it took.

use super::{
    BenchError,
    client::{BenchClient, Sample},
    progress,
    stats::{Percentiles, columns},
    workload,
};
use serde::Serialize;
use serde_json::json;
use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::task::JoinSet;

/// Costs are compared for this many tokens.
const PER_TOKENS: f64 = 100_000.0;

#[derive(Debug, clap::Args)]
pub struct ScenarioArgs {
    /// The gateway's API.
    #[arg(long, default_value = "http://127.0.0.1:8080/v1")]
    url: String,
    /// API key, if the gateway wants one.
    #[arg(long, env = "SPILLWAY_API_KEY", default_value = "none", hide_env_values = true)]
    key: String,
    /// A cloud model that answers everything in a scenario of its own; may be repeated.
    #[arg(long = "cloud")]
    clouds: Vec<String>,
    /// What savings are measured against: `hybrid` costs so much less than all of it there. Default: the last --cloud.
    #[arg(long)]
    baseline: Option<String>,
    /// Requests of each scenario; every fifth is hard.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    requests: u32,
    /// Requests at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=512))]
    clients: u32,
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    max_tokens: u32,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// One line of the table.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ScenarioRow {
    pub scenario: String,
    pub requests: usize,
    pub success_ratio: f64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Share of the tokens that the local targets served.
    pub local_token_ratio: f64,
    pub latency_ms: Percentiles,
    pub first_token_ms: Percentiles,
    pub cost_usd: f64,
    pub usd_per_100k_tokens: f64,
    /// 1 − cost per token / the baseline's; `None` without a baseline.
    pub saved_ratio: Option<f64>,
}

impl ScenarioRow {
    /// `is_local` tells local targets from the names of targets.
    fn of(scenario: &str, samples: &[Sample], is_local: impl Fn(&str) -> bool) -> Self {
        let complete: Vec<&Sample> = samples.iter().filter(|sample| sample.failure.is_none()).collect();
        let tokens = |sample: &&Sample| sample.prompt_tokens + sample.completion_tokens;
        let all: u64 = complete.iter().map(tokens).sum();
        let local = |sample: &&&Sample| sample.routing.as_ref().is_some_and(|routing| is_local(&routing.target));
        let here: u64 = complete.iter().filter(local).map(tokens).sum();
        // Failed attempts cost money, too: every attempt that a client was told of counts.
        let attempts =
            samples.iter().filter_map(|sample| sample.routing.as_ref()).flat_map(|routing| &routing.attempts);
        let cost_usd = attempts.map(|attempt| attempt.cost_usd).sum::<f64>();
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        Self {
            scenario: scenario.to_owned(),
            requests: samples.len(),
            success_ratio: share(complete.len() as f64, samples.len() as f64),
            prompt_tokens: complete.iter().map(|sample| sample.prompt_tokens).sum(),
            completion_tokens: complete.iter().map(|sample| sample.completion_tokens).sum(),
            local_token_ratio: share(here as f64, all as f64),
            latency_ms: Percentiles::of(complete.iter().map(|sample| sample.took)),
            first_token_ms: Percentiles::of(complete.iter().filter_map(|sample| sample.first_token)),
            cost_usd,
            usd_per_100k_tokens: share(cost_usd * PER_TOKENS, all as f64),
            saved_ratio: None,
        }
    }
}

/// Fills in what each row saves against the row called `baseline`.
fn compare(rows: &mut [ScenarioRow], baseline: &str) {
    let cost = rows.iter().find(|row| row.scenario == baseline).map(|row| row.usd_per_100k_tokens);
    let Some(cost) = cost.filter(|cost| *cost > 0.0) else { return };
    for row in rows {
        row.saved_ratio = Some(1.0 - row.usd_per_100k_tokens / cost);
    }
}

pub async fn run(args: ScenarioArgs) -> Result<(), BenchError> {
    let client = BenchClient::new(&args.url, &args.key)?;
    let known = client.models().await?;
    for wanted in args.clouds.iter().map(String::as_str).chain(["auto", "local"]) {
        if !known.iter().any(|model| model == wanted) {
            return Err(BenchError::Usage(format!(
                "{} has no model '{wanted}'; it lists {}",
                args.url,
                known.join(", ")
            )));
        }
    }
    let mut scenarios = vec![("all local".to_owned(), "local".to_owned())];
    scenarios.extend(args.clouds.iter().map(|model| (format!("all {model}"), model.clone())));
    scenarios.push(("hybrid".to_owned(), "auto".to_owned()));
    let mut rows: Vec<ScenarioRow> = Vec::new();
    let mut local_names = Vec::new();
    for (name, model) in &scenarios {
        progress(&format!("{name}: {} requests, {} at once …", args.requests, args.clients));
        let samples = work(&client, model, &args).await;
        if let Some(failure) = samples.iter().find_map(|sample| sample.failure.as_ref()) {
            progress(&format!("{name}: some requests failed, the first with: {failure}"));
        }
        if model == "local" {
            local_names.extend(samples.iter().filter_map(|sample| Some(sample.routing.as_ref()?.target.clone())));
            local_names.sort();
            local_names.dedup();
        }
        rows.push(ScenarioRow::of(name, &samples, |target| local_names.iter().any(|name| name == target)));
    }
    let baseline = args.baseline.or_else(|| args.clouds.last().cloned()).map(|model| format!("all {model}"));
    if let Some(baseline) = &baseline {
        compare(&mut rows, baseline);
    }
    print(&rows, baseline.as_deref(), args.json)?;
    Ok(())
}

/// All requests of one scenario, a few at once.
async fn work(client: &BenchClient, model: &str, args: &ScenarioArgs) -> Vec<Sample> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..args.clients {
        let (client, model, next) = (client.clone(), model.to_owned(), Arc::clone(&next));
        let (requests, max_tokens) = (args.requests as usize, args.max_tokens);
        workers.spawn(async move {
            let mut samples = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= requests {
                    return samples;
                }
                samples.push(client.ask(&model, &workload::mixed(number, max_tokens)).await);
            }
        });
    }
    workers.join_all().await.into_iter().flatten().collect()
}

fn print(rows: &[ScenarioRow], baseline: Option<&str>, as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if as_json {
        return writeln!(out, "{}", json!({"baseline": baseline, "scenarios": rows}));
    }
    let head = [
        "scenario",
        "requests",
        "success",
        "tokens",
        "local",
        "latency p50",
        "p95",
        "first token p50",
        "cost",
        "$ per 100k tokens",
        "saved",
    ];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    table.extend(rows.iter().map(cells));
    writeln!(out, "{}", columns(&table))?;
    match baseline {
        Some(baseline) => writeln!(out, "saved: against {baseline}, for the same number of tokens"),
        None => writeln!(out, "name cloud models with --cloud to see what is saved"),
    }
}

fn cells(row: &ScenarioRow) -> Vec<String> {
    let percent = |ratio: f64| format!("{:.1} %", ratio * 100.0);
    let ms = |ms: f64| format!("{ms:.0} ms");
    vec![
        row.scenario.clone(),
        row.requests.to_string(),
        percent(row.success_ratio),
        (row.prompt_tokens + row.completion_tokens).to_string(),
        percent(row.local_token_ratio),
        ms(row.latency_ms.p50),
        ms(row.latency_ms.p95),
        ms(row.first_token_ms.p50),
        format!("${:.6}", row.cost_usd),
        format!("${:.4}", row.usd_per_100k_tokens),
        row.saved_ratio.map_or_else(|| "–".to_owned(), percent),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::client::{RoutedAttempt, Routing};
    use std::time::Duration;

    fn sample(target: &str, costs: &[f64], failure: Option<&str>) -> Sample {
        let attempts = costs.iter().map(|&cost_usd| RoutedAttempt { cost_usd }).collect();
        Sample {
            failure: failure.map(str::to_owned),
            took: Duration::from_millis(10),
            prompt_tokens: 40,
            completion_tokens: 60,
            routing: Some(Routing { target: target.to_owned(), attempts }),
            ..Sample::default()
        }
    }

    #[test]
    fn a_hybrid_of_four_fifths_local_costs_a_fifth() {
        let all = vec![sample("cloud", &[0.0008], None); 10];
        let mut hybrid = vec![sample("local", &[0.0], None); 8];
        hybrid.extend(vec![sample("cloud", &[0.0008], None); 2]);
        let is_local = |target: &str| target == "local";
        let mut rows = [ScenarioRow::of("all m", &all, is_local), ScenarioRow::of("hybrid", &hybrid, is_local)];
        compare(&mut rows, "all m");
        let close = |value: f64, due: f64| (value - due).abs() < 1e-9;
        assert!(close(rows[0].usd_per_100k_tokens, 0.8) && close(rows[1].usd_per_100k_tokens, 0.16), "{rows:?}");
        assert!(close(rows[1].local_token_ratio, 0.8) && close(rows[1].saved_ratio.unwrap(), 0.8), "{rows:?}");
    }

    #[test]
    fn what_failed_attempts_cost_is_counted() {
        let samples = [sample("cloud", &[0.3, 0.5], None), sample("cloud", &[0.2], Some("cut"))];
        let row = ScenarioRow::of("s", &samples, |_| false);
        assert_eq!((row.requests, row.success_ratio), (2, 0.5));
        assert!((row.cost_usd - 1.0).abs() < 1e-9);
        let nothing = ScenarioRow::of("s", &[], |_| false);
        assert_eq!((nothing.success_ratio, nothing.usd_per_100k_tokens), (0.0, 0.0));
    }
}
