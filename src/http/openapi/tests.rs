//! The document is OpenAPI 3.1, describes every route and no other, and tells the truth about answers.

use crate::http::{
    dialect::Endpoint,
    error::ErrorReply,
    fixtures,
    render::tests::{answer, report},
    routes,
};
use http::Method;
use serde_json::{Value, json};
use spillway_actors::domain::{ErrorKind, GatewayError};
use std::collections::{BTreeMap, BTreeSet};

fn document() -> Value {
    serde_json::from_str(super::text()).unwrap()
}

/// Faults of a value against one of the document's schemas.
fn faults(schema: &str, value: &Value) -> Vec<String> {
    let document = document();
    let schema = json!({"$ref": format!("#/components/schemas/{schema}"), "components": document["components"]});
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    validator.iter_errors(value).map(|fault| format!("{}: {fault}", fault.instance_path())).collect()
}

fn assert_is(schema: &str, value: &Value) {
    assert_eq!(faults(schema, value), Vec::<String>::new(), "{schema}: {value}");
}

#[test]
fn it_is_openapi_3_1_and_every_reference_leads_somewhere() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let text = super::text();
    let names: BTreeSet<&str> =
        text.split("\"#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    for name in names {
        assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
    }
    let mut ids = BTreeSet::new();
    for item in document["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{operation}");
        }
    }
}

#[test]
fn it_says_how_a_key_is_shown_and_that_none_may_be_needed() {
    let document = document();
    assert_eq!(document["security"], json!([{"bearer": []}, {"api_key": []}, {}]));
    let schemes = &document["components"]["securitySchemes"];
    assert_eq!((&schemes["bearer"]["type"], &schemes["bearer"]["scheme"]), (&json!("http"), &json!("bearer")));
    assert_eq!((&schemes["api_key"]["in"], &schemes["api_key"]["name"]), (&json!("header"), &json!("x-api-key")));
}

#[tokio::test]
async fn its_paths_and_methods_are_the_routers() {
    let routed: BTreeSet<String> =
        routes::routes().into_iter().map(|(path, _)| path.replace("{*id}", "{id}")).collect();
    let document = document();
    let described: BTreeMap<String, Vec<String>> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(path, item)| {
            (path.clone(), item.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect())
        })
        .collect();
    assert_eq!(routed, described.keys().cloned().collect());
    for (path, methods) in described {
        // A method that nobody serves is answered with those that are.
        let got = routes::tests::send_anything(Method::TRACE, &path.replace("{id}", "x")).await;
        let served: Vec<String> = got.split(',').filter(|method| *method != "HEAD").map(str::to_owned).collect();
        assert_eq!(served, methods, "{path}");
    }
}

#[test]
fn requests_that_are_served_are_described() {
    for (schema, endpoint, body) in [
        ("ChatCompletionRequest", Endpoint::Chat, json!({"messages": [{"role": "user", "content": "a"}]})),
        (
            "ChatCompletionRequest",
            Endpoint::Chat,
            json!({
                "model": "auto", "messages": [
                    {"role": "developer", "content": [{"type": "text", "text": "a"}]},
                    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "https://x/y"}}]},
                    {"role": "assistant", "content": null, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                    {"role": "tool", "tool_call_id": "c", "content": "1"}],
                "temperature": 0, "top_p": 1, "stop": ["a"], "stream": true, "stream_options": {"include_usage": true}, "n": 2,
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}], "tool_choice": "auto",
                "response_format": {"type": "json_object"}, "logit_bias": {"5": -100}, "max_latency_ms": 5, "x_unknown": [1]
            }),
        ),
        ("CompletionRequest", Endpoint::Completion, json!({"prompt": "a", "max_tokens": 5, "stop": "b"})),
        ("CompletionRequest", Endpoint::Completion, json!({"prompt": [1, 2, 3]})),
        ("ResponsesRequest", Endpoint::Responses, json!({"input": "a", "instructions": null})),
        (
            "ResponsesRequest",
            Endpoint::Responses,
            json!({"input": [
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "1"}],
                "tools": [{"type": "function", "name": "f", "parameters": {}}], "text": {"format": {"type": "text"}}}),
        ),
        (
            "MessagesRequest",
            Endpoint::Messages,
            json!({"max_tokens": 5, "system": [{"type": "text", "text": "a"}], "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "1"}]}],
                "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "auto"}}),
        ),
    ] {
        assert!(fixtures::read(endpoint, &body).is_ok(), "{body}");
        assert_is(schema, &body);
    }
}

#[test]
fn requests_out_of_range_are_not_described_as_fine() {
    let chat = |extra: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "a"}]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    for body in [
        json!({}),
        json!({"messages": []}),
        chat(json!({"temperature": 2.1})),
        chat(json!({"top_p": 0})),
        chat(json!({"n": 0})),
        chat(json!({"stop": [""]})),
        chat(json!({"stream": "yes"})),
        chat(json!({"messages": [{"role": "robot", "content": "a"}]})),
    ] {
        assert!(fixtures::read(Endpoint::Chat, &body).is_err(), "{body}");
        assert!(!faults("ChatCompletionRequest", &body).is_empty(), "{body}");
    }
}

#[test]
fn answers_are_what_it_says() {
    let tools = json!([{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]);
    let messages = [
        json!({"role": "assistant", "content": "Hello."}),
        json!({"content": null, "tool_calls": tools, "reasoning_content": "hm"}),
        json!({"content": null, "refusal": "no"}),
    ];
    let bodies = [
        ("ChatCompletion", Endpoint::Chat, json!({"messages": [{"role": "user", "content": "a"}]})),
        ("Completion", Endpoint::Completion, json!({"prompt": "a"})),
        ("Response", Endpoint::Responses, json!({"input": "a", "tools": [{"type": "function", "name": "f"}]})),
        (
            "Message",
            Endpoint::Messages,
            json!({"max_tokens": 5, "thinking": {"type": "adaptive"}, "messages": [{"role": "user", "content": "a"}]}),
        ),
    ];
    for (schema, endpoint, body) in bodies {
        for message in &messages {
            let voice = fixtures::read(endpoint, &body).unwrap().voice;
            assert_is(schema, &voice.whole(answer(message.clone(), json!({})), &report()));
        }
    }
    let reply = ErrorReply::from(&GatewayError::target("t", ErrorKind::Upstream, "m"));
    assert_is("ErrorReply", &reply.object());
    assert_is("AnthropicErrorReply", &crate::http::anthropic::error::object(&reply));
}

#[test]
fn events_are_what_it_says() {
    use fixtures::{done, finish, head, text, written};
    for (schema, endpoint, body) in [
        (
            "ChatCompletionChunk",
            Endpoint::Chat,
            json!({"messages": [{"role": "user", "content": "a"}], "stream_options": {"include_usage": true}, "stream": true}),
        ),
        ("CompletionChunk", Endpoint::Completion, json!({"prompt": "a", "stream": true})),
        ("ResponseEvent", Endpoint::Responses, json!({"input": "a", "stream": true})),
        (
            "MessageEvent",
            Endpoint::Messages,
            json!({"max_tokens": 5, "stream": true, "messages": [{"role": "user", "content": "a"}]}),
        ),
    ] {
        let frames = fixtures::read(endpoint, &body).unwrap().voice.stream(&head());
        let all = written(frames, [text("a"), finish("stop"), done()]);
        for data in all.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]") {
            assert_is(schema, &serde_json::from_str(data).unwrap());
        }
    }
}
