//! Against a responder that speaks raw bytes, so that the wire can be as wrong as wires get.

use super::*;
use crate::domain::{Choices, Delta, GenerationEvent, Input, Origin, Passage, TokenUsage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

mod anthropic;

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const SHORT: Duration = Duration::from_millis(60);
const LONG: Duration = Duration::from_secs(20);

/// A server for one client: every request it reads goes to `requests`.
struct Responder {
    client: ProviderClient,
    requests: mpsc::Receiver<String>,
    served: JoinSet<()>,
}

/// Answers each request of each connection with the next of `answers`, then waits for the client to close (an answer that
/// ends in `CUT` closes itself).
async fn responder(answers: Vec<Vec<u8>>, timeouts: Timeouts) -> Responder {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/", listener.local_addr().unwrap());
    let (tell, requests) = mpsc::channel(8);
    let mut served = JoinSet::new();
    served.spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        for answer in answers {
            let Some(request) = read_request(&mut socket).await else { return };
            tell.send(request).await.unwrap();
            match answer.strip_suffix(CUT) {
                Some(before) => {
                    socket.write_all(before).await.unwrap();
                    return;
                }
                None => socket.write_all(&answer).await.unwrap(),
            }
        }
        assert_eq!(socket.read(&mut [0]).await.unwrap_or(0), 0, "the client sent more than was asked for");
    });
    Responder { client: ProviderClient::new("up".into(), &url, timeouts).unwrap(), requests, served }
}

const CUT: &[u8] = b"<cut>";

async fn read_request(socket: &mut TcpStream) -> Option<String> {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return Some(text);
            }
        }
        if socket.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}

impl Responder {
    async fn ask(&self, stream: bool) -> Result<Answer, GatewayError> {
        self.ask_within(stream, LONG).await
    }

    async fn ask_within(&self, stream: bool, limit: Duration) -> Result<Answer, GatewayError> {
        let key = SecretString::from("sk-1");
        let body = Bytes::from_static(b"{\"messages\": []}");
        self.client
            .start(body, RequestId::from_bits(5), &key, Asked { stream, answers: 1 }, Instant::now() + limit)
            .await
    }

    /// How an attempt fails, at its head or in its stream.
    async fn failure(&self, stream: bool, limit: Duration) -> GatewayError {
        match self.ask_within(stream, limit).await {
            Ok(Answer::Stream(mut stream)) => outline(&mut stream).await.1.unwrap(),
            Ok(Answer::Body(answer)) => panic!("an answer: {answer:?}"),
            Err(error) => error,
        }
    }

    async fn stream(&self) -> EventStream {
        match self.ask(true).await.unwrap() {
            Answer::Stream(stream) => *stream,
            Answer::Body(_) => panic!("a stream was asked for"),
        }
    }
}

/// One HTTP chunk per piece; `end` adds the last, empty one.
fn chunked(pieces: &[&[u8]], end: bool) -> Vec<u8> {
    let mut body = STREAM.as_bytes().to_vec();
    for piece in pieces {
        body.extend(format!("{:x}\r\n", piece.len()).bytes());
        body.extend(*piece);
        body.extend(b"\r\n");
    }
    if end {
        body.extend(b"0\r\n\r\n");
    }
    body
}

