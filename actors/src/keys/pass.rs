//! Guards: what was set aside for one request is ended once, whatever becomes of the request.

use super::limiter::{Limiter, Limits, Refusal};
use crate::domain::KeyId;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::time::Instant;

/// Whose limits.
#[derive(Debug, Clone)]
struct Account {
    limiter: Arc<dyn Limiter>,
    key: KeyId,
    limits: Limits,
}

/// A request inside its key's limits, from before its body is read to the end of its answer. Dropped, its place is free.
#[derive(Debug)]
pub struct Pass {
    account: Account,
    /// Whether the request was counted or given back.
    decided: AtomicBool,
}

impl Pass {
    /// # Errors
    /// Too many requests at once or in this minute.
    pub async fn enter(limiter: Arc<dyn Limiter>, key: KeyId, limits: Limits, now: Instant) -> Result<Self, Refusal> {
        limiter.enter(&key, limits, now).await?;
        Ok(Self { account: Account { limiter, key, limits }, decided: AtomicBool::new(false) })
    }

    /// The request was not served for no fault of its own: it does not count. After [`Pass::counts`] too late.
    pub fn gives_back(&self, now: Instant) {
        self.decide(false, now);
    }

    /// The request is on its way: it counts from now on.
    pub fn counts(&self, now: Instant) {
        self.decide(true, now);
    }

    fn decide(&self, counts: bool, now: Instant) {
        if !self.decided.swap(true, Ordering::AcqRel) {
            self.account.limiter.count(&self.account.key, self.account.limits, counts, now);
        }
    }

    /// Sets tokens aside for (a part of) the request.
    ///
    /// # Errors
    /// This minute has not that many left.
    pub async fn hold(&self, tokens: u64, now: Instant) -> Result<Hold, Refusal> {
        let Account { limiter, key, limits } = &self.account;
        limiter.reserve(key, *limits, tokens, now).await?;
        Ok(Hold { account: self.account.clone(), tokens, settled: false })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.decide(true, Instant::now());
        self.account.limiter.leave(&self.account.key);
    }
}

/// Tokens set aside. Dropped, all of them are given back: what was used must be said.
#[derive(Debug)]
pub struct Hold {
    account: Account,
    tokens: u64,
    settled: bool,
}

impl Hold {
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// So many were used.
    pub fn settle(mut self, used: u64, now: Instant) {
        self.end(used, now);
    }

    fn end(&mut self, used: u64, now: Instant) {
        if !std::mem::replace(&mut self.settled, true) {
            let Account { limiter, key, limits } = &self.account;
            limiter.settle(key, *limits, self.tokens, used, now);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.end(0, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::EmbeddedLimiter;
    use std::time::Duration;

    const LIMITS: Limits = Limits { requests_per_minute: Some(10), tokens_per_minute: Some(100), concurrency: Some(2) };

    fn key() -> KeyId {
        "key_1".into()
    }

    async fn enter(limiter: &Arc<EmbeddedLimiter>) -> Result<Pass, Refusal> {
        Pass::enter(Arc::<EmbeddedLimiter>::clone(limiter), key(), LIMITS, Instant::now()).await
    }

    fn left(limiter: &EmbeddedLimiter) -> (u64, u64, u32) {
        let standing = limiter.standing(&key(), LIMITS, Instant::now());
        (standing.requests.unwrap().remaining, standing.tokens.unwrap().remaining, standing.running)
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_counts_once_or_is_given_back_once() {
        let limiter = Arc::new(EmbeddedLimiter::default());
        let pass = enter(&limiter).await.unwrap();
        assert_eq!(left(&limiter), (9, 100, 1));
        pass.gives_back(Instant::now());
        pass.counts(Instant::now());
        assert_eq!(left(&limiter), (10, 100, 1));
        drop(pass);
        assert_eq!(left(&limiter), (10, 100, 0));
        let pass = enter(&limiter).await.unwrap();
        pass.counts(Instant::now());
        pass.gives_back(Instant::now());
        drop(pass);
        assert_eq!(left(&limiter), (9, 100, 0));
        drop(enter(&limiter).await.unwrap());
        assert_eq!(left(&limiter), (8, 100, 0), "who says nothing is counted");
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_settled_or_all_given_back_also_after_the_pass_has_gone() {
        let limiter = Arc::new(EmbeddedLimiter::default());
        let pass = enter(&limiter).await.unwrap();
        let (settled, dropped) =
            (pass.hold(40, Instant::now()).await.unwrap(), pass.hold(50, Instant::now()).await.unwrap());
        assert_eq!(pass.hold(11, Instant::now()).await.unwrap_err(), Refusal::Tokens { wait: Duration::from_secs(1) });
        drop(pass);
        assert_eq!(left(&limiter), (9, 10, 0));
        settled.settle(15, Instant::now());
        drop(dropped);
        assert_eq!(left(&limiter), (9, 85, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_few_and_a_dropped_future_takes_none() {
        let limiter = Arc::new(EmbeddedLimiter::default());
        let held = (enter(&limiter).await.unwrap(), enter(&limiter).await.unwrap());
        assert_eq!(enter(&limiter).await.unwrap_err(), Refusal::Concurrency { limit: 2 });
        assert_eq!(left(&limiter).0, 8, "a refusal counts nothing");
        drop(enter(&limiter));
        drop(held.0);
        assert!(enter(&limiter).await.is_ok());
    }
}
