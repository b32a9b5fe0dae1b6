//! `make chaos`: a gateway under load for a while, something in it killed again and again, and a report of what that did
//! to its clients. Seeded: the same seed kills in the same order. Ends with an error when a rule is broken.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a report that fails should say so"
)]

#[path = "../support/mod.rs"]
mod support;

#[path = "measure.rs"]
mod measure;
#[path = "render.rs"]
mod render;

use measure::{Failovers, Percentiles};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::Serialize;
use std::{collections::BTreeMap, process::ExitCode, time::Duration};
use support::{
    Ask, Gateway, History, Load, Mix, Setup,
    history::Tally,
    poll::{eventually, until},
    process,
};
use tokio::time::Instant;

const CLIENTS: usize = 10;
const MAX_TOKENS: u32 = 32;
/// Between two kills, beyond the time the killed one takes to come back.
const PAUSE: std::ops::Range<Duration> = Duration::from_millis(600)..Duration::from_millis(1200);
/// Five deaths of one actor within ten seconds are forgiven; the schedule stays below.
const SAME_ACTOR: Duration = Duration::from_millis(2500);
const COME_BACK: Duration = Duration::from_secs(30);

const ENGINE_WAYS: [&str; 7] = ["sigkill", "sigstop", "garbage", "sigabrt", "hang-decode", "exit", "half-frame"];
const ACTOR_WAYS: [&str; 4] = ["kill", "panic", "error", "stop"];
const ACTORS: [&str; 9] = [
    "gpu/local",
    "gpu/local",
    "router",
    "classifier",
    "health",
    "ledger",
    "cloud/sim/0",
    "cloud-supervisor",
    "gpu-supervisor",
];

/// What one run came to.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub seconds: u64,
    pub seed: u64,
    pub clients: usize,
    pub kills: BTreeMap<String, usize>,
    pub tally: Tally,
    pub uncommitted_success_percent: f64,
    pub admitted: u64,
    pub ended: BTreeMap<String, u64>,
    /// Engine death ordered → replacement attempt received by the provider.
    pub failover: Percentiles,
    pub failover_hang: Percentiles,
    /// More deaths than were ordered: an engine was killed because it seemed to hang.
    pub engine_deaths_ordered: usize,
    pub engine_deaths: BTreeMap<String, usize>,
    pub failover_by_way: BTreeMap<String, Percentiles>,
    /// SIGSTOP → death declared.
    pub detect_idle: Percentiles,
    pub detect_decoding: Percentiles,
    /// Engine death ordered → the local target serves again.
    pub back_in_service: Percentiles,
    /// Engine death ordered → first text of a stream that its successor began.
    pub local_again: Percentiles,
    /// GPU actor death ordered → its successor has adopted the engine.
    pub adopted: Percentiles,
    /// Actor death ordered → its successor runs.
    pub actor_restart: Percentiles,
    /// Process start → first 200 of /health.
    pub start_to_health: Percentiles,
    /// Process start → local target serves.
    pub start_to_serving_ms: f64,
    pub resident_mib_before: f64,
    pub resident_mib_after: f64,
    pub open_files_before: usize,
    pub open_files_after: usize,
    pub zombies: usize,
    pub violations: Vec<String>,
}

struct Arguments {
    seconds: u64,
    seed: u64,
    json: bool,
}

