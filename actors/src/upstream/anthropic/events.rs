//! The events of one stream. Strict about what decides completeness and what a tool is called with, lenient about
//! everything else: Anthropic adds events, blocks and deltas, and asks clients to ignore those they do not know.

use super::{Counts, finish_reason, in_band};
use crate::domain::{Delta, GenerationEvent, TokenUsage};
use crate::upstream::{chunk::Malformed, sse::SseEvent, wire::Heard};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};

/// More tool calls than any answer holds: what is kept per call stays bounded.
const MAX_CALLS: u32 = 1024;
/// Bytes of text that count as a token where the provider has not counted yet.
const BYTES_PER_TOKEN: u64 = 4;

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    index: u64,
    #[serde(default)]
    message: Value,
    #[serde(default)]
    content_block: Value,
    #[serde(default)]
    delta: Value,
    #[serde(default)]
    usage: Value,
    #[serde(default)]
    error: Value,
}

/// A tool call whose block is open.
#[derive(Debug)]
struct Call {
    place: u32,
    /// What the block began with: its arguments, if no piece follows.
    input: Value,
    pieces: bool,
}

/// Reads the events of one stream in order and knows whether what came so far is a complete answer.
#[derive(Debug, Default)]
pub struct EventReader {
    begun: bool,
    finished: bool,
    calls: u32,
    /// By the block's index.
    open: BTreeMap<u64, Call>,
    counts: Counts,
    /// The provider's last word on output tokens is in `counts`.
    counted: bool,
    bytes: u64,
}

impl EventReader {
    /// Appends what the event says to `out`. Usage is kept back: it comes in pieces.
    ///
    /// # Errors
    /// The event is none, or an error.
    pub(in crate::upstream) fn read(
        &mut self,
        event: &SseEvent,
        out: &mut VecDeque<GenerationEvent>,
    ) -> Result<Heard, Malformed> {
        let parsed = serde_json::from_str::<Event>(&event.data);
        if event.name.as_deref() == Some("error") {
            return Err(parsed.map_or(Malformed::InBandError, |event| in_band(&event.error)));
        }
        let event = parsed.map_err(|_| Malformed::Shape)?;
        match event.kind.as_str() {
            "message_start" => {
                self.begun = true;
                self.counts.absorb(event.message.get("usage").unwrap_or(&Value::Null));
            }
            "error" => return Err(in_band(&event.error)),
            "message_delta" => self.message_delta(&event, out),
            "message_stop" => return self.message_stop(out),
            "ping" => return Ok(Heard::LifeSign),
            // A complete answer is not taken up again.
            _ if self.finished => {}
            "content_block_start" => self.block_start(event.index, event.content_block, out)?,
            "content_block_delta" => self.block_delta(event.index, &event.delta, out)?,
            "content_block_stop" => self.block_stop(event.index, out),
            _ => return Ok(Heard::LifeSign),
        }
        Ok(Heard::Answer)
    }

    /// The reason of its end was given.
    pub fn is_complete(&self) -> bool {
        self.finished
    }

    /// What is known so far; of an answer that is not counted yet the output is estimated.
    pub fn usage(&self) -> Option<TokenUsage> {
        let usage = self.counts.usage()?;
        if self.counted {
            return Some(usage);
        }
        let completion_tokens = usage.completion_tokens.max(self.bytes.div_ceil(BYTES_PER_TOKEN));
        Some(TokenUsage { completion_tokens, estimated: true, ..usage })
    }

    fn block_start(
        &mut self,
        index: u64,
        mut block: Value,
        out: &mut VecDeque<GenerationEvent>,
    ) -> Result<(), Malformed> {
        match block.get("type").and_then(Value::as_str) {
            None => return Err(Malformed::Shape),
            Some("text") => self.text(block.get("text"), out),
            Some("thinking") => self.thinking(block.get("thinking"), out),
            Some("tool_use") => {
                let field = |name: &str| block.get(name).and_then(Value::as_str).map(str::to_owned);
                let (id, name) = field("id").zip(field("name")).ok_or(Malformed::Shape)?;
                if self.calls == MAX_CALLS {
                    return Err(Malformed::Shape);
                }
                let call = Call { place: self.calls, input: block["input"].take(), pieces: false };
                self.calls += 1;
                let function = json!({"name": name, "arguments": ""});
                out.push_back(call_delta(
                    json!({"index": call.place, "id": id, "type": "function", "function": function}),
                ));
                if let Some(before) = self.open.insert(index, call) {
                    self.close(before, out);
                }
            }
            // Redacted thinking, a server's own tools: nothing that a client of ours could read.
            Some(_) => {}
        }
        Ok(())
    }

