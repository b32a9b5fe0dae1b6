//! One provider as all its CloudActors share it: keys, models, breakers, seats, rolling latencies. Kept outside the
//! actors, so that what was learned about a provider survives an actor's death. Opens no socket and retries nothing.

mod probe;

use super::{
    actor::CloudMsg,
    breaker::{Admitted, Breaker, BreakerState},
    client::{ProviderClient, Timeouts},
    discovery::Models,
    keys::{KeyView, Keys, NoKey, Turn},
};
use crate::{
    config::{CloudConfig, CloudModel},
    domain::{ErrorKind, GatewayError, ModelName},
    observe,
    supervise::Address,
};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
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

/// When to come back if nothing better is known.
const SOON: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct ModelState {
    breaker: Breaker,
    /// Rolling time to first token; `None` = not measured yet.
    first_token: Option<Duration>,
}

#[derive(Debug)]
struct Inner {
    keys: Keys,
    /// One per key of `keys`, by the same index.
    secrets: Vec<SecretString>,
    models: Models,
    /// One per model of `models`, by the same index.
    states: Vec<ModelState>,
    /// Start of the latest call.
    last_call: Option<Instant>,
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
    /// Found at run time: no price is known, so only who names it gets it.
    pub unpriced: bool,
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
    /// 429: the key rests, for one model only if the provider said so; the breaker is untouched.
    Limited {
        retry_after: Option<Duration>,
        of_model: bool,
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
            ErrorKind::RateLimited => Self::Limited { retry_after: error.retry_after, of_model: error.of_model },
            ErrorKind::Unauthorized | ErrorKind::Forbidden | ErrorKind::InsufficientQuota => Self::KeyRefused,
            ErrorKind::Upstream | ErrorKind::Timeout | ErrorKind::Unavailable => Self::Fault,
            _ => Self::Answered,
        }
    }
}

impl Provider {
    pub fn new(config: Arc<CloudConfig>) -> Result<Arc<Self>, GatewayError> {
        let client =
            ProviderClient::new(config.name.clone(), &config.base_url, timeouts(&config))?.speaking(config.wire);
        let models = Models::new(&config.models);
        let inner = Inner {
            keys: Keys::new(config.keys.len()),
            secrets: config.keys.clone(),
            states: models.indices().map(|_| ModelState::default()).collect(),
            models,
            last_call: None,
        };
        let seats = (0..config.actors).map(|_| Arc::default()).collect();
        let places = Arc::new(Semaphore::new(config.max_concurrency));
        let provider = Self { config, client, seats, places, inner: Mutex::new(inner) };
        provider.show_at_rest();
        Ok(Arc::new(provider))
    }

    /// The gauges of one that nobody has called yet.
    fn show_at_rest(&self) {
        if self.is_usable() {
            observe::provider_configured(self.config.name.as_str());
        }
        self.show_breakers(Instant::now());
    }

    /// As at the start; what may change since are models and keys.
    pub fn config(&self) -> &CloudConfig {
        &self.config
    }

    /// Takes over these models and keys. Calls under way end as they began. What was learned of a key is forgotten only if
    /// the keys are others now.
    pub fn configure(&self, models: &[CloudModel], keys: &[SecretString]) {
        let mut inner = self.inner.lock();
        inner.models.configure(models);
        let count = inner.models.indices().len();
        inner.states.resize_with(count, ModelState::default);
        let text =
            |keys: &[SecretString]| -> Vec<String> { keys.iter().map(|key| key.expose_secret().into()).collect() };
        if text(&inner.secrets) != text(keys) {
            inner.keys.replace(keys.len());
            inner.secrets = keys.to_vec();
        }
        drop(inner);
        self.show_breakers(Instant::now());
    }

    /// It has a key, so it takes traffic.
    pub fn is_usable(&self) -> bool {
        !self.inner.lock().secrets.is_empty()
    }

    pub fn client(&self) -> &ProviderClient {
        &self.client
    }

    /// An index stays its model's for ever.
    pub fn model(&self, model: usize) -> Option<Arc<CloudModel>> {
        self.inner.lock().models.get(model).map(Arc::clone)
    }

    /// Every model that the provider serves now, with its index: those configured, then those found at run time.
    pub fn models(&self) -> Vec<(usize, Arc<CloudModel>)> {
        self.inner.lock().models.listed()
    }

    /// The names of models found at run time.
    pub fn found_models(&self) -> Vec<ModelName> {
        let inner = self.inner.lock();
        let found = |(index, _): &(usize, _)| inner.models.is_found(*index);
        inner.models.listed().into_iter().filter(found).map(|(_, model)| model.name.clone()).collect()
    }

