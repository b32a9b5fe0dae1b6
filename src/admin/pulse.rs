//! The console's memory: once a second what a person on call wants to have seen, for the last ten minutes, and for those who
//! watch right now the whole picture, taken once for all of them. Decides nothing; a gateway that nobody watches pays for one small
//! sample a second.

mod latency;

use super::{AdminState, health, status};
use axum::body::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use spillway_actors::{flight::Sums, ledger::unix_now};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, MissedTickBehavior},
};

const BEAT: Duration = Duration::from_secs(1);
/// Ten minutes.
const KEPT: usize = 600;
/// How far latencies look back.
const LATELY: Duration = Duration::from_secs(60);
/// Consoles that watch at once.
const WATCHERS: usize = 32;

/// One second. Sums are those since the start: whoever draws takes differences.
#[derive(Debug, Clone, Copy, Serialize)]
struct Sample {
    at_ms: u64,
    #[serde(flatten)]
    sums: Sums,
    running: usize,
    /// `None`: no router lives.
    queue: Option<usize>,
    /// Of the answers of the last minute.
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
}

#[derive(Debug, Clone)]
pub(super) struct Pulse {
    samples: Arc<Mutex<VecDeque<Sample>>>,
    pictures: watch::Sender<Bytes>,
    places: Arc<Semaphore>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            samples: Arc::default(),
            pictures: watch::Sender::new(Bytes::new()),
            places: Arc::new(Semaphore::new(WATCHERS)),
        }
    }
}

/// A seat among those who watch.
pub(super) struct Seat {
    pub(super) pictures: watch::Receiver<Bytes>,
    _place: OwnedSemaphorePermit,
}

impl Pulse {
    /// `None`: all are taken.
    pub(super) fn seat(&self) -> Option<Seat> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(Seat { pictures: self.pictures.subscribe(), _place: place })
    }

    fn keep(&self, sample: Sample) {
        let mut samples = self.samples.lock();
        if samples.len() >= KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// An event with every sample kept.
    pub(super) fn history(&self) -> Bytes {
        let samples: Vec<Sample> = self.samples.lock().iter().copied().collect();
        event("history", &json!({"samples": samples}))
    }
}

/// Once a second, until it is dropped.
pub(super) async fn beat(state: AdminState) {
    let mut ticks = tokio::time::interval(BEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let sample = sample(&state).await;
        state.pulse.keep(sample);
        if state.pulse.pictures.receiver_count() > 0 {
            state.pulse.pictures.send_replace(picture(&state, sample).await);
        }
    }
}

async fn sample(state: &AdminState) -> Sample {
    let services = &state.runtime.services;
    let (p50_ms, p95_ms) = latency::lately(&services.recent, LATELY, Instant::now());
    Sample {
        at_ms: unix_now().get(),
        sums: services.recent.sums(),
        running: services.jobs.running(),
        queue: state.runtime.queued().await,
        p50_ms,
        p95_ms,
    }
}

/// An event with everything the console shows at one moment.
pub(super) async fn picture_now(state: &AdminState) -> Bytes {
    picture(state, sample(state).await).await
}

async fn picture(state: &AdminState, sample: Sample) -> Bytes {
    let latency = latency::table(&state.runtime.services.recent, LATELY, Instant::now());
    let picture = json!({
        "sample": sample,
        "latency": latency,
        "status": status::taken(state).await,
        "actors": state.runtime.tree.snapshot(),
        "cards": health::cards(state),
    });
    event("picture", &picture)
}

fn event(name: &str, data: &Value) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_ten_minutes_and_no_more_watchers_than_it_may() {
        let pulse = Pulse::default();
        let sample =
            |at_ms| Sample { at_ms, sums: Sums::default(), running: 0, queue: None, p50_ms: None, p95_ms: None };
        (0..700).for_each(|at| pulse.keep(sample(at)));
        let history = String::from_utf8(pulse.history().to_vec()).unwrap();
        let data = history.strip_prefix("event: history\ndata: ").and_then(|text| text.strip_suffix("\n\n")).unwrap();
        let samples = serde_json::from_str::<Value>(data).unwrap()["samples"].take();
        assert_eq!((samples.as_array().unwrap().len(), &samples[0]["at_ms"]), (KEPT, &json!(100)));
        let seats: Vec<_> = std::iter::from_fn(|| pulse.seat()).collect();
        assert_eq!(seats.len(), WATCHERS);
        drop(seats);
        assert!(pulse.seat().is_some(), "places are given back");
    }
}
