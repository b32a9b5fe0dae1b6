//! A conversation as a model's chat template takes it: roles it knows, calls in its dialect, the tools it may call.
//!
//! A template that shows tools gets them as they are, arguments as objects. For every other one, calls and their results
//! become text in our own format, and the system message says what can be called and how.

use super::dialect::{ChatTraits, Dialect};
use crate::domain::{Message, OutputWish, ToolChoice, ToolWish};
use serde_json::{Map, Value, json};

/// Marks a turn of results while the messages are put together.
const TOOL_TURN: &str = "tool_turn";

/// The messages and, for a template that shows them, the tools; both JSON arrays.
pub fn chat_prompt(messages: &[Message], output: &OutputWish, traits: ChatTraits) -> (Value, Option<Value>) {
    let is_native = traits.dialect != Dialect::Generic;
    let mut rendered: Vec<Map<String, Value>> = Vec::with_capacity(messages.len() + 1);
    let mut ids = Ids { short: matches!(traits.dialect, Dialect::Mistral | Dialect::MistralArgs), known: Vec::new() };
    for message in messages {
        if is_native {
            rendered.push(native(message, traits, &mut ids));
        } else {
            generic(message, traits, &mut ids, &mut rendered);
        }
    }
    let mut tools = None;
    if let Some(wish) = &output.tools {
        if is_native {
            tools = Some(shown(wish));
        } else {
            instruct(&mut rendered, &instructions(wish));
        }
    }
    if !traits.system {
        fold_system(&mut rendered);
    }
    rendered.iter_mut().for_each(|message| drop(message.shift_remove(TOOL_TURN)));
    (rendered.into(), tools)
}

/// Calls that were made, by id.
struct Ids {
    /// Mistral's templates refuse ids that are not nine letters and digits.
    short: bool,
    /// The client's id, and the function's name.
    known: Vec<(String, String)>,
}

impl Ids {
    fn add(&mut self, id: &str, name: &str) -> String {
        self.known.push((id.to_owned(), name.to_owned()));
        self.spelled(id)
    }

    fn name(&self, id: &str) -> Option<&str> {
        self.known.iter().rev().find(|(known, _)| known == id).map(|(_, name)| name.as_str())
    }

    fn spelled(&self, id: &str) -> String {
        let fits = id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !self.short || fits {
            return id.to_owned();
        }
        let place = self.known.iter().position(|(known, _)| known == id).unwrap_or(self.known.len());
        format!("call{place:05}")
    }
}

fn role(message: &Message, traits: ChatTraits) -> &str {
    match message.role.as_str() {
        "developer" if !traits.developer => "system",
        "function" => "tool",
        role => role,
    }
}

fn plain(role: &str, content: &str) -> Map<String, Value> {
    Map::from_iter([("role".to_owned(), role.into()), ("content".to_owned(), content.into())])
}

/// Name and arguments of every call in a message, with its id.
fn calls_of(message: &Message) -> Vec<(String, String, Value)> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let read = |id: String, function: &Value| {
        let arguments = match function.get("arguments") {
            // What is no JSON is shown as it was said.
            Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into()),
            Some(other) => other.clone(),
            None => json!({}),
        };
        (id, text(function.get("name")), arguments)
    };
    let calls = message.raw.get("tool_calls").and_then(Value::as_array).into_iter().flatten();
    let calls = calls.filter_map(|call| Some(read(text(call.get("id")), call.get("function")?)));
    let legacy = message.raw.get("function_call").filter(|call| call.is_object()).map(|call| read(String::new(), call));
    calls.chain(legacy).collect()
}

/// The name of the function whose result a message is.
fn answered(message: &Message, ids: &Ids) -> String {
    let id = message.raw.get("tool_call_id").and_then(Value::as_str);
    let name = message.raw.get("name").and_then(Value::as_str);
    name.or_else(|| id.and_then(|id| ids.name(id))).unwrap_or_default().to_owned()
}

