//! Asking providers that have had no success lately whether their front door opens. A probe never closes a breaker: a
//! list of models says nothing of completions. A refused key is a refused key, however it was found out.

use super::{HealthMsg, ProbeResult, Scores};
use crate::{
    cloud::{CallEnd, Provider},
    observe, task,
};
use ractor::ActorRef;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Share of the interval after which a provider that did not answer is asked again: it should not stay away for long.
const AGAIN: f64 = 1.0 / 3.0;

/// The wait before the next probe: `interval`, up to a quarter more or less, so that providers are not asked in step.
fn jittered(interval: Duration, random: f64) -> Duration {
    interval.mul_f64(0.75 + 0.5 * random.clamp(0.0, 1.0))
}

/// Probes one provider for ever; ends with the actor, whose task it is.
pub(super) fn keep_probing(
    at: usize,
    provider: Arc<Provider>,
    scores: Scores,
    interval: Duration,
    to: ActorRef<HealthMsg>,
) -> task::Owned {
    task::owned(async move {
        let mut wait = interval;
        loop {
            tokio::time::sleep(jittered(wait, rand::random())).await;
            provider.show_breakers(Instant::now());
            // Real traffic that succeeds is the better probe.
            let result = if scores.succeeded_within(at, interval, Instant::now()) {
                None
            } else {
                match probe(&provider).await {
                    Some(result) => Some(result),
                    None => continue,
                }
            };
            let failed = result.as_ref().is_some_and(|result| result.answer.is_err());
            wait = if failed { interval.mul_f64(AGAIN) } else { interval };
            if to.cast(HealthMsg::Probed { provider: at, result }).is_err() {
                return;
            }
        }
    })
}

/// `None`: no key may be used now, so nothing was asked.
async fn probe(provider: &Provider) -> Option<ProbeResult> {
    let (turn, secret) = provider.probe_key(Instant::now())?;
    let answer = provider.client().models(&secret).await;
    let at = Instant::now();
    if let Err(error) = &answer
        && CallEnd::of(error) == CallEnd::KeyRefused
    {
        provider.key_was_refused(turn, at);
    }
    observe::provider_probe(provider.config().name.as_str(), answer.as_ref().err().map(|error| error.kind.label()));
    Some(ProbeResult { at, answer: answer.map(|models| models.len()).map_err(|error| error.message) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_keep_their_mean_distance() {
        let interval = Duration::from_secs(30);
        assert_eq!(jittered(interval, 0.5), interval);
        assert_eq!(jittered(interval, 0.0), Duration::from_millis(22_500));
        assert_eq!(jittered(interval, 1.0), Duration::from_millis(37_500));
    }
}
