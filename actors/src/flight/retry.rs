//! What a flight does after a failed attempt: elsewhere, the same provider with another key, the same target once more,
//! or no further; and what the client reads when nothing is left. The decisions are pure functions.

use super::Flight;
use crate::{
    cloud::{CallEnd, retry::backoff},
    domain::{ErrorKind, GatewayError, ModelChoice, Origin},
    gpu::poison::Verdict,
    jobs::TargetKey,
    observe,
    route::{Decision, policy::DEATHS},
};
use std::time::Duration;
use tokio::time::Instant;

/// Attempts of one request that failed by their target's fault; the take-over is not counted.
const ATTEMPTS: usize = 3;
/// Engine deaths that one request may live through: they are rarely its own doing.
const ENGINE_DEATHS: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// This target is used up; another one, if there is one.
    Elsewhere,
    /// One key was refused or limited, and the provider has others: not the same target.
    AnotherKey,
    /// Nothing else can serve it: the one repetition at the same target.
    Again { after: Duration },
    /// The client reads the first cause.
    Over,
}

impl Next {
    /// Somebody else is asked at once. Who waits for the only target on purpose does not fail over.
    pub(super) const fn is_a_failover(self) -> bool {
        matches!(self, Self::Elsewhere | Self::AnotherKey)
    }
}

/// One failed attempt, nothing of which was sent.
#[derive(Debug, Clone, Copy)]
struct Failed<'a> {
    error: &'a GatewayError,
    /// Including this one.
    target_faults: usize,
    engine_deaths: usize,
    engine_died: bool,
    another_key: bool,
    only_target: bool,
    retried: bool,
    /// Of the deadline, which all attempts share.
    left: Duration,
}

/// Each target once, with two exceptions: a provider whose one key was refused has others, and the only target may be
/// asked again after one fault of its own.
fn next(failed: Failed<'_>, jitter: f64) -> Next {
    if failed.target_faults >= ATTEMPTS || failed.engine_deaths >= ENGINE_DEATHS {
        return Next::Over;
    }
    if is_about_key(failed.error) && failed.another_key {
        return Next::AnotherKey;
    }
    let repeatable = !failed.engine_died && failed.error.kind == ErrorKind::Upstream;
    if failed.only_target && !failed.retried && repeatable {
        return match backoff(0, failed.error.retry_after, failed.left, jitter) {
            Some(after) => Next::Again { after },
            None => Next::Over,
        };
    }
    Next::Elsewhere
}

fn is_about_key(error: &GatewayError) -> bool {
    matches!(CallEnd::of(error), CallEnd::Limited { .. } | CallEnd::KeyRefused)
}

/// A provider that limits our rate, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Limited {
    provider: String,
    until: Option<Instant>,
}

/// What the client reads: the first cause if there was an attempt, else why there is none. A rate limit names who limits
/// and says when the earliest is over.
fn last_word(first: Option<GatewayError>, no_target: GatewayError, limited: &[Limited], now: Instant) -> GatewayError {
    let had_attempt = first.is_some();
    let mut error = first.unwrap_or(no_target);
    if error.kind != ErrorKind::RateLimited || limited.is_empty() {
        return error;
    }
    let earliest = limited.iter().filter_map(|limited| limited.until).min();
    let earliest = earliest.map(|until| until.saturating_duration_since(now)).filter(|after| !after.is_zero());
    error.retry_after = error.retry_after.into_iter().chain(earliest).min();
    if !had_attempt && error.origin == Origin::Gateway {
        let names: Vec<&str> = limited.iter().map(|limited| limited.provider.as_str()).collect();
        error.message = format!("our rate is limited by {}; retry later", names.join(", "));
        error.retry_after = earliest.or(error.retry_after);
    }
    error
}

impl Flight {
    pub(super) fn next_step(&self, error: &GatewayError, engine_died: bool, decision: &Decision) -> Next {
        let now = Instant::now();
        let another_key = match decision.candidate.key {
            TargetKey::Cloud { provider, model } => {
                self.services.fleet.providers.get(provider).is_some_and(|provider| provider.view(model, now).usable)
            }
            TargetKey::Gpu { .. } => false,
        };
        let failed = Failed {
            error,
            target_faults: self.target_faults,
            engine_deaths: self.engine_deaths,
            engine_died,
            another_key,
            only_target: self.is_only_target(decision),
            retried: self.retried_only_target,
            left: self.job.deadline.saturating_duration_since(now),
        };
        next(failed, rand::random())
    }

