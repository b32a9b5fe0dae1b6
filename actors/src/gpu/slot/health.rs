//! What the health of the card does to a slot: strain makes it degraded, a bad card is drained and quarantined. Told by
//! HealthActor, kept here, so that it survives both actors.

use super::{EngineSlot, Inner, OwnerId};
use crate::gpu::life::{Cause, GpuInput, GpuState, Strain, StrainKind};
use tokio::time::Instant;

/// The verdict over a bad card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condemned {
    pub cause: Cause,
    /// What runs on it may go on until then.
    pub drain_until: Instant,
    /// When an engine may be tried on it again.
    pub retry_at: Instant,
}

impl EngineSlot {
    /// The card is strained, or no more. Kept over engine deaths.
    pub fn set_strain(&self, strain: Option<Strain>) {
        let mut inner = self.inner.lock();
        inner.strain = strain;
        self.strain_shows(&mut inner);
        self.publish(&inner);
    }

    pub fn strain(&self) -> Option<StrainKind> {
        self.inner.lock().strain.as_ref().map(|strain| strain.kind)
    }

    /// Brings the state in line with the strain; only a change of kind is a transition, a new reading is not.
    pub(super) fn strain_shows(&self, inner: &mut Inner) {
        let shown = match &inner.state {
            GpuState::Degraded(Cause::Strained(strain)) => Some(strain.kind),
            _ => None,
        };
        match inner.strain.clone() {
            _ if !inner.state.serves() => {}
            Some(strain) if shown == Some(strain.kind) => inner.state = GpuState::Degraded(Cause::Strained(strain)),
            Some(strain) => self.transition(inner, GpuInput::Strained(strain)),
            None if shown.is_some() => self.transition(inner, GpuInput::Relieved),
            None => {}
        }
    }

    /// The card is bad: no new lease; what runs may end until `drain_until`; then quarantine. A second verdict over the
    /// same card only brings the end nearer.
    pub fn condemn(&self, verdict: Condemned, now: Instant) {
        let mut inner = self.inner.lock();
        let waits = matches!(inner.state, GpuState::Quarantined { cause: Cause::BadGpu(_), .. });
        if let Some(earlier) = &mut inner.condemned {
            earlier.drain_until = earlier.drain_until.min(verdict.drain_until);
        } else if !waits {
            tracing::warn!(gpu = self.name(), cause = %verdict.cause, "GPU condemned");
            inner.condemned = Some(verdict.clone());
            if inner.link.is_some() {
                self.transition(&mut inner, GpuInput::Drain);
            } else if !matches!(inner.state, GpuState::Down { look_at: None, .. }) {
                self.bury(&mut inner, verdict.cause, now);
            }
        }
        self.publish(&inner);
    }

    /// The bad card was reset or came back: it may be tried at once.
    pub fn pardon(&self, now: Instant) {
        let mut inner = self.inner.lock();
        if let Some(condemned) = &mut inner.condemned {
            condemned.retry_at = now;
        }
        if let GpuState::Quarantined { cause: Cause::BadGpu(_), until } = &mut inner.state {
            *until = now;
        }
        self.publish(&inner);
    }

    /// Ends the engine on a condemned card.
    pub(crate) fn retire(&self, owner: OwnerId, now: Instant) {
        let due = {
            let inner = self.inner.lock();
            let condemned = inner.condemned.as_ref().filter(|_| inner.owner == Some(owner));
            condemned.map(|condemned| (inner.epoch, condemned.cause.clone()))
        };
        if let Some((epoch, cause)) = due {
            self.declare_death(epoch, cause, now);
        }
    }

    /// When the running engine last showed that it decodes. `None` without one.
    pub(crate) fn proven_at(&self) -> Option<Instant> {
        let inner = self.inner.lock();
        let stepped = inner.link.as_ref()?.pulse().lock().last_step();
        stepped.max(inner.serving_since)
    }
}
