//! The circuit breaker of one (provider, model): Passing → Tripped → Probing → Passing. Pure: `now` and the jitter come
//! in as arguments. It sends no probe itself: the first request after the open time is the probe.

use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// Failures in a row that trip it.
const IN_A_ROW: u32 = 5;
/// All calls of this window failing (and at least two of them) trips it too.
const WINDOW: Duration = Duration::from_secs(1);
const WINDOW_MIN: usize = 2;
/// Calls remembered of the window.
const REMEMBERED: usize = 64;
/// Least and longest time from one probe to the next. The bound doubles with each failed probe, and the jitter takes its
/// share above the least: never more than one probe a second, and never longer than [`OPEN_MAX`] after the provider is
/// back, however long the failed probe before took.
const OPEN_MIN: Duration = Duration::from_secs(1);
const OPEN_MAX: Duration = Duration::from_secs(30);
/// A probe that never reports (its flight vanished) is forgotten after this long.
const PROBE_LOST: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    Passing,
    Tripped { until: Instant, trips: u32 },
    Probing { since: Instant, trips: u32 },
}

impl BreakerState {
    /// Whether it keeps calls out. When its time is over the next call is let through, whenever that comes.
    pub fn is_shut(self, now: Instant) -> bool {
        matches!(self, Self::Tripped { until, .. } if until > now)
    }
}

/// How a call was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    Passed,
    Probe,
}

#[derive(Debug, Clone)]
pub struct Breaker {
    state: BreakerState,
    failures: u32,
    recent: VecDeque<(Instant, bool)>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: BreakerState::Passing, failures: 0, recent: VecDeque::new() }
    }
}

impl Breaker {
    pub const fn state(&self) -> BreakerState {
        self.state
    }

    /// Whether a call would be let through now; changes nothing.
    pub fn would_pass(&self, now: Instant) -> bool {
        match self.state {
            BreakerState::Passing => true,
            BreakerState::Tripped { until, .. } => now >= until,
            BreakerState::Probing { since, .. } => now.duration_since(since) > PROBE_LOST,
        }
    }

    /// Lets a call through or not; the first after the open time is the one probe.
    pub fn admit(&mut self, now: Instant) -> Option<Admitted> {
        if !self.would_pass(now) {
            return None;
        }
        if let BreakerState::Tripped { trips, .. } | BreakerState::Probing { trips, .. } = self.state {
            self.state = BreakerState::Probing { since: now, trips };
            return Some(Admitted::Probe);
        }
        Some(Admitted::Passed)
    }

    /// The provider answered. While it is open, only the probe's answer counts: a stream that began earlier proves
    /// nothing about calls that begin now.
    pub fn on_success(&mut self, admitted: Admitted, now: Instant) {
        self.remember(now, true);
        if self.state == BreakerState::Passing || admitted == Admitted::Probe {
            self.failures = 0;
            self.state = BreakerState::Passing;
        }
    }

    /// The probe ended without telling anything (its client left): the next call is the probe.
    pub fn on_abandoned(&mut self, admitted: Admitted, now: Instant) {
        if let (Admitted::Probe, BreakerState::Probing { trips, .. }) = (admitted, self.state) {
            self.state = BreakerState::Tripped { until: now, trips };
        }
    }

    /// `jitter` is in `0.0..1.0`.
    pub fn on_failure(&mut self, admitted: Admitted, now: Instant, jitter: f64) {
        self.failures = self.failures.saturating_add(1);
        self.remember(now, false);
        match self.state {
            // Counted from the probe's start: one that hung for ten seconds has waited already.
            BreakerState::Probing { since, trips } if admitted == Admitted::Probe => {
                let trips = trips.saturating_add(1);
                self.trip((since + open_time(trips, jitter)).max(now), trips);
            }
            BreakerState::Passing if self.failures >= IN_A_ROW || self.window_all_failed(now) => {
                self.trip(now + open_time(0, jitter), 0);
            }
            BreakerState::Passing | BreakerState::Tripped { .. } | BreakerState::Probing { .. } => {}
        }
    }

    /// When a call is let through again, if not now.
    pub fn opens_at(&self) -> Option<Instant> {
        match self.state {
            BreakerState::Tripped { until, .. } => Some(until),
            BreakerState::Probing { since, .. } => Some(since + OPEN_MIN),
            BreakerState::Passing => None,
        }
    }

    fn trip(&mut self, until: Instant, trips: u32) {
        self.state = BreakerState::Tripped { until, trips };
        self.recent.clear();
    }

    fn remember(&mut self, now: Instant, success: bool) {
        while self.recent.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
            self.recent.pop_front();
        }
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((now, success));
    }

    fn window_all_failed(&self, now: Instant) -> bool {
        let in_window = || self.recent.iter().filter(|(at, _)| now.duration_since(*at) <= WINDOW);
        in_window().count() >= WINDOW_MIN && in_window().all(|(_, success)| !success)
    }
}

fn open_time(trips: u32, jitter: f64) -> Duration {
    let bound = OPEN_MIN.saturating_mul(1_u32.checked_shl(trips.saturating_add(1).min(31)).unwrap_or(u32::MAX));
    OPEN_MIN + (bound.min(OPEN_MAX) - OPEN_MIN).mul_f64(jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests;
