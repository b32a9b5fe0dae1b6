//! The API a provider speaks, in one place: path, headers, what can be said in it, bodies and answers. Pure.

use super::anthropic;
use super::body::{OutputCap, continued_body, text_body, upstream_body};
use super::chunk::{self, ChunkReader, Malformed, WholeAnswer};
use super::continuation::Continuation;
use super::sse::SseEvent;
use crate::config::Wire;
use crate::domain::{ChatRequest, GatewayError, GenerationEvent, Imprint, Outbound, RequestKind, TokenUsage};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use secrecy::{ExposeSecret, SecretString};
use std::collections::VecDeque;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const VERSION: HeaderName = HeaderName::from_static("anthropic-version");
/// The only version there is; without the header every request is refused.
const ANTHROPIC_VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");

impl Wire {
    /// What follows the base URL, by segments.
    pub const fn path(self) -> &'static [&'static str] {
        match self {
            Self::OpenAi => &["chat", "completions"],
            Self::Anthropic => &["messages"],
            Self::Text => &["completions"],
        }
    }

    /// The key and whatever else every request to such a provider must carry. An empty key is left out.
    ///
    /// # Errors
    /// The key holds characters that no header may.
    pub fn headers(self, key: &SecretString) -> Result<HeaderMap, http::header::InvalidHeaderValue> {
        let mut headers = HeaderMap::with_capacity(6);
        if self == Self::Anthropic {
            headers.insert(VERSION, ANTHROPIC_VERSION);
        }
        let key = key.expose_secret();
        if !key.is_empty() {
            let (name, mut value) = match self {
                Self::OpenAi | Self::Text => (header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {key}"))?),
                Self::Anthropic => (API_KEY, HeaderValue::from_str(key)?),
            };
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }

    /// The request's first field that cannot be said: such a request belongs elsewhere, it is never sent without.
    pub fn unmet(self, request: &ChatRequest) -> Option<&'static str> {
        match self {
            Self::OpenAi => None,
            Self::Anthropic => anthropic::unmet(request),
            Self::Text => (request.kind != RequestKind::Completion).then_some("messages"),
        }
    }

    /// The body for `upstream_model`, as [`upstream_body`] describes it.
    ///
    /// # Errors
    /// The request holds something that cannot be said; nothing was sent.
    pub fn body<'a>(
        self,
        request: impl Into<Outbound<'a>>,
        upstream_model: &str,
        output_cap: impl Into<OutputCap>,
        stream: bool,
    ) -> Result<Bytes, GatewayError> {
        let cap = output_cap.into();
        match self {
            Self::OpenAi => upstream_body(request, upstream_model, cap, stream),
            Self::Anthropic => anthropic::body(request.into(), upstream_model, cap.tokens, stream, None),
            Self::Text => text_body(request, upstream_model, cap.tokens, stream),
        }
        .map_err(GatewayError::unworked)
    }

    /// The body for an answer that goes on where another target's ended, streamed; `output_cap` is what is left.
    ///
    /// # Errors
    /// As [`body`](Self::body), or the answer so far cannot be said to the byte.
    pub fn continued_body<'a>(
        self,
        request: impl Into<Outbound<'a>>,
        upstream_model: &str,
        output_cap: impl Into<OutputCap>,
        continuation: Continuation<'_>,
    ) -> Result<Bytes, GatewayError> {
        let (sent, cap) = (continuation.sent_text(), output_cap.into());
        match self {
            Self::OpenAi => continued_body(request, upstream_model, cap, continuation),
            Self::Anthropic if !anthropic::is_continuable(sent) => {
                Err(GatewayError::invalid(None, "an answer that ends in white space cannot be continued"))
            }
            Self::Anthropic => anthropic::body(request.into(), upstream_model, cap.tokens, true, Some(sent)),
            Self::Text => Err(GatewayError::invalid(None, "a model of text completions continues no answer")),
        }
        .map_err(GatewayError::unworked)
    }

    /// For one stream of this wire.
    pub fn stream_reader(self, choices: u32) -> StreamReader {
        match self {
            Self::OpenAi | Self::Text => StreamReader::OpenAi(ChunkReader::of(choices)),
            Self::Anthropic => StreamReader::Anthropic(anthropic::EventReader::default()),
        }
    }

    /// An answer that came in one piece.
    pub fn read_whole(self, body: &[u8]) -> Result<WholeAnswer, Malformed> {
        match self {
            Self::OpenAi | Self::Text => chunk::read_whole(body),
            Self::Anthropic => anthropic::read_whole(body),
        }
    }
}

