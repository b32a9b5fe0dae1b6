//! The APIs that clients speak, and what each must be able to do: read a request, write an answer whole or as a stream.
//! OpenAI's chat and completions are the gateway's mother tongue ([`parse`](super::parse), [`render`](super::render),
//! [`frames`](super::frames)); the others are translated at this edge and nothing behind it knows them.
//!
//! The form of *errors* is not here: the door puts it on ([`error`](super::error)), whoever refused.

use super::{anthropic, frames::bug, openai, parse, responses};
use bytes::BytesMut;
use http::HeaderMap;
use serde_json::{Map, Value};
use spillway_actors::{
    cloud::WholeAnswer,
    config::Config,
    domain::{ChatRequest, GatewayError, RequestId},
    flight::{FlightEvent, FlightReport, Head},
};
use std::fmt;

/// A request's identity and the second it came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived {
    pub(super) id: RequestId,
    /// Unix seconds.
    pub(super) at: u64,
}

/// The endpoints that are answered by a model's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    Chat,
    Completion,
    /// OpenAI's newer API.
    Responses,
    /// Anthropic's.
    Messages,
}

/// A request, and how to answer it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: ChatRequest,
    pub(super) voice: Box<dyn Voice>,
}

impl Endpoint {
    /// Reads a body.
    ///
    /// # Errors
    /// What is wrong with it, in the words of this endpoint's API.
    pub(super) fn read(
        self,
        arrived: Arrived,
        body: &[u8],
        headers: &HeaderMap,
        config: &Config,
    ) -> Result<Asked, GatewayError> {
        let request = match self {
            Self::Chat => openai::read_chat(arrived, parse::json::object(body)?, headers, config)?,
            Self::Completion => parse::completion(arrived.id, body, headers, config)?,
            Self::Responses => return responses::read(arrived, parse::json::object(body)?, headers, config),
            Self::Messages => return anthropic::read(arrived, parse::json::object(body)?, headers, config),
        };
        Ok(Asked { voice: Box::new(openai::Voice::of(&request, arrived)), request })
    }
}

/// The request in a body of this endpoint: what is behind the door, for whoever has only bytes.
///
/// # Errors
/// What is wrong with it.
pub fn request_in(
    endpoint: Endpoint,
    body: &[u8],
    headers: &HeaderMap,
    config: &Config,
) -> Result<ChatRequest, GatewayError> {
    let arrived = Arrived { id: RequestId::from_bits(1), at: 0 };
    endpoint.read(arrived, body, headers, config).map(|asked| asked.request)
}

/// Writes the answer to one request in the words its client asked in. Pure.
pub(super) trait Voice: fmt::Debug + Send {
    /// The answer in one piece.
    fn whole(&self, answer: WholeAnswer, report: &FlightReport) -> Value;

    /// The same as bytes.
    fn written(&self, answer: WholeAnswer, report: &FlightReport) -> Vec<u8> {
        self.whole(answer, report).to_string().into_bytes()
    }

    /// The writer of the answer as a stream that begins like this.
    fn stream(&self, head: &Head) -> Box<dyn Frames>;
}

/// What follows an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    More,
    /// The answer is complete, or broken and said so: nothing may follow.
    End,
}

/// Flight events → server-sent events, as bytes. Pure; [`stream`](super::stream) decides when they are sent.
pub(super) trait Frames: Send {
    /// What comes before the first event.
    fn begin(&mut self, _out: &mut BytesMut) {}

    /// Appends the event's bytes.
    fn write(&mut self, event: FlightEvent, out: &mut BytesMut) -> Next;

    /// The flight vanished without a last word.
    fn vanished(&mut self, out: &mut BytesMut) {
        self.write(FlightEvent::Failed(bug()), out);
    }

    /// What breaks a silence; a comment unless the API has a word for it.
    fn keep_alive(&self) -> &'static [u8] {
        b": keep-alive\n\n"
    }
}

/// What a chat's message or delta says of the model's thoughts; providers have two names for it.
pub(super) fn reasoning_of(message: &Map<String, Value>) -> Option<&str> {
    let named = |name: &&str| message.get(*name).and_then(Value::as_str).filter(|text| !text.is_empty());
    ["reasoning_content", "reasoning"].iter().find_map(named)
}

/// The calls of tools in a chat's message, or their pieces in a delta.
pub(super) fn tool_calls_of(message: &Map<String, Value>) -> &[Value] {
    message.get("tool_calls").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}
