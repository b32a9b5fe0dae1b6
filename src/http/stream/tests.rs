//! Streams from hand-fed channels: exact bytes, coalescing, silence, broken promises.

use super::*;
use crate::http::{
    fixtures::head,
    render::{Stamp, tests::report},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use spillway_actors::{
    domain::{Delta, ErrorKind, GatewayError, Imprint, RequestId, RequestKind},
    flight::{FlightEvent, Head},
};

const CHAT: &str = r#"data: {"id":"chatcmpl-00000000000000000000000000000001","object":"chat.completion.chunk","created":5,"model":"m","choices":["#;
const TEXT: &str = r#"data: {"id":"cmpl-00000000000000000000000000000001","object":"text_completion","created":5,"model":"m","choices":["#;

fn frames(kind: RequestKind, include_usage: bool) -> Box<dyn Frames> {
    headed(kind, include_usage, None)
}

fn headed(kind: RequestKind, include_usage: bool, imprint: Option<Imprint>) -> Box<dyn Frames> {
    let head = Head { imprint, ..head() };
    Box::new(crate::http::frames::Frames::new(&Stamp::new(kind, RequestId::from_bits(1), 5), &head, include_usage))
}

fn delta(text: &str) -> FlightEvent {
    FlightEvent::Delta(Delta { content: Some(text.into()), ..Delta::default() })
}

fn finish(reason: &str) -> FlightEvent {
    FlightEvent::Finish { choice: 0, reason: reason.into() }
}

fn done() -> FlightEvent {
    FlightEvent::Done(Box::new(report()))
}

/// All bytes of a stream whose events are all there.
async fn all(frames: Box<dyn Frames>, events: impl IntoIterator<Item = FlightEvent>) -> String {
    let (sender, receiver) = mpsc::channel(64);
    for event in events {
        sender.try_send(event).unwrap();
    }
    drop(sender);
    let body = EventBody::new(receiver, frames, None, ());
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_chat_stream_is_exactly_this() {
    let text = all(frames(RequestKind::Chat, false), [delta("a\"\n"), delta("é"), finish("stop"), done()]).await;
    let expected = format!(
        "{CHAT}{}]}}\n\n{CHAT}{}]}}\n\n{CHAT}{}]}}\n\ndata: [DONE]\n\n",
        r#"{"index":0,"delta":{"role":"assistant","content":"a\"\n"},"logprobs":null,"finish_reason":null}"#,
        r#"{"index":0,"delta":{"content":"é"},"logprobs":null,"finish_reason":null}"#,
        r#"{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}"#,
    );
    assert_eq!(text, expected);
}

#[tokio::test]
async fn what_a_provider_says_of_itself_is_in_every_chunk() {
    let imprint = Imprint { system_fingerprint: Some("fp\"1".into()), service_tier: Some("default".into()) };
    let frames = headed(RequestKind::Chat, true, Some(imprint));
    let text = all(frames, [delta("a"), finish("stop"), done()]).await;
    let said = r#""model":"m","service_tier":"default","system_fingerprint":"fp\"1","choices":["#;
    assert_eq!((text.matches("data: {").count(), text.matches(said).count()), (3, 3), "{text}");
}

#[tokio::test]
async fn with_usage_every_chunk_says_null_and_the_last_one_carries_counts_and_routing() {
    let text = all(frames(RequestKind::Chat, true), [delta("a"), finish("length"), done()]).await;
    let chunks: Vec<&str> = text.split("\n\n").collect();
    assert_eq!(chunks.len(), 5);
    assert_eq!((chunks[3], chunks[4]), ("data: [DONE]", ""));
    let parsed = |chunk: &str| serde_json::from_str::<Value>(chunk.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(
        (parsed(chunks[0]).get("usage"), parsed(chunks[1]).get("usage")),
        (Some(&json!(null)), Some(&json!(null)))
    );
    let tail = parsed(chunks[2]);
    assert_eq!(tail["choices"], json!([]));
    assert_eq!(tail["usage"]["total_tokens"], 29);
    assert_eq!(tail["routing"]["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(tail["id"], "chatcmpl-00000000000000000000000000000001");
}

#[tokio::test]
async fn the_tail_of_a_local_text_stream_tells_latency_and_tokens() {
    let tail = |kind| async move {
        let text = all(frames(kind, true), [delta("a"), finish("stop"), done()]).await;
        let tail = text.split("\n\n").nth(2).and_then(|chunk| chunk.strip_prefix("data: ")).unwrap().to_owned();
        serde_json::from_str::<Value>(&tail).unwrap()
    };
    let text = tail(RequestKind::Completion).await;
    assert_eq!((&text["latency_ms"], &text["tokens_generated"]), (&json!(28.4), &json!(8)));
    assert_eq!(tail(RequestKind::Chat).await.get("latency_ms"), None);
}

#[tokio::test]
async fn a_text_stream_is_exactly_this() {
    let other = FlightEvent::Delta(Delta {
        other: [("reasoning_content".to_owned(), json!("hm"))].into_iter().collect(),
        ..Delta::default()
    });
    let text = all(frames(RequestKind::Completion, false), [delta("a"), other, finish("stop"), done()]).await;
    let expected = format!(
        "{TEXT}{}]}}\n\n{TEXT}{}]}}\n\ndata: [DONE]\n\n",
        r#"{"text":"a","index":0,"logprobs":null,"finish_reason":null}"#,
        r#"{"text":"","index":0,"logprobs":null,"finish_reason":"stop"}"#,
    );
    assert_eq!(text, expected);
}

#[tokio::test]
async fn every_choice_gets_its_role_once_and_its_finish_once() {
    let piece =
        |choice, text: &str| FlightEvent::Delta(Delta { choice, content: Some(text.into()), ..Delta::default() });
    let end = |choice| FlightEvent::Finish { choice, reason: "stop".into() };
    let tools = FlightEvent::Delta(Delta {
        choice: 1,
        other: [("tool_calls".to_owned(), json!([{"index": 0}]))].into_iter().collect(),
        ..Delta::default()
    });
    let events = [piece(0, "a"), tools, piece(0, "b"), end(0), end(0), piece(0, "late"), end(1), end(2), done()];
    let text = all(frames(RequestKind::Chat, false), events).await;
    let chunks = text.split("\n\n").filter_map(|chunk| chunk.strip_prefix("data: {"));
    let choices: Vec<String> = chunks
        .map(|chunk| serde_json::from_str::<Value>(&format!("{{{chunk}")).unwrap())
        .map(|chunk| format!("{}", chunk["choices"][0]))
        .collect();
    assert_eq!(
        choices,
        [
            r#"{"index":0,"delta":{"role":"assistant","content":"a"},"logprobs":null,"finish_reason":null}"#,
            r#"{"index":1,"delta":{"role":"assistant","content":null,"tool_calls":[{"index":0}]},"logprobs":null,"finish_reason":null}"#,
            r#"{"index":0,"delta":{"content":"b"},"logprobs":null,"finish_reason":null}"#,
            r#"{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}"#,
            r#"{"index":1,"delta":{},"logprobs":null,"finish_reason":"stop"}"#,
            r#"{"index":2,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":"stop"}"#,
        ]
    );
}

#[tokio::test]
async fn a_failure_is_one_error_frame_and_never_done() {
    let error = GatewayError::target("t", ErrorKind::Upstream, "cut");
    let text = all(frames(RequestKind::Chat, true), [delta("a"), FlightEvent::Failed(error)]).await;
    let last = text.split("\n\n").nth(1).unwrap();
    assert_eq!(
        last,
        r#"data: {"error":{"message":"t: cut","type":"server_error","param":null,"code":"upstream_error"}}"#
    );
    assert!(text.ends_with("}}\n\n") && !text.contains("[DONE]"));
}

#[tokio::test]
async fn a_broken_promise_is_an_internal_error() {
    for events in [vec![delta("a")], vec![], vec![delta("a"), done()]] {
        let text = all(frames(RequestKind::Chat, false), events).await;
        assert!(text.contains("internal_error") && !text.contains("[DONE]"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_ready_goes_into_one_frame_and_silence_is_broken_by_comments() {
    let (sender, receiver) = mpsc::channel(8);
    let keep_alive = Duration::from_secs(15);
    let mut body = EventBody::new(receiver, frames(RequestKind::Chat, false), Some(keep_alive), ());
    let mut next = async || body.frame().await.map(|frame| frame.unwrap().into_data().unwrap());
    sender.try_send(delta("a")).unwrap();
    sender.try_send(delta("b")).unwrap();
    assert_eq!(next().await.unwrap().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count(), 2);
    let began = Instant::now();
    for _ in 0..2 {
        assert_eq!(next().await.unwrap(), ": keep-alive\n\n");
    }
    assert_eq!(began.elapsed().as_secs(), 30);
    sender.try_send(finish("stop")).unwrap();
    sender.try_send(done()).unwrap();
    assert!(next().await.unwrap().ends_with(b"data: [DONE]\n\n"), "before the flight has settled");
    drop(sender);
    assert!(next().await.is_none());
}

#[tokio::test]
async fn dropping_the_body_closes_the_channel() {
    let (sender, receiver) = mpsc::channel(8);
    drop(EventBody::new(receiver, frames(RequestKind::Chat, false), None, ()));
    assert!(sender.is_closed());
}
