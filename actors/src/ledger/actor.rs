//! LedgerActor: brings what was posted into the store, off the request path, and looks after what must not stay as it is:
//! forgotten reservations, large segments, old rows. Holds nothing itself, so its death loses nothing.

use super::{
    Bounded,
    books::{Ledger, LedgerSnapshot},
    filler::FillError,
    unix_now,
};
use crate::{
    chaos::{self, Fault},
    domain::UnixMs,
    task::{self, Owned},
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// How long posted rows gather before they are moved: one transaction for many.
const GATHER: Duration = Duration::from_millis(200);
const TICK: Duration = Duration::from_secs(1);
/// After the last row that was too old, until the next look.
const RETENTION_LOOK: Duration = Duration::from_secs(600);

pub enum LedgerMsg {
    /// From the ledger: rows are pending. Rows posted while no actor lives are found at the next start.
    Posted,
    /// From the actor's own task: the store has what was written, or could not be filled.
    Filled(Result<(), FillError>),
    /// From the timer.
    Tick,
    /// From anyone: the receiver MUST reply.
    GetSnapshot(RpcReplyPort<LedgerSnapshot>),
    /// From the chaos endpoint: end as told.
    Chaos(Fault),
}

#[derive(Clone)]
pub struct LedgerActor {
    pub ledger: Ledger,
    /// The keys that are good and bounded now.
    pub bounded: Arc<dyn Fn(UnixMs) -> Vec<Bounded> + Send + Sync>,
}

pub struct LedgerState {
    filling: Option<Owned>,
    /// Rows came while it was being filled.
    again: bool,
    /// The store refused the last time; told once.
    failing: bool,
    pruned_at: Option<Instant>,
    _ticker: Owned,
}

impl Actor for LedgerActor {
    type Msg = LedgerMsg;
    type State = LedgerState;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<LedgerMsg>, (): ()) -> Result<LedgerState, ActorProcessingErr> {
        let ticker = task::owned(tick(myself.clone()));
        let filling = Some(self.fill(myself, false));
        self.publish(unix_now());
        Ok(LedgerState { filling, again: false, failing: false, pruned_at: None, _ticker: ticker })
    }

    async fn handle(
        &self,
        myself: ActorRef<LedgerMsg>,
        message: LedgerMsg,
        state: &mut LedgerState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            LedgerMsg::Posted => self.fill_soon(myself, state),
            LedgerMsg::Filled(result) => self.filled(myself, state, result),
            LedgerMsg::Tick => self.look(myself, state),
            LedgerMsg::GetSnapshot(reply_to) => drop(reply_to.send(self.ledger.snapshot())),
            LedgerMsg::Chaos(fault) => chaos::obey(fault)?,
        }
        Ok(())
    }
}

impl LedgerActor {
    fn fill_soon(&self, myself: ActorRef<LedgerMsg>, state: &mut LedgerState) {
        if state.filling.is_some() {
            state.again = true;
            return;
        }
        let due = state.pruned_at.is_none_or(|at| at.elapsed() >= RETENTION_LOOK);
        if due {
            state.pruned_at = Some(Instant::now());
        }
        state.filling = Some(self.fill(myself, due));
    }

    /// One run in a task of its own: disks and databases are waited for there.
    fn fill(&self, myself: ActorRef<LedgerMsg>, prune: bool) -> Owned {
        let ledger = self.ledger.clone();
        task::owned(async move {
            sleep(GATHER).await;
            let mut filled = ledger.fill().await;
            while filled.is_ok() && prune {
                match ledger.prune(unix_now()).await {
                    // Other batches come first.
                    Ok(true) => filled = ledger.fill().await,
                    Ok(false) => break,
                    Err(error) => filled = Err(error.into()),
                }
            }
            drop(myself.cast(LedgerMsg::Filled(filled)));
        })
    }

    fn filled(&self, myself: ActorRef<LedgerMsg>, state: &mut LedgerState, result: Result<(), FillError>) {
        state.filling = None;
        match &result {
            Ok(()) if state.failing => tracing::info!("the ledger's database takes rows again"),
            // Told at the start, and when it is over.
            Err(FillError::Open(error)) => tracing::debug!(%error, "the ledger still waits to be opened"),
            Err(error) if !state.failing => tracing::error!(%error, "the journal keeps the ledger's rows meanwhile"),
            _ => {}
        }
        state.failing = result.is_err();
        // After a failure the timer tries again.
        if std::mem::take(&mut state.again) && !state.failing {
            self.fill_soon(myself, state);
        }
    }

    fn publish(&self, now: UnixMs) {
        self.ledger.publish(&(self.bounded)(now), now);
    }

    fn look(&self, myself: ActorRef<LedgerMsg>, state: &mut LedgerState) {
        let now = unix_now();
        self.ledger.expire(now);
        self.ledger.rotate_if_large();
        self.publish(now);
        if state.filling.is_none() {
            self.fill_soon(myself, state);
        }
    }
}

async fn tick(myself: ActorRef<LedgerMsg>) {
    loop {
        sleep(TICK).await;
        if myself.cast(LedgerMsg::Tick).is_err() {
            return;
        }
    }
}
