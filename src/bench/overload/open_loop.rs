//! Requests at their times, whatever became of those before. Each takes a connection that is free, or opens one; if all that
//! there may be are busy it waits, and what it waited counts, because times are from when it was due.

use crate::bench::gateway::wire::{Asked, Line, Sample};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// What is sent, and when.
#[derive(Debug, Clone)]
pub(super) struct Flood {
    /// A second.
    pub(super) rate: f64,
    pub(super) lasts: Duration,
    pub(super) connections: usize,
    /// In turn.
    pub(super) asked: Vec<Arc<Asked>>,
}

/// One request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ended {
    /// Which of those in turn.
    pub(super) class: usize,
    /// Since the beginning.
    pub(super) due: Duration,
    /// How much later than that it was sent.
    pub(super) late: Duration,
    pub(super) sample: Sample,
}

/// Connections that wait for the next request, and places for those that may be opened.
struct Lines {
    free: Mutex<Vec<Line>>,
    places: Semaphore,
}

impl Flood {
    pub(super) async fn run(&self) -> Vec<Ended> {
        let lines = Arc::new(Lines { free: Mutex::default(), places: Semaphore::new(self.connections) });
        let (began, mut asking) = (Instant::now(), JoinSet::new());
        let mut ended = Vec::new();
        for number in 0_u64.. {
            let due = Duration::from_secs_f64(number as f64 / self.rate.max(0.01));
            let class = number as usize % self.asked.len().max(1);
            let Some(asked) = self.asked.get(class).filter(|_| due < self.lasts) else { break };
            sleep_until(began + due).await;
            let (asked, lines) = (Arc::clone(asked), Arc::clone(&lines));
            asking.spawn(async move { one(&asked, &lines, class, began, due).await });
            while let Some(done) = asking.try_join_next() {
                ended.extend(done);
            }
        }
        ended.extend(asking.join_all().await);
        ended
    }
}

async fn one(asked: &Asked, lines: &Lines, class: usize, began: Instant, due: Duration) -> Ended {
    let at = began + due;
    // Never closed.
    let _place = lines.places.acquire().await;
    let free = lines.free.lock().pop();
    let line = match free {
        Some(line) => Ok(line),
        None => Line::open(&asked.authority).await,
    };
    let late = at.elapsed();
    let mut line = match line {
        Ok(line) => line,
        Err(error) => {
            asked.heard.add(0, || error.to_string());
            return Ended {
                class,
                due,
                late,
                sample: Sample { failed: true, took: at.elapsed(), ..Sample::default() },
            };
        }
    };
    // A kept connection may be closed just when it is used, which is no answer either.
    let sample = line.sample(asked, at).await;
    if sample.status != 0 {
        lines.free.lock().push(line);
    }
    Ended { class, due, late, sample }
}
