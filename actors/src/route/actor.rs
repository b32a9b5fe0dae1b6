//! RouterActor: answers every routing question with one decision, and owns the queue of those who wait for a lease. The
//! requests themselves are in the JobTable: if this actor dies, their flights ask its successor again.

use super::{
    facts::{Ask, CloudFacts, LocalFacts, Surroundings},
    fleet::Fleet,
    plan::{Candidate, Plan, plan},
    session::{Conversation, Sessions},
};
use crate::{
    chaos::{self, Fault},
    classify::{Basis, Classification},
    domain::{ErrorKind, GatewayError},
    gpu::{
        GpuMsg, SlotView, Tenant,
        poison::{Mark, Verdict},
    },
    jobs::{Job, TargetKey},
    ledger::{Ledger, unix_now},
    observe,
    supervise::Address,
    task::{self, Owned},
};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent, rpc::CallResult};
use serde::Serialize;
use std::{
    cell::OnceCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// How often waiting requests are looked at again, so that one whose expected wait grew too long spills.
const TICK: Duration = Duration::from_millis(100);

pub type RouteReply = RpcReplyPort<Result<Decision, GatewayError>>;

pub enum RouterMsg {
    /// From ClassifierActor: the receiver MUST reply with a decision, at once or when a lease is free. For a local
    /// target the lease is in the job before the reply is sent.
    Route { job: Arc<Job>, grade: Classification, reply_to: RouteReply },
    /// From the slot watchers: a slot changed. At most one is in the mailbox.
    SlotsChanged,
    /// From the timer, while someone waits.
    Tick,
    /// From anyone: the receiver MUST reply.
    GetSnapshot(RpcReplyPort<RouterSnapshot>),
    /// From the chaos endpoint: end as told.
    Chaos(Fault),
}

/// Where this attempt goes and why.
#[derive(Debug, Clone)]
pub struct Decision {
    pub candidate: Candidate,
    pub plan: Arc<Plan>,
    /// Time spent in the queue.
    pub waited: Duration,
}

#[derive(Debug, Clone, Serialize)]
pub struct RouterSnapshot {
    pub queued: usize,
}

#[derive(Clone)]
pub struct RouterActor {
    pub fleet: Fleet,
    /// What may be spent.
    pub ledger: Ledger,
    /// One per slot, in order: whose death is the first hint to drain.
    pub gpus: Arc<[Address<GpuMsg>]>,
}

struct Waiting {
    job: Arc<Job>,
    grade: Classification,
    conversation: Conversation,
    /// What it is known by to who keeps poison from engines; made when it is first asked for.
    mark: OnceCell<Mark>,
    reply_to: RouteReply,
    since: Instant,
}

pub struct RouterState {
    queue: Vec<Waiting>,
    changed: Arc<AtomicBool>,
    /// (epoch, serving) of every slot when the queue was last looked at as a whole.
    seen: Vec<(u64, bool)>,
    /// Monitored, by slot.
    monitored: Vec<Option<ActorId>>,
    ticker: Option<Owned>,
    _watchers: Vec<Owned>,
}

/// Slots that grant no lease to who is looked at next.
#[derive(Default)]
struct Closed {
    all: bool,
    slots: Vec<usize>,
}

impl Closed {
    fn is(&self, slot: usize) -> bool {
        self.all || self.slots.contains(&slot)
    }
}

/// What becomes of one routing question now; `None` = it waits.
type Answer = Option<Result<Decision, GatewayError>>;

impl Actor for RouterActor {
    type Msg = RouterMsg;
    type State = RouterState;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<RouterMsg>, (): ()) -> Result<RouterState, ActorProcessingErr> {
        let changed = Arc::new(AtomicBool::new(false));
        let watchers = self
            .fleet
            .slots
            .iter()
            .map(|slot| task::owned(watch(slot.watch(), myself.clone(), Arc::clone(&changed))))
            .collect();
        let monitored = self.monitor_gpus(&myself);
        Ok(RouterState { queue: Vec::new(), changed, seen: Vec::new(), monitored, ticker: None, _watchers: watchers })
    }

    async fn handle(
        &self,
        myself: ActorRef<RouterMsg>,
        message: RouterMsg,
        state: &mut RouterState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RouterMsg::Route { job, grade, reply_to } => self.route(state, job, grade, reply_to),
            RouterMsg::SlotsChanged => {
                state.changed.store(false, Ordering::Release);
                state.monitored = self.monitor_gpus(&myself);
                self.serve_queue(state, false, None);
            }
            RouterMsg::Tick => self.serve_queue(state, true, None),
            RouterMsg::GetSnapshot(reply_to) => drop(reply_to.send(RouterSnapshot { queued: state.queue.len() })),
            RouterMsg::Chaos(fault) => chaos::obey(fault)?,
        }
        observe::queue_depth(state.queue.len());
        if state.queue.is_empty() {
            state.ticker = None;
        } else if state.ticker.is_none() {
            state.ticker = Some(task::owned(tick(myself)));
        }
        Ok(())
    }

    /// A monitored GPU actor died: nobody grants leases there now, so the queue is drained before the backlog is read; all of it,
    /// even if a successor is there before that is done.
    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<RouterMsg>,
        event: SupervisionEvent,
        state: &mut RouterState,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorTerminated(dead, ..) | SupervisionEvent::ActorFailed(dead, ..) = event {
            let slot = state.monitored.iter().position(|gpu| *gpu == Some(dead.get_id()));
            self.serve_queue(state, true, slot);
            observe::queue_depth(state.queue.len());
        }
        Ok(())
    }
}

