//! OpenAI's messages as Anthropic's system text and turns: roles take turns there, calls and results of tools are blocks
//! inside them, and no block may be blank.

use super::body::{is_continuable, unsayable};
use crate::domain::{GatewayError, Input, Message};
use serde_json::{Map, Value, json};

/// What was said so far.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    /// Text blocks; wherever they stood, they apply to the whole.
    pub system: Vec<Value>,
    pub turns: Vec<Value>,
    /// The last turn holds results of tools.
    pub answers_tools: bool,
}

/// `sent` is the beginning of the answer.
///
/// # Errors
/// A message that cannot be said.
pub(super) fn conversation(input: &Input, sent: Option<&str>) -> Result<Conversation, GatewayError> {
    let mut writer = Writer::default();
    match input {
        Input::Messages(messages) => {
            for (index, message) in messages.iter().enumerate() {
                writer.message(&format!("messages[{index}]"), message)?;
            }
        }
        Input::Text(text) => writer.say("user", text_block(text, &Map::new())),
        Input::Tokens(_) => return Err(unsayable("prompt", "it is made of token ids")),
        Input::Several(_) => return Err(unsayable("prompt", "there are several")),
    }
    writer.into_conversation(sent)
}

#[derive(Debug, Default)]
struct Writer {
    system: Vec<Value>,
    turns: Vec<(&'static str, Vec<Value>)>,
    /// How many calls had no id of their own.
    unnamed_calls: usize,
}

impl Writer {
    fn message(&mut self, place: &str, message: &Message) -> Result<(), GatewayError> {
        match message.role.as_str() {
            "system" | "developer" => {
                let blocks = blocks(place, &message.raw)?;
                self.system.extend(blocks);
            }
            "assistant" => {
                for block in blocks(place, &message.raw)? {
                    self.say("assistant", Some(block));
                }
                self.calls(place, &message.raw)?;
            }
            "tool" => {
                let id = message.raw.get("tool_call_id").and_then(Value::as_str);
                let id = id.ok_or_else(|| unsayable(format!("{place}.tool_call_id"), "it must be a string"))?;
                self.result(place, tool_id(id), &message.raw)?;
            }
            // The old form of a tool's result answers the latest call, which had no id.
            "function" => self.result(place, unnamed_id(self.unnamed_calls), &message.raw)?,
            _ => {
                for block in blocks(place, &message.raw)? {
                    self.say("user", Some(block));
                }
            }
        }
        Ok(())
    }

    fn calls(&mut self, place: &str, message: &Map<String, Value>) -> Result<(), GatewayError> {
        let calls = message.get("tool_calls").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for (index, call) in calls.iter().enumerate() {
            let place = format!("{place}.tool_calls[{index}]");
            let id = call.get("id").and_then(Value::as_str);
            let id = id.ok_or_else(|| unsayable(format!("{place}.id"), "it must be a string"))?;
            let function = call.get("function").ok_or_else(|| unsayable(&*place, "only functions can be called"))?;
            let block = tool_use(&format!("{place}.function"), tool_id(id), function)?;
            self.say("assistant", Some(block));
        }
        if let Some(function) = message.get("function_call").filter(|call| call.is_object()) {
            self.unnamed_calls += 1;
            let block = tool_use(&format!("{place}.function_call"), unnamed_id(self.unnamed_calls), function)?;
            self.say("assistant", Some(block));
        }
        Ok(())
    }

    fn result(&mut self, place: &str, id: String, message: &Map<String, Value>) -> Result<(), GatewayError> {
        let mut block = json!({"type": "tool_result", "tool_use_id": id});
        let content = blocks(place, message)?;
        if !content.is_empty() {
            block["content"] = content.into();
        }
        self.say("user", Some(block));
        Ok(())
    }

    /// Roles must take turns: what one says twice becomes one turn.
    fn say(&mut self, role: &'static str, block: Option<Value>) {
        let Some(block) = block else { return };
        match self.turns.last_mut() {
            Some((last, blocks)) if *last == role => blocks.push(block),
            _ => self.turns.push((role, vec![block])),
        }
    }

    fn into_conversation(mut self, sent: Option<&str>) -> Result<Conversation, GatewayError> {
        if self.turns.is_empty() {
            // Something must be answered: a lone system message is meant to be.
            let system = std::mem::take(&mut self.system);
            system.into_iter().for_each(|block| self.say("user", Some(block)));
        }
        if self.turns.is_empty() {
            return Err(unsayable("messages", "they hold no text"));
        }
        match sent {
            Some(sent) if is_continuable(sent) => self.begin_answer(sent),
            Some(_) => return Err(unsayable("messages", "an answer that ends in white space cannot be continued")),
            None => self.trim_last(),
        }
        let is_result = |block: &Value| block["type"] == "tool_result";
        let answers_tools = self.turns.last().is_some_and(|(_, blocks)| blocks.iter().any(is_result));
        let turn = |(role, blocks)| json!({"role": role, "content": Value::Array(blocks)});
        Ok(Conversation { system: self.system, turns: self.turns.into_iter().map(turn).collect(), answers_tools })
    }

