//! Anthropic's API: bodies in, messages and events out, to the byte.

use crate::http::{
    dialect::Endpoint,
    error::ErrorReply,
    fixtures::{self, done, finish, head, other, text, written},
    render::tests::{answer, report},
};
use serde_json::{Value, json};
use spillway_actors::{
    domain::{ErrorKind, GatewayError, Origin},
    flight::{FlightEvent, FlightReport},
};

/// A message of one turn with these fields added.
fn with(extra: Value) -> Value {
    let mut body = json!({"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn chat(extra: Value) -> Value {
    fixtures::chat(Endpoint::Messages, &with(extra))
}

fn refusal(extra: Value) -> String {
    fixtures::refusal(Endpoint::Messages, &with(extra))
}

fn stream(extra: Value, events: impl IntoIterator<Item = FlightEvent>) -> String {
    written(fixtures::read(Endpoint::Messages, &with(extra)).unwrap().voice.stream(&head()), events)
}

#[test]
fn every_field_has_its_counterpart_and_what_only_anthropic_knows_stays_out() {
    let sent = chat(json!({
        "model": "gpt-4.1", "system": [{"type": "text", "text": "be", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "brief"}],
        "stop_sequences": ["END"], "temperature": 0.5, "top_p": 0.9, "top_k": 40, "stream": true,
        "metadata": {"user_id": "u"}, "service_tier": "auto", "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}, "local_only": true, "x": 1
    }));
    assert_eq!(
        sent,
        json!({
            "messages": [{"role": "system", "content": "be\nbrief"}, {"role": "user", "content": "hi"}],
            "temperature": 0.5, "stop": ["END"],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "description": "d"}}],
            "tool_choice": "required", "parallel_tool_calls": false,
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": true}},
            "user": "u", "model": "gpt-4.1", "stream": true, "top_p": 0.9
        })
    );
    let asked = fixtures::read(Endpoint::Messages, &with(json!({"top_k": 40, "local_only": true}))).unwrap().request;
    assert_eq!((asked.sampling.top_k, asked.local_only, asked.max_tokens), (Some(40), true, Some(9)));
}

#[test]
fn how_much_to_think_is_kept_for_targets_that_speak_this_api() {
    let own = |extra: Value| {
        let request = fixtures::read(Endpoint::Messages, &with(extra)).unwrap().request;
        assert!(!["thinking", "output_config"].iter().any(|name| request.body.contains_key(*name)), "{request:?}");
        Value::Object(request.anthropic)
    };
    let thinking = json!({"type": "enabled", "budget_tokens": 1024});
    assert_eq!(own(json!({"thinking": thinking})), json!({"thinking": thinking}));
    let format = json!({"type": "json_schema", "schema": {"type": "object"}});
    assert_eq!(
        own(json!({"output_config": {"effort": "low", "format": format}})),
        json!({"output_config": {"effort": "low"}})
    );
    assert_eq!(own(json!({"output_config": {"format": format}, "thinking": null})), json!({}));
    assert!(refusal(json!({"thinking": true})).starts_with("thinking: Invalid type"));
}

#[test]
fn turns_of_blocks_become_messages_and_results_of_tools_come_first() {
    let sent = chat(json!({"messages": [
        {"role": "user", "content": [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
            {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
            {"type": "document", "title": "t.pdf", "source": {"type": "base64", "media_type": "application/pdf", "data": "QUJD"}},
            {"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "one "}, {"type": "text", "text": "moment"},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}, {"type": "tool_use", "id": "t2", "name": "g", "input": {}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "1"},
                {"type": "image", "source": {"type": "url", "url": "https://x/z.png"}}]},
            {"type": "tool_result", "tool_use_id": "t2", "is_error": true}, {"type": "text", "text": "go on"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t3", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t3", "content": "3"}]},
        {"role": "assistant", "content": "{"}
    ]}));
    let image = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    assert_eq!(
        sent["messages"],
        json!([
            {"role": "user", "content": [image("data:image/png;base64,QUJD"), image("https://x/y.png"),
                {"type": "file", "file": {"filename": "t.pdf", "file_data": "data:application/pdf;base64,QUJD"}},
                {"type": "text", "text": "look"}]},
            {"role": "assistant", "content": "one moment", "tool_calls": [call("t1", "f", "{\"a\":1}"), call("t2", "g", "{}")]},
            {"role": "tool", "tool_call_id": "t1", "content": "1"},
            {"role": "tool", "tool_call_id": "t2", "content": ""},
            {"role": "user", "content": [image("https://x/z.png"), {"type": "text", "text": "go on"}]},
            {"role": "assistant", "content": null, "tool_calls": [call("t3", "f", "{}")]},
            {"role": "tool", "tool_call_id": "t3", "content": "3"},
            {"role": "assistant", "content": "{"}
        ])
    );
}

