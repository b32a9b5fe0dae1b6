//! The API's routes, with and without `/v1`. A handler reads, parses, admits, launches and hands over.

use super::{
    access::{self, Access},
    answer::{self, Wish},
    anthropic,
    arrival::{self, Arrival},
    body::{self, Bounds, Budget},
    catalogue,
    dialect::{Arrived, Asked, Endpoint},
    embeddings,
    error::{self, ErrorReply},
    frames, openapi,
    origin::{self, Page},
    parse, ready, route,
};
use axum::{
    Json, Router,
    extract::{
        FromRef, Path, Query, Request, State,
        rejection::{PathRejection, QueryRejection},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;
use spillway_actors::{
    config::{Config, LiveConfig},
    domain::{ChatRequest, ErrorKind, GatewayError, RequestId},
    flight::{self, FlightEvent, Services, Shared, Traces},
    observe,
};
use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::Instant,
};

/// Parsing a larger body takes milliseconds: it must not hold up a thread that serves others.
const LARGE_BODY: usize = 64 << 10;

/// What every handler needs.
#[derive(Clone)]
pub struct EdgeState {
    /// With the configuration that was in force when the request came.
    pub services: Services,
    live: LiveConfig,
    bodies: Budget,
    /// Unix seconds of the start.
    started: u64,
}

impl EdgeState {
    pub fn new(services: Services) -> Self {
        let server = &services.config.server;
        let bodies = Budget::new(server.edge.max_bodies_bytes.max(server.max_body_bytes));
        let live = LiveConfig::new(Arc::clone(&services.config));
        Self { services, live, bodies, started: unix_seconds() }
    }

    /// Takes each request's configuration from there.
    #[must_use]
    pub fn following(self, live: LiveConfig) -> Self {
        Self { live, ..self }
    }
}

/// What the router holds; each request gets its own [`EdgeState`] from it.
#[derive(Clone)]
pub(super) struct Edge(EdgeState);

impl FromRef<Edge> for EdgeState {
    fn from_ref(edge: &Edge) -> Self {
        let mut state = edge.0.clone();
        state.services.config = state.live.load();
        state
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What is known before anything of a request is read.
#[derive(Clone)]
struct Front {
    live: LiveConfig,
    traces: Traces,
}

/// Every path and what it does. `/openapi.json` describes exactly these.
pub(super) fn routes() -> Vec<(String, MethodRouter<Edge>)> {
    let own = [("/health", get(health)), ("/ready", get(readiness)), ("/openapi.json", get(document))];
    let mut routes: Vec<_> = own.into_iter().map(|(path, handler)| (path.to_owned(), handler)).collect();
    for prefix in ["", "/v1"] {
        let served = [
            ("/chat/completions", post(chat)),
            ("/completions", post(completion)),
            ("/embeddings", post(embed)),
            ("/responses", post(responses)),
            ("/messages", post(messages)),
            ("/messages/count_tokens", post(count_tokens)),
            ("/route", post(explain)),
            ("/models", get(models)),
            ("/models/{*id}", get(model)),
        ];
        routes.extend(served.map(|(path, handler)| (format!("{prefix}{path}"), handler)));
    }
    routes
}

/// All routes of the API listener.
pub fn api_router(state: EdgeState) -> Router {
    let front = Front { live: state.live.clone(), traces: state.services.traces.clone() };
    let routes = routes().into_iter();
    routes
        .fold(Router::new(), |router, (path, handler)| router.route(&path, handler))
        .fallback(unknown_url)
        .method_not_allowed_fallback(wrong_method)
        .with_state(Edge(state.clone()))
        .layer(middleware::from_fn_with_state(Edge(state.clone()), access::guarded))
        .layer(middleware::from_fn_with_state(front, identified))
}

/// Gives the request its id, and the response its id and duration. A panic of a handler is an answer, too.
async fn identified(State(front): State<Front>, mut request: Request, next: Next) -> Response {
    let Front { live, traces } = front;
    let arrival = Arrival::of(request.headers(), &live, &traces);
    let asked = arrival::Asked::of(&request);
    let in_anthropics = anthropic::is_meant(request.uri().path(), request.headers());
    request.extensions_mut().insert(arrival.clone());
    let page = origin::page(request.headers(), &live.load().server.cors);
    let mut response = match &page {
        Page::Foreign => error::respond(&origin::refusal()),
        Page::Listed(_) if origin::is_preflight(request.method(), request.headers()) => {
            origin::preflight(request.headers())
        }
        Page::None | Page::Local | Page::Listed(_) => {
            let handled = AssertUnwindSafe(next.run(request)).catch_unwind().await;
            handled.unwrap_or_else(|_| {
                observe::handler_panicked(arrival.who());
                error::respond(&frames::bug())
            })
        }
    };
    if in_anthropics {
        response = error::in_anthropics_form(response);
    }
    let headers = response.headers_mut();
    page.allow(headers);
    arrival.sign(headers, in_anthropics);
    let took = u64::try_from(arrival.at.elapsed().as_millis()).unwrap_or(u64::MAX);
    headers.insert("openai-processing-ms", HeaderValue::from(took));
    arrival.refused(&asked, &response, &traces);
    response
}

async fn chat(State(state): State<EdgeState>, request: Request) -> Response {
    serve(&state, Endpoint::Chat, request).await.unwrap_or_else(|error| error::respond(&error))
}

async fn completion(State(state): State<EdgeState>, request: Request) -> Response {
    serve(&state, Endpoint::Completion, request).await.unwrap_or_else(|error| error::respond(&error))
}

async fn responses(State(state): State<EdgeState>, request: Request) -> Response {
    serve(&state, Endpoint::Responses, request).await.unwrap_or_else(|error| error::respond(&error))
}

async fn messages(State(state): State<EdgeState>, request: Request) -> Response {
    serve(&state, Endpoint::Messages, request).await.unwrap_or_else(|error| error::respond(&error))
}

async fn count_tokens(State(state): State<EdgeState>, request: Request) -> Response {
    let access = Access::of(&request);
    match received(&state, request, anthropic::count::read).await {
        Ok((mut request, _held)) => {
            access.sign(&mut request);
            anthropic::count::counted(&state.services, request).await
        }
        Err(error) => error::respond(&error),
    }
}

async fn embed(State(state): State<EdgeState>, request: Request) -> Response {
    embedded(&state, request).await.unwrap_or_else(|error| error::respond(&error))
}

async fn explain(State(state): State<EdgeState>, request: Request) -> Response {
    let access = Access::of(&request);
    match asked(&state, Endpoint::Chat, request).await {
        Ok((Asked { mut request, .. }, _held)) => {
            access.sign(&mut request);
            route::explained(&state, &request).await
        }
        Err(error) => error::respond(&error),
    }
}

fn arrival_of(request: &Request) -> Option<Arrival> {
    request.extensions().get::<Arrival>().cloned()
}

async fn asked(
    state: &EdgeState,
    endpoint: Endpoint,
    request: Request,
) -> Result<(Asked, OwnedSemaphorePermit), GatewayError> {
    received(state, request, move |arrived, body, headers, config| endpoint.read(arrived, body, headers, config)).await
}

/// Reads and parses. What is held lives as long as the answer.
async fn received<T, R>(state: &EdgeState, request: Request, read: R) -> Result<(T, OwnedSemaphorePermit), GatewayError>
where
    T: Send + 'static,
    R: FnOnce(Arrived, &[u8], &HeaderMap, &Config) -> Result<T, GatewayError> + Send + 'static,
{
    let (parts, body) = request.into_parts();
    let config = &state.services.config;
    let id = parts.extensions.get::<Arrival>().map_or_else(RequestId::random, |arrival| arrival.id);
    let arrived = Arrived { id, at: unix_seconds() };
    let upload = body::read(&parts.headers, body, Bounds::from(&config.server), &state.bodies).await?;
    let body::Upload { bytes, held } = upload;
    let read = if bytes.len() < LARGE_BODY {
        read(arrived, &bytes, &parts.headers, config)?
    } else {
        let config = Arc::clone(config);
        let reading = tokio::task::spawn_blocking(move || read(arrived, &bytes, &parts.headers, &config));
        reading.await.map_err(|_| GatewayError::gateway(ErrorKind::Internal, "the request could not be parsed"))??
    };
    Ok((read, held))
}

async fn serve(state: &EdgeState, endpoint: Endpoint, request: Request) -> Result<Response, GatewayError> {
    let config = &state.services.config;
    let (access, arrival) = (Access::of(&request), arrival_of(&request));
    let (Asked { request, voice }, held) = asked(state, endpoint, request).await?;
    let wish = Wish { voice, stream: request.stream, keep_alive: config.server.keep_alive };
    let events = launch(state, &access, arrival, request).await?;
    Ok(answer::answer(events, wish, config, held).await)
}

async fn embedded(state: &EdgeState, request: Request) -> Result<Response, GatewayError> {
    let config = &state.services.config;
    let (access, arrival) = (Access::of(&request), arrival_of(&request));
    let read = |arrived: Arrived, body: &[u8], headers: &HeaderMap, config: &Config| {
        parse::embeddings(arrived.id, body, headers, config)
    };
    let (request, held) = received(state, request, read).await?;
    let format = embeddings::format_of(&request.body);
    let events = launch(state, &access, arrival, request).await?;
    Ok(embeddings::answer(events, format, config, held).await)
}

/// The one way of a parsed request into the gateway: its key's policy and tokens, admission, flight.
async fn launch(
    state: &EdgeState,
    access: &Access,
    arrival: Option<Arrival>,
    mut request: ChatRequest,
) -> Result<mpsc::Receiver<FlightEvent>, GatewayError> {
    let (config, Shared { jobs, fleet, .. }) = (&state.services.config, &*state.services);
    access.sign(&mut request);
    if let Some(arrival) = &arrival {
        request.trace.clone_from(&arrival.trace);
        request.client_id.clone_from(&arrival.client_id);
    }
    catalogue::admit_name(&mut request, config, fleet)?;
    access.admit_model(&request.model, config, fleet)?;
    let hold = access.hold(&request, config).await?;
    let guard = jobs.admit(request, Arc::clone(config), Instant::now()).inspect_err(|_| access.gives_back())?;
    access.counts();
    if let Some(arrival) = arrival {
        arrival.takes_off();
    }
    if let Some(hold) = hold {
        guard.job().put_hold(hold);
    }
    Ok(flight::launch(state.services.clone(), guard))
}

async fn models(
    State(state): State<EdgeState>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
    request: Request,
) -> Response {
    let (access, found) = (Access::of(&request), state.services.fleet.found_models());
    let (config, caller) = (&state.services.config, access.caller().map(AsRef::as_ref));
    if !anthropic::is_spoken(request.headers()) {
        return Json(catalogue::list(config, &found, caller, state.started)).into_response();
    }
    let Query(query) = query.unwrap_or_default();
    match anthropic::models::Page::read(query) {
        Ok(page) => {
            let names = catalogue::names(config, &found, caller);
            Json(anthropic::models::list(&names, &page, state.started)).into_response()
        }
        Err(error) => error::respond(&error),
    }
}

async fn model(
    State(state): State<EdgeState>,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let Ok(Path(name)) = name else {
        return error::respond(&GatewayError::invalid("model", "the model's name in the URL is not UTF-8"));
    };
    let (access, found) = (Access::of(&request), state.services.fleet.found_models());
    let caller = access.caller().map(AsRef::as_ref);
    match catalogue::one(&state.services.config, &found, caller, &name, state.started) {
        Ok(_) if anthropic::is_spoken(request.headers()) => {
            Json(anthropic::models::one(&name, state.started)).into_response()
        }
        Ok(model) => Json(model).into_response(),
        Err(error) => error::respond(&error),
    }
}

async fn document() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], openapi::text()).into_response()
}

/// Alive, whatever the targets do.
async fn health() -> Response {
    Json(json!({"status": "ok"})).into_response()
}

async fn readiness(State(state): State<EdgeState>) -> Response {
    // Whoever may come without a key is told no names where others may not.
    let names = !state.services.config.server.require_keys;
    let (is_ready, object) = ready::readiness(&state.services, Instant::now(), names);
    if is_ready {
        return Json(object).into_response();
    }
    let retry = [(header::RETRY_AFTER, HeaderValue::from_static("1"))];
    (StatusCode::SERVICE_UNAVAILABLE, retry, Json(object)).into_response()
}

async fn unknown_url(request: Request) -> Response {
    ErrorReply::unknown_url(request.method().as_str(), request.uri().path()).into_response()
}

async fn wrong_method(request: Request) -> Response {
    ErrorReply::wrong_method(request.method().as_str(), request.uri().path()).into_response()
}

#[cfg(test)]
pub(super) mod tests;
