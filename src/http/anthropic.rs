//! Anthropic's `POST /v1/messages` and `/v1/messages/count_tokens`, and its shapes of errors and models: translated into a
//! chat on the way in, and the chat's answer into messages and events on the way out.
//!
//! The way back, from our request to a provider that speaks this API, is `cloud/anthropic` in the actors' crate.

pub(super) mod count;
pub(super) mod error;
mod events;
mod message;
pub(super) mod models;
mod request;
#[cfg(test)]
mod tests;
mod turns;

use super::{
    dialect::{self, Arrived, Asked},
    parse,
};
use http::{HeaderMap, HeaderName};
use serde_json::{Map, Value};
use spillway_actors::{
    cloud::WholeAnswer,
    config::Config,
    domain::{ChatRequest, GatewayError},
    flight::{FlightReport, Head},
};

/// Every request of an Anthropic client carries it.
const VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// Whether a client speaks this API, at endpoints that two APIs share.
pub(super) fn is_spoken(headers: &HeaderMap) -> bool {
    headers.contains_key(VERSION)
}

/// Whether a request is one of this API: by its path, or at a shared one by its headers.
pub(super) fn is_meant(path: &str, headers: &HeaderMap) -> bool {
    let path = path.strip_prefix("/v1").unwrap_or(path);
    path == "/messages" || path.starts_with("/messages/") || (path.starts_with("/models") && is_spoken(headers))
}

/// A body of `POST /v1/messages`.
///
/// # Errors
/// It is malformed, out of range, or asks for tools that only Anthropic runs.
pub(super) fn read(
    arrived: Arrived,
    body: Map<String, Value>,
    headers: &HeaderMap,
    config: &Config,
) -> Result<Asked, GatewayError> {
    request::needs_max_tokens(&body)?;
    let shows_thoughts = request::shows_thoughts(&body);
    let request = chat_request(arrived, body, headers, config)?;
    let voice = Voice { id: message_id(arrived), shows_thoughts, input_tokens: request.estimated_prompt_tokens() };
    Ok(Asked { request, voice: Box::new(voice) })
}

/// The request behind a body of either endpoint.
fn chat_request(
    arrived: Arrived,
    body: Map<String, Value>,
    headers: &HeaderMap,
    config: &Config,
) -> Result<ChatRequest, GatewayError> {
    let own = request::own(&body);
    let mut request = parse::translated_chat(arrived.id, request::chat_body(body)?, headers, config)?;
    request.anthropic = own;
    // It has been read. Providers of OpenAI's API refuse it; for the others it is in `sampling`.
    request.body.shift_remove("top_k");
    Ok(request)
}

fn message_id(arrived: Arrived) -> String {
    let id = arrived.id.to_string();
    format!("msg_{}", id.strip_prefix("req_").unwrap_or(&id))
}

/// How one message is answered.
#[derive(Debug)]
struct Voice {
    id: String,
    /// The client asked to see what the model thinks.
    shows_thoughts: bool,
    /// Estimated: a stream begins with a count that nobody has yet. Its end has the true one.
    input_tokens: u64,
}

impl dialect::Voice for Voice {
    fn whole(&self, answer: WholeAnswer, report: &FlightReport) -> Value {
        message::whole(&self.id, self.shows_thoughts, answer, report)
    }

    fn stream(&self, head: &Head) -> Box<dyn dialect::Frames> {
        let start = message::start(&self.id, head.model.as_str(), self.input_tokens);
        Box::new(events::Frames::new(start, self.shows_thoughts))
    }
}