fn arguments() -> Result<Arguments, String> {
    let mut found = Arguments { seconds: 60, seed: 1, json: false };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let mut number = || given.next().and_then(|value| value.parse().ok()).ok_or(format!("{name} needs a number"));
        match name.as_str() {
            "--seconds" => found.seconds = number()?,
            "--seed" => found.seed = number()?,
            "--json" => found.json = true,
            _ => return Err(format!("unknown argument {name}; known: --seconds N --seed S --json")),
        }
    }
    Ok(found)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("chaos-report: {why}");
            return ExitCode::from(2);
        }
    };
    let report = run(&arguments).await;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report).expect("a report is data"));
    } else {
        print!("{}", render::text(&report));
    }
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(arguments: &Arguments) -> Report {
    let mut report = Report { seconds: arguments.seconds, seed: arguments.seed, clients: CLIENTS, ..Report::default() };
    report.start_to_health = starts().await;
    // Deaths come in minutes that otherwise come in months: backoff and quarantine would only slow the run down.
    let extra = "[supervision.gpu]\nmax_deaths = 10000\nbackoff_max_ms = 500\n";
    let began = Instant::now();
    let gateway = Setup { max_inflight: 256, ..Setup::default().extra(extra) }.warm().await;
    report.start_to_serving_ms = began.elapsed().as_secs_f64() * 1e3;
    let history = History::default();
    idle_hangs(&gateway, &mut report).await;

    let load = Load::start(&gateway, &history, CLIENTS, Mix::All, MAX_TOKENS);
    load.flow(CLIENTS * 2).await;
    report.resident_mib_before = mib(gateway.resident_bytes());
    let open_files = gateway.open_files().len();
    report.open_files_before = open_files;
    let mut chaos = Chaos { gateway: &gateway, history: &history, report, last: BTreeMap::new() };
    chaos.kill_until(Instant::now() + Duration::from_secs(arguments.seconds), arguments.seed).await;
    let mut report = chaos.report;
    load.stop().await;
    conclude(gateway, &history, open_files, &mut report).await;
    report
}

/// A few bare starts, each ended again.
async fn starts() -> Percentiles {
    let mut took = Vec::new();
    for _ in 0..5 {
        let gateway = Setup::default().start().await;
        took.push(gateway.started_in);
        gateway.shutdown().await;
    }
    Percentiles::of(took)
}

/// SIGSTOP while nothing is asked of the engine.
async fn idle_hangs(gateway: &Gateway, report: &mut Report) {
    let mut took = Vec::new();
    for _ in 0..3 {
        let epoch = gateway.until_serving().await.epoch;
        let ordered = Instant::now();
        gateway.kill("gpu/local", "sigstop").await;
        *report.kills.entry("gpu/local sigstop".to_owned()).or_default() += 1;
        declared(gateway, epoch).await;
        took.push(ordered.elapsed());
    }
    gateway.until_serving().await;
    report.detect_idle = Percentiles::of(took);
}

async fn declared(gateway: &Gateway, epoch: u64) {
    let risen = || async { gateway.try_status().await.filter(|status| status.gpu().epoch > epoch).map(drop) };
    until("the engine's death is declared", COME_BACK, risen).await;
}

struct Chaos<'a> {
    gateway: &'a Gateway,
    history: &'a History,
    report: Report,
    /// When each actor died last.
    last: BTreeMap<&'static str, Instant>,
}

#[derive(Default)]
struct Samples {
    detect_decoding: Vec<Duration>,
    back: Vec<Duration>,
    adopted: Vec<Duration>,
    actor_restart: Vec<Duration>,
}

