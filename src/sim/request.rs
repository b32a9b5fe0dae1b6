//! The part of an OpenAI request that the simulation looks at. Pure.

use super::{
    embeddings::{self, Texts},
    instance, messages,
};
use serde::Deserialize;
use serde_json::Value;

const MAX_CHOICES: u32 = 8;

#[derive(Debug, Deserialize)]
struct Raw {
    #[serde(default)]
    model: String,
    messages: Option<Vec<RawMessage>>,
    prompt: Option<Value>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    n: Option<u32>,
    echo: Option<bool>,
    /// A flag of chats, a number of text completions.
    #[serde(default)]
    logprobs: Value,
    #[serde(default)]
    tools: Vec<Value>,
    #[serde(default)]
    tool_choice: Value,
    #[serde(default)]
    response_format: Value,
}

#[derive(Debug, Deserialize)]
struct RawMessage {
    role: String,
    #[serde(default)]
    content: Value,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// Which endpoint was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Chat,
    Completion,
    /// Anthropic's.
    Messages,
    Embeddings,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SimRequest {
    pub endpoint: Endpoint,
    pub model: String,
    /// Everything said before the answer, without `prefix`.
    pub prompt: String,
    /// The last message, if it is the assistant's.
    pub prefix: Option<String>,
    pub prompt_tokens: u64,
    pub stream: bool,
    pub include_usage: bool,
    pub max_tokens: Option<u32>,
    pub choices: u32,
    /// The tool to call instead of answering.
    pub tool: Option<String>,
    /// To be turned into vectors.
    pub texts: Texts,
    /// JSON that the words stand in.
    pub around: Option<(String, String)>,
    /// What a text completion says before each of its choices; as many as choices, or none.
    pub echo: Vec<String>,
    /// Alternatives that a text completion tells with each token.
    pub logprobs: Option<u64>,
}

impl SimRequest {
    pub(super) fn to_embed(model: String, prompt_tokens: u64, texts: Texts) -> Self {
        Self {
            endpoint: Endpoint::Embeddings,
            model,
            prompt: String::new(),
            prefix: None,
            prompt_tokens,
            stream: false,
            include_usage: false,
            max_tokens: None,
            choices: 1,
            tool: None,
            around: None,
            echo: Vec::new(),
            logprobs: None,
            texts,
        }
    }

    /// # Errors
    /// What is wrong with the body, for its sender.
    pub(super) fn parse(endpoint: Endpoint, body: &[u8]) -> Result<Self, String> {
        if endpoint == Endpoint::Messages {
            return messages::parse(body);
        }
        if endpoint == Endpoint::Embeddings {
            return embeddings::parse(body);
        }
        let raw: Raw = serde_json::from_slice(body).map_err(|error| format!("invalid body: {error}"))?;
        let (prompt, prefix, prompt_tokens) = match endpoint {
            Endpoint::Chat | Endpoint::Messages | Endpoint::Embeddings => {
                read_messages(raw.messages.as_deref().unwrap_or_default())?
            }
            Endpoint::Completion => {
                let prompt = text_of(raw.prompt.as_ref().ok_or("prompt is missing")?);
                let tokens = tokens_of(&prompt);
                (prompt, None, tokens)
            }
        };
        let (tool, around) = if endpoint == Endpoint::Chat { raw.wish() } else { (None, None) };
        let n = raw.n.unwrap_or(1).clamp(1, MAX_CHOICES);
        let prompts = if endpoint == Endpoint::Completion { raw.prompts() } else { Vec::new() };
        let each = |prompt: &String| std::iter::repeat_n(prompt.clone(), n as usize);
        let all: Vec<String> = prompts.iter().flat_map(each).take(MAX_CHOICES as usize).collect();
        let choices = u32::try_from(all.len()).unwrap_or(n).max(n);
        Ok(Self {
            endpoint,
            model: raw.model,
            prompt,
            prefix,
            prompt_tokens,
            stream: raw.stream.unwrap_or(false),
            include_usage: raw.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
            max_tokens: raw.max_completion_tokens.or(raw.max_tokens),
            choices,
            tool,
            around,
            echo: if raw.echo == Some(true) { all } else { Vec::new() },
            logprobs: raw.logprobs.as_u64().filter(|_| endpoint == Endpoint::Completion),
            texts: Texts::default(),
        })
    }
}

impl Raw {
    fn prompts(&self) -> Vec<String> {
        match &self.prompt {
            Some(Value::Array(prompts)) if !prompts.iter().any(Value::is_number) => {
                prompts.iter().map(text_of).collect()
            }
            Some(prompt) => vec![text_of(prompt)],
            None => Vec::new(),
        }
    }

