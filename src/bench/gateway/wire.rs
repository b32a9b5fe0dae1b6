//! Load over kept connections: each asks, reads the answer to its end, and asks again; at once, or at times that were set
//! beforehand.

use crate::bench::BenchError;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use memchr::memmem;
use spillway_actors::task::{self, Owned};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

/// An answer that takes longer has failed.
pub(in crate::bench) const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of a foreign error that are worth showing.
const SHOWN: usize = 200;
/// How a stream says that it is over, and how that it broke off.
const DONE: &[u8] = b"data: [DONE]";
const ERROR: &[u8] = b"data: {\"error\"";
/// One less than the longer of them.
const SEAM: usize = ERROR.len() - 1;

/// What is asked, of whom.
#[derive(Debug, Clone)]
pub(in crate::bench) struct Asked {
    pub(in crate::bench) authority: String,
    pub(in crate::bench) path: String,
    pub(in crate::bench) key: String,
    pub(in crate::bench) body: Bytes,
    /// Whether the body asks for one, which then must be whole.
    pub(in crate::bench) stream: bool,
    pub(in crate::bench) heard: Arc<Heard>,
}

/// What was said at the first failure and at the first refusal (429, 503), for whoever wonders.
#[derive(Debug, Default)]
pub(in crate::bench) struct Heard {
    failure: OnceLock<String>,
    refusal: OnceLock<String>,
}

impl Heard {
    pub(in crate::bench) fn failure(&self) -> Option<String> {
        self.failure.get().cloned()
    }

    /// The failure, or else the refusal.
    pub(in crate::bench) fn any(&self) -> Option<String> {
        self.failure.get().or_else(|| self.refusal.get()).cloned()
    }

    pub(in crate::bench) fn add(&self, status: u16, said: impl FnOnce() -> String) {
        let place = if is_refusal(status) { &self.refusal } else { &self.failure };
        if place.get().is_none() {
            let _ = place.set(said());
        }
    }
}

/// There is no room just now.
pub(in crate::bench) const fn is_refusal(status: u16) -> bool {
    matches!(status, 429 | 503)
}

/// How it is asked.
#[derive(Debug, Clone, Copy)]
pub(in crate::bench) struct Load {
    pub(in crate::bench) connections: u32,
    pub(in crate::bench) lasts: Duration,
    /// Requests a second over all connections; `None`: each connection asks as soon as it has its answer.
    pub(in crate::bench) rate: Option<u32>,
}

/// One answer.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::bench) struct Sample {
    pub(in crate::bench) failed: bool,
    /// 0: no answer came.
    pub(in crate::bench) status: u16,
    /// It says when to come again.
    pub(in crate::bench) retry_after: bool,
    /// From when it was due.
    pub(in crate::bench) took: Duration,
    /// To the first byte of the body.
    pub(in crate::bench) first: Duration,
    /// Events of a stream.
    pub(in crate::bench) events: u64,
}

/// Everything that was answered, and how long that took.
#[derive(Debug, Default)]
pub(in crate::bench) struct Run {
    pub(in crate::bench) samples: Vec<Sample>,
    pub(in crate::bench) lasted: Duration,
}

/// # Errors
/// Nothing listens there.
pub(in crate::bench) async fn run(asked: &Asked, load: Load) -> Result<Run, BenchError> {
    let asked = Arc::new(asked.clone());
    let mut connections = Vec::new();
    for _ in 0..load.connections {
        connections.push(Line::open(&asked.authority).await?);
    }
    let began = Instant::now();
    let mut running = JoinSet::new();
    for (nth, line) in (0_u32..).zip(connections) {
        running.spawn(talk(line, Arc::clone(&asked), Turns { nth, load, began }));
    }
    let samples: Vec<Sample> = running.join_all().await.into_iter().flatten().collect();
    Ok(Run { samples, lasted: began.elapsed() })
}

/// When one connection asks.
#[derive(Debug, Clone, Copy)]
struct Turns {
    nth: u32,
    load: Load,
    began: Instant,
}

impl Turns {
    /// When its request number `count` is due; `None`: after the end.
    fn due(&self, count: u32, now: Instant) -> Option<Instant> {
        let Load { connections, lasts, rate } = self.load;
        let due = rate.map_or(now, |rate| {
            let number = u64::from(count) * u64::from(connections) + u64::from(self.nth);
            self.began + Duration::from_secs_f64(number as f64 / f64::from(rate))
        });
        (due < self.began + lasts).then_some(due)
    }
}

