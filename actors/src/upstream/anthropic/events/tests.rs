//! Streams as a provider sends them, through the parser that reads them. Samples are written by hand after the API's
//! documentation.

use super::*;
use crate::domain::ErrorKind;
use crate::upstream::sse::SseParser;
use proptest::prelude::*;

fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap())
}

fn stream(events: &[Value]) -> String {
    events.iter().map(event).collect()
}

fn start(usage: Value) -> Value {
    json!({"type": "message_start", "message": {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": [], "stop_reason": null,
        "usage": usage}})
}

fn open(index: u64, block: Value) -> Value {
    json!({"type": "content_block_start", "index": index, "content_block": block})
}

fn piece(index: u64, delta: Value) -> Value {
    json!({"type": "content_block_delta", "index": index, "delta": delta})
}

fn text(index: u64, text: &str) -> Value {
    piece(index, json!({"type": "text_delta", "text": text}))
}

fn json_piece(index: u64, json: &str) -> Value {
    piece(index, json!({"type": "input_json_delta", "partial_json": json}))
}

fn close(index: u64) -> Value {
    json!({"type": "content_block_stop", "index": index})
}

fn end(reason: &str, usage: Value) -> Value {
    json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": null}, "usage": usage})
}

fn stop() -> Value {
    json!({"type": "message_stop"})
}

fn ping() -> Value {
    json!({"type": "ping"})
}

/// What was read, the reader, and how reading ended.
struct Read {
    events: Vec<GenerationEvent>,
    reader: EventReader,
    ended: Result<bool, Malformed>,
}

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Read {
    let (mut parser, mut reader, mut out) = (SseParser::new(), EventReader::default(), VecDeque::new());
    let mut ended = Ok(false);
    for piece in pieces {
        parser.push(piece).unwrap();
        while let (Ok(_), Some(event)) = (ended, parser.next_event().unwrap()) {
            match reader.read(&event, &mut out) {
                Ok(heard) => ended = Ok(ended == Ok(true) || heard == Heard::End),
                Err(why) => ended = Err(why),
            }
        }
    }
    Read { events: out.into(), reader, ended }
}

fn read_all(events: &[Value]) -> Read {
    read([stream(events).as_bytes()])
}

/// Text, reasoning, tool calls put together by index as `name(arguments)`, and the reason.
fn told(events: &[GenerationEvent]) -> (String, String, Vec<String>, Option<String>) {
    let (mut said, mut thought, mut reason) = (String::new(), String::new(), None);
    let mut calls: Vec<String> = Vec::new();
    for event in events {
        match event {
            GenerationEvent::Delta(delta) => {
                assert!(delta.is_visible() && delta.choice == 0);
                said += delta.content.as_deref().unwrap_or_default();
                thought += delta.other.get("reasoning_content").and_then(Value::as_str).unwrap_or_default();
                for call in delta.other.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
                    let index = call["index"].as_u64().unwrap() as usize;
                    if index == calls.len() {
                        assert!(call["id"].is_string() && call["type"] == "function", "{call}");
                        calls.push(format!("{}:", call["function"]["name"].as_str().unwrap()));
                    }
                    calls[index] += call["function"]["arguments"].as_str().unwrap();
                }
            }
            GenerationEvent::Finish { choice: 0, reason: why } => reason = Some(why.clone()),
            other => panic!("{other:?}"),
        }
    }
    (said, thought, calls, reason)
}

