//! The exact JSON of OpenAI's answers, marked as simulated, and the choice between it and Anthropic's
//! ([`messages`]). Pure.

use super::messages;
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
    /// The tool that is called.
    pub tool: Option<String>,
    /// JSON that the words stand in; chats only.
    pub around: Option<(String, String)>,
    /// Of a text completion: what comes before each choice, if anything does.
    pub echo: Vec<String>,
    /// Of a text completion: alternatives told with each token.
    pub logprobs: Option<u64>,
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

const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");
const BROKEN: Bytes = Bytes::from_static(b"data: {\"id\": \"sim\", \"choices\": [{\"delta\": {\"con\n\n");

impl Shape {
    /// What comes before the first token; text completions have their prompts if they want them.
    pub(super) fn opening(&self, prompt_tokens: u64) -> Option<Bytes> {
        match self.endpoint {
            Endpoint::Chat | Endpoint::Embeddings => {
                let role = match &self.tool {
                    Some(name) => json!({"role": "assistant", "content": null, "tool_calls": [self.call(0, name, "")]}),
                    None => json!({"role": "assistant", "content": "", "refusal": null}),
                };
                let mut opening = self.each_choice(|_| (role.clone(), Value::Null)).to_vec();
                if let Some((before, _)) = &self.around {
                    opening.extend(self.piece(before));
                }
                Some(opening.into())
            }
            Endpoint::Completion => (!self.echo.is_empty()).then(|| {
                let prompt = |(index, prompt): (u32, &String)| {
                    let choice = json!([{"index": index, "text": prompt, "logprobs": self.logprobs_of(&[prompt.as_str()]),
                        "finish_reason": null}]);
                    event(&self.chunk(choice, Value::Null))
                };
                (0..).zip(&self.echo).map(prompt).collect::<Vec<_>>().concat().into()
            }),
            Endpoint::Messages => Some(messages::opening(self, prompt_tokens)),
        }
    }

    pub(super) fn token_frames(&self) -> TokenFrames {
        const MARK: &str = "<token>";
        let event = match self.endpoint {
            Endpoint::Chat | Endpoint::Embeddings => self.piece(MARK),
            Endpoint::Completion => self.each_choice(|_| (MARK.into(), Value::Null)),
            Endpoint::Messages => messages::piece(self, MARK),
        };
        let event = String::from_utf8_lossy(&event);
        let marks = match self.logprobs {
            Some(0) => 2,
            Some(_) => 3,
            None => 1,
        };
        let around = event.split_inclusive("\n\n").map(|event| {
            // The model's name may hold the mark too, but stands before it in every event.
            let mut pieces: Vec<String> = event.rsplitn(marks + 1, MARK).map(str::to_owned).collect();
            pieces.reverse();
            pieces
        });
        TokenFrames { around: around.collect() }
    }

    /// What comes after the last token: the reason, and usage if it was asked for.
    pub(super) fn closing(&self, reason: &str, usage: Usage) -> Vec<Bytes> {
        let finish = match self.endpoint {
            Endpoint::Chat | Endpoint::Embeddings => {
                let mut finish = match &self.around {
                    Some((_, after)) if reason != "length" => self.piece(after).to_vec(),
                    _ => Vec::new(),
                };
                finish.extend(self.each_choice(|_| (json!({}), self.reason(reason).into())));
                finish.into()
            }
            Endpoint::Completion => self.each_choice(|_| ("".into(), reason.into())),
            Endpoint::Messages => return vec![messages::closing(self, reason, usage)],
        };
        let usage = self.usage_asked.then(|| event(&self.chunk(json!([]), usage.json())));
        std::iter::once(finish).chain(usage).collect()
    }

    /// The declared end of a stream.
    pub(super) fn end(&self) -> Bytes {
        if self.endpoint == Endpoint::Messages { messages::STOP } else { DONE }
    }

    pub(super) fn broken_event(&self) -> Bytes {
        if self.endpoint == Endpoint::Messages { messages::BROKEN } else { BROKEN }
    }

    pub(super) fn error_event(&self) -> Bytes {
        const WHY: &str = "the stream failed";
        match self.endpoint {
            Endpoint::Messages => messages::event(&error(self.endpoint, 200, "overloaded", WHY)),
            endpoint => event(&error(endpoint, 500, "server_error", WHY)),
        }
    }

