//! From an engine's text to what a client sees of it: text, tool calls, likelihoods. Pure.
//!
//! Outlives an engine: what was read stays read, and a replayed answer goes on behind it.

use crate::{
    domain::{ChatRequest, Delta, RequestId},
    gpu::frame::{Alternative, ChatTraits, PromptToken, TokenLogprob},
    tools::{Dialect, Piece, Reader},
};
use serde_json::{Map, Value, json};

/// One answer being read.
#[derive(Debug)]
pub(super) struct Reading {
    calls: Option<Calls>,
    wants_logprobs: bool,
    /// Of tokens whose text has not been seen yet.
    logprobs: Vec<TokenLogprob>,
    /// Of the engine's text that was read.
    bytes: u64,
    /// Of all log-probabilities, and how many there were.
    likelihood: (f32, u32),
}

#[derive(Debug)]
struct Calls {
    reader: Reader,
    dialect: Dialect,
    request: RequestId,
    choice: u32,
    /// Calls go back as `function_call`.
    legacy: bool,
}

impl Reading {
    /// For an answer to this request, the `choice`-th of several, by a model whose template has these traits.
    pub(super) fn new(request: &ChatRequest, choice: u32, traits: ChatTraits) -> Self {
        let calls = request.output.tools.as_ref().map(|wish| {
            let names = wish.callable().map(|tool| tool.name.clone());
            let dialect = traits.dialect;
            Calls { reader: Reader::new(dialect, names), dialect, request: request.id, choice, legacy: wish.legacy }
        });
        let wants_logprobs = request.output.logprobs.is_some();
        Self { calls, wants_logprobs, logprobs: Vec::new(), bytes: 0, likelihood: (0.0, 0) }
    }

    /// Of the engine's text that was read, shown or not.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Of all tokens, where the engine told.
    pub(super) fn mean_logprob(&self) -> Option<f32> {
        let (sum, count) = self.likelihood;
        (count > 0).then(|| sum / count as f32)
    }

    /// The dialect that is read; `None` = text is text.
    pub(super) fn dialect(&self) -> Option<Dialect> {
        self.calls.as_ref().map(|calls| calls.dialect)
    }

    /// Takes the engine's next piece; gives what can be seen now.
    pub(super) fn piece(&mut self, text: String, tokens: Vec<i32>, logprobs: Vec<TokenLogprob>) -> Vec<Delta> {
        self.bytes += text.len() as u64;
        for logprob in &logprobs {
            self.likelihood = (self.likelihood.0 + logprob.chosen.logprob, self.likelihood.1 + 1);
        }
        if self.wants_logprobs {
            self.logprobs.extend(logprobs);
        }
        let mut deltas = match &mut self.calls {
            Some(calls) => calls.reader.push(&text).into_iter().filter_map(|piece| calls.delta(piece)).collect(),
            None if text.is_empty() => Vec::new(),
            None => vec![Delta { content: Some(text), ..Delta::default() }],
        };
        if let Some(first) = deltas.first_mut() {
            first.tokens = tokens;
            first.logprobs = self.take_logprobs();
        }
        deltas
    }

    /// The engine's text has ended, by the model or by a limit: what is left, and the reason a client reads. Likelihoods
    /// without text are those of a stop string.
    pub(super) fn finish(&mut self, reason: &'static str) -> (Vec<Delta>, &'static str) {
        let Some(calls) = &mut self.calls else { return (Vec::new(), reason) };
        let deltas =
            calls.reader.finish(reason == "length").into_iter().filter_map(|piece| calls.delta(piece)).collect();
        let reason = match (reason, calls.reader.calls(), calls.legacy) {
            ("stop", 1.., true) => "function_call",
            ("stop", 1.., false) => "tool_calls",
            _ => reason,
        };
        (deltas, reason)
    }

    fn take_logprobs(&mut self) -> Option<Value> {
        let taken = std::mem::take(&mut self.logprobs);
        self.wants_logprobs.then(|| {
            let content: Vec<Value> = taken.iter().map(spelled).collect();
            json!({"content": content, "refusal": null})
        })
    }
}

impl Calls {
    fn delta(&self, piece: Piece) -> Option<Delta> {
        let function = match &piece {
            Piece::Text(_) => Value::Null,
            Piece::Call { name, .. } => json!({"name": name, "arguments": ""}),
            Piece::Arguments { text, .. } => json!({"arguments": text}),
        };
        let call = match piece {
            Piece::Text(text) => return Some(Delta { content: Some(text), ..Delta::default() }),
            // The old interface knows one call.
            Piece::Call { index, .. } | Piece::Arguments { index, .. } if self.legacy => {
                return (index == 0).then(|| other("function_call", function));
            }
            Piece::Call { index, .. } => {
                json!({"index": index, "id": self.id(index), "type": "function", "function": function})
            }
            Piece::Arguments { index, .. } => json!({"index": index, "function": function}),
        };
        Some(other("tool_calls", json!([call])))
    }

    /// The same whenever this request is answered anew, and no other's nor another choice's.
    fn id(&self, index: usize) -> String {
        let request = self.request.to_string();
        let digits = request.get(request.len().saturating_sub(19)..).unwrap_or(&request);
        format!("call_{digits}{:02x}{index:03x}", self.choice)
    }
}

fn other(name: &str, value: Value) -> Delta {
    Delta { other: Map::from_iter([(name.to_owned(), value)]), ..Delta::default() }
}

