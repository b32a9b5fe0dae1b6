//! A token bucket that sets aside, settles and gives back. Pure: the time is an argument, all numbers are whole.
//!
//! What is set aside still counts as being in the bucket until it is settled: `level + reserved <= capacity`. So nothing that
//! is given back ever overflows, and in any window of `w` minutes at most `(1 + w) * per_minute` is used, however reservations
//! and refunds fall (an overrun of a reservation excepted: it is owed, and paid before anything else is granted).

use std::time::Duration;
use tokio::time::Instant;

/// Parts of one token: a bucket of `n` tokens a minute gains `n` of them each nanosecond.
const PARTS: i128 = 60_000_000_000;

/// Why not, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dry {
    /// Enough will have come in by then, if nobody else takes it.
    For(Duration),
    /// What is reserved stands in the way: enough is there when some of it has been settled, not known when.
    Reserved,
    /// More than it ever holds.
    Never,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    per_minute: u32,
    /// Free parts; below zero when more was used than was set aside.
    level: i128,
    /// Parts set aside.
    reserved: i128,
    /// Up to when it was filled.
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(per_minute: u32, now: Instant) -> Self {
        Self { per_minute, level: parts(per_minute.into()), reserved: 0, at: now }
    }

    fn capacity(&self) -> i128 {
        parts(self.per_minute.into())
    }

    /// Takes in what has come since the last look, and a new limit. A lower one cuts what is free, never what is reserved.
    pub(super) fn fill(&mut self, per_minute: u32, now: Instant) {
        let elapsed = i128::try_from(now.saturating_duration_since(self.at).as_nanos()).unwrap_or(i128::MAX);
        self.at = self.at.max(now);
        let gained = elapsed.saturating_mul(i128::from(self.per_minute));
        self.per_minute = per_minute;
        let room = self.capacity() - self.reserved;
        // What overflows a lower limit goes; a debt stays.
        self.level = self.level.saturating_add(gained).min(room.max(self.level.min(0)));
    }

    /// Sets `tokens` aside. Fill first.
    pub(super) fn reserve(&mut self, tokens: u64) -> Result<(), Dry> {
        let wanted = parts(tokens);
        if wanted > self.capacity() {
            return Err(Dry::Never);
        }
        if wanted > self.level {
            let wait = self.until(wanted);
            return Err(if wanted > self.capacity() - self.reserved { Dry::Reserved } else { Dry::For(wait) });
        }
        self.level -= wanted;
        self.reserved += wanted;
        Ok(())
    }

    /// Of `reserved` tokens `used` were used; the rest is free again, to the last part. Fill first.
    pub(super) fn settle(&mut self, reserved: u64, used: u64) {
        let freed = parts(reserved).min(self.reserved);
        self.reserved -= freed;
        self.level += freed - parts(used);
    }

    /// Whole tokens that are free. Fill first.
    pub(super) fn remaining(&self) -> u64 {
        u64::try_from(self.level.max(0) / PARTS).unwrap_or(u64::MAX)
    }

    /// Until it is full again, if nobody takes anything. Fill first.
    pub(super) fn until_full(&self) -> Duration {
        self.until(self.capacity())
    }

    fn until(&self, level: i128) -> Duration {
        let missing = (level - self.level).max(0);
        let rate = i128::from(self.per_minute.max(1));
        let nanos = (missing + rate - 1) / rate;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    #[cfg(test)]
    pub(super) fn is_at_rest(&self) -> bool {
        self.reserved == 0
    }
}

