//! One streamed question over the API: what is sent, what comes back, and in how many ways it can go wrong. Never retries: that
//! is the gateway's business. Shows nothing itself.

use super::{
    ChatArgs,
    clean::{deepest, one_line},
    configured_url,
};
use crate::call;
use futures_util::StreamExt;
use reqwest::{Response, StatusCode, header::RETRY_AFTER};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use spillway_actors::cloud::sse::SseParser;
use std::{fmt, time::Duration};

/// A gateway on the way is there at once or not at all.
const CONNECT: Duration = Duration::from_secs(10);
/// Longer than the gateway lets a request live; it breaks the silence every 15 s.
const SILENCE: Duration = Duration::from_secs(180);
/// Of one answer.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// Of an answer that is an error.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// Characters of an error that is no JSON.
const SHOWN: usize = 200;

/// What was said so far, and how the next answer is wanted.
#[derive(Debug, Clone)]
pub(super) struct Conversation {
    pub(super) model: String,
    system: Option<String>,
    max_tokens: Option<u32>,
    turns: Vec<(&'static str, String)>,
}

impl Conversation {
    pub(super) fn new(model: String, system: Option<String>, max_tokens: Option<u32>) -> Self {
        Self { model, system, max_tokens, turns: Vec::new() }
    }

    pub(super) fn say(&mut self, text: String) {
        self.turns.push(("user", text));
    }

    pub(super) fn hear(&mut self, text: String) {
        self.turns.push(("assistant", text));
    }

    /// As if the last question had not been asked.
    pub(super) fn unsay(&mut self) {
        self.turns.pop();
    }

    pub(super) fn begin_anew(&mut self) {
        self.turns.clear();
    }

    pub(super) fn tell_system(&mut self, text: Option<String>) {
        self.system = text;
    }

    fn body(&self) -> Value {
        let system = self.system.iter().map(|text| ("system", text.as_str()));
        let turns = self.turns.iter().map(|(role, text)| (*role, text.as_str()));
        let messages: Vec<Value> =
            system.chain(turns).map(|(role, text)| json!({"role": role, "content": text})).collect();
        let mut body = json!({
            "model": self.model, "messages": messages, "stream": true, "stream_options": {"include_usage": true},
        });
        if let Some(most) = self.max_tokens {
            body["max_tokens"] = most.into();
        }
        body
    }
}

/// What came, whole or not.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) finish_reason: Option<String>,
    pub(super) usage: Option<Value>,
    pub(super) routing: Option<Value>,
}

/// Why there is no whole answer.
#[derive(Debug)]
pub(super) enum Failure {
    Unreachable {
        url: String,
        why: String,
    },
    Refused {
        status: u16,
        code: Option<String>,
        message: String,
        retry_after: Option<String>,
    },
    /// It began and did not end well.
    Broken(String),
    Interrupted,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { url, why } => {
                let url = one_line(url);
                write!(f, "no gateway answers at {url} ({why}): start one with `spillway serve`, or name it with --url")
            }
            Self::Refused { status, message, retry_after, .. } => {
                write!(f, "{status}: {message}")?;
                match (status, retry_after) {
                    (401, _) => f.write_str(" (the key is taken from --key or SPILLWAY_API_KEY)"),
                    (_, Some(seconds)) => write!(f, " (try again in {seconds} s)"),
                    _ => Ok(()),
                }
            }
            Self::Broken(why) => write!(f, "the answer broke off: {why}"),
            Self::Interrupted => f.write_str("the answer was ended here"),
        }
    }
}

impl Failure {
    /// 1 refused or broken off, 2 a model that nobody knows, 3 nobody is there or nothing can serve.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => crate::cli::UNHEALTHY,
            Self::Refused { status: 500.., .. } => crate::cli::UNHEALTHY,
            Self::Refused { status: 404, .. } => crate::cli::USAGE,
            Self::Refused { .. } | Self::Broken(_) | Self::Interrupted => 1,
        }
    }

    pub(super) fn status(&self) -> Option<u16> {
        if let Self::Refused { status, .. } = self { Some(*status) } else { None }
    }

    pub(super) fn code(&self) -> Option<&str> {
        if let Self::Refused { code, .. } = self { code.as_deref() } else { None }
    }
}

/// A gateway's API.
pub(super) struct Api {
    http: reqwest::Client,
    base_url: String,
    key: Option<SecretString>,
}

impl Api {
    pub(super) fn new(args: &ChatArgs) -> Result<Self, String> {
        let url = args.url.clone().map_or_else(|| configured_url(&args.config), Ok)?;
        let http = call::client(&url).connect_timeout(CONNECT).read_timeout(SILENCE).build();
        let http = http.map_err(|error| format!("no HTTP client can be made here: {error}"))?;
        let base = url.trim_end_matches('/');
        Ok(Self { http, base_url: base.strip_suffix("/v1").unwrap_or(base).to_owned(), key: args.key.clone() })
    }

    pub(super) fn url(&self) -> &str {
        &self.base_url
    }

