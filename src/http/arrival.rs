//! A request's identity from its first byte on, whatever becomes of it: its id, its place in a trace, what its client calls it.
//! The id is always ours, because accounts are kept by it; a client's own is noted beside it.

use axum::{
    extract::{MatchedPath, Request},
    response::Response,
};
use http::{HeaderMap, HeaderValue, Method};
use spillway_actors::{
    config::LiveConfig,
    domain::{ErrorKind, RequestId, Trace, Who},
    flight::{Refusal, Traced, Traces},
    observe,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};
use tokio::time::Instant;

/// A longer name is none.
const MAX_CLIENT_ID: usize = 128;
/// Headers that clients name their requests by; the first that is there counts.
const CLIENT_IDS: [&str; 2] = ["x-client-request-id", "x-request-id"];

#[derive(Debug, Clone)]
pub(super) struct Arrival {
    pub(super) id: RequestId,
    pub(super) at: Instant,
    pub(super) client_id: Option<Arc<str>>,
    pub(super) trace: Option<Trace>,
    /// A flight has begun, which counts the request and tells the rest of its trace.
    flown: Arc<AtomicBool>,
}

impl Arrival {
    pub(super) fn of(headers: &HeaderMap, live: &LiveConfig, traces: &Traces) -> Self {
        let at = Instant::now();
        let ratio = || live.load().otel.as_ref().map(|otel| otel.sample_ratio);
        let ratio = if traces.is_on() { ratio() } else { None };
        let trace = ratio.map(|ratio| Trace::of(headers, ratio, at));
        Self { id: RequestId::random(), at, client_id: client_id(headers), trace, flown: Arc::default() }
    }

    pub(super) fn who(&self) -> Who {
        Who { request: self.id, trace: self.trace.as_ref().map(|trace| trace.id) }
    }

    /// Its flight begins.
    pub(super) fn takes_off(&self) {
        self.flown.store(true, Ordering::Relaxed);
    }

    /// The response's headers that say who it is for.
    pub(super) fn sign(&self, headers: &mut HeaderMap, in_anthropics: bool) {
        if let Ok(id) = HeaderValue::try_from(self.id.to_string()) {
            if in_anthropics {
                headers.insert("request-id", id.clone());
            }
            headers.insert("x-request-id", id);
        }
        if let Some(id) = self.client_id.as_deref().and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.insert("x-client-request-id", id);
        }
    }

    /// Counts a request that asked for work and was refused before its flight, and tells its trace.
    pub(super) fn refused(&self, asked: &Asked, response: &Response, traces: &Traces) {
        let (Some(route), status) = (&asked.route, response.status()) else { return };
        let is_refusal = status.is_client_error() || status.is_server_error();
        if !is_refusal || self.flown.load(Ordering::Relaxed) {
            return;
        }
        let kind = response.extensions().get::<ErrorKind>().copied();
        let why = kind.map_or("none", ErrorKind::label);
        observe::request_refused_at_the_door(self.who(), self.client_id.as_deref(), status.as_u16(), why);
        if let Some(outcome) = kind.and_then(outcome).filter(|_| is_for_an_answer(route.as_str())) {
            observe::request_turned_away(outcome);
        }
        let Some(trace) = self.trace.as_ref().filter(|trace| trace.sampled) else { return };
        traces.tell(Traced::Refused(Box::new(Refusal {
            trace: trace.clone(),
            request: self.id,
            method: "POST",
            route: route.as_str().to_owned(),
            status: status.as_u16(),
            took: self.at.elapsed(),
            at: SystemTime::now(),
        })));
    }
}

/// What is asked for, as far as a trace tells.
pub(super) struct Asked {
    /// Of our own routes, those that make work.
    route: Option<MatchedPath>,
}

impl Asked {
    pub(super) fn of(request: &Request) -> Self {
        let route = request.extensions().get::<MatchedPath>().filter(|_| request.method() == Method::POST);
        Self { route: route.cloned() }
    }
}

/// Of the routes that make work, those whose requests are counted when they end.
fn is_for_an_answer(route: &str) -> bool {
    ["/completions", "/embeddings", "/responses", "/messages"].iter().any(|end| route.ends_with(end))
}

/// As what a refused request is counted. `None`: whoever had no room for it, or found its key's limit reached, has counted it.
const fn outcome(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::RateLimited | ErrorKind::ShuttingDown => None,
        // Nobody's slowness but its client's: no fault of the service.
        ErrorKind::Timeout => Some("slow_upload"),
        kind => Some(kind.label()),
    }
}

/// Short, and of characters that no log, header or trace minds.
fn client_id(headers: &HeaderMap) -> Option<Arc<str>> {
    let value = CLIENT_IDS.iter().find_map(|name| headers.get(*name))?.to_str().ok()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/+=@-".contains(&byte);
    let fits = (1..=MAX_CLIENT_ID).contains(&value.len()) && value.bytes().all(is_plain);
    fits.then(|| value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(pairs: &[(&'static str, &str)]) -> Option<Arc<str>> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        client_id(&headers)
    }

    #[test]
    fn a_refusal_is_counted_once_and_never_as_the_services_fault() {
        let counted = [
            (ErrorKind::InvalidRequest, Some("invalid_request")),
            (ErrorKind::ModelNotFound, Some("model_not_found")),
            (ErrorKind::Unauthorized, Some("unauthorized")),
            (ErrorKind::TooLarge, Some("too_large")),
            (ErrorKind::Timeout, Some("slow_upload")),
            (ErrorKind::RateLimited, None),
            (ErrorKind::ShuttingDown, None),
        ];
        for (kind, label) in counted {
            assert_eq!(outcome(kind), label, "{kind:?}");
        }
        for (route, counts) in [
            ("/v1/chat/completions", true),
            ("/completions", true),
            ("/v1/embeddings", true),
            ("/v1/messages", true),
            ("/v1/messages/count_tokens", false),
            ("/v1/route", false),
        ] {
            assert_eq!(is_for_an_answer(route), counts, "{route}");
        }
    }

    #[test]
    fn a_short_plain_name_is_taken_and_anything_else_is_none() {
        for good in ["7", "0f8fad5b-d9cb-469f-a165-70867728950e", "Root=1-67891233-abcdef", "a/b:c.d_e+f@g"] {
            assert_eq!(named(&[("x-request-id", good)]).as_deref(), Some(good));
        }
        let long = "x".repeat(MAX_CLIENT_ID + 1);
        for bad in ["", "two words", "quote\"", "brace{", "new,comma", "naïve", &long] {
            assert_eq!(named(&[("x-request-id", bad)]), None, "{bad}");
        }
        let both = [("x-request-id", "proxy"), ("x-client-request-id", "client")];
        assert_eq!(named(&both).as_deref(), Some("client"));
    }
}
