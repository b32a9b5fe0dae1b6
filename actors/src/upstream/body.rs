//! Our request as the JSON body a provider gets. Pure.
//!
//! The client's own fields go through untouched, but for the few that the gateway decides: model, stream, usage and the
//! output cap. A text completion becomes a chat of one user message, because most providers no longer offer the old endpoint;
//! [`text_body`] is for those that do.

mod edited;

use super::Continuation;
use crate::config::LimitField;
use crate::domain::{Choices, GatewayError, Input, Outbound, RequestKind};
use bytes::Bytes;
use edited::Edited;
use serde_json::{Value, json};

/// What only `/v1/completions` knows.
const COMPLETION_ONLY: [&str; 4] = ["prompt", "suffix", "echo", "best_of"];
/// Other servers' names for what is decided here: they would make an answer longer than was set aside for it, or several
/// of one.
const OUTSIZING: [&str; 12] = [
    "best_of",
    "max_output_tokens",
    "max_new_tokens",
    "max_length",
    "max_gen_toks",
    "n_predict",
    "num_predict",
    "num_return_sequences",
    "num_completions",
    "candidate_count",
    "use_beam_search",
    "num_beams",
];
/// Words of providers and other gateways that would have another model answer, or at another price, than the one that was
/// chosen, that a key may use, and that the ledger reckons with.
const REPRICING: [&str; 11] = [
    "service_tier",
    "web_search_options",
    "models",
    "fallbacks",
    "context_window_fallbacks",
    "route",
    "provider",
    "preset",
    "plugins",
    "api_base",
    "base_url",
];
/// More is refused by chat endpoints.
const MAX_TOP_LOGPROBS: u64 = 20;

/// The longest answer, and how a server is told of it unless the client has named the field itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputCap {
    pub tokens: u32,
    pub field: LimitField,
}

/// By the name that most servers know.
impl From<u32> for OutputCap {
    fn from(tokens: u32) -> Self {
        Self { tokens, field: LimitField::MaxTokens }
    }
}

/// The body for `upstream_model`. `output_cap` is sent as the client's own field name for it, else as the server's.
/// `stream` is how the provider shall answer, whatever the client asked for.
///
/// # Errors
/// A prompt of token ids: only the local tokenizer could read it.
pub fn upstream_body<'a>(
    request: impl Into<Outbound<'a>>,
    upstream_model: &str,
    output_cap: impl Into<OutputCap>,
    stream: bool,
) -> Result<Bytes, GatewayError> {
    encode(&upstream(request.into(), upstream_model, output_cap.into(), stream)?)
}

/// The body for a provider's own `/completions`: the client's, but for the fields that the gateway decides.
///
/// # Errors
/// It is a chat, or its prompt is made of token ids: nobody knows whose.
pub fn text_body<'a>(
    request: impl Into<Outbound<'a>>,
    upstream_model: &str,
    output_cap: u32,
    stream: bool,
) -> Result<Bytes, GatewayError> {
    let request = request.into().request();
    if request.kind != RequestKind::Completion {
        return Err(GatewayError::invalid("messages", "the model takes text completions only"));
    }
    if request.has_token_ids() {
        return Err(GatewayError::invalid("prompt", "a prompt of token ids can only be served locally"));
    }
    let mut body = Edited::new(&request.body);
    as_understood(&mut body, &request.choices);
    if request.choices.best_of > request.choices.n {
        body.set("best_of", request.choices.best_of);
    }
    body.remove("max_completion_tokens");
    body.set("max_tokens", output_cap);
    body.set("model", upstream_model);
    body.set("stream", stream);
    set_usage_wish(&mut body, stream);
    encode(&body)
}

/// As [`upstream_body`], streamed, for an answer that goes on where another target's ended. `output_cap` is what is left.
///
/// # Errors
/// As [`upstream_body`].
pub fn continued_body<'a>(
    request: impl Into<Outbound<'a>>,
    upstream_model: &str,
    output_cap: impl Into<OutputCap>,
    continuation: Continuation<'_>,
) -> Result<Bytes, GatewayError> {
    let mut body = upstream(request.into(), upstream_model, output_cap.into(), true)?;
    let Some(messages) = body.get("messages").and_then(Value::as_array) else {
        return Err(GatewayError::invalid("messages", "there is no conversation to go on with"));
    };
    let continued: Vec<Value> = messages.iter().cloned().chain([continuation.message()]).collect();
    body.set("messages", continued);
    encode(&body)
}