    /// A client's own beginning of the answer and what was sent of it are one text, byte by byte.
    fn begin_answer(&mut self, sent: &str) {
        if let Some(("assistant", blocks)) = self.turns.last_mut()
            && let Some(Value::String(text)) = blocks.last_mut().and_then(|block| block.get_mut("text"))
        {
            text.push_str(sent);
            return;
        }
        self.say("assistant", text_block(sent, &Map::new()));
    }

    /// White space at the end of a last turn of the assistant is refused; no answer repeats that turn, so it may go.
    fn trim_last(&mut self) {
        if let Some(("assistant", blocks)) = self.turns.last_mut()
            && let Some(Value::String(text)) = blocks.last_mut().and_then(|block| block.get_mut("text"))
        {
            text.truncate(text.trim_end().len());
        }
    }
}

/// The content of one message; blank texts are left out, because they are refused.
fn blocks(place: &str, message: &Map<String, Value>) -> Result<Vec<Value>, GatewayError> {
    match message.get("content") {
        Some(Value::String(text)) => Ok(text_block(text, message).into_iter().collect()),
        Some(Value::Array(parts)) => {
            let part = |(index, part): (usize, &Value)| block(&format!("{place}.content[{index}]"), part).transpose();
            parts.iter().enumerate().filter_map(part).collect()
        }
        _ => Ok(Vec::new()),
    }
}

fn block(place: &str, part: &Value) -> Result<Option<Value>, GatewayError> {
    let no_fields = Map::new();
    let fields = part.as_object().unwrap_or(&no_fields);
    let text = |name: &str| part.get(name).and_then(Value::as_str).unwrap_or_default();
    match text("type") {
        kind @ ("text" | "refusal") => Ok(text_block(text(kind), fields)),
        "image_url" => {
            let url = part.pointer("/image_url/url").and_then(Value::as_str).unwrap_or_default();
            let source = match data_uri(url) {
                Some((media, data)) => json!({"type": "base64", "media_type": media, "data": data}),
                None if url.starts_with("https://") => json!({"type": "url", "url": url}),
                None => return Err(unsayable(format!("{place}.image_url.url"), "it must be an https or a data: URL")),
            };
            Ok(Some(marked(json!({"type": "image", "source": source}), fields)))
        }
        "file" => {
            let file = part.pointer("/file/file_data").and_then(Value::as_str).and_then(data_uri);
            let Some((media @ "application/pdf", data)) = file else {
                return Err(unsayable(format!("{place}.file"), "only a PDF as data: URL can be read"));
            };
            let source = json!({"type": "base64", "media_type": media, "data": data});
            Ok(Some(marked(json!({"type": "document", "source": source}), fields)))
        }
        _ => Err(unsayable(place, "only text, images and PDFs can be read")),
    }
}

fn text_block(text: &str, fields: &Map<String, Value>) -> Option<Value> {
    (!text.trim().is_empty()).then(|| marked(json!({"type": "text", "text": text}), fields))
}

/// Clients mark what the provider shall cache as Anthropic does, inside OpenAI's parts.
fn marked(mut block: Value, fields: &Map<String, Value>) -> Value {
    if let Some(mark) = fields.get("cache_control").filter(|mark| mark.is_object()) {
        block["cache_control"] = mark.clone();
    }
    block
}

/// Media type and base64 text.
fn data_uri(url: &str) -> Option<(&str, &str)> {
    let (head, data) = url.strip_prefix("data:")?.split_once(',')?;
    let media = head.strip_suffix(";base64")?;
    Some((media.split(';').next().unwrap_or_default(), data))
}

fn tool_use(place: &str, id: String, function: &Value) -> Result<Value, GatewayError> {
    let name = function.get("name").and_then(Value::as_str);
    let name = name.ok_or_else(|| unsayable(format!("{place}.name"), "it must be a string"))?;
    let arguments = function.get("arguments").and_then(Value::as_str).unwrap_or_default();
    let input = match arguments.trim() {
        "" => Some(json!({})),
        arguments => serde_json::from_str::<Value>(arguments).ok().filter(Value::is_object),
    };
    let input = input.ok_or_else(|| unsayable(format!("{place}.arguments"), "they must be a JSON object"))?;
    Ok(json!({"type": "tool_use", "id": id, "name": name, "input": input}))
}

/// Ids of other providers hold characters that are refused here. Calls and results are changed alike.
fn tool_id(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

fn unnamed_id(count: usize) -> String {
    format!("function_{count}")
}
