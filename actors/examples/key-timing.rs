//! Does the time of a key check tell anything about the keys there are? 100,000 checks each of guesses that share the first
//! 50 characters with a real key and of guesses that share none, in random order, and Welch's t of the two; beyond 4.5 in
//! either direction they differ. `cargo run --release -p spillway-actors --example key-timing [KEYS]`
//!
//! A machine that does other things as well has outliers: t is also given for the fastest 90 % of all samples.

#![allow(clippy::print_stdout, clippy::expect_used, clippy::disallowed_methods, reason = "a measurement for people")]

use rand::{RngExt, seq::SliceRandom};
use spillway_actors::keys::{KeyWish, Keys, Recognised, SECRET_PREFIX, Secret, unix_now};
use std::{hint::black_box, time::Instant};

const SAMPLES: usize = 100_000;
const LIMIT: f64 = 4.5;
/// Characters of a guess that is right at first.
const SHARED: usize = 50;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn guess(beginning: &str, length: usize) -> Secret {
    let mut text = beginning.to_owned();
    let mut random = rand::rng();
    while text.len() < length {
        text.push(char::from(ALPHABET[random.random_range(0..ALPHABET.len())]));
    }
    Secret::presented(&text).expect("a guess is as long as a key")
}

fn welch(a: &[f64], b: &[f64]) -> f64 {
    let moments = |sample: &[f64]| {
        let n = sample.len() as f64;
        let mean = sample.iter().sum::<f64>() / n;
        let variance = sample.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
        (mean, variance / n)
    };
    let ((mean_a, error_a), (mean_b, error_b)) = (moments(a), moments(b));
    (mean_a - mean_b) / (error_a + error_b).sqrt()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let count: usize = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(100);
    let keys = Keys::in_memory();
    let mut secrets = Vec::new();
    for number in 0..count {
        let wish = KeyWish { name: format!("key {number}"), ..KeyWish::default() };
        secrets.push(keys.create(wish, unix_now()).await.expect("a key").0);
    }
    let real = secrets[0].expose().to_owned();
    let mut order: Vec<bool> = (0..2 * SAMPLES).map(|at| at % 2 == 0).collect();
    order.shuffle(&mut rand::rng());
    // Made beforehand: making them takes different times, which would show in what is measured right after.
    let guesses: Vec<(bool, Secret)> = order
        .into_iter()
        .map(|near| (near, guess(if near { &real[..SHARED] } else { SECRET_PREFIX }, real.len())))
        .collect();
    let now = unix_now();
    let mut samples = Vec::with_capacity(guesses.len());
    for (near, secret) in guesses {
        let began = Instant::now();
        let found = black_box(keys.recognise(black_box(&secret), now));
        let took = began.elapsed().as_nanos() as f64;
        assert!(matches!(found, Recognised::Unknown), "a guess is no key");
        samples.push((near, took));
    }
    let of = |near: bool, most: f64| -> Vec<f64> {
        samples.iter().filter(|(was, took)| *was == near && *took <= most).map(|(_, took)| *took).collect()
    };
    let mut sorted: Vec<f64> = samples.iter().map(|(_, took)| *took).collect();
    sorted.sort_by(f64::total_cmp);
    let t = |most: f64| welch(&of(true, most), &of(false, most));
    let (all, fast) = (t(f64::INFINITY), t(sorted[sorted.len() * 9 / 10]));
    println!(
        "{count} keys, {SAMPLES} samples each: p50 {} ns, Welch t = {all:.2} (all), {fast:.2} (fastest 90 %), limit {LIMIT}",
        sorted[sorted.len() / 2]
    );
    assert!(all.abs() < LIMIT && fast.abs() < LIMIT, "the time of a check tells what a guess has right");
}
