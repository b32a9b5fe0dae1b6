//! Quantiles of what answers took lately, exact over what is kept. Pure but for reading the window.

use serde_json::{Value, json};
use spillway_actors::flight::{Recent, Took};
use std::time::Duration;
use tokio::time::Instant;

/// Median and 95th percentile in milliseconds.
pub(super) fn lately(recent: &Recent, lately: Duration, now: Instant) -> (Option<f64>, Option<f64>) {
    let times = sorted(times(recent, lately, now).iter().map(|took| took.whole));
    (quantile(&times, 0.5), quantile(&times, 0.95))
}

/// By where it was answered: how many, and quantiles of the first token of streams and of whole answers.
pub(super) fn table(recent: &Recent, lately: Duration, now: Instant) -> Value {
    let times = times(recent, lately, now);
    let of = |wanted: fn(&Took) -> bool| {
        let some: Vec<&Took> = times.iter().filter(|took| wanted(took)).collect();
        let whole = sorted(some.iter().map(|took| took.whole));
        let first_token = sorted(some.iter().filter_map(|took| took.first_token));
        json!({"answers": some.len(), "first_token_ms": line(&first_token), "whole_ms": line(&whole)})
    };
    json!({
        "seconds": lately.as_secs(),
        "all": of(|_| true),
        "local": of(|took| took.is_local),
        "cloud": of(|took| !took.is_local),
    })
}

fn times(recent: &Recent, lately: Duration, now: Instant) -> Vec<Took> {
    now.checked_sub(lately).map_or_else(Vec::new, |since| recent.times(since))
}

fn line(sorted: &[Duration]) -> Value {
    json!({"p50": quantile(sorted, 0.5), "p95": quantile(sorted, 0.95), "p99": quantile(sorted, 0.99)})
}

fn sorted(times: impl Iterator<Item = Duration>) -> Vec<Duration> {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    times
}

/// The smallest time that this part of all did not exceed, in milliseconds.
fn quantile(sorted: &[Duration], part: f64) -> Option<f64> {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    let time = sorted.get(rank.clamp(1, sorted.len().max(1)) - 1)?;
    Some((time.as_secs_f64() * 10_000.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_times() {
        let times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile(&times, 0.5), Some(50.0));
        assert_eq!(quantile(&times, 0.95), Some(95.0));
        assert_eq!(quantile(&times, 0.99), Some(99.0));
        assert_eq!(quantile(&times[..1], 0.5), Some(1.0));
        assert_eq!(quantile(&times[..2], 0.99), Some(2.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
