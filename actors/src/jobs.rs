//! Every open request, outside every actor's state: RouterActor may die without losing its queue. The entry is held by
//! a guard in the request's flight; dropping the guard settles the request, so none ends twice and none never.

mod admission;

use crate::{
    config::Config,
    domain::{ChatRequest, Complexity, ErrorKind, GatewayError, ModelName, Priority, RequestId, Who},
    gpu::Lease,
    keys::Hold,
    observe,
};
use admission::Admission;
use parking_lot::Mutex;
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// One place a request may be tried at, each once: a GPU in one epoch, or one model of one provider. Indices are those of
/// the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetKey {
    Gpu { slot: usize, epoch: u64 },
    Cloud { provider: usize, model: usize },
}

/// How a request ended. Every admitted request gets exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Completed,
    ClientGone,
    Failed(ErrorKind),
}

impl Outcome {
    /// The bounded metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Completed => "ok",
            Self::ClientGone => "client_gone",
            Self::Failed(kind) => kind.label(),
        }
    }
}

/// What the router may do with a request that is not at its first attempt.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Never offered again.
    pub tried: Vec<TargetKey>,
    /// Never offered again: no budget covers what would have to be reserved.
    pub unaffordable: Vec<TargetKey>,
    /// Never offered again: the ledger could not write it down.
    pub unrecorded: Vec<TargetKey>,
    /// A stream was cut after its client had text: it may only go on as this says.
    pub take_over: Option<TakeOver>,
    /// A local answer was poor: it goes on as a request of this tier.
    pub escalated: Option<Complexity>,
}

/// What is known of a cut stream by those who decide where it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakeOver {
    /// What was answering.
    pub model: ModelName,
    /// Every byte the client has came from this local model, whose tokens can be replayed.
    pub replay: Option<ModelName>,
    /// The client's text can be handed on as the beginning of an answer: it is one choice of plain text.
    pub prefix: bool,
    /// Tokens of the client's text, counted or estimated.
    pub sent_tokens: u64,
    /// Of the request.
    pub deadline: Instant,
}

/// One open request.
#[derive(Debug)]
pub struct Job {
    pub request: Arc<ChatRequest>,
    /// In force when it was admitted, and for this request until its end.
    pub config: Arc<Config>,
    /// Order of admission.
    pub seq: u64,
    pub admitted_at: Instant,
    pub deadline: Instant,
    /// A lease granted but not yet taken by the flight: written before RouterActor replies.
    lease: Mutex<Option<Lease>>,
    /// Tokens of its key's limit that are set aside for it.
    hold: Mutex<Option<Hold>>,
    progress: Mutex<Progress>,
    /// Set when the gateway ends the request from outside its flight.
    cancelled: CancellationToken,
}

impl Job {
    pub fn id(&self) -> RequestId {
        self.request.id
    }

    pub fn who(&self) -> Who {
        self.request.who()
    }

    /// Its place among those who wait; the least is first. A class that comes first comes as if it had been admitted so much
    /// earlier, so nobody waits for ever.
    pub fn turn(&self) -> (Instant, u64) {
        let behind = match priority(&self.request) {
            Priority::High => Duration::ZERO,
            Priority::Normal => HEAD_START,
            Priority::Low => HEAD_START * 2,
        };
        (self.admitted_at + behind, self.seq)
    }

    pub fn progress(&self) -> Progress {
        self.progress.lock().clone()
    }

    pub fn tried(&self, key: TargetKey) {
        self.progress.lock().tried.push(key);
    }

    /// These may be offered once more.
    pub fn once_more(&self, keys: &[TargetKey]) {
        self.progress.lock().tried.retain(|tried| !keys.contains(tried));
    }

    /// The ledger refused an attempt there: for want of money, or because it cannot write.
    pub fn unpaid(&self, key: TargetKey, for_want_of_money: bool) {
        let mut progress = self.progress.lock();
        let list = if for_want_of_money { &mut progress.unaffordable } else { &mut progress.unrecorded };
        list.push(key);
    }

