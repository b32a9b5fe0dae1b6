//! [`GatewayError`] → status, OpenAI error object, `retry-after`. The only place that knows status codes. Other APIs' forms of
//! an error are put on at the door, over whatever was answered.
//!
//! A target's refusal is not the client's fault unless it is about the request: a provider that refuses *our* key or has
//! no credit left is an upstream failure (502, 503), never 401.

use super::anthropic;
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde_json::{Value, json};
use spillway_actors::domain::{ErrorKind, GatewayError, Origin};
use std::time::Duration;

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";
/// When a target that refuses our key or our credit is worth another look.
const REFUSED: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(1);

/// An error as a client reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorReply {
    pub status: StatusCode,
    /// `type` of the error object.
    pub kind: &'static str,
    pub code: Option<&'static str>,
    pub message: String,
    pub param: Option<String>,
    pub retry_after: Option<Duration>,
}

impl ErrorReply {
    fn new(status: StatusCode, kind: &'static str, code: impl Into<Option<&'static str>>, message: String) -> Self {
        Self { status, kind, code: code.into(), message, param: None, retry_after: None }
    }

    /// No such route.
    pub fn unknown_url(method: &str, path: &str) -> Self {
        let path: String = path.chars().take(200).collect();
        let message = format!("Unknown request URL: {method} {path}. Please check the URL for typos.");
        Self::new(StatusCode::NOT_FOUND, INVALID, "unknown_url", message)
    }

    /// The route exists, the method does not.
    pub fn wrong_method(method: &str, path: &str) -> Self {
        let path: String = path.chars().take(200).collect();
        let message = format!("Not allowed to {method} on {path}. (HINT: perhaps another HTTP method was meant.)");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, INVALID, "method_not_supported", message)
    }

    /// The route exists, what it names does not.
    pub fn not_found(code: &'static str, message: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, INVALID, code, message.to_owned())
    }

    /// `{"error": {…}}` with all four keys.
    pub fn object(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}})
    }
}

impl From<&GatewayError> for ErrorReply {
    fn from(error: &GatewayError) -> Self {
        let mut reply = match &error.origin {
            Origin::Target(name) => of_target(error.kind, format!("{name}: {}", error.message)),
            Origin::Client | Origin::Gateway => ours(error.kind, &error.origin, error.message.clone()),
        };
        reply.param = error.param.clone();
        reply.retry_after = match reply.status.as_u16() {
            429 if error.kind == ErrorKind::InsufficientQuota => None,
            429 | 502 | 503 => error.retry_after.or(reply.retry_after).or(Some(SOON)),
            504 => error.retry_after,
            _ => None,
        };
        reply
    }
}

/// What a client that asked for this hears.
pub fn status(error: &GatewayError) -> StatusCode {
    ErrorReply::from(error).status
}