fn parts(tokens: u64) -> i128 {
    i128::from(tokens) * PARTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_minute_brings_a_minutes_worth_and_not_more() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut bucket = Bucket::new(60, start);
        bucket.reserve(60).unwrap();
        bucket.settle(60, 60);
        assert_eq!(bucket.reserve(1), Err(Dry::For(Duration::from_secs(1))));
        bucket.fill(60, at(999));
        assert_eq!((bucket.remaining(), bucket.reserve(1)), (0, Err(Dry::For(Duration::from_millis(1)))));
        bucket.fill(60, at(1000));
        assert_eq!((bucket.remaining(), bucket.reserve(1)), (1, Ok(())));
        bucket.settle(1, 1);
        bucket.fill(60, at(3_600_000));
        assert_eq!((bucket.remaining(), bucket.until_full()), (60, Duration::ZERO));
        assert_eq!(bucket.reserve(61), Err(Dry::Never));
    }

    #[test]
    fn what_was_not_used_is_there_again_at_once_and_what_was_overdrawn_is_owed() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100, start);
        bucket.reserve(80).unwrap();
        assert_eq!((bucket.remaining(), bucket.reserve(30)), (20, Err(Dry::Reserved)));
        bucket.settle(80, 5);
        assert_eq!(bucket.remaining(), 95);
        bucket.reserve(95).unwrap();
        bucket.settle(95, 145);
        assert_eq!((bucket.remaining(), bucket.until_full()), (0, Duration::from_secs(90)));
        bucket.fill(100, start + Duration::from_secs(30));
        assert_eq!(bucket.reserve(1), Err(Dry::For(Duration::from_millis(600))));
    }

    #[test]
    fn what_is_reserved_is_no_room_for_more() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, start);
        bucket.reserve(10).unwrap();
        bucket.fill(10, start + Duration::from_secs(600));
        assert_eq!(bucket.remaining(), 0, "else ten come back on top of ten");
        bucket.settle(10, 0);
        assert_eq!(bucket.remaining(), 10);
    }

    #[test]
    fn a_lower_limit_cuts_what_is_free_and_keeps_what_is_owed() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100, start);
        bucket.fill(10, start);
        assert_eq!(bucket.remaining(), 10);
        bucket.reserve(10).unwrap();
        bucket.settle(10, 30);
        bucket.fill(5, start);
        assert_eq!(bucket.until_full(), Duration::from_secs(300));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Wait(u64),
        Reserve(u64),
        /// Which of the open reservations, and how much of it was used, in shares of 1,000.
        Settle(usize, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..40_000_000_000_u64).prop_map(Step::Wait),
            (0..120_u64).prop_map(Step::Reserve),
            (any::<usize>(), 0..=1000_u64).prop_map(|(at, share)| Step::Settle(at, share)),
        ];
        proptest::collection::vec(step, 1..80)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

        /// Against a model that knows every reservation: the books add up after each step, and in no window between any
        /// two moments is more granted (less what was given back) than a full bucket and what came in meanwhile.
        #[test]
        fn it_never_grants_more_than_its_definition_and_gives_back_exactly_what_was_not_used(
            per_minute in 1..100_u32, steps in steps()
        ) {
            let start = Instant::now();
            let (mut now, mut bucket) = (start, Bucket::new(per_minute, start));
            // When each grant was made, and what of it counts: all of it until it is settled, then what was used.
            let mut grants: Vec<(Duration, u64)> = Vec::new();
            let mut open: Vec<(usize, u64)> = Vec::new();
            for step in steps {
                let before = {
                    bucket.fill(per_minute, now);
                    bucket.clone()
                };
                match step {
                    Step::Wait(ns) => now += Duration::from_nanos(ns),
                    Step::Reserve(tokens) => match bucket.reserve(tokens) {
                        Ok(()) => {
                            open.push((grants.len(), tokens));
                            grants.push((now - start, tokens));
                        }
                        Err(dry) => {
                            prop_assert_eq!(&bucket, &before, "a refusal changes nothing");
                            if let Dry::For(wait) = dry {
                                let mut later = bucket.clone();
                                later.fill(per_minute, now + wait);
                                prop_assert!(later.reserve(tokens).is_ok(), "who waits as told is served");
                                let mut sooner = bucket.clone();
                                sooner.fill(per_minute, now + wait - Duration::from_nanos(1));
                                prop_assert!(sooner.reserve(tokens).is_err(), "and not told to wait longer than needed");
                            }
                        }
                    },
                    Step::Settle(at, share) if !open.is_empty() => {
                        let (grant, tokens) = open.swap_remove(at % open.len());
                        let used = tokens * share / 1000;
                        grants[grant].1 = used;
                        bucket.settle(tokens, used);
                        prop_assert_eq!(bucket.level, before.level + parts(tokens - used), "exact");
                    }
                    Step::Settle(..) => {}
                }
                let reserved: u64 = open.iter().map(|(_, tokens)| tokens).sum();
                prop_assert_eq!(bucket.reserved, parts(reserved), "no reservation leaks");
                prop_assert!(bucket.level >= 0 && bucket.level + bucket.reserved <= bucket.capacity());
            }
            for (from, (begin, _)) in grants.iter().enumerate() {
                let mut used = 0;
                for (end, counted) in &grants[from..] {
                    used += counted;
                    let came = (*end - *begin).as_nanos() as i128 * i128::from(per_minute);
                    prop_assert!(parts(used) <= bucket.capacity() + came, "{used} within {:?}", *end - *begin);
                }
            }
            for (_, tokens) in open {
                bucket.settle(tokens, 0);
            }
            prop_assert!(bucket.is_at_rest());
        }
    }
}
