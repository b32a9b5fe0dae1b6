//! A request's identity from its first byte on, whatever becomes of it: its id, its place in a trace, what its client calls it.
//! The id is always ours, because accounts are kept by it; a client's own is noted beside it.

use axum::extract::{MatchedPath, Request};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use spillway_actors::{
    config::LiveConfig,
    domain::{RequestId, Trace, Who},
    flight::{Refusal, Traced, Traces},
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
    /// A flight has begun, which tells the rest of the trace.
    flown: Option<Arc<AtomicBool>>,
}

impl Arrival {
    pub(super) fn of(headers: &HeaderMap, live: &LiveConfig, traces: &Traces) -> Self {
        let at = Instant::now();
        let ratio = || live.load().otel.as_ref().map(|otel| otel.sample_ratio);
        let ratio = if traces.is_on() { ratio() } else { None };
        let trace = ratio.map(|ratio| Trace::of(headers, ratio, at));
        let flown = trace.as_ref().filter(|trace| trace.sampled).map(|_| Arc::default());
        Self { id: RequestId::random(), at, client_id: client_id(headers), trace, flown }
    }

    pub(super) fn who(&self) -> Who {
        Who { request: self.id, trace: self.trace.as_ref().map(|trace| trace.id) }
    }

    /// Its flight begins.
    pub(super) fn takes_off(&self) {
        if let Some(flown) = &self.flown {
            flown.store(true, Ordering::Relaxed);
        }
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

    /// Tells the trace of a request that asked for work and was refused before its flight.
    pub(super) fn refused(&self, asked: &Asked, status: StatusCode, traces: &Traces) {
        let has_flown = self.flown.as_ref().is_none_or(|flown| flown.load(Ordering::Relaxed));
        let (Some(trace), Some(route)) = (&self.trace, &asked.route) else { return };
        if has_flown || !(status.is_client_error() || status.is_server_error()) {
            return;
        }
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
