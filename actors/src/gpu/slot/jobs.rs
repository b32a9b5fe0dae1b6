//! Jobs of a slot's engine: handed over, their outputs passed on, and told of when the engine dies under them.

use super::{EngineSlot, Inner, JobStream, Sink, Tenant};
use crate::{
    domain::ChatRequest,
    gpu::{
        frame::{FromEngine, JobEvent, JobId, JobOutput, JobSpec, ToEngine},
        life::Cause,
    },
    observe,
};
use std::sync::Arc;
use tokio::{sync::mpsc, time::Instant};

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
            FromEngine::Heartbeat(beat) => observe::kv_usage(self.name(), beat.kv_used, beat.kv_total),
            FromEngine::Step { epoch: tag, outputs, .. } if tag == epoch => {
                let held = inner.leases.len();
                for output in outputs {
                    if let Some(tenant) = deliver(&mut inner, output, now)? {
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

    /// Hands a job to the engine of `epoch`. `None` when that engine is gone.
    pub(crate) fn submit(self: &Arc<Self>, epoch: u64, lease: Option<u64>, mut spec: JobSpec) -> Option<JobStream> {
        let job = self.next_id();
        spec.job = job;
        // The engine sends at most one Accepted, one Piece per token and one end: this channel cannot fill up.
        let capacity = spec.max_tokens as usize + 8;
        let (events, outputs) = mpsc::channel(capacity);
        let mut inner = self.inner.lock();
        let link = inner.link.clone().filter(|_| inner.epoch == epoch)?;
        inner.sinks.insert(job, Sink { events, next_seq: 0, lease, since: Instant::now() });
        if !link.send(&ToEngine::Submit(Box::new(spec))) {
            inner.sinks.remove(&job);
            return None;
        }
        Some(JobStream::new(Arc::clone(self), epoch, job, outputs))
    }

    /// The receiver of `job` has gone.
    pub(crate) fn cancel(&self, epoch: u64, job: JobId) {
        let mut inner = self.inner.lock();
        if inner.epoch == epoch
            && inner.sinks.remove(&job).is_some()
            && let Some(link) = &inner.link
        {
            link.send(&ToEngine::Cancel { job });
        }
    }

    /// Whether some job waits for an output.
    pub(crate) fn has_jobs(&self) -> bool {
        !self.inner.lock().sinks.is_empty()
    }
}

impl Inner {
    /// The requests that the engine is working on.
    pub(super) fn working(&self) -> Vec<Arc<ChatRequest>> {
        let leases = self.sinks.values().filter_map(|sink| sink.lease);
        leases.filter_map(|lease| self.leases.get(&lease)).map(|tenant| Arc::clone(&tenant.request)).collect()
    }
}

/// Passes one output to its job's channel; a gap in its sequence numbers means that the link cannot be trusted. Says who
/// has been answered, if somebody has.
fn deliver(inner: &mut Inner, output: JobOutput, now: Instant) -> Result<Option<Tenant>, Cause> {
    let Some(sink) = inner.sinks.get_mut(&output.job) else { return Ok(None) };
    if output.seq != sink.next_seq {
        return Err(Cause::Garbage(format!("job output {} where {} was due", output.seq, sink.next_seq)));
    }
    sink.next_seq += 1;
    let ended = matches!(output.event, JobEvent::Finished { .. } | JobEvent::Failed(_));
    let delivered = sink.events.try_send(output.event).is_ok();
    let mut answered = None;
    if ended {
        if let Some(Sink { lease: Some(lease), since, .. }) = inner.sinks.remove(&output.job) {
            answered = inner.leases.remove(&lease);
            inner.stats.record_service(now.duration_since(since).as_secs_f64());
        }
    } else if !delivered {
        inner.sinks.remove(&output.job);
        if let Some(link) = &inner.link {
            link.send(&ToEngine::Cancel { job: output.job });
        }
    }
    Ok(answered)
}
