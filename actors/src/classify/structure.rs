//! What a request shows beside its text: the conversation, tools, schema, length asked for, a second try. No labelled data
//! has these, so their worth is not learned: each moves the log-odds by a small, stated amount.

use crate::domain::{ChatRequest, Input};
use serde_json::Value;

/// Levels of nesting looked at; deeper is not harder.
const DEEPEST: u32 = 8;
/// A message longer than this (bytes) is a request of its own, however it begins.
const REASK_BYTES: usize = 120;
const REASKS: [&str; 8] =
    ["try again", "that is wrong", "that's wrong", "wrong", "not correct", "incorrect", "no, ", "still wrong"];

/// One reason to expect a harder request, and what it adds to the log-odds that a local model fails.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hint {
    pub name: &'static str,
    pub shift: f64,
}

/// The text to grade: the last thing the user really asked, and what speaks for a harder request.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked<'a> {
    pub text: &'a str,
    pub hints: Vec<Hint>,
}

impl Asked<'_> {
    pub fn shift(&self) -> f64 {
        self.hints.iter().map(|hint| hint.shift).sum()
    }
}

pub fn asked(request: &ChatRequest) -> Asked<'_> {
    let (text, again) = last_real_text(request);
    let tools = request.body.get("tools").and_then(Value::as_array).map_or(0, Vec::len);
    let schema = request.body.get("response_format").map_or(0, |format| depth(format, DEEPEST));
    let candidates = [
        (again, "asked again", 0.6),
        (tools > 0, "tools", 0.2),
        (tools > 8, "many tools", 0.3),
        (schema > 5, "nested schema", 0.3),
        (request.earlier_messages() > 10, "long conversation", 0.2),
        (request.estimated_prompt_tokens() > 3000, "long history", 0.3),
        (request.max_tokens.is_some_and(|tokens| tokens > 2048), "long answer wanted", 0.3),
    ];
    let hints = candidates.into_iter().filter(|hint| hint.0).map(|(_, name, shift)| Hint { name, shift }).collect();
    Asked { text, hints }
}

/// "Try again" says nothing about the task: the request before it does.
fn last_real_text(request: &ChatRequest) -> (&str, bool) {
    let last = request.last_user_text();
    let Input::Messages(messages) = &request.input else { return (last, false) };
    let mut users =
        messages.iter().rev().filter(|message| message.role == "user").map(|message| message.content.as_str());
    let before = users.nth(1);
    match before {
        Some(before) if is_reask(last) => (before, true),
        Some(before) => (last, !last.is_empty() && before.trim() == last.trim()),
        None => (last, false),
    }
}

fn is_reask(text: &str) -> bool {
    let text = text.trim_start();
    let begins = |with: &&str| text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    text.len() <= REASK_BYTES && REASKS.iter().any(begins)
}

fn depth(value: &Value, left: u32) -> u32 {
    if left == 0 {
        return 0;
    }
    match value {
        Value::Object(map) => 1 + map.values().map(|value| depth(value, left - 1)).max().unwrap_or(0),
        Value::Array(list) => 1 + list.iter().map(|value| depth(value, left - 1)).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Message;
    use serde_json::{Map, json};

    fn chat(turns: &[(&str, &str)]) -> ChatRequest {
        let message = |(role, content): &(&str, &str)| Message {
            role: (*role).to_owned(),
            content: (*content).to_owned(),
            raw: Map::new(),
        };
        ChatRequest { input: Input::Messages(turns.iter().map(message).collect()), ..ChatRequest::plain("") }
    }

    fn names(request: &ChatRequest) -> Vec<&'static str> {
        asked(request).hints.iter().map(|hint| hint.name).collect()
    }

    #[test]
    fn a_plain_request_has_no_hints() {
        let request = chat(&[("system", "Be brief."), ("user", "What is the capital of France?")]);
        assert_eq!(asked(&request), Asked { text: "What is the capital of France?", hints: vec![] });
    }

    #[test]
    fn try_again_is_graded_as_the_request_before_it() {
        let request = chat(&[("user", "Sum 2 and 2."), ("assistant", "5"), ("user", "Try again, please.")]);
        assert_eq!(asked(&request).text, "Sum 2 and 2.");
        assert_eq!(names(&request), ["asked again"]);
    }

    #[test]
    fn the_same_request_twice_is_a_second_try() {
        let request = chat(&[("user", "Sum 2 and 2."), ("assistant", "5"), ("user", " Sum 2 and 2. ")]);
        assert_eq!(names(&request), ["asked again"]);
        assert_eq!(names(&chat(&[("user", "try again")])), [] as [&str; 0], "nothing was asked before");
    }

    #[test]
    fn tools_schema_and_a_long_answer_are_hints() {
        let mut request = ChatRequest { max_tokens: Some(4000), ..ChatRequest::plain("Plan the trip.") };
        request.body.insert("tools".into(), json!([{}, {}]));
        request.body.insert("response_format".into(), json!({"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}}));
        assert_eq!(names(&request), ["tools", "nested schema", "long answer wanted"]);
    }
}
