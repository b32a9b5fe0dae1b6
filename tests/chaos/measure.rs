//! Times out of a history: percentiles, and how long after an engine's death its requests reached the provider.

use crate::support::{History, cloud::Arrived, gateway::Kill};
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

/// From the order of an engine's death to the arrival of each replacement attempt at the provider.
#[derive(Debug, Default)]
pub struct Failovers {
    /// The death showed at once: a closed socket, an exit, a broken frame.
    pub at_once: Vec<Duration>,
    /// The death had to be noticed first.
    pub after_hang: Vec<Duration>,
}

impl Failovers {
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
            if ["sigstop", "hang-decode"].contains(&kill.how.as_str()) {
                failovers.after_hang.push(after);
            } else {
                failovers.at_once.push(after);
            }
        }
        failovers
    }
}

fn is_engine_death(kill: &Kill) -> bool {
    !["kill", "panic", "error", "stop"].contains(&kill.how.as_str())
}
