//! The children of one supervisor: start them, notice every way to die, wait for the remains to be gone, restart by
//! policy. Root, GpuSupervisor and CloudSupervisor are this plus a list of children.

use super::{
    policy::{ActorDeaths, ActorVerdict},
    tree::{ActorState, Tree},
};
use crate::{config::ActorRestart, observe};
use futures_util::future::BoxFuture;
use ractor::{ActorCell, ActorProcessingErr, SpawnErr, SupervisionEvent};
use std::{sync::Arc, time::Duration};
use tokio::{task::JoinHandle, time::Instant};

/// How long the remains of a dead actor may take to be dropped before its successor starts anyway.
const REMAINS_GONE: Duration = Duration::from_secs(2);

/// What starting one child gives.
pub type Started = Result<(ActorCell, JoinHandle<()>), SpawnErr>;

/// Starts (or restarts) one child linked to the given supervisor, and stores its reference in its address.
pub type StartFn = Arc<dyn Fn(ActorCell) -> BoxFuture<'static, Started> + Send + Sync>;

/// One child as configured.
#[derive(Clone)]
pub struct ChildSpec {
    pub name: String,
    pub start: StartFn,
    /// Clears the child's address as soon as it is known to be dead.
    pub on_death: Arc<dyn Fn() + Send + Sync>,
}

struct Child {
    spec: ChildSpec,
    deaths: ActorDeaths,
    cell: Option<ActorCell>,
    remains: Option<JoinHandle<()>>,
}

/// The children of one supervisor, in start order.
pub struct Children {
    supervisor: String,
    tree: Tree,
    limits: ActorRestart,
    children: Vec<Child>,
}

/// What the supervisor must do after a child's death.
#[derive(Debug)]
pub enum OnChildDown {
    /// Not one of ours, or the supervisor is stopping.
    Nothing,
    /// Send yourself a restart order for child `index` when `delay` is over.
    RestartLater { index: usize, delay: Duration, remains: Option<JoinHandle<()>> },
    /// Return an error: the restart budget is spent.
    GiveUp(String),
}

impl Children {
    pub fn new(supervisor: impl Into<String>, tree: Tree, limits: ActorRestart, specs: Vec<ChildSpec>) -> Self {
        let children = specs
            .into_iter()
            .map(|spec| Child { spec, deaths: ActorDeaths::default(), cell: None, remains: None })
            .collect();
        Self { supervisor: supervisor.into(), tree, limits, children }
    }

    /// Starts all, in order; the first that fails to start fails the supervisor.
    pub async fn start_all(&mut self, myself: &ActorCell) -> Result<(), ActorProcessingErr> {
        for index in 0..self.children.len() {
            self.start(index, myself).await?;
        }
        Ok(())
    }

    /// Starts child `index` unless it runs already.
    pub async fn start(&mut self, index: usize, myself: &ActorCell) -> Result<(), ActorProcessingErr> {
        let Some(child) = self.children.get_mut(index) else { return Ok(()) };
        if child.cell.is_some() {
            return Ok(());
        }
        let (cell, handle) = (child.spec.start)(myself.clone()).await?;
        child.cell = Some(cell);
        child.remains = Some(handle);
        self.tree.started(&child.spec.name, Some(&self.supervisor), Instant::now());
        observe::actor_started(&child.spec.name);
        Ok(())
    }

    /// The one place where a death is handled, whatever its kind: a kill and a stop arrive as `ActorTerminated`, a
    /// panic and an `Err` as `ActorFailed`.
    pub fn on_child_down(&mut self, event: &SupervisionEvent, now: Instant, jitter: f64) -> OnChildDown {
        let (cell, cause) = match event {
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                (cell, reason.clone().unwrap_or_else(|| "stopped".to_owned()))
            }
            SupervisionEvent::ActorFailed(cell, error) => (cell, error.to_string()),
            _ => return OnChildDown::Nothing,
        };
        let id = cell.get_id();
        let Some(index) =
            self.children.iter().position(|child| child.cell.as_ref().is_some_and(|cell| cell.get_id() == id))
        else {
            return OnChildDown::Nothing;
        };
        let Some(child) = self.children.get_mut(index) else { return OnChildDown::Nothing };
        child.cell = None;
        (child.spec.on_death)();
        self.tree.ended(&child.spec.name, &cause, ActorState::Restarting);
        observe::actor_died(&child.spec.name, &cause);
        match child.deaths.on_death(&self.limits, now, jitter) {
            ActorVerdict::Restart { after } => {
                OnChildDown::RestartLater { index, delay: after, remains: child.remains.take() }
            }
            ActorVerdict::GiveUp => {
                self.tree.ended(&child.spec.name, &cause, ActorState::Stopped);
                OnChildDown::GiveUp(format!("{} died too often; last cause: {cause}", child.spec.name))
            }
        }
    }

    /// Stops the children in reverse start order, each within `bound`.
    pub async fn stop_all(&mut self, bound: Duration) {
        for child in self.children.iter_mut().rev() {
            if let Some(cell) = child.cell.take() {
                let _ = cell.stop_and_wait(Some("shutdown".to_owned()), Some(bound)).await;
                (child.spec.on_death)();
                self.tree.ended(&child.spec.name, "shutdown", ActorState::Stopped);
            }
        }
    }
}

/// Waits for the dead actor's task to end (bounded) and for the backoff: the caller then sends the restart order.
pub async fn wait_for_restart(delay: Duration, remains: Option<JoinHandle<()>>) {
    let gone = async {
        if let Some(handle) = remains {
            let _ = tokio::time::timeout(REMAINS_GONE, handle).await;
        }
    };
    tokio::join!(gone, tokio::time::sleep(delay));
}
