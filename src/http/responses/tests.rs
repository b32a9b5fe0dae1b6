//! Responses: bodies in, objects and events out, to the byte.

use crate::http::{
    dialect::Endpoint,
    fixtures::{self, done, finish, head, other, text, written},
    render::tests::{answer, report},
};
use serde_json::{Value, json};
use spillway_actors::{
    domain::{ErrorKind, GatewayError},
    flight::FlightEvent,
};

fn chat(body: Value) -> Value {
    fixtures::chat(Endpoint::Responses, &body)
}

fn refusal(body: Value) -> String {
    fixtures::refusal(Endpoint::Responses, &body)
}

fn stream(body: Value, events: impl IntoIterator<Item = FlightEvent>) -> String {
    written(fixtures::read(Endpoint::Responses, &body).unwrap().voice.stream(&head()), events)
}

#[test]
fn a_text_is_a_chat_of_one_message() {
    assert_eq!(chat(json!({"input": "hi"})), json!({"messages": [{"role": "user", "content": "hi"}]}));
}

#[test]
fn every_field_has_its_counterpart() {
    let sent = chat(json!({
        "model": "gpt-4.1", "input": [
            {"role": "user", "content": [
                {"type": "input_text", "text": "look"},
                {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "one moment", "annotations": []}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{\"a\":1}"},
            {"type": "function_call_output", "call_id": "c1", "output": "1"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]}],
        "instructions": "be brief", "max_output_tokens": 9, "temperature": 0.5, "top_p": 0.9, "parallel_tool_calls": false,
        "tools": [{"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": true},
            {"type": "function", "name": "g", "parameters": null}],
        "tool_choice": {"type": "function", "name": "f"}, "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": true}, "verbosity": "low"},
        "metadata": {"a": "b"}, "store": true, "user": "u", "include": ["message.output_text.logprobs"],
        "top_logprobs": 2, "truncation": "disabled", "stream": true, "stream_options": {"include_obfuscation": false},
        "x_unknown": 1
    }));
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    assert_eq!(
        sent,
        json!({
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}}]},
                {"role": "assistant", "content": "one moment", "tool_calls": [call("c1", "f", "{}"), call("c2", "g", "{\"a\":1}")]},
                {"role": "tool", "tool_call_id": "c1", "content": "1"},
                {"role": "tool", "tool_call_id": "c2", "content": "2"}],
            "tools": [
                {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": true}},
                {"type": "function", "function": {"name": "g"}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "verbosity": "low",
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": true}},
            "reasoning_effort": "low", "logprobs": true, "top_logprobs": 2,
            "model": "gpt-4.1", "temperature": 0.5, "top_p": 0.9, "parallel_tool_calls": false,
            "metadata": {"a": "b"}, "store": true, "user": "u", "stream": true, "x_unknown": 1
        })
    );
}

#[test]
fn allowed_tools_are_the_tools_that_are_offered() {
    let tool = |name: &str| json!({"type": "function", "name": name});
    let choice = json!({"type": "allowed_tools", "mode": "required", "tools": [tool("g")]});
    let sent = chat(json!({"input": "a", "tools": [tool("f"), tool("g")], "tool_choice": choice}));
    assert_eq!(sent["tools"], json!([{"type": "function", "function": {"name": "g"}}]));
    assert_eq!(sent["tool_choice"], "required");
}

