//! Bytes → [`ChatRequest`], or a refusal that names the field at fault. Pure: no clock, no randomness, no I/O.
//!
//! Ranges are those of the OpenAI API. What this gateway does not know is left in `body` for the cloud.

pub(super) mod fields;
pub(super) mod json;
mod messages;
pub(super) mod model;
mod output;
#[cfg(test)]
mod tests;
mod wishes;

pub(super) use fields::fault;
use fields::{Fields, missing, wrong_type};
use http::HeaderMap;
use serde_json::{Map, Value};
use spillway_actors::{
    config::Config,
    domain::{ChatRequest, GatewayError, Input, Needs, RequestId, RequestKind},
};

/// A body of `POST /v1/chat/completions`.
///
/// # Errors
/// The request is malformed or out of range (400), or names a model nobody configured (404).
pub fn chat(id: RequestId, body: &[u8], headers: &HeaderMap, config: &Config) -> Result<ChatRequest, GatewayError> {
    chat_object(id, json::object(body)?, headers, config)
}

/// A chat whose body is an object already, because it was said in another API's words.
///
/// # Errors
/// As [`chat`].
pub(super) fn chat_object(
    id: RequestId,
    body: Map<String, Value>,
    headers: &HeaderMap,
    config: &Config,
) -> Result<ChatRequest, GatewayError> {
    let (messages, needs) = messages::messages(Fields(&body))?;
    request(id, RequestKind::Chat, Input::Messages(messages), needs, body, headers, config)
}

/// A body of `POST /v1/completions`.
///
/// # Errors
/// As [`chat`].
pub fn completion(
    id: RequestId,
    body: &[u8],
    headers: &HeaderMap,
    config: &Config,
) -> Result<ChatRequest, GatewayError> {
    let body = json::object(body)?;
    let input = prompt(Fields(&body))?;
    request(id, RequestKind::Completion, input, Needs::default(), body, headers, config)
}

fn request(
    id: RequestId,
    kind: RequestKind,
    input: Input,
    mut needs: Needs,
    mut body: Map<String, Value>,
    headers: &HeaderMap,
    config: &Config,
) -> Result<ChatRequest, GatewayError> {
    let fields = Fields(&body);
    let model = model::choice(fields, config)?;
    let output = output::output(fields, kind)?;
    wishes::needs(fields, kind, &output, &mut needs)?;
    let sampling = wishes::sampling(fields)?;
    let max_tokens = wishes::max_tokens(fields)?;
    let stop = wishes::stop(fields)?;
    let (stream, include_usage) = wishes::stream(fields)?;
    let wishes::Ours { budget_sensitive, local_only, max_latency, session } = wishes::ours(fields, headers)?;
    for name in wishes::OURS {
        body.shift_remove(name);
    }
    Ok(ChatRequest {
        id,
        kind,
        model,
        input,
        needs,
        sampling,
        output,
        max_tokens,
        stop,
        stream,
        include_usage,
        budget_sensitive,
        local_only,
        max_latency,
        session,
        caller: None,
        body,
    })
}

/// A string, an array of token ids, or an array of exactly one of those.
fn prompt(body: Fields<'_>) -> Result<Input, GatewayError> {
    match body.get("prompt") {
        None => Err(missing("prompt")),
        Some(Value::String(text)) => text_prompt(text),
        Some(Value::Array(items)) => match items.as_slice() {
            [] => Err(fault("prompt", "Invalid 'prompt': empty array.")),
            [Value::String(text)] => text_prompt(text),
            [Value::Array(tokens)] => token_prompt(tokens),
            [Value::Number(_), ..] => token_prompt(items),
            [Value::String(_) | Value::Array(_), ..] => {
                Err(fault("prompt", "Invalid 'prompt': one prompt per request in this version; send several requests."))
            }
            [other, ..] => Err(wrong_type("prompt[0]", "a string, a token id or an array of token ids", other)),
        },
        Some(other) => Err(wrong_type("prompt", "a string or an array", other)),
    }
}

fn text_prompt(text: &str) -> Result<Input, GatewayError> {
    if text.is_empty() {
        return Err(fault("prompt", "Invalid 'prompt': it is empty; at least one token is needed."));
    }
    Ok(Input::Text(text.to_owned()))
}

fn token_prompt(items: &[Value]) -> Result<Input, GatewayError> {
    if items.is_empty() {
        return Err(fault("prompt", "Invalid 'prompt': it is empty; at least one token is needed."));
    }
    let tokens = items.iter().map(wishes::token).collect::<Option<Vec<i32>>>();
    tokens.map(Input::Tokens).ok_or_else(|| fault("prompt", "Invalid 'prompt': token ids must be integers from 0."))
}