fn whole() -> Vec<Value> {
    vec![
        start(
            json!({"input_tokens": 7, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 11, "output_tokens": 1}),
        ),
        open(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
        ping(),
        piece(0, json!({"type": "thinking_delta", "thinking": "Hm, 日本"})),
        piece(0, json!({"type": "signature_delta", "signature": "c2ln"})),
        close(0),
        open(1, json!({"type": "text", "text": ""})),
        text(1, "Let me 🦀 "),
        text(1, "look."),
        close(1),
        open(2, json!({"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}})),
        json_piece(2, ""),
        json_piece(2, "{\"city\":"),
        json_piece(2, " \"Zürich\"}"),
        close(2),
        open(3, json!({"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}})),
        json_piece(3, ""),
        close(3),
        json!({"type": "unheard_of", "x": 1}),
        end("tool_use", json!({"output_tokens": 42})),
        stop(),
    ]
}

#[test]
fn text_thinking_and_tools_are_read_in_order_and_usage_is_added_up() {
    let read = read_all(&whole());
    assert_eq!(read.ended, Ok(true));
    let calls = vec!["weather:{\"city\": \"Zürich\"}".to_owned(), "now:{}".to_owned()];
    assert_eq!(
        told(&read.events),
        ("Let me 🦀 look.".to_owned(), "Hm, 日本".to_owned(), calls, Some("tool_calls".to_owned()))
    );
    let usage = TokenUsage {
        prompt_tokens: 20,
        completion_tokens: 42,
        cached_tokens: 11,
        written_tokens: 2,
        ..TokenUsage::default()
    };
    assert_eq!(read.reader.usage(), Some(usage));
    assert!(read.reader.is_complete());
}

#[test]
fn every_stop_reason_has_openais_word() {
    for (reason, word) in [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("unheard_of", "stop"),
    ] {
        let read = read_all(&[start(json!({})), text(0, "a"), end(reason, json!({})), stop()]);
        assert_eq!(told(&read.events).3.as_deref(), Some(word));
    }
}

#[test]
fn an_answer_is_complete_with_its_stop_reason_or_its_declared_end() {
    let began = [start(json!({})), text(0, "a")];
    let and = |more: &[Value]| read_all(&[&began, more].concat());
    assert!(!and(&[close(0)]).reader.is_complete());
    let reasoned = and(&[end("end_turn", json!({}))]);
    assert!(reasoned.reader.is_complete() && reasoned.ended == Ok(false));
    let stopped = and(&[stop(), stop(), text(0, "late")]);
    assert!(stopped.reader.is_complete() && stopped.ended == Ok(true));
    assert_eq!(told(&stopped.events), ("a".to_owned(), String::new(), vec![], Some("stop".to_owned())));
    assert_eq!(stopped.events.iter().filter(|event| matches!(event, GenerationEvent::Finish { .. })).count(), 1);
    assert_eq!(read_all(&[stop()]).ended, Err(Malformed::Shape), "the end of nothing");
}

#[test]
fn arguments_are_json_whenever_the_answer_is_complete() {
    let call = open(0, json!({"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}}));
    for events in [
        vec![start(json!({})), call.clone(), close(0), end("tool_use", json!({}))],
        vec![start(json!({})), call.clone(), end("tool_use", json!({}))],
        vec![start(json!({})), call.clone(), stop()],
    ] {
        let read = read_all(&events);
        assert_eq!(told(&read.events).2, ["f:{\"x\":1}"]);
        assert_eq!(told(&read.events).3.as_deref(), Some("tool_calls"));
    }
}

#[test]
fn a_broken_answer_is_billed_by_what_came() {
    let read = read_all(&[start(json!({"input_tokens": 7, "output_tokens": 1})), text(0, &"x".repeat(40))]);
    let usage = TokenUsage {
        prompt_tokens: 7,
        completion_tokens: 10,
        cached_tokens: 0,
        estimated: true,
        ..TokenUsage::default()
    };
    assert_eq!(read.reader.usage(), Some(usage));
    let late = read_all(&[
        start(json!({"input_tokens": 0, "output_tokens": 0})),
        end("end_turn", json!({"input_tokens": 9, "output_tokens": 3})),
    ]);
    let usage = TokenUsage {
        prompt_tokens: 9,
        completion_tokens: 3,
        cached_tokens: 0,
        estimated: false,
        ..TokenUsage::default()
    };
    assert_eq!(late.reader.usage(), Some(usage), "counted at the end only");
    assert_eq!(read_all(&[start(json!({})), end("end_turn", json!({}))]).reader.usage(), None);
}

#[test]
fn errors_inside_a_stream_keep_their_kind() {
    use ErrorKind::*;
    for (kind, why) in [
        ("overloaded_error", Malformed::InBandError),
        ("api_error", Malformed::InBandError),
        ("unheard_of", Malformed::InBandError),
        ("rate_limit_error", Malformed::Refused(RateLimited)),
        ("authentication_error", Malformed::Refused(Unauthorized)),
        ("permission_error", Malformed::Refused(Forbidden)),
        ("billing_error", Malformed::Refused(InsufficientQuota)),
    ] {
        let error = json!({"type": "error", "error": {"type": kind, "message": "m"}});
        assert_eq!(read_all(&[start(json!({})), error]).ended, Err(why), "{kind}");
    }
    assert_eq!(read([&b"event: error\ndata: oops\n\n"[..]]).ended, Err(Malformed::InBandError));
}

#[test]
fn what_is_no_event_is_malformed_and_what_is_unknown_is_ignored() {
    for data in [
        "{\"type\": \"content_block_delta\", \"delta\": {\"te",
        "[]",
        "{}",
        "{\"type\": \"content_block_delta\", \"index\": 0}",
        "{\"type\": \"content_block_delta\", \"index\": 0, \"delta\": {\"type\": \"text_delta\"}}",
        "{\"type\": \"content_block_start\", \"index\": -1}",
        "{\"type\": \"content_block_start\", \"index\": 0, \"content_block\": {\"type\": \"tool_use\", \"id\": \"a\"}}",
        "{\"choices\": [{\"delta\": {\"content\": \"a\"}}]}",
    ] {
        assert_eq!(read([format!("data: {data}\n\n").as_bytes()]).ended, Err(Malformed::Shape), "{data}");
    }
    let server_tool = json!({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}});
    let read = read_all(&[
        open(0, server_tool),
        json_piece(0, "{}"),
        piece(0, json!({"type": "citations_delta", "citation": {}})),
        open(1, json!({"type": "redacted_thinking", "data": "x"})),
        ping(),
    ]);
    assert_eq!((read.ended, read.events), (Ok(false), vec![]));
}

#[test]
fn the_number_of_tool_calls_is_bounded() {
    let call = |n: u64| open(n, json!({"type": "tool_use", "id": "t", "name": "f", "input": {}}));
    let calls = |n: u64| (0..n).map(call).collect::<Vec<_>>();
    assert_eq!(read_all(&calls(u64::from(MAX_CALLS))).ended, Ok(false));
    assert_eq!(read_all(&calls(u64::from(MAX_CALLS) + 1)).ended, Err(Malformed::Shape));
}

proptest! {
    #[test]
    fn any_split_of_the_bytes_reads_the_same(cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let body = stream(&whole()).into_bytes();
        let expected = read([body.as_slice()]);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        cuts.extend([0, body.len()]);
        cuts.sort_unstable();
        for pieces in [cuts.windows(2).map(|cut| &body[cut[0]..cut[1]]).collect::<Vec<_>>(), body.chunks(1).collect()] {
            let read = read(pieces);
            prop_assert_eq!(&read.events, &expected.events);
            prop_assert_eq!(read.reader.usage(), expected.reader.usage());
            prop_assert_eq!(read.ended, expected.ended);
        }
    }

    #[test]
    fn a_stream_cut_anywhere_before_its_stop_reason_is_not_complete(cut in any::<prop::sample::Index>()) {
        let body = stream(&whole());
        let reasoned = body.find("event: message_delta").unwrap();
        let read = read([&body.as_bytes()[..cut.index(reasoned + 1)]]);
        prop_assert!(!read.reader.is_complete() && read.ended == Ok(false));
    }
}