#[test]
fn what_needs_a_store_or_is_malformed_is_refused_with_its_place() {
    let item = |item: Value| json!({"input": [item]});
    for (body, expected) in [
        (json!({}), "input: Missing required parameter: 'input'."),
        (json!({"input": []}), "input: Invalid 'input': empty array. Expected at least one item."),
        (
            json!({"input": 1}),
            "input: Invalid type for 'input': expected a string or an array of items, but got an integer instead.",
        ),
        (
            json!({"input": "a", "previous_response_id": "r"}),
            "previous_response_id: 'previous_response_id' is not supported: no response is stored here: send the whole conversation as 'input'.",
        ),
        (
            json!({"input": "a", "background": true}),
            "background: 'background' is not supported: no response is stored here, so none can be fetched later: leave it out and wait or stream.",
        ),
        (
            json!({"input": "a", "tools": [{"type": "web_search"}]}),
            "tools[0].type: Unsupported value for 'tools[0].type': this gateway runs no tools of its own; offer a 'function' or a 'custom' one.",
        ),
        (
            json!({"input": "a", "tools": [{"type": "custom", "name": "patch", "format": "text"}]}),
            "tools[0].format: Invalid type for 'tools[0].format': expected an object, but got a string instead.",
        ),
        (
            json!({"input": "a", "tool_choice": "required"}),
            "tool_choice: Invalid 'tool_choice': there are no 'tools' to choose from.",
        ),
        (
            json!({"input": "a", "max_output_tokens": 0}),
            "max_output_tokens: Invalid 'max_output_tokens': value below minimum. Expected a value >= 1, but got 0 instead.",
        ),
        (
            json!({"input": "a", "text": {"format": {"type": "json_schema", "name": "n"}}}),
            "text.format.schema: Missing required parameter: 'text.format.schema'.",
        ),
        (
            item(json!({"type": "item_reference", "id": "x"})),
            "input[0]: 'input[0]' refers to a stored item, and none is stored here: send the item itself.",
        ),
        (item(json!({"role": "user"})), "input[0].content: Missing required parameter: 'input[0].content'."),
        (
            item(json!({"role": "robot", "content": "a"})),
            "input[0].role: Invalid value for 'input[0].role'. Supported values are: 'system', 'developer', 'user', 'assistant'.",
        ),
        (
            item(json!({"role": "user", "content": [{"type": "input_image", "file_id": "f"}]})),
            "input[0].content[0].file_id: No file is stored here: send it inside 'input[0].content[0].image_url'.",
        ),
        (
            item(json!({"type": "function_call_output", "output": "a"})),
            "input[0].call_id: Missing required parameter: 'input[0].call_id'.",
        ),
    ] {
        assert_eq!(refusal(body.clone()), expected, "{body}");
    }
    assert!(
        fixtures::read(Endpoint::Responses, &json!({"input": "a", "background": false, "conversation": null})).is_ok()
    );
}

#[test]
fn a_response_is_exactly_this() {
    let body = json!({"input": "hi", "tools": [{"type": "function", "name": "f"}], "metadata": {"k": "v"}});
    let voice = fixtures::read(Endpoint::Responses, &body).unwrap().voice;
    let whole = voice.whole(answer(json!({"content": "Hello."}), json!({})), &report());
    let expected = concat!(
        r#"{"id":"resp_000000000000000000000000000000ab","object":"response","created_at":1764000000,"status":"completed","#,
        r#""background":false,"completed_at":1764000000,"error":null,"incomplete_details":null,"model":"smollm2-135m","#,
        r#""output":[{"id":"msg_000000000000000000000000000000ab_0","type":"message","status":"completed","role":"assistant","#,
        r#""content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"Hello."}]}],"#,
        r#""instructions":null,"max_output_tokens":null,"max_tool_calls":null,"metadata":{"k":"v"},"parallel_tool_calls":true,"#,
        r#""previous_response_id":null,"reasoning":{"effort":null,"summary":null},"store":false,"temperature":null,"#,
        r#""text":{"format":{"type":"text"}},"tool_choice":"auto","#,
        r#""tools":[{"type":"function","name":"f","description":null,"parameters":null,"strict":null}],"#,
        r#""top_logprobs":0,"top_p":null,"truncation":"disabled","#,
        r#""usage":{"input_tokens":21,"input_tokens_details":{"cached_tokens":5,"cache_write_tokens":0},"output_tokens":8,"#,
        r#""output_tokens_details":{"reasoning_tokens":0},"total_tokens":29},"routing":"#,
    );
    let text = whole.to_string();
    assert!(text.starts_with(expected), "{text}");
    assert_eq!(whole["routing"]["target"], "local");
}