    /// Asks, and tells `show` each piece as it comes. What came is in `answer`, whatever the end was.
    pub(super) async fn ask(
        &self,
        conversation: &Conversation,
        answer: &mut Answer,
        mut show: impl FnMut(&str),
    ) -> Result<(), Failure> {
        let mut request = self.http.post(format!("{}/v1/chat/completions", self.base_url)).json(&conversation.body());
        if let Some(key) = &self.key {
            request = request.bearer_auth(key.expose_secret());
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        let (mut bytes, mut events) = (response.bytes_stream(), SseParser::new());
        while let Some(piece) = bytes.next().await {
            let piece = piece.map_err(|error| Failure::Broken(deepest(&error)))?;
            events.push(&piece).map_err(|error| Failure::Broken(error.to_string()))?;
            while let Some(event) = events.next_event().map_err(|error| Failure::Broken(error.to_string()))? {
                if event.data == "[DONE]" {
                    return if answer.finish_reason.is_some() { Ok(()) } else { Err(cut()) };
                }
                answer.take(&event.data, &mut show)?;
            }
        }
        Err(cut())
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        Failure::Unreachable { url: self.base_url.clone(), why: deepest(error) }
    }
}

fn cut() -> Failure {
    Failure::Broken("the connection ended before it did".to_owned())
}

impl Answer {
    fn take(&mut self, data: &str, show: &mut impl FnMut(&str)) -> Result<(), Failure> {
        let mut chunk: Value =
            serde_json::from_str(data).map_err(|_| Failure::Broken("a part of it is no JSON".to_owned()))?;
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            let message = error["message"].as_str().unwrap_or("an error without a message");
            return Err(Failure::Broken(one_line(message)));
        }
        let choice = &chunk["choices"][0];
        if let Some(piece) = choice["delta"]["content"].as_str().filter(|piece| !piece.is_empty()) {
            if self.text.len() + piece.len() > MAX_ANSWER_BYTES {
                return Err(Failure::Broken(format!("it is longer than {} MiB", MAX_ANSWER_BYTES >> 20)));
            }
            self.text.push_str(piece);
            show(piece);
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.finish_reason = Some(reason.to_owned());
        }
        for (name, place) in [("usage", &mut self.usage), ("routing", &mut self.routing)] {
            if let Some(object) = chunk.get_mut(name).filter(|object| object.is_object()) {
                *place = Some(object.take());
            }
        }
        Ok(())
    }
}

/// The error of an answer, however far it is from the form that it should have.
async fn refused(response: Response) -> Failure {
    let status = response.status();
    if let Some(message) = call::elsewhere(&response) {
        return Failure::Refused { status: status.as_u16(), code: None, message, retry_after: None };
    }
    let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = header.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())).map(str::to_owned);
    let (mut bytes, mut body) = (response.bytes_stream(), Vec::new());
    while let (Some(Ok(piece)), true) = (bytes.next().await, body.len() < MAX_ERROR_BYTES) {
        body.extend_from_slice(&piece);
    }
    let object: Value = serde_json::from_slice(&body).unwrap_or_default();
    let message = match object["error"]["message"].as_str() {
        Some(message) => one_line(message),
        None => foreign(status, &body),
    };
    let code = object["error"]["code"].as_str().map(one_line);
    Failure::Refused { status: status.as_u16(), code, message, retry_after }
}

fn foreign(status: StatusCode, body: &[u8]) -> String {
    let text: String = one_line(&String::from_utf8_lossy(body)).chars().take(SHOWN).collect();
    let said =
        if text.trim().is_empty() { status.canonical_reason().unwrap_or("no reason given") } else { text.trim() };
    format!("{said} (is it a gateway?)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_is_sent_whole_with_the_system_message_first() {
        let mut talk = Conversation::new("auto".to_owned(), Some("Be brief.".to_owned()), Some(7));
        talk.say("one".to_owned());
        talk.hear("two".to_owned());
        talk.say("three".to_owned());
        let body = talk.body();
        let said: Vec<_> =
            body["messages"].as_array().unwrap().iter().map(|m| m["content"].as_str().unwrap()).collect();
        assert_eq!(said, ["Be brief.", "one", "two", "three"]);
        assert_eq!((&body["max_tokens"], &body["stream"]), (&7.into(), &true.into()));
        talk.unsay();
        assert_eq!(talk.body()["messages"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn chunks_become_an_answer_and_an_error_frame_its_end() {
        let (mut answer, mut shown) = (Answer::default(), String::new());
        let mut show = |piece: &str| shown.push_str(piece);
        for chunk in [
            json!({"choices": [{"delta": {"role": "assistant", "content": "He"}, "finish_reason": null}], "usage": null}),
            json!({"choices": [{"delta": {"content": "llo"}, "finish_reason": "stop"}]}),
            json!({"choices": [], "usage": {"prompt_tokens": 3}, "routing": {"target": "local"}}),
        ] {
            answer.take(&chunk.to_string(), &mut show).unwrap();
        }
        let broken = answer.take(r#"{"error": {"message": "gone\u001b[2J"}}"#, &mut show).unwrap_err();
        assert_eq!(broken.to_string(), "the answer broke off: gone");
        assert!(answer.take("no JSON", &mut show).is_err());
        assert_eq!((shown.as_str(), answer.text.as_str()), ("Hello", "Hello"));
        assert_eq!(answer.finish_reason.as_deref(), Some("stop"));
        assert_eq!(answer.routing.unwrap()["target"], "local");
    }

    #[test]
    fn every_failure_has_its_line_and_its_code() {
        let refused = |status, retry_after: Option<&str>| Failure::Refused {
            status,
            code: None,
            message: "why".to_owned(),
            retry_after: retry_after.map(str::to_owned),
        };
        for (failure, code, line) in [
            (refused(401, None), 1, "401: why (the key is taken from --key or SPILLWAY_API_KEY)"),
            (refused(404, None), 2, "404: why"),
            (refused(429, Some("7")), 1, "429: why (try again in 7 s)"),
            (refused(503, Some("1")), 3, "503: why (try again in 1 s)"),
            (Failure::Broken("x".to_owned()), 1, "the answer broke off: x"),
            (Failure::Interrupted, 1, "the answer was ended here"),
        ] {
            assert_eq!((failure.exit_code(), failure.to_string().as_str()), (code, line));
        }
    }
}
