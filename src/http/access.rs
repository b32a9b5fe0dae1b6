//! Who may ask: every route but a few passes through here before a byte of its body is read. Recognises the key, holds the
//! request to the key's limits from its head to the last byte of its answer, and tells the client how it stands. What a key
//! may use is checked where its request is launched, because only then it is known.

mod headers;

use super::{body::discard, catalogue, error, routes::EdgeState};
use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, Method, header};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use spillway_actors::{
    cloud::count,
    config::Config,
    domain::{Caller, ChatRequest, ErrorKind, GatewayError, Input, ModelChoice, Priority},
    flight::Services,
    keys::{Hold, Key, Keys, Pass, Recognised, Refusal, SECRET_PREFIX, Secret, unix_now},
    observe,
    route::Fleet,
};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::Instant;

/// What anybody may know.
pub(super) const OPEN: [&str; 3] = ["/health", "/ready", "/openapi.json"];

/// Paths whose requests go to targets, without `/v1`.
const TO_TARGETS: [&str; 5] = ["/chat/completions", "/completions", "/embeddings", "/responses", "/messages"];

/// What the key of one request allows. Every handler finds it in its request; without a key, where none is needed, it allows
/// all.
#[derive(Debug, Clone, Default)]
pub(super) struct Access {
    key: Option<Arc<Key>>,
    pass: Option<Arc<Pass>>,
}

/// The layer around every route.
pub(super) async fn guarded(State(state): State<EdgeState>, mut request: Request, next: Next) -> Response {
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let keys = &state.services.keys;
    let asked = (request.method(), request.uri().path(), request.headers());
    let access = match let_in(&state.services, asked).await {
        Ok(access) => access,
        Err(refused) => {
            // Who asks first is told before sending anything.
            if !request.headers().contains_key(header::EXPECT) {
                discard(request.into_body()).await;
            }
            return refused.response(keys);
        }
    };
    request.extensions_mut().insert(access.clone());
    let mut response = next.run(request).await;
    let Access { key: Some(key), pass } = access else { return response };
    headers::tell(response.headers_mut(), &keys.standing(&key, Instant::now()));
    match pass {
        Some(pass) => response.map(|body| Body::new(Guarded { body, _pass: pass })),
        None => response,
    }
}

/// A request that does not get in.
struct Refused {
    error: GatewayError,
    /// Whose limits are reached.
    key: Option<Arc<Key>>,
}

impl Refused {
    fn response(self, keys: &Keys) -> Response {
        let mut response = error::respond(&self.error);
        if let Some(key) = self.key {
            headers::tell(response.headers_mut(), &keys.standing(&key, Instant::now()));
        }
        response
    }
}

/// Whether a request to there is for a target: it needs a place among those in work.
fn needs_place(method: &Method, path: &str) -> bool {
    let path = path.strip_prefix("/v1").unwrap_or(path);
    method == Method::POST && TO_TARGETS.contains(&path)
}

/// There is no place for it; whose limits it counts among is not even asked.
fn turned_away(services: &Services, key: Option<&Arc<Key>>) -> Result<(), GatewayError> {
    let priority = key.map_or(Priority::Normal, |key| key.caller.priority);
    services.jobs.has_place(priority, Instant::now()).inspect_err(|_| {
        if let Some(key) = key {
            observe::key_request(&key.caller.group, "no_place");
        }
    })
}

type Head<'a> = (&'a Method, &'a str, &'a HeaderMap);