#[test]
fn thoughts_calls_and_a_cut_have_their_items() {
    let voice = fixtures::read(Endpoint::Responses, &json!({"input": "hi"})).unwrap().voice;
    let message = json!({"content": "so", "reasoning_content": "hm", "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\":"}}]});
    let mut cut = answer(message, json!({}));
    cut.choices[0].finish_reason = "length".into();
    let mut report = report();
    report.usage.reasoning_tokens = 4;
    let whole = voice.whole(cut, &report);
    let items: Vec<String> =
        whole["output"].as_array().unwrap().iter().map(|i| format!("{} {}", i["type"], i["status"])).collect();
    assert_eq!(items, [r#""reasoning" "completed""#, r#""message" "completed""#, r#""function_call" "incomplete""#]);
    assert_eq!(
        (&whole["status"], &whole["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    assert_eq!(whole["usage"]["output_tokens_details"]["reasoning_tokens"], 4);
    assert_eq!(whole["output"][2]["arguments"], "{\"a\":");
}

#[test]
fn a_stream_of_text_is_exactly_this() {
    let events = stream(json!({"input": "hi", "stream": true}), [text("a\""), text("b"), finish("stop"), done()]);
    let all = fixtures::events(&events, &["response"]);
    let id = r#""item_id":"msg_000000000000000000000000000000ab_0","output_index":0,"content_index":0"#;
    let item = r#""id":"msg_000000000000000000000000000000ab_0","type":"message""#;
    let part = r#""type":"output_text","annotations":[],"logprobs":[]"#;
    assert_eq!(
        all,
        [
            r#"{"type":"response.created","sequence_number":0}"#.to_owned(),
            r#"{"type":"response.in_progress","sequence_number":1}"#.to_owned(),
            format!(
                r#"{{"output_index":0,"item":{{{item},"status":"in_progress","role":"assistant","content":[]}},"type":"response.output_item.added","sequence_number":2}}"#
            ),
            format!(r#"{{{id},"part":{{{part},"text":""}},"type":"response.content_part.added","sequence_number":3}}"#),
            format!(r#"{{{id},"delta":"a\"","logprobs":[],"type":"response.output_text.delta","sequence_number":4}}"#),
            format!(r#"{{{id},"delta":"b","logprobs":[],"type":"response.output_text.delta","sequence_number":5}}"#),
            format!(r#"{{{id},"text":"a\"b","logprobs":[],"type":"response.output_text.done","sequence_number":6}}"#),
            format!(
                r#"{{{id},"part":{{{part},"text":"a\"b"}},"type":"response.content_part.done","sequence_number":7}}"#
            ),
            format!(
                r#"{{"output_index":0,"item":{{{item},"status":"completed","role":"assistant","content":[{{{part},"text":"a\"b"}}]}},"type":"response.output_item.done","sequence_number":8}}"#
            ),
            r#"{"type":"response.completed","sequence_number":9}"#.to_owned(),
        ]
    );
    let last: Value = serde_json::from_str(events.trim_end().rsplit_once("data: ").unwrap().1).unwrap();
    assert_eq!(
        (&last["response"]["status"], &last["response"]["usage"]["total_tokens"]),
        (&json!("completed"), &json!(29))
    );
    assert_eq!(last["response"]["output"][0]["content"][0]["text"], "a\"b");
    assert!(events.starts_with("event: response.created\ndata: {"));
}

#[test]
fn custom_tools_go_to_those_who_know_them_and_come_back_as_calls() {
    let grammar = json!({"type": "grammar", "syntax": "lark", "definition": "start: \"a\""});
    let tools = json!([{"type": "custom", "name": "patch", "description": "d", "format": grammar},
        {"type": "function", "name": "f"}]);
    let request = json!({"stream": true, "tools": tools, "tool_choice": {"type": "custom", "name": "patch"}, "input": [
        {"role": "user", "content": "a"},
        {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": "*** a"},
        {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"}]});
    let sent = chat(request.clone());
    let nested = json!({"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: \"a\""}});
    assert_eq!(
        sent["tools"][0],
        json!({"type": "custom", "custom": {"name": "patch", "description": "d", "format": nested}})
    );
    assert_eq!(sent["tool_choice"], json!({"type": "custom", "custom": {"name": "patch"}}));
    let call = json!({"id": "c1", "type": "custom", "custom": {"name": "patch", "input": "*** a"}});
    assert_eq!(sent["messages"][1], json!({"role": "assistant", "content": null, "tool_calls": [call]}));
    assert_eq!(sent["messages"][2], json!({"role": "tool", "tool_call_id": "c1", "content": "done"}));
    let asked = fixtures::read(Endpoint::Responses, &request).unwrap();
    assert!(asked.request.output.unmet.is_some(), "no local model takes it");
    let whole = asked.voice.whole(answer(json!({"content": null, "tool_calls": [call]}), json!({})), &report());
    let id = "ctc_000000000000000000000000000000ab_0";
    let item = json!({"id": id, "type": "custom_tool_call", "status": "completed", "call_id": "c1", "name": "patch", "input": "*** a"});
    assert_eq!((&whole["output"], &whole["tools"][0]), (&json!([item]), &tools[0]));
    let piece =
        |custom: Value| other(json!({"tool_calls": [{"index": 0, "id": "c1", "type": "custom", "custom": custom}]}));
    let pieces =
        [piece(json!({"name": "patch", "input": "*** "})), piece(json!({"input": "a"})), finish("tool_calls"), done()];
    let events = stream(request, pieces);
    assert_eq!(
        told(&events)[2..7],
        [
            "output_item.added 0",
            "custom_tool_call_input.delta 0 *** ",
            "custom_tool_call_input.delta 0 a",
            "custom_tool_call_input.done 0",
            "output_item.done 0"
        ]
    );
    assert!(
        events.contains(&item.to_string())
            && events.contains(r#""input":"*** a","type":"response.custom_tool_call_input.done""#),
        "{events}"
    );
}

#[test]
fn a_stream_counts_what_was_thought() {
    let mut report = report();
    report.usage.reasoning_tokens = 3;
    let body = json!({"input": "hi", "stream": true});
    let events = stream(body, [text("a"), finish("stop"), FlightEvent::Done(Box::new(report))]);
    assert!(events.contains(r#""output_tokens_details":{"reasoning_tokens":3}"#), "{events}");
}

/// Names of the events, and their deltas.
fn told(text: &str) -> Vec<String> {
    let one = |event: String| {
        let event: Value = serde_json::from_str(&event).unwrap();
        let name = event["type"].as_str().unwrap().trim_start_matches("response.").to_owned();
        let place = event["output_index"].as_u64().map_or(String::new(), |at| format!(" {at}"));
        let said =
            event["delta"].as_str().or(event["arguments"].as_str()).map_or(String::new(), |said| format!(" {said}"));
        format!("{name}{place}{said}")
    };
    fixtures::events(text, &[]).into_iter().map(one).collect()
}

#[test]
fn thoughts_text_and_interleaved_calls_are_told_item_by_item() {
    let call = |index: u32, name: Option<&str>, arguments: &str| {
        let id = name.map(|name| format!("call_{name}"));
        other(json!({"tool_calls": [{"index": index, "id": id, "function": {"name": name, "arguments": arguments}}]}))
    };
    let events = [
        other(json!({"reasoning_content": "hm"})),
        text("I look."),
        call(0, Some("f"), ""),
        call(1, Some("g"), "{"),
        call(0, None, "{}"),
        call(1, None, "}"),
        finish("tool_calls"),
        done(),
    ];
    let text = stream(json!({"input": "hi"}), events);
    assert_eq!(
        told(&text),
        [
            "created",
            "in_progress",
            "output_item.added 0",
            "content_part.added 0",
            "reasoning_text.delta 0 hm",
            "reasoning_text.done 0",
            "content_part.done 0",
            "output_item.done 0",
            "output_item.added 1",
            "content_part.added 1",
            "output_text.delta 1 I look.",
            "output_text.done 1",
            "content_part.done 1",
            "output_item.done 1",
            "output_item.added 2",
            "output_item.added 3",
            "function_call_arguments.delta 3 {",
            "function_call_arguments.delta 2 {}",
            "function_call_arguments.delta 3 }",
            "function_call_arguments.done 2 {}",
            "output_item.done 2",
            "function_call_arguments.done 3 {}",
            "output_item.done 3",
            "completed",
        ]
    );
}

#[test]
fn a_refusal_after_text_is_a_part_of_the_same_message_and_a_cut_is_incomplete() {
    let events = [text("a"), other(json!({"refusal": "no"})), finish("length"), done()];
    let text = stream(json!({"input": "hi"}), events);
    let last: Value = serde_json::from_str(text.trim_end().rsplit_once("data: ").unwrap().1).unwrap();
    assert_eq!(last["type"], "response.incomplete");
    assert_eq!(last["response"]["output"][0]["content"][1], json!({"type": "refusal", "refusal": "no"}));
    assert_eq!(last["response"]["output"][0]["status"], "incomplete");
}

#[test]
fn a_broken_stream_ends_with_failed_and_never_completed() {
    let error = GatewayError::target("t", ErrorKind::Upstream, "cut");
    let cut = stream(json!({"input": "hi"}), [text("a"), FlightEvent::Failed(error)]);
    let last: Value = serde_json::from_str(cut.trim_end().rsplit_once("data: ").unwrap().1).unwrap();
    assert_eq!(last["type"], "response.failed");
    assert_eq!(last["response"]["error"], json!({"code": "server_error", "message": "t: cut"}));
    assert_eq!(last["response"]["output"][0]["status"], "incomplete");
    for events in [vec![], vec![text("a"), done()]] {
        let mut frames = fixtures::read(Endpoint::Responses, &json!({"input": "a"})).unwrap().voice.stream(&head());
        let mut out = bytes::BytesMut::new();
        frames.begin(&mut out);
        for event in events {
            frames.write(event, &mut out);
        }
        frames.vanished(&mut out);
        let text = String::from_utf8_lossy(&out).into_owned();
        assert!(text.contains("event: response.failed") && !text.contains("response.completed"), "{text}");
    }
}

#[test]
fn an_empty_answer_is_a_message_of_no_text() {
    let text = stream(json!({"input": "hi"}), [finish("stop"), done()]);
    assert!(told(&text).contains(&"output_item.done 0".to_owned()), "{text}");
}

#[test]
fn chat_logprobs_take_this_apis_form() {
    let chat = json!({"content": [{"token": "é", "logprob": -0.5, "top_logprobs": [{"token": "e", "logprob": -1.0, "bytes": [101]}]}]});
    assert_eq!(
        super::output::logprobs_of(Some(&chat)),
        [json!({"token": "é", "bytes": [195, 169], "logprob": -0.5,
            "top_logprobs": [{"token": "e", "bytes": [101], "logprob": -1.0}]})]
    );
}

#[test]
fn a_response_body_sent_to_the_chat_endpoint_is_a_chat() {
    let body = json!({
        "model": "auto", "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}], "messages": [],
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}], "tool_choice": "auto",
        "stream": true, "stream_options": {"include_usage": true}
    });
    let asked = fixtures::read(Endpoint::Chat, &body).unwrap();
    assert!(asked.request.include_usage && asked.request.needs.tools);
    let answer = asked.voice.whole(answer(json!({"content": "a"}), json!({})), &report());
    assert_eq!(answer["object"], "chat.completion");
    let mixed = json!({
        "messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function", "name": "f", "parameters": {}}],
        "tool_choice": {"type": "function", "name": "f"}
    });
    let sent = fixtures::chat(Endpoint::Chat, &mixed);
    assert_eq!(sent["tools"], json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]));
    assert_eq!(sent["tool_choice"], json!({"type": "function", "function": {"name": "f"}}));
    assert_eq!(
        fixtures::refusal(Endpoint::Chat, &json!({"input": null})),
        "messages: Missing required parameter: 'messages'."
    );
}
