//! Flight events → the events of a streamed response. Every item is opened, told in pieces, closed; a call stays open until
//! the end, because providers may tell several at once. Pure.

use super::{
    object::{Echo, Standing},
    output::{self, Piece},
};
use crate::http::{
    dialect::{self, Next, reasoning_of, tool_calls_of},
    frames::{bug, json},
};
use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};
use spillway_actors::{
    domain::{Delta, GatewayError, ModelName},
    flight::{FlightEvent, FlightReport},
};
use std::collections::BTreeMap;

/// A stream's closing events repeat its text and its log-probabilities: more memory than this they may not take.
const MAX_BYTES: usize = 32 << 20;

/// What an item says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Text,
    Refusal,
}

#[derive(Debug)]
struct Part {
    kind: Kind,
    text: String,
    logprobs: Vec<Value>,
}

#[derive(Debug)]
enum Content {
    /// A message, or what was thought: the last part is the open one.
    Parts(Vec<Part>),
    Call {
        is_custom: bool,
        id: String,
        name: String,
        /// Arguments, or a custom tool's text.
        said: String,
    },
}

#[derive(Debug)]
struct Item {
    id: String,
    content: Content,
    /// How it ended, once it has.
    ended: Option<&'static str>,
}

/// The writer of one stream.
#[derive(Debug)]
pub(super) struct Frames {
    echo: Echo,
    model: ModelName,
    sequence: u64,
    items: Vec<Item>,
    /// Which item is the call of this index.
    calls: BTreeMap<u64, usize>,
    bytes: usize,
    reason: Option<String>,
}

impl Frames {
    pub(super) fn new(echo: Echo, model: &ModelName) -> Self {
        let (items, calls) = (Vec::new(), BTreeMap::new());
        Self { echo, model: model.clone(), sequence: 0, items, calls, bytes: 0, reason: None }
    }