fn whole(head: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

const A: &[u8] = b"data: {\"choices\": [{\"index\": 0, \"delta\": {\"content\": \"a\"}}]}\n\n";
const FINISH: &[u8] = b"data: {\"choices\": [{\"index\": 0, \"delta\": {}, \"finish_reason\": \"stop\"}]}\n\n";
const USAGE: &[u8] = b"data: {\"choices\": [], \"usage\": {\"prompt_tokens\": 2, \"completion_tokens\": 1}}\n\n";
const DONE: &[u8] = b"data: [DONE]\n\n";

/// Shorthand: `a` text, `f` finish, `u` usage, then how it ended.
async fn outline(stream: &mut EventStream) -> (String, Option<GatewayError>) {
    let mut seen = String::new();
    loop {
        match stream.next().await {
            Ok(Some(GenerationEvent::Delta(delta))) => seen.push_str(&delta.content.unwrap()),
            Ok(Some(GenerationEvent::Finish { .. })) => seen.push('f'),
            Ok(Some(GenerationEvent::Usage(_))) => seen.push('u'),
            Ok(None) => return (seen, None),
            Err(error) => return (seen, Some(error)),
        }
    }
}

async fn outline_of(answer: Vec<u8>, timeouts: Timeouts) -> (String, Option<ErrorKind>) {
    let responder = responder(vec![answer], timeouts).await;
    let mut stream = responder.stream().await;
    let (seen, error) = outline(&mut stream).await;
    let again = stream.next().await;
    assert_eq!(again, error.clone().map_or(Ok(None), Err), "the end is final");
    (seen, error.map(|error| error.kind))
}

#[tokio::test]
async fn a_stream_is_read_to_its_end_and_its_connection_serves_again() {
    let answer = chunked(&[A, FINISH, USAGE, DONE], true);
    let mut responder = responder(vec![answer.clone(), answer], Timeouts::default()).await;
    for _ in 0..2 {
        let mut stream = responder.stream().await;
        let delta = Delta { content: Some("a".into()), ..Delta::default() };
        assert_eq!(stream.next().await, Ok(Some(GenerationEvent::Delta(delta))));
        assert_eq!(stream.next().await, Ok(Some(GenerationEvent::Finish { choice: 0, reason: "stop".into() })));
        let usage = TokenUsage {
            prompt_tokens: 2,
            completion_tokens: 1,
            cached_tokens: 0,
            estimated: false,
            ..TokenUsage::default()
        };
        assert_eq!(stream.next().await, Ok(Some(GenerationEvent::Usage(usage))));
        assert_eq!(stream.next().await, Ok(None));
        let request = responder.requests.recv().await.unwrap();
        assert!(request.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{request}");
        for part in [
            "authorization: Bearer sk-1\r\n",
            "x-request-id: req_00000000000000000000000000000005\r\n",
            "accept: text/event-stream\r\n",
            "content-type: application/json\r\n",
            "\r\n\r\n{\"messages\": []}",
        ] {
            assert!(request.contains(part), "{part:?} in {request}");
        }
    }
}

#[tokio::test]
async fn how_a_stream_may_end() {
    let impatient = Timeouts { idle: SHORT, tail: SHORT, ..Timeouts::default() };
    let failed = Some(ErrorKind::Upstream);
    let bad: &[u8] = b"data: {\"choices\": [{\n\n";
    let error: &[u8] = b"data: {\"error\": {\"message\": \"m\"}}\n\n";
    let named_error: &[u8] = b"event: error\ndata: oops\n\n";
    let no_utf8: &[u8] = b"data: \xFF\n\n";
    let done_unended: &[u8] = b"data: [DONE]";
    let cut = |pieces: &[&[u8]]| [chunked(pieces, false), CUT.to_vec()].concat();
    for (what, answer, outcome) in [
        ("complete", chunked(&[A, FINISH, USAGE, DONE], true), ("afu", None)),
        ("[DONE] without its empty line", chunked(&[A, FINISH, done_unended], true), ("af", None)),
        ("socket left open after [DONE]", chunked(&[A, FINISH, DONE], false), ("af", None)),
        ("no [DONE] after the finish", chunked(&[A, FINISH, USAGE], true), ("afu", None)),
        ("cut after the finish", cut(&[A, FINISH, USAGE]), ("afu", None)),
        ("silence after the finish", chunked(&[A, FINISH], false), ("af", None)),
        ("a bad chunk after the finish", chunked(&[A, FINISH, bad, DONE], true), ("af", None)),
        ("no finish", chunked(&[A, A], true), ("aa", failed)),
        ("[DONE] without finish", chunked(&[A, DONE], true), ("a", failed)),
        ("cut", cut(&[A]), ("a", failed)),
        ("silence", chunked(&[A], false), ("a", failed)),
        ("malformed", chunked(&[A, bad, FINISH, DONE], true), ("a", failed)),
        ("in-band error", chunked(&[A, error], true), ("a", failed)),
        ("named error", chunked(&[A, named_error], true), ("a", failed)),
        ("no UTF-8", chunked(&[A, no_utf8], true), ("a", failed)),
        ("empty", chunked(&[], true), ("", failed)),
        ("comments only", chunked(&[b": hi\n\n"], true), ("", failed)),
    ] {
        let limits = if what.starts_with("silence") { impatient } else { Timeouts::default() };
        let (seen, kind) = outline_of(answer, limits).await;
        assert_eq!((seen.as_str(), kind), outcome, "{what}");
    }
}

#[tokio::test]
async fn a_character_split_over_chunks_is_whole() {
    let bytes = "data: {\"choices\": [{\"delta\": {\"content\": \"日🦀\"}}]}\n\n".as_bytes();
    let pieces: Vec<&[u8]> = bytes.chunks(1).chain([FINISH, DONE]).collect();
    assert_eq!(outline_of(chunked(&pieces, true), Timeouts::default()).await, ("日🦀f".into(), None));
}

#[tokio::test]
async fn silence_has_limits_and_the_deadline_is_another_kind() {
    let limits = Timeouts { first_byte: SHORT, first_byte_unstreamed: SHORT, ..Timeouts::default() };
    for stream in [true, false] {
        let hang = responder(vec![vec![]], limits).await;
        assert_eq!(hang.failure(stream, LONG).await.kind, ErrorKind::Upstream);
        let hang = responder(vec![vec![]], Timeouts::default()).await;
        let error = hang.failure(stream, SHORT).await;
        assert_eq!((error.kind, error.origin), (ErrorKind::Timeout, Origin::Target("up".into())));
    }
    let head_only = chunked(&[], false);
    let silent = responder(vec![head_only.clone()], limits).await;
    assert_eq!(silent.failure(true, LONG).await.kind, ErrorKind::Upstream);
    let silent = responder(vec![head_only], Timeouts::default()).await;
    assert_eq!(silent.failure(true, SHORT * 4).await.kind, ErrorKind::Timeout);
}

#[tokio::test]
async fn a_reader_that_is_slow_is_not_the_providers_silence() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/", listener.local_addr().unwrap());
    let (go_on, mut told) = mpsc::channel::<()>(1);
    let mut served = JoinSet::new();
    served.spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        read_request(&mut socket).await.unwrap();
        socket.write_all(&chunked(&[A], false)).await.unwrap();
        told.recv().await.unwrap();
        let rest = chunked(&[FINISH, DONE], true);
        socket.write_all(&rest[STREAM.len()..]).await.unwrap();
        let _ = socket.read(&mut [0]).await;
    });
    let limits = Timeouts { idle: SHORT * 5, ..Timeouts::default() };
    let client = ProviderClient::new("up".into(), &url, limits).unwrap();
    let key = SecretString::from("sk-1");
    let streamed = Asked { stream: true, answers: 1 };
    let asked = client.start(Bytes::from_static(b"{}"), RequestId::from_bits(5), &key, streamed, Instant::now() + LONG);
    let Ok(Answer::Stream(mut stream)) = asked.await else { panic!("a stream") };
    assert!(matches!(stream.next().await, Ok(Some(GenerationEvent::Delta(_)))));
    tokio::time::sleep(SHORT * 6).await;
    let (next, ()) = tokio::join!(stream.next(), async {
        tokio::time::sleep(SHORT).await;
        go_on.send(()).await.unwrap();
    });
    assert!(matches!(next, Ok(Some(GenerationEvent::Finish { .. }))), "{next:?}");
}