    /// The answer in one piece.
    pub(super) fn whole(&self, words: &[String], reason: &str, usage: Option<Usage>) -> Vec<u8> {
        let text = words.concat();
        if self.endpoint == Endpoint::Messages {
            return messages::whole(self, &text, reason, usage);
        }
        let text = match &self.around {
            Some((before, after)) => format!("{before}{text}{}", if reason == "length" { "" } else { after }),
            None => text,
        };
        let choices = (0..self.choices).map(|index| match self.endpoint {
            Endpoint::Chat | Endpoint::Messages | Endpoint::Embeddings => json!({
                "index": index,
                "message": self.message(index, &text),
                "logprobs": null,
                "finish_reason": self.reason(reason)
            }),
            Endpoint::Completion => {
                let echo = self.echo.get(index as usize).map(String::as_str);
                let tokens: Vec<&str> = echo.into_iter().chain(words.iter().map(String::as_str)).collect();
                let text = format!("{}{text}", echo.unwrap_or_default());
                json!({"text": text, "index": index, "logprobs": self.logprobs_of(&tokens), "finish_reason": reason})
            }
        });
        let mut answer = json!({
            "id": self.id,
            "object": if self.endpoint == Endpoint::Completion { "text_completion" } else { "chat.completion" },
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

    /// A text completion's, of one piece or more: every one as likely as the next.
    fn logprobs_of(&self, tokens: &[&str]) -> Value {
        const LOGPROB: f64 = -0.5;
        let Some(alternatives) = self.logprobs else { return Value::Null };
        let each = |value: fn(&&str) -> Value| tokens.iter().map(value).collect::<Vec<_>>();
        let top = (alternatives > 0).then(|| each(|token| json!({*token: LOGPROB})));
        json!({"tokens": tokens, "token_logprobs": each(|_| json!(LOGPROB)), "top_logprobs": top})
    }

    fn message(&self, index: u32, text: &str) -> Value {
        let mut message = json!({"role": "assistant", "content": text, "refusal": null, "annotations": []});
        if let Some(name) = &self.tool {
            message["content"] = Value::Null;
            message["tool_calls"] = json!([self.call(index, name, text)]);
            message["tool_calls"][0].as_object_mut().map(|call| call.shift_remove("index"));
        }
        message
    }

    fn call(&self, index: u32, name: &str, arguments: &str) -> Value {
        let function = json!({"name": name, "arguments": arguments});
        json!({"index": 0, "id": format!("call_{}_{index}", self.id), "type": "function", "function": function})
    }

    /// A piece of the text, or of the called tool's arguments.
    fn piece(&self, text: &str) -> Bytes {
        let delta = match self.tool {
            Some(_) => json!({"tool_calls": [{"index": 0, "function": {"arguments": text}}]}),
            None => json!({"content": text}),
        };
        self.each_choice(|_| (delta.clone(), Value::Null))
    }

    fn reason<'a>(&self, reason: &'a str) -> &'a str {
        if self.tool.is_some() && reason == "stop" { "tool_calls" } else { reason }
    }

    /// One event per choice, of the piece and the finish reason that `make` gives.
    fn each_choice(&self, make: impl Fn(Endpoint) -> (Value, Value)) -> Bytes {
        let (piece, finish_reason) = make(self.endpoint);
        let field = if self.endpoint == Endpoint::Completion { "text" } else { "delta" };
        let mut events = Vec::new();
        for index in 0..self.choices {
            let said = piece.as_str().filter(|said| field == "text" && !said.is_empty());
            let logprobs = said.map_or(Value::Null, |said| self.logprobs_of(&[said]));
            let choice = json!([{"index": index, field: piece, "logprobs": logprobs, "finish_reason": finish_reason}]);
            events.extend_from_slice(&event(&self.chunk(choice, Value::Null)));
        }
        events.into()
    }

    fn chunk(&self, choices: Value, usage: Value) -> Value {
        let mut chunk = json!({
            "id": self.id,
            "object": if self.endpoint == Endpoint::Completion { "text_completion" } else { "chat.completion.chunk" },
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
    /// Before and after each of its places, per choice.
    around: Vec<Vec<String>>,
}

impl TokenFrames {
    /// One event per choice. `text` needs no escaping in JSON.
    pub(super) fn frame(&self, text: &str) -> Bytes {
        self.around.iter().map(|pieces| pieces.join(text)).collect::<String>().into()
    }
}

/// One SSE event.
fn event(data: &Value) -> Bytes {
    format!("data: {data}\n\n").into()
}

/// The endpoint's error object.
pub(super) fn error(endpoint: Endpoint, status: u16, code: &str, message: &str) -> Value {
    if endpoint == Endpoint::Messages {
        return messages::error(status, code, message);
    }
    let kind = match status {
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    json!({"error": {"message": format!("{message} (simulated)"), "type": kind, "param": null, "code": code}})
}
