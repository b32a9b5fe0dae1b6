//! Money set aside for one paid attempt, as a guard: settled with the real cost, or voided if nothing was sent, or (dropped
//! by an abandoned attempt) settled at what was reserved, so that spending is never understated.

use super::{
    books::Ledger,
    budget::Payer,
    journal::Receipt,
    row::{ABANDONED, AttemptRow},
};
use crate::domain::{ErrorKind, GatewayError, NanoUsd, TokenUsage};
use std::{borrow::Cow, time::Duration};

/// Why a paid attempt must not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the budget does not cover it")]
    Budget(Payer),
    #[error("it cannot be written down")]
    NotWritten,
}

/// How soon a client may look whether the ledger can be written again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

impl Refused {
    /// What the client reads when nothing else can serve it.
    pub fn told(self) -> GatewayError {
        match self {
            Self::Budget(Payer::Operator) => {
                let message = "the gateway's budget for paid targets does not cover this request";
                GatewayError::gateway(ErrorKind::InsufficientQuota, message)
            }
            Self::Budget(Payer::Key) => {
                let message = "the budget of this API key does not cover this request";
                GatewayError::gateway(ErrorKind::InsufficientQuota, message)
            }
            Self::NotWritten => GatewayError::gateway(
                ErrorKind::Unavailable,
                "paid targets are off while the gateway cannot write its ledger; retry later",
            )
            .retry_after(LOOK_AGAIN),
        }
    }
}

/// Open until it is settled, voided or dropped.
#[must_use = "dropped, it is charged in full"]
pub struct Reservation {
    ledger: Ledger,
    id: u64,
    amount: NanoUsd,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not written down yet: nothing can have been sent.
    Asked,
    Granted,
    Ended,
}

impl Reservation {
    pub(super) fn new(ledger: Ledger, id: u64, amount: NanoUsd) -> Self {
        Self { ledger, id, amount, state: State::Asked }
    }

    pub(super) fn granted(mut self) -> Self {
        self.state = State::Granted;
        self
    }

    /// What is set aside.
    pub fn amount(&self) -> NanoUsd {
        self.amount
    }

    /// The attempt ended: the real cost, never more than was reserved unless the provider counted more. A paid answer must
    /// not end before the receipt is there.
    pub fn settle(
        mut self,
        outcome: impl Into<Cow<'static, str>>,
        usage: TokenUsage,
        cost: NanoUsd,
        baseline: NanoUsd,
    ) -> Receipt {
        self.state = State::Ended;
        let outcome = outcome.into();
        self.ledger.settle(self.id, |row| AttemptRow { outcome, usage, cost, baseline, ..row })
    }

    /// Nothing was sent.
    pub fn void(mut self) {
        self.state = State::Ended;
        self.ledger.void(self.id);
    }
}

#[cfg(test)]
impl Reservation {
    /// As if its process had died: it says nothing more.
    pub(super) fn vanish(mut self) {
        self.state = State::Ended;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        match self.state {
            State::Ended => {}
            State::Asked => self.ledger.void(self.id),
            State::Granted => {
                drop(self.ledger.settle(self.id, |row| AttemptRow { outcome: ABANDONED.into(), ..row }));
            }
        }
    }
}
