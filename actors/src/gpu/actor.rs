//! GpuModelActor: drives one slot through its life. It holds no request and no child: whatever must survive its death
//! is in the [`EngineSlot`], and a new incarnation goes on where the old one stopped.

use super::{
    canary::canary,
    device,
    life::{Cause, GpuState},
    link::Link,
    process::{EngineCommand, Spawner},
    server::Server,
    slot::{EngineSlot, OwnerId, SlotView},
};
use crate::{
    chaos::{self, Fault},
    config::LocalConfig,
    gguf::{GgufError, inspect},
    observe,
    task::{self, Owned},
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// How long a killed child may take to be reaped before its GPU is quarantined.
const REAP: Duration = Duration::from_secs(5);
/// A server that works for somebody and has said nothing to anybody for this long is looked at.
const SERVER_SILENCE: Duration = Duration::from_secs(2);
/// How long a dead child's output may take to be read to its end.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long an idle engine may take to end when it is asked to.
const ORDERLY_END: Duration = Duration::from_secs(2);

pub enum GpuMsg {
    /// From the slot's watcher, a timer or a finished operation: look at the slot and do what is due.
    Look,
    /// From an operation task: it ended, whatever its result; the slot holds the result.
    OperationEnded,
    /// From anyone: the receiver MUST reply with the slot's view.
    GetSnapshot(RpcReplyPort<SlotView>),
    /// From the chaos endpoint: end as told.
    Chaos(Fault),
}

/// What serves the slot.
#[derive(Clone)]
pub enum EngineKind {
    /// A child of ours.
    Child {
        spawner: Spawner,
        /// Engine binary; `Err` says where it was looked for.
        program: Result<PathBuf, String>,
        chaos_enabled: bool,
    },
    /// Somebody else's, at an address.
    Server(Arc<Server>),
}

/// What it takes to run one GpuModelActor; cloned for every incarnation.
#[derive(Clone)]
pub struct GpuModelActor {
    pub slot: Arc<EngineSlot>,
    pub engine: EngineKind,
    /// How often an idle engine must prove that it decodes; `None` = never.
    pub canary_interval: Option<Duration>,
}

/// Gives the slot up however the actor ends.
struct Ownership {
    slot: Arc<EngineSlot>,
    id: OwnerId,
}

impl Drop for Ownership {
    fn drop(&mut self) {
        self.slot.disown(self.id);
    }
}

pub struct GpuActorState {
    ownership: Ownership,
    /// A look is already in the mailbox.
    look_pending: Arc<AtomicBool>,
    operation: Option<Owned>,
    timer: Option<Owned>,
    _watcher: Owned,
}

/// What the state of a slot asks its actor to do.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Start,
    Canary {
        epoch: u64,
        first: bool,
    },
    /// Take back what was given up for want of memory: nobody uses the engine.
    Climb,
    /// The card is bad and nothing runs on it any more, or has run long enough.
    Retire,
    /// Decide between backoff and quarantine once the dead child is reaped.
    Bury,
    WakeAt(Instant),
}

/// `prove_at`: when an idle engine must next show that it decodes.
fn due(view: &SlotView, prove_at: Option<Instant>, now: Instant) -> Due {
    if view.is_linked {
        return due_of_child(view, prove_at, now);
    }
    match &view.state {
        GpuState::Cold => Due::Start,
        GpuState::Down { look_at: None, .. } => Due::Bury,
        state => match state.wakes_at() {
            Some(at) if at <= now => Due::Start,
            Some(at) => Due::WakeAt(at),
            None => Due::Nothing,
        },
    }
}

