//! Keeps a provider ready between requests: a connection that is open before the first request needs it, and the list of
//! models for those who want it. One task per provider, owned by its first CloudActor. It never touches a breaker: a list
//! that comes says nothing about completions.

use super::provider::Provider;
use crate::config::LiveConfig;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Without a call for so long, the connection is opened anew: many servers close idle ones after a minute.
const IDLE: Duration = Duration::from_secs(50);
/// How often the list of models is read, and again after a failure.
const REFRESH: Duration = Duration::from_secs(600);
const REFRESH_AGAIN: Duration = Duration::from_secs(30);

/// What the keeper has done so far.
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    looked: Option<Instant>,
    /// When the list is due; `None` = at once.
    list_due: Option<Instant>,
}

/// What is due at `now`: a look for its connection or for its list.
fn is_due(warm_up: bool, discover: bool, last_call: Option<Instant>, done: Done, now: Instant) -> bool {
    let lively = last_call.max(done.looked).is_some_and(|at| now < at + IDLE);
    let list = discover && done.list_due.is_none_or(|due| now >= due);
    list || (warm_up && !lively)
}

/// Runs until its owner drops it. Names of `live` mean something else here.
pub(super) async fn keep(provider: Arc<Provider>, live: LiveConfig) {
    let (warm_up, discover) = (provider.config().warm_up, provider.config().discover_models);
    if !warm_up && !discover {
        return;
    }
    let mut done = Done::default();
    loop {
        let now = Instant::now();
        if is_due(warm_up, discover, provider.last_call(), done, now) {
            done.looked = Some(now);
            let listed = look(&provider, discover.then_some(&live)).await;
            done.list_due = Some(now + if listed { REFRESH } else { REFRESH_AGAIN });
        }
        tokio::time::sleep(IDLE / 5).await;
    }
}

/// One `GET /v1/models`. A failure keeps the last list; whether it succeeded.
async fn look(provider: &Provider, learn: Option<&LiveConfig>) -> bool {
    let Some(key) = provider.spare_key(Instant::now()) else { return false };
    let listed = provider.client().models(&key).await;
    match (listed, learn) {
        (Ok(ids), Some(live)) => {
            let taken = live.load().names();
            provider.learn_models(&ids, &|name| taken.contains(name));
        }
        (Ok(_), None) => {}
        (Err(error), _) => {
            let target = provider.config().name.as_str();
            tracing::debug!(target = target, cause = error.message, "the provider's list of models did not come");
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_opened_at_the_start_and_after_a_quiet_time_only() {
        let start = Instant::now();
        let due = |last_call, looked, now| is_due(true, false, last_call, Done { looked, list_due: None }, now);
        assert!(due(None, None, start));
        assert!(!due(None, Some(start), start + SECOND * 49));
        assert!(due(None, Some(start), start + SECOND * 50));
        assert!(!due(Some(start + SECOND * 30), Some(start), start + SECOND * 50), "a call kept it open");
        assert!(!due(Some(start), None, start + SECOND), "an actor that is restarted under load has nothing to open");
    }

    #[tokio::test(start_paused = true)]
    async fn the_list_is_renewed_whatever_the_traffic_is() {
        let start = Instant::now();
        let done = Done { looked: Some(start), list_due: Some(start + REFRESH) };
        let busy = |now| is_due(false, true, Some(now), done, now);
        assert!(!busy(start + REFRESH - SECOND) && busy(start + REFRESH));
        assert!(!is_due(false, true, None, done, start + SECOND * 60), "warm-up is off");
    }
}