    /// Indices in use so far.
    pub fn model_count(&self) -> usize {
        self.inner.lock().models.indices().len()
    }

    /// Takes over the provider's own list; `taken` are the names that mean something else here.
    pub(super) fn learn_models(&self, listed: &[String], taken: &dyn Fn(&str) -> bool) {
        let mut inner = self.inner.lock();
        inner.models.learn(listed, taken);
        let count = inner.models.indices().len();
        inner.states.resize_with(count, ModelState::default);
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
        let (Some(state), Some(known)) = (inner.states.get(model), inner.models.get(model)) else {
            let expected_first_token = Duration::MAX;
            return CloudView { usable: false, usable_at: None, limited: false, unpriced: true, expected_first_token };
        };
        let blocked = inner.keys.blocked(model, now);
        CloudView {
            usable: blocked.is_none() && state.breaker.would_pass(now),
            usable_at: state.breaker.opens_at().into_iter().chain(blocked.and_then(|blocked| blocked.at)).max(),
            limited: blocked.is_some_and(|blocked| blocked.limited),
            unpriced: inner.models.is_found(model),
            expected_first_token: state.first_token.unwrap_or(known.typical_latency),
        }
    }

    /// Waits for one of the `max_concurrency` places. Dropping the future gives up the turn.
    pub async fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// Lets one call start: counts it on `seat`, passes the breaker, picks the next key that does not rest.
    pub fn grant(self: &Arc<Self>, seat: &Arc<Seat>, model: usize, now: Instant) -> Result<Grant, GatewayError> {
        let mut inner = self.inner.lock();
        let Some(turn) = inner.keys.turn(model, now) else {
            return Err(self.no_key(inner.keys.blocked(model, now), now));
        };
        let Some(state) = inner.states.get_mut(model) else {
            return Err(self.refusal(ErrorKind::ModelNotFound, "no such model", None, now));
        };
        let Some(admitted) = state.breaker.admit(now) else {
            let at = state.breaker.opens_at();
            let message = "it failed repeatedly and is left alone for a moment";
            return Err(self.refusal(ErrorKind::Unavailable, message, at, now));
        };
        let shown = state.breaker.state();
        // Its own copy: the keys may be others when the call ends.
        let key = inner.secrets.get(turn.key).cloned();
        inner.keys.take(turn);
        inner.last_call = Some(now);
        self.show_breaker(&inner.models, model, shown, now);
        seat.running.fetch_add(1, Ordering::Relaxed);
        let (provider, seat) = (Arc::clone(self), Arc::clone(seat));
        Ok(Grant { provider, seat, model, key, turn, admitted, ended: false })
    }

    fn no_key(&self, blocked: Option<NoKey>, now: Instant) -> GatewayError {
        let at = blocked.and_then(|blocked| blocked.at);
        if blocked.is_some_and(|blocked| blocked.limited) {
            self.refusal(ErrorKind::RateLimited, "it limits our rate", at, now)
        } else {
            self.refusal(ErrorKind::Unavailable, "its keys are refused or out of credit", at, now)
        }
    }

    fn refusal(&self, kind: ErrorKind, message: &str, at: Option<Instant>, now: Instant) -> GatewayError {
        let after = at.map_or(SOON, |at| at.saturating_duration_since(now)).max(Duration::from_millis(1));
        GatewayError::target(&self.config.name, kind, message).retry_after(after)
    }

    fn end(&self, grant: &Grant, end: CallEnd, now: Instant) {
        let mut inner = self.inner.lock();
        let exhausted = inner.keys.exhausted();
        end_of_key(&mut inner.keys, grant, end, now);
        if inner.keys.exhausted() != exhausted {
            observe::keys_exhausted(self.config.name.as_str(), inner.keys.exhausted());
        }
        let Some(state) = inner.states.get_mut(grant.model) else { return };
        end_of_breaker(&mut state.breaker, grant.admitted, end, now);
        if let CallEnd::Success { first_token: Some(latest) } = end {
            state.first_token = Some(state.first_token.map_or(latest, |old| (old * 4 + latest) / 5));
        }
        let shown = state.breaker.state();
        self.show_breaker(&inner.models, grant.model, shown, now);
    }

    /// For who watches: a breaker lets the next call through when its time is over, though no call comes.
    /// Of a provider that never had a key nothing is shown.
    pub fn show_breakers(&self, now: Instant) {
        let inner = self.inner.lock();
        if inner.secrets.is_empty() && inner.last_call.is_none() {
            return;
        }
        let listed: Vec<usize> = inner.models.listed().into_iter().map(|(model, _)| model).collect();
        for (model, state) in inner.states.iter().enumerate() {
            // Of a model that is gone nobody is kept out.
            let is_there = listed.contains(&model);
            let shown = if is_there { state.breaker.state() } else { BreakerState::Passing };
            self.show_breaker(&inner.models, model, shown, now);
        }
    }

