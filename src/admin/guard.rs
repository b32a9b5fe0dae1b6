//! Who may speak to the admin listener: known hosts, no pages of other sites, and with a token set only whoever carries it.

use super::{AdminState, console};
use crate::http::{error::respond, origin};
use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::Response,
};
use secrecy::ExposeSecret;
use spillway_actors::domain::{ErrorKind, GatewayError};
use subtle::ConstantTimeEq;

/// Host and token, before anything else: a web page that rebinds its name to loopback gets nothing.
pub(super) async fn guard(State(state): State<AdminState>, request: Request, next: Next) -> Response {
    let server = &state.runtime.live.load().server;
    if !host_is_known(request.headers(), &server.admin_hosts) {
        let message = "this Host is not in [server] admin_hosts";
        return respond(&GatewayError::gateway(ErrorKind::Forbidden, message));
    }
    if !origin::is_own(request.headers()) || is_asked_elsewhere(request.method(), request.headers()) {
        return respond(&origin::refusal_of_admin());
    }
    // The page itself holds no secret; what it shows, it has to ask for.
    if let Some(token) = &server.admin_token
        && !console::is_of_page(request.uri().path())
        && !carries_token(request.headers(), token.expose_secret())
    {
        let message = "the admin listener needs `Authorization: Bearer <admin token>`";
        return respond(&GatewayError::gateway(ErrorKind::Unauthorized, message));
    }
    next.run(request).await
}

/// Whether a page of another site asks. Browsers say so also where they send no `Origin`; somebody who follows a link asks himself.
fn is_asked_elsewhere(method: &Method, headers: &HeaderMap) -> bool {
    let said = |name: &str| headers.get(name).map(|value| value.as_bytes());
    let is_foreign = said("sec-fetch-site").is_some_and(|site| ![b"same-origin".as_slice(), b"none"].contains(&site));
    let is_followed = method.is_safe() && said("sec-fetch-dest") == Some(b"document");
    is_foreign && !is_followed
}

fn host_is_known(headers: &HeaderMap, known: &[String]) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    known.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Compares digests in constant time, so that neither length nor content of the token shows in the time it takes.
fn carries_token(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let digest = |text: &[u8]| *blake3::hash(text).as_bytes();
    given.is_some_and(|given| digest(given).ct_eq(&digest(token.as_bytes())).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_hosts_pass_with_or_without_port() {
        let known = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let passes = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            host_is_known(&headers, &known)
        };
        for good in ["localhost", "LOCALHOST:8081", "127.0.0.1:8081", "[::1]:8081", "[::1]"] {
            assert!(passes(good), "{good}");
        }
        for bad in ["evil.example", "localhost.evil.example:8081", "127.0.0.2", ""] {
            assert!(!passes(bad), "{bad}");
        }
        assert!(!host_is_known(&HeaderMap::new(), &known));
    }

    #[test]
    fn the_token_must_be_exact() {
        let carries = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            carries_token(&headers, "secret")
        };
        assert!(carries("Bearer secret"));
        for bad in ["Bearer secre", "Bearer secrets", "Basic secret", "secret"] {
            assert!(!carries(bad), "{bad}");
        }
    }

    #[test]
    fn a_page_of_another_site_asks_for_nothing() {
        let refused = |method: Method, site: &str, dest: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("sec-fetch-site", site.parse().unwrap());
            headers.insert("sec-fetch-dest", dest.parse().unwrap());
            is_asked_elsewhere(&method, &headers)
        };
        assert!(refused(Method::POST, "cross-site", "empty") && refused(Method::DELETE, "same-site", "empty"));
        assert!(refused(Method::POST, "cross-site", "document"), "a form of theirs");
        assert!(refused(Method::GET, "cross-site", "empty") && refused(Method::GET, "cross-site", "iframe"));
        assert!(!refused(Method::GET, "cross-site", "document"), "a link to the console is followed");
        assert!(!refused(Method::POST, "same-origin", "empty") && !refused(Method::GET, "none", "document"));
        assert!(!is_asked_elsewhere(&Method::POST, &HeaderMap::new()), "a program");
    }
}