fn upstream<'a>(
    request: Outbound<'a>,
    upstream_model: &str,
    output_cap: OutputCap,
    stream: bool,
) -> Result<Edited<'a>, GatewayError> {
    let request = request.request();
    let mut body = Edited::new(&request.body);
    if request.kind == RequestKind::Completion {
        completion_to_chat(&mut body, &request.input)?;
    }
    as_understood(&mut body, &request.choices);
    body.set("model", upstream_model);
    body.set("stream", stream);
    set_usage_wish(&mut body, stream);
    set_output_cap(&mut body, output_cap);
    Ok(body)
}

fn encode(body: &Edited<'_>) -> Result<Bytes, GatewayError> {
    serde_json::to_vec(body)
        .map(Bytes::from)
        .map_err(|_| GatewayError::gateway(crate::domain::ErrorKind::Internal, "the request could not be encoded"))
}

/// The answer is what was chosen and set aside for. `n`: `2.0` is two to some servers and a fault to others.
fn as_understood(body: &mut Edited<'_>, choices: &Choices) {
    for field in OUTSIZING.into_iter().chain(REPRICING) {
        body.remove(field);
    }
    if body.get("n").is_some() {
        body.set("n", choices.n);
    }
}

fn completion_to_chat(body: &mut Edited<'_>, input: &Input) -> Result<(), GatewayError> {
    let text = match input {
        Input::Text(text) => text,
        Input::Several(_) => return Err(GatewayError::invalid("prompt", "several prompts can only be served locally")),
        Input::Tokens(_) => {
            return Err(GatewayError::invalid("prompt", "a prompt of token ids can only be served locally"));
        }
        // Already a chat: nothing to translate.
        Input::Messages(_) => return Ok(()),
    };
    for field in COMPLETION_ONLY {
        body.remove(field);
    }
    // It is the only name there: no choice of the client's.
    body.remove(LimitField::MaxTokens.name());
    body.set("messages", json!([{"role": "user", "content": text}]));
    // The old field is the number of alternatives, the new ones a switch and that number.
    if let Some(alternatives) = body.get("logprobs").and_then(Value::as_u64) {
        body.set("logprobs", true);
        if alternatives > 0 {
            body.set("top_logprobs", alternatives.min(MAX_TOP_LOGPROBS));
        }
    }
    Ok(())
}

/// Usage is how a paid stream is billed, so it is always asked for; without a stream providers refuse the field.
fn set_usage_wish(body: &mut Edited<'_>, stream: bool) {
    if !stream {
        return body.remove("stream_options");
    }
    let mut options = body.get("stream_options").and_then(Value::as_object).cloned().unwrap_or_default();
    options.insert("include_usage".into(), true.into());
    body.set("stream_options", options);
}

