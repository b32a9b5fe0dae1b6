//! One provider as all its CloudActors share it: keys, breakers, seats, rolling latencies. Kept outside the actors, so
//! that what was learned about a provider survives an actor's death.

mod probe;

use super::{
    actor::CloudMsg,
    breaker::{Admitted, Breaker, BreakerState},
    client::{ProviderClient, Timeouts},
};
use crate::{
    config::{CloudConfig, CloudModel},
    domain::{ErrorKind, GatewayError},
    observe,
    supervise::Address,
};
use parking_lot::Mutex;
use secrecy::SecretString;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// Cooldown of a key after a 429 without Retry-After.
const COOLDOWN: Duration = Duration::from_secs(1);
/// Longest cooldown believed.
const COOLDOWN_MAX: Duration = Duration::from_secs(300);
/// How long a key that was refused (401, 402, 403, spent credit) is left alone.
const EXHAUSTED: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct KeyState {
    resting_until: Option<Instant>,
    exhausted: bool,
}

impl KeyState {
    fn rests(&self, now: Instant) -> bool {
        self.resting_until.is_some_and(|until| now < until)
    }
}

#[derive(Debug, Default)]
struct ModelState {
    breaker: Breaker,
    /// Rolling time to first token; `None` = not measured yet.
    first_token: Option<Duration>,
}

#[derive(Debug)]
struct Inner {
    keys: Vec<KeyState>,
    models: Vec<ModelState>,
    next_key: usize,
}

/// One CloudActor's place: where it lives and how many calls it has granted.
#[derive(Debug, Default)]
pub struct Seat {
    pub address: Address<CloudMsg>,
    running: AtomicUsize,
}

#[derive(Debug)]
pub struct Provider {
    config: Arc<CloudConfig>,
    client: ProviderClient,
    seats: Vec<Arc<Seat>>,
    /// Calls at once, over all seats; who finds none free waits in order of arrival, inside its own deadline.
    places: Arc<Semaphore>,
    inner: Mutex<Inner>,
}

/// One model of a provider as planning sees it.
#[derive(Debug, Clone, Copy)]
pub struct CloudView {
    /// A call may start now.
    pub usable: bool,
    /// When that may change, if not.
    pub usable_at: Option<Instant>,
    /// Not usable only because the provider limits our rate.
    pub limited: bool,
    pub expected_first_token: Duration,
}

/// How an attempt ended, as far as breaker and keys care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallEnd {
    Success {
        first_token: Option<Duration>,
    },
    /// The provider failed: counts against its breaker.
    Fault,
    /// 429: the key rests; the breaker is untouched.
    Limited {
        retry_after: Option<Duration>,
    },
    /// 401, 402, 403, spent credit.
    KeyRefused,
    /// The provider is well and refused this request.
    Answered,
    /// Nothing was learned (the client left).
    Abandoned,
}

impl CallEnd {
    /// What a failed attempt tells about its provider.
    pub fn of(error: &GatewayError) -> Self {
        match error.kind {
            ErrorKind::RateLimited => Self::Limited { retry_after: error.retry_after },
            ErrorKind::Unauthorized | ErrorKind::Forbidden | ErrorKind::InsufficientQuota => Self::KeyRefused,
            ErrorKind::Upstream | ErrorKind::Timeout | ErrorKind::Unavailable => Self::Fault,
            _ => Self::Answered,
        }
    }
}

impl Provider {
    pub fn new(config: Arc<CloudConfig>) -> Result<Arc<Self>, GatewayError> {
        let client = ProviderClient::new(config.name.clone(), &config.base_url, timeouts(&config))?;
        let inner = Inner {
            keys: config.keys.iter().map(|_| KeyState::default()).collect(),
            models: config.models.iter().map(|_| ModelState::default()).collect(),
            next_key: 0,
        };
        let seats = (0..config.actors).map(|_| Arc::default()).collect();
        let places = Arc::new(Semaphore::new(config.max_concurrency));
        Ok(Arc::new(Self { config, client, seats, places, inner: Mutex::new(inner) }))
    }

    pub fn config(&self) -> &CloudConfig {
        &self.config
    }

    pub fn client(&self) -> &ProviderClient {
        &self.client
    }

    pub fn model(&self, model: usize) -> Option<&CloudModel> {
        self.config.models.get(model)
    }

    pub fn seats(&self) -> &[Arc<Seat>] {
        &self.seats
    }

    /// The seat with the fewest calls under way among those with a living actor.
    pub fn least_loaded(&self) -> Option<Arc<Seat>> {
        let alive = self.seats.iter().filter(|seat| seat.address.get().is_some());
        alive.min_by_key(|seat| seat.running.load(Ordering::Relaxed)).map(Arc::clone)
    }

    pub fn view(&self, model: usize, now: Instant) -> CloudView {
        let inner = self.inner.lock();
        let Some(state) = inner.models.get(model) else {
            return CloudView { usable: false, usable_at: None, limited: false, expected_first_token: Duration::MAX };
        };
        let key_free = inner.keys.iter().any(|key| !key.rests(now));
        let key_at = inner.keys.iter().filter_map(|key| key.resting_until).min();
        let typical = self.model(model).map_or(Duration::ZERO, |model| model.typical_latency);
        CloudView {
            usable: key_free && state.breaker.would_pass(now),
            usable_at: state.breaker.opens_at().into_iter().chain(if key_free { None } else { key_at }).max(),
            limited: !key_free && inner.keys.iter().any(|key| !key.exhausted),
            expected_first_token: state.first_token.unwrap_or(typical),
        }
    }

