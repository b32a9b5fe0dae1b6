//! CloudActor: one seat of a provider's pool. Decides whether a call may start and with which key; the call itself runs
//! in the flight that asked, so an actor's death cuts no stream. The first one of a pool also owns the provider's keeper.

use super::{
    keeper,
    provider::{Grant, Provider, Seat},
};
use crate::{
    chaos::{self, Fault},
    config::LiveConfig,
    domain::GatewayError,
    task::{self, Owned},
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use std::sync::Arc;
use tokio::time::Instant;

#[derive(Debug)]
pub enum CloudMsg {
    /// From a flight: the receiver MUST reply with a grant or the reason why not.
    Acquire { model: usize, reply_to: RpcReplyPort<Result<Grant, GatewayError>> },
    /// From the chaos endpoint: end as told.
    Chaos(Fault),
}

#[derive(Debug, Clone)]
pub struct CloudActor {
    pub provider: Arc<Provider>,
    pub seat: Arc<Seat>,
    /// Its names are those that a model found at the provider must not take.
    pub live: LiveConfig,
}

impl CloudActor {
    fn is_first(&self) -> bool {
        self.provider.seats().first().is_some_and(|first| Arc::ptr_eq(first, &self.seat))
    }
}

impl Actor for CloudActor {
    type Msg = CloudMsg;
    /// The keeper, for the first of the pool.
    type State = Option<Owned>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<CloudMsg>, (): ()) -> Result<Option<Owned>, ActorProcessingErr> {
        let keeping = || task::owned(keeper::keep(Arc::clone(&self.provider), self.live.clone()));
        Ok(self.is_first().then(keeping))
    }

    async fn handle(
        &self,
        _: ActorRef<CloudMsg>,
        message: CloudMsg,
        _: &mut Option<Owned>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            // A reply nobody waits for drops the grant, which gives the place back.
            CloudMsg::Acquire { model, reply_to } => {
                drop(reply_to.send(self.provider.grant(&self.seat, model, Instant::now())));
            }
            CloudMsg::Chaos(fault) => chaos::obey(fault)?,
        }
        Ok(())
    }
}