/// What an event of a stream was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// A piece of the answer, or something around it.
    Answer,
    /// Proves that somebody is there, not that an answer is coming.
    LifeSign,
    /// Nothing follows, says the provider.
    End,
}

/// Reads the events of one stream in order and knows whether what came so far is a complete answer.
#[derive(Debug)]
pub enum StreamReader {
    OpenAi(ChunkReader),
    Anthropic(anthropic::EventReader),
}

impl StreamReader {
    /// Appends what the event says to `out`. Usage is kept back until the end.
    pub fn read(&mut self, event: &SseEvent, out: &mut VecDeque<GenerationEvent>) -> Result<Heard, Malformed> {
        match self {
            Self::OpenAi(_) if event.data.trim() == "[DONE]" => Ok(Heard::End),
            Self::OpenAi(_) if event.name.as_deref() == Some("error") => Err(Malformed::InBandError),
            Self::OpenAi(chunks) => chunks.read(&event.data, out).map(|()| Heard::Answer),
            Self::Anthropic(events) => events.read(event, out),
        }
    }

    pub fn is_complete(&self) -> bool {
        match self {
            Self::OpenAi(chunks) => chunks.is_complete(),
            Self::Anthropic(events) => events.is_complete(),
        }
    }

    /// Whether it is one if the provider says that nothing follows.
    pub fn may_end(&self) -> bool {
        match self {
            Self::OpenAi(chunks) => chunks.may_end(),
            Self::Anthropic(events) => events.is_complete(),
        }
    }

    pub fn usage(&self) -> Option<TokenUsage> {
        match self {
            Self::OpenAi(chunks) => chunks.usage(),
            Self::Anthropic(events) => events.usage(),
        }
    }

    /// `None`: nothing was said yet, or this wire never does.
    pub fn imprint(&self) -> Option<&Imprint> {
        match self {
            Self::OpenAi(chunks) => Some(chunks.imprint()).filter(|imprint| !imprint.is_empty()),
            Self::Anthropic(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Needs;

    #[test]
    fn each_wire_sends_the_key_in_its_own_header_and_marks_it_sensitive() {
        let key = SecretString::from("sk-1");
        let openai = Wire::OpenAi.headers(&key).unwrap();
        assert_eq!(Wire::Text.headers(&key).unwrap(), openai);
        assert_eq!((openai.len(), &openai["authorization"]), (1, &HeaderValue::from_static("Bearer sk-1")));
        let anthropic = Wire::Anthropic.headers(&key).unwrap();
        assert_eq!((anthropic.len(), &anthropic["x-api-key"]), (2, &HeaderValue::from_static("sk-1")));
        assert_eq!(anthropic["anthropic-version"], "2023-06-01");
        assert!(openai["authorization"].is_sensitive() && anthropic["x-api-key"].is_sensitive());
        for wire in [Wire::OpenAi, Wire::Anthropic] {
            assert!(wire.headers(&SecretString::from("a\nb")).is_err());
            assert!(wire.headers(&SecretString::from("")).unwrap().values().all(|value| !value.is_sensitive()));
        }
    }

    #[test]
    fn a_ping_is_a_sign_of_life_and_no_answer() {
        let heard = |wire: Wire, name: Option<&str>, data: &str| {
            let event = SseEvent { name: name.map(str::to_owned), data: data.to_owned() };
            wire.stream_reader(1).read(&event, &mut VecDeque::new())
        };
        let start = "{\"type\": \"message_start\", \"message\": {}}";
        assert_eq!(heard(Wire::Anthropic, Some("ping"), "{\"type\": \"ping\"}"), Ok(Heard::LifeSign));
        assert_eq!(heard(Wire::Anthropic, Some("message_start"), start), Ok(Heard::Answer));
        assert_eq!(heard(Wire::OpenAi, None, "[DONE]"), Ok(Heard::End));
        assert_eq!(heard(Wire::OpenAi, Some("error"), "oops"), Err(Malformed::InBandError));
    }

    #[test]
    fn what_a_wire_cannot_do_is_never_among_its_abilities() {
        let asked = |body: serde_json::Value, needs: Needs| {
            let serde_json::Value::Object(body) = body else { panic!("an object") };
            ChatRequest { body, needs, ..ChatRequest::plain("a") }
        };
        let none = Needs::default();
        for needs in [
            Needs { logprobs: true, ..none },
            Needs { logit_bias: true, ..none },
            Needs { several_choices: true, ..none },
            Needs { audio: true, ..none },
        ] {
            let request = asked(serde_json::json!({}), needs);
            assert_eq!(Wire::OpenAi.unmet(&request), None);
            assert_eq!(Wire::Anthropic.unmet(&request), needs.field_names().first().copied());
        }
    }
}
