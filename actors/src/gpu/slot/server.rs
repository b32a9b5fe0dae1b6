//! What the attempts at a server tell its slot: the flights see it, no link does.

use super::{Answered, EngineSlot};
use tokio::time::Instant;

impl EngineSlot {
    /// An attempt at the server of `epoch` failed: no new lease until a look has shown that it is there.
    pub(crate) fn doubt(&self, epoch: u64) {
        let mut inner = self.inner.lock();
        if inner.epoch == epoch && inner.link.is_some() {
            inner.adopted = false;
            self.publish(&inner);
        }
    }

    /// The server of `epoch` said something to somebody just now: no look is needed to know that it is there.
    pub(crate) fn heard(&self, epoch: u64, now: Instant) {
        if let Some(link) = self.inner.lock().link.as_ref().filter(|link| link.epoch() == epoch) {
            link.pulse().lock().proved(now);
        }
    }

    /// What an answer of a server shows of its pace.
    pub(crate) fn note_answer(&self, answer: Answered, now: Instant) {
        let mut inner = self.inner.lock();
        inner.stats.learn_answer(answer, now);
        self.publish(&inner);
    }
}