    fn event(&mut self, name: &str, mut data: Value, out: &mut BytesMut) {
        data["type"] = name.into();
        data["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        out.put_slice(b"event: ");
        out.put_slice(name.as_bytes());
        out.put_slice(b"\ndata: ");
        json(out, &data);
        out.put_slice(b"\n\n");
    }

    fn delta(&mut self, delta: &Delta, out: &mut BytesMut) -> Next {
        if delta.choice != 0 || self.reason.is_some() {
            return Next::More;
        }
        self.bytes += delta.content.as_deref().map_or(0, str::len);
        if let Some(thoughts) = reasoning_of(&delta.other) {
            self.say(Kind::Reasoning, thoughts, Vec::new(), out);
        }
        if let Some(text) = delta.content.as_deref().filter(|text| !text.is_empty()) {
            self.say(Kind::Text, text, output::logprobs_of(delta.logprobs.as_ref()), out);
        }
        if let Some(refusal) = delta.other.get("refusal").and_then(Value::as_str).filter(|text| !text.is_empty()) {
            self.say(Kind::Refusal, refusal, Vec::new(), out);
        }
        for (place, call) in (0..).zip(tool_calls_of(&delta.other)) {
            self.call(place, call, out);
        }
        if self.bytes > MAX_BYTES { self.fail(&bug(), out) } else { Next::More }
    }

    fn say(&mut self, kind: Kind, text: &str, logprobs: Vec<Value>, out: &mut BytesMut) {
        let (at, part) = self.open(kind, out);
        self.bytes += text.len() + logprobs.iter().map(memory).sum::<usize>();
        let item = &mut self.items[at];
        let mut data = json!({"item_id": item.id, "output_index": at, "content_index": part, "delta": text});
        let name = match kind {
            Kind::Reasoning => "response.reasoning_text.delta",
            Kind::Text => "response.output_text.delta",
            Kind::Refusal => "response.refusal.delta",
        };
        if kind == Kind::Text {
            data["logprobs"] = logprobs.as_slice().into();
        }
        if let Content::Parts(parts) = &mut item.content
            && let Some(part) = parts.last_mut()
        {
            part.text.push_str(text);
            part.logprobs.extend(logprobs);
        }
        self.event(name, data, out);
    }

    /// The item and the part that take a piece of this kind; whatever else is being said ends first.
    fn open(&mut self, kind: Kind, out: &mut BytesMut) -> (usize, usize) {
        let last = self.items.len().wrapping_sub(1);
        if let Some(Item { content: Content::Parts(parts), ended: None, .. }) = self.items.last() {
            let open = parts.last().map(|part| part.kind);
            if open == Some(kind) {
                return (last, parts.len() - 1);
            }
            if open != Some(Kind::Reasoning) && kind != Kind::Reasoning {
                self.close_part(last, out);
                return (last, self.open_part(last, kind, out));
            }
        }
        self.close_speech("completed", out);
        let at = self.items.len();
        let id = self.echo.item_id(if kind == Kind::Reasoning { "rs" } else { "msg" }, at);
        let item = match kind {
            Kind::Reasoning => output::reasoning(&id, "in_progress", ""),
            Kind::Text | Kind::Refusal => output::said(&id, "in_progress", Vec::new()),
        };
        self.event("response.output_item.added", json!({"output_index": at, "item": item}), out);
        self.items.push(Item { id, content: Content::Parts(Vec::new()), ended: None });
        (at, self.open_part(at, kind, out))
    }

    fn open_part(&mut self, at: usize, kind: Kind, out: &mut BytesMut) -> usize {
        let Content::Parts(parts) = &mut self.items[at].content else { return 0 };
        let index = parts.len();
        let part = Part { kind, text: String::new(), logprobs: Vec::new() };
        let data =
            json!({"item_id": self.items[at].id, "output_index": at, "content_index": index, "part": part.json()});
        if let Content::Parts(parts) = &mut self.items[at].content {
            parts.push(part);
        }
        self.event("response.content_part.added", data, out);
        index
    }

    fn close_part(&mut self, at: usize, out: &mut BytesMut) {
        let Content::Parts(parts) = &self.items[at].content else { return };
        let Some(part) = parts.last() else { return };
        let place = json!({"item_id": self.items[at].id, "output_index": at, "content_index": parts.len() - 1});
        let (mut text, mut whole) = (place.clone(), place);
        whole["part"] = part.json();
        let name = match part.kind {
            Kind::Reasoning => {
                text["text"] = part.text.as_str().into();
                "response.reasoning_text.done"
            }
            Kind::Text => {
                text["text"] = part.text.as_str().into();
                text["logprobs"] = part.logprobs.as_slice().into();
                "response.output_text.done"
            }
            Kind::Refusal => {
                text["refusal"] = part.text.as_str().into();
                "response.refusal.done"
            }
        };
        self.event(name, text, out);
        self.event("response.content_part.done", whole, out);
    }

    /// Ends the open message or thought.
    fn close_speech(&mut self, status: &'static str, out: &mut BytesMut) {
        let open = |item: &Item| item.ended.is_none() && matches!(item.content, Content::Parts(_));
        if let Some(at) = self.items.iter().position(open) {
            self.close(at, status, out);
        }
    }

    fn close(&mut self, at: usize, status: &'static str, out: &mut BytesMut) {
        if let Content::Call { is_custom, said, name, .. } = &self.items[at].content {
            let mut data = json!({"item_id": self.items[at].id, "output_index": at});
            if *is_custom {
                data["input"] = said.as_str().into();
                self.event("response.custom_tool_call_input.done", data, out);
            } else {
                data["name"] = name.as_str().into();
                data["arguments"] = said.as_str().into();
                self.event("response.function_call_arguments.done", data, out);
            }
        } else {
            self.close_part(at, out);
        }
        self.items[at].ended = Some(status);
        let item = self.items[at].json();
        self.event("response.output_item.done", json!({"output_index": at, "item": item}), out);
    }

    /// A piece of a call.
    fn call(&mut self, place: u64, piece: &Value, out: &mut BytesMut) {
        let index = piece.get("index").and_then(Value::as_u64).unwrap_or(place);
        let piece = Piece::of(piece);
        self.bytes += piece.id.len() + piece.name.len() + piece.said.len() + 16;
        let at = match self.calls.get(&index) {
            Some(at) => *at,
            None => self.open_call(index, &piece, out),
        };
        if piece.said.is_empty() {
            return;
        }
        let data = json!({"item_id": self.items[at].id, "output_index": at, "delta": piece.said});
        let mut name = "response.function_call_arguments.delta";
        if let Content::Call { said, is_custom, .. } = &mut self.items[at].content {
            said.push_str(piece.said);
            if *is_custom {
                name = "response.custom_tool_call_input.delta";
            }
        }
        self.event(name, data, out);
    }

    fn open_call(&mut self, index: u64, piece: &Piece<'_>, out: &mut BytesMut) -> usize {
        self.close_speech("completed", out);
        let at = self.items.len();
        let id = self.echo.item_id(if piece.is_custom { "ctc" } else { "fc" }, at);
        let (is_custom, call, name) = (piece.is_custom, piece.id.to_owned(), piece.name.to_owned());
        let content = Content::Call { is_custom, id: call, name, said: String::new() };
        let mut item = Item { id, content, ended: Some("in_progress") };
        self.event("response.output_item.added", json!({"output_index": at, "item": item.json()}), out);
        item.ended = None;
        self.items.push(item);
        self.calls.insert(index, at);
        at
    }

    fn close_all(&mut self, status: &'static str, out: &mut BytesMut) {
        for at in 0..self.items.len() {
            if self.items[at].ended.is_none() {
                self.close(at, status, out);
            }
        }
    }

    fn finish(&mut self, choice: u32, reason: String, out: &mut BytesMut) -> Next {
        if choice == 0 && self.reason.is_none() {
            if self.items.is_empty() {
                self.open(Kind::Text, out);
            }
            self.close_all(Standing::item_status(&reason), out);
            self.reason = Some(reason);
        }
        Next::More
    }

    fn done(&mut self, report: &FlightReport, out: &mut BytesMut) -> Next {
        let Some(reason) = self.reason.take() else { return self.fail(&bug(), out) };
        self.end(&Standing::Ended { reason: &reason, report }, out)
    }

    fn fail(&mut self, error: &GatewayError, out: &mut BytesMut) -> Next {
        self.end(&Standing::Failed(error), out)
    }

    fn end(&mut self, standing: &Standing<'_>, out: &mut BytesMut) -> Next {
        let output = self.items.iter().map(Item::json).collect();
        let response = self.echo.object(&self.model, output, standing);
        self.event(standing.event(), json!({"response": response}), out);
        Next::End
    }
}

/// Bytes that a value takes, about.
fn memory(value: &Value) -> usize {
    let held = match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(memory).sum(),
        Value::Object(members) => members.iter().map(|(name, value)| 64 + name.len() + memory(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    size_of::<Value>() + held
}

impl Part {
    fn json(&self) -> Value {
        match self.kind {
            Kind::Reasoning => output::reasoning_part(&self.text),
            Kind::Text => output::text_part(&self.text, self.logprobs.clone()),
            Kind::Refusal => output::refusal_part(&self.text),
        }
    }
}

impl Item {
    fn json(&self) -> Value {
        let status = self.ended.unwrap_or("incomplete");
        match &self.content {
            Content::Call { is_custom: true, id, name, said } => {
                output::called_custom(&self.id, status, id, name, said)
            }
            Content::Call { id, name, said, .. } => output::called(&self.id, status, id, name, said),
            Content::Parts(parts) => match parts.first() {
                Some(Part { kind: Kind::Reasoning, text, .. }) => output::reasoning(&self.id, status, text),
                _ => output::said(&self.id, status, parts.iter().map(Part::json).collect()),
            },
        }
    }
}

impl dialect::Frames for Frames {
    fn begin(&mut self, out: &mut BytesMut) {
        let response = self.echo.object(&self.model, Vec::new(), &Standing::InProgress);
        self.event("response.created", json!({"response": response}), out);
        self.event("response.in_progress", json!({"response": response}), out);
    }

    fn write(&mut self, event: FlightEvent, out: &mut BytesMut) -> Next {
        match event {
            FlightEvent::Started(_) => Next::More,
            FlightEvent::Delta(delta) => self.delta(&delta, out),
            FlightEvent::Finish { choice, reason } => self.finish(choice, reason, out),
            FlightEvent::Done(report) => self.done(&report, out),
            FlightEvent::Failed(error) => self.fail(&error, out),
            FlightEvent::Whole(_) | FlightEvent::Embedded(_) => self.fail(&bug(), out),
        }
    }
}