    fn block_delta(&mut self, index: u64, delta: &Value, out: &mut VecDeque<GenerationEvent>) -> Result<(), Malformed> {
        match delta.get("type").and_then(Value::as_str) {
            None => return Err(Malformed::Shape),
            Some("text_delta") => {
                let text = delta.get("text").filter(|text| text.is_string()).ok_or(Malformed::Shape)?;
                self.text(Some(text), out);
            }
            Some("thinking_delta") => self.thinking(delta.get("thinking"), out),
            Some("input_json_delta") => {
                let piece = delta.get("partial_json").and_then(Value::as_str).ok_or(Malformed::Shape)?;
                // Pieces of another block belong to a tool that runs at the provider.
                if let Some(call) = self.open.get_mut(&index).filter(|_| !piece.is_empty()) {
                    call.pieces = true;
                    self.bytes = self.bytes.saturating_add(piece.len() as u64);
                    out.push_back(arguments(call.place, piece));
                }
            }
            // Signatures and citations.
            Some(_) => {}
        }
        Ok(())
    }

    fn block_stop(&mut self, index: u64, out: &mut VecDeque<GenerationEvent>) {
        if let Some(call) = self.open.remove(&index) {
            self.close(call, out);
        }
    }

    /// A tool without arguments gets no piece, or an empty one; clients parse what they get as JSON.
    fn close(&mut self, call: Call, out: &mut VecDeque<GenerationEvent>) {
        if !call.pieces {
            let input = if call.input.is_object() { call.input.to_string() } else { "{}".to_owned() };
            self.bytes = self.bytes.saturating_add(input.len() as u64);
            out.push_back(arguments(call.place, &input));
        }
    }

    fn message_delta(&mut self, event: &Event, out: &mut VecDeque<GenerationEvent>) {
        self.counts.absorb(&event.usage);
        self.counted |= event.usage.get("output_tokens").is_some_and(Value::is_u64);
        if let Some(reason) = event.delta.get("stop_reason").and_then(Value::as_str) {
            self.finish(finish_reason(reason), out);
        }
    }

    fn message_stop(&mut self, out: &mut VecDeque<GenerationEvent>) -> Result<Heard, Malformed> {
        if !self.begun && !self.finished {
            return Err(Malformed::Shape);
        }
        self.finish(if self.calls > 0 { "tool_calls" } else { "stop" }, out);
        Ok(Heard::End)
    }

    fn finish(&mut self, reason: &str, out: &mut VecDeque<GenerationEvent>) {
        if self.finished {
            return;
        }
        for call in std::mem::take(&mut self.open).into_values() {
            self.close(call, out);
        }
        self.finished = true;
        out.push_back(GenerationEvent::Finish { choice: 0, reason: reason.to_owned() });
    }

    fn text(&mut self, text: Option<&Value>, out: &mut VecDeque<GenerationEvent>) {
        if let Some(text) = self.noted(text) {
            out.push_back(GenerationEvent::Delta(Delta { content: Some(text), ..Delta::default() }));
        }
    }

    /// Under the name that other providers of thinking models use.
    fn thinking(&mut self, text: Option<&Value>, out: &mut VecDeque<GenerationEvent>) {
        if let Some(text) = self.noted(text) {
            out.push_back(other("reasoning_content", text.into()));
        }
    }

    fn noted(&mut self, text: Option<&Value>) -> Option<String> {
        let text = text.and_then(Value::as_str).filter(|text| !text.is_empty())?;
        self.bytes = self.bytes.saturating_add(text.len() as u64);
        Some(text.to_owned())
    }
}

fn arguments(place: u32, piece: &str) -> GenerationEvent {
    call_delta(json!({"index": place, "function": {"arguments": piece}}))
}

fn call_delta(call: Value) -> GenerationEvent {
    other("tool_calls", json!([call]))
}

fn other(name: &str, value: Value) -> GenerationEvent {
    let other = Map::from_iter([(name.to_owned(), value)]);
    GenerationEvent::Delta(Delta { other, ..Delta::default() })
}

#[cfg(test)]
mod tests;
