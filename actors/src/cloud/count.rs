//! What an attempt may count, before its server has: prompt tokens with everything that is sent, and output tokens over
//! all choices. Pure.
//!
//! Every string of a message counts, and every field beside the messages but those that no model sees. Images, sounds and
//! files count by rules of their own: how long they are once encoded says little of what they cost.

use crate::domain::{ChatRequest, Input, RequestKind, TextCount};
use serde_json::{Map, Value};

/// Fields whose names count as well: providers write them into the prompt as JSON.
const AS_JSON: [&str; 3] = ["tools", "functions", "response_format"];
/// Fields that no model sees.
const UNSEEN: [&str; 12] = [
    "model",
    "user",
    "metadata",
    "stop",
    "stream_options",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "tool_choice",
    "function_call",
    "modalities",
];
/// An image of the largest size that the large providers take without making it smaller.
const IMAGE_TOKENS: u64 = 1600;
/// Bytes of base64 that make a token: ten tokens a second at 10 KB a second, and PDF files of words and pictures.
const AUDIO_BYTES: u64 = 1024;
const FILE_BYTES: u64 = 16;
/// Words of the API's own, as `role` and `type`, are short. What is longer is a client's, and counts.
const MAX_WORD: usize = 32;

/// Estimated, for a key's limit, and for an answer that came without usage.
pub fn prompt_tokens(request: &ChatRequest) -> u64 {
    counted(request, Counted::default())
}

/// Of text, more than a provider will count: for a reservation that a budget must cover.
pub fn most_prompt_tokens(request: &ChatRequest) -> u64 {
    counted(request, Counted { text: TextCount::cautious(), tokens: 0 })
}

fn counted(request: &ChatRequest, mut count: Counted) -> u64 {
    let own = match &request.input {
        Input::Messages(messages) => {
            messages.iter().for_each(|message| count.fields(&message.raw));
            4 * messages.len() as u64 + 3
        }
        Input::Tokens(_) => request.estimated_prompt_tokens(),
        Input::Text(text) => count.alone(text),
        Input::Several(passages) => {
            passages.iter().map(|one| one.text().map_or_else(|| one.estimated_tokens(), |text| count.alone(text))).sum()
        }
    };
    let input = match request.kind {
        RequestKind::Chat => "messages",
        RequestKind::Completion => "prompt",
        RequestKind::Embedding => "input",
    };
    for (name, value) in &request.body {
        match name.as_str() {
            name if AS_JSON.contains(&name) => count.text.json(value),
            name if name == input || UNSEEN.contains(&name) => {}
            name => count.field(name, value),
        }
    }
    own.saturating_add(count.tokens())
}

/// The most output that `output_cap` tokens a choice may become.
pub fn output_tokens(request: &ChatRequest, output_cap: u32) -> u64 {
    if request.needs.embeddings {
        return 0;
    }
    // Only completions have candidates that are made and not shown; `best_of` is then at least `n`.
    let each = request.choices.n.max(request.choices.best_of).max(1);
    u64::from(output_cap) * u64::from(each).saturating_mul(request.prompts() as u64)
}

#[derive(Default)]
struct Counted {
    text: TextCount,
    /// By other rules than text.
    tokens: u64,
}

impl Counted {
    /// A prompt by itself, with the mark before it.
    fn alone(&self, text: &str) -> u64 {
        let mut count = self.text.anew();
        count.text(text);
        count.tokens() + 1
    }

    fn fields(&mut self, fields: &Map<String, Value>) {
        fields.iter().for_each(|(name, value)| self.field(name, value));
    }

