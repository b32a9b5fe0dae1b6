//! OpenAI's `POST /v1/responses`, the stateless part of it: translated into a chat on the way in, and the chat's answer into
//! response objects and events on the way out. Nothing is stored, so whatever refers to an earlier response is refused.
//!
//! Also understood where a chat is expected: some clients send a body with `input` to `/chat/completions` and read the
//! answer as a chat's ([`request::is_meant`]).

mod events;
mod items;
mod object;
mod output;
mod request;
#[cfg(test)]
mod tests;

pub(super) use object::Echo;
pub(super) use request::{chat_body, is_meant, normalise_tools};

use super::{
    dialect::{self, Arrived, Asked},
    parse,
};
use http::HeaderMap;
use serde_json::{Map, Value};
use spillway_actors::{
    cloud::WholeAnswer,
    config::Config,
    domain::GatewayError,
    flight::{FlightReport, Head},
};

/// A body of `POST /v1/responses`.
///
/// # Errors
/// It is malformed, out of range, or refers to something that is not stored here.
pub(super) fn read(
    arrived: Arrived,
    body: Map<String, Value>,
    headers: &HeaderMap,
    config: &Config,
) -> Result<Asked, GatewayError> {
    let echo = Echo::of(arrived, &body);
    let request = parse::translated_chat(arrived.id, chat_body(body)?, headers, config)?;
    Ok(Asked { request, voice: Box::new(Voice(echo)) })
}

/// How one response is answered.
#[derive(Debug)]
struct Voice(Echo);

impl dialect::Voice for Voice {
    fn whole(&self, answer: WholeAnswer, report: &FlightReport) -> Value {
        output::whole(&self.0, answer, report)
    }

    fn stream(&self, head: &Head) -> Box<dyn dialect::Frames> {
        Box::new(events::Frames::new(self.0.clone(), &head.model))
    }
}
