//! Our request as the JSON body of `POST /v1/messages`.

use super::{tools, turns};
use crate::domain::{ChatRequest, ErrorKind, GatewayError, Input, Needs, Outbound};
use bytes::Bytes;
use serde_json::{Map, Value, json};

/// Anthropic's own fields, whose names mean nothing else anywhere: they go through as they came.
const OWN: [&str; 2] = ["thinking", "output_config"];
/// A longer `user_id` is refused.
const MAX_USER_CHARS: usize = 256;

/// The request's first field without a counterpart that an answer must not go without. A `json_schema` has one; a
/// `json_object` has not: nothing makes a model answer in JSON of no schema.
pub fn unmet(request: &ChatRequest) -> Option<&'static str> {
    let Needs { audio, logprobs, logit_bias, several_choices, .. } = request.needs;
    let lacking = Needs { audio, logprobs, logit_bias, several_choices, ..Needs::default() };
    if let Some(field) = lacking.field_names().first() {
        return Some(field);
    }
    if matches!(request.input, Input::Tokens(_)) {
        return Some("prompts of token ids");
    }
    if request.body.get("response_format").is_some_and(|format| format["type"] == "json_object") {
        return Some("response_format of type json_object");
    }
    let blank = |stops: &Vec<String>| stops.iter().any(|stop| stop.trim().is_empty());
    request.stop.as_ref().is_some_and(blank).then_some("stop strings of white space only")
}

/// Whether an answer can go on after this text: a turn that ends in white space is refused, and trimming it would
/// change what the client has already seen.
pub fn is_continuable(sent: &str) -> bool {
    !sent.is_empty() && !sent.ends_with(char::is_whitespace)
}

/// The body for `upstream_model`. `sent` is the beginning of the answer, which the model is to go on with.
///
/// # Errors
/// The request holds something that cannot be said in Anthropic's words.
pub fn body(
    request: Outbound<'_>,
    upstream_model: &str,
    output_cap: u32,
    stream: bool,
    sent: Option<&str>,
) -> Result<Bytes, GatewayError> {
    let request = request.request();
    if let Some(field) = unmet(request) {
        return Err(GatewayError::invalid(None, format!("the model's provider does not offer {field}")));
    }
    let conversation = turns::conversation(&request.input, sent)?;
    let mut body = Map::new();
    body.insert("model".into(), upstream_model.into());
    body.insert("max_tokens".into(), output_cap.into());
    body.insert("stream".into(), stream.into());
    if !conversation.system.is_empty() {
        body.insert("system".into(), conversation.system.into());
    }
    set_own(&mut body, request, conversation.answers_tools || sent.is_some());
    body.insert("messages".into(), conversation.turns.into());
    tools::set(&mut body, &request.body)?;
    set_sampling(&mut body, request);
    set_format(&mut body, &request.body)?;
    set_user(&mut body, &request.body);
    serde_json::to_vec(&body)
        .map(Bytes::from)
        .map_err(|_| GatewayError::gateway(ErrorKind::Internal, "the request could not be encoded"))
}

/// A field of the client's that cannot be said.
pub(super) fn unsayable(place: impl Into<String>, why: &str) -> GatewayError {
    let place = place.into();
    let mut error = GatewayError::invalid(None, format!("the model's provider cannot take '{place}': {why}"));
    error.param = Some(place);
    error
}

/// From clients of either API. A turn of tool results must follow the thinking that called the tools; OpenAI's messages do
/// not carry it, so such a turn is answered without, and so is one whose beginning is given (`thoughtless`).
fn set_own(body: &mut Map<String, Value>, request: &ChatRequest, thoughtless: bool) {
    for name in OWN {
        match request.anthropic.get(name).or_else(|| request.body.get(name)) {
            Some(value) if value.is_object() && !(name == "thinking" && thoughtless) => {
                body.insert(name.into(), value.clone());
            }
            _ => {}
        }
    }
}

/// Values that change nothing stay out: recent models refuse `temperature` together with `top_p`, and any sampling beside
/// thinking. Of the two, temperature counts.
fn set_sampling(body: &mut Map<String, Value>, request: &ChatRequest) {
    if let Some(stops) = request.stop.as_ref().filter(|stops| !stops.is_empty()) {
        body.insert("stop_sequences".into(), json!(stops));
    }
    if body.get("thinking").is_some_and(|thinking| thinking["type"] != "disabled") {
        return;
    }
    let number = |name: &str| request.body.get(name).and_then(Value::as_f64).filter(|value| value.is_finite());
    let temperature = number("temperature").map(|temperature| temperature.clamp(0.0, 1.0));
    if let Some(temperature) = temperature.filter(|temperature| *temperature < 1.0) {
        body.insert("temperature".into(), json!(temperature));
    } else if let Some(top_p) = number("top_p").filter(|top_p| *top_p < 1.0) {
        body.insert("top_p".into(), json!(top_p));
    }
    if let Some(top_k) = request.sampling.top_k.filter(|top_k| *top_k > 0) {
        body.insert("top_k".into(), top_k.into());
    }
}

fn set_format(body: &mut Map<String, Value>, asked: &Map<String, Value>) -> Result<(), GatewayError> {
    let Some(format) = asked.get("response_format").filter(|format| format["type"] == "json_schema") else {
        return Ok(());
    };
    let schema = format.pointer("/json_schema/schema").filter(|schema| schema.is_object());
    let schema = schema.ok_or_else(|| unsayable("response_format.json_schema.schema", "it must be an object"))?;
    let config = body.entry("output_config").or_insert_with(|| json!({}));
    if let Some(config) = config.as_object_mut() {
        config.insert("format".into(), json!({"type": "json_schema", "schema": schema}));
    }
    Ok(())
}

fn set_user(body: &mut Map<String, Value>, asked: &Map<String, Value>) {
    let user = ["user", "safety_identifier"].into_iter().find_map(|name| asked.get(name)?.as_str());
    if let Some(user) = user.filter(|user| !user.is_empty() && user.chars().count() <= MAX_USER_CHARS) {
        body.insert("metadata".into(), json!({"user_id": user}));
    }
}

#[cfg(test)]
mod tests;