#[tokio::test]
async fn f07_the_first_token_has_a_limit_of_its_own_that_comments_and_roles_do_not_stretch() {
    let role: &[u8] =
        b"data: {\"choices\": [{\"index\": 0, \"delta\": {\"role\": \"assistant\", \"content\": \"\"}}]}\n\n";
    let limits = Timeouts { first_token: Some(SHORT), ..Timeouts::default() };
    for (what, pieces, late) in [
        ("nothing", &[] as &[&[u8]], true),
        ("comments", &[&b": still there\n\n"[..]][..], true),
        ("a role", &[role][..], true),
        ("a token", &[role, A][..], false),
    ] {
        let (seen, error) = outline_within(chunked(pieces, false), limits, SHORT * 4).await;
        let expected = if late { ("", ErrorKind::Upstream) } else { ("a", ErrorKind::Timeout) };
        assert_eq!((seen.as_str(), error), expected, "{what}");
    }
}

/// What came and how it failed within `limit`.
async fn outline_within(answer: Vec<u8>, timeouts: Timeouts, limit: Duration) -> (String, ErrorKind) {
    let responder = responder(vec![answer], timeouts).await;
    match responder.ask_within(true, limit).await {
        Ok(Answer::Stream(mut stream)) => {
            let (seen, error) = outline(&mut stream).await;
            (seen, error.unwrap().kind)
        }
        Ok(Answer::Body(answer)) => panic!("an answer: {answer:?}"),
        Err(error) => (String::new(), error.kind),
    }
}

