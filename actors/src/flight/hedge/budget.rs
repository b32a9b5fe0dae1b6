//! What hedges may cost, all of them together: a bucket of nano-dollars that fills evenly. Pure but for the lock: `now`
//! comes in as an argument. Which attempt is made is the flight's decision.

use crate::domain::NanoUsd;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::time::Instant;

const NANOS_PER_HOUR: u128 = 3_600_000_000_000;

#[derive(Debug)]
struct Balance {
    left: NanoUsd,
    counted_to: Instant,
    /// What was too little to count, in nano-dollars × nanoseconds.
    remainder: u128,
}

/// Begins full: an hour's money may go at once, and after it only what flows in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HedgeBudget {
    per_hour: NanoUsd,
    balance: Arc<Mutex<Balance>>,
}

impl HedgeBudget {
    pub fn new(per_hour: NanoUsd, now: Instant) -> Self {
        let balance = Balance { left: per_hour, counted_to: now, remainder: 0 };
        Self { per_hour, balance: Arc::new(Mutex::new(balance)) }
    }

    /// Takes `amount` out, or says that there is not enough. What is not spent comes back when the stake is dropped.
    pub(super) fn withdraw(&self, amount: NanoUsd, now: Instant) -> Option<Stake> {
        let mut balance = self.balance.lock();
        balance.catch_up(self.per_hour, now);
        // Nothing is spent from nothing, not even what is free.
        if amount > balance.left || balance.left == NanoUsd::ZERO {
            return None;
        }
        balance.left = balance.left.saturating_sub(amount);
        Some(Stake { budget: self.clone(), amount, spent: NanoUsd::ZERO })
    }

    fn refund(&self, amount: NanoUsd) {
        let mut balance = self.balance.lock();
        balance.left = (balance.left + amount).min(self.per_hour);
    }
}

impl Balance {
    fn catch_up(&mut self, per_hour: NanoUsd, now: Instant) {
        let elapsed = now.saturating_duration_since(self.counted_to).as_nanos();
        self.counted_to = self.counted_to.max(now);
        let flown = elapsed.saturating_mul(u128::from(per_hour.get())).saturating_add(self.remainder);
        self.remainder = flown % NANOS_PER_HOUR;
        let earned = NanoUsd::new(u64::try_from(flown / NANOS_PER_HOUR).unwrap_or(u64::MAX));
        self.left = (self.left + earned).min(per_hour);
    }
}

/// Money taken out for one hedge.
#[derive(Debug)]
pub(super) struct Stake {
    budget: HedgeBudget,
    amount: NanoUsd,
    spent: NanoUsd,
}

impl Stake {
    pub(super) const fn amount(&self) -> NanoUsd {
        self.amount
    }

    /// From here on it costs this much, as far as is known.
    pub(super) fn spend(&mut self, cost: NanoUsd) {
        self.spent = cost;
    }
}

impl Drop for Stake {
    fn drop(&mut self) {
        self.budget.refund(self.amount.saturating_sub(self.spent));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const HOUR: Duration = Duration::from_secs(3600);

    fn usd(nano: u64) -> NanoUsd {
        NanoUsd::new(nano)
    }

    /// Takes and spends.
    fn spend(budget: &HedgeBudget, amount: u64, now: Instant) -> bool {
        budget.withdraw(usd(amount), now).map(|mut stake| stake.spend(usd(amount))).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn an_hours_money_may_go_at_once_and_then_only_what_flows_in() {
        let now = Instant::now();
        let budget = HedgeBudget::new(usd(1000), now);
        assert!(spend(&budget, 1000, now) && !spend(&budget, 1, now));
        assert!(!spend(&budget, 501, now + HOUR / 2) && spend(&budget, 500, now + HOUR / 2));
        assert!(!spend(&budget, 1001, now + HOUR * 9) && spend(&budget, 1000, now + HOUR * 9), "saved up for one hour");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_used_comes_back_and_no_more() {
        let now = Instant::now();
        let budget = HedgeBudget::new(usd(1000), now);
        let mut stake = budget.withdraw(usd(900), now).unwrap();
        stake.spend(stake.amount());
        stake.spend(usd(100));
        drop(stake);
        assert!(!spend(&budget, 901, now) && spend(&budget, 900, now));
        drop(budget.withdraw(usd(0), now));
        let full = HedgeBudget::new(usd(1000), now);
        let stake = full.withdraw(usd(1000), now).unwrap();
        assert!(spend(&full, 1000, now + HOUR));
        drop(stake);
        assert!(spend(&full, 1000, now + HOUR) && !spend(&full, 1, now + HOUR));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cap_of_zero_is_no_hedge_even_where_the_cloud_is_free() {
        let now = Instant::now();
        let none = HedgeBudget::new(NanoUsd::ZERO, now);
        assert!(!spend(&none, 0, now) && !spend(&none, 1, now + HOUR * 100));
    }

    proptest! {
        #[test]
        fn however_often_it_is_asked_no_more_is_spent_than_was_there_and_flowed_in(
            per_hour in 1_u64..1_000_000_000, asks in proptest::collection::vec((0_u64..600_000, 0_u64..1_000_000_000), 1..60)
        ) {
            let start = Instant::now();
            let budget = HedgeBudget::new(usd(per_hour), start);
            let (mut now, mut spent) = (start, 0_u128);
            for (millis, amount) in asks {
                now += Duration::from_millis(millis);
                if spend(&budget, amount, now) {
                    spent += u128::from(amount);
                }
                let flowed = u128::from(per_hour) * (now - start).as_nanos() / NANOS_PER_HOUR;
                prop_assert!(spent <= u128::from(per_hour) + flowed);
            }
        }
    }
}
