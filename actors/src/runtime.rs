//! The running gateway without its HTTP edge: what lives outside actors, the tree of actors, chaos, and shutdown.

mod kill;
mod tree;

pub use kill::{ChaosError, KillWay};
pub use tree::bounded_keys;

use crate::{
    chaos::{
        Fault,
        faults::{FaultWish, Faults},
    },
    cloud::{CloudMsg, Provider, RetryBudget},
    config::{Config, LiveConfig, LocalConfig, in_force},
    domain::GatewayError,
    flight::{HedgeBudget, Recent, Services, Shared},
    gpu::{EngineSlot, GpuMsg, poison::Poison, process::Spawner, server::Server},
    health::{Draws, HealthMsg, NvmlProbe, Scores, Vitals},
    jobs::JobTable,
    keys::{Keys, KeysError},
    ledger::{Ledger, LedgerMsg, OpenError, unix_now},
    observe,
    route::{ClassifierMsg, Fleet, RouterMsg, actor::queued, session::Sessions},
    supervise::{Address, SupervisorMsg, Tree, answers, tree::ActorState},
    task::{self, Owned},
};
use kill::EngineOrder;
use ractor::{Actor, ActorCell, ActorRef, Message, SpawnErr};
use std::{collections::HashMap, io, path::PathBuf, sync::Arc, time::Duration};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tree::Parts;

/// How long an engine may take to stop in good order before it is killed.
const ENGINE_STOP: Duration = Duration::from_secs(2);
/// How long the whole tree may take to stop.
const TREE_STOP: Duration = Duration::from_secs(10);

