//! `spillway bench gateway`: what the gateway adds to a request, as its client sees it. The same load goes to the provider
//! directly and through the gateway, in alternation, so that a busy machine is unfair to neither.

pub(super) mod wire;

use super::{
    BenchError, progress,
    stats::{columns, median},
};
use bytes::Bytes;
use serde::Serialize;
use serde_json::json;
use std::{
    fs,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};
use wire::{Asked, Load, Run, Sample};

/// Ticks of a second in `/proc/PID/stat`, on every Linux.
const TICKS: f64 = 100.0;

#[derive(Debug, clap::Args)]
pub struct GatewayArgs {
    /// The gateway's base URL; plain HTTP.
    #[arg(long, default_value = "http://127.0.0.1:8080/v1")]
    url: String,
    /// Its provider's base URL: one that answers at once.
    #[arg(long, default_value = "http://127.0.0.1:9100/v1")]
    direct: String,
    /// For the gateway.
    #[arg(long, env = "SPILLWAY_API_KEY", default_value = "none", hide_env_values = true)]
    key: String,
    /// For the provider.
    #[arg(long, env = "SPILLWAY_BENCH_DIRECT_KEY", default_value = "none", hide_env_values = true)]
    direct_key: String,
    /// Of every request, as the gateway calls it.
    #[arg(long, default_value = "auto")]
    model: String,
    /// And as the provider does. Default: the same.
    #[arg(long)]
    direct_model: Option<String>,
    /// Connections at once, one level after the other.
    #[arg(long, value_delimiter = ',', default_value = "1,10,64,512", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: Vec<u32>,
    /// Which answers.
    #[arg(long, value_delimiter = ',', default_value = "whole,stream")]
    kinds: Vec<Kind>,
    /// Of each part of a round.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Requests a second, each at its time whether or not those before were answered; waiting counts. All of them are sent,
    /// however long that takes. Default: as many as are answered.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// The gateway's process, for its processor time and memory.
    #[arg(long)]
    pid: Option<u32>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Whole,
    Stream,
}