fn set_output_cap(body: &mut Edited<'_>, cap: OutputCap) {
    let (new, old) = (LimitField::MaxCompletionTokens.name(), LimitField::MaxTokens.name());
    let named = [new, old].into_iter().find(|name| body.get(name).is_some_and(|value| !value.is_null()));
    // Both together are refused everywhere.
    body.remove(new);
    body.remove(old);
    body.set(named.unwrap_or(cap.field.name()), cap.tokens);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::PrefillStyle,
        domain::{ChatRequest, CloudBound, ErrorKind},
    };

    fn request(kind: RequestKind, input: Input, body: Value) -> ChatRequest {
        let Value::Object(body) = body else { panic!("the body is an object") };
        ChatRequest { kind, input, body, ..ChatRequest::plain("") }
    }

    fn translated(kind: RequestKind, input: Input, body: Value, stream: bool) -> Value {
        let bytes = upstream_body(CloudBound::new(&request(kind, input, body)).unwrap(), "up-1", 256, stream).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    fn chat(body: Value, stream: bool) -> Value {
        translated(RequestKind::Chat, Input::Messages(vec![]), body, stream)
    }

    #[test]
    fn unknown_fields_go_through_and_ours_are_set() {
        let sent = chat(
            json!({"model": "auto", "messages": [{"role": "user", "content": "a"}], "x_new": {"y": [1, null]}}),
            true,
        );
        assert_eq!(
            sent,
            json!({
                "model": "up-1", "messages": [{"role": "user", "content": "a"}], "x_new": {"y": [1, null]},
                "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 256
            })
        );
    }

    #[test]
    fn what_makes_answers_longer_or_more_is_sent_as_it_was_understood() {
        let asked =
            json!({"n": 2.0, "best_of": 20, "max_output_tokens": 9999, "max_new_tokens": 9999, "max_tokens": 5});
        for (kind, input) in
            [(RequestKind::Chat, Input::Messages(vec![])), (RequestKind::Completion, Input::Text("once".into()))]
        {
            let mut request = request(kind, input, asked.clone());
            request.choices.n = 2;
            let bytes = upstream_body(CloudBound::new(&request).unwrap(), "m", 5, false).unwrap();
            let sent: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!((&sent["n"], &sent["max_tokens"]), (&json!(2), &json!(5)), "{sent}");
            if kind == RequestKind::Completion {
                request.choices.best_of = 20;
                let bytes = text_body(CloudBound::new(&request).unwrap(), "m", 5, false).unwrap();
                let sent: Value = serde_json::from_slice(&bytes).unwrap();
                assert_eq!((&sent["n"], &sent["best_of"], sent.get("max_new_tokens")), (&json!(2), &json!(20), None));
                request.choices.best_of = 2;
            }
            assert!(
                !["best_of", "max_output_tokens", "max_new_tokens"].iter().any(|name| sent.get(name).is_some()),
                "{sent}"
            );
        }
    }

    #[test]
    fn nothing_that_changes_the_model_or_the_price_goes_through() {
        let asked = json!({
            "service_tier": "priority", "models": ["dearer"], "fallbacks": ["dearer"], "provider": {"order": ["x"]},
            "plugins": [{"id": "web"}], "web_search_options": {}, "user": "u"
        });
        let sent = chat(asked.clone(), false);
        assert_eq!(sent, json!({"user": "u", "model": "up-1", "stream": false, "max_tokens": 256}));
        let request = request(RequestKind::Completion, Input::Text("once".into()), asked);
        let sent: Value =
            serde_json::from_slice(&text_body(CloudBound::new(&request).unwrap(), "m", 5, false).unwrap()).unwrap();
        assert_eq!(sent, json!({"user": "u", "model": "m", "stream": false, "max_tokens": 5}));
    }

    #[test]
    fn usage_is_asked_for_in_streams_only() {
        let options = json!({"stream_options": {"include_usage": false, "include_obfuscation": false}});
        assert_eq!(
            chat(options.clone(), true)["stream_options"],
            json!({"include_usage": true, "include_obfuscation": false})
        );
        assert_eq!(chat(options, false).get("stream_options"), None);
        assert_eq!(chat(json!({"stream_options": null}), true)["stream_options"], json!({"include_usage": true}));
    }

    #[test]
    fn the_cap_replaces_the_clients_own_field() {
        assert_eq!(chat(json!({"max_tokens": 9}), false)["max_tokens"], 256);
        let sent = chat(json!({"max_completion_tokens": 9, "max_tokens": 8}), false);
        assert_eq!((sent.get("max_tokens"), &sent["max_completion_tokens"]), (None, &json!(256)));
        let sent = chat(json!({"max_completion_tokens": null}), false);
        assert_eq!((sent.get("max_completion_tokens"), &sent["max_tokens"]), (None, &json!(256)));
    }

    #[test]
    fn a_limit_nobody_has_named_goes_by_the_providers_name_for_it() {
        let cap = OutputCap { tokens: 7, field: LimitField::MaxCompletionTokens };
        let sent = |kind, input, body| {
            let bytes =
                upstream_body(CloudBound::new(&request(kind, input, body)).unwrap(), "up-1", cap, false).unwrap();
            let sent: Value = serde_json::from_slice(&bytes).unwrap();
            (sent.get("max_tokens").cloned(), sent.get("max_completion_tokens").cloned())
        };
        let chat = |body| sent(RequestKind::Chat, Input::Messages(vec![]), body);
        assert_eq!(chat(json!({})), (None, Some(json!(7))));
        assert_eq!(chat(json!({"max_tokens": null})), (None, Some(json!(7))));
        assert_eq!(chat(json!({"max_tokens": 9})), (Some(json!(7)), None), "the client's own word");
        let text =
            sent(RequestKind::Completion, Input::Text("once".into()), json!({"prompt": "once", "max_tokens": 9}));
        assert_eq!(text, (None, Some(json!(7))), "a text completion knows no other word");
    }

    #[test]
    fn a_text_completion_becomes_a_chat() {
        let sent = translated(
            RequestKind::Completion,
            Input::Text("once".into()),
            json!({"prompt": ["once"], "suffix": "s", "echo": true, "best_of": 2, "logprobs": 3, "temperature": 0.5}),
            false,
        );
        assert_eq!(
            sent,
            json!({
                "messages": [{"role": "user", "content": "once"}], "logprobs": true, "top_logprobs": 3,
                "temperature": 0.5, "model": "up-1", "stream": false, "max_tokens": 256
            })
        );
    }

    #[test]
    fn a_text_completion_stays_one_where_it_is_served() {
        let body = json!({
            "model": "x", "prompt": ["once", "twice"], "suffix": "s", "echo": true, "best_of": 0, "logprobs": 3,
            "max_completion_tokens": 9, "stream_options": null
        });
        let passages = vec![crate::domain::Passage::Text("once".into()), crate::domain::Passage::Text("twice".into())];
        let text = request(RequestKind::Completion, Input::Several(passages), body);
        let bytes = text_body(CloudBound::new(&text).unwrap(), "up-1", 256, true).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&bytes).unwrap(),
            json!({
                "model": "up-1", "prompt": ["once", "twice"], "suffix": "s", "echo": true, "logprobs": 3,
                "max_tokens": 256, "stream": true, "stream_options": {"include_usage": true}
            })
        );
        for other in [
            request(RequestKind::Chat, Input::Messages(vec![]), json!({})),
            request(RequestKind::Completion, Input::Tokens(vec![1]), json!({})),
        ] {
            assert!(text_body(CloudBound::new(&other).unwrap(), "up-1", 256, true).is_err());
        }
    }

    #[test]
    fn a_continuation_is_the_last_message_in_the_models_own_style() {
        let user = json!({"role": "user", "content": "once"});
        let chat = json!({"messages": [user], "max_tokens": 90, "stop": ["END"]});
        let (messages, text) = (Input::Messages(vec![]), Input::Text("once".into()));
        for (kind, input, body) in [
            (RequestKind::Chat, messages, chat),
            (RequestKind::Completion, text, json!({"prompt": "once", "stop": ["END"]})),
        ] {
            let request = request(kind, input, body);
            for (style, last) in [
                (PrefillStyle::Assistant, json!({"role": "assistant", "content": "so far"})),
                (PrefillStyle::DeepseekPrefix, json!({"role": "assistant", "content": "so far", "prefix": true})),
            ] {
                let continuation = Continuation::new("so far", style).unwrap();
                let bytes = continued_body(CloudBound::new(&request).unwrap(), "up-1", 30, continuation).unwrap();
                let sent: Value = serde_json::from_slice(&bytes).unwrap();
                assert_eq!(sent["messages"], json!([user, last]));
                assert_eq!(
                    (&sent["max_tokens"], &sent["stop"], &sent["stream"]),
                    (&json!(30), &json!(["END"]), &json!(true))
                );
            }
        }
    }

    #[test]
    fn token_ids_never_go_to_a_provider() {
        let request = request(RequestKind::Completion, Input::Tokens(vec![1]), json!({}));
        assert_eq!(
            upstream_body(CloudBound::new(&request).unwrap(), "m", 1, false).unwrap_err().kind,
            ErrorKind::InvalidRequest
        );
    }
}