/// As a chat's logprobs are written; `/v1/completions` makes its own form of it.
fn spelled(logprob: &TokenLogprob) -> Value {
    let one = |alternative: &Alternative| {
        let token = String::from_utf8_lossy(&alternative.bytes);
        json!({"token": token, "logprob": alternative.logprob, "bytes": alternative.bytes})
    };
    let mut spelled = one(&logprob.chosen);
    spelled["top_logprobs"] = logprob.top.iter().map(one).collect();
    spelled
}

/// As [`spelled`]; nothing is known of how likely a first token is.
pub(super) fn spelled_prompt(token: &PromptToken) -> Value {
    let chosen = Alternative { token: token.token, bytes: token.bytes.clone(), logprob: token.logprob.unwrap_or(0.0) };
    let mut spelled = spelled(&TokenLogprob { chosen, top: token.top.clone() });
    if token.logprob.is_none() {
        spelled["logprob"] = Value::Null;
    }
    spelled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{OutputWish, Tool, ToolChoice, ToolWish};
    use std::sync::Arc;

    fn asks(legacy: bool, logprobs: Option<u8>) -> ChatRequest {
        let tool = Tool { name: "look".into(), function: json!({"name": "look"}), parameters: None, strict: false };
        let wish = ToolWish { tools: vec![tool], choice: ToolChoice::Auto, parallel: None, legacy };
        let output = OutputWish { tools: Some(Arc::new(wish)), logprobs, ..OutputWish::default() };
        ChatRequest { output, ..ChatRequest::plain("hi") }
    }

    fn hermes() -> ChatTraits {
        ChatTraits { dialect: Dialect::Hermes, ..ChatTraits::default() }
    }

    const SAID: &str = "Hm. <tool_call>{\"name\": \"look\", \"arguments\": {}}</tool_call>";

    fn deltas(request: &ChatRequest) -> (Vec<Delta>, &'static str) {
        let mut reading = Reading::new(request, 0, hermes());
        let mut all = reading.piece(SAID.into(), vec![1, 2], vec![]);
        let (rest, reason) = reading.finish("stop");
        all.extend(rest);
        assert_eq!(reading.bytes(), SAID.len() as u64);
        (all, reason)
    }

    #[test]
    fn calls_become_deltas_that_begin_with_id_and_name() {
        let (deltas, reason) = deltas(&asks(false, None));
        assert_eq!(reason, "tool_calls");
        assert_eq!((deltas[0].content.as_deref(), &deltas[0].tokens), (Some("Hm."), &vec![1, 2]));
        let first = &deltas[1].other["tool_calls"][0];
        let id = first["id"].as_str().unwrap();
        assert!(id.starts_with("call_") && id.len() == 29, "{id}");
        assert_eq!(
            (&first["index"], &first["type"], &first["function"]),
            (&json!(0), &json!("function"), &json!({"name": "look", "arguments": ""}))
        );
        assert_eq!(deltas[2].other["tool_calls"], json!([{"index": 0, "function": {"arguments": "{}"}}]));
    }

    #[test]
    fn the_old_interface_gets_a_function_call() {
        let (deltas, reason) = deltas(&asks(true, None));
        assert_eq!(reason, "function_call");
        assert_eq!(deltas[1].other["function_call"], json!({"name": "look", "arguments": ""}));
        assert_eq!(deltas[2].other["function_call"], json!({"arguments": "{}"}));
    }

    #[test]
    fn a_limit_stays_a_limit_and_no_call_changes_nothing() {
        let mut reading = Reading::new(&asks(false, None), 0, hermes());
        reading.piece(SAID.into(), vec![], vec![]);
        assert_eq!(reading.finish("length").1, "length");
        let mut reading = Reading::new(&asks(false, None), 0, hermes());
        assert!(reading.piece("<tool".into(), vec![], vec![]).is_empty());
        let (rest, reason) = reading.finish("stop");
        assert_eq!((rest[0].content.as_deref(), reason), (Some("<tool"), "stop"));
    }

    #[test]
    fn likelihoods_wait_for_their_text_and_are_told_once() {
        let logprob = |token: i32, text: &str| TokenLogprob {
            chosen: Alternative { token, bytes: text.into(), logprob: -0.5 },
            top: vec![Alternative { token: 9, bytes: vec![0xC3], logprob: -0.25 }],
        };
        let request = ChatRequest {
            output: OutputWish { logprobs: Some(1), ..OutputWish::default() },
            ..ChatRequest::plain("x")
        };
        let mut reading = Reading::new(&request, 0, ChatTraits::default());
        assert!(reading.piece(String::new(), vec![1], vec![logprob(1, "a")]).is_empty());
        let shown = reading.piece("ab".into(), vec![2], vec![logprob(2, "b")]);
        let entry = |text: &str| {
            json!({"token": text, "logprob": -0.5, "bytes": text.as_bytes(),
                "top_logprobs": [{"token": "\u{FFFD}", "logprob": -0.25, "bytes": [195]}]})
        };
        assert_eq!(shown[0].logprobs, Some(json!({"content": [entry("a"), entry("b")], "refusal": null})));
        assert_eq!(
            reading.piece("c".into(), vec![3], vec![]).first().unwrap().logprobs,
            Some(json!({"content": [], "refusal": null}))
        );
    }
}
