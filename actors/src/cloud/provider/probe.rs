//! What an active probe of a provider needs and may change: a key that is not refused, and that a key was refused. A
//! probe never closes a breaker: a front door that opens says nothing of completions.

use super::{Provider, Turn};
use crate::observe;
use secrecy::SecretString;
use tokio::time::Instant;

impl Provider {
    /// A key to ask with, out of turn: one that neither rests nor was refused, so that no such key is pressed.
    pub fn probe_key(&self, now: Instant) -> Option<(Turn, SecretString)> {
        // No model has this index: only what holds for the whole key counts.
        let inner = self.inner.lock();
        let turn = inner.keys.turn(usize::MAX, now).filter(|turn| !turn.tries_refused)?;
        Some((turn, inner.secrets.get(turn.key)?.clone()))
    }

    /// The provider refused this key (401, 402, 403) outside any call: it is left alone as after a refused call.
    pub fn key_was_refused(&self, turn: Turn, now: Instant) {
        let mut inner = self.inner.lock();
        inner.keys.on_refused(turn, now);
        observe::keys_exhausted(self.config.name.as_str(), inner.keys.exhausted());
    }
}