/// Names of the fixed actors, as `/admin/actors` and the chaos endpoint use them.
pub mod names {
    pub const ROOT: &str = "root";
    pub const LEDGER: &str = "ledger";
    pub const CLOUD_SUPERVISOR: &str = "cloud-supervisor";
    pub const GPU_SUPERVISOR: &str = "gpu-supervisor";
    pub const HEALTH: &str = "health";
    pub const CLASSIFIER: &str = "classifier";
    pub const ROUTER: &str = "router";
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("a thread could not be started: {0}")]
    Thread(#[from] io::Error),
    #[error("{0}")]
    Provider(#[from] GatewayError),
    #[error("{0} ([server] require_keys is set)")]
    Keys(#[from] KeysError),
    #[error("{0}")]
    Ledger(#[from] OpenError),
    #[error("the actors could not be started: {0}")]
    Actors(#[from] SpawnErr),
}

/// Where each actor lives. Held outside all of them.
#[derive(Clone, Default)]
struct Directory {
    root: Address<SupervisorMsg>,
    cloud_supervisor: Address<SupervisorMsg>,
    gpu_supervisor: Address<SupervisorMsg>,
    ledger: Address<LedgerMsg>,
    health: Address<HealthMsg>,
    classifier: Address<ClassifierMsg>,
    router: Address<RouterMsg>,
    gpus: Arc<[Address<GpuMsg>]>,
}

/// What has threads of its own. Tests of whole schedules bring one without.
pub(crate) struct Outside {
    pub(crate) ledger: Ledger,
    pub(crate) spawner: Spawner,
    pub(crate) probe: NvmlProbe,
}

/// The gateway, running.
pub struct Runtime {
    pub services: Services,
    /// The configuration in force; `services` holds the one of the start.
    pub live: LiveConfig,
    pub tree: Tree,
    pub vitals: Vitals,
    directory: Directory,
    root_ended: CancellationToken,
    _following_keys: Owned,
    /// The spawner thread must outlive every actor: an engine dies with the thread that started it.
    _spawner: Spawner,
}

impl Runtime {
    /// Starts everything. Models load in the background: this returns within milliseconds.
    ///
    /// `engine` is the engine binary for local targets without an `engine_path`, or where it was looked for.
    ///
    /// # Errors
    /// The ledger cannot be opened, threads or actors cannot be started, or a provider's client cannot be built.
    pub async fn start(config: Arc<Config>, engine: Result<PathBuf, String>) -> Result<Self, StartError> {
        let ledger = Ledger::open(&config.ledger, unix_now());
        let probe = NvmlProbe::start(config.health.nvml_library.clone())?;
        let outside = Outside { ledger: ledger.await?, spawner: Spawner::start()?, probe };
        Self::start_in(outside, config, engine).await
    }

    /// As [`start`](Self::start), with this around it.
    pub(crate) async fn start_in(
        outside: Outside,
        config: Arc<Config>,
        engine: Result<PathBuf, String>,
    ) -> Result<Self, StartError> {
        let Outside { ledger, spawner, probe } = outside;
        observe::label_models(config.names());
        let poison = Poison::default();
        let slot =
            |local: &Arc<LocalConfig>| EngineSlot::new(Arc::clone(local), config.supervision.gpu, poison.clone());
        let slots: Arc<[Arc<EngineSlot>]> = config.locals.iter().map(slot).collect();
        let providers: Arc<[Arc<Provider>]> =
            config.clouds.iter().map(|cloud| Provider::new(Arc::clone(cloud))).collect::<Result<_, _>>()?;
        let keys = Keys::configured(&config.keys);
        match keys.renew().await {
            Err(error) if config.server.require_keys => return Err(error.into()),
            Err(error) => observe::keys_not_renewed(&error.to_string()),
            Ok(()) => {}
        }
        let directory = Directory {
            ledger: ledger.address.clone(),
            gpus: slots.iter().map(|_| Address::default()).collect(),
            ..Directory::default()
        };
        let vitals = Vitals::new(config.health.interval);
        let shared = Shared {
            jobs: JobTable::new(config.server.max_inflight, config.server.adaptive_admission),
            fleet: Fleet {
                slots,
                providers,
                sessions: Sessions::new(config.router.session),
                vitals: vitals.clone(),
                draws: Draws::default(),
                poison,
            },
            ledger,
            retries: RetryBudget::new(Instant::now()),
            hedges: HedgeBudget::new(config.router.hedge.max_per_hour, Instant::now()),
            classifier: directory.classifier.clone(),
            router: directory.router.clone(),
            scores: Scores::default(),
            keys: keys.clone(),
            recent: Recent::default(),
            faults: Faults::default(),
        };
        let services = Services::new(config, shared);
        let live = LiveConfig::new(Arc::clone(&services.config));
        let tree = Tree::default();
        let parts = Parts {
            services: &services,
            live: &live,
            directory: &directory,
            tree: &tree,
            vitals: &vitals,
            spawner: spawner.clone(),
            probe,
            engine,
            servers: servers(&services.config)?,
        };
        let root = parts.supervisor(names::ROOT, parts.children());
        tree.started(names::ROOT, None, Instant::now());
        observe::actor_started(names::ROOT);
        let (reference, ended) = Actor::spawn(None, root, ()).await?;
        directory.root.set(reference);
        let root_ended = CancellationToken::new();
        task::detached(tell_end(ended, root_ended.clone(), directory.root.clone(), tree.clone()));
        let _following_keys = task::owned(keys.follow());
        Ok(Self { services, live, tree, vitals, directory, root_ended, _following_keys, _spawner: spawner })
    }

    /// Makes of `wanted` what can be made of it without a restart, for every request from now on. Requests under way keep
    /// the configuration they were admitted with. Names what only a restart will change.
    pub fn adopt(&self, wanted: Config) -> Vec<String> {
        let (next, kept) = in_force(&self.services.config, &self.live.load(), wanted);
        observe::label_models(next.names());
        // Before any request may name them.
        for (provider, config) in self.services.fleet.providers.iter().zip(&next.clouds) {
            provider.configure(&config.models, &config.keys);
        }
        self.services.jobs.set_limit(next.server.max_inflight, next.server.adaptive_admission);
        self.services.ledger.set_limits(next.ledger.budget);
        if !next.chaos_enabled {
            self.services.faults.clear(Instant::now());
        }
        self.live.publish(Arc::new(next));
        self.services.fleet.slots.iter().for_each(|slot| slot.ask_memory_back());
        kept
    }

    /// Resolves when Root has died: its restart budget is spent, or it was killed. The caller fails what is open and
    /// exits non-zero.
    pub async fn root_ended(&self) {
        self.root_ended.cancelled().await;
    }

    /// Whether Root, and each supervisor that lives, answers within `limit`. One that is being started again is Root's business.
    pub async fn is_supervised(&self, limit: Duration) -> bool {
        let Directory { root, cloud_supervisor, gpu_supervisor, .. } = &self.directory;
        let asked =
            tokio::join!(answers(root, limit), answers(cloud_supervisor, limit), answers(gpu_supervisor, limit));
        matches!(asked, (Some(true), Some(true) | None, Some(true) | None))
    }

    /// Requests waiting for a lease. `None` while no router lives.
    pub async fn queued(&self) -> Option<usize> {
        queued(&self.directory.router).await
    }

    /// Stops the actors in reverse start order, then the engines; the ledger is closed last.
    pub async fn stop(&self) {
        if let Some(root) = self.directory.root.get() {
            let stopped = root.call(|reply_to| SupervisorMsg::Shutdown { reply_to }, Some(TREE_STOP)).await;
            drop(stopped);
            let _ = root.stop_and_wait(Some("shutdown".to_owned()), Some(TREE_STOP)).await;
        }
        self.stop_engines().await;
        self.services.ledger.close().await;
    }

    /// Ends every engine child, in good order if it obeys.
    pub async fn stop_engines(&self) {
        let links: Vec<_> = self.services.fleet.slots.iter().filter_map(|slot| slot.shut_down()).collect();
        for link in links {
            if !link.reaped(ENGINE_STOP).await {
                link.kill();
                link.reaped(ENGINE_STOP).await;
            }
        }
    }

    /// Does to an actor, or to a GPU actor's engine child, what a chaos test asks for.
    ///
    /// # Errors
    /// The name or the way is unknown, or the actor or engine is not alive.
    pub fn kill(&self, actor: &str, how: KillWay) -> Result<(), ChaosError> {
        if let Some(order) = how.on_engine() {
            let slot = actor.strip_prefix("gpu/").and_then(|name| self.slot(name));
            let slot = slot.ok_or_else(|| ChaosError::NoEngine(actor.to_owned()))?;
            if slot.config().server.is_some() {
                return Err(ChaosError::ForeignEngine(actor.to_owned()));
            }
            let link = slot.link().ok_or_else(|| ChaosError::NotAlive(actor.to_owned()))?;
            match order {
                EngineOrder::Signal(signal) => {
                    link.signal(signal).map_err(|_| ChaosError::NotAlive(actor.to_owned()))?;
                }
                EngineOrder::Frame(chaos) => link.chaos(chaos),
            }
            return Ok(());
        }
        let Some(handle) = self.find(actor)? else { return Err(ChaosError::NotAlive(actor.to_owned())) };
        match how {
            KillWay::Kill => handle.cell.kill(),
            KillWay::Stop => handle.cell.stop(Some("chaos stop".to_owned())),
            KillWay::Panic => (handle.fault)(Fault::Panic),
            _ => (handle.fault)(Fault::Error),
        }
        Ok(())
    }

    /// Lets a fault befall the calls of a provider, a cloud model or a local target that is a server, from now on.
    ///
    /// # Errors
    /// No such target is called by us, a number is wrong, or there are too many faults.
    pub fn inject(&self, wish: FaultWish) -> Result<(), ChaosError> {
        let target = wish.target.as_str();
        let live = self.live.load();
        let is_cloud = live.clouds.iter().any(|cloud| {
            cloud.name.as_str() == target || cloud.models.iter().any(|model| model.name.as_str() == target)
        });
        match self.slot(target) {
            Some(slot) if slot.config().server.is_none() && !is_cloud => {
                return Err(ChaosError::OwnEngine(target.to_owned()));
            }
            None if !is_cloud => return Err(ChaosError::UnknownTarget(target.to_owned())),
            _ => {}
        }
        wish.check()?;
        self.services.faults.add(wish, Instant::now()).map_err(|_| ChaosError::TooManyFaults)
    }

    fn slot(&self, name: &str) -> Option<&Arc<EngineSlot>> {
        self.services.fleet.slots.iter().find(|slot| slot.name() == name)
    }

    /// `Ok(None)`: the name is right, but nobody lives there now.
    fn find(&self, actor: &str) -> Result<Option<Handle>, ChaosError> {
        let directory = &self.directory;
        Ok(match actor {
            names::ROOT => handle(&directory.root, SupervisorMsg::Chaos),
            names::CLOUD_SUPERVISOR => handle(&directory.cloud_supervisor, SupervisorMsg::Chaos),
            names::GPU_SUPERVISOR => handle(&directory.gpu_supervisor, SupervisorMsg::Chaos),
            names::LEDGER => handle(&directory.ledger, LedgerMsg::Chaos),
            names::HEALTH => handle(&directory.health, HealthMsg::Chaos),
            names::CLASSIFIER => handle(&directory.classifier, ClassifierMsg::Chaos),
            names::ROUTER => handle(&directory.router, RouterMsg::Chaos),
            other => return self.find_member(other),
        })
    }

    fn find_member(&self, actor: &str) -> Result<Option<Handle>, ChaosError> {
        let unknown = || ChaosError::UnknownActor(actor.to_owned());
        if let Some(name) = actor.strip_prefix("gpu/") {
            let at = self.services.fleet.slots.iter().position(|slot| slot.name() == name).ok_or_else(unknown)?;
            return Ok(self.directory.gpus.get(at).and_then(|address| handle(address, GpuMsg::Chaos)));
        }
        let (provider, seat) =
            actor.strip_prefix("cloud/").and_then(|rest| rest.rsplit_once('/')).ok_or_else(unknown)?;
        let mut providers = self.services.fleet.providers.iter();
        let provider = providers.find(|p| p.config().name.as_str() == provider).ok_or_else(unknown)?;
        let seat = seat.parse().ok().and_then(|seat: usize| provider.seats().get(seat)).ok_or_else(unknown)?;
        Ok(handle(&seat.address, CloudMsg::Chaos))
    }
}

fn servers(config: &Config) -> Result<HashMap<String, Arc<Server>>, GatewayError> {
    let servers = config.locals.iter().filter_map(|local| Some((local, local.server.as_ref()?)));
    servers.map(|(local, server)| Ok((local.name.to_string(), Arc::new(Server::new(local, server)?)))).collect()
}

async fn tell_end(root: JoinHandle<()>, ended: CancellationToken, address: Address<SupervisorMsg>, tree: Tree) {
    let _ = root.await;
    address.clear();
    tree.ended(names::ROOT, "ended", ActorState::Stopped);
    ended.cancel();
}

/// A living actor, whatever its message type.
struct Handle {
    cell: ActorCell,
    fault: Box<dyn Fn(Fault) + Send>,
}

fn handle<M: Message>(address: &Address<M>, make: fn(Fault) -> M) -> Option<Handle> {
    let actor: ActorRef<M> = address.get()?;
    let cell = actor.get_cell();
    Some(Handle { cell, fault: Box::new(move |fault| drop(actor.cast(make(fault)))) })
}

#[cfg(test)]
mod tests;
