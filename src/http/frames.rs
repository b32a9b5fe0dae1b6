//! Flight events → the chunks of OpenAI's chat and completions. Pure.

use super::{
    dialect::{self, Next},
    error::ErrorReply,
    render,
};
use bytes::{BufMut, BytesMut};
use render::Stamp;
use serde::Serialize;
use serde_json::{Map, Value};
use spillway_actors::{
    domain::{Delta, ErrorKind, GatewayError, Imprint, RequestKind},
    flight::{FlightEvent, FlightReport, Head},
};
use std::collections::BTreeMap;

/// The writer of one stream.
#[derive(Debug)]
pub(super) struct Frames {
    kind: RequestKind,
    /// `data: {…"choices":[` with everything that all chunks share.
    prefix: Vec<u8>,
    /// What closes a chunk with choices.
    suffix: &'static [u8],
    include_usage: bool,
    /// Bit per choice that has its role, and per choice that has its finish_reason.
    begun: u128,
    finished: u128,
    /// Characters of text so far, for completions with logprobs only.
    offsets: BTreeMap<u32, u64>,
}

#[derive(Serialize)]
struct ChatChoice<'a> {
    index: u32,
    delta: ChatDelta<'a>,
    logprobs: Option<&'a Value>,
    finish_reason: Option<&'a str>,
}

#[derive(Default, Serialize)]
struct ChatDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// `Some(None)` is an explicit null.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Option<&'a str>>,
    #[serde(flatten)]
    other: Option<&'a Map<String, Value>>,
}

#[derive(Serialize)]
struct TextChoice<'a> {
    text: &'a str,
    index: u32,
    logprobs: Option<Value>,
    finish_reason: Option<&'a str>,
}

impl Frames {
    pub(super) fn new(stamp: &Stamp, head: &Head, include_usage: bool) -> Self {
        let object = match stamp.kind {
            RequestKind::Completion => "text_completion",
            RequestKind::Chat | RequestKind::Embedding => "chat.completion.chunk",
        };
        let mut prefix = BytesMut::new();
        prefix.put_slice(b"data: {\"id\":");
        json(&mut prefix, &stamp.id);
        prefix.put_slice(b",\"object\":");
        json(&mut prefix, object);
        prefix.put_slice(b",\"created\":");
        json(&mut prefix, &stamp.created);
        prefix.put_slice(b",\"model\":");
        json(&mut prefix, &head.model);
        for (name, said) in head.imprint.iter().flat_map(Imprint::fields) {
            prefix.put_slice(b",");
            json(&mut prefix, name);
            prefix.put_slice(b":");
            json(&mut prefix, said);
        }
        prefix.put_slice(b",\"choices\":[");
        Self {
            kind: stamp.kind,
            prefix: prefix.to_vec(),
            suffix: if include_usage { b"],\"usage\":null}\n\n" } else { b"]}\n\n" },
            include_usage,
            begun: 0,
            finished: 0,
            offsets: BTreeMap::new(),
        }
    }

    fn delta(&mut self, delta: &Delta, out: &mut BytesMut) -> Next {
        let bit = bit(delta.choice);
        if self.finished & bit != 0 {
            return Next::More;
        }
        match self.kind {
            RequestKind::Completion => self.text_delta(delta, out),
            RequestKind::Chat | RequestKind::Embedding => self.chat_delta(delta, bit, out),
        }
        Next::More
    }

    fn chat_delta(&mut self, delta: &Delta, bit: u128, out: &mut BytesMut) {
        let is_first = self.begun & bit == 0;
        self.begun |= bit;
        let content = match &delta.content {
            Some(text) => Some(Some(text.as_str())),
            None => (is_first && !delta.other.contains_key("content")).then_some(None),
        };
        let other = (!delta.other.is_empty()).then_some(&delta.other);
        let delta_out = ChatDelta { role: is_first.then_some("assistant"), content, other };
        let logprobs = delta.logprobs.as_ref();
        self.chunk(&ChatChoice { index: delta.choice, delta: delta_out, logprobs, finish_reason: None }, out);
    }

