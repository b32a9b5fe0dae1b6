//! Pages of the web have no business here: a browser names the page that sends a request in `Origin`, and only pages
//! served from this machine pass. Programs send none.

use http::{HeaderMap, header};
use spillway_actors::domain::{ErrorKind, GatewayError};

const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Whether a page from elsewhere sent this.
pub(crate) fn is_foreign(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let host = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    let name = host.map(|host| match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    });
    !name.is_some_and(|name| LOOPBACK.contains(&name))
}

pub(crate) fn refusal() -> GatewayError {
    let message = "requests from web pages of other sites are refused";
    GatewayError::gateway(ErrorKind::Forbidden, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_local_pages_pass_and_other_sites_do_not() {
        let foreign = |origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            is_foreign(&headers)
        };
        assert!(!is_foreign(&HeaderMap::new()));
        for good in ["http://localhost", "http://localhost:3000", "https://127.0.0.1:8443", "http://[::1]:3000"] {
            assert!(!foreign(good), "{good}");
        }
        for bad in
            ["http://evil.example", "http://localhost.evil.example", "null", "http://127.0.0.1.evil.example:80", ""]
        {
            assert!(foreign(bad), "{bad}");
        }
    }
}
