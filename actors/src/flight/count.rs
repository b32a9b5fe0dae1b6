//! How many tokens a request's prompt has, without running it: by the tokenizer of the engine that it would go to now, if it
//! would go to one; else estimated.

use super::{Services, Shared, local};
use crate::{
    cloud,
    domain::ChatRequest,
    gpu::{
        frame::{ChatTraits, JobEvent},
        poison::Verdict,
    },
    jobs::TargetKey,
    ledger::unix_now,
    route::{actor::queued, explain::first_target},
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};

/// An engine answers between two steps. Longer, and an estimate is the better answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// A longer prompt would hold up those who decode.
const MAX_TOKENS: u64 = 65_536;

/// Tokens of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenCount {
    pub tokens: u64,
    /// Counted by the tokenizer of the engine that the request would go to; else estimated from its text.
    pub is_exact: bool,
}

/// Counts.
pub async fn count_tokens(services: &Services, request: ChatRequest) -> TokenCount {
    let estimate = cloud::count::prompt_tokens(&request);
    let exact = if estimate <= MAX_TOKENS { exactly(services, Arc::new(request)).await } else { None };
    TokenCount { tokens: exact.unwrap_or(estimate), is_exact: exact.is_some() }
}

async fn exactly(services: &Services, request: Arc<ChatRequest>) -> Option<u64> {
    let (config, Shared { fleet, router, ledger, .. }) = (&services.config, &**services);
    let budget = ledger.purchasing(request.caller.as_deref(), unix_now()).into();
    let waiting = queued(router).await.unwrap_or(0);
    let TargetKey::Gpu { slot, .. } = first_target(&request, config, fleet, budget, waiting, Instant::now())? else {
        return None;
    };
    if fleet.poison.verdict(&request, Instant::now()) != Verdict::Free {
        return None;
    }
    let slot = fleet.slots.get(slot)?;
    let traits = slot.view().info.map_or_else(ChatTraits::default, |info| info.chat);
    let mut answer = slot.count(&request, local::prompt(&request, traits))?;
    match timeout(PATIENCE, answer.next()).await.ok()?? {
        JobEvent::Finished { prompt_tokens, .. } => Some(u64::from(prompt_tokens)),
        _ => None,
    }
}
