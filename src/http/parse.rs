//! Bytes → [`ChatRequest`], or a refusal that names the field at fault. Pure: no clock, no randomness, no I/O.
//!
//! Ranges are those of the OpenAI API. What this gateway does not know is left in `body` for the cloud.

mod choices;
mod embeddings;
pub(super) mod fields;
pub(super) mod json;
mod messages;
pub(super) mod model;
mod output;
#[cfg(test)]
mod tests;
mod wishes;

pub use embeddings::embeddings;
pub(super) use embeddings::{Format, format};
pub(super) use fields::{Fields, fault};
use http::HeaderMap;
use serde_json::{Map, Value};
use spillway_actors::{
    config::Config,
    domain::{ChatRequest, GatewayError, Input, Needs, RequestId, RequestKind, Unmet},
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

/// As [`chat_object`]. The longest answer was named by another API's word for it: what a provider calls it is not the
/// client's choice.
///
/// # Errors
/// As [`chat`].
pub(super) fn translated_chat(
    id: RequestId,
    body: Map<String, Value>,
    headers: &HeaderMap,
    config: &Config,
) -> Result<ChatRequest, GatewayError> {
    let mut request = chat_object(id, body, headers, config)?;
    request.body.shift_remove("max_tokens");
    Ok(request)
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
    let input = choices::prompt(Fields(&body))?;
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
    let mut output = output::output(fields, kind)?;
    wishes::needs(fields, kind, &output, &mut needs)?;
    let choices = choices::choices(fields, kind, &input, &mut needs)?;
    if choices.echo && choices.suffix.is_some() && output.logprobs.is_some() {
        // Of the text that they stand between, a model reads more than is given back.
        let message = "local models do not say how likely a prompt is that has a 'suffix'".to_owned();
        output.unmet.get_or_insert(Unmet { param: "suffix".to_owned(), message });
    }
    let sampling = wishes::sampling(fields)?;
    let max_tokens = wishes::max_tokens(fields, choices.echo)?;
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
        choices,
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
        trace: None,
        client_id: None,
        body,
        anthropic: Map::new(),
    })
}
