//! An attempt that its flight leaves on its way (client gone, deadline, shutdown) is an attempt all the same: it has its row
//! and its tokens, and a paid one costs what came and the little that may have been on its way. What nobody can account
//! for, because the flight itself died, is charged in full by its reservation.

use super::{AttemptReport, Flight, SoFar};
use crate::{
    domain::{NanoUsd, Price, TokenUsage},
    ledger::Reservation,
    observe,
    route::Decision,
};
use tokio::time::Instant;

/// Outcome of an attempt that was left.
pub(super) const ABANDONED: &str = "abandoned";

/// What an attempt costs that was left now: never more than was set aside, unless its provider has counted more.
pub(super) fn cost_of_left(
    so_far: &SoFar,
    most: u64,
    price: &Price,
    reservation: &Reservation,
) -> (TokenUsage, NanoUsd) {
    let usage = so_far.left(most, Instant::now());
    let cost = price.cost_of(&usage);
    (usage, if usage.estimated { cost.min(reservation.amount()) } else { cost })
}

impl Flight {
    pub(super) fn close_attempt_under_way(&mut self) {
        let (Some(so_far), Some(decision)) = (self.under_way.take(), self.decision.clone()) else { return };
        // What its client has of a stream stands against the baseline, whoever closed it.
        let shown = if self.started { self.usage_of_all(so_far.usage) } else { TokenUsage::default() };
        let usage = match self.reserved.take() {
            Some(reservation) => self.leave_paid(&decision, &so_far, reservation, shown),
            None => {
                self.usage = shown;
                self.record_attempt(&decision, ABANDONED, so_far.began(), so_far.first_token(), so_far.usage);
                so_far.usage
            }
        };
        self.usage = self.usage_of_all(usage);
    }

    fn leave_paid(
        &mut self,
        decision: &Decision,
        so_far: &SoFar,
        reservation: Reservation,
        shown: TokenUsage,
    ) -> TokenUsage {
        let candidate = &decision.candidate;
        let (usage, cost) = cost_of_left(so_far, self.output_tokens(decision), &candidate.price, &reservation);
        drop(reservation.settle(ABANDONED, usage, cost, self.baseline(shown)));
        observe::attempt(candidate.target.as_str(), ABANDONED);
        self.attempts.push(AttemptReport {
            target: candidate.target.to_string(),
            model: candidate.model.to_string(),
            outcome: ABANDONED,
            first_token: so_far.first_token(),
            took: so_far.began().elapsed(),
            usage,
            cost,
            course: self.course,
        });
        usage
    }
}
