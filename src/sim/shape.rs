//! The exact JSON of OpenAI's answers, marked as simulated. Pure.

use super::request::Endpoint;
use bytes::Bytes;
use serde_json::{Value, json};

/// What one answer repeats in each of its chunks.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub endpoint: Endpoint,
    pub id: String,
    pub created: u64,
    pub model: String,
    pub choices: u32,
    /// Streams say `"usage": null` in every chunk once usage is asked for.
    pub usage_asked: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    pub prompt: u64,
    pub completion: u64,
}

impl Usage {
    fn json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0}
        })
    }
}

pub(super) const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

impl Shape {
    /// The chunk before the first token; text completions have none.
    pub(super) fn role(&self) -> Option<Bytes> {
        (self.endpoint == Endpoint::Chat)
            .then(|| self.each_choice(|_| (json!({"role": "assistant", "content": "", "refusal": null}), Value::Null)))
    }

    pub(super) fn token_frames(&self) -> TokenFrames {
        const MARK: &str = "<token>";
        let event = self.each_choice(|endpoint| {
            let piece = match endpoint {
                Endpoint::Chat => json!({"content": MARK}),
                Endpoint::Completion => MARK.into(),
            };
            (piece, Value::Null)
        });
        let event = String::from_utf8_lossy(&event);
        // The model's name may hold the mark too, but stands before it in every event.
        let around = event.split_inclusive("\n\n").filter_map(|event| event.rsplit_once(MARK));
        TokenFrames { around: around.map(|(before, after)| (before.to_owned(), after.to_owned())).collect() }
    }

    pub(super) fn finish(&self, reason: &str) -> Bytes {
        self.each_choice(|endpoint| {
            let piece = match endpoint {
                Endpoint::Chat => json!({}),
                Endpoint::Completion => "".into(),
            };
            (piece, reason.into())
        })
    }

    pub(super) fn usage(&self, usage: Usage) -> Bytes {
        event(&self.chunk(json!([]), usage.json()))
    }

    /// The answer in one piece.
    pub(super) fn whole(&self, text: &str, reason: &str, usage: Option<Usage>) -> Vec<u8> {
        let choices = (0..self.choices).map(|index| match self.endpoint {
            Endpoint::Chat => json!({
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": null, "annotations": []},
                "logprobs": null,
                "finish_reason": reason
            }),
            Endpoint::Completion => json!({"text": text, "index": index, "logprobs": null, "finish_reason": reason}),
        });
        let mut answer = json!({
            "id": self.id,
            "object": match self.endpoint { Endpoint::Chat => "chat.completion", Endpoint::Completion => "text_completion" },
            "created": self.created,
            "model": self.model,
            "choices": choices.collect::<Vec<_>>(),
            "system_fingerprint": "simulated"
        });
        if let Some(usage) = usage {
            answer["usage"] = usage.json();
        }
        answer.to_string().into_bytes()
    }

    /// One event per choice, of the piece and the finish reason that `make` gives.
    fn each_choice(&self, make: impl Fn(Endpoint) -> (Value, Value)) -> Bytes {
        let (piece, finish_reason) = make(self.endpoint);
        let field = match self.endpoint {
            Endpoint::Chat => "delta",
            Endpoint::Completion => "text",
        };
        let mut events = Vec::new();
        for index in 0..self.choices {
            let choice = json!([{"index": index, field: piece, "logprobs": null, "finish_reason": finish_reason}]);
            events.extend_from_slice(&event(&self.chunk(choice, Value::Null)));
        }
        events.into()
    }

    fn chunk(&self, choices: Value, usage: Value) -> Value {
        let mut chunk = json!({
            "id": self.id,
            "object": match self.endpoint { Endpoint::Chat => "chat.completion.chunk", Endpoint::Completion => "text_completion" },
            "created": self.created,
            "model": self.model,
            "system_fingerprint": "simulated",
            "choices": choices
        });
        if self.usage_asked {
            chunk["usage"] = usage;
        }
        chunk
    }
}

/// Everything around a token, made once for an answer: a benchmark's upstream must cost next to nothing.
#[derive(Debug, Clone)]
pub(super) struct TokenFrames {
    /// Before and after it, per choice.
    around: Vec<(String, String)>,
}

impl TokenFrames {
    /// One event per choice. `text` needs no escaping in JSON.
    pub(super) fn frame(&self, text: &str) -> Bytes {
        self.around.iter().flat_map(|(before, after)| [before, text, after]).collect::<String>().into()
    }
}

/// One SSE event.
pub(super) fn event(data: &Value) -> Bytes {
    format!("data: {data}\n\n").into()
}

/// OpenAI's error object.
pub(super) fn error(status: u16, code: &str, message: &str) -> Value {
    let kind = match status {
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    json!({"error": {"message": format!("{message} (simulated)"), "type": kind, "param": null, "code": code}})
}