async fn talk(mut line: Line, asked: Arc<Asked>, turns: Turns) -> Vec<Sample> {
    let mut samples = Vec::new();
    while let Some(due) = turns.due(samples.len() as u32, Instant::now()) {
        sleep_until(due).await;
        let sample = line.sample(&asked, due).await;
        if sample.failed {
            let Ok(another) = Line::open(&asked.authority).await else { break };
            line = another;
        }
        samples.push(sample);
    }
    samples
}

/// A kept connection.
pub(in crate::bench) struct Line {
    sender: SendRequest<Full<Bytes>>,
    _driver: Owned,
}

impl Line {
    pub(in crate::bench) async fn open(authority: &str) -> Result<Self, BenchError> {
        let unreachable = |why: String| BenchError::Unreachable { url: authority.to_owned(), why };
        let socket = TcpStream::connect(authority).await.map_err(|error| unreachable(error.to_string()))?;
        let _ = socket.set_nodelay(true);
        let (sender, connection) =
            http1::handshake(TokioIo::new(socket)).await.map_err(|error| unreachable(error.to_string()))?;
        Ok(Self { sender, _driver: task::owned(async move { drop(connection.await) }) })
    }

    /// No answer, or none in time, is a failure without a status.
    pub(in crate::bench) async fn sample(&mut self, asked: &Asked, due: Instant) -> Sample {
        let why = match timeout(PATIENCE, self.ask(asked, due)).await {
            Ok(Ok(sample)) => return sample,
            Ok(Err(error)) => format!("no answer: {error}"),
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        asked.heard.add(0, || why);
        Sample { failed: true, took: due.elapsed(), ..Sample::default() }
    }

    async fn send(&mut self, asked: &Asked) -> Result<Response<Incoming>, Failed> {
        self.sender.ready().await?;
        Ok(self.sender.send_request(request(asked)).await?)
    }

    async fn ask(&mut self, asked: &Asked, due: Instant) -> Result<Sample, Failed> {
        let response = match self.send(asked).await {
            // Closed before anything was sent on it, as a server may between two answers: every client asks on another one then.
            Err(Failed::Http(error)) if error.is_canceled() || error.is_closed() => {
                *self = Self::open(&asked.authority).await?;
                self.send(asked).await?
            }
            sent => sent?,
        };
        let status = response.status().as_u16();
        let mut seen = Seen { good: response.status().is_success(), stream: asked.stream, ..Seen::default() };
        let retry_after = response.headers().contains_key(header::RETRY_AFTER);
        let (mut body, mut first) = (response.into_body(), None);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            first.get_or_insert_with(|| due.elapsed());
            seen.take(&data);
        }
        let (took, fault) = (due.elapsed(), seen.fault());
        if let Some(fault) = fault {
            asked.heard.add(status, || format!("{status}, {fault}: {}", seen.said()));
        }
        Ok(Sample {
            failed: fault.is_some(),
            status,
            retry_after,
            took,
            first: first.unwrap_or(took),
            events: seen.events,
        })
    }
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Unreachable(#[from] BenchError),
}

/// What an answer's body has shown so far, without reading what its events say.
#[derive(Default)]
struct Seen {
    good: bool,
    stream: bool,
    events: u64,
    done: bool,
    error: bool,
    /// The end of what came, for a pattern that lies across two pieces.
    seam: Vec<u8>,
    /// The beginning of a refusal, or of a stream's error.
    said: Vec<u8>,
}

impl Seen {
    fn take(&mut self, data: &[u8]) {
        self.events += memmem::find_iter(data, b"data: ").count() as u64;
        if !self.good {
            let room = SHOWN.saturating_sub(self.said.len());
            self.said.extend_from_slice(data.get(..room).unwrap_or(data));
        } else if self.stream {
            self.seam.extend_from_slice(data.get(..SEAM).unwrap_or(data));
            let has = |pattern| memmem::find(data, pattern).is_some() || memmem::find(&self.seam, pattern).is_some();
            let (done, error) = (has(DONE), has(ERROR));
            if error && !self.error {
                let from = memmem::find(data, ERROR).unwrap_or(0);
                self.said.extend(data.iter().skip(from).take(SHOWN));
            }
            (self.done, self.error) = (self.done || done, self.error || error);
            self.seam.extend_from_slice(data.get(SEAM..).unwrap_or_default());
            self.seam.drain(..self.seam.len().saturating_sub(SEAM));
        }
    }