/// Errors of the request and of the gateway itself.
fn ours(kind: ErrorKind, origin: &Origin, message: String) -> ErrorReply {
    use StatusCode as S;
    let (status, r#type, code) = match kind {
        ErrorKind::InvalidRequest => (S::BAD_REQUEST, INVALID, None),
        ErrorKind::Unauthorized => (S::UNAUTHORIZED, INVALID, Some("invalid_api_key")),
        ErrorKind::Forbidden => (S::FORBIDDEN, INVALID, Some("forbidden")),
        ErrorKind::ModelNotFound => (S::NOT_FOUND, INVALID, Some("model_not_found")),
        ErrorKind::ContextLengthExceeded => (S::BAD_REQUEST, INVALID, Some("context_length_exceeded")),
        ErrorKind::ContentFilter => (S::BAD_REQUEST, INVALID, Some("content_filter")),
        ErrorKind::TooLarge => (S::PAYLOAD_TOO_LARGE, INVALID, Some("request_too_large")),
        ErrorKind::RateLimited => (S::TOO_MANY_REQUESTS, "rate_limit_exceeded", Some("rate_limit_exceeded")),
        ErrorKind::InsufficientQuota => (S::TOO_MANY_REQUESTS, "insufficient_quota", Some("insufficient_quota")),
        ErrorKind::Unavailable => (S::SERVICE_UNAVAILABLE, SERVER, Some("unavailable")),
        ErrorKind::LocalOnlyUnavailable => (S::SERVICE_UNAVAILABLE, SERVER, Some("local_only_unavailable")),
        ErrorKind::Upstream => (S::BAD_GATEWAY, SERVER, Some("upstream_error")),
        // The client's own slowness (an upload that stalls) against ours.
        ErrorKind::Timeout if *origin == Origin::Client => (S::REQUEST_TIMEOUT, INVALID, Some("request_timeout")),
        ErrorKind::Timeout => (S::GATEWAY_TIMEOUT, SERVER, Some("timeout")),
        ErrorKind::ShuttingDown => (S::SERVICE_UNAVAILABLE, SERVER, Some("shutting_down")),
        ErrorKind::Internal => (S::INTERNAL_SERVER_ERROR, SERVER, Some("internal_error")),
    };
    ErrorReply::new(status, r#type, code, message)
}

/// Errors a target answered with or caused.
fn of_target(kind: ErrorKind, message: String) -> ErrorReply {
    let upstream = |status, message| {
        let mut reply = ErrorReply::new(status, SERVER, "upstream_error", message);
        reply.retry_after = Some(REFUSED);
        reply
    };
    match kind {
        ErrorKind::Unauthorized | ErrorKind::Forbidden => {
            upstream(StatusCode::BAD_GATEWAY, format!("{message}; this is about the gateway's key, not yours"))
        }
        ErrorKind::ModelNotFound => {
            upstream(StatusCode::BAD_GATEWAY, format!("{message}; the gateway's configuration names it wrongly"))
        }
        ErrorKind::InsufficientQuota => {
            upstream(StatusCode::SERVICE_UNAVAILABLE, format!("{message}; the gateway's provider credit is spent"))
        }
        _ => ours(kind, &Origin::Gateway, message),
    }
}

impl IntoResponse for ErrorReply {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.object().to_string()));
        response.extensions_mut().insert(self.clone());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"spillway\""));
        }
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
        } else if self.status == StatusCode::TOO_MANY_REQUESTS {
            // The official clients retry a 429 without retry-after all the same, unless told not to.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response
    }
}

/// Rounded up, at least 1.
fn whole_seconds(after: Duration) -> u64 {
    (after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1)
}

/// An error in Anthropic's form; whatever else passes is left alone.
pub(super) fn in_anthropics_form(response: Response) -> Response {
    match response.extensions().get::<ErrorReply>() {
        Some(reply) => {
            let body = Body::from(anthropic::error::object(reply).to_string());
            response.map(|_| body)
        }
        None => response,
    }
}

