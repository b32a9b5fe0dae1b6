//! The slot of one local target: owns engine child, link, epoch and leases, outside all actors. Only the slot declares
//! an engine death, and only once per epoch. Actors come and go; the slot and its child stay.

mod health;
mod jobs;
mod lease;
mod memory;
mod server;
mod view;
mod work;

pub use health::Condemned;
pub use lease::{JobStream, Lease};
pub use view::{Answered, SlotStats, SlotView, Work};

use super::{
    frame::{JobId, LoadedInfo, ToEngine},
    ladder::Ladder,
    life::{Cause, GpuInput, GpuState, Guilt, Strain},
    link::Link,
    poison::{DeathId, Poison},
};
use crate::{
    config::{EngineRestart, LocalConfig},
    domain::ChatRequest,
    observe,
    supervise::policy::{EngineDeath, EngineDeaths, EngineVerdict},
};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{sync::watch, time::Instant};
use work::Sink;

/// Deaths remembered.
const DEATHS_SEEN: usize = 8;

/// One incarnation of the GpuModelActor that owns this slot.
pub type OwnerId = u64;

/// The last engine death.
#[derive(Debug, Clone)]
pub struct Death {
    /// The epoch that died.
    pub epoch: u64,
    pub cause: Cause,
    pub at: Instant,
}

/// Who takes a lease.
#[derive(Debug, Clone)]
pub struct Tenant {
    pub request: Arc<ChatRequest>,
    /// Takes nobody beside it: an engine may have died of it.
    pub alone: bool,
}

struct Inner {
    state: GpuState,
    epoch: u64,
    owner: Option<OwnerId>,
    /// The current owner has passed a canary on the current child.
    adopted: bool,
    link: Option<Arc<Link>>,
    /// The last child's link after its death, until its successor is attached: it tells when the process is gone.
    corpse: Option<Arc<Link>>,
    info: Option<Arc<LoadedInfo>>,
    leases: HashMap<u64, Tenant>,
    sinks: HashMap<JobId, Sink>,
    deaths: EngineDeaths,
    /// The latest deaths, newest last: a slow flight may ask after one when the next has happened.
    deaths_seen: VecDeque<Death>,
    /// When the current child passed its first canary.
    serving_since: Option<Instant>,
    stats: SlotStats,
    /// The card is strained: true for whatever engine runs on it.
    strain: Option<Strain>,
    /// The card was found bad; forgotten when it is tried again.
    condemned: Option<Condemned>,
    /// What was given up for want of memory.
    ladder: Ladder,
    /// What loads have shown of model and device.
    seen: memory::Seen,
    work: Work,
}

pub struct EngineSlot {
    config: Arc<LocalConfig>,
    limits: EngineRestart,
    inner: Mutex<Inner>,
    view: watch::Sender<SlotView>,
    next_id: AtomicU64,
    poison: Poison,
}

impl EngineSlot {
    /// `poison`: what all slots together know of requests that end engines.
    pub fn new(config: Arc<LocalConfig>, limits: EngineRestart, poison: Poison) -> Arc<Self> {
        let inner = Inner {
            state: GpuState::Cold,
            epoch: 1,
            owner: None,
            adopted: false,
            link: None,
            corpse: None,
            info: None,
            leases: HashMap::new(),
            sinks: HashMap::new(),
            deaths: EngineDeaths::default(),
            deaths_seen: VecDeque::new(),
            serving_since: None,
            stats: SlotStats::default(),
            strain: None,
            condemned: None,
            ladder: Ladder::new(memory::configured(&config), limits.reset_after),
            seen: memory::Seen::default(),
            work: Work::default(),
        };
        observe::gpu_configured(config.name.as_str(), &Cause::LABELS);
        observe::leases_limit(config.name.as_str(), inner.ladder.plan().parallel as usize);
        let view = watch::Sender::new(SlotView::cold(&inner.ladder));
        Arc::new(Self { config, limits, inner: Mutex::new(inner), view, next_id: AtomicU64::new(1), poison })
    }

    pub fn config(&self) -> &LocalConfig {
        &self.config
    }

    pub fn name(&self) -> &str {
        self.config.name.as_str()
    }

