//! What every limiter must do. A new implementation adds one line to `limiters`.

use super::*;
use crate::keys::{Hold, Pass};
use futures_util::FutureExt;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{panic::AssertUnwindSafe, sync::Arc};

fn limiters() -> Vec<Arc<dyn Limiter>> {
    vec![Arc::new(EmbeddedLimiter::default())]
}

fn key(name: &str) -> KeyId {
    name.into()
}

const ONE: Limits = Limits { requests_per_minute: Some(1), tokens_per_minute: Some(100), concurrency: Some(1) };

#[tokio::test(start_paused = true)]
async fn keys_do_not_share_their_limits() {
    for limiter in limiters() {
        let now = Instant::now();
        for name in ["a", "b"] {
            limiter.enter(&key(name), ONE, now).await.unwrap();
            assert!(matches!(limiter.enter(&key(name), ONE, now).await, Err(Refusal::Concurrency { limit: 1 })));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_limits_everything_passes_and_nothing_is_shown() {
    for limiter in limiters() {
        let (limits, now) = (Limits::default(), Instant::now());
        for _ in 0..1000 {
            limiter.enter(&key("a"), limits, now).await.unwrap();
            limiter.reserve(&key("a"), limits, u64::MAX, now).await.unwrap();
        }
        let standing = limiter.standing(&key("a"), limits, now);
        assert_eq!((standing.requests, standing.tokens, standing.running), (None, None, 1000));
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_as_told_is_served() {
    for limiter in limiters() {
        let mut now = Instant::now();
        limiter.enter(&key("a"), ONE, now).await.unwrap();
        limiter.count(&key("a"), ONE, true, now);
        limiter.leave(&key("a"));
        let Err(Refusal::Requests { wait }) = limiter.enter(&key("a"), ONE, now).await else { panic!("limited") };
        assert_eq!(wait, Duration::from_secs(60));
        now += wait;
        limiter.enter(&key("a"), ONE, now).await.unwrap();
        limiter.reserve(&key("a"), ONE, 100, now).await.unwrap();
        limiter.settle(&key("a"), ONE, 100, 100, now);
        let Err(Refusal::Tokens { wait }) = limiter.reserve(&key("a"), ONE, 50, now).await else { panic!("limited") };
        limiter.reserve(&key("a"), ONE, 50, now + wait).await.unwrap();
        let never = limiter.reserve(&key("a"), ONE, 101, now + wait * 9).await;
        assert_eq!(never, Err(Refusal::TokensNever { limit: 100 }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_limit_holds_at_once() {
    for limiter in limiters() {
        let now = Instant::now();
        let of = |tokens| Limits { tokens_per_minute: Some(tokens), ..Limits::default() };
        limiter.reserve(&key("a"), of(100), 50, now).await.unwrap();
        assert!(limiter.reserve(&key("a"), of(20), 10, now).await.is_err(), "50 of 20 are taken");
        limiter.settle(&key("a"), of(20), 50, 0, now);
        limiter.reserve(&key("a"), of(20), 20, now).await.unwrap();
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Enter(u8),
    Hold(usize, u64),
    Settle(usize, u64),
    GiveBack(usize),
    Count(usize),
    Leave(usize),
    Drop(usize),
    Wait(u64),
}

fn any_step(random: &mut StdRng) -> Step {
    let at = random.random_range(0..64);
    match random.random_range(0..8) {
        0 => Step::Enter(random.random_range(0..3)),
        1 => Step::Hold(at, random.random_range(0..70)),
        2 => Step::Settle(at, random.random_range(0..70)),
        3 => Step::GiveBack(at),
        4 => Step::Count(at),
        5 => Step::Leave(at),
        6 => Step::Drop(at),
        _ => Step::Wait(random.random_range(0..5_000)),
    }
}

/// Requests of three keys come, go, hold, settle and vanish in any order; the guards see to the rest.
struct World {
    limiter: Arc<dyn Limiter>,
    limits: Limits,
    passes: Vec<(u8, Pass)>,
    holds: Vec<Hold>,
    now: Instant,
}

impl World {
    async fn step(&mut self, step: Step) {
        let named = |number: u8| key(&format!("key_{number}"));
        match step {
            Step::Enter(number) => {
                let running = self.passes.iter().filter(|(owner, _)| *owner == number).count();
                let entered = Pass::enter(Arc::clone(&self.limiter), named(number), self.limits, self.now).await;
                let full = running >= self.limits.concurrency.map_or(usize::MAX, |limit| limit as usize);
                assert_eq!(matches!(entered, Err(Refusal::Concurrency { .. })), full, "{running} run");
                self.passes.extend(entered.ok().map(|pass| (number, pass)));
            }
            Step::Hold(at, tokens) if !self.passes.is_empty() => {
                let (_, pass) = &self.passes[at % self.passes.len()];
                self.holds.extend(pass.hold(tokens, self.now).await.ok());
            }
            Step::Settle(at, used) if !self.holds.is_empty() => {
                let hold = self.holds.swap_remove(at % self.holds.len());
                let used = used.min(hold.tokens());
                hold.settle(used, self.now);
            }
            Step::GiveBack(at) if !self.passes.is_empty() => self.passes[at % self.passes.len()].1.gives_back(self.now),
            Step::Count(at) if !self.passes.is_empty() => self.passes[at % self.passes.len()].1.counts(self.now),
            Step::Leave(at) if !self.passes.is_empty() => drop(self.passes.swap_remove(at % self.passes.len())),
            Step::Drop(at) if !self.holds.is_empty() => drop(self.holds.swap_remove(at % self.holds.len())),
            Step::Wait(ms) => {
                tokio::time::advance(Duration::from_millis(ms)).await;
                self.now = Instant::now();
            }
            _ => {}
        }
    }

    /// After the last guard has gone and a minute has passed, every limit is as if nobody had ever asked.
    async fn assert_clean(mut self) {
        self.passes.clear();
        self.holds.clear();
        tokio::time::advance(Duration::from_secs(60)).await;
        for number in 0..3 {
            let standing = self.limiter.standing(&key(&format!("key_{number}")), self.limits, Instant::now());
            assert_eq!(standing.running, 0);
            for (meter, limit) in
                [(standing.requests, self.limits.requests_per_minute), (standing.tokens, self.limits.tokens_per_minute)]
            {
                assert_eq!(meter.map(|meter| meter.remaining), limit.map(u64::from));
            }
        }
    }
}

async fn play(limiter: Arc<dyn Limiter>, limits: Limits, steps: impl IntoIterator<Item = Step>) {
    let mut world = World { limiter, limits, passes: Vec::new(), holds: Vec::new(), now: Instant::now() };
    for step in steps {
        world.step(step).await;
    }
    world.assert_clean().await;
}

/// Each from nothing to the last guard's end, in virtual time.
#[tokio::test(start_paused = true)]
async fn in_a_hundred_thousand_random_interleavings_no_guard_ends_twice_or_never() {
    let seed: u64 = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..100_000 {
        let limits = Limits {
            requests_per_minute: random.random_bool(0.8).then(|| random.random_range(1..10)),
            tokens_per_minute: random.random_bool(0.8).then(|| random.random_range(1..200)),
            concurrency: random.random_bool(0.8).then(|| random.random_range(1..4)),
        };
        let steps: Vec<Step> = (0..random.random_range(4..24)).map(|_| any_step(&mut random)).collect();
        for limiter in limiters() {
            let told = format!("seed {seed}, round {round}, {limits:?}: {steps:?}");
            let played = AssertUnwindSafe(play(limiter, limits, steps.iter().copied())).catch_unwind().await;
            assert!(played.is_ok(), "{told}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The same from several threads at once: real interleavings, the same books in the end.
    #[test]
    fn threads_at_once_leave_the_same_books(seeds in proptest::collection::vec(any::<u64>(), 4), limit in 1..200_u32) {
        for limiter in limiters() {
            let limits =
                Limits { requests_per_minute: Some(limit), tokens_per_minute: Some(limit), concurrency: Some(limit % 7 + 1) };
            std::thread::scope(|scope| {
                for seed in &seeds {
                    let limiter = Arc::clone(&limiter);
                    scope.spawn(move || {
                        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                        runtime.block_on(hammer(limiter, limits, *seed));
                    });
                }
            });
            let standing = limiter.standing(&key("a"), limits, Instant::now() + Duration::from_secs(60));
            prop_assert_eq!(standing.running, 0);
            prop_assert_eq!(standing.requests.unwrap().remaining, u64::from(limit));
            prop_assert_eq!(standing.tokens.unwrap().remaining, u64::from(limit));
        }
    }
}

async fn hammer(limiter: Arc<dyn Limiter>, limits: Limits, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..200 {
        let now = Instant::now();
        let Ok(pass) = Pass::enter(Arc::clone(&limiter), key("a"), limits, now).await else { continue };
        let hold = pass.hold(random.random_range(0..20), now).await;
        std::thread::yield_now();
        if random.random() {
            pass.gives_back(now);
        }
        if let Ok(hold) = hold
            && random.random()
        {
            let used = random.random_range(0..=hold.tokens());
            hold.settle(used, now);
        }
    }
}
