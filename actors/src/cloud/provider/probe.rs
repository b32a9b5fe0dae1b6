//! What an active probe of a provider needs and may change: a key that is not refused, and that a key was refused. A
//! probe never closes a breaker: a front door that opens says nothing of completions.

use super::{EXHAUSTED, Provider};
use secrecy::SecretString;
use tokio::time::Instant;

impl Provider {
    /// A key to ask with, and its index: the first that does not rest, so that no limited or refused key is pressed.
    pub fn probe_key(&self, now: Instant) -> Option<(usize, SecretString)> {
        let inner = self.inner.lock();
        let free = inner.keys.iter().position(|key| !key.rests(now))?;
        Some((free, self.config.keys.get(free)?.clone()))
    }

    /// The provider refused this key (401, 402, 403) outside any call: it is left alone as after a refused call.
    pub fn key_was_refused(&self, key: usize, now: Instant) {
        if let Some(state) = self.inner.lock().keys.get_mut(key) {
            state.exhausted = true;
            state.resting_until = Some(now + EXHAUSTED);
        }
    }
}
