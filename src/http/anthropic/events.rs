//! Flight events → the events of a streamed message. Blocks come one after the other: the next one's beginning is the last
//! one's end. Pure.

use super::{error, message};
use crate::http::{
    dialect::{self, Next, reasoning_of, tool_calls_of},
    error::ErrorReply,
    frames::{bug, json as write_json},
    render,
};
use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};
use spillway_actors::{
    domain::{Delta, GatewayError},
    flight::{FlightEvent, FlightReport},
};

/// The block that is being told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Thinking,
    Text,
    /// The call of this index in the provider's stream.
    Call(u64),
}

/// The writer of one stream.
#[derive(Debug)]
pub(super) struct Frames {
    start: Value,
    shows_thoughts: bool,
    open: Option<Block>,
    /// Blocks begun so far.
    blocks: usize,
    /// The call that began last; earlier ones have ended.
    last_call: Option<u64>,
    refused: bool,
    reason: Option<&'static str>,
}

impl Frames {
    /// `start` is the message that the stream begins with.
    pub(super) fn new(start: Value, shows_thoughts: bool) -> Self {
        Self { start, shows_thoughts, open: None, blocks: 0, last_call: None, refused: false, reason: None }
    }

    fn delta(&mut self, delta: &Delta, out: &mut BytesMut) -> Next {
        if delta.choice != 0 || self.reason.is_some() {
            return Next::More;
        }
        if let Some(thoughts) = reasoning_of(&delta.other).filter(|_| self.shows_thoughts) {
            self.turn_to(Block::Thinking, || json!({"type": "thinking", "thinking": "", "signature": ""}), out);
            self.piece(&json!({"type": "thinking_delta", "thinking": thoughts}), out);
        }
        let refusal = delta.other.get("refusal").and_then(Value::as_str).filter(|text| !text.is_empty());
        self.refused |= refusal.is_some();
        let text = delta.content.as_deref().filter(|text| !text.is_empty());
        for text in text.into_iter().chain(refusal) {
            self.turn_to(Block::Text, || json!({"type": "text", "text": ""}), out);
            self.piece(&json!({"type": "text_delta", "text": text}), out);
        }
        for (place, call) in (0..).zip(tool_calls_of(&delta.other)) {
            if self.call(place, call, out) == Next::End {
                return Next::End;
            }
        }
        Next::More
    }

    fn call(&mut self, place: u64, piece: &Value, out: &mut BytesMut) -> Next {
        let index = piece.get("index").and_then(Value::as_u64).unwrap_or(place);
        let part = |pointer: &str| piece.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        if self.open != Some(Block::Call(index)) && self.last_call.is_some_and(|last| index <= last) {
            // Its block has ended, and what ended cannot go on.
            return fail(&out_of_turn(), out);
        }
        self.last_call = Some(index);
        let begin = || json!({"type": "tool_use", "id": part("/id"), "name": part("/function/name"), "input": {}});
        self.turn_to(Block::Call(index), begin, out);
        let arguments = part("/function/arguments");
        if !arguments.is_empty() {
            self.piece(&json!({"type": "input_json_delta", "partial_json": arguments}), out);
        }
        Next::More
    }

    /// Opens the block unless it is open.
    fn turn_to(&mut self, block: Block, begin: impl FnOnce() -> Value, out: &mut BytesMut) {
        if self.open == Some(block) {
            return;
        }
        self.close(out);
        let data = json!({"type": "content_block_start", "index": self.blocks, "content_block": begin()});
        event(&data, out);
        self.open = Some(block);
        self.blocks += 1;
    }

    fn piece(&self, delta: &Value, out: &mut BytesMut) {
        event(&json!({"type": "content_block_delta", "index": self.blocks.saturating_sub(1), "delta": delta}), out);
    }

    fn close(&mut self, out: &mut BytesMut) {
        if self.open.take().is_some() {
            event(&json!({"type": "content_block_stop", "index": self.blocks.saturating_sub(1)}), out);
        }
    }

    fn finish(&mut self, choice: u32, reason: &str, out: &mut BytesMut) -> Next {
        if choice == 0 && self.reason.is_none() {
            self.close(out);
            let reason = message::stop_reason(reason, self.last_call.is_some());
            self.reason = Some(if self.refused { "refusal" } else { reason });
        }
        Next::More
    }

    fn done(&mut self, report: &FlightReport, out: &mut BytesMut) -> Next {
        let Some(reason) = self.reason else { return fail(&bug(), out) };
        let (reason, met) = message::ending(reason, report);
        let delta = json!({"stop_reason": reason, "stop_sequence": met});
        let (usage, routing) = (message::usage(report.usage), render::routing(report));
        event(&json!({"type": "message_delta", "delta": delta, "usage": usage, "routing": routing}), out);
        event(&json!({"type": "message_stop"}), out);
        Next::End
    }
}

fn out_of_turn() -> GatewayError {
    let message = "the provider went back to a tool call that had ended";
    GatewayError::gateway(spillway_actors::domain::ErrorKind::Upstream, message)
}

fn fail(failure: &GatewayError, out: &mut BytesMut) -> Next {
    event(&error::object(&ErrorReply::from(failure)), out);
    Next::End
}

/// One event; its name is its type.
fn event(data: &Value, out: &mut BytesMut) {
    out.put_slice(b"event: ");
    out.put_slice(data["type"].as_str().unwrap_or_default().as_bytes());
    out.put_slice(b"\ndata: ");
    write_json(out, data);
    out.put_slice(b"\n\n");
}

impl dialect::Frames for Frames {
    fn begin(&mut self, out: &mut BytesMut) {
        event(&json!({"type": "message_start", "message": self.start.take()}), out);
    }

    fn write(&mut self, event: FlightEvent, out: &mut BytesMut) -> Next {
        match event {
            FlightEvent::Started(_) => Next::More,
            FlightEvent::Delta(delta) => self.delta(&delta, out),
            FlightEvent::Finish { choice, reason } => self.finish(choice, &reason, out),
            FlightEvent::Done(report) => self.done(&report, out),
            FlightEvent::Failed(error) => fail(&error, out),
            FlightEvent::Whole(_) | FlightEvent::Embedded(_) => fail(&bug(), out),
        }
    }

    fn keep_alive(&self) -> &'static [u8] {
        b"event: ping\ndata: {\"type\":\"ping\"}\n\n"
    }
}
