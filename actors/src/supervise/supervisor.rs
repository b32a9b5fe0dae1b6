//! The supervising actor: Root, GpuSupervisor and CloudSupervisor are this one with other children. one_for_one: no
//! child's death takes another along. A child that dies too often takes its supervisor along, and so up to Root.

use super::{
    address::Address,
    children::{ChildSpec, Children, OnChildDown, wait_for_restart},
    tree::Tree,
};
use crate::{
    chaos::{self, Fault},
    config::ActorRestart,
    task::{self, Owned},
};
use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::Instant;

/// How long each child may take to stop in good order.
const STOP: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub enum SupervisorMsg {
    /// From a restart task: backoff and remains are over, start child `index` again.
    Restart { index: usize },
    /// From whoever watches over the process: the receiver MUST reply at once; one that does not is stuck.
    AreYouThere { reply_to: RpcReplyPort<()> },
    /// From the runtime at shutdown: the receiver MUST stop its children in reverse start order, then reply.
    Shutdown { reply_to: RpcReplyPort<()> },
    /// From the chaos endpoint: end as told.
    Chaos(Fault),
}

#[derive(Clone)]
pub struct Supervisor {
    pub name: String,
    pub tree: Tree,
    pub limits: ActorRestart,
    pub children: Arc<[ChildSpec]>,
}

pub struct SupervisorState {
    children: Children,
    restarts: HashMap<usize, Owned>,
}

impl Actor for Supervisor {
    type Msg = SupervisorMsg;
    type State = SupervisorState;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<SupervisorMsg>, (): ()) -> Result<SupervisorState, ActorProcessingErr> {
        let mut children = Children::new(&self.name, self.tree.clone(), self.limits, self.children.to_vec());
        children.start_all(&myself.get_cell()).await?;
        Ok(SupervisorState { children, restarts: HashMap::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<SupervisorMsg>,
        message: SupervisorMsg,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMsg::Restart { index } => {
                state.restarts.remove(&index);
                state.children.start(index, &myself.get_cell()).await?;
            }
            SupervisorMsg::AreYouThere { reply_to } => drop(reply_to.send(())),
            SupervisorMsg::Shutdown { reply_to } => {
                state.restarts.clear();
                state.children.stop_all(STOP).await;
                let _ = reply_to.send(());
            }
            SupervisorMsg::Chaos(fault) => chaos::obey(fault)?,
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SupervisorMsg>,
        event: SupervisionEvent,
        state: &mut SupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        match state.children.on_child_down(&event, Instant::now(), rand::random()) {
            OnChildDown::Nothing => {}
            OnChildDown::RestartLater { index, delay, remains } => {
                let order = async move {
                    wait_for_restart(delay, remains).await;
                    let _ = myself.cast(SupervisorMsg::Restart { index });
                };
                state.restarts.insert(index, task::owned(order));
            }
            OnChildDown::GiveUp(why) => return Err(why.into()),
        }
        Ok(())
    }
}

/// A child whose current reference is kept in `address`. `below` are the addresses of its own children, which die with it.
pub fn child<A>(
    name: impl Into<String>,
    actor: A,
    address: &Address<A::Msg>,
    below: Arc<dyn Fn() + Send + Sync>,
) -> ChildSpec
where
    A: Actor<Arguments = ()> + Clone + Sync,
{
    let at = address.clone();
    let start = move |supervisor| {
        let (actor, address) = (actor.clone(), at.clone());
        async move {
            let (reference, handle) = Actor::spawn_linked(None, actor, (), supervisor).await?;
            address.set(reference.clone());
            Ok((reference.get_cell(), handle))
        }
        .boxed()
    };
    let at = address.clone();
    let on_death = move || {
        at.clear();
        below();
    };
    ChildSpec { name: name.into(), start: Arc::new(start), on_death: Arc::new(on_death) }
}

/// For actors without children.
pub fn leaf<A>(name: impl Into<String>, actor: A, address: &Address<A::Msg>) -> ChildSpec
where
    A: Actor<Arguments = ()> + Clone + Sync,
{
    child(name, actor, address, Arc::new(|| {}))
}

/// Whether the supervisor at this address handles messages. `None`: nobody lives there now.
pub async fn answers(address: &Address<SupervisorMsg>, limit: Duration) -> Option<bool> {
    let supervisor = address.get()?;
    let asked = supervisor.call(|reply_to| SupervisorMsg::AreYouThere { reply_to }, Some(limit)).await;
    Some(asked.is_ok_and(|answer| answer.is_success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes messages and never comes to an end with one.
    struct Stuck;

    impl Actor for Stuck {
        type Msg = SupervisorMsg;
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<SupervisorMsg>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn handle(
            &self,
            _: ActorRef<SupervisorMsg>,
            _: SupervisorMsg,
            (): &mut (),
        ) -> Result<(), ActorProcessingErr> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_supervisor_that_is_stuck_does_not_answer_and_one_that_works_does() {
        let limit = Duration::from_secs(1);
        let address = Address::default();
        assert_eq!(answers(&address, limit).await, None, "nobody lives there");
        let (stuck, _) = Actor::spawn(None, Stuck, ()).await.unwrap();
        address.set(stuck.clone());
        assert_eq!(answers(&address, limit).await, Some(false));
        stuck.kill();
        let limits = ActorRestart::default();
        let supervisor =
            Supervisor { name: "root".to_owned(), tree: Tree::default(), limits, children: Vec::new().into() };
        let (working, _) = Actor::spawn(None, supervisor, ()).await.unwrap();
        address.set(working.clone());
        assert_eq!(answers(&address, limit).await, Some(true));
        working.stop(None);
    }
}