async fn let_in(services: &Services, (method, path, headers): Head<'_>) -> Result<Access, Refused> {
    let keys = &services.keys;
    let stranger = |error| {
        observe::key_request("none", "refused");
        Refused { error, key: None }
    };
    let key = match recognised(keys, headers) {
        Ok(key) => Some(key),
        // Where keys are not needed any string is one, but one of ours that ended must not give more than it did.
        Err(unknown) if !services.config.server.require_keys && !unknown.is_ours => None,
        Err(Unrecognised { error, .. }) => return Err(stranger(error)),
    };
    if needs_place(method, path)
        && let Err(error) = turned_away(services, key.as_ref())
    {
        return Err(Refused { error, key });
    }
    let Some(key) = key else { return Ok(Access::default()) };
    // Only what makes work is limited; a list of models is not.
    let pass = if method == Method::POST {
        match keys.enter(&key, Instant::now()).await {
            Ok(pass) => Some(Arc::new(pass)),
            Err(refusal) => {
                observe::key_request(&key.caller.group, refusal.label());
                return Err(Refused { error: limited(refusal, 0), key: Some(key) });
            }
        }
    } else {
        None
    };
    observe::key_request(&key.caller.group, "let_in");
    Ok(Access { key: Some(key), pass })
}

/// No key of those that let in.
struct Unrecognised {
    error: GatewayError,
    /// It has ended, or at least looks like one of ours.
    is_ours: bool,
}

/// The key behind the request's secret. A secret never gets into an error.
fn recognised(keys: &Keys, headers: &HeaderMap) -> Result<Arc<Key>, Unrecognised> {
    let no = |is_ours, message: &str| Unrecognised {
        error: GatewayError::gateway(ErrorKind::Unauthorized, message),
        is_ours,
    };
    let Some(presented) = presented(headers) else {
        return Err(no(
            false,
            "You did not provide an API key. Send it as 'Authorization: Bearer <key>' or 'x-api-key: <key>'; \
                       'spillway keys create' makes one.",
        ));
    };
    match Secret::presented(presented).map_or(Recognised::Unknown, |secret| keys.recognise(&secret, unix_now())) {
        Recognised::Known(key) => Ok(key),
        Recognised::Unknown => Err(no(
            presented.starts_with(SECRET_PREFIX),
            "Incorrect API key provided. 'spillway keys ls' lists those there are.",
        )),
        Recognised::Expired => Err(no(true, "This API key has expired.")),
        Recognised::Revoked => Err(no(true, "This API key was revoked.")),
    }
}

/// As OpenAI's clients send it, else as Anthropic's do.
fn presented(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, secret) = value.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
    });
    let api_key = || headers.get("x-api-key").and_then(|value| value.to_str().ok()).map(str::trim);
    bearer.or_else(api_key).filter(|secret| !secret.is_empty())
}

/// What a client whose key's limits are reached is told; `wanted` tokens were too many.
fn limited(refusal: Refusal, wanted: u64) -> GatewayError {
    let (message, wait) = match refusal {
        Refusal::Requests { wait } => ("Rate limit reached for this API key: requests per minute.".to_owned(), wait),
        Refusal::Tokens { wait } => {
            let message = format!(
                "Rate limit reached for this API key: tokens per minute. This request may use {wanted} (its prompt, \
                 estimated, and max_tokens)."
            );
            (message, wait)
        }
        Refusal::Concurrency { limit } => {
            (format!("This API key may run {limit} requests at once, and does."), Duration::from_secs(1))
        }
        Refusal::TokensNever { limit } => {
            let message = format!(
                "This request may use {wanted} tokens (its prompt, estimated, and max_tokens), more than the {limit} tokens \
                 per minute of this API key. Ask for fewer max_tokens or send a shorter prompt."
            );
            return GatewayError::invalid("max_tokens", message);
        }
    };
    GatewayError::gateway(ErrorKind::RateLimited, message).retry_after(wait)
}