/// One way, direct or through the gateway.
#[derive(Debug, Clone, Default, Serialize)]
struct Way {
    requests_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    first_byte_p50_us: f64,
    first_byte_p99_us: f64,
    /// From one event of a stream to the next, the mean of each answer; 0 of whole answers.
    per_event_p50_us: f64,
    events_per_request: f64,
    failures: usize,
    /// What the first of them said.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

impl Way {
    /// It has no times.
    fn is_unanswered(&self) -> bool {
        self.requests_per_second <= 0.0
    }
}

#[derive(Debug, Serialize)]
struct Level {
    kind: Kind,
    connections: u32,
    direct: Way,
    gateway: Way,
    /// `None`: one of the ways has no answer.
    added_p50_us: Option<f64>,
    added_p99_us: Option<f64>,
    added_p999_us: Option<f64>,
    added_first_byte_p50_us: Option<f64>,
    added_first_byte_p99_us: Option<f64>,
    added_per_event_p50_us: Option<f64>,
    /// Of the gateway's process.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_us_per_request: Option<f64>,
    /// So far, since it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_mib: Option<f64>,
}

/// # Errors
/// Nothing listens at one of the URLs, or at one of the levels a way had no good answer.
pub async fn run(args: GatewayArgs) -> Result<(), BenchError> {
    let mut levels = Vec::new();
    for &kind in &args.kinds {
        let gateway = asked(&args.url, &args.key, &args.model, kind)?;
        let direct = asked(&args.direct, &args.direct_key, args.direct_model.as_ref().unwrap_or(&args.model), kind)?;
        for &connections in &args.connections {
            let load = Load { connections, lasts: Duration::from_secs(args.seconds), rate: args.rate };
            levels.push(level(&args, kind, load, &direct, &gateway).await?);
        }
    }
    let text =
        if args.json { serde_json::to_string_pretty(&levels).map_err(io::Error::other)? } else { table(&levels) };
    writeln!(io::stdout(), "{text}")?;
    unanswered(&levels).map_or(Ok(()), |why| Err(BenchError::Usage(why)))
}

fn ways(level: &Level) -> [(&'static str, &Way); 2] {
    [("direct", &level.direct), ("gateway", &level.gateway)]
}

fn unanswered(levels: &[Level]) -> Option<String> {
    levels.iter().find_map(|level| {
        let (name, way) = ways(level).into_iter().find(|(_, way)| way.is_unanswered())?;
        let (kind, connections) = (level.kind, level.connections);
        let why = way.failure.as_deref().unwrap_or("no answer");
        Some(format!("{name}: {kind:?}, {connections} connections: no request was answered: {why}"))
    })
}

async fn level(
    args: &GatewayArgs,
    kind: Kind,
    load: Load,
    direct: &Asked,
    gateway: &Asked,
) -> Result<Level, BenchError> {
    // Each level hears failures of its own.
    let [direct, gateway] = [direct, gateway].map(|asked| Asked { heard: Arc::default(), ..asked.clone() });
    let (mut directs, mut gateways, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        progress(&format!("{kind:?}, {} connections, round {round} of {}", load.connections, args.rounds));
        directs.push(way(&wire::run(&direct, load).await?, &direct));
        let before = args.pid.and_then(cpu_seconds);
        let run = wire::run(&gateway, load).await?;
        if let (Some(before), Some(after)) = (before, args.pid.and_then(cpu_seconds)) {
            cpu.push((after - before) * 1e6 / run.samples.len().max(1) as f64);
        }
        gateways.push(way(&run, &gateway));
    }
    let (direct, gateway) = (middle(&directs), middle(&gateways));
    let known = !direct.is_unanswered() && !gateway.is_unanswered();
    let added = |time: fn(&Way) -> f64| known.then(|| time(&gateway) - time(&direct));
    Ok(Level {
        kind,
        connections: load.connections,
        added_p50_us: added(|way| way.p50_us),
        added_p99_us: added(|way| way.p99_us),
        added_p999_us: added(|way| way.p999_us),
        added_first_byte_p50_us: added(|way| way.first_byte_p50_us),
        added_first_byte_p99_us: added(|way| way.first_byte_p99_us),
        added_per_event_p50_us: added(|way| way.per_event_p50_us).filter(|_| kind == Kind::Stream),
        direct,
        gateway,
        cpu_us_per_request: (!cpu.is_empty()).then(|| median(cpu)),
        peak_mib: args.pid.and_then(super::edge::peak_mib),
    })
}

fn asked(url: &str, key: &str, model: &str, kind: Kind) -> Result<Asked, BenchError> {
    let usage = || BenchError::Usage(format!("{url}: want http://host:port/path"));
    let parsed: http::Uri = url.parse().map_err(|_| usage())?;
    let plain = parsed.scheme_str() == Some("http");
    let authority = parsed.authority().filter(|authority| plain && authority.port().is_some()).ok_or_else(usage)?;
    let body = json!({
        "model": model, "stream": kind == Kind::Stream, "max_tokens": 64,
        "messages": [{"role": "user", "content": "Hello, how are you today?"}],
    });
    Ok(Asked {
        authority: authority.to_string(),
        path: format!("{}/chat/completions", parsed.path().trim_end_matches('/')),
        key: key.to_owned(),
        body: Bytes::from(body.to_string()),
        stream: kind == Kind::Stream,
        heard: Arc::default(),
    })
}

fn way(run: &Run, asked: &Asked) -> Way {
    let good: Vec<_> = run.samples.iter().filter(|sample| !sample.failed).collect();
    let rank = |mut times: Vec<Duration>, share: f64| {
        times.sort_unstable();
        let rank = ((share * times.len() as f64).ceil() as usize).max(1);
        times.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    let took = || good.iter().map(|sample| sample.took).collect::<Vec<_>>();
    let first = || good.iter().map(|sample| sample.first).collect::<Vec<_>>();
    let per_event = |sample: &&Sample| {
        let gaps = u32::try_from(sample.events).ok()?.checked_sub(1)?;
        sample.took.saturating_sub(sample.first).checked_div(gaps)
    };
    Way {
        requests_per_second: good.len() as f64 / run.lasted.as_secs_f64().max(1e-9),
        p50_us: rank(took(), 0.5),
        p99_us: rank(took(), 0.99),
        p999_us: rank(took(), 0.999),
        first_byte_p50_us: rank(first(), 0.5),
        first_byte_p99_us: rank(first(), 0.99),
        per_event_p50_us: rank(good.iter().filter_map(per_event).collect(), 0.5),
        events_per_request: good.iter().map(|sample| sample.events).sum::<u64>() as f64 / good.len().max(1) as f64,
        failures: run.samples.len() - good.len(),
        failure: asked.heard.any(),
    }
}

/// The medians over rounds.
fn middle(ways: &[Way]) -> Way {
    let of = |value: fn(&Way) -> f64| median(ways.iter().map(value).collect());
    Way {
        requests_per_second: of(|way| way.requests_per_second),
        p50_us: of(|way| way.p50_us),
        p99_us: of(|way| way.p99_us),
        p999_us: of(|way| way.p999_us),
        first_byte_p50_us: of(|way| way.first_byte_p50_us),
        first_byte_p99_us: of(|way| way.first_byte_p99_us),
        per_event_p50_us: of(|way| way.per_event_p50_us),
        events_per_request: of(|way| way.events_per_request),
        failures: ways.iter().map(|way| way.failures).sum(),
        failure: ways.iter().find_map(|way| way.failure.clone()),
    }
}

/// User and system time of a process so far. Linux only.
pub(super) fn cpu_seconds(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|ticks| ticks.parse::<f64>().ok());
    Some((ticks(11)? + ticks(12)?) / TICKS)
}

fn table(levels: &[Level]) -> String {
    let head = [
        "answers",
        "connections",
        "direct/s",
        "gateway/s",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "added p50",
        "added p99",
        "p99.9",
        "added first byte p50",
        "p99",
        "per event",
        "CPU µs",
        "peak MiB",
        "failed",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for level in levels {
        let whole = |value: f64| format!("{value:.0}");
        let known = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), whole);
        let fine = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
        rows.push(vec![
            format!("{:?}", level.kind).to_lowercase(),
            level.connections.to_string(),
            whole(level.direct.requests_per_second),
            whole(level.gateway.requests_per_second),
            whole(level.gateway.p50_us),
            whole(level.gateway.p99_us),
            whole(level.gateway.p999_us),
            known(level.added_p50_us),
            known(level.added_p99_us),
            known(level.added_p999_us),
            known(level.added_first_byte_p50_us),
            known(level.added_first_byte_p99_us),
            fine(level.added_per_event_p50_us),
            known(level.cpu_us_per_request),
            known(level.peak_mib),
            (level.direct.failures + level.gateway.failures).to_string(),
        ]);
    }
    let failures = levels.iter().flat_map(|level| ways(level).map(|(name, way)| (level, name, way)));
    let failures = failures.filter_map(|(level, name, way)| {
        let (kind, connections) = (level.kind, level.connections);
        Some(format!("\nfailed at {name}, {kind:?}, {connections} connections, for example: {}", way.failure.as_ref()?))
    });
    columns(&rows) + &failures.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_needs_scheme_and_port() {
        let of = |url| asked(url, "k", "m", Kind::Whole).map(|asked| (asked.authority, asked.path));
        let good = of("http://127.0.0.1:9100/v1/").unwrap();
        assert_eq!((good.0.as_str(), good.1.as_str()), ("127.0.0.1:9100", "/v1/chat/completions"));
        for bad in ["127.0.0.1:9100", "https://a:1/v1", "http://localhost/v1", "not a url"] {
            assert!(matches!(of(bad), Err(BenchError::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn failures_are_counted_and_left_out_of_the_times() {
        let sample = |ms, failed| Sample { failed, took: Duration::from_millis(ms), ..Sample::default() };
        let samples = vec![sample(1, false), sample(900, true), sample(3, false), sample(2, false)];
        let way = way(&Run { samples, lasted: Duration::from_secs(1) }, &nobody());
        assert_eq!((way.requests_per_second, way.p50_us, way.p999_us, way.failures), (3.0, 2000.0, 3000.0, 1));
    }

    #[test]
    fn the_time_of_an_event_is_the_mean_between_the_first_and_the_last() {
        let ms = Duration::from_millis;
        let stream = |events, took| Sample { events, first: ms(5), took: ms(took), ..Sample::default() };
        let samples = vec![stream(3, 25), stream(1, 5), stream(0, 5), stream(11, 25)];
        let way = way(&Run { samples, lasted: ms(1000) }, &nobody());
        assert_eq!(way.per_event_p50_us, 2000.0);
    }

    fn nobody() -> Asked {
        asked("http://127.0.0.1:1/v1", "k", "m", Kind::Whole).unwrap()
    }

    #[test]
    fn a_level_without_an_answer_has_no_figures_of_what_is_added_and_says_why() {
        let asked = nobody();
        asked.heard.add(404, || "404, refused: no such model".to_owned());
        let failed = Sample { failed: true, status: 404, ..Sample::default() };
        let gateway = way(&Run { samples: vec![failed; 3], lasted: Duration::from_secs(1) }, &asked);
        assert!(gateway.is_unanswered());
        let good = Way { requests_per_second: 9.0, ..Way::default() };
        let mut level = Level {
            kind: Kind::Whole,
            connections: 4,
            direct: good.clone(),
            gateway,
            added_p50_us: None,
            added_p99_us: None,
            added_p999_us: None,
            added_first_byte_p50_us: None,
            added_first_byte_p99_us: None,
            added_per_event_p50_us: None,
            cpu_us_per_request: None,
            peak_mib: None,
        };
        let why = unanswered(std::slice::from_ref(&level)).unwrap();
        assert_eq!(why, "gateway: Whole, 4 connections: no request was answered: 404, refused: no such model");
        let table = table(std::slice::from_ref(&level));
        assert!(table.contains("for example: 404, refused: no such model") && !table.contains(" -1"), "{table}");
        level.gateway = good;
        assert_eq!(unanswered(&[level]), None);
    }

    #[test]
    fn this_process_has_used_some_time() {
        assert!(cpu_seconds(std::process::id()).is_some_and(|seconds| seconds >= 0.0));
        assert_eq!(cpu_seconds(u32::MAX), None);
    }
}
