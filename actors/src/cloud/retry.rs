//! How many extra attempts the gateway may make in all, and how long to wait before one. Pure but for the lock: `now` and
//! the jitter come in as arguments. Which attempt is made at all is the flight's decision.

use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Thousandths of an attempt: what each request brings, what each second brings, what can be saved up.
const PER_REQUEST: u64 = 200;
const PER_SECOND: u64 = 10_000;
const MICROS_EACH: u64 = 1_000_000 / PER_SECOND;
/// Ten seconds without failures: a whole pool of calls that fails at once may still go elsewhere.
const SAVED_MAX: u64 = 100_000;
const ATTEMPT: u64 = 1_000;

/// First and longest bound of the wait before an attempt at a target that has just failed.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// A provider that asks for a longer pause than this is not waited for: the client hears when to come back.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Balance {
    thousandths: u64,
    counted_to: Instant,
}

impl Balance {
    fn catch_up(&mut self, now: Instant) {
        let micros = u64::try_from(now.saturating_duration_since(self.counted_to).as_micros()).unwrap_or(u64::MAX);
        let earned = micros / MICROS_EACH;
        self.thousandths = self.thousandths.saturating_add(earned).min(SAVED_MAX);
        // What is too little to count stays in the clock.
        self.counted_to += Duration::from_micros(earned * MICROS_EACH);
    }
}

/// Extra attempts: 20 % of the requests and 10 a second, over the whole gateway. Without it a cloud that is down would get
/// every request three times. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RetryBudget(Arc<Mutex<Balance>>);

impl RetryBudget {
    /// Begins with what one second brings.
    pub fn new(now: Instant) -> Self {
        Self(Arc::new(Mutex::new(Balance { thousandths: PER_SECOND, counted_to: now })))
    }

    /// Once for each request, before its first attempt.
    pub fn on_request(&self, now: Instant) {
        let mut balance = self.0.lock();
        balance.catch_up(now);
        balance.thousandths = (balance.thousandths + PER_REQUEST).min(SAVED_MAX);
    }

    /// Takes one extra attempt out, or says that none is left.
    #[must_use]
    pub fn withdraw(&self, now: Instant) -> bool {
        let mut balance = self.0.lock();
        balance.catch_up(now);
        let left = balance.thousandths.checked_sub(ATTEMPT);
        balance.thousandths = left.unwrap_or(balance.thousandths);
        left.is_some()
    }
}

/// The wait before attempt `again` (from 0) at the same target: full jitter, but never sooner than the provider asks.
/// `None`: too long to wait, or later than the deadline.
pub fn backoff(again: u32, retry_after: Option<Duration>, left: Duration, jitter: f64) -> Option<Duration> {
    let bound = BACKOFF_MIN.saturating_mul(1_u32.checked_shl(again.min(31)).unwrap_or(u32::MAX)).min(BACKOFF_MAX);
    let asked = retry_after.unwrap_or_default();
    let wait = bound.mul_f64(jitter.clamp(0.0, 1.0)).saturating_add(asked);
    (asked <= PATIENCE && wait < left).then_some(wait)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn while_the_cloud_is_down_attempts_stay_below_a_fifth_more_and_ten_a_second() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        // 200 requests a second for a minute, each of which would like two more attempts.
        let (requests, mut extra) = (200 * 60, 0);
        for n in 0..requests {
            let now = start + SECOND * n / 200;
            budget.on_request(now);
            extra += u32::from(budget.withdraw(now)) + u32::from(budget.withdraw(now));
        }
        let allowed = requests / 5 + 10 * 60 + 10;
        assert!(extra <= allowed && extra >= allowed - 20, "{extra} of {allowed}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_gateway_saves_for_ten_seconds_and_no_longer() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        let taken = |now| (0..1000).filter(|_| budget.withdraw(now)).count();
        assert_eq!(taken(start), 10);
        assert_eq!(taken(start + SECOND / 2), 5);
        assert_eq!(taken(start + SECOND * 3600), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn many_short_looks_earn_as_much_as_one_long_one() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        while budget.withdraw(start) {}
        let taken = (1..=20_000).filter(|n| budget.withdraw(start + Duration::from_micros(50) * *n)).count();
        assert!((9..=10).contains(&taken), "{taken}");
    }

    #[test]
    fn a_wait_obeys_retry_after_and_the_deadline() {
        let minute = SECOND * 60;
        assert_eq!(backoff(0, None, minute, 1.0), Some(BACKOFF_MIN));
        assert_eq!(backoff(1, None, minute, 0.5), Some(BACKOFF_MIN));
        assert_eq!(backoff(0, Some(SECOND), minute, 0.0), Some(SECOND));
        assert_eq!(backoff(0, Some(SECOND * 6), minute, 0.0), None, "the client can wait better than we can");
        assert_eq!(backoff(0, Some(SECOND * 2), SECOND, 0.0), None, "the deadline comes first");
    }

    proptest! {
        #[test]
        fn no_wait_is_shorter_than_asked_or_longer_than_its_bound(
            again in 0_u32..40, asked in 0_u64..10_000, left in 0_u64..20_000, jitter in 0.0_f64..=1.0
        ) {
            let (asked, left) = (Duration::from_millis(asked), Duration::from_millis(left));
            if let Some(wait) = backoff(again, Some(asked), left, jitter) {
                prop_assert!(wait >= asked && wait <= asked + BACKOFF_MAX && wait < left);
            }
        }
    }
}
