//! Pages of the web have no business here unless they are listed: a browser names the page that sends a request in
//! `Origin`. Pages served from this machine may send, but only a listed page may read the answer (CORS). Programs name no
//! page.

use axum::{body::Body, response::Response};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
        ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
    },
};
use spillway_actors::{
    config::CorsOrigins,
    domain::{ErrorKind, GatewayError},
};

const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];
/// What a page may read of an answer beside its body.
const EXPOSED: &str = "x-request-id, openai-processing-ms, retry-after, x-should-retry, x-spillway-target, \
    x-spillway-complexity, x-spillway-attempts, x-spillway-simulated, x-ratelimit-limit-requests, \
    x-ratelimit-limit-tokens, x-ratelimit-remaining-requests, x-ratelimit-remaining-tokens, \
    x-ratelimit-reset-requests, x-ratelimit-reset-tokens";
/// Seconds a browser may remember a permission; a page taken off the list loses it after these.
const REMEMBERED: &str = "600";

/// Who sent a request, as far as its `Origin` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Page {
    /// A program.
    None,
    /// A page served from this machine.
    Local,
    /// A page that may call, and read the answer.
    Listed(HeaderValue),
    Foreign,
}

pub(crate) fn page(headers: &HeaderMap, cors: &CorsOrigins) -> Page {
    let Some(origin) = headers.get(ORIGIN) else { return Page::None };
    let text = origin.to_str().unwrap_or_default();
    if cors.allow(text) {
        return Page::Listed(origin.clone());
    }
    let host = text.split_once("://").map(|(_, host)| host);
    let name = host.map(|host| match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    });
    if name.is_some_and(|name| LOOPBACK.contains(&name)) { Page::Local } else { Page::Foreign }
}

/// Whether a program sent this, or a page that the same listener served: `Origin` and `Host` are then one.
pub(crate) fn is_own(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let from = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    let to = headers.get(HOST).and_then(|host| host.to_str().ok());
    from.zip(to).is_some_and(|((_, from), to)| from.eq_ignore_ascii_case(to))
}

pub(crate) fn refusal_of_admin() -> GatewayError {
    let message = "requests from web pages of other origins are refused";
    GatewayError::gateway(ErrorKind::Forbidden, message)
}

pub(crate) fn refusal() -> GatewayError {
    let message = "requests from web pages of other sites are refused ([server] cors_origins lists those allowed)";
    GatewayError::gateway(ErrorKind::Forbidden, message)
}

impl Page {
    /// Lets the page read the answer, if it may.
    pub(crate) fn allow(&self, headers: &mut HeaderMap) {
        if let Self::Listed(origin) = self {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
            // Another page must not get this answer from a cache.
            headers.append(VARY, HeaderValue::from_static("origin"));
        }
    }
}

/// A browser asks before it sends what no form could send.
pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a listed page: it may send any header, because a key travels in one; cookies mean nothing here.
pub(crate) fn preflight(asked: &HeaderMap) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE"));
    if let Some(names) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(REMEMBERED));
    headers.append(VARY, HeaderValue::from_static("access-control-request-headers"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(origin: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, origin.parse().unwrap());
        headers
    }

    #[test]
    fn programs_and_local_pages_pass_and_other_sites_do_not() {
        let page = |headers: HeaderMap| page(&headers, &CorsOrigins::default());
        assert_eq!(page(HeaderMap::new()), Page::None);
        for good in ["http://localhost", "http://localhost:3000", "https://127.0.0.1:8443", "http://[::1]:3000"] {
            assert_eq!(page(from(good)), Page::Local, "{good}");
        }
        for bad in
            ["http://evil.example", "http://localhost.evil.example", "null", "http://127.0.0.1.evil.example:80", ""]
        {
            assert_eq!(page(from(bad)), Page::Foreign, "{bad}");
        }
    }

    #[test]
    fn only_programs_and_pages_of_the_listener_itself_are_its_own() {
        let own = |origin: &str, host: &str| {
            let mut headers = from(origin);
            headers.insert(HOST, host.parse().unwrap());
            is_own(&headers)
        };
        assert!(is_own(&HeaderMap::new()));
        assert!(own("http://127.0.0.1:8081", "127.0.0.1:8081") && own("http://Localhost:8081", "localhost:8081"));
        for (origin, host) in [
            ("http://localhost:3000", "localhost:8081"),
            ("http://localhost:8081", "127.0.0.1:8081"),
            ("http://localhost", "localhost:8081"),
            ("null", "localhost:8081"),
            ("", "localhost:8081"),
        ] {
            assert!(!own(origin, host), "{origin} at {host}");
        }
        assert!(!is_own(&from("http://localhost:3000")));
    }

    #[test]
    fn only_listed_pages_may_read_an_answer() {
        let cors =
            CorsOrigins { any: false, listed: vec!["https://chat.example".into(), "http://localhost:3000".into()] };
        let allowed = |origin: &str| {
            let mut headers = HeaderMap::new();
            page(&from(origin), &cors).allow(&mut headers);
            headers.get(ACCESS_CONTROL_ALLOW_ORIGIN).map(|value| value.to_str().unwrap().to_owned())
        };
        for listed in ["https://chat.example", "http://localhost:3000"] {
            assert_eq!(allowed(listed).as_deref(), Some(listed));
        }
        for other in ["http://chat.example", "https://chat.example.evil", "http://localhost:3001", "null", ""] {
            assert_eq!(allowed(other), None, "{other}");
        }
        assert_eq!(page(&from("http://localhost:3001"), &cors), Page::Local);
        assert_eq!(page(&from("https://evil.example"), &cors), Page::Foreign);
        let any = CorsOrigins { any: true, listed: Vec::new() };
        assert!(matches!(page(&from("https://evil.example"), &any), Page::Listed(_)));
    }
}