    /// Why it is no whole answer.
    const fn fault(&self) -> Option<&'static str> {
        match self {
            Self { good: false, .. } => Some("refused"),
            Self { stream: false, .. } => None,
            Self { error: true, .. } => Some("a stream that ended in an error"),
            Self { done: false, .. } => Some("a stream without [DONE]"),
            _ => None,
        }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.said).split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

fn request(asked: &Asked) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(asked.body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = asked.path.parse().unwrap_or_else(|_| Uri::from_static("/"));
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in
        [(header::HOST, asked.authority.clone()), (header::AUTHORIZATION, format!("Bearer {}", asked.key))]
    {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(stream: bool, pieces: &[&[u8]]) -> (Option<&'static str>, String, u64) {
        let mut seen = Seen { good: true, stream, ..Seen::default() };
        pieces.iter().for_each(|piece| seen.take(piece));
        (seen.fault(), seen.said(), seen.events)
    }

    #[test]
    fn a_stream_is_an_answer_only_with_its_end_and_without_an_error() {
        let text: &[u8] = br#"data: {"choices":[{"delta":{"content":"an \"error\", [DONE]"}}]}"#;
        let whole = [text, &b"\n\ndata: [DONE]\n\n"[..]].concat();
        let broken = [
            text,
            &br#"

data: {"error":{"message":"t: timeout"}}

"#[..],
        ]
        .concat();
        assert_eq!(fault(true, &[&whole]), (None, String::new(), 2));
        assert_eq!(fault(true, &[text]).0, Some("a stream without [DONE]"));
        assert_eq!(fault(false, &[b"{}"]).0, None);
        let (why, said, _) = fault(true, &[&broken]);
        assert_eq!(why, Some("a stream that ended in an error"));
        assert_eq!(said, r#"data: {"error":{"message":"t: timeout"}}"#);
        for at in 1..whole.len() {
            let (one, other) = whole.split_at(at);
            assert_eq!(fault(true, &[one, other]).0, None, "cut at {at}");
        }
        for at in 1..broken.len() - 3 {
            let (one, other) = broken.split_at(at);
            assert!(fault(true, &[one, other]).0.is_some_and(|why| why.contains("error")), "cut at {at}");
        }
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(fault(true, &bytes).0, None, "byte by byte");
    }

    #[test]
    fn the_first_words_of_a_failure_and_of_a_refusal_are_kept_apart() {
        let heard = Heard::default();
        assert_eq!(heard.any(), None);
        heard.add(429, || "429, refused: full".to_owned());
        assert_eq!((heard.failure(), heard.any().as_deref()), (None, Some("429, refused: full")));
        heard.add(404, || "404, refused: who?".to_owned());
        heard.add(0, || "no answer".to_owned());
        assert_eq!((heard.failure(), heard.any().as_deref()), (heard.any(), Some("404, refused: who?")));
        let mut refused = Seen::default();
        (0..50).for_each(|_| refused.take(b"no room\n"));
        assert!(refused.fault() == Some("refused") && refused.said().len() <= SHOWN, "{}", refused.said());
    }

    #[test]
    fn at_a_rate_every_request_has_its_time_and_late_ones_keep_it() {
        let began = Instant::now();
        let load = Load { connections: 2, lasts: Duration::from_secs(1), rate: Some(10) };
        let second = Turns { nth: 1, load, began };
        let late = began + Duration::from_secs(5);
        let due: Vec<_> =
            (0..6).map_while(|count| second.due(count, late)).map(|due| (due - began).as_millis()).collect();
        assert_eq!(due, [100, 300, 500, 700, 900]);
    }

    #[test]
    fn without_a_rate_it_asks_at_once_until_the_time_is_over() {
        let began = Instant::now();
        let load = Load { connections: 1, lasts: Duration::from_secs(1), rate: None };
        let turns = Turns { nth: 0, load, began };
        let now = began + Duration::from_millis(999);
        assert_eq!(turns.due(7, now), Some(now));
        assert_eq!(turns.due(8, began + load.lasts), None);
    }
}
