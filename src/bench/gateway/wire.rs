//! Load over kept connections: each asks, reads the answer to its end, and asks again; at once, or at times that were set
//! beforehand.

use crate::bench::BenchError;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use spillway_actors::task::{self, Owned};
use std::{sync::Arc, time::Duration};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

/// An answer that takes longer has failed.
pub(in crate::bench) const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked, of whom.
#[derive(Debug, Clone)]
pub(in crate::bench) struct Asked {
    pub(in crate::bench) authority: String,
    pub(in crate::bench) path: String,
    pub(in crate::bench) key: String,
    pub(in crate::bench) body: Bytes,
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
        let sample = match timeout(PATIENCE, line.ask(&asked, due)).await {
            Ok(Ok(sample)) => sample,
            _ => Sample { failed: true, took: due.elapsed(), ..Sample::default() },
        };
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

    pub(in crate::bench) async fn ask(&mut self, asked: &Asked, due: Instant) -> Result<Sample, hyper::Error> {
        self.sender.ready().await?;
        let response = self.sender.send_request(request(asked)).await?;
        let (failed, status) = (!response.status().is_success(), response.status().as_u16());
        let retry_after = response.headers().contains_key(header::RETRY_AFTER);
        let (mut body, mut first, mut events) = (response.into_body(), None, 0);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            first.get_or_insert_with(|| due.elapsed());
            events += memchr::memmem::find_iter(&data, b"data: ").count() as u64;
        }
        let took = due.elapsed();
        Ok(Sample { failed, status, retry_after, took, first: first.unwrap_or(took), events })
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
