//! `spillway bench overload`: many times more requests than can be served, in an open loop: what is answered meanwhile, how
//! quickly the others are refused, and what memory is left behind. It judges nothing, unless nothing at all is answered.

mod open_loop;
mod report;

use super::{
    BenchError,
    edge::resident_mib,
    gateway::{
        cpu_seconds,
        wire::{self, Asked, Heard, Load},
    },
    positive, progress,
};
use bytes::Bytes;
use open_loop::{Ended, Flood};
use report::{Class, Memory, Report};
use serde_json::json;
use spillway_actors::task;
use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(250);
/// Between the two loads.
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub struct OverloadArgs {
    /// The gateway, as host:port; plain HTTP.
    #[arg(long, default_value = "127.0.0.1:8080")]
    address: String,
    /// A key; several as NAME=KEY take turns and are told apart.
    #[arg(long = "key", env = "SPILLWAY_API_KEY", default_value = "none", hide_env_values = true)]
    keys: Vec<String>,
    #[arg(long, default_value = "auto")]
    model: String,
    #[arg(long, default_value_t = 64)]
    max_tokens: u32,
    /// Ask for streams.
    #[arg(long)]
    stream: bool,
    /// Who ask at once while the peak is measured: as many as are admitted.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    peak_seconds: u64,
    /// Requests a second that can be served, if that is known: it is not measured then.
    #[arg(long, value_parser = positive::<1_000_000>)]
    peak: Option<f64>,
    #[arg(long, default_value_t = 10.0, value_parser = positive::<1000>)]
    times: f64,
    /// Of the overload. The rate is of answers that come within it, so let it be many times an answer's.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Connections at most; a request that finds none free waits, and that counts.
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    connections: u32,
    /// After its end the memory is looked at once more.
    #[arg(long, default_value_t = 60)]
    after_seconds: u64,
    /// The gateway's process, for its memory and processor time.
    #[arg(long)]
    pid: Option<u32>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl OverloadArgs {
    /// Names and keys, in turn.
    fn classes(&self) -> Vec<(String, String)> {
        let named = |key: &String| match key.split_once('=') {
            Some((name, key)) => (name.to_owned(), key.to_owned()),
            None => ("all".to_owned(), key.clone()),
        };
        self.keys.iter().map(named).collect()
    }

    fn asked(&self, key: &str) -> Asked {
        let body = json!({
            "model": self.model, "stream": self.stream, "max_tokens": self.max_tokens,
            "messages": [{"role": "user", "content": "Hello, how are you today?"}],
        });
        Asked {
            authority: self.address.clone(),
            path: "/v1/chat/completions".to_owned(),
            key: key.to_owned(),
            body: Bytes::from(body.to_string()),
            stream: self.stream,
            heard: Arc::default(),
        }
    }

    fn cpu(&self) -> Option<f64> {
        self.pid.and_then(cpu_seconds)
    }

    fn memory(&self) -> f64 {
        self.pid.and_then(resident_mib).unwrap_or_default()
    }
}

/// Requests a second that were answered, and what that took.
#[derive(Debug, Clone, Copy)]
struct Peak {
    per_second: f64,
    work: Option<Work>,
}

/// What the gateway's processor time went into.
#[derive(Debug, Clone, Copy)]
struct Work {
    cpu_us: f64,
    answered: f64,
    refused: f64,
}

/// # Errors
/// Nothing listens there, or nothing is answered.
pub async fn run(args: OverloadArgs) -> Result<(), BenchError> {
    let classes = args.classes();
    let before = args.memory();
    let peak = peak(&args, &classes).await?;
    let rate = peak.per_second * args.times;
    progress(&format!("overload: {rate:.0} requests/s for {} s, {:.0} can be served", args.seconds, peak.per_second));
    let most = Arc::new(AtomicU64::new(0));
    let looking = task::owned(look(args.pid, Arc::clone(&most)));
    let cpu = args.cpu();
    let heard = Arc::<Heard>::default();
    let asked =
        classes.iter().map(|(_, key)| Arc::new(Asked { heard: Arc::clone(&heard), ..args.asked(key) })).collect();
    let flood = Flood { rate, lasts: Duration::from_secs(args.seconds), connections: args.connections as usize, asked };
    let ended = flood.run().await;
    let cpu = cpu.zip(args.cpu()).map(|(before, after)| (after - before) * 1e6);
    drop(looking);
    progress(&format!("looking at the memory once more in {} s", args.after_seconds));
    tokio::time::sleep(Duration::from_secs(args.after_seconds)).await;
    let memory = Memory {
        before_mib: before,
        most_mib: f64::from_bits(most.load(Ordering::Relaxed)).max(before),
        after_mib: args.memory(),
    };
    let mut report = report(&args, &classes, &peak, rate, &ended, cpu, memory);
    let answered = report.all.answered;
    report.failure = if answered > 0 { heard.failure() } else { heard.any() };
    let text =
        if args.json { serde_json::to_string_pretty(&report).map_err(io::Error::other)? } else { report.table() };
    writeln!(io::stdout(), "{text}")?;
    if answered == 0 {
        let why = report.failure.unwrap_or_default();
        return Err(BenchError::Usage(format!("no request of the overload was answered: {why}")));
    }
    Ok(())
}

async fn peak(args: &OverloadArgs, classes: &[(String, String)]) -> Result<Peak, BenchError> {
    if let Some(per_second) = args.peak {
        return Ok(Peak { per_second, work: None });
    }
    progress(&format!("peak: {} clients for {} s", args.clients, args.peak_seconds));
    // The key that is refused last.
    let key = classes.last().map_or("none", |(_, key)| key.as_str());
    let load = Load { connections: args.clients, lasts: Duration::from_secs(args.peak_seconds), rate: None };
    let cpu = args.cpu();
    let asked = args.asked(key);
    let run = wire::run(&asked, load).await?;
    let cpu = cpu.zip(args.cpu()).map(|(before, after)| (after - before) * 1e6);
    let good = run.samples.iter().filter(|sample| !sample.failed).count();
    if good == 0 {
        let why = asked.heard.any().unwrap_or_else(|| "no answer".to_owned());
        return Err(BenchError::Unreachable { url: args.address.clone(), why });
    }
    tokio::time::sleep(PAUSE).await;
    let per_second = good as f64 / run.lasted.as_secs_f64().max(1e-9);
    let refused = (run.samples.len() - good) as f64;
    Ok(Peak { per_second, work: cpu.map(|cpu_us| Work { cpu_us, answered: good as f64, refused }) })
}

/// The most memory, until it is dropped.
async fn look(pid: Option<u32>, most: Arc<AtomicU64>) {
    loop {
        let now = pid.and_then(resident_mib).unwrap_or_default();
        let before = f64::from_bits(most.load(Ordering::Relaxed));
        most.store(before.max(now).to_bits(), Ordering::Relaxed);
        tokio::time::sleep(LOOK).await;
    }
}

fn report(
    args: &OverloadArgs,
    classes: &[(String, String)],
    peak: &Peak,
    rate: f64,
    ended: &[Ended],
    cpu_us: Option<f64>,
    memory: Memory,
) -> Report {
    let lasts = Duration::from_secs(args.seconds);
    let of = |nth: usize| ended.iter().filter(move |one| one.class == nth);
    let by_class: Vec<Class> =
        classes.iter().enumerate().map(|(nth, (name, _))| Class::of(name, lasts, of(nth))).collect();
    let all = Class::of("all", lasts, ended.iter());
    let work = cpu_us.map(|cpu_us| Work { cpu_us, answered: all.answered as f64, refused: all.refused as f64 });
    let costs = peak.work.zip(work).and_then(|(peak, flood)| costs(peak, flood));
    Report {
        peak_per_second: peak.per_second,
        rate_per_second: rate,
        goodput_percent_of_peak: all.answered_per_second * 100.0 / peak.per_second.max(1e-9),
        cpu_us_per_answer: costs.map(|(answer, _)| answer),
        cpu_us_per_refusal: costs.map(|(_, refusal)| refusal),
        all,
        classes: if by_class.len() > 1 { by_class } else { Vec::new() },
        memory,
        failure: None,
    }
}

/// Microseconds of an answer and of a refusal, of two loads that had different shares of them.
fn costs(one: Work, other: Work) -> Option<(f64, f64)> {
    let determinant = one.answered * other.refused - other.answered * one.refused;
    let spread = determinant.abs() / (one.answered * other.refused).max(1.0);
    (spread > 0.1).then(|| {
        let answer = (one.cpu_us * other.refused - other.cpu_us * one.refused) / determinant;
        let refusal = (one.answered * other.cpu_us - other.answered * one.cpu_us) / determinant;
        (answer.max(0.0), refusal.max(0.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: OverloadArgs,
    }

    #[test]
    fn what_an_answer_and_a_refusal_cost_is_told_by_two_loads_of_different_shares() {
        let work = |answered: f64, refused: f64| Work { cpu_us: answered * 400.0 + refused * 30.0, answered, refused };
        let near = |found: Option<(f64, f64)>| {
            let (answer, refusal) = found.unwrap();
            (answer - 400.0).abs() < 1e-6 && (refusal - 30.0).abs() < 1e-6
        };
        assert!(near(costs(work(100.0, 0.0), work(100.0, 900.0))));
        assert!(near(costs(work(100.0, 50.0), work(100.0, 900.0))));
        assert_eq!(costs(work(100.0, 900.0), work(110.0, 990.0)), None, "too much alike");
        assert_eq!(costs(work(100.0, 0.0), work(100.0, 0.0)), None);
    }

    #[test]
    fn keys_may_have_names() {
        let classes = |line: &[&str]| Line::parse_from([&["x"], line].concat()).args.classes();
        let two = classes(&["--key", "low=sk-1", "--key", "high=sk-2"]);
        assert_eq!(two, [("low".into(), "sk-1".into()), ("high".into(), "sk-2".into())]);
        assert_eq!(classes(&["--key", "sk-3"]), [("all".to_owned(), "sk-3".to_owned())]);
    }
}
