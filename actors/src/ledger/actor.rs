//! LedgerActor: moves posted rows into the books, off the request path. Holds nothing itself, so its death loses nothing.

use super::store::{Ledger, LedgerSnapshot};
use crate::chaos::{self, Fault};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

pub enum LedgerMsg {
    /// From the ledger's store: rows are pending. Rows posted while no actor lives are found at the next start.
    Posted,
    /// From anyone: the receiver MUST reply.
    GetSnapshot(RpcReplyPort<LedgerSnapshot>),
    /// From the chaos endpoint: end as told.
    Chaos(Fault),
}

#[derive(Clone)]
pub struct LedgerActor {
    pub ledger: Ledger,
}

impl Actor for LedgerActor {
    type Msg = LedgerMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<LedgerMsg>, (): ()) -> Result<(), ActorProcessingErr> {
        self.ledger.settle_pending();
        Ok(())
    }

    async fn handle(&self, _: ActorRef<LedgerMsg>, message: LedgerMsg, (): &mut ()) -> Result<(), ActorProcessingErr> {
        match message {
            LedgerMsg::Posted => self.ledger.settle_pending(),
            LedgerMsg::GetSnapshot(reply_to) => drop(reply_to.send(self.ledger.snapshot())),
            LedgerMsg::Chaos(fault) => chaos::obey(fault)?,
        }
        Ok(())
    }
}
