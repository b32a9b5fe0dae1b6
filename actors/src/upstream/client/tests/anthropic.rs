//! The second wire format over a socket: its path and headers, and how its streams end.

use super::*;

const START: &[u8] = b"event: message_start\ndata: {\"type\": \"message_start\", \"message\": {\"usage\": {\"input_tokens\": 3, \"output_tokens\": 1}}}\n\n";
const PIECE: &[u8] = b"event: content_block_delta\ndata: {\"type\": \"content_block_delta\", \"index\": 0, \"delta\": {\"type\": \"text_delta\", \"text\": \"a\"}}\n\n";
const END: &[u8] = b"event: message_delta\ndata: {\"type\": \"message_delta\", \"delta\": {\"stop_reason\": \"end_turn\"}, \"usage\": {\"output_tokens\": 2}}\n\n";
const STOP: &[u8] = b"event: message_stop\ndata: {\"type\": \"message_stop\"}\n\n";
const PING: &[u8] = b"event: ping\ndata: {\"type\": \"ping\"}\n\n";

async fn speaker(answers: Vec<Vec<u8>>, timeouts: Timeouts) -> Responder {
    let responder = responder(answers, timeouts).await;
    Responder { client: responder.client.speaking(Wire::Anthropic), ..responder }
}

async fn outline_of(answer: Vec<u8>, timeouts: Timeouts) -> (String, Option<ErrorKind>) {
    let mut stream = speaker(vec![answer], timeouts).await.stream().await;
    let (seen, error) = outline(&mut stream).await;
    (seen, error.map(|error| error.kind))
}

#[tokio::test]
async fn a_stream_is_read_to_its_end_and_its_connection_serves_again() {
    let answer = chunked(&[START, PING, PIECE, END, STOP], true);
    let mut responder = speaker(vec![answer.clone(), answer], Timeouts::default()).await;
    for _ in 0..2 {
        let mut stream = responder.stream().await;
        assert_eq!(outline(&mut stream).await, ("afu".into(), None));
        let usage = TokenUsage {
            prompt_tokens: 3,
            completion_tokens: 2,
            cached_tokens: 0,
            estimated: false,
            ..TokenUsage::default()
        };
        assert_eq!(stream.usage_so_far(), Some(usage));
        let request = responder.requests.recv().await.unwrap();
        assert!(request.starts_with("POST /v1/messages HTTP/1.1\r\n"), "{request}");
        for part in ["x-api-key: sk-1\r\n", "anthropic-version: 2023-06-01\r\n", "x-request-id: req_"] {
            assert!(request.contains(part), "{part:?} in {request}");
        }
        assert!(!request.contains("authorization"), "{request}");
    }
}

#[tokio::test]
async fn how_a_stream_may_end() {
    let failed = Some(ErrorKind::Upstream);
    let overloaded: &[u8] =
        b"event: error\ndata: {\"type\": \"error\", \"error\": {\"type\": \"overloaded_error\"}}\n\n";
    let limited: &[u8] = b"event: error\ndata: {\"type\": \"error\", \"error\": {\"type\": \"rate_limit_error\"}}\n\n";
    let cut = |pieces: &[&[u8]]| [chunked(pieces, false), CUT.to_vec()].concat();
    for (what, answer, outcome) in [
        ("complete", chunked(&[START, PIECE, END, STOP], true), ("afu", None)),
        ("socket left open after message_stop", chunked(&[START, PIECE, END, STOP], false), ("afu", None)),
        ("no stop reason", chunked(&[START, PIECE, STOP], true), ("afu", None)),
        ("cut after the stop reason", cut(&[START, PIECE, END]), ("afu", None)),
        ("no end", chunked(&[START, PIECE], true), ("a", failed)),
        ("cut", cut(&[START, PIECE]), ("a", failed)),
        ("overloaded", chunked(&[START, PIECE, overloaded], true), ("a", failed)),
        ("limited", chunked(&[START, limited], true), ("", Some(ErrorKind::RateLimited))),
        ("the other wire format", chunked(&[A, FINISH, DONE], true), ("", failed)),
    ] {
        let (seen, kind) = outline_of(answer, Timeouts::default()).await;
        assert_eq!((seen.as_str(), kind), outcome, "{what}");
    }
}

#[tokio::test]
async fn a_whole_answer_and_refusals_are_read() {
    let body = r#"{"type": "message", "content": [{"type": "text", "text": "a"}], "stop_reason": "max_tokens",
        "usage": {"input_tokens": 1, "output_tokens": 2}}"#;
    let answer = whole("200 OK\r\ncontent-type: application/json", body);
    for stream in [true, false] {
        let responder = speaker(vec![answer.clone()], Timeouts::default()).await;
        let Ok(Answer::Body(answer)) = responder.ask(stream).await else { panic!("a body") };
        assert_eq!(answer.choices[0].finish_reason, "length");
        assert_eq!(answer.usage.unwrap().completion_tokens, 2);
    }
    let refusal = |kind: &str| format!(r#"{{"type": "error", "error": {{"type": "{kind}", "message": "m"}}}}"#);
    for (head, said, kind, retry_after) in [
        ("429 Too Many Requests\r\nretry-after: 7", "rate_limit_error", ErrorKind::RateLimited, Some(7)),
        ("529 Overloaded\r\nretry-after: 9", "overloaded_error", ErrorKind::Upstream, Some(9)),
        ("401 Unauthorized", "authentication_error", ErrorKind::Unauthorized, None),
    ] {
        let responder = speaker(vec![whole(head, &refusal(said))], Timeouts::default()).await;
        let error = responder.ask(true).await.unwrap_err();
        assert_eq!((error.kind, error.retry_after), (kind, retry_after.map(Duration::from_secs)), "{head}");
        assert!(error.may_try_elsewhere());
    }
}

#[test]
fn the_path_follows_the_wire_both_ways() {
    let client = ProviderClient::new("up".into(), "https://x.test/v1/", Timeouts::default()).unwrap();
    let client = client.speaking(Wire::Anthropic);
    assert_eq!(client.address.url().as_str(), "https://x.test/v1/messages");
    assert_eq!(client.speaking(Wire::OpenAi).address.url().as_str(), "https://x.test/v1/chat/completions");
}
