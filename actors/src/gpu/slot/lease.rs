//! Guards: a place on a slot, and a running job. Dropping either gives back what it holds.

use super::{EngineSlot, work::Output};
use crate::gpu::{
    frame::{Batch, JobEvent, JobId, JobSpec, Prompt},
    server::Server,
};
use std::{fmt, sync::Arc};
use tokio::{sync::mpsc, time::Instant};

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

    /// Hands a request of several answers to the engine; the slot numbers its jobs. `None` as for [`submit`](Self::submit).
    pub fn submit_all(&self, batch: Batch) -> Option<JobStream> {
        self.slot.submit_all(self.epoch, self.id, batch)
    }

    /// Hands texts to the engine that shall become vectors. `None` as for [`submit`](Self::submit).
    pub fn embed(&self, inputs: Vec<Prompt>) -> Option<JobStream> {
        self.slot.embed(self.epoch, self.id, inputs)
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

/// The outputs of the jobs of one request. Dropped before the end: the engine is told to free what they hold.
pub struct JobStream {
    slot: Arc<EngineSlot>,
    epoch: u64,
    /// By part; those that have not ended.
    jobs: Vec<Option<JobId>>,
    /// They are a batch: cancelled by one word.
    group: Option<u64>,
    outputs: mpsc::Receiver<Output>,
    seated: Option<Instant>,
}

impl JobStream {
    pub(super) fn new(
        slot: Arc<EngineSlot>,
        epoch: u64,
        jobs: Vec<JobId>,
        group: Option<u64>,
        outputs: mpsc::Receiver<Output>,
    ) -> Self {
        Self { slot, epoch, jobs: jobs.into_iter().map(Some).collect(), group, outputs, seated: None }
    }

    /// The next output of a request of one job; `None` after the last one, or when the engine died.
    pub async fn next(&mut self) -> Option<JobEvent> {
        self.next_part().await.map(|(_, event)| event)
    }

    /// The next output and the number of its job; `None` after the last one of all, or when the engine died.
    pub async fn next_part(&mut self) -> Option<(u32, JobEvent)> {
        let Some(Output { part, event, begun }) = self.outputs.recv().await else {
            self.jobs.clear();
            return None;
        };
        if matches!(event, JobEvent::Accepted { .. }) {
            self.seated = self.seated.or(begun);
        }
        if matches!(event, JobEvent::Finished { .. } | JobEvent::Failed(_))
            && let Some(job) = self.jobs.get_mut(part as usize)
        {
            *job = None;
        }
        Some((part, event))
    }
}

impl JobStream {
    /// When the step began in which the first of the jobs was given a sequence: until then they waited. Known with the first
    /// [`JobEvent::Accepted`], which comes when that step has ended.
    pub fn seated(&self) -> Option<Instant> {
        self.seated
    }
}

impl Drop for JobStream {
    fn drop(&mut self) {
        let running: Vec<JobId> = self.jobs.iter().flatten().copied().collect();
        if !running.is_empty() {
            self.slot.cancel(self.epoch, &running, self.group);
        }
    }
}
