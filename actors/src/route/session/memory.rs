//! A table that forgets: by age, and by number when it is full. Pure; time is an argument.

use super::Id;
use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};
use tokio::time::Instant;

#[derive(Debug)]
struct Kept<V> {
    value: V,
    at: Instant,
    /// Which writing this is: older ones in the order are stale.
    writing: u64,
}

#[derive(Debug)]
pub(super) struct Memory<V> {
    limit: usize,
    ttl: Duration,
    kept: HashMap<Id, Kept<V>>,
    /// Oldest writing first. Holds stale writings too, at most as many as there are fresh ones.
    order: VecDeque<(Id, u64)>,
    writings: u64,
}

impl<V: Copy> Memory<V> {
    pub(super) fn new(limit: usize, ttl: Duration) -> Self {
        Self { limit, ttl, kept: HashMap::new(), order: VecDeque::new(), writings: 0 }
    }

    pub(super) fn get(&self, id: &Id, now: Instant) -> Option<V> {
        self.kept.get(id).filter(|kept| now.duration_since(kept.at) < self.ttl).map(|kept| kept.value)
    }

    pub(super) fn put(&mut self, id: Id, value: V, now: Instant) {
        if self.limit == 0 {
            return;
        }
        self.writings += 1;
        self.kept.insert(id, Kept { value, at: now, writing: self.writings });
        self.order.push_back((id, self.writings));
        self.forget(now);
    }

    /// Drops what is over the limit or too old; each writing is looked at once.
    fn forget(&mut self, now: Instant) {
        while let Some((id, writing)) = self.order.front() {
            let kept = self.kept.get(id).filter(|kept| kept.writing == *writing);
            let is_old = kept.is_some_and(|kept| now.duration_since(kept.at) >= self.ttl);
            let (id, is_stale) = (*id, kept.is_none());
            if !is_stale && !is_old && self.kept.len() <= self.limit {
                break;
            }
            self.order.pop_front();
            if !is_stale {
                self.kept.remove(&id);
            }
        }
        // A long-lived entry at the front keeps the stale ones behind it.
        if self.order.len() > 2 * self.limit.max(self.kept.len()) {
            self.order.retain(|(id, writing)| self.kept.get(id).is_some_and(|kept| kept.writing == *writing));
        }
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.kept.len(), self.order.len())
    }
}