impl RouterActor {
    /// Monitoring twice is harmless; a restarted GPU actor must be monitored anew. Gives who is monitored, by slot.
    fn monitor_gpus(&self, myself: &ActorRef<RouterMsg>) -> Vec<Option<ActorId>> {
        let monitor = |gpu: &Address<GpuMsg>| {
            let gpu = gpu.get()?;
            myself.monitor(gpu.get_cell());
            Some(gpu.get_id())
        };
        self.gpus.iter().map(monitor).collect()
    }

    fn route(&self, state: &mut RouterState, job: Arc<Job>, grade: Classification, reply_to: RouteReply) {
        // Asked again after a router died between granting and answering: the old lease goes back first.
        drop(job.take_lease());
        state.queue.retain(|waiting| waiting.job.seq != job.seq);
        let conversation = self.fleet.sessions.conversation(&job.request);
        let waiting = Waiting { job, grade, conversation, mark: OnceCell::new(), reply_to, since: Instant::now() };
        let clouds = self.fleet.clouds(waiting.since);
        let turn = waiting.job.turn();
        let at = state.queue.partition_point(|other| other.job.turn() < turn);
        let locals = self.fleet.locals(at, waiting.since);
        // Nobody overtakes who waits already.
        let mut closed = Closed { all: !state.queue.is_empty(), ..Closed::default() };
        match self.answer(&waiting, &locals, &clouds, &mut closed) {
            Some(reply) => reply_with(waiting, reply, &self.fleet.sessions),
            None => state.queue.insert(at, waiting),
        }
    }

    /// Plans, and takes a lease if the plan begins with a local target whose turn it is. Who must be alone and cannot be
    /// yet closes its targets to those behind it, so that they empty.
    fn answer(&self, waiting: &Waiting, locals: &[LocalFacts], clouds: &[CloudFacts], closed: &mut Closed) -> Answer {
        let progress = waiting.job.progress();
        let now = Instant::now();
        let recalled = self.fleet.sessions.recall(&waiting.conversation, now);
        let time_left = Some(waiting.job.deadline.saturating_duration_since(now));
        let poison = &self.fleet.poison;
        let verdict = poison.verdict_of(|| *waiting.mark.get_or_init(|| poison.mark(&waiting.job.request)), now);
        let ask = Ask { recalled, time_left, verdict, ..Ask::new(&waiting.job.request, &waiting.grade, &progress) };
        let config = &waiting.job.config;
        let (router, default_output) = (&config.router, config.ledger.default_output_tokens);
        let budget = self.ledger.purchasing(waiting.job.request.caller.as_deref(), unix_now()).into();
        let around = Surroundings { locals, clouds, router, default_output, budget };
        // A request that breaks planning is that request's error, not the router's death.
        let plan = match catch_unwind(AssertUnwindSafe(|| plan(ask, around))) {
            Ok(Ok(plan)) => Arc::new(plan),
            Ok(Err(error)) => return Some(Err(error)),
            Err(_) => return Some(Err(internal("the request could not be planned"))),
        };
        let first = plan.candidates.first()?;
        if matches!(first.key, TargetKey::Cloud { .. }) {
            return decided(waiting, first.clone(), &plan);
        }
        let alone = verdict == Verdict::Alone;
        // Any local target before the first cloud one will do.
        for candidate in plan.candidates.iter() {
            let TargetKey::Gpu { slot, epoch } = candidate.key else { break };
            if closed.is(slot) {
                continue;
            }
            let tenant = Tenant { request: Arc::clone(&waiting.job.request), alone };
            let lease = self.fleet.slots.get(slot).and_then(|slot| slot.try_lease(tenant));
            if let Some(lease) = lease.filter(|lease| lease.epoch() == epoch) {
                waiting.job.put_lease(lease);
                return decided(waiting, candidate.clone(), &plan);
            }
            if alone {
                closed.slots.push(slot);
            }
        }
        None
    }

