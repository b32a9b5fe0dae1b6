//! Which seeds are run, each in a process of its own, and what is shown of one that fails.

use super::world;
use std::{
    env, fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

/// Names the seed and the file for its log, in the environment of a child.
const CHILD: &str = "SPILLWAY_SIM_CHILD";
const ONE: &str = "SPILLWAY_SIM_SEED";
const MANY: &str = "SPILLWAY_SIM_SEEDS";
const FROM: &str = "SPILLWAY_SIM_FROM";
/// Lines of a log that are shown of a failure.
const TAIL: usize = 60;

/// Each has found a bug that is mended, and says which. They are run with every set of seeds.
const FOUND: &[(u64, &str)] = &[
    (5860, "of a slow reader's answer, what lay unread when the gateway shut down was not paid for"),
    (7109, "events gathered for a slow reader kept the last word from it: its stream ended without one"),
    (7279, "the same at a shutdown: a slow reader's request did not end in time"),
];

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// The log of a seed, and what was wrong.
struct Ran {
    log: String,
    wrong: Option<String>,
}

/// Runs one seed in a process of its own.
fn run(seed: u64) -> Ran {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let file = env::temp_dir().join(format!("spillway-simulation-{}-{run}.log", std::process::id()));
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "simulation::seeds::one_seed", "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{seed} {}", file.display()))
        .output()
        .unwrap();
    let log = fs::read_to_string(&file).unwrap_or_default();
    let _ = fs::remove_file(file);
    let told = || format!("{}{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    Ran { log, wrong: (!child.status.success()).then(told) }
}

fn tail(log: &str, lines: usize) -> String {
    let all: Vec<&str> = log.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// What must be known of a failure, and how to see it again.
fn report(seed: u64, ran: &Ran) -> String {
    let wrongs: Vec<&str> = ran.log.lines().filter(|line| line.contains(" WRONG ")).collect();
    format!(
        "seed {seed} fails:\n{}\n\nThe end of its log:\n{}\n\n{}\nAgain, with the whole log: {ONE}={seed} cargo nextest run --release \
         --locked --workspace -E 'test(simulation::seeds::seeds_keep)' --no-capture\n",
        wrongs.join("\n"),
        tail(&ran.log, TAIL),
        tail(ran.wrong.as_deref().unwrap_or_default(), 20),
    )
}

/// Runs them on all processors; the report of each that fails.
fn failures(seeds: &[u64]) -> Vec<String> {
    let next = AtomicU64::new(0);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let work = || {
            let mut failed = Vec::new();
            while let Some(seed) = seeds.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap()) {
                let ran = run(*seed);
                if ran.wrong.is_some() {
                    failed.push(report(*seed, &ran));
                }
            }
            failed
        };
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        running.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

#[test]
#[expect(clippy::print_stdout, reason = "whoever asks for one seed reads its log")]
fn seeds_keep_every_promise() {
    if let Some(seed) = number(ONE) {
        let ran = run(seed);
        println!("{}", ran.log);
        assert!(ran.wrong.is_none(), "{}", report(seed, &ran));
        return;
    }
    let from = number(FROM).unwrap_or(1);
    let more = from..from + number(MANY).unwrap_or(20);
    let seeds: Vec<u64> = FOUND.iter().map(|(seed, _)| *seed).chain(more).collect();
    let began = tokio::time::Instant::now();
    let failed = failures(&seeds);
    println!("{} seeds in {:.1} s, {} failed", seeds.len(), began.elapsed().as_secs_f64(), failed.len());
    assert!(failed.is_empty(), "{} of {} seeds fail\n\n{}", failed.len(), seeds.len(), failed.join("\n\n"));
}

#[test]
fn the_same_seed_gives_the_same_log_and_another_one_another() {
    for seed in [1, 2, 3] {
        let (one, again) = (run(seed).log, run(seed).log);
        let differs = one.lines().zip(again.lines()).position(|(one, again)| one != again);
        assert!(one == again, "seed {seed} differs at line {differs:?}");
        assert!(one.lines().count() > 100, "seed {seed} has a log");
    }
    assert_ne!(run(1).log, run(2).log);
}

#[test]
#[ignore = "the other tests run it, in a process for each seed"]
fn one_seed() {
    let child = env::var(CHILD).unwrap_or_else(|_| "1 /dev/null".to_owned());
    let (seed, file) = child.split_once(' ').unwrap();
    let outcome = world::run(seed.parse().unwrap());
    fs::write(PathBuf::from(file), &outcome.log).unwrap();
    assert!(outcome.wrongs.is_empty(), "{}", outcome.wrongs.join("\n"));
}