    pub fn begin_take_over(&self, take_over: TakeOver) {
        self.progress.lock().take_over = Some(take_over);
    }

    pub fn escalate(&self, complexity: Complexity) {
        self.progress.lock().escalated = Some(complexity);
    }

    /// Writes a granted lease down, before the grant is told to anyone.
    pub fn put_lease(&self, lease: Lease) {
        *self.lease.lock() = Some(lease);
    }

    pub fn take_lease(&self) -> Option<Lease> {
        self.lease.lock().take()
    }

    /// Writes down what is set aside for it, before its flight is launched.
    pub fn put_hold(&self, hold: Hold) {
        *self.hold.lock() = Some(hold);
    }

    pub fn take_hold(&self) -> Option<Hold> {
        self.hold.lock().take()
    }

    /// Resolves when the gateway ends the request from outside.
    pub async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }
}

/// Of one class before the next in the queue.
const HEAD_START: Duration = Duration::from_secs(5);

/// Requests without a key are as important as most.
fn priority(request: &ChatRequest) -> Priority {
    request.caller.as_ref().map_or(Priority::Normal, |caller| caller.priority)
}

/// Counts that must always add up: `admitted = running + Σ ended`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Totals {
    pub admitted: u64,
    pub refused: u64,
    pub running: u64,
    pub ended: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
struct Open {
    jobs: HashMap<RequestId, Arc<Job>>,
    totals: Totals,
    next_seq: u64,
    closed: bool,
    admission: Admission,
    /// The limit that was published last.
    told: usize,
}

impl Open {
    fn tell_limit(&mut self) {
        let limit = self.admission.limit();
        if self.told != limit {
            self.told = limit;
            observe::admission_limit(limit);
        }
    }

    /// Whether a request of this class would be let in now. A refusal is counted.
    fn admits(&mut self, priority: Priority, now: Instant) -> Result<(), GatewayError> {
        let running = self.jobs.len();
        let refused = if self.closed {
            Some(("shutting_down", shutting_down()))
        } else if !self.admission.admits(priority, running, now) {
            Some(("full", full(&self.admission, running)))
        } else {
            None
        };
        let Some((reason, error)) = refused else { return Ok(()) };
        self.totals.refused += 1;
        observe::request_refused(reason, priority.as_str());
        Err(error)
    }
}

/// The error of a request that there is no place for.
fn full(admission: &Admission, running: usize) -> GatewayError {
    let most = admission.most();
    let message = if running >= most {
        format!("{most} requests are in work, the configured limit; retry shortly")
    } else {
        format!(
            "the gateway is busy: it has {running} requests in work and no place for one of this priority; retry shortly"
        )
    };
    GatewayError::gateway(ErrorKind::RateLimited, message).retry_after(Duration::from_secs(1))
}

#[derive(Debug)]
struct Inner {
    open: Mutex<Open>,
    running: watch::Sender<usize>,
}

/// All open requests; how many those are at most is for [`Admission`] to say.
#[derive(Debug, Clone)]
pub struct JobTable {
    inner: Arc<Inner>,
}

impl JobTable {
    /// At most `limit`, and fewer if `adaptive` and the gateway cannot keep up.
    pub fn new(limit: usize, adaptive: bool) -> Self {
        let open = Open {
            jobs: HashMap::new(),
            totals: Totals::default(),
            next_seq: 0,
            closed: false,
            admission: Admission::new(limit, adaptive, Instant::now()),
            told: limit,
        };
        observe::admission_limit(limit);
        Self { inner: Arc::new(Inner { open: Mutex::new(open), running: watch::Sender::new(0) }) }
    }

    /// From now on at most so many; those already open go on.
    pub fn set_limit(&self, limit: usize, adaptive: bool) {
        let mut open = self.inner.open.lock();
        open.admission.configure(limit, adaptive);
        open.tell_limit();
    }

    /// A request has been planned for the first time, so long after its admission, without what it waited for a place.
    pub fn planned(&self, delay: Duration, now: Instant) {
        self.inner.open.lock().admission.planned(delay, now);
    }

