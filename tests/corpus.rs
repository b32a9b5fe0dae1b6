//! Every seed of the fuzz targets through the same body that the fuzzer runs, so that what was once found stays fixed.
//! `make fuzz` looks for new ones.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test that fails should say so"
)]

#[path = "../fuzz/src/bodies.rs"]
mod bodies;

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

/// Mutations of each target in an ordinary run.
const MUTATIONS: u64 = 2_000;
/// Seconds for each target instead of that.
const SECONDS: &str = "SPILLWAY_MUTATE_SECONDS";
/// What parsers trip over.
const AWKWARD: [&[u8]; 20] = [
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n\n",
    b"data: ",
    b"\"",
    b"\\",
    b"\\ud800",
    b"\\u0000",
    b"{",
    b"}",
    b"[",
    b"]",
    b"null",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\"a\":",
];

#[test]
fn every_seed_of_every_fuzz_target_keeps_its_promises() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (name, body) in bodies::TARGETS {
        let files: Vec<_> = fs::read_dir(seeds.join(name)).expect("a folder of seeds").flatten().collect();
        assert!(!files.is_empty(), "{name} has seeds");
        for file in files {
            // The name of the test that fails should say which seed it was.
            let bytes = fs::read(file.path()).expect("a seed");
            let kept = std::panic::catch_unwind(|| body(&bytes));
            assert!(kept.is_ok(), "{}", file.path().display());
        }
    }
}

#[test]
fn every_fuzz_target_has_a_body_and_seeds() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(fuzz.join(folder)).expect("a folder").flatten();
        entries.map(|entry| entry.path().file_stem().unwrap().to_string_lossy().into_owned()).collect()
    };
    let bodies: BTreeSet<String> = bodies::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!((names("targets"), names("seeds")), (bodies.clone(), bodies));
}

fn mutated(seeds: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = seeds.choose(random).cloned().unwrap_or_default();
    for _ in 0..random.random_range(1..8) {
        let (one, other) = (random.random_range(0..=bytes.len()), random.random_range(0..=bytes.len()));
        let from = one.min(other);
        let to = one.max(other).min(from + 64);
        match random.random_range(0..6) {
            0 => drop(bytes.drain(from..to)),
            1 => drop(bytes.splice(from..from, AWKWARD.choose(random).copied().unwrap_or_default().iter().copied())),
            2 => {
                let piece = bytes[from..to].repeat(random.random_range(1..40));
                drop(bytes.splice(from..from, piece));
            }
            3 => bytes[from..to].iter_mut().for_each(|byte| *byte = random.random()),
            4 => {
                let other = seeds.choose(random).cloned().unwrap_or_default();
                let at = random.random_range(0..=other.len());
                drop(bytes.splice(from..to, other[at..(at + 128).min(other.len())].iter().copied()));
            }
            _ => bytes.truncate(to),
        }
    }
    bytes
}

#[test]
fn mutations_of_every_seed_keep_the_promises_of_their_target() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let seconds = std::env::var(SECONDS).ok().and_then(|text| text.parse().ok()).map(Duration::from_secs);
    for (name, body) in bodies::TARGETS {
        let files = fs::read_dir(seeds.join(name)).expect("a folder of seeds").flatten();
        let mut files: Vec<_> = files.map(|file| file.path()).collect();
        files.sort();
        let seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).expect("a seed")).collect();
        let began = SystemTime::now();
        let is_over = |done: u64| match seconds {
            Some(limit) => began.elapsed().unwrap_or_default() >= limit,
            None => done >= MUTATIONS,
        };
        // The same inputs in every ordinary run; others in each long one.
        let mut random = StdRng::seed_from_u64(seconds.map_or(0, |_| rand::random()));
        let mut done = 0;
        while !is_over(done) {
            let bytes = mutated(&seeds, &mut random);
            let kept = std::panic::catch_unwind(|| body(&bytes));
            assert!(kept.is_ok(), "{name} breaks its promise at {:?}", String::from_utf8_lossy(&bytes));
            done += 1;
        }
        if seconds.is_some() {
            eprintln!("{name}: {done} inputs");
        }
    }
}
