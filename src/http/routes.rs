//! The API's routes, with and without `/v1`. A handler reads, parses, admits, launches and hands over.

use super::{
    answer::{self, Wish},
    body::{self, Bounds, Budget},
    catalogue,
    error::{self, ErrorReply},
    frames,
    origin::{self, Page},
    parse, ready,
    render::Stamp,
    route,
};
use axum::{
    Json, Router,
    extract::{FromRef, Path, Request, State, rejection::PathRejection},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::FutureExt;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use spillway_actors::{
    config::LiveConfig,
    domain::{ChatRequest, ErrorKind, GatewayError, RequestId, RequestKind},
    flight::{self, Services},
};
use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

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
struct Edge(EdgeState);

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

/// A request's identity from its first byte on, whatever becomes of it.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    id: RequestId,
    at: Instant,
}

/// All routes of the API listener.
pub fn api_router(state: EdgeState) -> Router {
    let mut router = Router::new().route("/health", get(health)).route("/ready", get(readiness));
    for prefix in ["", "/v1"] {
        router = router
            .route(&format!("{prefix}/chat/completions"), post(chat))
            .route(&format!("{prefix}/completions"), post(completion))
            .route(&format!("{prefix}/route"), post(explain))
            .route(&format!("{prefix}/models"), get(models))
            .route(&format!("{prefix}/models/{{*id}}"), get(model));
    }
    router
        .fallback(unknown_url)
        .method_not_allowed_fallback(wrong_method)
        .with_state(Edge(state.clone()))
        .layer(middleware::from_fn_with_state(state.live, identified))
}

/// Gives the request its id, and the response its id and duration. A panic of a handler is an answer, too.
async fn identified(State(live): State<LiveConfig>, mut request: Request, next: Next) -> Response {
    let arrival = Arrival { id: RequestId::random(), at: Instant::now() };
    request.extensions_mut().insert(arrival);
    let page = origin::page(request.headers(), &live.load().server.cors);
    let mut response = match &page {
        Page::Foreign => error::respond(&origin::refusal()),
        Page::Listed(_) if origin::is_preflight(request.method(), request.headers()) => {
            origin::preflight(request.headers())
        }
        Page::None | Page::Local | Page::Listed(_) => {
            let handled = AssertUnwindSafe(next.run(request)).catch_unwind().await;
            handled.unwrap_or_else(|_| {
                tracing::error!(request = %arrival.id, "a handler panicked");
                error::respond(&frames::bug())
            })
        }
    };
    let headers = response.headers_mut();
    page.allow(headers);
    if let Ok(id) = HeaderValue::try_from(arrival.id.to_string()) {
        headers.insert("x-request-id", id);
    }
    let took = u64::try_from(arrival.at.elapsed().as_millis()).unwrap_or(u64::MAX);
    headers.insert("openai-processing-ms", HeaderValue::from(took));
    response
}

async fn chat(State(state): State<EdgeState>, request: Request) -> Response {
    serve(&state, RequestKind::Chat, request).await.unwrap_or_else(|error| error::respond(&error))
}

async fn completion(State(state): State<EdgeState>, request: Request) -> Response {
    serve(&state, RequestKind::Completion, request).await.unwrap_or_else(|error| error::respond(&error))
}

async fn explain(State(state): State<EdgeState>, request: Request) -> Response {
    match received(&state, RequestKind::Chat, request).await {
        Ok((request, _held)) => route::explained(&state, &request).await,
        Err(error) => error::respond(&error),
    }
}

/// Reads and parses. What is held lives as long as the answer.
async fn received(
    state: &EdgeState,
    kind: RequestKind,
    request: Request,
) -> Result<(ChatRequest, OwnedSemaphorePermit), GatewayError> {
    let (parts, body) = request.into_parts();
    let config = &state.services.config;
    let id = parts.extensions.get::<Arrival>().map_or_else(RequestId::random, |arrival| arrival.id);
    let upload = body::read(&parts.headers, body, Bounds::from(&config.server), &state.bodies).await?;
    let parser = match kind {
        RequestKind::Chat => parse::chat,
        RequestKind::Completion => parse::completion,
    };
    let body::Upload { bytes, held } = upload;
    let request = if bytes.len() < LARGE_BODY {
        parser(id, &bytes, &parts.headers, config)?
    } else {
        let config = Arc::clone(config);
        let parsing = tokio::task::spawn_blocking(move || parser(id, &bytes, &parts.headers, &config));
        parsing.await.map_err(|_| GatewayError::gateway(ErrorKind::Internal, "the request could not be parsed"))??
    };
    Ok((request, held))
}

async fn serve(state: &EdgeState, kind: RequestKind, request: Request) -> Result<Response, GatewayError> {
    let Services { config, jobs, .. } = &state.services;
    let (request, held) = received(state, kind, request).await?;
    catalogue::admit_name(&request, config, &state.services.fleet)?;
    let wish = Wish {
        stamp: Stamp::new(kind, request.id, unix_seconds()),
        stream: request.stream,
        include_usage: request.include_usage,
        keep_alive: config.server.keep_alive,
    };
    let guard = jobs.admit(request, Arc::clone(config), Instant::now())?;
    let events = flight::launch(state.services.clone(), guard);
    Ok(answer::answer(events, wish, config, held).await)
}

async fn models(State(state): State<EdgeState>) -> Response {
    Json(catalogue::list(&state.services.config, &state.services.fleet.found_models(), state.started)).into_response()
}

async fn model(State(state): State<EdgeState>, name: Result<Path<String>, PathRejection>) -> Response {
    let Ok(Path(name)) = name else {
        return error::respond(&GatewayError::invalid("model", "the model's name in the URL is not UTF-8"));
    };
    match catalogue::one(&state.services.config, &state.services.fleet.found_models(), &name, state.started) {
        Ok(model) => Json(model).into_response(),
        Err(error) => error::respond(&error),
    }
}

/// Alive, whatever the targets do.
async fn health() -> Response {
    Json(json!({"status": "ok"})).into_response()
}

async fn readiness(State(state): State<EdgeState>) -> Response {
    let (is_ready, object) = ready::readiness(&state.services, Instant::now());
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
mod tests;
