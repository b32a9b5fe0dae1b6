//! What a paid attempt may count, before the provider has: prompt tokens with everything that goes into the prompt, and
//! output tokens over all choices. Pure.

use crate::domain::{ChatRequest, Input, TextCount};
use serde_json::Value;

/// Fields that providers put into the prompt beside the messages.
const PROMPT_FIELDS: [&str; 4] = ["tools", "functions", "response_format", "suffix"];
/// More is refused by every API.
const MAX_CHOICES: u64 = 128;

/// Estimated, for a reservation and for an answer that came without usage.
pub fn prompt_tokens(request: &ChatRequest) -> u64 {
    let mut beside = TextCount::default();
    PROMPT_FIELDS.iter().filter_map(|field| request.body.get(*field)).for_each(|value| beside.json(value));
    request.estimated_prompt_tokens() + beside.tokens()
}

/// The most output that `output_cap` tokens a choice may become.
pub fn output_tokens(request: &ChatRequest, output_cap: u32) -> u64 {
    if request.needs.embeddings {
        return 0;
    }
    let given = |field| request.body.get(field).and_then(Value::as_u64).unwrap_or(1);
    // Only completions have candidates that are made and not shown; a chat cannot ask for them.
    let each = if request.needs.best_of { given("n").max(given("best_of")) } else { given("n") };
    let prompts = if let Input::Several(passages) = &request.input { passages.len() as u64 } else { 1 };
    u64::from(output_cap) * each.saturating_mul(prompts).clamp(1, MAX_CHOICES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(body: Value) -> ChatRequest {
        let Value::Object(body) = body else { panic!("an object") };
        ChatRequest { body, ..ChatRequest::plain("12345678") }
    }

    #[test]
    fn a_reservation_holds_every_choice_and_every_tool() {
        let plain = request(json!({}));
        assert_eq!((prompt_tokens(&plain), output_tokens(&plain, 100)), (3, 100));
        let tools = json!([{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]);
        let full = request(json!({"n": 3, "tools": tools}));
        assert!(prompt_tokens(&full) > 3 + 12, "{}", prompt_tokens(&full));
        assert_eq!(output_tokens(&full, 100), 300);
        for (n, tokens) in [(json!(null), 100), (json!(0), 100), (json!("3"), 100), (json!(u64::MAX), 12_800)] {
            assert_eq!(output_tokens(&request(json!({"n": n})), 100), tokens);
        }
    }
}
