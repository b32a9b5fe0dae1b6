//! CloudActor: one seat of a provider's pool. Decides whether a call may start and with which key; the call itself runs
//! in the flight that asked, so an actor's death cuts no stream.

use super::provider::{Grant, Provider, Seat};
use crate::{
    chaos::{self, Fault},
    domain::GatewayError,
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
}

impl Actor for CloudActor {
    type Msg = CloudMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<CloudMsg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<CloudMsg>, message: CloudMsg, (): &mut ()) -> Result<(), ActorProcessingErr> {
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
