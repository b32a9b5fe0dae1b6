//! Requests as they are sent. Samples are written by hand after the API's documentation.

use super::*;
use crate::domain::{CloudBound, Message, RequestKind, SamplingWish};
use crate::upstream::upstream_body;
use proptest::prelude::*;

/// A chat as the edge would have read it.
fn request(body: Value) -> ChatRequest {
    let Value::Object(body) = body else { panic!("an object") };
    let message = |raw: &Value| Message {
        role: raw["role"].as_str().unwrap().to_owned(),
        content: raw["content"].as_str().unwrap_or_default().to_owned(),
        raw: raw.as_object().unwrap().clone(),
    };
    let messages = body["messages"].as_array().unwrap().iter().map(message).collect();
    let stop = body.get("stop").map(|stop| serde_json::from_value(stop.clone()).unwrap());
    let sampling =
        SamplingWish { top_k: body.get("top_k").and_then(Value::as_i64).map(|k| k as i32), ..SamplingWish::default() };
    ChatRequest { input: Input::Messages(messages), stop, sampling, body, ..ChatRequest::plain("") }
}

fn send(request: &ChatRequest, sent: Option<&str>) -> Result<Value, GatewayError> {
    let bytes = body(CloudBound::new(request).unwrap().into(), "claude-x", 256, true, sent)?;
    Ok(serde_json::from_slice(&bytes).unwrap())
}

fn sent(asked: Value) -> Value {
    send(&request(asked), None).unwrap()
}

fn refused(asked: Value) -> GatewayError {
    send(&request(asked), None).unwrap_err()
}

/// One user message and these fields beside it.
fn with(extra: Value) -> Value {
    let mut asked = json!({"messages": [{"role": "user", "content": "hi"}]});
    asked.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    asked
}

#[test]
fn only_what_anthropic_knows_is_sent() {
    let asked = with(json!({
        "model": "auto", "stream": false, "stream_options": {"include_usage": true}, "max_completion_tokens": 9, "seed": 1,
        "presence_penalty": 1, "reasoning_effort": "high", "store": true, "metadata": {"a": "b"}, "service_tier": "flex",
        "temperature": 1.6, "user": "u-1", "stop": ["END"], "top_k": 5, "x_new": 1, "thinking": {"type": "disabled"}
    }));
    assert_eq!(
        sent(asked),
        json!({
            "model": "claude-x", "max_tokens": 256, "stream": true, "thinking": {"type": "disabled"},
            "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
            "stop_sequences": ["END"], "top_k": 5, "metadata": {"user_id": "u-1"}
        })
    );
}

#[test]
fn system_messages_go_to_the_top_and_roles_take_turns() {
    let body = sent(json!({"messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}}]},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": "  \n"},
        {"role": "user", "content": "d"}
    ]}));
    assert_eq!(body["system"], json!([{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]));
    assert_eq!(
        body["messages"],
        json!([
            {"role": "user", "content": [
                {"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}}]},
            {"role": "assistant", "content": [{"type": "text", "text": "c"}]},
            {"role": "user", "content": [{"type": "text", "text": "d"}]}
        ])
    );
}

#[test]
fn a_lone_system_message_is_answered_and_silence_is_refused() {
    let body = sent(json!({"messages": [{"role": "system", "content": "Say hi."}]}));
    assert_eq!(body.get("system"), None);
    assert_eq!(body["messages"], json!([{"role": "user", "content": [{"type": "text", "text": "Say hi."}]}]));
    assert_eq!(refused(json!({"messages": [{"role": "user", "content": " "}]})).param.as_deref(), Some("messages"));
}

#[test]
fn a_text_completion_is_one_user_turn() {
    let request = ChatRequest { kind: RequestKind::Completion, ..ChatRequest::plain("once") };
    let body = send(&request, None).unwrap();
    assert_eq!(body["messages"], json!([{"role": "user", "content": [{"type": "text", "text": "once"}]}]));
}

#[test]
fn images_and_documents_become_blocks() {
    let part = |part: Value| json!({"messages": [{"role": "user", "content": [part]}]});
    let image = |url: &str| part(json!({"type": "image_url", "image_url": {"url": url, "detail": "low"}}));
    let file = |data: &str| part(json!({"type": "file", "file": {"filename": "a.pdf", "file_data": data}}));
    for (asked, block) in [
        (
            image("data:image/png;base64,QUJD"),
            json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}),
        ),
        (
            image("https://x.test/a.png"),
            json!({"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}}),
        ),
        (
            file("data:application/pdf;base64,QUJD"),
            json!({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "QUJD"}}),
        ),
    ] {
        assert_eq!(sent(asked)["messages"][0]["content"], json!([block]));
    }
    for (asked, param) in [
        (image("http://x.test/a.png"), "messages[0].content[0].image_url.url"),
        (image("data:image/svg+xml,<svg/>"), "messages[0].content[0].image_url.url"),
        (file("data:text/plain;base64,QUJD"), "messages[0].content[0].file"),
        (part(json!({"type": "file", "file": {"file_id": "file-1"}})), "messages[0].content[0].file"),
        (part(json!({"type": "input_audio", "input_audio": {}})), "messages[0].content[0]"),
    ] {
        let error = refused(asked);
        assert_eq!((error.kind, error.param.as_deref()), (ErrorKind::InvalidRequest, Some(param)));
    }
}

#[test]
fn calls_and_results_of_tools_become_blocks_of_their_turns() {
    let call = |id: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}});
    let body = sent(json!({"messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "Looking.", "tool_calls": [call("call_1", "{\"x\": 1}"), call("functions.f:2", "")]},
        {"role": "tool", "tool_call_id": "call_1", "content": "one"},
        {"role": "tool", "tool_call_id": "functions.f:2", "content": ""},
        {"role": "user", "content": "and?"}
    ]}));
    assert_eq!(
        body["messages"].as_array().unwrap()[1..],
        [
            json!({"role": "assistant", "content": [
                {"type": "text", "text": "Looking."},
                {"type": "tool_use", "id": "call_1", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "functions_f_2", "name": "f", "input": {}}]}),
            json!({"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "one"}]},
                {"type": "tool_result", "tool_use_id": "functions_f_2"},
                {"type": "text", "text": "and?"}]})
        ]
    );
    for arguments in ["{\"x\": ", "[1]"] {
        let error = refused(json!({"messages": [{"role": "assistant", "tool_calls": [call("c", arguments)]}]}));
        assert_eq!(error.param.as_deref(), Some("messages[0].tool_calls[0].function.arguments"));
        assert!(!error.message.contains("x"), "the client's words stay out: {error}");
    }
}

