//! Jobs of a slot's engine: their outputs passed on, and told of when the engine dies under them.

use super::{
    EngineSlot, Inner, Work,
    work::{Sink, deliver},
};
use crate::{
    domain::ChatRequest,
    gpu::{
        frame::{FromEngine, Heartbeat},
        life::Cause,
    },
    observe,
};
use std::{collections::BTreeSet, sync::Arc};
use tokio::time::Instant;

impl EngineSlot {
    /// One frame from the engine of `epoch`; frames of an older epoch are dropped, so no token is sent twice.
    pub(crate) fn on_frame(&self, epoch: u64, frame: FromEngine, now: Instant) -> Result<(), Cause> {
        let mut inner = self.inner.lock();
        if inner.epoch != epoch {
            return Ok(());
        }
        match frame {
            FromEngine::Loaded(info) => {
                self.loaded(&mut inner, &info);
                inner.info = Some(Arc::new(info));
                self.publish(&inner);
            }
            FromEngine::Heartbeat(beat) => {
                inner.work.beat = Some(beat);
                let Heartbeat { running, waiting, kv_used, kv_kept, kv_total, .. } = beat;
                let load = observe::EngineLoad { running, waiting, kv_used, kv_kept, kv_total };
                observe::engine_load(self.name(), &load);
            }
            FromEngine::Left(left) => {
                inner.work.leave(left);
                observe::clients_left(self.name(), left.jobs, left.tokens);
            }
            FromEngine::Step { epoch: tag, outputs, .. } if tag == epoch => {
                let held = inner.leases.len();
                let begun = inner.link.as_ref().and_then(|link| link.pulse().lock().last_begun());
                for output in outputs {
                    if let Some(tenant) = deliver(&mut inner, output, begun, now)? {
                        self.poison.clear(&tenant.request);
                    }
                }
                if inner.leases.len() != held {
                    observe::leases(self.name(), inner.leases.len());
                    self.publish(&inner);
                }
                if let Some(pace) = inner.link.as_ref().map(|link| link.pulse().lock().pace()) {
                    inner.stats.learn(pace, now);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What the engine said last of its work, and what was computed for nobody.
    pub fn work(&self) -> Work {
        self.inner.lock().work
    }

    /// Whether some job waits for an output.
    pub(crate) fn has_jobs(&self) -> bool {
        !self.inner.lock().sinks.is_empty()
    }
}

impl Inner {
    /// The requests that the engine is working on.
    pub(super) fn working(&self) -> Vec<Arc<ChatRequest>> {
        // A request of several jobs is one request.
        let leases: BTreeSet<u64> = self.sinks.values().filter_map(Sink::lease).collect();
        let leased = leases.iter().filter_map(|lease| self.leases.get(lease)).map(|tenant| &tenant.request);
        leased.chain(self.sinks.values().filter_map(Sink::counted)).map(Arc::clone).collect()
    }
}
