//! Guards: a place on a slot, and a running job. Dropping either gives back what it holds.

use super::EngineSlot;
use crate::gpu::{
    frame::{JobEvent, JobId, JobSpec},
    server::Server,
};
use std::{fmt, sync::Arc};
use tokio::sync::mpsc;

/// The right to run one job on the engine of one epoch. Dropped: the place is free again.
pub struct Lease {
    slot: Arc<EngineSlot>,
    epoch: u64,
    id: u64,
}

impl Lease {
    pub(super) fn new(slot: Arc<EngineSlot>, epoch: u64, id: u64) -> Self {
        Self { slot, epoch, id }
    }

    pub fn slot(&self) -> &Arc<EngineSlot> {
        &self.slot
    }

    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether the engine this lease was given for still lives.
    pub fn is_valid(&self) -> bool {
        self.slot.view.borrow().epoch == self.epoch
    }

    /// The server that this lease is for; `None` if the target is an engine child, or is gone.
    pub fn server(&self) -> Option<Arc<Server>> {
        self.slot.link().filter(|link| link.epoch() == self.epoch)?.server().map(Arc::clone)
    }

    /// Resolves when what this lease was given for is dead.
    pub async fn revoked(&self) {
        let mut views = self.slot.watch();
        // A slot that is gone revokes everything.
        let _ = views.wait_for(|view| view.epoch != self.epoch).await;
    }

    /// Resolves when the target has been found alive after a doubt, or is dead.
    pub async fn settled(&self) {
        let mut views = self.slot.watch();
        let _ = views.wait_for(|view| view.epoch != self.epoch || view.adopted).await;
    }

    /// Hands a job to the engine. `None`: the engine died since the lease was granted.
    pub fn submit(&self, spec: JobSpec) -> Option<JobStream> {
        self.slot.submit(self.epoch, Some(self.id), spec)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.slot.release(self.id);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({} on {} epoch {})", self.id, self.slot.name(), self.epoch)
    }
}

/// The outputs of one job. Dropped before the end: the engine is told to free the sequence.
pub struct JobStream {
    slot: Arc<EngineSlot>,
    epoch: u64,
    job: JobId,
    outputs: mpsc::Receiver<JobEvent>,
    ended: bool,
}

impl JobStream {
    pub(super) fn new(slot: Arc<EngineSlot>, epoch: u64, job: JobId, outputs: mpsc::Receiver<JobEvent>) -> Self {
        Self { slot, epoch, job, outputs, ended: false }
    }

    /// The next output; `None` after the last one, or when the engine died.
    pub async fn next(&mut self) -> Option<JobEvent> {
        let event = self.outputs.recv().await;
        self.ended = matches!(event, None | Some(JobEvent::Finished { .. } | JobEvent::Failed(_)));
        event
    }
}

impl Drop for JobStream {
    fn drop(&mut self) {
        if !self.ended {
            self.slot.cancel(self.epoch, self.job);
        }
    }
}
