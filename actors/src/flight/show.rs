//! What the client of a request is shown, in order, and what is noted when it is.

use super::{Flight, FlightEvent, Head};
use crate::{domain::Delta, jobs::TargetKey, observe, route::Decision};
use tokio::time::Instant;

/// What became of a piece that was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// It waits for others.
    Kept,
    /// Its reader may have taken its time.
    HandedOver,
}

impl Flight {
    /// Hands one event over; a client that has gone ends the flight from outside.
    pub(super) async fn emit(&mut self, event: FlightEvent) {
        self.note_reasons(&event);
        let _ = self.outbox.give(event).await;
    }

    /// An attempt whose events were gathered has ended. What is left of one that went well is handed over with the request's
    /// last word.
    pub(super) async fn told(&mut self, well: bool) {
        self.outbox.gather_no_more();
        if !well {
            let _ = self.outbox.flush().await;
        }
    }

    /// A visible piece of a stream.
    pub(super) async fn show(&mut self, delta: Delta, decision: &Decision) -> Told {
        self.start_stream(decision).await;
        self.note_resumed(decision);
        self.sent.shown(&delta);
        let came = Instant::now();
        if let Some(before) = self.piece_at {
            observe::next_piece(decision.candidate.target.as_str(), came.duration_since(before));
        }
        self.piece_at = Some(came);
        if self.outbox.keeps_next(came) {
            self.outbox.keep(FlightEvent::Delta(delta), came);
            return Told::Kept;
        }
        self.hold(Some(came));
        self.emit(FlightEvent::Delta(delta)).await;
        self.hold(None);
        // A client that is slow to take it does not make the target slow.
        self.piece_at = Some(Instant::now());
        Told::HandedOver
    }

    /// Since when the client has not taken what it is shown.
    fn hold(&mut self, since: Option<Instant>) {
        if let Some(so_far) = &mut self.under_way {
            so_far.held(since);
        }
    }

    /// The prompt before an answer of a stream: no part of what a replay would have to make again.
    pub(super) async fn show_echo(&mut self, delta: Delta, decision: &Decision) {
        self.start_stream(decision).await;
        self.note_resumed(decision);
        self.sent.echoed(delta.choice);
        self.emit(FlightEvent::Delta(delta)).await;
    }

    /// The end of one choice of a stream.
    pub(super) async fn show_finish(&mut self, choice: u32, reason: String, decision: &Decision) {
        self.start_stream(decision).await;
        self.note_resumed(decision);
        self.emit(FlightEvent::Finish { choice, reason }).await;
    }

    /// The first visible token of the whole request.
    async fn start_stream(&mut self, decision: &Decision) {
        if self.started {
            return;
        }
        self.started = true;
        self.first_token_at = Some(Instant::now());
        let simulated = matches!(decision.candidate.key, TargetKey::Cloud { provider, .. }
            if self.services.fleet.providers.get(provider).is_some_and(|provider| provider.config().simulated));
        let head = Head {
            target: decision.candidate.target.clone(),
            model: decision.candidate.model.clone(),
            complexity: decision.plan.complexity,
            attempts: self.attempts.len() + usize::from(self.under_way.is_some()),
            simulated,
            imprint: self.imprint.take(),
        };
        self.emit(FlightEvent::Started(head)).await;
    }

    pub(super) fn note_first_token(&mut self, decision: &Decision, began: Instant) {
        observe::time_to_first_token(decision.candidate.target.as_str(), began.elapsed());
        self.mourning = None;
        if let Some(lost) = self.lost.take() {
            observe::failover_stage("first_token", lost.at.elapsed());
        }
    }
}