impl Access {
    /// That of a request which went through [`guarded`].
    pub(super) fn of(request: &Request) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_default()
    }

    pub(super) fn caller(&self) -> Option<&Arc<Caller>> {
        self.key.as_ref().map(|key| &key.caller)
    }

    /// Makes a request that of the key. Everything after reads its policy from the request.
    pub(super) fn sign(&self, request: &mut ChatRequest) {
        let Some(caller) = self.caller() else { return };
        request.local_only |= caller.local_only;
        request.caller = Some(Arc::clone(caller));
    }

    /// Whether the key may use the model that a request names.
    ///
    /// # Errors
    /// 403: it may not.
    pub(super) fn admit_model(&self, model: &ModelChoice, config: &Config, fleet: &Fleet) -> Result<(), GatewayError> {
        let Some(caller) = self.caller() else { return Ok(()) };
        let name = match model {
            ModelChoice::Auto => return Ok(()),
            ModelChoice::Local => "local",
            ModelChoice::Named(name) => name.as_str(),
        };
        if catalogue::may_use(caller, config, &fleet.found_models(), name) {
            return Ok(());
        }
        observe::key_request(&caller.group, "forbidden");
        let why = if caller.local_only {
            "it is for models on this machine only"
        } else {
            "GET /v1/models lists those it may"
        };
        let mut error =
            GatewayError::gateway(ErrorKind::Forbidden, format!("This API key may not use the model '{name}': {why}."));
        error.param = Some("model".to_owned());
        Err(error)
    }

    /// Sets aside what a request may use: its prompt, estimated, and its output, at most.
    ///
    /// # Errors
    /// 429: this minute has not that many tokens left. 400: no minute ever has.
    pub(super) async fn hold(&self, request: &ChatRequest, config: &Config) -> Result<Option<Hold>, GatewayError> {
        let limit = self.key.as_ref().and_then(|key| Keys::limits(key).tokens_per_minute);
        self.hold_tokens(limit.map_or(0, |limit| most_tokens(request, config, limit))).await
    }

    /// Sets tokens aside. Whoever holds them settles what was used; dropped, all are given back.
    ///
    /// # Errors
    /// As [`Access::hold`].
    pub(super) async fn hold_tokens(&self, tokens: u64) -> Result<Option<Hold>, GatewayError> {
        let (Some(key), Some(pass)) = (&self.key, &self.pass) else { return Ok(None) };
        match pass.hold(tokens, Instant::now()).await {
            Ok(hold) => Ok(Some(hold)),
            Err(refusal) => {
                observe::key_request(&key.caller.group, refusal.label());
                // Nothing was done for it.
                self.gives_back();
                Err(limited(refusal, tokens))
            }
        }
    }

    /// The request is on its way to a target: it counts among its key's requests.
    pub(super) fn counts(&self) {
        if let Some(pass) = &self.pass {
            pass.counts(Instant::now());
        }
    }

    /// The gateway had no room for the request: it does not count.
    pub(super) fn gives_back(&self) {
        if let Some(pass) = &self.pass {
            pass.gives_back(Instant::now());
        }
    }
}

/// Tokens that a request may use. One without max_tokens may use its target's default, but waits for no more than a whole
/// minute's worth: what it uses beyond that is owed.
fn most_tokens(request: &ChatRequest, config: &Config, limit: u32) -> u64 {
    let prompt = count::prompt_tokens(request);
    if request.needs.embeddings {
        return prompt.min(limit.into());
    }
    let prompts = if let Input::Several(passages) = &request.input { passages.len() as u64 } else { 1 };
    let choices = prompts * u64::from(request.choices.best_of.max(request.choices.n));
    if let Some(asked) = request.max_tokens {
        return prompt.saturating_add(choices.saturating_mul(asked.into()));
    }
    let here = config.locals.iter().map(|local| local.defaults.max_tokens).max().unwrap_or(0);
    let may_leave = !request.is_local_only() && request.model != ModelChoice::Local;
    let away = config.clouds.iter().any(|cloud| cloud.is_usable()) && may_leave;
    let output = if away { here.max(config.ledger.default_output_tokens) } else { here };
    let most = prompt.saturating_add(choices.saturating_mul(output.into()));
    most.min(prompt.max(limit.into()))
}

/// An answer that holds its request's place until it has been sent, or nobody wants it any more.
struct Guarded {
    body: Body,
    _pass: Arc<Pass>,
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