    /// Goes through the queue in order of turns: of admission, but for priorities. Unless `all`, or a slot died or came back, it
    /// stops as soon as no place is free. The slot `gone` serves nobody, whatever it says of itself by now.
    fn serve_queue(&self, state: &mut RouterState, all: bool, gone: Option<usize>) {
        let serves = |slot: usize, view: &SlotView| view.serving && gone != Some(slot);
        let slots = self.fleet.slots.iter().enumerate();
        let seen: Vec<(u64, bool)> =
            slots.map(|(slot, at)| (slot, at.view())).map(|(slot, view)| (view.epoch, serves(slot, &view))).collect();
        let all = all || seen != state.seen;
        state.seen = seen;
        let now = Instant::now();
        let clouds = self.fleet.clouds(now);
        let mut kept = Vec::with_capacity(state.queue.len());
        let mut closed = Closed::default();
        let mut rest = std::mem::take(&mut state.queue).into_iter();
        for waiting in rest.by_ref() {
            if waiting.reply_to.is_closed() || waiting.job.is_cancelled() {
                continue;
            }
            let mut locals = self.fleet.locals(kept.len(), now);
            for (slot, local) in locals.iter_mut().enumerate() {
                local.view.serving = serves(slot, &local.view);
            }
            // A slot changed while the queue was looked at: nobody overtakes those already kept. The watcher's message
            // brings all of them up again.
            if locals.iter().map(|local| (local.view.epoch, local.view.serving)).ne(state.seen.iter().copied()) {
                kept.push(waiting);
                break;
            }
            if !all && locals.iter().all(|local| local.view.free() == 0) {
                kept.push(waiting);
                break;
            }
            match self.answer(&waiting, &locals, &clouds, &mut closed) {
                Some(reply) => reply_with(waiting, reply, &self.fleet.sessions),
                None => kept.push(waiting),
            }
        }
        kept.extend(rest);
        state.queue = kept;
    }
}

/// Requests waiting for a lease. `None` while no router lives, or when it does not say within a second.
pub async fn queued(router: &Address<RouterMsg>) -> Option<usize> {
    let asked = router.get()?.call(RouterMsg::GetSnapshot, Some(Duration::from_secs(1))).await.ok()?;
    match asked {
        CallResult::Success(snapshot) => Some(snapshot.queued),
        _ => None,
    }
}

/// A bug of ours, met by one request.
pub(super) fn internal(what: &str) -> GatewayError {
    GatewayError::gateway(ErrorKind::Internal, what)
}

fn decided(waiting: &Waiting, candidate: Candidate, plan: &Arc<Plan>) -> Answer {
    Some(Ok(Decision { candidate, plan: Arc::clone(plan), waited: waiting.since.elapsed() }))
}

fn reply_with(waiting: Waiting, reply: Result<Decision, GatewayError>, sessions: &Sessions) {
    if let Ok(decision) = &reply {
        observe::queue_wait(decision.waited);
        let by_router = matches!(waiting.grade.basis, Basis::Rule | Basis::BudgetSensitive);
        let tier = by_router.then_some(decision.plan.complexity);
        sessions.note(&waiting.conversation, tier, decision.candidate.key, Instant::now());
        let candidate = &decision.candidate;
        let (complexity, target) = (decision.plan.complexity.as_str(), candidate.target.as_str());
        observe::route_decision(waiting.job.who(), complexity, target, candidate.reason.label());
    }
    // A flight that has gone drops its job guard, which gives the lease back.
    let _ = waiting.reply_to.send(reply);
}

async fn tick(myself: ActorRef<RouterMsg>) {
    loop {
        tokio::time::sleep(TICK).await;
        if myself.cast(RouterMsg::Tick).is_err() {
            return;
        }
    }
}

async fn watch(mut views: watch::Receiver<SlotView>, myself: ActorRef<RouterMsg>, changed: Arc<AtomicBool>) {
    while views.changed().await.is_ok() {
        if !changed.swap(true, Ordering::AcqRel) && myself.cast(RouterMsg::SlotsChanged).is_err() {
            return;
        }
    }
}