#[test]
fn what_is_malformed_is_refused_with_its_place() {
    let turn = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    for (extra, expected) in [
        (json!({"max_tokens": null}), "max_tokens: Missing required parameter: 'max_tokens'."),
        (json!({"messages": null}), "messages: Missing required parameter: 'messages'."),
        (json!({"messages": []}), "messages: Invalid 'messages': at least one message is required."),
        (
            json!({"messages": [{"role": "tool", "content": "a"}]}),
            "messages[0].role: Invalid value for 'messages[0].role'. Supported values are: 'user' and 'assistant'.",
        ),
        (
            json!({"temperature": 1.5}),
            "temperature: Invalid 'temperature': value above maximum. Expected a value <= 1, but got 1.5 instead.",
        ),
        (
            json!({"system": 1}),
            "system: Invalid type for 'system': expected a string or an array of text blocks, but got an integer instead.",
        ),
        (
            json!({"stop_sequences": [""]}),
            "stop_sequences[0]: Invalid 'stop_sequences[0]': a stop sequence must not be empty.",
        ),
        (
            json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
            "tools[0].type: Unsupported value for 'tools[0].type': this gateway runs no tools of its own; offer a 'custom' one.",
        ),
        (
            json!({"tools": [{"name": "f"}]}),
            "tools[0].input_schema: Missing required parameter: 'tools[0].input_schema'.",
        ),
        (
            json!({"tool_choice": {"type": "any"}}),
            "tool_choice: Invalid 'tool_choice': there are no 'tools' to choose from.",
        ),
        (
            turn(json!([{"type": "video"}])),
            "messages[0].content[0].type: Invalid value for 'messages[0].content[0].type'. Supported values are: 'text', 'image', 'document', and 'tool_result'.",
        ),
        (
            turn(json!([{"type": "image", "source": {"type": "file", "file_id": "f"}}])),
            "messages[0].content[0].source.type: Invalid value for 'messages[0].content[0].source.type'. Supported values are: 'base64' and 'url'.",
        ),
    ] {
        assert_eq!(refusal(extra.clone()), expected, "{extra}");
    }
}

