//! The way of drawn spans to the collector: a bounded queue, one task, batches. A collector that is slow or down costs traces and
//! nothing else: the queue fills, and what does not fit is dropped and counted. At the end of the process there is a bounded
//! time for the last of them.

use super::{draw, otlp, peers::Peers, protobuf::Message};
use reqwest::{Client, StatusCode, header, redirect};
use secrecy::ExposeSecret;
use spillway_actors::{
    config::{OtelConfig, is_loopback},
    domain::RequestId,
    flight::{Traced, Traces},
    observe, task,
    upstream::client::install_tls_provider,
};
use std::time::Duration;
use tokio::{
    sync::mpsc::{self, Receiver},
    task::JoinHandle,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

/// Requests sent together; some hundred kilobytes.
const BATCH: usize = 128;
/// Times a batch is offered to a collector that may take it later.
const TRIES: u32 = 4;
/// Before the second try; doubled before each further one.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause, whatever the collector asks for.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// What is read of an answer.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// The task's own last steps, beyond what it may spend on sending.
const GRACE: Duration = Duration::from_millis(200);

/// The running task.
#[derive(Debug)]
pub struct Exporter {
    closing: CancellationToken,
    task: JoinHandle<()>,
    shutdown: Duration,
}

impl Exporter {
    /// # Errors
    /// No HTTP client can be made: the host's certificates cannot be read, or a header cannot be sent.
    pub fn start(config: &OtelConfig, peers: Peers) -> Result<(Traces, Self), reqwest::Error> {
        let (traces, queue) = mpsc::channel(config.queue);
        let closing = CancellationToken::new();
        let collector = Collector::new(config)?;
        let sending = Sending {
            collector,
            peers,
            queue,
            flush: config.flush,
            shutdown: config.shutdown,
            closing: closing.clone(),
            is_up: true,
        };
        let task = task::detached(sending.run());
        Ok((Traces::to(traces), Self { closing, task, shutdown: config.shutdown }))
    }

    /// Sends what waits, as far as there is time. Nothing is taken from now on.
    pub async fn close(self) {
        self.closing.cancel();
        let _ = tokio::time::timeout(self.shutdown + GRACE, self.task).await;
    }
}

/// Why a batch did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// It may be taken later, not before the pause.
    ForNow { status: Option<u16>, pause: Option<Duration> },
    /// It is not wanted as it is.
    ForGood { status: u16 },
}

impl Refused {
    fn in_words(self) -> String {
        match self {
            Self::ForNow { status: Some(status), .. } | Self::ForGood { status } => format!("it answered {status}"),
            Self::ForNow { status: None, .. } => "it cannot be reached, or did not answer in time".to_owned(),
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::ForNow { .. } => "unreachable",
            Self::ForGood { .. } => "refused",
        }
    }
}

/// What an answer's head says of a batch.
fn verdict(status: StatusCode, retry_after: Option<&str>) -> Result<(), Refused> {
    if status.is_success() {
        return Ok(());
    }
    let number = status.as_u16();
    // Those that the protocol calls retryable.
    if !matches!(number, 429 | 502 | 503 | 504) {
        return Err(Refused::ForGood { status: number });
    }
    let pause = retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    Err(Refused::ForNow { status: Some(number), pause: pause.map(|pause| pause.min(MAX_PAUSE)) })
}

/// Before the try with this number, counted from 0.
fn pause(tries: u32, asked: Option<Duration>) -> Duration {
    asked.unwrap_or_else(|| PAUSE * 2u32.pow(tries.saturating_sub(1).min(8))).min(MAX_PAUSE)
}

struct Collector {
    client: Client,
    config: OtelConfig,
    resource: Message,
}