    /// The truth about this slot, as it changes.
    pub fn watch(&self) -> watch::Receiver<SlotView> {
        self.view.subscribe()
    }

    pub fn view(&self) -> SlotView {
        self.view.borrow().clone()
    }

    pub fn last_death(&self) -> Option<Death> {
        self.inner.lock().deaths_seen.back().cloned()
    }

    /// The death of exactly this epoch, if it died.
    pub fn death_of(&self, epoch: u64) -> Option<Death> {
        self.inner.lock().deaths_seen.iter().rev().find(|death| death.epoch == epoch).cloned()
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn publish(&self, inner: &Inner) {
        let view = SlotView {
            state: inner.state.clone(),
            epoch: inner.epoch,
            serving: inner.state.serves() && inner.adopted && inner.owner.is_some() && inner.link.is_some(),
            owned: inner.owner.is_some(),
            adopted: inner.adopted,
            leases: inner.leases.len(),
            alone: inner.has_lone_tenant(),
            parallel: inner.ladder.plan().parallel as usize,
            info: inner.info.clone(),
            is_linked: inner.link.is_some(),
            is_server: self.config.server.is_some(),
            engine_pid: inner.link.as_ref().and_then(|link| link.pid()),
            stats: inner.stats,
            drain_until: inner.condemned.as_ref().map(|condemned| condemned.drain_until),
            climbs_at: inner.ladder.climbs_at(),
        };
        self.view.send_if_modified(|current| {
            let changed = *current != view;
            if changed {
                *current = view;
            }
            changed
        });
    }

    /// Applies a life-cycle input and logs the transition; the one place where the state changes.
    fn transition(&self, inner: &mut Inner, input: GpuInput) {
        match inner.state.next(input.clone()) {
            Some(next) => {
                let cause = next.cause().map(ToString::to_string);
                observe::gpu_state(self.name(), next.name(), inner.epoch, cause.as_deref());
                inner.state = next;
            }
            None => tracing::debug!(gpu = self.name(), state = inner.state.name(), ?input, "input without effect"),
        }
    }

    /// A new incarnation of the GpuModelActor takes over; whatever an older one still says is ignored.
    pub fn claim(&self) -> OwnerId {
        let owner = self.next_id();
        let mut inner = self.inner.lock();
        inner.owner = Some(owner);
        inner.adopted = false;
        self.publish(&inner);
        owner
    }

    /// The incarnation ended. Running leases go on; no new one is granted until the next owner has passed a canary.
    pub fn disown(&self, owner: OwnerId) {
        let mut inner = self.inner.lock();
        if inner.owner == Some(owner) {
            inner.owner = None;
            inner.adopted = false;
            self.publish(&inner);
        }
    }

    /// Registers a freshly spawned child, or a server. Refused when the caller is no longer the owner, or a child is there already.
    pub fn attach(&self, owner: OwnerId, make: impl FnOnce(u64) -> Arc<Link>) -> bool {
        let mut inner = self.inner.lock();
        if inner.owner != Some(owner) || inner.link.is_some() || inner.state.next(GpuInput::ChildSpawned).is_none() {
            return false;
        }
        let link = make(inner.epoch);
        // A child says itself what it has loaded.
        inner.info = link.server().map(|_| Arc::new(super::server::info(&self.config)));
        inner.link = Some(link);
        inner.corpse = None;
        inner.condemned = None;
        inner.adopted = false;
        inner.serving_since = None;
        self.transition(&mut inner, GpuInput::ChildSpawned);
        self.publish(&inner);
        true
    }

    /// The current owner saw a canary pass on `epoch`: leases may be granted.
    pub fn canary_passed(&self, owner: OwnerId, epoch: u64, now: Instant) {
        let mut inner = self.inner.lock();
        if inner.owner != Some(owner) || inner.epoch != epoch || inner.link.is_none() {
            return;
        }
        inner.adopted = true;
        if inner.serving_since.is_none() {
            inner.serving_since = Some(now);
            inner.deaths.on_canary_passed();
            inner.ladder.serves(now);
            if let Some(death) = inner.deaths_seen.back() {
                observe::recovered(self.name(), now.duration_since(death.at));
            }
        }
        if let Some(link) = &inner.link {
            link.pulse().lock().proved(now);
        }
        if !inner.state.serves() {
            self.transition(&mut inner, GpuInput::CanaryPassed);
        }
        self.strain_shows(&mut inner);
        self.publish(&inner);
    }

    /// Declares the engine of `epoch` dead: epoch + 1 first, then leases and jobs are revoked, then the child is
    /// killed. A second declaration for the same epoch is ignored. Returns whether this call was the first.
    pub fn declare_death(&self, epoch: u64, cause: Cause, now: Instant) -> bool {
        let guilt = cause.guilt();
        let link = {
            let mut inner = self.inner.lock();
            if inner.epoch != epoch || inner.link.is_none() {
                return false;
            }
            let working = inner.working();
            let link = self.bury(&mut inner, cause, now);
            let told = link.as_ref().is_some_and(|link| link.was_told_to_die());
            let guilt = if told { Guilt::Outside } else { guilt };
            // Before the lock is given back: whoever brings the exit status finds the accused.
            self.poison.died(self.death_id(epoch), &working, guilt, now);
            link
        };
        if let Some(link) = link {
            link.kill();
        }
        true
    }

    fn death_id(&self, epoch: u64) -> DeathId {
        (self.name().to_owned(), epoch)
    }

    /// A start failed before there was a child (no binary, no file).
    pub fn start_failed(&self, owner: OwnerId, cause: Cause, now: Instant) {
        let mut inner = self.inner.lock();
        if inner.owner == Some(owner) && inner.link.is_none() {
            self.bury(&mut inner, cause, now);
        }
    }

    fn bury(&self, inner: &mut Inner, cause: Cause, now: Instant) -> Option<Arc<Link>> {
        if inner.deaths_seen.len() == DEATHS_SEEN {
            inner.deaths_seen.pop_front();
        }
        let death = Death { epoch: inner.epoch, cause: cause.clone(), at: now };
        inner.deaths_seen.push_back(death);
        inner.epoch += 1;
        inner.adopted = false;
        inner.leases.clear();
        inner.sinks.clear();
        inner.work.beat = None;
        observe::leases(self.name(), 0);
        observe::engine_died(self.name(), cause.label());
        self.transition(inner, GpuInput::Died(cause));
        let link = inner.link.take();
        if link.is_some() {
            inner.corpse.clone_from(&link);
        }
        self.publish(inner);
        link
    }

    /// The last child's link, dead or dying.
    pub(crate) fn corpse(&self) -> Option<Arc<Link>> {
        self.inner.lock().corpse.clone()
    }

    /// The exit status of a child whose socket end was noticed first: a better cause for the same death.
    pub fn refine_cause(&self, epoch: u64, status: &str) {
        let mut inner = self.inner.lock();
        let better = Cause::Exited(status.to_owned());
        self.poison.resolve(&self.death_id(epoch), better.guilt(), Instant::now());
        if let Some(death) = inner.deaths_seen.iter_mut().find(|death| death.epoch == epoch)
            && death.cause == Cause::LinkClosed
        {
            death.cause = better.clone();
        }
        if inner.epoch == epoch + 1 {
            if let GpuState::Down { cause, .. } | GpuState::Backoff { cause, .. } | GpuState::Quarantined { cause, .. } =
                &mut inner.state
                && *cause == Cause::LinkClosed
            {
                *cause = better;
            }
            self.publish(&inner);
        }
    }

    /// Decides what follows the last death (backoff, quarantine, look again later). Called by the owner once it knows
    /// whether the old child is really gone.
    pub fn decide_restart(&self, owner: OwnerId, reaped: bool, now: Instant, jitter: f64) {
        let mut inner = self.inner.lock();
        if inner.owner != Some(owner) || !matches!(inner.state, GpuState::Down { look_at: None, .. }) {
            return;
        }
        if !reaped {
            if let Some(death) = inner.deaths_seen.back_mut() {
                death.cause = Cause::Unreapable;
            }
            self.transition(&mut inner, GpuInput::Died(Cause::Unreapable));
            self.transition(&mut inner, GpuInput::QuarantineUntil(now + self.limits.probe_min));
            self.publish(&inner);
            return;
        }
        let serving_since = inner.serving_since.take();
        if self.steps_down(&mut inner, now, jitter) {
            self.publish(&inner);
            return;
        }
        inner.ladder.ended();
        if let Some(condemned) = inner.condemned.clone() {
            self.transition(&mut inner, GpuInput::Died(condemned.cause));
            self.transition(&mut inner, GpuInput::QuarantineUntil(condemned.retry_at));
            self.publish(&inner);
            return;
        }
        let kind = match (inner.state.cause(), serving_since) {
            (Some(Cause::NotLoadable(_)), _) => EngineDeath::NotLoadable,
            (Some(Cause::OutOfMemory(_)), _) => EngineDeath::Exhausted,
            (_, Some(since)) => EngineDeath::AfterServing(now.duration_since(since)),
            (Some(Cause::Unreachable(_)), None) => EngineDeath::Absent,
            (_, None) => EngineDeath::FailedStart,
        };
        let input = match inner.deaths.on_death(&self.limits, kind, now, jitter) {
            EngineVerdict::Backoff { after } => GpuInput::RetryAt(now + after),
            EngineVerdict::Quarantine { probe_after } => GpuInput::QuarantineUntil(now + probe_after),
            EngineVerdict::Down { look_after } => GpuInput::LookAt(now + look_after),
        };
        self.transition(&mut inner, input);
        self.publish(&inner);
    }

    /// Ends the child in good order: `Stop`, then the socket's end. The state becomes Cold.
    pub fn shut_down(&self) -> Option<Arc<Link>> {
        let mut inner = self.inner.lock();
        inner.epoch += 1;
        inner.adopted = false;
        inner.leases.clear();
        inner.sinks.clear();
        let link = inner.link.take();
        if let Some(link) = &link {
            link.send(&ToEngine::Stop);
        }
        self.transition(&mut inner, GpuInput::Stopped);
        self.publish(&inner);
        link
    }

    /// The child's link, for chaos.
    pub fn link(&self) -> Option<Arc<Link>> {
        self.inner.lock().link.clone()
    }

    /// Takes one of the `parallel` places, if the slot serves and one is free; all of them for who must be alone.
    pub fn try_lease(self: &Arc<Self>, tenant: Tenant) -> Option<Lease> {
        let mut inner = self.inner.lock();
        let serving = inner.state.serves() && inner.adopted && inner.owner.is_some() && inner.link.is_some();
        let places = if tenant.alone { 1 } else { inner.ladder.plan().parallel as usize };
        if !serving || inner.leases.len() >= places || inner.has_lone_tenant() {
            return None;
        }
        let id = self.next_id();
        inner.leases.insert(id, tenant);
        observe::leases(self.name(), inner.leases.len());
        self.publish(&inner);
        Some(Lease::new(Arc::clone(self), inner.epoch, id))
    }

    /// A place as [`EngineSlot::try_lease`] gives it, whether or not an engine serves.
    #[cfg(test)]
    pub(crate) fn lease_without_engine(self: &Arc<Self>) -> Option<Lease> {
        let mut inner = self.inner.lock();
        if inner.leases.len() >= inner.ladder.plan().parallel as usize {
            return None;
        }
        let id = self.next_id();
        let request = Arc::new(ChatRequest::plain(""));
        inner.leases.insert(id, Tenant { request, alone: false });
        self.publish(&inner);
        Some(Lease::new(Arc::clone(self), inner.epoch, id))
    }

    pub(crate) fn release(&self, id: u64) {
        let mut inner = self.inner.lock();
        if inner.leases.remove(&id).is_some() {
            observe::leases(self.name(), inner.leases.len());
            self.publish(&inner);
        }
    }

    /// Whether the loaded model computes on the processor.
    pub(crate) fn is_on_cpu(&self) -> bool {
        self.view.borrow().info.as_ref().is_some_and(|info| !info.on_gpu)
    }
}

impl Inner {
    fn has_lone_tenant(&self) -> bool {
        self.leases.values().any(|tenant| tenant.alone)
    }
}