    /// A completion has text and nothing else.
    fn text_delta(&mut self, delta: &Delta, out: &mut BytesMut) {
        let text = delta.content.as_deref().unwrap_or_default();
        if text.is_empty() && delta.logprobs.is_none() {
            return;
        }
        let offset = self.offsets.entry(delta.choice).or_default();
        let logprobs = delta.logprobs.as_ref().map(|logprobs| render::completion_logprobs(logprobs, offset));
        self.chunk(&TextChoice { text, index: delta.choice, logprobs, finish_reason: None }, out);
    }

    fn finish(&mut self, index: u32, reason: &str, out: &mut BytesMut) -> Next {
        let bit = bit(index);
        if self.finished & bit != 0 {
            return Next::More;
        }
        self.finished |= bit;
        let finish_reason = Some(reason);
        match self.kind {
            RequestKind::Chat | RequestKind::Embedding => {
                // An answer of no text still has a role.
                let is_first = self.begun & bit == 0;
                let delta = ChatDelta {
                    role: is_first.then_some("assistant"),
                    content: is_first.then_some(Some("")),
                    other: None,
                };
                self.chunk(&ChatChoice { index, delta, logprobs: None, finish_reason }, out);
            }
            RequestKind::Completion => {
                self.chunk(&TextChoice { text: "", index, logprobs: None, finish_reason }, out);
            }
        }
        Next::More
    }

    fn done(&mut self, report: &FlightReport, out: &mut BytesMut) -> Next {
        if self.finished == 0 {
            return failed(&bug(), out);
        }
        if self.include_usage {
            out.put_slice(&self.prefix);
            out.put_slice(b"],\"usage\":");
            json(out, &render::usage(report.usage));
            out.put_slice(b",\"routing\":");
            json(out, &render::Routing::of(report));
            if let Some((latency_ms, tokens)) = render::local_text(self.kind, report) {
                out.put_slice(b",\"latency_ms\":");
                json(out, &latency_ms);
                out.put_slice(b",\"tokens_generated\":");
                json(out, &tokens);
            }
            out.put_slice(b"}\n\n");
        }
        out.put_slice(b"data: [DONE]\n\n");
        Next::End
    }

    fn chunk(&self, choice: &impl Serialize, out: &mut BytesMut) {
        out.put_slice(&self.prefix);
        json(out, choice);
        out.put_slice(self.suffix);
    }
}

/// The server-sent events of a chat, as its client gets them: for whoever measures how long writing them takes.
pub fn chat_events(stamp: &Stamp, head: &Head, events: Vec<FlightEvent>) -> BytesMut {
    let (mut frames, mut out) = (Frames::new(stamp, head, false), BytesMut::new());
    for event in events {
        dialect::Frames::write(&mut frames, event, &mut out);
    }
    out
}

impl dialect::Frames for Frames {
    fn write(&mut self, event: FlightEvent, out: &mut BytesMut) -> Next {
        match event {
            FlightEvent::Started(_) => Next::More,
            FlightEvent::Delta(delta) => self.delta(&delta, out),
            FlightEvent::Finish { choice, reason } => self.finish(choice, &reason, out),
            FlightEvent::Done(report) => self.done(&report, out),
            FlightEvent::Failed(error) => failed(&error, out),
            FlightEvent::Whole(_) | FlightEvent::Embedded(_) => failed(&bug(), out),
        }
    }
}

fn failed(error: &GatewayError, out: &mut BytesMut) -> Next {
    out.put_slice(b"data: ");
    json(out, &ErrorReply::from(error).object());
    out.put_slice(b"\n\n");
    Next::End
}

/// What a client reads when a flight breaks its promise.
pub(super) fn bug() -> GatewayError {
    GatewayError::gateway(ErrorKind::Internal, "the gateway lost this request; please report it with its x-request-id")
}

/// Choices beyond 128 do not exist: readers of provider streams refuse them.
const fn bit(choice: u32) -> u128 {
    if choice < 128 { 1 << choice } else { 0 }
}

/// Our own types, into memory: cannot fail.
pub(super) fn json<T: Serialize + ?Sized>(out: &mut BytesMut, value: &T) {
    let _ = serde_json::to_writer(out.writer(), value);
}
