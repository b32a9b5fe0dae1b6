//! How long grading takes: `cargo run --release -p spillway-actors --example classify-bench -- [PROMPTS.jsonl]`. Prints p50
//! and p99 for each prompt, and the time of a prompt of 1 MB. Without a file it uses prompts of its own.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "an offline program that measures real time")]

use spillway_actors::classify::{sketch::sketch, weights::Weights};
use std::{env, error::Error, fs, hint::black_box, time::Instant};

const ROUNDS: usize = 5;
const OWN: [&str; 4] = [
    "What is the capital of France?",
    "A shop sells pens at $3 each and gives one free for every five bought. How much do 23 pens cost?",
    "Which planet is known as the red planet?\nA. Venus\nB. Mars\nC. Jupiter\nD. Saturn",
    "Design a rate limiter that works across several regions and never lets a client exceed its quota. Discuss trade-offs.",
];

fn main() -> Result<(), Box<dyn Error>> {
    let prompts = match env::args().nth(1) {
        Some(path) => prompts(&fs::read_to_string(path)?)?,
        None => OWN.iter().map(|prompt| prompt.repeat(3)).collect(),
    };
    let mut times: Vec<u128> = Vec::new();
    for _ in 0..ROUNDS {
        times.extend(prompts.iter().map(|prompt| nanos(prompt)));
    }
    report(&format!("{} prompts", prompts.len()), times);
    let megabyte = OWN.join(" ").repeat(1 + 1_000_000 / OWN.join(" ").len());
    report("a prompt of 1 MB", (0..200).map(|_| nanos(&megabyte)).collect());
    Ok(())
}

fn prompts(text: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let prompt = |line: &str| -> Result<String, Box<dyn Error>> {
        let row: serde_json::Value = serde_json::from_str(line)?;
        Ok(row.get("prompt").and_then(serde_json::Value::as_str).ok_or("a line has no prompt")?.to_owned())
    };
    text.lines().map(prompt).collect()
}

fn nanos(prompt: &str) -> u128 {
    let weights = Weights::built_in();
    let begun = Instant::now();
    black_box(weights.opinion(&sketch(black_box(prompt)), 0.0));
    begun.elapsed().as_nanos()
}

fn report(what: &str, mut times: Vec<u128>) {
    times.sort_unstable();
    let at = |permille: usize| times.get(times.len() * permille / 1000).copied().unwrap_or(0);
    println!("{what}: p50 {} ns, p99 {} ns", at(500), at(990));
}
