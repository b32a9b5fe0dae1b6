//! How well each target has done in the last minute: success, time to first token, time between tokens. Facts come from
//! ended attempts; the windows live outside every actor, are bounded, and forget by time alone.

use crate::{domain::ErrorKind, jobs::TargetKey};
use parking_lot::Mutex;
use serde::Serialize;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Buckets of one window, and how long each collects: one minute in all.
const BUCKETS: usize = 12;
const BUCKET: Duration = Duration::from_secs(5);
/// What planning believes is shorter: a target that failed must not stay behind for long after it is well again.
const RECENT: u64 = 3;
/// Fewer attempts than this prove nothing to planning; a breaker has opened by then if all of them failed.
const TELLING: u32 = 5;
/// Targets remembered at most; configuration has far fewer.
const TARGETS: usize = 1024;

/// A target across the lives of its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScoreKey {
    Local(usize),
    Cloud { provider: usize, model: usize },
}

impl From<TargetKey> for ScoreKey {
    fn from(key: TargetKey) -> Self {
        match key {
            TargetKey::Gpu { slot, .. } => Self::Local(slot),
            TargetKey::Cloud { provider, model } => Self::Cloud { provider, model },
        }
    }
}

/// What one attempt says of its target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttemptFact {
    /// `None`: it says nothing, because the request was at fault or the client left.
    pub good: Option<bool>,
    pub first_token: Option<Duration>,
    pub took: Duration,
    pub completion_tokens: u64,
}

impl AttemptFact {
    /// Whether an attempt that ended with this label, as metrics and the ledger name it, speaks for its target. One that was
    /// `answering` when its request's time was over does not.
    pub fn verdict(outcome: &str, answering: bool) -> Option<bool> {
        let at_fault = [
            ErrorKind::Upstream,
            ErrorKind::Timeout,
            ErrorKind::Unavailable,
            ErrorKind::Unauthorized,
            ErrorKind::Forbidden,
            ErrorKind::InsufficientQuota,
            ErrorKind::RateLimited,
        ];
        match outcome {
            "ok" => Some(true),
            "engine_died" => Some(false),
            label if answering && label == ErrorKind::Timeout.label() => None,
            label => at_fault.iter().any(|kind| kind.label() == label).then_some(false),
        }
    }

    fn inter_token(&self) -> Option<Duration> {
        let gaps = u32::try_from(self.completion_tokens).ok()?.checked_sub(1).filter(|gaps| *gaps > 0)?;
        Some(self.took.checked_sub(self.first_token?)? / gaps)
    }
}

/// The last minute of one target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Score {
    pub attempts: u32,
    /// 0 to 1; `None` without an attempt that speaks for or against the target.
    pub success_ratio: Option<f64>,
    /// Of the last 15 s; `None` with fewer than 5 such attempts.
    pub recent_success_ratio: Option<f64>,
    /// Mean of the window.
    pub first_token_ms: Option<f64>,
    /// Mean of the attempts' own means.
    pub inter_token_ms: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: Duration,
    count: u32,
}

impl Mean {
    fn add(&mut self, value: Option<Duration>) {
        if let Some(value) = value {
            self.sum = self.sum.saturating_add(value);
            self.count = self.count.saturating_add(1);
        }
    }

    fn merge(self, other: Self) -> Self {
        Self { sum: self.sum.saturating_add(other.sum), count: self.count.saturating_add(other.count) }
    }

    fn ms(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum.as_secs_f64() * 1e3 / f64::from(self.count))
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// Which span of [`BUCKET`] since the window's start this one holds.
    turn: u64,
    good: u32,
    bad: u32,
    silent: u32,
    first_token: Mean,
    inter_token: Mean,
}

impl Bucket {
    fn telling(&self) -> u32 {
        self.good.saturating_add(self.bad)
    }

    fn ratio(&self, least: u32) -> Option<f64> {
        let telling = self.telling();
        (telling >= least).then(|| f64::from(self.good) / f64::from(telling))
    }
}

/// Rolling statistics of one target. Pure: `now` is an argument.
#[derive(Debug, Clone)]
pub struct Window {
    start: Instant,
    buckets: [Bucket; BUCKETS],
    last_good: Option<Instant>,
}

impl Window {
    pub fn new(now: Instant) -> Self {
        Self { start: now, buckets: [Bucket::default(); BUCKETS], last_good: None }
    }

    fn turn(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / BUCKET.as_secs()
    }

    pub fn note(&mut self, fact: AttemptFact, now: Instant) {
        let turn = self.turn(now);
        let Some(bucket) = self.buckets.get_mut(turn as usize % BUCKETS) else { return };
        if bucket.turn != turn {
            *bucket = Bucket { turn, ..Bucket::default() };
        }
        match fact.good {
            Some(true) => bucket.good = bucket.good.saturating_add(1),
            Some(false) => bucket.bad = bucket.bad.saturating_add(1),
            None => bucket.silent = bucket.silent.saturating_add(1),
        }
        bucket.first_token.add(fact.first_token);
        bucket.inter_token.add(fact.inter_token());
        if fact.good == Some(true) {
            self.last_good = Some(now);
        }
    }

    pub fn score(&self, now: Instant) -> Score {
        let turn = self.turn(now);
        let sum = self.sum_since(turn, BUCKETS as u64);
        Score {
            attempts: sum.telling().saturating_add(sum.silent),
            success_ratio: sum.ratio(1),
            recent_success_ratio: self.sum_since(turn, RECENT).ratio(TELLING),
            first_token_ms: sum.first_token.ms(),
            inter_token_ms: sum.inter_token.ms(),
        }
    }

