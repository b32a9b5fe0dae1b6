//! Whose electricity it was. What a target draws is shared, at each moment, by the requests in work on it: the shares of all
//! of them are what it drew while it worked, however many there were, and waiting costs nothing.

use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};
use tokio::time::Instant;

/// One target's meter. Pure.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Meter {
    /// Requests in work.
    active: u32,
    counted_to: Option<Instant>,
    /// Thousandths of a joule that a request has drawn which was in work all the time.
    each: f64,
}

impl Meter {
    /// A target that draws `watts` works until `now`.
    fn advance(&mut self, watts: f64, now: Instant) {
        let since = self.counted_to.map(|since| now.saturating_duration_since(since)).unwrap_or_default();
        self.counted_to = self.counted_to.max(Some(now));
        if self.active > 0 {
            self.each += watts * since.as_secs_f64() * 1000.0 / f64::from(self.active);
        }
    }

    /// Work on a request begins; what comes back is for its end.
    fn begin(&mut self, watts: f64, now: Instant) -> f64 {
        self.advance(watts, now);
        if self.active == 0 {
            // Small numbers keep their digits.
            self.each = 0.0;
        }
        self.active += 1;
        self.each
    }

    /// It ends: its thousandths of a joule.
    fn end(&mut self, begun: f64, watts: f64, now: Instant) -> f64 {
        self.advance(watts, now);
        self.active = self.active.saturating_sub(1);
        self.each - begun
    }
}

/// The meters of all local targets. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Draws(Arc<Mutex<BTreeMap<usize, Meter>>>);

impl Draws {
    /// Work on a request begins at this slot, which draws `watts`.
    pub fn begin(&self, slot: usize, watts: f64, now: Instant) -> Draw {
        let begun = self.0.lock().entry(slot).or_default().begin(watts, now);
        Draw { draws: self.clone(), slot, watts, begun: Some(begun) }
    }
}

/// One request in work. Dropped, its work is over and nobody asks what it drew.
#[derive(Debug)]
#[must_use = "work that nobody holds has ended"]
pub struct Draw {
    draws: Draws,
    slot: usize,
    watts: f64,
    begun: Option<f64>,
}

impl Draw {
    /// The work is over: its thousandths of a joule.
    pub fn end(mut self, watts: f64, now: Instant) -> u64 {
        self.watts = watts;
        self.close(now).round() as u64
    }

    fn close(&mut self, now: Instant) -> f64 {
        let Some(begun) = self.begun.take() else { return 0.0 };
        self.draws.0.lock().entry(self.slot).or_default().end(begun, self.watts, now)
    }
}

impl Drop for Draw {
    fn drop(&mut self) {
        self.close(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn two_at_once_draw_half_each_and_one_alone_all() {
        let (draws, now) = (Draws::default(), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        let first = draws.begin(0, 100.0, now);
        let second = draws.begin(0, 100.0, after(10));
        let elsewhere = draws.begin(1, 50.0, after(10));
        assert_eq!(first.end(100.0, after(20)), 1_500_000, "ten seconds alone, ten shared");
        assert_eq!(second.end(100.0, after(30)), 1_500_000);
        assert_eq!(elsewhere.end(50.0, after(30)), 1_000_000, "another target, another meter");
        let later = draws.begin(0, 100.0, after(1000));
        assert_eq!(later.end(100.0, after(1001)), 100_000, "what it draws in between is nobody's");
    }

    #[test]
    fn work_that_is_dropped_leaves_its_share_to_the_others() {
        let (draws, now) = (Draws::default(), Instant::now());
        drop(draws.begin(0, 100.0, now));
        let alone = draws.begin(0, 100.0, now + Duration::from_secs(1));
        assert_eq!(alone.end(100.0, now + Duration::from_secs(2)), 100_000);
    }

    proptest! {
        #[test]
        fn all_shares_together_are_what_the_target_drew_while_it_worked(
            watts in 1.0_f64..1000.0,
            works in prop::collection::vec((0_u64..10_000, 1_u64..10_000), 1..40),
        ) {
            let (mut meter, zero) = (Meter::default(), Instant::now());
            let at = |millis: u64| zero + Duration::from_millis(millis);
            let mut steps: Vec<(u64, usize, bool)> = Vec::new();
            for (work, (begin, took)) in works.iter().enumerate() {
                steps.extend([(*begin, work, true), (begin + took, work, false)]);
            }
            steps.sort_unstable();
            let mut begun = vec![0.0; works.len()];
            let (mut shares, mut busy, mut active, mut last) = (0.0, 0, 0, 0);
            for (millis, work, begins) in steps {
                if active > 0 {
                    busy += millis - last;
                }
                last = millis;
                if begins {
                    begun[work] = meter.begin(watts, at(millis));
                    active += 1;
                } else {
                    let share = meter.end(begun[work], watts, at(millis));
                    let alone = watts * works[work].1 as f64;
                    prop_assert!(share >= 0.0 && share <= alone * 1.000_001, "{share} of {alone}");
                    shares += share;
                    active -= 1;
                }
            }
            let drew = watts * busy as f64;
            prop_assert!((shares - drew).abs() <= drew * 1e-6, "{shares} of {drew}");
        }
    }
}
