//! The one published picture of the fleet's health. Life-cycle and breaker state are not in it: their owners publish them.

use super::{nvml::Reading, scores::Score};
use arc_swap::ArcSwap;
use serde::Serialize;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

/// How a provider answered the last probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    pub at: Instant,
    /// `Err`: what went wrong, without secrets.
    pub answer: Result<usize, String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct LocalHealth {
    /// UUID of the card whose health counts for it.
    pub gpu: Option<String>,
    /// The card was lost or needed a reset when the driver last spoke of it.
    pub faulty: bool,
    /// Uncorrected memory errors when the driver last spoke of it.
    pub ecc_uncorrected: Option<u64>,
    pub score: Score,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProviderHealth {
    pub probe: Option<ProbeResult>,
    /// One per configured model.
    pub scores: Vec<Score>,
}

impl ProviderHealth {
    /// `None`: not known.
    pub fn reachable(&self) -> Option<bool> {
        self.probe.as_ref().map(|probe| probe.answer.is_ok())
    }
}

/// The fleet at one moment.
#[derive(Debug, Clone)]
pub struct HealthSnapshot {
    /// `None` until the first look.
    pub gpus: Option<Reading>,
    /// Bytes of system memory: (used, total).
    pub system_memory: Option<(u64, u64)>,
    /// In the order of the configuration.
    pub locals: Vec<LocalHealth>,
    pub providers: Vec<ProviderHealth>,
    pub taken_at: Instant,
    pub wall: SystemTime,
}

/// What planning may believe of one target; all `None` and `false` when nothing is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct TargetVitals {
    pub score: Score,
    /// Its provider did not answer the last probe and nothing has succeeded there since.
    pub unreachable: bool,
}

/// The published snapshot. Older than three intervals, it counts as unknown.
#[derive(Debug, Clone)]
pub struct Vitals {
    latest: Arc<ArcSwap<HealthSnapshot>>,
    believed_for: Duration,
}

impl Default for Vitals {
    fn default() -> Self {
        Self::new(Duration::from_secs(5))
    }
}

impl Vitals {
    /// `interval`: how often a new snapshot is due.
    pub fn new(interval: Duration) -> Self {
        let unknown = HealthSnapshot {
            gpus: None,
            system_memory: None,
            locals: Vec::new(),
            providers: Vec::new(),
            taken_at: Instant::now(),
            wall: SystemTime::now(),
        };
        Self { latest: Arc::new(ArcSwap::from_pointee(unknown)), believed_for: interval * 3 }
    }

    /// The latest snapshot, however old.
    pub fn read(&self) -> Arc<HealthSnapshot> {
        self.latest.load_full()
    }

    /// `None`: too old to say anything.
    pub fn fresh(&self, now: Instant) -> Option<Arc<HealthSnapshot>> {
        Some(self.read()).filter(|snapshot| now.saturating_duration_since(snapshot.taken_at) <= self.believed_for)
    }

    pub(super) fn publish(&self, snapshot: HealthSnapshot) {
        self.latest.store(Arc::new(snapshot));
    }

    pub fn local(&self, slot: usize, now: Instant) -> TargetVitals {
        let fresh = self.fresh(now);
        let local = fresh.as_ref().and_then(|snapshot| snapshot.locals.get(slot));
        local.map_or_else(TargetVitals::default, |local| TargetVitals { score: local.score, unreachable: false })
    }

    pub fn cloud(&self, provider: usize, model: usize, now: Instant) -> TargetVitals {
        let fresh = self.fresh(now);
        let Some(health) = fresh.as_ref().and_then(|snapshot| snapshot.providers.get(provider)) else {
            return TargetVitals::default();
        };
        let score = health.scores.get(model).copied().unwrap_or_default();
        let succeeds = score.success_ratio.is_some_and(|ratio| ratio > 0.0);
        TargetVitals { score, unreachable: health.reachable() == Some(false) && !succeeds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_three_intervals_counts_as_unknown() {
        let vitals = Vitals::new(Duration::from_secs(5));
        let now = Instant::now();
        let probe = Some(ProbeResult { at: now, answer: Err("no answer".into()) });
        let provider = ProviderHealth { probe, scores: vec![Score { attempts: 3, ..Score::default() }] };
        vitals.publish(HealthSnapshot { providers: vec![provider], ..(*vitals.read()).clone() });
        let known = vitals.cloud(0, 0, now + Duration::from_secs(15));
        assert!(known.unreachable && known.score.attempts == 3);
        assert_eq!(vitals.cloud(0, 0, now + Duration::from_millis(15_001)), TargetVitals::default());
        assert_eq!(vitals.cloud(1, 0, now), TargetVitals::default());
    }
}