    fn field(&mut self, name: &str, value: &Value) {
        if name.len() > MAX_WORD {
            self.text.text(name);
        }
        match (name, value) {
            ("role" | "type", Value::String(word)) if word.len() <= MAX_WORD => {}
            ("image_url", Value::String(url)) => self.image(url),
            ("image_url", Value::Object(image)) => {
                for (name, value) in image {
                    match value.as_str().filter(|_| name == "url") {
                        Some(url) => self.image(url),
                        None => self.field(name, value),
                    }
                }
            }
            ("input_audio", Value::Object(audio)) => self.encoded(audio, "data", AUDIO_BYTES),
            ("file", Value::Object(file)) => self.encoded(file, "file_data", FILE_BYTES),
            (_, value) => self.value(value),
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.text.text(text),
            Value::Array(items) => items.iter().for_each(|item| self.value(item)),
            Value::Object(fields) => self.fields(fields),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Whether it is sent along or fetched from elsewhere.
    fn image(&mut self, url: &str) {
        self.tokens += IMAGE_TOKENS;
        if !url.starts_with("data:image/") {
            self.text.text(url);
        }
    }

    fn encoded(&mut self, fields: &Map<String, Value>, of: &str, bytes: u64) {
        for (name, value) in fields {
            match value.as_str().filter(|_| name == of) {
                Some(data) => self.tokens += (data.len() as u64).div_ceil(bytes),
                None => self.field(name, value),
            }
        }
    }

    fn tokens(&self) -> u64 {
        self.tokens.saturating_add(self.text.tokens())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Choices, Message};
    use serde_json::json;

    fn request(body: Value) -> ChatRequest {
        let Value::Object(body) = body else { panic!("an object") };
        ChatRequest { body, ..ChatRequest::plain("12345678") }
    }

    fn chat(message: Value) -> u64 {
        let body = json!({"messages": [message]});
        let Value::Object(raw) = message else { panic!("an object") };
        let content = raw.get("content").and_then(Value::as_str).unwrap_or_default().to_owned();
        let message = Message { role: "user".into(), content, raw };
        prompt_tokens(&ChatRequest { input: Input::Messages(vec![message]), ..request(body) })
    }

    #[test]
    fn a_reservation_holds_every_choice_and_every_tool() {
        let plain = request(json!({"model": "a model of some name", "user": "somebody"}));
        assert_eq!((prompt_tokens(&plain), output_tokens(&plain, 100)), (3, 100));
        let tools = json!([{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]);
        let full = request(json!({"tools": tools}));
        assert!(prompt_tokens(&full) > 3 + 12, "{}", prompt_tokens(&full));
        // However its body writes the number.
        let several = ChatRequest {
            choices: Choices { n: 128, best_of: 128, ..Choices::default() },
            ..request(json!({"n": 128.0}))
        };
        assert_eq!(output_tokens(&several, 100), 12_800);
    }

    #[test]
    fn every_text_that_is_sent_counts_wherever_it_stands() {
        let long = "x".repeat(4000);
        let plain = chat(json!({"role": "user", "content": "12345678"}));
        assert_eq!(plain, 2 + 4 + 3);
        for message in [
            json!({"role": "user", "content": long}),
            json!({"role": "user", "content": [{"type": "text", "text": long}]}),
            json!({"role": "user", "content": "", "name": long}),
            json!({"role": "assistant", "content": null, "reasoning_content": long}),
            json!({"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": long}}]}),
            json!({"role": "user", "content": [{"type": long}]}),
            json!({"role": "user", "content": [{"type": "file", "file": {"filename": long}}]}),
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": long}}]}),
        ] {
            let tokens = chat(message.clone());
            assert!((1000..2700).contains(&tokens), "{tokens}: {message}");
        }
        for body in [
            json!({"prediction": {"type": "content", "content": long}}),
            json!({"something_new": [long]}),
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"title": long}}}}),
        ] {
            assert!(prompt_tokens(&request(body.clone())) > 1000, "{body}");
        }
    }

    #[test]
    fn images_sounds_and_files_count_by_their_own_rules() {
        let part = |part: Value| chat(json!({"role": "user", "content": [part]})) - 7;
        let data = "A".repeat(102_400);
        let image = format!("data:image/png;base64,{data}");
        assert_eq!(part(json!({"type": "image_url", "image_url": {"url": image}})), 1600);
        assert_eq!(part(json!({"type": "input_image", "image_url": image})), 1600);
        assert_eq!(part(json!({"type": "input_audio", "input_audio": {"data": data}})), 100);
        assert_eq!(part(json!({"type": "file", "file": {"file_data": data}})), 6400);
        // What a model reads as text is text.
        assert_eq!(part(json!({"type": "text", "text": image})), image.len() as u64 / 4 + 1);
    }
}