fn native(message: &Message, traits: ChatTraits, ids: &mut Ids) -> Map<String, Value> {
    let role = role(message, traits);
    let mut rendered = plain(role, &message.content);
    let calls = calls_of(message);
    if role == "assistant" && !calls.is_empty() {
        let calls = calls.into_iter().map(|(id, name, arguments)| {
            let id = ids.add(&id, &name);
            json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
        });
        rendered.insert("tool_calls".into(), calls.collect());
    }
    if role == "tool" {
        let id = message.raw.get("tool_call_id").and_then(Value::as_str).unwrap_or_default();
        rendered.insert("name".into(), answered(message, ids).into());
        rendered.insert("tool_call_id".into(), ids.spelled(id).into());
    }
    rendered
}

fn generic(message: &Message, traits: ChatTraits, ids: &mut Ids, rendered: &mut Vec<Map<String, Value>>) {
    let role = role(message, traits);
    if role == "tool" {
        let name = answered(message, ids);
        let response = json!({"tool_response": {"name": name, "content": message.content}}).to_string();
        // Several results are one turn: many templates want turns to alternate.
        match rendered.last_mut().filter(|last| last.contains_key(TOOL_TURN)) {
            Some(last) => append(last, "\n", &response),
            None => {
                let mut turn = plain("user", &response);
                turn.insert(TOOL_TURN.into(), true.into());
                rendered.push(turn);
            }
        }
        return;
    }
    let calls = calls_of(message);
    if role != "assistant" || calls.is_empty() {
        rendered.push(plain(role, &message.content));
        return;
    }
    let mut said: Vec<Value> = Vec::with_capacity(calls.len());
    for (id, name, arguments) in calls {
        ids.add(&id, &name);
        said.push(json!({"name": name, "arguments": arguments}));
    }
    let text = match said.as_slice() {
        [one] => json!({"tool_call": one}),
        all => json!({"tool_calls": all}),
    };
    rendered.push(plain(role, &text.to_string()));
}

fn append(message: &mut Map<String, Value>, between: &str, more: &str) {
    let content = message.get("content").and_then(Value::as_str).unwrap_or_default();
    let joined = if content.is_empty() { more.to_owned() } else { format!("{content}{between}{more}") };
    message.insert("content".into(), joined.into());
}

/// The tools as templates expect them, those only that may be called.
fn shown(wish: &ToolWish) -> Value {
    wish.callable().map(|tool| json!({"type": "function", "function": tool.function})).collect()
}

fn instructions(wish: &ToolWish) -> String {
    let call = r#"{"name": <function name>, "arguments": <object of arguments>}"#;
    let how = if wish.parallel == Some(true) && !matches!(wish.choice, ToolChoice::Named(_)) {
        format!(r#"{{"tool_calls": [{call}, ...]}}"#)
    } else {
        format!(r#"{{"tool_call": {call}}}"#)
    };
    let how = match wish.choice {
        ToolChoice::Auto => {
            format!("Reply with JSON only: to call a function, {how}; to answer the user, {{\"response\": <text>}}.")
        }
        ToolChoice::Required | ToolChoice::Named(_) => format!("Reply with JSON only, calling a function: {how}."),
    };
    let functions: Vec<String> = wish.callable().map(|tool| tool.function.to_string()).collect();
    format!("You can call these functions:\n{}\n{how}", functions.join("\n"))
}

fn instruct(rendered: &mut Vec<Map<String, Value>>, instructions: &str) {
    match rendered.first_mut().filter(|first| first.get("role").is_some_and(|role| role == "system")) {
        Some(system) => append(system, "\n\n", instructions),
        None => rendered.insert(0, plain("system", instructions)),
    }
}

/// For templates without system messages: their text goes in front of the next user message.
fn fold_system(rendered: &mut Vec<Map<String, Value>>) {
    let mut folded: Vec<Map<String, Value>> = Vec::with_capacity(rendered.len());
    let mut waiting = String::new();
    for mut message in rendered.drain(..) {
        let content = message.get("content").and_then(Value::as_str).unwrap_or_default().to_owned();
        match message.get("role").and_then(Value::as_str) {
            Some("system" | "developer") => {
                waiting = if waiting.is_empty() { content } else { format!("{waiting}\n\n{content}") };
                continue;
            }
            Some("user") if !waiting.is_empty() => {
                let joined = format!("{}\n\n{content}", std::mem::take(&mut waiting));
                message.insert("content".into(), joined.into());
            }
            _ => {}
        }
        folded.push(message);
    }
    if !waiting.is_empty() {
        folded.push(plain("user", &waiting));
    }
    *rendered = folded;
}