#[test]
fn the_old_form_of_functions_is_the_same_in_the_end() {
    let body = sent(json!({
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "one"}
        ],
        "functions": [{"name": "f", "parameters": {"type": "object", "properties": {}}}], "function_call": {"name": "f"}
    }));
    assert_eq!(body["messages"][1]["content"][0]["id"], body["messages"][2]["content"][0]["tool_use_id"]);
    assert_eq!(body["tools"], json!([{"name": "f", "input_schema": {"type": "object", "properties": {}}}]));
    assert_eq!(body["tool_choice"], json!({"type": "tool", "name": "f"}));
}

#[test]
fn tools_and_every_tool_choice_are_translated() {
    let tools = json!([{"type": "function", "function": {
        "name": "f", "description": "d", "strict": true, "parameters": {"properties": {"x": {"type": "string"}}}}}]);
    let asked = |extra: Value| {
        let mut asked = with(extra);
        asked["tools"] = tools.clone();
        sent(asked)
    };
    let plain = asked(json!({}));
    let schema = json!({"properties": {"x": {"type": "string"}}, "type": "object"});
    assert_eq!(plain["tools"], json!([{"name": "f", "input_schema": schema, "description": "d", "strict": true}]));
    assert_eq!(plain.get("tool_choice"), None);
    for (extra, choice) in [
        (json!({"tool_choice": "auto"}), json!({"type": "auto"})),
        (json!({"tool_choice": "none", "parallel_tool_calls": false}), json!({"type": "none"})),
        (json!({"tool_choice": "required"}), json!({"type": "any"})),
        (json!({"tool_choice": {"type": "function", "function": {"name": "f"}}}), json!({"type": "tool", "name": "f"})),
        (json!({"parallel_tool_calls": false}), json!({"type": "auto", "disable_parallel_tool_use": true})),
        (
            json!({"tool_choice": "required", "parallel_tool_calls": false}),
            json!({"type": "any", "disable_parallel_tool_use": true}),
        ),
    ] {
        assert_eq!(asked(extra)["tool_choice"], choice);
    }
    assert_eq!(sent(with(json!({"tools": [], "tool_choice": "auto"}))).get("tool_choice"), None);
    for (extra, param) in [
        (json!({"tools": [{"type": "custom", "custom": {"name": "f"}}]}), "tools[0]"),
        (json!({"tools": [{"type": "function", "function": {}}]}), "tools[0].name"),
        (json!({"tools": tools, "tool_choice": {"type": "allowed_tools"}}), "tool_choice"),
    ] {
        assert_eq!(refused(with(extra)).param.as_deref(), Some(param));
    }
}

#[test]
fn a_schema_is_sent_as_output_format_and_what_has_no_counterpart_is_refused() {
    let schema = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let asked = with(json!({
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema}},
        "output_config": {"effort": "low"}
    }));
    let format = json!({"type": "json_schema", "schema": schema});
    assert_eq!(sent(asked)["output_config"], json!({"effort": "low", "format": format}));
    assert_eq!(sent(with(json!({"response_format": {"type": "text"}}))).get("output_config"), None);
    for extra in [
        json!({"response_format": {"type": "json_object"}}),
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}),
        json!({"stop": ["a", "\n"]}),
    ] {
        assert_eq!(refused(with(extra)).kind, ErrorKind::InvalidRequest);
    }
    let several =
        ChatRequest { needs: Needs { several_choices: true, ..Needs::default() }, ..request(with(json!({}))) };
    assert_eq!(send(&several, None).unwrap_err().message, "the model's provider does not offer n > 1");
}