    /// The last `turns` buckets together.
    fn sum_since(&self, turn: u64, turns: u64) -> Bucket {
        let live = self.buckets.iter().filter(|bucket| bucket.turn + turns > turn);
        live.fold(Bucket::default(), |sum, bucket| Bucket {
            turn,
            good: sum.good.saturating_add(bucket.good),
            bad: sum.bad.saturating_add(bucket.bad),
            silent: sum.silent.saturating_add(bucket.silent),
            first_token: sum.first_token.merge(bucket.first_token),
            inter_token: sum.inter_token.merge(bucket.inter_token),
        })
    }
}

/// Every target's window. Cheap to clone; held outside all actors.
#[derive(Debug, Clone, Default)]
pub struct Scores(Arc<Mutex<HashMap<ScoreKey, Window>>>);

impl Scores {
    /// An attempt at `key` has ended.
    pub fn note(&self, key: impl Into<ScoreKey>, fact: AttemptFact, now: Instant) {
        let (key, mut windows) = (key.into(), self.0.lock());
        if windows.len() < TARGETS || windows.contains_key(&key) {
            windows.entry(key).or_insert_with(|| Window::new(now)).note(fact, now);
        }
    }

    pub fn score(&self, key: impl Into<ScoreKey>, now: Instant) -> Score {
        self.0.lock().get(&key.into()).map_or_else(Score::default, |window| window.score(now))
    }

    /// Whether a call to any model of `provider` succeeded within `span`.
    pub fn succeeded_within(&self, provider: usize, span: Duration, now: Instant) -> bool {
        self.0.lock().iter().any(|(key, window)| {
            matches!(key, ScoreKey::Cloud { provider: of, .. } if *of == provider)
                && window.last_good.is_some_and(|at| now.saturating_duration_since(at) < span)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: ScoreKey = ScoreKey::Cloud { provider: 1, model: 0 };

    fn fact(good: Option<bool>) -> AttemptFact {
        let (first_token, took) = (Some(Duration::from_millis(100)), Duration::from_millis(500));
        AttemptFact { good, first_token, took, completion_tokens: 5 }
    }

    #[tokio::test(start_paused = true)]
    async fn a_minute_of_attempts_is_remembered_and_then_forgotten() {
        let (scores, start) = (Scores::default(), Instant::now());
        for good in [Some(true), Some(true), Some(true), Some(false), None] {
            scores.note(KEY, fact(good), start);
        }
        let score = scores.score(KEY, start + Duration::from_secs(54));
        assert_eq!(
            score,
            Score {
                attempts: 5,
                success_ratio: Some(0.75),
                recent_success_ratio: None,
                first_token_ms: Some(100.0),
                inter_token_ms: Some(100.0)
            }
        );
        assert_eq!(scores.score(KEY, start + Duration::from_secs(60)), Score::default());
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_is_recent_for_its_own_provider_only() {
        let (scores, start) = (Scores::default(), Instant::now());
        scores.note(KEY, fact(Some(true)), start);
        let (soon, span) = (start + Duration::from_secs(9), Duration::from_secs(10));
        assert!(scores.succeeded_within(1, span, soon));
        assert!(!scores.succeeded_within(0, span, soon));
        assert!(!scores.succeeded_within(1, span, start + span));
    }

    #[tokio::test(start_paused = true)]
    async fn planning_hears_of_five_attempts_and_forgets_them_within_fifteen_seconds() {
        let (scores, start) = (Scores::default(), Instant::now());
        let heard = |at| scores.score(KEY, at).recent_success_ratio;
        for count in 1..=5 {
            assert_eq!(heard(start), None, "{count}");
            scores.note(KEY, fact(Some(false)), start);
        }
        assert_eq!(heard(start + Duration::from_secs(14)), Some(0.0));
        assert_eq!(heard(start + Duration::from_secs(15)), None);
    }

    #[test]
    fn the_requests_own_faults_do_not_count_against_a_target() {
        assert_eq!(AttemptFact::verdict("ok", true), Some(true));
        for label in ["engine_died", "upstream", "timeout", "unavailable", "rate_limited", "unauthorized"] {
            assert_eq!(AttemptFact::verdict(label, false), Some(false), "{label}");
        }
        for label in ["invalid_request", "context_length_exceeded", "content_filter", "abandoned"] {
            assert_eq!(AttemptFact::verdict(label, false), None, "{label}");
        }
        assert_eq!(AttemptFact::verdict("timeout", true), None);
        assert_eq!(AttemptFact::verdict("upstream", true), Some(false));
    }

    proptest! {
        /// The window counts exactly the attempts of its live buckets, whatever their order in time and their gaps.
        #[test]
        fn a_window_is_the_sum_of_its_last_minute(gaps in proptest::collection::vec((0_u64..20_000, any::<bool>()), 1..200)) {
            let start = Instant::now();
            let (mut window, mut at, mut seen) = (Window::new(start), start, Vec::new());
            for (gap, good) in gaps {
                at += Duration::from_millis(gap);
                window.note(fact(Some(good)), at);
                seen.push((window.turn(at), good));
            }
            let turn = window.turn(at);
            let live: Vec<bool> = seen.into_iter().filter(|(of, _)| of + BUCKETS as u64 > turn).map(|(_, g)| g).collect();
            let score = window.score(at);
            prop_assert_eq!(score.attempts as usize, live.len());
            let good = live.iter().filter(|good| **good).count();
            prop_assert_eq!(score.success_ratio, Some(good as f64 / live.len() as f64));
        }
    }
}
