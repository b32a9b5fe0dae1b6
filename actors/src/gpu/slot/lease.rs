//! Guards: a place on a slot, and a running job. Dropping either gives back what it holds.

use super::EngineSlot;
use crate::gpu::frame::{JobEvent, JobId, JobSpec};
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