fn due_of_child(view: &SlotView, prove_at: Option<Instant>, now: Instant) -> Due {
    if view.state == GpuState::Draining {
        return match view.drain_until {
            Some(until) if view.leases > 0 && now < until => Due::WakeAt(until),
            _ => Due::Retire,
        };
    }
    if view.info.is_none() {
        return Due::Nothing;
    }
    if !view.adopted {
        return Due::Canary { epoch: view.epoch, first: view.state == GpuState::Loading };
    }
    if view.leases == 0 && view.climbs_at.is_some_and(|at| at <= now) {
        return Due::Climb;
    }
    let climb_at = view.climbs_at.filter(|at| *at > now);
    match prove_at {
        // While a child works for somebody the watchdog has an eye on every step; a server has none.
        Some(at) if at <= now && (view.leases == 0 || view.is_server) => {
            Due::Canary { epoch: view.epoch, first: false }
        }
        Some(at) if at > now => Due::WakeAt(climb_at.map_or(at, |climb| climb.min(at))),
        _ => climb_at.map_or(Due::Nothing, Due::WakeAt),
    }
}

impl Actor for GpuModelActor {
    type Msg = GpuMsg;
    type State = GpuActorState;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<GpuMsg>, (): ()) -> Result<GpuActorState, ActorProcessingErr> {
        let id = self.slot.claim();
        let ownership = Ownership { slot: Arc::clone(&self.slot), id };
        let look_pending = Arc::new(AtomicBool::new(true));
        let watcher = task::owned(watch(self.slot.watch(), myself.clone(), Arc::clone(&look_pending)));
        myself.cast(GpuMsg::Look)?;
        Ok(GpuActorState { ownership, look_pending, operation: None, timer: None, _watcher: watcher })
    }

    async fn handle(
        &self,
        myself: ActorRef<GpuMsg>,
        message: GpuMsg,
        state: &mut GpuActorState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            GpuMsg::Look => {
                state.look_pending.store(false, Ordering::Release);
                self.look(&myself, state);
            }
            GpuMsg::OperationEnded => {
                state.operation = None;
                self.look(&myself, state);
            }
            GpuMsg::GetSnapshot(reply_to) => drop(reply_to.send(self.slot.view())),
            GpuMsg::Chaos(fault) => chaos::obey(fault)?,
        }
        Ok(())
    }
}

impl GpuModelActor {
    fn look(&self, myself: &ActorRef<GpuMsg>, state: &mut GpuActorState) {
        if state.operation.is_some() {
            return;
        }
        let owner = state.ownership.id;
        state.timer = None;
        let view = self.slot.view();
        let prove_at = self.canary_interval.and_then(|interval| {
            let busy_server = view.is_server && view.leases > 0;
            Some(self.slot.proven_at()? + if busy_server { interval.min(SERVER_SILENCE) } else { interval })
        });
        state.operation = match due(&view, prove_at, Instant::now()) {
            Due::Nothing => None,
            Due::Start => Some(operation(myself, start(self.clone(), owner))),
            Due::Canary { epoch, first } => Some(operation(myself, canary(self.clone(), owner, epoch, first))),
            Due::Climb => Some(operation(myself, climb(Arc::clone(&self.slot), owner))),
            Due::Retire => {
                self.slot.retire(owner, Instant::now());
                None
            }
            Due::Bury => Some(operation(myself, bury(Arc::clone(&self.slot), owner))),
            Due::WakeAt(at) => {
                let myself = myself.clone();
                state.timer = Some(task::owned(async move {
                    tokio::time::sleep_until(at).await;
                    let _ = myself.cast(GpuMsg::Look);
                }));
                None
            }
        };
    }
}

/// Runs `work` in a task of the actor's, and reports its end.
fn operation(myself: &ActorRef<GpuMsg>, work: impl Future<Output = ()> + Send + 'static) -> Owned {
    let ended = OperationEnd(myself.clone());
    task::owned(async move {
        let _ended = ended;
        work.await;
    })
}

/// Reports the end even of an operation that panics: the actor must not wait for it for ever.
struct OperationEnd(ActorRef<GpuMsg>);

impl Drop for OperationEnd {
    fn drop(&mut self) {
        let _ = self.0.cast(GpuMsg::OperationEnded);
    }
}

/// Turns changes of the slot into at most one pending `Look`.
async fn watch(mut views: watch::Receiver<SlotView>, myself: ActorRef<GpuMsg>, look_pending: Arc<AtomicBool>) {
    while views.changed().await.is_ok() {
        if !look_pending.swap(true, Ordering::AcqRel) && myself.cast(GpuMsg::Look).is_err() {
            return;
        }
    }
}