    /// One key no call is waiting for, to look around with, and since when no call was made.
    pub(super) fn spare_key(&self, now: Instant) -> Option<SecretString> {
        self.probe_key(now).map(|(_, key)| key)
    }

    pub(super) fn last_call(&self) -> Option<Instant> {
        self.inner.lock().last_call
    }

    /// Only configured models have a gauge: a provider's list must not decide how many there are.
    fn show_breaker(&self, models: &Models, model: usize, state: BreakerState, now: Instant) {
        let value = match state {
            BreakerState::Passing => 0,
            state if state.is_shut(now) => 2,
            BreakerState::Probing { .. } | BreakerState::Tripped { .. } => 1,
        };
        if let Some(model) = models.get(model).filter(|_| !models.is_found(model)) {
            observe::breaker(&format!("{}/{}", self.config.name, model.name), value);
        }
    }

    /// (model name, breaker state, open for another … ms) of every model, for `/admin/status`.
    pub fn breakers(&self, now: Instant) -> Vec<(String, &'static str, u64)> {
        let inner = self.inner.lock();
        let line = |(index, model): (usize, Arc<CloudModel>)| {
            let (state, ms) = match inner.states.get(index)?.breaker.state() {
                BreakerState::Passing => ("passing", 0),
                BreakerState::Tripped { until, .. } if until > now => {
                    ("tripped", until.saturating_duration_since(now).as_millis() as u64)
                }
                BreakerState::Probing { .. } | BreakerState::Tripped { .. } => ("probing", 0),
            };
            Some((model.name.to_string(), state, ms))
        };
        inner.models.listed().into_iter().filter_map(line).collect()
    }

    /// The state of every key, by index, for `/admin/status`.
    pub fn keys(&self, now: Instant) -> Vec<KeyView> {
        self.inner.lock().keys.view(now)
    }
}

#[cfg(test)]
impl Provider {
    /// No call is under way.
    pub(crate) fn is_at_rest(&self) -> bool {
        let running = self.seats.iter().any(|seat| seat.running.load(Ordering::Relaxed) > 0);
        self.places.available_permits() == self.config.max_concurrency && !running
    }
}

fn end_of_key(keys: &mut Keys, grant: &Grant, end: CallEnd, now: Instant) {
    match end {
        CallEnd::Limited { retry_after, of_model } => {
            keys.on_limited(grant.turn, of_model.then_some(grant.model), retry_after, now);
        }
        CallEnd::KeyRefused => keys.on_refused(grant.turn, now),
        CallEnd::Success { .. } | CallEnd::Answered => keys.on_accepted(grant.turn),
        CallEnd::Fault | CallEnd::Abandoned => keys.on_unknown(grant.turn),
    }
}

fn end_of_breaker(breaker: &mut Breaker, admitted: Admitted, end: CallEnd, now: Instant) {
    match end {
        CallEnd::Success { .. } | CallEnd::Answered => breaker.on_success(admitted, now),
        CallEnd::Fault => breaker.on_failure(admitted, now, rand::random()),
        // The provider answered, if only to refuse: a probe has its result.
        CallEnd::Limited { .. } | CallEnd::KeyRefused if admitted == Admitted::Probe => {
            breaker.on_success(admitted, now);
        }
        CallEnd::Limited { .. } | CallEnd::KeyRefused => {}
        CallEnd::Abandoned => breaker.on_abandoned(admitted, now),
    }
}

fn timeouts(config: &CloudConfig) -> Timeouts {
    let limits = config.timeouts;
    let whole = Timeouts::default().first_byte_unstreamed.max(limits.first_byte);
    let (connect, first_byte, idle) = (limits.connect, limits.first_byte, limits.idle);
    let first_token = limits.first_token;
    Timeouts { connect, first_byte, first_byte_unstreamed: whole, first_token, idle, ..Timeouts::default() }
}

/// The right to make one call with one key. Dropped unreported, it counts as abandoned.
#[derive(Debug)]
pub struct Grant {
    provider: Arc<Provider>,
    seat: Arc<Seat>,
    model: usize,
    key: Option<SecretString>,
    turn: Turn,
    admitted: Admitted,
    ended: bool,
}

impl Grant {
    pub fn provider(&self) -> &Arc<Provider> {
        &self.provider
    }

    pub fn key(&self) -> Option<&SecretString> {
        self.key.as_ref()
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
