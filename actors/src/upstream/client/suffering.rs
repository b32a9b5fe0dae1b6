//! Chaos: what befalls one call of a provider, so that it takes the way that the real fault would take. What is refused
//! before the call has cost nothing; a cut or stalled answer is one that we left, and is accounted for like one.

use super::{Patience, ProviderClient};
use crate::{
    chaos::faults::{Befalls, Mishap},
    domain::GatewayError,
    upstream::fault::Refusal,
};
use http::StatusCode;
use std::future::pending;
use tokio::time::{Instant, sleep};

/// Whoever reads of such an error should not look for it at the provider.
const BY_CHAOS: &str = "by order of chaos";

impl ProviderClient {
    /// The same provider, for one call that this befalls.
    #[must_use]
    pub fn suffering(self, befalls: Option<Befalls>) -> Self {
        Self { befalls, ..self }
    }

    /// What comes before the call is made.
    pub(super) async fn suffer_before(&self, patience: &Patience, limit: Instant) -> Result<(), GatewayError> {
        let Some(befalls) = self.befalls else { return Ok(()) };
        if !befalls.delay.is_zero() {
            let late = patience.within(limit, "did not answer in time", sleep(befalls.delay)).await;
            late.map_err(GatewayError::unworked)?;
        }
        let Some(Mishap::Refused { status, retry_after }) = befalls.mishap else { return Ok(()) };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let refusal = Refusal { target: self.target.as_str(), status, body: b"", retry_after };
        let mut error = refusal.into_error("", b"");
        error.message = format!("{} {BY_CHAOS}", error.message);
        Err(error)
    }

    /// What comes between a provider's answer in one piece and us.
    pub(super) async fn suffer_whole(&self, patience: &Patience) -> Result<(), GatewayError> {
        match self.befalls.and_then(|befalls| befalls.mishap) {
            Some(Mishap::Cut { .. }) => Err(patience.failed(&cut())),
            Some(Mishap::Stall { .. }) => {
                let until = Instant::now() + self.timeouts.idle;
                patience.within(until, &stalled(), pending()).await
            }
            Some(Mishap::Refused { .. }) | None => Ok(()),
        }
    }
}

pub(super) fn cut() -> String {
    format!("cut its stream {BY_CHAOS}")
}

pub(super) fn stalled() -> String {
    format!("stopped in the middle of its stream {BY_CHAOS}")
}
