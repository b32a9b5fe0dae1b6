//! The circuit breaker of one (provider, model): Passing → Tripped → Probing → Passing. Pure.

use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// Failures in a row that trip it.
const IN_A_ROW: u32 = 5;
/// All calls of this window failing (and at least two of them) trips it too.
const WINDOW: Duration = Duration::from_secs(1);
const WINDOW_MIN: usize = 2;
/// Calls remembered of the window.
const REMEMBERED: usize = 64;
/// First and longest time it stays open; doubles with each failed probe.
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

    pub fn on_failure(&mut self, admitted: Admitted, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.remember(now, false);
        match self.state {
            BreakerState::Probing { trips, .. } if admitted == Admitted::Probe => {
                self.trip(now, trips.saturating_add(1));
            }
            BreakerState::Passing if self.failures >= IN_A_ROW || self.window_all_failed(now) => self.trip(now, 0),
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

    fn trip(&mut self, now: Instant, trips: u32) {
        let open = OPEN_MIN.saturating_mul(1_u32.checked_shl(trips.min(31)).unwrap_or(u32::MAX)).min(OPEN_MAX);
        self.state = BreakerState::Tripped { until: now + open, trips };
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

#[cfg(test)]
mod tests {
    use super::*;
    use Admitted::{Passed, Probe};

    fn tripped(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..5 {
            breaker.on_failure(Passed, now);
        }
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn five_failures_in_a_row_trip_it_and_one_probe_goes_through_at_a_time() {
        let mut breaker = Breaker::default();
        let start = Instant::now();
        let mut now = start;
        for _ in 0..5 {
            assert_eq!(breaker.admit(now), Some(Passed));
            breaker.on_failure(Passed, now);
            now += Duration::from_secs(2);
        }
        let tripped = now - Duration::from_secs(2);
        assert_eq!(breaker.admit(tripped + Duration::from_millis(999)), None);
        assert_eq!(breaker.admit(tripped + OPEN_MIN), Some(Probe));
        assert_eq!(breaker.admit(tripped + OPEN_MIN), None, "the probe is out");
        breaker.on_failure(Probe, tripped + OPEN_MIN);
        assert_eq!(breaker.admit(tripped + OPEN_MIN + Duration::from_millis(1999)), None, "the open time doubled");
        assert_eq!(breaker.admit(tripped + OPEN_MIN * 3), Some(Probe));
        breaker.on_success(Probe, tripped + OPEN_MIN * 3);
        assert_eq!(breaker.state(), BreakerState::Passing);
    }

    #[tokio::test(start_paused = true)]
    async fn two_failures_within_a_second_and_no_success_trip_it() {
        let mut breaker = Breaker::default();
        let now = Instant::now();
        breaker.on_success(Passed, now);
        breaker.on_failure(Passed, now + Duration::from_millis(100));
        breaker.on_failure(Passed, now + Duration::from_millis(200));
        assert_eq!(breaker.state(), BreakerState::Passing, "one success in the window");
        breaker.on_failure(Passed, now + Duration::from_millis(1150));
        assert!(matches!(breaker.state(), BreakerState::Tripped { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_began_earlier_neither_closes_nor_reopens_it() {
        let now = Instant::now();
        let mut breaker = tripped(now);
        breaker.on_success(Passed, now);
        assert!(matches!(breaker.state(), BreakerState::Tripped { .. }));
        assert_eq!(breaker.admit(now + OPEN_MIN), Some(Probe));
        breaker.on_failure(Passed, now + OPEN_MIN);
        assert!(matches!(breaker.state(), BreakerState::Probing { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_whose_client_left_frees_the_way_for_the_next() {
        let now = Instant::now();
        let mut breaker = tripped(now);
        let later = now + OPEN_MIN;
        assert_eq!(breaker.admit(later), Some(Probe));
        breaker.on_abandoned(Probe, later);
        assert_eq!(breaker.admit(later), Some(Probe));
    }
}