impl Chaos<'_> {
    async fn kill_until(&mut self, end: Instant, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut samples = Samples::default();
        let mut round = 0;
        while Instant::now() < end {
            // Engines and actors take turns; which and how is the seed's choice, but every way of each gets its turn.
            if round % 2 == 0 {
                let how = ENGINE_WAYS[(round / 2 + usize::from(random.random_bool(0.3))) % ENGINE_WAYS.len()];
                self.kill_engine(how, &mut samples).await;
            } else {
                let actor = ACTORS[random.random_range(0..ACTORS.len())];
                let how = ACTOR_WAYS[random.random_range(0..ACTOR_WAYS.len())];
                self.kill_actor(actor, how, &mut samples).await;
            }
            round += 1;
            tokio::time::sleep(random.random_range(PAUSE)).await;
        }
        let report = &mut self.report;
        report.detect_decoding = Percentiles::of(samples.detect_decoding);
        report.back_in_service = Percentiles::of(samples.back);
        report.adopted = Percentiles::of(samples.adopted);
        report.actor_restart = Percentiles::of(samples.actor_restart);
    }

    fn count(&mut self, actor: &str, how: &str) {
        *self.report.kills.entry(format!("{actor} {how}")).or_default() += 1;
    }

    async fn kill_engine(&mut self, how: &'static str, samples: &mut Samples) {
        let epoch = self.gateway.until_serving().await.epoch;
        // A hang is told by the pace, which a fresh engine must show first.
        self.history.add(self.gateway.client.ask(&self.gateway.api, Ask::count().model("local").max_tokens(4)).await);
        // A death while streams run is the one that matters.
        let at_work = || async { self.gateway.try_status().await.filter(|status| status.leases > 0).map(drop) };
        eventually(Duration::from_secs(5), at_work).await;
        let ordered = Instant::now();
        let Some(kill) = self.gateway.try_kill("gpu/local", how).await else { return };
        self.history.note(kill);
        self.count("gpu/local", how);
        declared(self.gateway, epoch).await;
        if how == "sigstop" {
            samples.detect_decoding.push(ordered.elapsed());
        }
        self.gateway.until_serving().await;
        if !measure::is_hang(how) {
            samples.back.push(ordered.elapsed());
        }
    }

    async fn kill_actor(&mut self, actor: &'static str, how: &'static str, samples: &mut Samples) {
        if self.last.get(actor).is_some_and(|last| last.elapsed() < SAME_ACTOR) {
            return;
        }
        let restarts = self.gateway.actor(actor).await.restarts;
        let ordered = Instant::now();
        let Some(kill) = self.gateway.try_kill(actor, how).await else { return };
        self.last.insert(actor, ordered);
        self.history.note(kill);
        self.count(actor, how);
        self.gateway.until_restarted(actor, restarts).await;
        samples.actor_restart.push(ordered.elapsed());
        if actor == "gpu/local" {
            self.gateway.until_serving().await;
            samples.adopted.push(ordered.elapsed());
        }
    }
}

/// The last look: everything has come to rest, and the books agree.
async fn conclude(gateway: Gateway, history: &History, open_files: usize, report: &mut Report) {
    gateway.until_serving().await;
    let at_rest =
        |status: &support::Status| status.leases == 0 && status.queue == Some(0) && status.requests.running == 0;
    let status = gateway.until_status("all is at rest", Duration::from_secs(10), at_rest).await;
    report.admitted = status.requests.admitted;
    report.ended = status.requests.ended.clone();
    report.resident_mib_after = mib(gateway.resident_bytes());
    let closed = || async { (gateway.open_files().len() <= open_files).then_some(()) };
    eventually(Duration::from_secs(5), closed).await;
    report.open_files_after = gateway.open_files().len();
    report.zombies = process::zombies_of(gateway.pid).len();
    report.tally = history.tally();
    report.uncommitted_success_percent = percent(report.tally.uncommitted_complete, report.tally.uncommitted);
    let failovers = Failovers::of(history, &gateway.cloud().arrived().await);
    report.failover = Percentiles::of(failovers.at_once());
    report.failover_hang = Percentiles::of(failovers.after_hang());
    report.failover_by_way = failovers.by_way.into_iter().map(|(way, times)| (way, Percentiles::of(times))).collect();
    report.local_again = Percentiles::of(measure::local_again(history));
    report.engine_deaths = gateway.death_causes();
    let on_engine = |kind: &&String| ENGINE_WAYS.iter().any(|way| kind.ends_with(way)) && kind.starts_with("gpu/");
    report.engine_deaths_ordered =
        report.kills.iter().filter(|(kind, _)| on_engine(kind)).map(|(_, count)| count).sum();
    report.violations = history.violations();
    let ended: u64 = status.requests.ended.values().sum();
    let mut rule = |kept: bool, what: String| {
        if !kept {
            report.violations.push(what);
        }
    };
    rule(status.requests.admitted == ended, format!("requests are not conserved: {status:?}"));
    rule(report.zombies == 0, format!("{} zombies", report.zombies));
    let (before, after) = (report.open_files_before, report.open_files_after);
    rule(after <= before, format!("open files leak: {before} before, {after} after"));
    gateway.shutdown().await;
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 { 100.0 } else { part as f64 * 100.0 / whole as f64 }
}
