//! The console's way to the API, which is another origin: `POST /admin/playground` is a chat completion and
//! `POST /admin/playground/route` a `/v1/route`, answered by the very routes of the API listener, with their limits. The admin token
//! opens this door and is no API key: where keys are required, one comes in `x-api-key`.

use super::AdminState;
use crate::http::error::respond;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, StatusCode, Uri, header},
    response::Response,
};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use spillway_actors::domain::GatewayError;

/// What goes on to the API; who asked is none of its business.
const KEPT: [HeaderName; 3] = [header::CONTENT_TYPE, header::CONTENT_LENGTH, HeaderName::from_static("x-api-key")];

pub(super) async fn chat(State(state): State<AdminState>, request: Request) -> Response {
    asked(&state, Uri::from_static("/v1/chat/completions"), request).await
}

pub(super) async fn route(State(state): State<AdminState>, request: Request) -> Response {
    asked(&state, Uri::from_static("/v1/route"), request).await
}

async fn asked(state: &AdminState, path: Uri, request: Request) -> Response {
    // No page can send this type to another origin without asking first, and nobody here answers such a question.
    if !is_json(request.headers()) {
        let mut response = respond(&GatewayError::invalid(None, "want content-type: application/json"));
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return response;
    }
    let (mut parts, body) = request.into_parts();
    parts.uri = path;
    parts.headers = KEPT.iter().filter_map(|name| Some((name.clone(), parts.headers.get(name)?.clone()))).collect();
    parts.extensions.clear();
    let api = TowerToHyperService::new(state.api.clone());
    match api.call(Request::from_parts(parts, body)).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_is_taken() {
        let taken = |kind: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            is_json(&headers)
        };
        assert!(taken("application/json") && taken("Application/JSON; charset=utf-8"));
        assert!(!taken("text/plain") && !taken("application/x-www-form-urlencoded") && !taken("application/json5"));
        assert!(!is_json(&HeaderMap::new()));
    }
}