/// The response to an error, labelled with the target that caused it; its kind goes along for whoever counts.
pub fn respond(error: &GatewayError) -> Response {
    let mut response = ErrorReply::from(error).into_response();
    response.extensions_mut().insert(error.kind);
    if let Origin::Target(name) = &error.origin
        && let Ok(name) = HeaderValue::from_str(name)
    {
        response.headers_mut().insert("x-spillway-target", name);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [ErrorKind; 15] = [
        ErrorKind::InvalidRequest,
        ErrorKind::Unauthorized,
        ErrorKind::Forbidden,
        ErrorKind::ModelNotFound,
        ErrorKind::ContextLengthExceeded,
        ErrorKind::ContentFilter,
        ErrorKind::TooLarge,
        ErrorKind::RateLimited,
        ErrorKind::InsufficientQuota,
        ErrorKind::Unavailable,
        ErrorKind::LocalOnlyUnavailable,
        ErrorKind::Upstream,
        ErrorKind::Timeout,
        ErrorKind::ShuttingDown,
        ErrorKind::Internal,
    ];

    fn line(origin: Origin, kind: ErrorKind) -> String {
        let response = respond(&GatewayError::new(origin.clone(), kind, "m"));
        let reply = ErrorReply::from(&GatewayError::new(origin, kind, "m"));
        let after = response.headers().get(RETRY_AFTER).map_or("-", |value| value.to_str().unwrap());
        format!("{} {} {} {after}", reply.status.as_u16(), reply.kind, reply.code.unwrap_or("null"))
    }

    #[test]
    fn the_gateways_own_errors_map_as_the_contract_says() {
        let lines: Vec<String> = ALL.into_iter().map(|kind| line(Origin::Gateway, kind)).collect();
        assert_eq!(
            lines,
            [
                "400 invalid_request_error null -",
                "401 invalid_request_error invalid_api_key -",
                "403 invalid_request_error forbidden -",
                "404 invalid_request_error model_not_found -",
                "400 invalid_request_error context_length_exceeded -",
                "400 invalid_request_error content_filter -",
                "413 invalid_request_error request_too_large -",
                "429 rate_limit_exceeded rate_limit_exceeded 1",
                "429 insufficient_quota insufficient_quota -",
                "503 server_error unavailable 1",
                "503 server_error local_only_unavailable 1",
                "502 server_error upstream_error 1",
                "504 server_error timeout -",
                "503 server_error shutting_down 1",
                "500 server_error internal_error -",
            ]
        );
        assert_eq!(line(Origin::Client, ErrorKind::Timeout), "408 invalid_request_error request_timeout -");
    }

    #[test]
    fn a_target_never_makes_the_client_doubt_its_own_key_or_budget() {
        let of = |kind| line(Origin::Target("t".into()), kind);
        assert_eq!(of(ErrorKind::Unauthorized), "502 server_error upstream_error 60");
        assert_eq!(of(ErrorKind::Forbidden), "502 server_error upstream_error 60");
        assert_eq!(of(ErrorKind::ModelNotFound), "502 server_error upstream_error 60");
        assert_eq!(of(ErrorKind::InsufficientQuota), "503 server_error upstream_error 60");
        assert_eq!(of(ErrorKind::InvalidRequest), "400 invalid_request_error null -");
        assert_eq!(of(ErrorKind::RateLimited), "429 rate_limit_exceeded rate_limit_exceeded 1");
        assert_eq!(of(ErrorKind::Upstream), "502 server_error upstream_error 1");
        assert_eq!(of(ErrorKind::Timeout), "504 server_error timeout -");
        assert_eq!(of(ErrorKind::Unavailable), "503 server_error unavailable 1");
    }

    #[test]
    fn the_object_has_all_four_keys_and_the_target_is_named() {
        let mut error = GatewayError::target("sheep", ErrorKind::Upstream, "the provider failed (500)");
        let keys = ErrorReply::from(&error).object();
        assert_eq!(
            keys,
            json!({"error": {"message": "sheep: the provider failed (500)", "type": "server_error", "param": null, "code": "upstream_error"}})
        );
        error.param = Some("n".into());
        assert_eq!(ErrorReply::from(&error).object()["error"]["param"], "n");
        assert_eq!(respond(&error).headers()["x-spillway-target"], "sheep");
    }

    #[test]
    fn retry_after_is_whole_seconds_from_one_and_a_spent_budget_says_do_not() {
        let after = |ms| {
            let error = GatewayError::gateway(ErrorKind::RateLimited, "m").retry_after(Duration::from_millis(ms));
            respond(&error).headers()[RETRY_AFTER].to_str().unwrap().to_owned()
        };
        assert_eq!((after(0), after(1000), after(1001)), ("1".into(), "1".into(), "2".into()));
        let spent = GatewayError::gateway(ErrorKind::InsufficientQuota, "m").retry_after(Duration::from_secs(9));
        let response = respond(&spent);
        assert!(!response.headers().contains_key(RETRY_AFTER));
        assert_eq!(response.headers()["x-should-retry"], "false");
    }
}
