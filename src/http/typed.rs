//! Every answer to OpenAI's clients parses into the types that another project made of OpenAI's own description.

use super::{
    catalogue,
    dialect::Endpoint,
    error::ErrorReply,
    fixtures::{CONFIG, done, finish, head, other, read, text, written},
    render::tests::{answer, report},
};
use async_openai::{
    error::WrappedError,
    types::{
        chat::{CreateChatCompletionResponse, CreateChatCompletionStreamResponse},
        completions::CreateCompletionResponse,
        models::{ListModelResponse, Model},
        responses::{OutputItem, Response, ResponseStreamEvent},
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use spillway_actors::{
    cloud::WholeAnswer,
    domain::{Delta, ErrorKind, GatewayError},
    flight::FlightEvent,
};

fn parsed<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value}"))
}

fn logprobs() -> Value {
    let top = json!([{"token": "a", "logprob": -0.1, "bytes": [97]}]);
    json!({"content": [{"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": top}], "refusal": null})
}

/// A text with logprobs, calls of tools, a refusal; each with its reason.
fn answers() -> Vec<WholeAnswer> {
    let calls = json!([{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]);
    let mut text = answer(json!({"role": "assistant", "content": "a"}), json!({}));
    text.choices[0].logprobs = Some(logprobs());
    let mut called = answer(json!({"content": null, "tool_calls": calls, "reasoning_content": "hm"}), json!({}));
    called.choices[0].finish_reason = "tool_calls".into();
    let mut cut = answer(json!({"content": "a", "refusal": "no"}), json!({}));
    cut.choices[0].finish_reason = "length".into();
    vec![text, called, cut]
}

fn whole(endpoint: Endpoint, body: &Value, answer: WholeAnswer) -> Value {
    read(endpoint, body).unwrap().voice.whole(answer, &report())
}

fn chat(extra: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "a"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// A stream of everything that deltas may hold.
fn told() -> Vec<FlightEvent> {
    let call = |id: Option<&str>, arguments: &str| {
        other(
            json!({"tool_calls": [{"index": 0, "id": id, "type": id.map(|_| "function"), "function": {"name": id, "arguments": arguments}}]}),
        )
    };
    let with_logprobs = Delta { content: Some("a".into()), logprobs: Some(logprobs()), ..Delta::default() };
    vec![
        other(json!({"reasoning_content": "hm"})),
        FlightEvent::Delta(with_logprobs),
        text("b"),
        other(json!({"refusal": "no"})),
        call(Some("c"), ""),
        call(None, "{}"),
        finish("tool_calls"),
        done(),
    ]
}

/// The data of each event.
fn data(endpoint: Endpoint, body: &Value, events: Vec<FlightEvent>) -> Vec<Value> {
    let text = written(read(endpoint, body).unwrap().voice.stream(&head()), events);
    let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

#[test]
fn chats() {
    for answer in answers() {
        let expected = answer.choices[0].finish_reason.clone();
        let got: CreateChatCompletionResponse = parsed(&whole(Endpoint::Chat, &chat(json!({})), answer));
        assert_eq!(serde_json::to_value(got.choices[0].finish_reason).unwrap(), expected);
    }
    let streamed =
        data(Endpoint::Chat, &chat(json!({"stream": true, "stream_options": {"include_usage": true}})), told());
    let chunks: Vec<CreateChatCompletionStreamResponse> = streamed.iter().map(parsed).collect();
    assert_eq!(chunks.last().unwrap().usage.as_ref().unwrap().total_tokens, 29);
}

#[test]
fn completions() {
    let body = json!({"prompt": "a", "logprobs": 1, "stream": true, "stream_options": {"include_usage": true}});
    let answer = answers().swap_remove(0);
    let got: CreateCompletionResponse = parsed(&whole(Endpoint::Completion, &body, answer));
    assert_eq!((got.choices[0].text.as_str(), got.usage.unwrap().completion_tokens), ("a", 8));
    let streamed = data(Endpoint::Completion, &body, vec![text("a"), finish("stop"), done()]);
    let _chunks: Vec<CreateCompletionResponse> = streamed.iter().map(parsed).collect();
}

#[test]
fn responses() {
    let tools = json!([{"type": "function", "name": "f", "parameters": {"type": "object"}}]);
    let body = json!({
        "input": "a", "instructions": "i", "tools": tools, "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": "low"},
        "reasoning": {"effort": "low"}, "metadata": {"a": "b"}, "temperature": 0.5, "max_output_tokens": 5, "top_logprobs": 1
    });
    for answer in answers() {
        let got: Response = parsed(&whole(Endpoint::Responses, &body, answer));
        assert!(!got.output.is_empty());
    }
    let events: Vec<ResponseStreamEvent> = data(Endpoint::Responses, &body, told()).iter().map(parsed).collect();
    let Some(ResponseStreamEvent::ResponseCompleted(last)) = events.last() else { panic!("{events:?}") };
    assert!(matches!(last.response.output.last(), Some(OutputItem::FunctionCall(call)) if call.arguments == "{}"));
    let error = FlightEvent::Failed(GatewayError::target("t", ErrorKind::Upstream, "m"));
    let failed: Vec<ResponseStreamEvent> = data(Endpoint::Responses, &body, vec![error]).iter().map(parsed).collect();
    assert!(matches!(failed.last(), Some(ResponseStreamEvent::ResponseFailed(_))));
}

#[test]
fn models_and_errors() {
    let list: ListModelResponse = parsed(&catalogue::list(&CONFIG, &[], None, 5));
    assert_eq!(list.data[0].id, "auto");
    let _one: Model = parsed(&catalogue::one(&CONFIG, &[], None, "gpt-4.1", 5).unwrap());
    for kind in [ErrorKind::InvalidRequest, ErrorKind::RateLimited, ErrorKind::Internal] {
        let got: WrappedError = parsed(&ErrorReply::from(&GatewayError::gateway(kind, "m")).object());
        assert_eq!(got.error.message, "m");
    }
}
