//! Times out of a history: percentiles, and how long after an engine's death its requests reached the provider.

use crate::support::{History, Record, cloud::Arrived, gateway::Kill};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// In milliseconds.
#[derive(Debug, Default, Serialize)]
pub struct Percentiles {
    pub samples: usize,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

impl Percentiles {
    pub fn of(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        let at = |share: f64| {
            let rank = (share * samples.len() as f64).ceil() as usize;
            samples.get(rank.clamp(1, samples.len().max(1)) - 1).map_or(0.0, |sample| sample.as_secs_f64() * 1e3)
        };
        Self { samples: samples.len(), p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1.0) }
    }
}

/// From the order of an engine's death to the arrival of each replacement attempt at the provider, by the way it died.
#[derive(Debug, Default)]
pub struct Failovers {
    pub by_way: BTreeMap<String, Vec<Duration>>,
}

impl Failovers {
    /// Of deaths that show at once: a closed socket, an exit, a broken frame.
    pub fn at_once(&self) -> Vec<Duration> {
        self.where_way(|way| !is_hang(way))
    }

    /// Of deaths that must be noticed first.
    pub fn after_hang(&self) -> Vec<Duration> {
        self.where_way(is_hang)
    }

    fn where_way(&self, wanted: impl Fn(&str) -> bool) -> Vec<Duration> {
        self.by_way.iter().filter(|(way, _)| wanted(way)).flat_map(|(_, times)| times.iter().copied()).collect()
    }

    /// A replacement is a request that reached the provider after a local attempt whose engine died. Its death is the last
    /// one ordered before its arrival.
    pub fn of(history: &History, arrived: &[Arrived]) -> Self {
        let replaced: BTreeSet<String> = history
            .records()
            .into_iter()
            .filter(|record| {
                let attempts = record.routing.as_ref().and_then(|routing| routing["attempts"].as_array());
                attempts.is_some_and(|attempts| attempts.iter().any(|attempt| attempt["outcome"] == "engine_died"))
            })
            .filter_map(|record| record.id)
            .collect();
        let deaths: BTreeMap<u64, Kill> =
            history.kills().into_iter().filter(is_engine_death).map(|kill| (kill.unix_ns, kill)).collect();
        let mut failovers = Self::default();
        for arrived in arrived.iter().filter(|arrived| replaced.contains(&arrived.request_id)) {
            let Some((at, kill)) = deaths.range(..arrived.received_unix_ns).next_back() else { continue };
            let after = Duration::from_nanos(arrived.received_unix_ns - at);
            failovers.by_way.entry(kill.how.clone()).or_default().push(after);
        }
        failovers
    }
}

/// From the order of each engine's death (but not of a hang, which must be noticed first) to the first text of a local
/// stream begun by its successor.
pub fn local_again(history: &History) -> Vec<Duration> {
    let first_texts: BTreeSet<u64> =
        history.records().iter().filter(is_local).filter_map(|record| record.first_ns).collect();
    // Text that was on its way when the engine died is no successor's: one needs longer than this to load.
    const LOAD_NS: u64 = 100_000_000;
    let deaths = history.kills().into_iter().filter(is_engine_death).filter(|kill| !is_hang(&kill.how));
    deaths
        .filter_map(|kill| first_texts.range(kill.unix_ns + LOAD_NS..).next().map(|first| first - kill.unix_ns))
        .map(Duration::from_nanos)
        .collect()
}

/// The head of a stream tells where it began, even if it was cut later.
fn is_local(record: &&Record) -> bool {
    record.stream && record.headers.get("x-spillway-target").is_some_and(|target| target == "local")
}

pub fn is_hang(way: &str) -> bool {
    ["sigstop", "hang-decode"].contains(&way)
}

fn is_engine_death(kill: &Kill) -> bool {
    !["kill", "panic", "error", "stop"].contains(&kill.how.as_str())
}