    /// The tool that is called, unless its result is here or none is wanted; and the JSON to say.
    fn wish(&self) -> (Option<String>, Option<(String, String)>) {
        let has_result = self.messages.iter().flatten().next_back().is_some_and(|last| last.role == "tool");
        let named = self.tool_choice.pointer("/function/name");
        let is_called = |tool: &&Value| named.is_none_or(|name| tool.pointer("/function/name") == Some(name));
        let tool = self.tools.iter().find(is_called).filter(|_| !has_result && self.tool_choice != "none");
        if let Some(tool) = tool {
            let name = tool.pointer("/function/name").and_then(Value::as_str).unwrap_or_default();
            return (Some(name.to_owned()), Some(instance::around(tool.pointer("/function/parameters"))));
        }
        let format = self.response_format.get("type").and_then(Value::as_str);
        let is_json = matches!(format, Some("json_object" | "json_schema"));
        (None, is_json.then(|| instance::around(self.response_format.pointer("/json_schema/schema"))))
    }
}

fn read_messages(messages: &[RawMessage]) -> Result<(String, Option<String>, u64), String> {
    let (last, before) = messages.split_last().ok_or("messages is missing or empty")?;
    let mut tokens = 0;
    let mut prompt = String::new();
    let mut take = |message: &RawMessage| {
        let text = text_of(&message.content);
        tokens += tokens_of(&text) + 4;
        for part in [message.role.as_str(), "\n", text.as_str(), "\n"] {
            prompt.push_str(part);
        }
    };
    before.iter().for_each(&mut take);
    if last.role != "assistant" {
        take(last);
        return Ok((prompt, None, tokens));
    }
    let prefix = text_of(&last.content);
    let tokens = tokens + tokens_of(&prefix) + 4;
    Ok((prompt, Some(prefix), tokens))
}

/// A text, or the texts of a list of parts, prompts or token ids.
pub(super) fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(text_of).collect::<Vec<_>>().join("\n"),
        Value::Object(part) => part.get("text").and_then(Value::as_str).unwrap_or_default().to_owned(),
        Value::Number(token) => token.to_string(),
        Value::Null | Value::Bool(_) => String::new(),
    }
}

/// Four bytes each: it must be counted the same on every run, not rightly.
pub(super) fn tokens_of(text: &str) -> u64 {
    text.len().div_ceil(4) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(endpoint: Endpoint, body: Value) -> Result<SimRequest, String> {
        SimRequest::parse(endpoint, body.to_string().as_bytes())
    }

    #[test]
    fn an_assistants_last_message_is_the_prefix_and_no_prompt() {
        let user = json!({"role": "user", "content": [{"type": "text", "text": "four"}, {"type": "image_url"}]});
        let without = parse(Endpoint::Chat, json!({"model": "m", "messages": [user]})).unwrap();
        let with = parse(
            Endpoint::Chat,
            json!({"messages": [user, {"role": "assistant", "content": "so far"}], "n": 99, "max_tokens": 1, "max_completion_tokens": 2}),
        )
        .unwrap();
        assert_eq!(with.prompt, without.prompt);
        assert_eq!((without.prefix, with.prefix.as_deref()), (None, Some("so far")));
        assert_eq!((without.prompt_tokens, with.prompt_tokens), (6, 12));
        assert_eq!((with.choices, with.max_tokens), (MAX_CHOICES, Some(2)));
    }

    #[test]
    fn wrong_bodies_are_told() {
        for (endpoint, body) in [
            (Endpoint::Chat, json!([])),
            (Endpoint::Chat, json!({"model": "m"})),
            (Endpoint::Chat, json!({"messages": []})),
            (Endpoint::Chat, json!({"messages": [{"content": "x"}]})),
            (Endpoint::Chat, json!({"messages": "x"})),
            (Endpoint::Completion, json!({"model": "m"})),
        ] {
            assert!(parse(endpoint, body.clone()).is_err(), "{body}");
        }
        assert_eq!(parse(Endpoint::Completion, json!({"prompt": ["a", "b"]})).unwrap().prompt, "a\nb");
    }
}