#[tokio::test]
async fn a_list_of_models_is_asked_for_with_the_key_and_its_connection_serves_the_next_call() {
    let list = whole("200 OK\r\ncontent-type: application/json", r#"{"data": [{"id": "a"}, {"id": "b"}]}"#);
    let mut responder = responder(vec![list, chunked(&[A, FINISH, DONE], true)], Timeouts::default()).await;
    let ids = responder.client.models(&SecretString::from("sk-1")).await.unwrap();
    assert_eq!(ids, ["a", "b"]);
    // The responder accepts one connection only.
    assert_eq!(outline(&mut responder.stream().await).await, ("af".to_owned(), None));
    let asked = responder.requests.recv().await.unwrap();
    assert!(asked.starts_with("GET /v1/models HTTP/1.1\r\n") && asked.contains("authorization: Bearer sk-1\r\n"));
}

#[tokio::test]
async fn a_whole_answer_is_read() {
    let body = r#"{"id": "x", "choices": [{"message": {"content": "a"}, "finish_reason": "length"}]}"#;
    let responder = responder(vec![whole("200 OK", body)], Timeouts::default()).await;
    let Ok(Answer::Body(answer)) = responder.ask(false).await else { panic!("a body") };
    assert_eq!((answer.choices[0].finish_reason.as_str(), answer.usage), ("length", None));
}

#[tokio::test]
async fn a_200_that_is_no_answer_is_a_failure() {
    for (head, body) in [
        ("200 OK\r\ncontent-type: application/json; charset=utf-8", r#"{"error": {"message": "m"}}"#),
        ("200 OK\r\ncontent-type: text/html", "<html></html>"),
        ("200 OK", ""),
        ("204 No Content", ""),
        ("200 OK\r\ncontent-type: application/json", r#"{"choices": [{"mess"#),
    ] {
        for stream in [true, false] {
            let responder = responder(vec![whole(head, body)], Timeouts::default()).await;
            assert_eq!(responder.failure(stream, LONG).await.kind, ErrorKind::Upstream, "{head} {body}");
        }
    }
}

#[tokio::test]
async fn refusals_carry_kind_and_retry_after_and_redirects_are_not_followed() {
    for (head, kind, retry_after) in [
        ("429 Too Many Requests\r\nretry-after: 7", ErrorKind::RateLimited, Some(7)),
        ("503 Service Unavailable\r\nretry-after: 900", ErrorKind::Upstream, Some(300)),
        ("401 Unauthorized", ErrorKind::Unauthorized, None),
        ("307 Temporary Redirect\r\nlocation: /elsewhere", ErrorKind::Upstream, None),
    ] {
        let responder = responder(vec![whole(head, "{}")], Timeouts::default()).await;
        let error = responder.ask(true).await.unwrap_err();
        assert_eq!((error.kind, error.retry_after), (kind, retry_after.map(Duration::from_secs)), "{head}");
    }
}

#[tokio::test]
async fn an_endless_error_body_is_cut() {
    let mut answer = b"HTTP/1.1 500 Oops\r\ncontent-length: 99999999\r\n\r\n".to_vec();
    answer.extend(vec![b'x'; 4 * MAX_ERROR_BODY_BYTES]);
    let responder = responder(vec![answer], Timeouts::default()).await;
    assert_eq!(responder.ask(true).await.unwrap_err().kind, ErrorKind::Upstream);
}

#[tokio::test]
async fn a_whole_answer_above_its_bound_is_a_failure() {
    let padding = " ".repeat(MAX_BODY_BYTES + 1);
    let responder = responder(vec![whole("200 OK", &padding)], Timeouts::default()).await;
    let error = responder.ask(false).await.unwrap_err();
    assert!(error.message.contains("more than an answer may hold"), "{error}");
}

#[tokio::test]
async fn dropping_the_stream_or_the_call_closes_the_socket() {
    let mut hang = responder(vec![chunked(&[A], false)], Timeouts::default()).await;
    let mut stream = hang.stream().await;
    assert!(matches!(stream.next().await, Ok(Some(_))));
    drop(stream);
    timeout(LONG, hang.served.join_next()).await.unwrap().unwrap().unwrap();

    let mut hang = responder(vec![vec![]], Timeouts::default()).await;
    let (_, nothing) = mpsc::channel(1);
    let mut requests = std::mem::replace(&mut hang.requests, nothing);
    tokio::select! {
        answer = hang.ask(true) => panic!("{answer:?}"),
        _ = requests.recv() => {}
    }
    timeout(LONG, hang.served.join_next()).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn nobody_listening_is_a_failure_without_url_or_key() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = ProviderClient::new("up".into(), &format!("http://{free}/v1"), Timeouts::default()).unwrap();
    let key = SecretString::from("sk-1");
    let streamed = Asked { stream: true, answers: 1 };
    let error =
        client.start(Bytes::new(), RequestId::from_bits(1), &key, streamed, Instant::now() + LONG).await.unwrap_err();
    assert_eq!(
        error,
        GatewayError::target("up", ErrorKind::Upstream, "the provider could not be reached (connection refused)")
            .unworked()
    );
}

#[test]
fn a_base_url_must_be_http() {
    for url in [
        "",
        "provider.example/v1",
        "file:///etc",
        "https://",
        "https://key@provider.example/v1",
        "https://provider.example/v1?key=1",
    ] {
        assert!(ProviderClient::new("up".into(), url, Timeouts::default()).is_err(), "{url}");
    }
    for url in ["https://provider.example/v1", "https://provider.example/v1/"] {
        let client = ProviderClient::new("up".into(), url, Timeouts::default()).unwrap();
        assert_eq!(client.address.url().as_str(), "https://provider.example/v1/chat/completions");
    }
}

#[test]
fn an_answer_is_whole_with_every_choice_to_every_prompt() {
    let choices = Choices { n: 3, best_of: 5, ..Choices::default() };
    let one = ChatRequest { choices, ..ChatRequest::plain("a") };
    assert_eq!(Asked::by(&one), Asked { stream: true, answers: 3 });
    let input = Input::Several(["a", "b"].map(|text| Passage::Text(text.to_owned())).into());
    assert_eq!(Asked::by(&ChatRequest { input, ..one }).answers, 6);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_moves_rings_when_it_is_reached_and_not_before() {
    use std::future::{pending, ready};
    let began = Instant::now();
    let at = |ms| began + Duration::from_millis(ms);
    let mut alarm = Alarm::default();
    assert_eq!(alarm.unless_rung(at(10), sleep_until(at(5))).await, Some(()));
    assert_eq!(alarm.unless_rung(at(30), sleep_until(at(20))).await, Some(()), "the first limit is no longer one");
    assert_eq!(alarm.unless_rung(at(25), pending::<()>()).await, None);
    assert_eq!(Instant::now(), at(25), "nor does a later one put an earlier one off");
    assert_eq!(alarm.unless_rung(at(1), pending::<()>()).await, None);
    assert_eq!(alarm.unless_rung(at(1), ready(7)).await, Some(7));
    assert_eq!(Instant::now(), at(25));
}