impl Collector {
    fn new(config: &OtelConfig) -> Result<Self, reqwest::Error> {
        install_tls_provider();
        let builder = Client::builder()
            .user_agent(concat!("spillway/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .timeout(config.timeout);
        // What is on this machine needs neither a proxy nor certificates.
        let client =
            if is_loopback(&config.url) { builder.no_proxy().tls_certs_only([]).build()? } else { builder.build()? };
        // Of this process's life; another one has another.
        let instance = RequestId::random().to_string();
        let resource = otlp::resource(&config.service_name, instance.trim_start_matches("req_"));
        Ok(Self { client, config: config.clone(), resource })
    }

    async fn post(&self, body: Vec<u8>) -> Result<(), Refused> {
        const LATER: Refused = Refused::ForNow { status: None, pause: None };
        let mut asking = self.client.post(&self.config.url).header(header::CONTENT_TYPE, "application/x-protobuf");
        for (name, value) in &self.config.headers {
            asking = asking.header(name, value.expose_secret());
        }
        let mut answer = asking.body(body).send().await.map_err(|_| LATER)?;
        let after = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        verdict(answer.status(), after)?;
        let mut told = Vec::new();
        while let Ok(Some(piece)) = answer.chunk().await {
            if told.len() + piece.len() > MAX_ANSWER_BYTES {
                break;
            }
            told.extend_from_slice(&piece);
        }
        let rejected = otlp::rejected(&told);
        if rejected > 0 {
            tracing::warn!(rejected, "the collector took a batch of traces, but not all of its spans");
        }
        Ok(())
    }
}

/// The task's state.
struct Sending {
    collector: Collector,
    peers: Peers,
    queue: Receiver<Traced>,
    flush: Duration,
    shutdown: Duration,
    closing: CancellationToken,
    /// The collector took the last batch, as far as is known.
    is_up: bool,
}

impl Sending {
    async fn run(mut self) {
        let closing = self.closing.clone();
        loop {
            let Some(batch) = self.gather().await else { break };
            let body = self.drawn(&batch);
            let offered = tokio::select! {
                biased;
                offered = self.offer(&body) => Some(offered),
                () = closing.cancelled() => None,
            };
            match offered {
                Some(offered) => self.note(batch.len(), offered),
                None => return self.finish(Some((batch.len(), body))).await,
            }
        }
        self.finish(None).await;
    }

    /// The next batch: full, or as old as it may get. `None`: the end has come.
    async fn gather(&mut self) -> Option<Vec<Traced>> {
        let first = tokio::select! {
            biased;
            () = self.closing.cancelled() => return None,
            first = self.queue.recv() => first?,
        };
        let mut batch = vec![first];
        let due = Instant::now() + self.flush;
        while batch.len() < BATCH {
            tokio::select! {
                biased;
                () = self.closing.cancelled() => break,
                next = timeout_at(due, self.queue.recv()) => match next {
                    Ok(Some(traced)) => batch.push(traced),
                    Ok(None) | Err(_) => break,
                },
            }
        }
        Some(batch)
    }

    fn drawn(&self, batch: &[Traced]) -> Vec<u8> {
        let spans = batch.iter().flat_map(|traced| {
            let trace = draw::trace_of(traced);
            draw::spans(traced, &self.peers).into_iter().map(|span| otlp::span(&span, trace))
        });
        otlp::body(&self.collector.resource, spans)
    }

    /// Until it is taken or not wanted, a few times at most.
    async fn offer(&self, body: &[u8]) -> Result<(), Refused> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.collector.post(body.to_vec()).await {
                Err(Refused::ForNow { pause: asked, .. }) if tries < TRIES => sleep(pause(tries, asked)).await,
                end => return end,
            }
        }
    }

    fn note(&mut self, count: usize, offered: Result<(), Refused>) {
        let count = count as u64;
        match offered {
            Ok(()) => observe::traces_exported(count),
            Err(refused) => observe::traces_dropped(refused.label(), count),
        }
        let is_up = offered.is_ok();
        if is_up != self.is_up {
            observe::collector_up(is_up, &offered.err().map(Refused::in_words).unwrap_or_default());
            self.is_up = is_up;
        }
    }

    /// The process ends: what is left is offered once, all of it within the time there is.
    async fn finish(mut self, interrupted: Option<(usize, Vec<u8>)>) {
        let due = Instant::now() + self.shutdown;
        self.queue.close();
        if let Some((count, body)) = interrupted {
            self.offer_by(due, count, body).await;
        }
        loop {
            let mut batch = Vec::with_capacity(BATCH);
            while batch.len() < BATCH
                && let Ok(traced) = self.queue.try_recv()
            {
                batch.push(traced);
            }
            if batch.is_empty() {
                return;
            }
            let body = self.drawn(&batch);
            self.offer_by(due, batch.len(), body).await;
        }
    }

    async fn offer_by(&mut self, due: Instant, count: usize, body: Vec<u8>) {
        match timeout_at(due, self.collector.post(body)).await {
            Ok(offered) => self.note(count, offered),
            Err(_) => observe::traces_dropped("shutdown", count as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_protocol_calls_retryable_is_tried_again_and_nothing_else() {
        let of = |status: u16, after| verdict(StatusCode::from_u16(status).unwrap(), after);
        assert_eq!(of(200, None), Ok(()));
        for status in [429, 502, 503, 504] {
            assert_eq!(of(status, None), Err(Refused::ForNow { status: Some(status), pause: None }));
        }
        for status in [400, 401, 404, 413, 500, 302] {
            assert_eq!(of(status, Some("1")), Err(Refused::ForGood { status }));
        }
        let asked = |after| {
            of(503, Some(after)).map_err(|refused| match refused {
                Refused::ForNow { pause, .. } => pause,
                Refused::ForGood { .. } => None,
            })
        };
        assert_eq!(asked("2"), Err(Some(Duration::from_secs(2))));
        assert_eq!(asked("86400"), Err(Some(MAX_PAUSE)), "a collector cannot make us wait for a day");
        assert_eq!(asked("Thu, 26 Nov 2026 10:00:00 GMT"), Err(None));
    }

    #[test]
    fn pauses_double_and_end() {
        let pauses: Vec<u128> = (1..7).map(|tries| pause(tries, None).as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 5000]);
        assert_eq!(pause(1, Some(Duration::from_secs(3))), Duration::from_secs(3));
    }
}