    /// Refuses by the head alone what [`JobTable::admit`] would refuse, so that nothing of it is read.
    ///
    /// # Errors
    /// There is no place for a request of this class, or the gateway shuts down.
    pub fn has_place(&self, priority: Priority, now: Instant) -> Result<(), GatewayError> {
        self.inner.open.lock().admits(priority, now)
    }

    /// Admits a request or says why not. Nothing is queued before this.
    pub fn admit(&self, request: ChatRequest, config: Arc<Config>, now: Instant) -> Result<JobGuard, GatewayError> {
        let mut open = self.inner.open.lock();
        open.admits(priority(&request), now)?;
        open.next_seq += 1;
        let job = Arc::new(Job {
            request: Arc::new(request),
            seq: open.next_seq,
            admitted_at: now,
            deadline: now + config.server.request_timeout,
            config,
            lease: Mutex::new(None),
            hold: Mutex::new(None),
            progress: Mutex::default(),
            cancelled: CancellationToken::new(),
        });
        if open.jobs.insert(job.id(), Arc::clone(&job)).is_some() {
            return Err(GatewayError::gateway(ErrorKind::Internal, "request id is taken"));
        }
        open.totals.admitted += 1;
        self.publish(&mut open);
        Ok(JobGuard { table: self.clone(), job, settled: false })
    }

    fn publish(&self, open: &mut Open) {
        open.totals.running = open.jobs.len() as u64;
        observe::requests_running(open.jobs.len());
        open.tell_limit();
        self.inner.running.send_replace(open.jobs.len());
    }

    fn settle(&self, job: &Job, outcome: Outcome) {
        let removed = {
            let mut open = self.inner.open.lock();
            let removed = open.jobs.remove(&job.id());
            if removed.is_some() {
                *open.totals.ended.entry(outcome.label()).or_default() += 1;
                self.publish(&mut open);
            }
            removed
        };
        // Outside the lock: giving a lease back takes the slot's lock.
        if removed.is_some() {
            drop(job.take_lease());
            drop(job.take_hold());
        }
    }

    pub fn totals(&self) -> Totals {
        self.inner.open.lock().totals.clone()
    }

    pub fn running(&self) -> usize {
        *self.inner.running.borrow()
    }

    /// Admits nothing from now on.
    pub fn close(&self) {
        self.inner.open.lock().closed = true;
    }

    pub fn is_closed(&self) -> bool {
        self.inner.open.lock().closed
    }

    /// Ends every open request with an explicit error; admits nothing more.
    pub fn fail_all(&self) {
        let mut open = self.inner.open.lock();
        open.closed = true;
        for job in open.jobs.values() {
            job.cancelled.cancel();
        }
    }

    /// Waits until no request is open, at most `bound`. Says whether it got there.
    pub async fn drained(&self, bound: Duration) -> bool {
        let mut running = self.inner.running.subscribe();
        matches!(tokio::time::timeout(bound, running.wait_for(|running| *running == 0)).await, Ok(Ok(_)))
    }
}

/// The error of a request that the shutdown ended.
pub fn shutting_down() -> GatewayError {
    GatewayError::gateway(ErrorKind::ShuttingDown, "the gateway is shutting down; retry shortly")
        .retry_after(Duration::from_secs(5))
}

/// The one holder of an open request. Settles it with `internal` if dropped unsettled.
#[derive(Debug)]
pub struct JobGuard {
    table: JobTable,
    job: Arc<Job>,
    settled: bool,
}

impl JobGuard {
    pub fn job(&self) -> &Arc<Job> {
        &self.job
    }

    /// The last word on this request.
    pub fn settle(mut self, outcome: Outcome) {
        self.settled = true;
        self.table.settle(&self.job, outcome);
    }
}

impl Drop for JobGuard {
    fn drop(&mut self) {
        if !self.settled {
            self.table.settle(&self.job, Outcome::Failed(ErrorKind::Internal));
        }
    }
}

#[cfg(test)]
mod tests;
