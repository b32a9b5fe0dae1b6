//! What each actor is made of, and where it stands in the tree.

use super::{Directory, names};
use crate::{
    cloud::CloudActor,
    config::LiveConfig,
    domain::UnixMs,
    flight::Services,
    gpu::{EngineKind, GpuModelActor, process::Spawner, server::Server},
    health::{HealthActor, NvmlProbe, Vitals},
    keys::{Key, KeyState, Keys},
    ledger::{Bounded, LedgerActor},
    observe,
    route::{ClassifierActor, RouterActor},
    supervise::{
        Address, Supervisor, SupervisorMsg, Tree,
        children::ChildSpec,
        supervisor::{child, leaf},
        tree::ActorState,
    },
};
use std::{collections::HashMap, path::PathBuf, sync::Arc};

/// What the tree is built from.
pub(super) struct Parts<'a> {
    pub(super) services: &'a Services,
    pub(super) live: &'a LiveConfig,
    pub(super) directory: &'a Directory,
    pub(super) tree: &'a Tree,
    pub(super) vitals: &'a Vitals,
    pub(super) spawner: Spawner,
    pub(super) probe: NvmlProbe,
    pub(super) engine: Result<PathBuf, String>,
    /// Local targets that are servers, by name.
    pub(super) servers: HashMap<String, Arc<Server>>,
}

impl Parts<'_> {
    pub(super) fn supervisor(&self, name: &str, children: Vec<ChildSpec>) -> Supervisor {
        Supervisor {
            name: name.to_owned(),
            tree: self.tree.clone(),
            limits: self.services.config.supervision.actors,
            children: children.into(),
        }
    }

    /// Root's children, in start order: the ledger is first up and last down.
    pub(super) fn children(&self) -> Vec<ChildSpec> {
        let (services, directory) = (self.services, self.directory);
        let config = &services.config;
        let keys = services.keys.clone();
        let ledger =
            LedgerActor { ledger: services.ledger.clone(), bounded: Arc::new(move |now| bounded_keys(&keys, now)) };
        let health = HealthActor {
            config: config.health.clone(),
            probe: self.probe.clone(),
            vitals: self.vitals.clone(),
            scores: services.scores.clone(),
            slots: Arc::clone(&services.fleet.slots),
            providers: Arc::clone(&services.fleet.providers),
        };
        let classifier = ClassifierActor { router: directory.router.clone() };
        let router = RouterActor {
            fleet: services.fleet.clone(),
            ledger: services.ledger.clone(),
            gpus: Arc::clone(&directory.gpus),
        };
        vec![
            leaf(names::LEDGER, ledger, &directory.ledger),
            self.cloud_supervisor(),
            self.gpu_supervisor(),
            leaf(names::HEALTH, health, &directory.health),
            leaf(names::CLASSIFIER, classifier, &directory.classifier),
            leaf(names::ROUTER, router, &directory.router),
        ]
    }

    fn cloud_supervisor(&self) -> ChildSpec {
        let mut members = Vec::new();
        for provider in self.services.fleet.providers.iter().filter(|provider| provider.config().is_usable()) {
            for (at, seat) in provider.seats().iter().enumerate() {
                let (provider, seat, live) = (Arc::clone(provider), Arc::clone(seat), self.live.clone());
                let actor = CloudActor { provider, seat, live };
                let address = actor.seat.address.clone();
                members.push(leaf(format!("cloud/{}/{at}", actor.provider.config().name), actor, &address));
            }
        }
        self.middle(names::CLOUD_SUPERVISOR, members, &self.directory.cloud_supervisor)
    }

    fn gpu_supervisor(&self) -> ChildSpec {
        let slots = self.services.fleet.slots.iter().zip(self.directory.gpus.iter());
        let members = slots.map(|(slot, address)| {
            let program = slot.config().engine_path.clone().map_or_else(|| self.engine.clone(), Ok);
            let child = || EngineKind::Child {
                spawner: self.spawner.clone(),
                program,
                chaos_enabled: self.services.config.chaos_enabled,
            };
            let server = self.servers.get(slot.name());
            let actor = GpuModelActor {
                slot: Arc::clone(slot),
                engine: server.map_or_else(child, |server| EngineKind::Server(Arc::clone(server))),
                canary_interval: self.services.config.health.canary_interval,
            };
            leaf(format!("gpu/{}", slot.name()), actor, address)
        });
        self.middle(names::GPU_SUPERVISOR, members.collect(), &self.directory.gpu_supervisor)
    }

    /// A supervisor below Root: its death clears its children's addresses, because they die with it.
    fn middle(&self, name: &str, members: Vec<ChildSpec>, address: &Address<SupervisorMsg>) -> ChildSpec {
        let supervisor = self.supervisor(name, members);
        let below = Arc::clone(&supervisor.children);
        let tree = self.tree.clone();
        let clear = move || {
            for member in below.iter() {
                (member.on_death)();
                tree.ended(&member.name, observe::SUPERVISOR_DIED, ActorState::Restarting);
                observe::actor_died(&member.name, observe::SUPERVISOR_DIED);
            }
        };
        child(name, supervisor, address, Arc::new(clear))
    }
}

/// The keys that are good now and may not spend what they like.
pub fn bounded_keys(keys: &Keys, now: UnixMs) -> Vec<Bounded> {
    let good = |key: &Arc<Key>| key.record.state(now.get() / 1000) == KeyState::Active && key.caller.budget.any();
    let bounded = |key: Arc<Key>| Bounded {
        group: key.caller.group.clone(),
        key: key.caller.key.clone(),
        limits: key.caller.budget,
    };
    keys.all().into_iter().filter(good).map(bounded).collect()
}