#[test]
fn sampling_that_changes_nothing_or_would_be_refused_stays_out() {
    let asked = |extra: Value| {
        let body = sent(with(extra));
        ["temperature", "top_p", "top_k"].map(|name| body.get(name).and_then(Value::as_f64))
    };
    assert_eq!(asked(json!({"temperature": 0, "top_p": 1})), [Some(0.0), None, None]);
    assert_eq!(asked(json!({"temperature": 0.7, "top_p": 0.9, "top_k": 3})), [Some(0.7), None, Some(3.0)]);
    assert_eq!(asked(json!({"temperature": 1, "top_p": 0.9, "top_k": 0})), [None, Some(0.9), None]);
    assert_eq!(asked(json!({"temperature": 0.1, "thinking": {"type": "enabled", "budget_tokens": 1024}})), [None; 3]);
}

#[test]
fn thinking_is_left_out_of_a_turn_that_answers_tools() {
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let body = sent(json!({"thinking": {"type": "adaptive"}, "temperature": 0.5, "messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "one"}
    ]}));
    assert_eq!((body.get("thinking"), &body["temperature"]), (None, &json!(0.5)));
}

#[test]
fn what_anthropics_clients_ask_for_reaches_it_and_no_other_provider() {
    let Value::Object(anthropic) = json!({
        "thinking": {"type": "enabled", "budget_tokens": 1024}, "output_config": {"effort": "low"}
    }) else {
        panic!("an object")
    };
    let schema = json!({"type": "object"});
    let format = json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema}});
    let asked = ChatRequest { anthropic, ..request(with(json!({"response_format": format}))) };
    let body = send(&asked, None).unwrap();
    assert_eq!(body["thinking"], json!({"type": "enabled", "budget_tokens": 1024}));
    assert_eq!(body["output_config"], json!({"effort": "low", "format": {"type": "json_schema", "schema": schema}}));
    let begun = send(&asked, Some("Once")).unwrap();
    assert_eq!((begun.get("thinking"), &begun["output_config"]["effort"]), (None, &json!("low")));
    let elsewhere = upstream_body(CloudBound::new(&asked).unwrap(), "m", 256, true).unwrap();
    let elsewhere: Value = serde_json::from_slice(&elsewhere).unwrap();
    assert_eq!((elsewhere.get("thinking"), elsewhere.get("output_config")), (None, None));
}

#[test]
fn the_beginning_of_an_answer_is_the_last_turn() {
    let chat = request(with(json!({})));
    let body = send(&chat, Some("Once upon")).unwrap();
    assert_eq!(body["messages"][1], json!({"role": "assistant", "content": [{"type": "text", "text": "Once upon"}]}));
    let own =
        request(json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Once "}]}));
    assert_eq!(
        send(&own, Some("upon")).unwrap()["messages"][1]["content"],
        json!([{"type": "text", "text": "Once upon"}])
    );
    assert_eq!(send(&own, None).unwrap()["messages"][1]["content"], json!([{"type": "text", "text": "Once"}]));
    for unfit in ["", "Once ", "Once\n", "Once\u{2003}"] {
        assert!(!is_continuable(unfit));
        assert_eq!(send(&chat, Some(unfit)).unwrap_err().kind, ErrorKind::InvalidRequest, "{unfit:?}");
    }
}

prop_compose! {
    fn message()(role in 0..4usize, text in "[a \n]{0,3}") -> Value {
        let role = ["system", "user", "assistant", "tool"][role];
        json!({"role": role, "content": text, "tool_call_id": "c"})
    }
}

proptest! {
    #[test]
    fn whatever_is_said_roles_take_turns_and_no_text_is_blank(messages in proptest::collection::vec(message(), 1..8)) {
        let Ok(body) = send(&request(json!({"messages": messages})), None) else { return Ok(()) };
        let turns = body["messages"].as_array().unwrap();
        prop_assert!(!turns.is_empty());
        for pair in turns.windows(2) {
            prop_assert_ne!(&pair[0]["role"], &pair[1]["role"]);
        }
        for block in turns.iter().flat_map(|turn| turn["content"].as_array().unwrap()) {
            prop_assert!(block["type"] == "tool_result" || !block["text"].as_str().unwrap().trim().is_empty());
        }
        let last = turns.last().unwrap();
        let text = last["content"].as_array().unwrap().last().unwrap()["text"].as_str().unwrap_or("x");
        prop_assert!(last["role"] == "user" || !text.ends_with(char::is_whitespace));
    }
}
