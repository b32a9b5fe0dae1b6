//! Money set aside for one paid attempt, as a guard: settled with the real cost, or voided if nothing was sent, or (dropped,
//! because nobody can account for it any more) settled at what was reserved, so that spending is never understated.

use super::{
    books::Ledger,
    budget::{Bound, Payer, Period},
    journal::Receipt,
    row::{ABANDONED, AttemptRow},
};
use crate::domain::{ErrorKind, GatewayError, NanoUsd, TokenUsage};
use std::{borrow::Cow, time::Duration};

/// Why a paid attempt must not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the budget does not cover it")]
    Budget(Bound),
    #[error("it cannot be written down")]
    NotWritten,
}

/// How soon a client may look whether the ledger can be written again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

impl Refused {
    /// What the client reads when nothing else can serve it.
    pub fn told(self) -> GatewayError {
        match self {
            Self::Budget(bound) => GatewayError::gateway(ErrorKind::InsufficientQuota, bound.refusal()),
            Self::NotWritten => GatewayError::gateway(
                ErrorKind::Unavailable,
                "paid targets are off while the gateway cannot write its ledger; retry later",
            )
            .retry_after(LOOK_AGAIN),
        }
    }
}

/// Without the zeros that say nothing.
fn short(amount: NanoUsd) -> String {
    let digits = amount.to_string();
    let (dollars, part) = digits.split_once('.').unwrap_or((&digits, ""));
    format!("{dollars}.{:0<2}", part.trim_end_matches('0'))
}

impl Bound {
    /// Whose bound it is, what of it is left, and until when. What the operator has left is not for every client to know.
    fn refusal(self) -> String {
        let whose = match self.payer {
            Payer::Operator => "the gateway's",
            Payer::Key => "this API key's",
        };
        let (which, beyond) = match self.period {
            Period::Day => ("daily budget", "a new day's begins at "),
            Period::Month => ("monthly budget", "a new month's begins at "),
            Period::Total => ("total budget", "it is not renewed"),
        };
        let renewed = self.renewed.map(|at| at.to_string()).unwrap_or_default();
        let what = match (self.payer, self.left) {
            (_, NanoUsd::ZERO) => {
                format!("{whose} {which} for paid targets is spent or set aside for requests that run")
            }
            (Payer::Key, left) => format!(
                "what this request may cost at most does not fit into {whose} {which} for paid targets: {} of {} are \
                 left (a smaller max_tokens costs less)",
                short(left),
                short(self.limit)
            ),
            (Payer::Operator, _) => format!(
                "what this request may cost at most does not fit into what is left of {whose} {which} for paid targets (a \
                 smaller max_tokens costs less)"
            ),
        };
        format!("{what}; {beyond}{renewed}")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Day;

    fn told(payer: Payer, period: Period, left: u64) -> String {
        let (limit, left) = (NanoUsd::new(500_000_000), NanoUsd::new(left));
        let renewed = (period != Period::Total).then(|| Day::new(20_784).start());
        Refused::Budget(Bound { payer, period, limit, left, renewed }).told().message
    }

    #[test]
    fn a_refusal_says_whose_budget_which_and_when_the_next_begins() {
        assert_eq!(
            told(Payer::Key, Period::Day, 0),
            "this API key's daily budget for paid targets is spent or set aside for requests that run; a new day's begins at \
             2026-11-27T00:00:00.000Z"
        );
        assert_eq!(
            told(Payer::Key, Period::Total, 72_000_000),
            "what this request may cost at most does not fit into this API key's total budget for paid targets: $0.072 of \
             $0.50 are left (a smaller max_tokens costs less); it is not renewed"
        );
        let operators = told(Payer::Operator, Period::Month, 72_000_000);
        assert!(operators.contains("the gateway's monthly budget") && operators.contains("2026-11-27"), "{operators}");
        assert!(!operators.contains('$'), "what the operator has is the operator's to know: {operators}");
    }
}