async fn start(actor: GpuModelActor, owner: OwnerId) {
    let slot = &actor.slot;
    if let Err(cause) = try_start(&actor, owner).await {
        slot.start_failed(owner, cause, Instant::now());
    }
}

async fn try_start(actor: &GpuModelActor, owner: OwnerId) -> Result<(), Cause> {
    let slot = &actor.slot;
    let (spawner, program, chaos) = match &actor.engine {
        EngineKind::Child { spawner, program, chaos_enabled } => (spawner, program, *chaos_enabled),
        EngineKind::Server(server) => {
            slot.attach(owner, |epoch| Link::to_server(epoch, Arc::clone(server)));
            return Ok(());
        }
    };
    if let Some(corpse) = slot.corpse()
        && !corpse.reaped(Duration::ZERO).await
    {
        return Err(Cause::Unreapable);
    }
    let program = program.clone().map_err(Cause::NotLoadable)?;
    let simulated = slot.config().simulation.is_some();
    if simulated {
        observe::engine_simulated(slot.name());
    } else {
        look_at_files(slot).await?;
    }
    let environment = device::environment(slot.config().gpu.as_deref(), &|name| std::env::var(name).ok());
    let command = EngineCommand { program: program.clone(), chaos, simulated, environment };
    let ends = spawner
        .spawn(command)
        .await
        .map_err(|error| Cause::NotLoadable(format!("cannot start {}: {error}", program.display())))?;
    let load = slot.load_spec();
    slot.attach(owner, |epoch| Link::start(slot, epoch, ends, load));
    Ok(())
}

/// Reads what the model's file says of itself. A file that is absent or damaged costs no engine.
async fn look_at_files(slot: &Arc<EngineSlot>) -> Result<(), Cause> {
    let (path, smaller) = (slot.load_plan().model_path, slot.config().smaller_models.clone());
    let looked = task::blocking(move || {
        let here: Vec<PathBuf> = smaller.into_iter().filter(|path| path.is_file()).collect();
        (inspect(&path).map_err(|error| (path, error)), here)
    });
    match looked.await {
        Ok((Ok(model), smaller)) => {
            slot.know_files(&model, smaller);
            Ok(())
        }
        Ok((Err((path, error)), _)) => Err(not_loadable(slot.config(), &path, &error)),
        Err(_) => Err(Cause::LoadFailed("the model's file could not be looked at".to_owned())),
    }
}

fn not_loadable(config: &LocalConfig, path: &Path, error: &GgufError) -> Cause {
    let shown = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let absent = matches!(error, GgufError::Unreadable(source) if source.kind() == io::ErrorKind::NotFound);
    let what = if absent { "is missing".to_owned() } else { error.to_string() };
    let remedy = match &config.pull {
        Some(name) if absent => format!("`spillway models pull {name}` gets it"),
        Some(name) => format!("`spillway models rm {name}` and `spillway models pull {name}` get it anew"),
        None => "correct `model` in [[local]]".to_owned(),
    };
    Cause::NotLoadable(format!("{} {what}; {remedy}", shown.display()))
}

/// Ends an idle engine in good order, so that it is loaded again with less given up.
async fn climb(slot: Arc<EngineSlot>, owner: OwnerId) {
    let Some(link) = slot.climb(owner, Instant::now()) else { return };
    if !link.reaped(ORDERLY_END).await {
        link.kill();
        link.reaped(REAP).await;
    }
}

