//! An answer in one piece, from a provider that does not stream although it was asked to.

use super::{Counts, finish_reason, in_band};
use crate::upstream::chunk::{Malformed, WholeAnswer, WholeChoice};
use serde_json::{Map, Value, json};

/// Reads a non-streaming answer.
///
/// # Errors
/// It is no message, or an error object.
pub fn read_whole(body: &[u8]) -> Result<WholeAnswer, Malformed> {
    let mut raw: Map<String, Value> = serde_json::from_slice(body).map_err(|_| Malformed::Shape)?;
    if let Some(error) = raw.get("error").filter(|error| !error.is_null()) {
        return Err(in_band(error));
    }
    let Some(Value::Array(blocks)) = raw.shift_remove("content") else { return Err(Malformed::Shape) };
    let (message, calls) = message(blocks).ok_or(Malformed::Shape)?;
    // The JSON was complete, so the answer is: a missing reason is only untidy.
    let finish_reason = match raw.get("stop_reason").and_then(Value::as_str) {
        Some(reason) => finish_reason(reason),
        None if calls => "tool_calls",
        None => "stop",
    };
    let mut counts = Counts::default();
    counts.absorb(raw.get("usage").unwrap_or(&Value::Null));
    let choice = WholeChoice { index: 0, message, finish_reason: finish_reason.to_owned(), logprobs: None };
    Ok(WholeAnswer { choices: vec![choice], raw, usage: counts.usage() })
}

/// The assistant's message, and whether it calls tools. `None`: a block is broken.
fn message(blocks: Vec<Value>) -> Option<(Map<String, Value>, bool)> {
    let (mut text, mut thinking, mut calls) = (None::<String>, String::new(), Vec::new());
    for block in blocks {
        match block.get("type")?.as_str()? {
            "text" => text.get_or_insert_default().push_str(block.get("text")?.as_str()?),
            "thinking" => thinking.push_str(block.get("thinking").and_then(Value::as_str).unwrap_or_default()),
            "tool_use" => {
                let (id, name) = (block.get("id")?.as_str()?, block.get("name")?.as_str()?);
                let input = block.get("input").filter(|input| input.is_object());
                let arguments = input.map_or_else(|| "{}".to_owned(), Value::to_string);
                let function = json!({"name": name, "arguments": arguments});
                calls.push(json!({"id": id, "type": "function", "function": function}));
            }
            _ => {}
        }
    }
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    message.insert("content".into(), text.map_or(Value::Null, Value::String));
    if !thinking.is_empty() {
        message.insert("reasoning_content".into(), thinking.into());
    }
    let any = !calls.is_empty();
    if any {
        message.insert("tool_calls".into(), calls.into());
    }
    Some((message, any))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ErrorKind, TokenUsage};

    #[test]
    fn text_thinking_and_tools_of_a_message_are_read() {
        let body = json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "Let me "}, {"type": "text", "text": "look."},
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Bern"}},
                {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
                {"type": "unheard_of"}
            ],
            "stop_reason": "tool_use", "stop_sequence": null,
            "usage": {"input_tokens": 9, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 1, "output_tokens": 5}
        });
        let answer = read_whole(body.to_string().as_bytes()).unwrap();
        let [choice] = answer.choices.as_slice() else { panic!("one choice") };
        assert_eq!(
            Value::Object(choice.message.clone()),
            json!({"role": "assistant", "content": "Let me look.", "reasoning_content": "hm", "tool_calls": [
                {"id": "toolu_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Bern\"}"}},
                {"id": "toolu_2", "type": "function", "function": {"name": "now", "arguments": "{}"}}]})
        );
        assert_eq!(choice.finish_reason, "tool_calls");
        let usage = TokenUsage {
            prompt_tokens: 100,
            completion_tokens: 5,
            cached_tokens: 90,
            written_tokens: 1,
            ..TokenUsage::default()
        };
        assert_eq!(answer.usage, Some(usage));
    }

    #[test]
    fn an_answer_without_text_reason_or_usage_is_an_answer() {
        let answer = read_whole(br#"{"content": [], "stop_reason": null}"#).unwrap();
        assert_eq!((answer.usage, answer.choices[0].finish_reason.as_str()), (None, "stop"));
        assert_eq!(answer.choices[0].message["content"], Value::Null);
    }

    #[test]
    fn what_is_no_message_is_malformed() {
        for (body, why) in [
            ("", Malformed::Shape),
            ("[]", Malformed::Shape),
            ("{}", Malformed::Shape),
            (r#"{"choices": [{"message": {"content": "a"}}]}"#, Malformed::Shape),
            (r#"{"content": [{"text": "a"}]}"#, Malformed::Shape),
            (r#"{"content": [{"type": "tool_use", "name": "f"}]}"#, Malformed::Shape),
            (r#"{"type": "error", "error": {"type": "overloaded_error", "message": "m"}}"#, Malformed::InBandError),
            (
                r#"{"type": "error", "error": {"type": "rate_limit_error", "message": "m"}}"#,
                Malformed::Refused(ErrorKind::RateLimited),
            ),
        ] {
            assert_eq!(read_whole(body.as_bytes()), Err(why), "{body}");
        }
    }
}