    /// Waits for one of the `max_concurrency` places. Dropping the future gives up the turn.
    pub async fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// Lets one call start: counts it on `seat`, passes the breaker, picks the next key that does not rest.
    pub fn grant(self: &Arc<Self>, seat: &Arc<Seat>, model: usize, now: Instant) -> Result<Grant, GatewayError> {
        let refuse = |kind, message: &str, at: Option<Instant>| {
            let after = at.map_or(COOLDOWN, |at| at.saturating_duration_since(now)).max(Duration::from_millis(1));
            Err(GatewayError::target(&self.config.name, kind, message).retry_after(after))
        };
        let mut inner = self.inner.lock();
        let count = inner.keys.len();
        let Some(key) = (0..count)
            .map(|step| (inner.next_key + step) % count)
            .find(|&key| inner.keys.get(key).is_some_and(|key| !key.rests(now)))
        else {
            let at = inner.keys.iter().filter_map(|key| key.resting_until).min();
            let spent = count > 0 && inner.keys.iter().all(|key| key.exhausted);
            return if spent {
                refuse(ErrorKind::Unavailable, "its keys are refused or out of credit", at)
            } else {
                refuse(ErrorKind::RateLimited, "it limits our rate", at)
            };
        };
        let Some(state) = inner.models.get_mut(model) else {
            return refuse(ErrorKind::ModelNotFound, "no such model", None);
        };
        let Some(admitted) = state.breaker.admit(now) else {
            let at = state.breaker.opens_at();
            return refuse(ErrorKind::Unavailable, "it failed repeatedly and is left alone for a moment", at);
        };
        self.show_breaker(model, state.breaker.state());
        inner.next_key = key + 1;
        seat.running.fetch_add(1, Ordering::Relaxed);
        let (provider, seat) = (Arc::clone(self), Arc::clone(seat));
        Ok(Grant { provider, seat, model, key, admitted, since: now, ended: false })
    }

    fn end(&self, grant: &Grant, end: CallEnd, now: Instant) {
        let (model, admitted) = (grant.model, grant.admitted);
        let mut inner = self.inner.lock();
        if let Some(state) = inner.keys.get_mut(grant.key) {
            match end {
                CallEnd::Limited { retry_after } => {
                    state.resting_until = Some(now + retry_after.unwrap_or(COOLDOWN).min(COOLDOWN_MAX));
                }
                CallEnd::KeyRefused => {
                    state.exhausted = true;
                    state.resting_until = Some(now + EXHAUSTED);
                }
                // An older call's success does not end a rest that a newer one has earned.
                CallEnd::Success { .. } if !state.rests(grant.since) => state.exhausted = false,
                CallEnd::Success { .. } | CallEnd::Fault | CallEnd::Answered | CallEnd::Abandoned => {}
            }
        }
        let Some(state) = inner.models.get_mut(model) else { return };
        match end {
            CallEnd::Success { first_token } => {
                state.breaker.on_success(admitted, now);
                if let Some(latest) = first_token {
                    let rolling = state.first_token.map_or(latest, |old| (old * 4 + latest) / 5);
                    state.first_token = Some(rolling);
                }
            }
            CallEnd::Fault => state.breaker.on_failure(admitted, now),
            // The provider answered, if only to refuse: a probe has its result.
            CallEnd::Limited { .. } | CallEnd::KeyRefused | CallEnd::Answered if admitted == Admitted::Probe => {
                state.breaker.on_success(admitted, now);
            }
            CallEnd::Limited { .. } | CallEnd::KeyRefused | CallEnd::Answered => {}
            CallEnd::Abandoned => state.breaker.on_abandoned(admitted, now),
        }
        self.show_breaker(model, state.breaker.state());
    }

    fn show_breaker(&self, model: usize, state: BreakerState) {
        let value = match state {
            BreakerState::Passing => 0,
            BreakerState::Probing { .. } => 1,
            BreakerState::Tripped { .. } => 2,
        };
        if let Some(model) = self.model(model) {
            observe::breaker(&format!("{}/{}", self.config.name, model.name), value);
        }
    }

    /// (model name, breaker state, open for another … ms) of every model, for `/admin/status`.
    pub fn breakers(&self, now: Instant) -> Vec<(String, &'static str, u64)> {
        let inner = self.inner.lock();
        let states = inner.models.iter().map(|model| match model.breaker.state() {
            BreakerState::Passing => ("passing", 0),
            BreakerState::Probing { .. } => ("probing", 0),
            BreakerState::Tripped { until, .. } => ("tripped", until.saturating_duration_since(now).as_millis() as u64),
        });
        self.config.models.iter().zip(states).map(|(model, (state, ms))| (model.name.to_string(), state, ms)).collect()
    }
}

fn timeouts(config: &CloudConfig) -> Timeouts {
    let limits = config.timeouts;
    let whole = Timeouts::default().first_byte_unstreamed.max(limits.first_byte);
    let (connect, first_byte, idle) = (limits.connect, limits.first_byte, limits.idle);
    Timeouts { connect, first_byte, first_byte_unstreamed: whole, idle, ..Timeouts::default() }
}

/// The right to make one call with one key. Dropped unreported, it counts as abandoned.
#[derive(Debug)]
pub struct Grant {
    provider: Arc<Provider>,
    seat: Arc<Seat>,
    model: usize,
    key: usize,
    admitted: Admitted,
    since: Instant,
    ended: bool,
}

impl Grant {
    pub fn provider(&self) -> &Arc<Provider> {
        &self.provider
    }

    pub fn key(&self) -> Option<&SecretString> {
        self.provider.config.keys.get(self.key)
    }

    pub fn report(mut self, end: CallEnd, now: Instant) {
        self.ended = true;
        self.provider.end(&self, end, now);
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.seat.running.fetch_sub(1, Ordering::Relaxed);
        if !self.ended {
            self.provider.end(self, CallEnd::Abandoned, Instant::now());
        }
    }
}