    /// Prepares the next attempt, or ends with the first cause.
    pub(super) async fn use_up(&mut self, next: Next, error: GatewayError, key: TargetKey) -> Result<(), GatewayError> {
        match next {
            Next::AnotherKey => {}
            Next::Elsewhere => {
                self.job.tried(key);
                self.note_faulty(key, &error);
                if error.kind == ErrorKind::ContextLengthExceeded {
                    self.rule_out_up_to(self.window(key));
                }
            }
            Next::Again { after } => {
                self.retried_only_target = true;
                tokio::time::sleep(after).await;
            }
            Next::Over => return Err(self.last_word(error)),
        }
        Ok(())
    }

    /// A cloud target that another attempt may find well again.
    pub(super) fn note_faulty(&mut self, key: TargetKey, error: &GatewayError) {
        let passes = matches!(error.kind, ErrorKind::Upstream | ErrorKind::Unavailable | ErrorKind::Timeout);
        if passes && matches!(key, TargetKey::Cloud { .. }) {
            self.faulty.push(key);
        }
    }

    /// Engine after engine dies: meanwhile a provider that had failed may be well again, and is asked once more.
    pub(super) fn ask_clouds_again(&mut self, engine_died: bool, deaths: usize) {
        if engine_died && deaths >= DEATHS {
            self.job.once_more(&std::mem::take(&mut self.faulty));
        }
    }

    fn window(&self, key: TargetKey) -> u32 {
        let fleet = &self.services.fleet;
        match key {
            TargetKey::Cloud { provider, model } => {
                let model = fleet.providers.get(provider).and_then(|provider| provider.model(model));
                model.map_or(0, |model| model.context_tokens)
            }
            TargetKey::Gpu { slot, .. } => fleet.slots.get(slot).map_or(0, |slot| slot.config().context_tokens),
        }
    }

    /// What was too long for one target is too long for every other that holds no more.
    fn rule_out_up_to(&self, window: u32) {
        let fleet = &self.services.fleet;
        let gpus =
            fleet.slots.iter().enumerate().map(|(at, slot)| TargetKey::Gpu { slot: at, epoch: slot.view().epoch });
        let clouds = fleet.providers.iter().enumerate().flat_map(|(provider, known)| {
            known.models().into_iter().map(move |(model, _)| TargetKey::Cloud { provider, model })
        });
        gpus.chain(clouds).filter(|key| self.window(*key) <= window).for_each(|key| self.job.tried(key));
    }

    /// After a failed cloud attempt every further one is extra: it is taken out of the budget of all, or not made.
    pub(super) fn pays_for_extra(&self, decision: &Decision) -> bool {
        let to_cloud = matches!(decision.candidate.key, TargetKey::Cloud { .. });
        let is_extra = self.cloud_failed && self.first_failure.is_some() && to_cloud;
        if !is_extra || self.services.retries.withdraw(Instant::now()) {
            return true;
        }
        observe::retry_refused();
        false
    }

    pub(super) fn last_word(&mut self, no_target: GatewayError) -> GatewayError {
        let now = Instant::now();
        if self.is_barred(now) {
            // That its engine went away would only invite the client to end the next one.
            return no_target;
        }
        last_word(self.first_failure.take(), no_target, &self.limited(now), now)
    }

    /// The last attempt's engine died of this very request, and no other target took it.
    fn is_barred(&self, now: Instant) -> bool {
        let verdict = || self.services.fleet.poison.verdict(self.request(), now);
        self.mourning.is_some() && matches!(verdict(), Verdict::Barred { .. })
    }