async fn bury(slot: Arc<EngineSlot>, owner: OwnerId) {
    let corpse = slot.corpse();
    let reaped = match &corpse {
        Some(corpse) => corpse.reaped(REAP).await,
        None => true,
    };
    if let Some(corpse) = corpse
        && let Some(line) = corpse.ran_out_of_memory(LAST_WORDS).await
    {
        slot.ran_out_of_memory(owner, corpse.epoch(), line);
    }
    slot.decide_restart(owner, reaped, Instant::now(), rand::random());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::EngineRestart, gpu::poison::Poison};

    fn view_after(script: impl FnOnce(&Arc<EngineSlot>)) -> SlotView {
        let config = crate::config::LocalConfig::tiny(2);
        let slot = EngineSlot::new(Arc::new(config), EngineRestart::default(), Poison::default());
        script(&slot);
        slot.view()
    }

    #[tokio::test(start_paused = true)]
    async fn a_cold_slot_is_started_and_a_failed_start_waits_for_its_verdict() {
        let now = Instant::now();
        assert_eq!(due(&view_after(|_| {}), None, now), Due::Start);
        let view = view_after(|slot| {
            let owner = slot.claim();
            slot.start_failed(owner, Cause::NotLoadable("missing".into()), now);
        });
        assert_eq!(due(&view, None, now), Due::Bury);
        let view = view_after(|slot| {
            let owner = slot.claim();
            slot.start_failed(owner, Cause::NotLoadable("missing".into()), now);
            slot.decide_restart(owner, true, now, 0.5);
        });
        assert_eq!(view.state.name(), "down", "a missing model shows as down with its cause");
        assert_eq!(due(&view, None, now), Due::WakeAt(now + Duration::from_secs(15)));
        assert_eq!(due(&view, None, now + Duration::from_secs(15)), Due::Start);
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_owner_is_not_heard() {
        let now = Instant::now();
        let view = view_after(|slot| {
            let old = slot.claim();
            let _new = slot.claim();
            slot.disown(old);
            slot.start_failed(old, Cause::LinkClosed, now);
        });
        assert!(view.owned);
        assert_eq!(view.state, GpuState::Cold);
    }

    fn serving(leases: usize) -> SlotView {
        let info = crate::gpu::frame::LoadedInfo {
            name: "tiny".into(),
            device: "cpu".into(),
            on_gpu: false,
            context_tokens: 64,
            max_request_tokens: 64,
            parallel: 2,
            has_chat_template: false,
            chat: crate::tools::ChatTraits::default(),
            layers: 1,
            gpu_layers: 0,
            load_ms: 1,
            generates: true,
            embeddings: None,
            infills: false,
        };
        SlotView {
            state: GpuState::Warm,
            is_linked: true,
            adopted: true,
            leases,
            info: Some(Arc::new(info)),
            ..view_after(|_| {})
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_engine_must_prove_itself_in_time_and_a_busy_one_need_not() {
        let now = Instant::now();
        let later = now + Duration::from_secs(15);
        assert_eq!(due(&serving(0), Some(later), now), Due::WakeAt(later));
        assert_eq!(due(&serving(0), Some(later), later), Due::Canary { epoch: 1, first: false });
        assert_eq!(due(&serving(1), Some(later), later), Due::Nothing, "its release brings the next look");
        assert_eq!(due(&serving(0), None, later), Due::Nothing, "canaries are off");
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_card_is_left_when_its_last_request_ends_or_its_time_is_over() {
        let now = Instant::now();
        let until = now + Duration::from_secs(30);
        let draining = |leases| SlotView { state: GpuState::Draining, drain_until: Some(until), ..serving(leases) };
        assert_eq!(due(&draining(1), None, now), Due::WakeAt(until));
        assert_eq!(due(&draining(0), None, now), Due::Retire);
        assert_eq!(due(&draining(1), None, until), Due::Retire);
    }

    #[tokio::test(start_paused = true)]
    async fn a_card_that_turned_bad_is_quarantined_with_its_cause_until_it_may_be_tried_or_is_pardoned() {
        let now = Instant::now();
        let retry_at = now + Duration::from_secs(600);
        let bad = || Cause::BadGpu("Xid 48".into());
        let condemned = |slot: &Arc<EngineSlot>| {
            let owner = slot.claim();
            slot.condemn(super::super::slot::Condemned { cause: bad(), drain_until: now, retry_at }, now);
            slot.decide_restart(owner, true, now, 0.5);
        };
        let view = view_after(condemned);
        assert_eq!(view.state, GpuState::Quarantined { cause: bad(), until: retry_at });
        assert_eq!(due(&view, None, now), Due::WakeAt(retry_at));
        let view = view_after(|slot| {
            condemned(slot);
            slot.pardon(now);
        });
        assert_eq!(due(&view, None, now), Due::Start, "the card was reset");
    }
}
