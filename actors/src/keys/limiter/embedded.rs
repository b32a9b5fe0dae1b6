//! The limits of one gateway, in its own memory: a cell for each key that has asked, in shards, so that keys do not wait for
//! each other. Nothing here waits while a lock is held.

use super::{Limiter, Limits, Meter, Refusal, Standing, Verdict};
use crate::{
    domain::KeyId,
    keys::bucket::{Bucket, Dry},
};
use futures_util::FutureExt;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    future::ready,
    hash::{BuildHasher, RandomState},
    time::Duration,
};
use tokio::time::Instant;

const SHARDS: usize = 16;
/// When to ask again if it depends on others' ends.
const SOON: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Cell {
    running: u32,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

/// A bucket as its limit is now; without a limit there is none.
fn filled(slot: &mut Option<Bucket>, limit: Option<u32>, now: Instant) -> Option<&mut Bucket> {
    let Some(limit) = limit else {
        *slot = None;
        return None;
    };
    let bucket = slot.get_or_insert_with(|| Bucket::new(limit, now));
    bucket.fill(limit, now);
    Some(bucket)
}

fn meter(bucket: Option<&mut Bucket>, limit: Option<u32>) -> Option<Meter> {
    let bucket = bucket?;
    Some(Meter { limit: limit?, remaining: bucket.remaining(), reset: bucket.until_full() })
}

impl Cell {
    fn enter(&mut self, limits: Limits, now: Instant) -> Result<(), Refusal> {
        if let Some(limit) = limits.concurrency.filter(|limit| self.running >= *limit) {
            return Err(Refusal::Concurrency { limit });
        }
        if let Some(requests) = filled(&mut self.requests, limits.requests_per_minute, now) {
            requests.reserve(1).map_err(|dry| match dry {
                Dry::For(wait) => Refusal::Requests { wait },
                Dry::Reserved | Dry::Never => Refusal::Requests { wait: SOON },
            })?;
        }
        self.running += 1;
        Ok(())
    }

    fn reserve(&mut self, limits: Limits, tokens: u64, now: Instant) -> Result<(), Refusal> {
        let Some(bucket) = filled(&mut self.tokens, limits.tokens_per_minute, now) else { return Ok(()) };
        bucket.reserve(tokens).map_err(|dry| match dry {
            Dry::For(wait) => Refusal::Tokens { wait },
            Dry::Reserved => Refusal::Tokens { wait: SOON },
            Dry::Never => Refusal::TokensNever { limit: limits.tokens_per_minute.unwrap_or(0) },
        })
    }
}

#[derive(Debug, Default)]
pub struct EmbeddedLimiter {
    shards: [Mutex<HashMap<KeyId, Cell>>; SHARDS],
    hasher: RandomState,
}

impl EmbeddedLimiter {
    fn shard(&self, key: &KeyId) -> &Mutex<HashMap<KeyId, Cell>> {
        let at = self.hasher.hash_one(key) as usize % SHARDS;
        // `at` is below SHARDS.
        self.shards.get(at).unwrap_or(&self.shards[0])
    }

    /// Work on a key's cell, made on first use.
    fn with<T>(&self, key: &KeyId, work: impl FnOnce(&mut Cell) -> T) -> T {
        let mut cells = self.shard(key).lock();
        if let Some(cell) = cells.get_mut(key) {
            return work(cell);
        }
        work(cells.entry(key.clone()).or_default())
    }

    /// Ends what was begun. A key that was forgotten meanwhile has nothing to end.
    fn with_known(&self, key: &KeyId, work: impl FnOnce(&mut Cell)) {
        if let Some(cell) = self.shard(key).lock().get_mut(key) {
            work(cell);
        }
    }

    /// Keys with state.
    pub fn known(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

impl Limiter for EmbeddedLimiter {
    fn enter<'a>(&'a self, key: &'a KeyId, limits: Limits, now: Instant) -> Verdict<'a> {
        ready(self.with(key, |cell| cell.enter(limits, now))).boxed()
    }

    fn count(&self, key: &KeyId, limits: Limits, counts: bool, now: Instant) {
        self.with_known(key, |cell| {
            if let Some(requests) = filled(&mut cell.requests, limits.requests_per_minute, now) {
                requests.settle(1, u64::from(counts));
            }
        });
    }

    fn leave(&self, key: &KeyId) {
        self.with_known(key, |cell| cell.running = cell.running.saturating_sub(1));
    }

    fn reserve<'a>(&'a self, key: &'a KeyId, limits: Limits, tokens: u64, now: Instant) -> Verdict<'a> {
        ready(self.with(key, |cell| cell.reserve(limits, tokens, now))).boxed()
    }

    fn settle(&self, key: &KeyId, limits: Limits, reserved: u64, used: u64, now: Instant) {
        self.with_known(key, |cell| {
            if let Some(tokens) = filled(&mut cell.tokens, limits.tokens_per_minute, now) {
                tokens.settle(reserved, used);
            }
        });
    }

    fn standing(&self, key: &KeyId, limits: Limits, now: Instant) -> Standing {
        let mut unused = Cell::default();
        let mut cells = self.shard(key).lock();
        let cell = cells.get_mut(key).unwrap_or(&mut unused);
        Standing {
            requests: meter(filled(&mut cell.requests, limits.requests_per_minute, now), limits.requests_per_minute),
            tokens: meter(filled(&mut cell.tokens, limits.tokens_per_minute, now), limits.tokens_per_minute),
            running: cell.running,
        }
    }

    fn retain(&self, keep: &dyn Fn(&KeyId) -> bool) {
        for shard in &self.shards {
            shard.lock().retain(|key, _| keep(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_forgotten_key_has_no_state_and_what_it_had_begun_ends_in_silence() {
        let (limiter, now) = (EmbeddedLimiter::default(), Instant::now());
        let limits = Limits { requests_per_minute: Some(1), tokens_per_minute: Some(10), concurrency: Some(1) };
        let keys: Vec<KeyId> = (0..100).map(|number| KeyId::new(format!("key_{number}"))).collect();
        for key in &keys {
            assert_eq!(limiter.standing(key, limits, now).running, 0);
        }
        assert_eq!(limiter.known(), 0, "looking makes no state");
        for key in &keys {
            limiter.enter(key, limits, now).await.unwrap();
            limiter.reserve(key, limits, 5, now).await.unwrap();
        }
        limiter.retain(&|key| key.as_str() == "key_7");
        assert_eq!(limiter.known(), 1);
        for key in &keys {
            limiter.count(key, limits, true, now);
            limiter.settle(key, limits, 5, 5, now);
            limiter.leave(key);
        }
        assert_eq!(limiter.known(), 1);
    }
}