    /// The providers that would serve this request and limit our rate.
    fn limited(&self, now: Instant) -> Vec<Limited> {
        if self.request().is_local_only() {
            return Vec::new();
        }
        let limited_at = |provider: &crate::cloud::Provider| {
            let meant = provider.models().into_iter().filter(|(_, model)| match &self.request().model {
                ModelChoice::Auto => true,
                ModelChoice::Local => false,
                ModelChoice::Named(name) => model.name == *name,
            });
            let views = meant.map(|(index, _)| provider.view(index, now)).filter(|view| view.limited);
            views.map(|view| view.usable_at).min()
        };
        let providers = self.services.fleet.providers.iter().filter(|provider| provider.is_usable());
        providers
            .filter_map(|provider| {
                Some(Limited { provider: provider.config().name.to_string(), until: limited_at(provider)? })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn error(kind: ErrorKind) -> GatewayError {
        GatewayError::target("cloud", kind, "it failed")
    }

    fn failed(error: &GatewayError) -> Failed<'_> {
        Failed {
            error,
            target_faults: 1,
            engine_deaths: 0,
            engine_died: false,
            another_key: false,
            only_target: false,
            retried: false,
            left: SECOND * 60,
        }
    }

    #[test]
    fn a_limited_or_refused_key_gives_way_to_another_key_of_the_same_provider() {
        for kind in [ErrorKind::RateLimited, ErrorKind::Unauthorized, ErrorKind::InsufficientQuota] {
            let error = error(kind);
            assert_eq!(next(Failed { another_key: true, ..failed(&error) }, 0.5), Next::AnotherKey);
            assert_eq!(next(failed(&error), 0.5), Next::Elsewhere);
            assert_eq!(next(Failed { only_target: true, ..failed(&error) }, 0.5), Next::Elsewhere);
        }
        let fault = error(ErrorKind::Upstream);
        assert_eq!(
            next(Failed { another_key: true, ..failed(&fault) }, 0.5),
            Next::Elsewhere,
            "a key does not mend it"
        );
    }

    #[test]
    fn f03_only_the_only_target_is_asked_again_once_and_no_sooner_than_it_asks() {
        let fault = error(ErrorKind::Upstream);
        let only = Failed { only_target: true, ..failed(&fault) };
        assert_eq!(next(failed(&fault), 1.0), Next::Elsewhere, "another target is quicker");
        assert_eq!(next(only, 1.0), Next::Again { after: Duration::from_millis(50) });
        assert!(next(failed(&fault), 1.0).is_a_failover() && !next(only, 1.0).is_a_failover());
        assert_eq!(next(Failed { retried: true, ..only }, 1.0), Next::Elsewhere);
        let busy = fault.clone().retry_after(SECOND * 2);
        assert_eq!(next(Failed { error: &busy, ..only }, 0.0), Next::Again { after: SECOND * 2 });
        assert_eq!(next(Failed { error: &busy, left: SECOND, ..only }, 0.0), Next::Over, "the deadline is shared");
    }

    #[test]
    fn the_third_fault_and_the_tenth_engine_death_are_the_last() {
        let fault = error(ErrorKind::Upstream);
        assert_eq!(next(Failed { target_faults: 2, ..failed(&fault) }, 0.0), Next::Elsewhere);
        assert_eq!(next(Failed { target_faults: 3, ..failed(&fault) }, 0.0), Next::Over);
        let death = Failed { engine_died: true, only_target: true, target_faults: 0, ..failed(&fault) };
        assert_eq!(next(Failed { engine_deaths: 9, ..death }, 0.0), Next::Elsewhere);
        assert_eq!(next(Failed { engine_deaths: 10, ..death }, 0.0), Next::Over);
    }

    #[tokio::test(start_paused = true)]
    async fn f02_a_rate_limit_names_who_limits_and_when_the_earliest_is_over() {
        let now = Instant::now();
        let limited =
            [("a", 9), ("b", 4)].map(|(name, s)| Limited { provider: name.into(), until: Some(now + SECOND * s) });
        let first = error(ErrorKind::RateLimited).retry_after(SECOND * 9);
        let nothing = GatewayError::gateway(ErrorKind::Unavailable, "every target was tried").retry_after(SECOND);
        let read = last_word(Some(first), nothing.clone(), &limited, now);
        assert_eq!((read.kind, read.retry_after), (ErrorKind::RateLimited, Some(SECOND * 4)));
        assert_eq!(read.origin, Origin::Target("cloud".into()));

        let none_now = GatewayError::gateway(ErrorKind::RateLimited, "limited").retry_after(SECOND);
        let read = last_word(None, none_now, &limited, now);
        assert_eq!(read.message, "our rate is limited by a, b; retry later");
        assert_eq!(read.retry_after, Some(SECOND * 4));

        let fault = error(ErrorKind::Upstream);
        assert_eq!(last_word(Some(fault.clone()), nothing, &limited, now), fault, "the first cause");
    }
}
