//! Work handed to the engine of one epoch, and where its outputs go. One lease covers all jobs of one request: it is given
//! back when the engine is done with the last of them, however slowly their client reads.

use super::{EngineSlot, Inner, JobStream, Tenant};
use crate::{
    domain::ChatRequest,
    gpu::{
        frame::{Batch, ECHO_TOKENS, EmbedSpec, JobEvent, JobId, JobOutput, JobSpec, Prompt, ToEngine},
        life::Cause,
    },
};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::{sync::mpsc, time::Instant};

/// Where the outputs of one job go.
pub(super) struct Sink {
    events: mpsc::Sender<Output>,
    /// Which of its request's jobs this is.
    part: u32,
    next_seq: u32,
    whose: Whose,
    since: Instant,
}

/// One output of a request's jobs.
pub(super) struct Output {
    /// Of which of them.
    pub(super) part: u32,
    pub(super) event: JobEvent,
    /// When the step began that it came of.
    pub(super) begun: Option<Instant>,
}

/// Whom a job is for.
#[derive(Clone)]
pub(super) enum Whose {
    Canary,
    /// The request that holds this lease.
    Lease(u64),
    /// A request whose prompt is only counted: it holds no place.
    Counted(Arc<ChatRequest>),
}

/// Prompts being counted at once; each is tokenised between two steps.
const COUNTS: usize = 4;

impl Sink {
    pub(super) fn lease(&self) -> Option<u64> {
        if let Whose::Lease(lease) = self.whose { Some(lease) } else { None }
    }

    pub(super) fn counted(&self) -> Option<&Arc<ChatRequest>> {
        if let Whose::Counted(request) = &self.whose { Some(request) } else { None }
    }
}

impl EngineSlot {
    /// Hands a job to the engine of `epoch`. `None` when that engine is gone.
    pub(crate) fn submit(self: &Arc<Self>, epoch: u64, lease: Option<u64>, mut spec: JobSpec) -> Option<JobStream> {
        spec.job = self.next_id();
        // The engine sends at most one Accepted, one Piece per token and one end: this channel cannot fill up.
        let capacity = spec.max_tokens as usize + 8;
        let whose = lease.map_or(Whose::Canary, Whose::Lease);
        self.launch(epoch, whose, vec![spec.job], None, capacity, &ToEngine::Submit(Box::new(spec)))
    }

    /// As [`submit`](Self::submit), for a request of several answers.
    pub(crate) fn submit_all(self: &Arc<Self>, epoch: u64, lease: u64, mut batch: Batch) -> Option<JobStream> {
        batch.members.iter_mut().for_each(|member| member.job = self.next_id());
        batch.group = self.next_id();
        let jobs: Vec<JobId> = batch.members.iter().map(|member| member.job).collect();
        // As for one job, and an echo in as many parts as the longest prompt may have.
        let echoes = self.view().info.map_or(0, |info| info.max_request_tokens as usize) / ECHO_TOKENS + 2;
        let capacity = jobs.len() * (batch.like.max_tokens as usize + 8 + echoes);
        let group = Some(batch.group);
        self.launch(epoch, Whose::Lease(lease), jobs, group, capacity, &ToEngine::SubmitAll(Box::new(batch)))
    }

    /// As [`submit`](Self::submit), for texts that shall become vectors.
    pub(crate) fn embed(self: &Arc<Self>, epoch: u64, lease: u64, inputs: Vec<Prompt>) -> Option<JobStream> {
        let job = self.next_id();
        let capacity = inputs.len() + 8;
        self.launch(
            epoch,
            Whose::Lease(lease),
            vec![job],
            None,
            capacity,
            &ToEngine::Embed(Box::new(EmbedSpec { job, inputs })),
        )
    }

    /// Asks the engine that serves now how many tokens a request's prompt has. `None`: it has been asked enough already, or
    /// none serves.
    pub(crate) fn count(self: &Arc<Self>, request: &Arc<ChatRequest>, prompt: Prompt) -> Option<JobStream> {
        let (job, epoch) = {
            let inner = self.inner.lock();
            let serves = inner.state.serves() && inner.adopted;
            let counting = inner.sinks.values().filter(|sink| sink.counted().is_some()).count();
            (serves && counting < COUNTS).then(|| (self.next_id(), inner.epoch))?
        };
        let order = ToEngine::Count { job, prompt: Box::new(prompt) };
        self.launch(epoch, Whose::Counted(Arc::clone(request)), vec![job], None, 2, &order)
    }

    fn launch(
        self: &Arc<Self>,
        epoch: u64,
        whose: Whose,
        jobs: Vec<JobId>,
        group: Option<u64>,
        capacity: usize,
        order: &ToEngine,
    ) -> Option<JobStream> {
        let (events, outputs) = mpsc::channel(capacity);
        let mut inner = self.inner.lock();
        let link = inner.link.clone().filter(|_| inner.epoch == epoch)?;
        let since = Instant::now();
        for (part, job) in (0..).zip(&jobs) {
            inner.sinks.insert(*job, Sink { events: events.clone(), part, next_seq: 0, whose: whose.clone(), since });
        }
        if !link.send(order) {
            jobs.iter().for_each(|job| drop(inner.sinks.remove(job)));
            return None;
        }
        Some(JobStream::new(Arc::clone(self), epoch, jobs, group, outputs))
    }

    /// The receiver of these jobs has gone; `group` if they are a batch.
    pub(crate) fn cancel(&self, epoch: u64, jobs: &[JobId], group: Option<u64>) {
        let left_ns = unix_ns();
        let mut inner = self.inner.lock();
        if inner.epoch != epoch {
            return;
        }
        let running: Vec<JobId> = jobs.iter().copied().filter(|job| inner.sinks.remove(job).is_some()).collect();
        let Some(link) = inner.link.as_ref().filter(|_| !running.is_empty()) else { return };
        if let Some(group) = group {
            link.send(&ToEngine::CancelAll { group, left_ns });
            return;
        }
        for job in running {
            link.send(&ToEngine::Cancel { job, left_ns });
        }
    }
}

/// The clock that engine and gateway have in common. A clock that is set meanwhile spoils one measurement.
fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Passes one output to its job's channel; a gap in its sequence numbers means that the link cannot be trusted. Says who
/// has been answered as a whole, if somebody has.
pub(super) fn deliver(
    inner: &mut Inner,
    output: JobOutput,
    begun: Option<Instant>,
    now: Instant,
) -> Result<Option<Tenant>, Cause> {
    let Some(sink) = inner.sinks.get_mut(&output.job) else { return Ok(None) };
    if output.seq != sink.next_seq {
        return Err(Cause::Garbage(format!("job output {} where {} was due", output.seq, sink.next_seq)));
    }
    sink.next_seq += 1;
    let ended = matches!(output.event, JobEvent::Finished { .. } | JobEvent::Failed(_));
    let delivered = sink.events.try_send(Output { part: sink.part, event: output.event, begun }).is_ok();
    let mut answered = None;
    if ended {
        if let Some(Sink { whose: Whose::Lease(lease), since, .. }) = inner.sinks.remove(&output.job)
            && !inner.sinks.values().any(|other| other.lease() == Some(lease))
        {
            answered = inner.leases.remove(&lease);
            inner.stats.record_service(now.duration_since(since).as_secs_f64());
        }
    } else if !delivered {
        inner.sinks.remove(&output.job);
        if let Some(link) = &inner.link {
            link.send(&ToEngine::Cancel { job: output.job, left_ns: unix_ns() });
        }
    }
    Ok(answered)
}