#[test]
fn a_stop_sequence_that_was_met_is_named_unless_something_else_ended_the_answer() {
    let voice = fixtures::read(Endpoint::Messages, &with(json!({}))).unwrap().voice;
    let met = FlightReport { met_stop: Some("END".into()), ..report() };
    let whole = voice.whole(answer(json!({"content": "a"}), json!({})), &met);
    assert_eq!((&whole["stop_reason"], &whole["stop_sequence"]), (&json!("stop_sequence"), &json!("END")));
    let call = json!({"content": "a", "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}]});
    let whole = voice.whole(answer(call, json!({})), &met);
    assert_eq!((&whole["stop_reason"], &whole["stop_sequence"]), (&json!("tool_use"), &Value::Null));
    let whole = voice.whole(answer(json!({"content": "a"}), json!({})), &report());
    assert_eq!((&whole["stop_reason"], &whole["stop_sequence"]), (&json!("end_turn"), &Value::Null));
}

#[test]
fn a_message_is_exactly_this() {
    let voice = fixtures::read(Endpoint::Messages, &with(json!({}))).unwrap().voice;
    let message = json!({"content": "Hello.", "reasoning_content": "hm", "tool_calls": [
        {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]});
    let whole = voice.whole(answer(message, json!({})), &report());
    let text = whole.to_string();
    let expected = concat!(
        r#"{"id":"msg_000000000000000000000000000000ab","type":"message","role":"assistant","model":"smollm2-135m","#,
        r#""content":[{"type":"text","text":"Hello."},{"type":"tool_use","id":"t","name":"f","input":{"a":1}}],"#,
        r#""stop_reason":"tool_use","stop_sequence":null,"usage":{"input_tokens":16,"cache_creation_input_tokens":0,"#,
        r#""cache_read_input_tokens":5,"output_tokens":8},"routing":"#,
    );
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn reasons_and_contents_have_their_counterparts() {
    let whole = |extra: Value, message: Value, reason: &str| {
        let voice = fixtures::read(Endpoint::Messages, &with(extra)).unwrap().voice;
        let mut answer = answer(message, json!({}));
        answer.choices[0].finish_reason = reason.into();
        let whole = voice.whole(answer, &report());
        format!("{} {}", whole["stop_reason"], whole["content"])
    };
    let call = |arguments: &str| json!({"content": null, "tool_calls": [{"id": "t", "function": {"name": "f", "arguments": arguments}}]});
    let thinking = || json!({"thinking": {"type": "enabled", "budget_tokens": 1024}});
    for (got, expected) in [
        (whole(json!({}), json!({"content": "a"}), "stop"), r#""end_turn" [{"type":"text","text":"a"}]"#),
        (whole(json!({}), json!({"content": ""}), "length"), r#""max_tokens" []"#),
        (
            whole(json!({}), json!({"content": null, "refusal": "no"}), "stop"),
            r#""refusal" [{"type":"text","text":"no"}]"#,
        ),
        (whole(json!({}), call(""), "stop"), r#""tool_use" [{"type":"tool_use","id":"t","name":"f","input":{}}]"#),
        (
            whole(json!({}), call("{\"a"), "length"),
            r#""max_tokens" [{"type":"tool_use","id":"t","name":"f","input":{"unreadable":"{\"a"}}]"#,
        ),
        (
            whole(thinking(), json!({"content": "a", "reasoning": "hm"}), "stop"),
            r#""end_turn" [{"type":"thinking","thinking":"hm","signature":""},{"type":"text","text":"a"}]"#,
        ),
    ] {
        assert_eq!(got, expected);
    }
}

#[test]
fn a_stream_is_exactly_this() {
    let call = |index: u32, id: Option<&str>, arguments: &str| {
        other(
            json!({"tool_calls": [{"index": index, "id": id, "function": {"name": id.map(|_| "f"), "arguments": arguments}}]}),
        )
    };
    let events = [
        text("a"),
        text("\"b"),
        call(0, Some("t0"), ""),
        call(0, None, "{}"),
        call(1, Some("t1"), "{}"),
        finish("tool_calls"),
        done(),
    ];
    let mut all = fixtures::events(&stream(json!({}), events), &["routing"]);
    let tool = |id: &str| format!(r#"{{"type":"tool_use","id":"{id}","name":"f","input":{{}}}}"#);
    let last = all.split_off(all.len() - 2);
    assert_eq!(
        all,
        [
            concat!(
                r#"{"type":"message_start","message":{"id":"msg_000000000000000000000000000000ab","type":"message","role":"assistant","#,
                r#""model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":8,"#,
                r#""cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}}}"#
            ).to_owned(),
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#.to_owned(),
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}"#.to_owned(),
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\"b"}}"#.to_owned(),
            r#"{"type":"content_block_stop","index":0}"#.to_owned(),
            format!(r#"{{"type":"content_block_start","index":1,"content_block":{}}}"#, tool("t0")),
            r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{}"}}"#.to_owned(),
            r#"{"type":"content_block_stop","index":1}"#.to_owned(),
            format!(r#"{{"type":"content_block_start","index":2,"content_block":{}}}"#, tool("t1")),
            r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{}"}}"#.to_owned(),
            r#"{"type":"content_block_stop","index":2}"#.to_owned(),
        ]
    );
    assert_eq!(
        last,
        [
            concat!(
                r#"{"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"input_tokens":16,"#,
                r#""cache_creation_input_tokens":0,"cache_read_input_tokens":5,"output_tokens":8}}"#
            ),
            r#"{"type":"message_stop"}"#,
        ]
    );
}

#[test]
fn thoughts_are_shown_to_who_asked_and_blocks_take_turns() {
    let events = || [other(json!({"reasoning_content": "hm"})), text("a"), finish("stop"), done()];
    let kinds = |extra: Value| {
        let text = stream(extra, events());
        fixtures::events(&text, &[]).iter().filter(|event| event.contains("block")).count()
    };
    assert_eq!((kinds(json!({})), kinds(json!({"thinking": {"type": "adaptive"}}))), (3, 6));
}

#[test]
fn a_broken_stream_ends_with_an_error_and_never_message_stop() {
    let error = GatewayError::target("t", ErrorKind::Upstream, "cut");
    let late = |index: u32| {
        other(json!({"tool_calls": [{"index": index, "id": "t", "function": {"name": "f", "arguments": "{"}}]}))
    };
    for (events, last) in [
        (
            vec![text("a"), FlightEvent::Failed(error)],
            r#"{"type":"error","error":{"type":"api_error","message":"t: cut"}}"#,
        ),
        (
            vec![text("a"), done()],
            r#"{"type":"error","error":{"type":"api_error","message":"the gateway lost this request; please report it with its x-request-id"}}"#,
        ),
        (
            vec![late(0), late(1), late(0)],
            r#"{"type":"error","error":{"type":"api_error","message":"the provider went back to a tool call that had ended"}}"#,
        ),
    ] {
        let text = stream(json!({}), events);
        assert_eq!(fixtures::events(&text, &[]).last().unwrap(), last);
        assert!(!text.contains("message_stop"));
    }
}

#[test]
fn errors_are_named_by_their_status() {
    let kind = |kind: ErrorKind| {
        let reply = ErrorReply::from(&GatewayError::new(Origin::Gateway, kind, "m"));
        super::error::object(&reply)["error"]["type"].as_str().unwrap().to_owned()
    };
    let kinds = [
        ErrorKind::InvalidRequest,
        ErrorKind::Unauthorized,
        ErrorKind::Forbidden,
        ErrorKind::ModelNotFound,
        ErrorKind::TooLarge,
        ErrorKind::RateLimited,
        ErrorKind::InsufficientQuota,
        ErrorKind::Unavailable,
        ErrorKind::Upstream,
        ErrorKind::Timeout,
        ErrorKind::Internal,
    ];
    assert_eq!(
        kinds.map(kind),
        [
            "invalid_request_error",
            "authentication_error",
            "permission_error",
            "not_found_error",
            "request_too_large",
            "rate_limit_error",
            "billing_error",
            "overloaded_error",
            "api_error",
            "timeout_error",
            "api_error",
        ]
    );
}
