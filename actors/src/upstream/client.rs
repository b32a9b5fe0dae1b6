//! One HTTP attempt against one OpenAI-compatible provider: request out, answer or error in.
//!
//! Every wait stands inside the request's deadline, every read inside a bound. Redirects, proxies of the environment and
//! retries are off: whoever asks decides what happens next, and knows exactly which host saw the request.

use super::chunk::Malformed;
use super::fault::{self, Refusal};
use crate::chaos::faults::Befalls;
use crate::config::Wire;
use crate::domain::{ChatRequest, ErrorKind, GatewayError, Outgoing, RequestId, TargetName};
use bytes::Bytes;
use connections::{Address, Connections, Response};
use http::{HeaderMap, HeaderValue, Method, header};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};
use tokio::time::{Instant, Sleep, sleep_until};

mod connections;
mod embed;
mod models;
mod prefix;
mod presence;
mod stream;
mod suffering;

pub use super::chunk::{WholeAnswer, WholeChoice};
pub use presence::Presence;
pub use stream::EventStream;

const MAX_BODY_BYTES: usize = 32 << 20;
const MAX_ERROR_BODY_BYTES: usize = 64 << 10;
/// The status already says what failed: its explanation must not hold up the next attempt.
const ERROR_BODY_WAIT: Duration = Duration::from_secs(2);
const IDLE_CONNECTIONS: usize = 1024;

/// How long a provider may keep silent. All of it inside the request's deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Name resolution, TCP and TLS.
    pub connect: Duration,
    /// From the start of the attempt to the first byte of a stream's body.
    pub first_byte: Duration,
    /// As `first_byte` for an answer in one piece, whose first byte comes only when the last token is there.
    pub first_byte_unstreamed: Duration,
    /// From the start of the attempt to the first token of a stream; comments and roles are none. `None`: only the other
    /// limits count.
    pub first_token: Option<Duration>,
    /// Between two pieces of a body.
    pub idle: Duration,
    /// For usage and `[DONE]` after the last `finish_reason`; nothing is lost when it passes.
    pub tail: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            first_byte: Duration::from_secs(10),
            first_byte_unstreamed: Duration::from_secs(60),
            first_token: None,
            idle: Duration::from_secs(20),
            tail: Duration::from_secs(2),
        }
    }
}

/// What a provider answers with.
#[derive(Debug)]
pub enum Answer {
    Stream(Box<EventStream>),
    Body(WholeAnswer),
}

/// One provider: its base URL and its connections. Cheap to share by reference; keys come with each attempt.
#[derive(Debug, Clone)]
pub struct ProviderClient {
    target: TargetName,
    wire: Wire,
    /// Of the endpoint for answers.
    address: Address,
    http: Connections,
    timeouts: Timeouts,
    /// Chaos: what befalls the next call.
    befalls: Option<Befalls>,
}

/// What a body asks for, as far as it decides when its answer is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    pub stream: bool,
    /// Choices over all prompts.
    pub answers: u32,
}

impl Asked {
    /// As flights ask: always streamed.
    pub fn by(request: &ChatRequest) -> Self {
        Self { stream: true, answers: request.answers() }
    }
}

/// Under which names a call is known, here and there.
#[derive(Debug, Clone)]
pub struct CallId {
    pub request: RequestId,
    pub trace: Option<Outgoing>,
}

impl From<RequestId> for CallId {
    fn from(request: RequestId) -> Self {
        Self { request, trace: None }
    }
}

impl ProviderClient {
    /// `base_url` as SDKs take it, for example `https://provider.example/v1`. Speaks OpenAI's wire format.
    ///
    /// # Errors
    /// The URL is no http(s) URL, or the host's certificates cannot be read.
    pub fn new(target: TargetName, base_url: &str, timeouts: Timeouts) -> Result<Self, GatewayError> {
        let wrong = |why: &str| GatewayError::target(&target, ErrorKind::Internal, why);
        let url = endpoint(base_url).ok_or_else(|| wrong("base_url is not a plain http or https URL"))?;
        let http = Connections::new(url.scheme() == "https", timeouts)
            .map_err(|_| wrong("no HTTP client: the host's root certificates could not be read"))?;
        Ok(Self { target, wire: Wire::OpenAi, address: url.into(), http, timeouts, befalls: None })
    }

    /// The same provider, spoken to in another wire format.
    #[must_use]
    pub fn speaking(self, wire: Wire) -> Self {
        if self.wire == wire {
            return self;
        }
        let mut url = self.address.url().clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            self.wire.path().iter().for_each(|_| {
                segments.pop();
            });
            segments.extend(wire.path());
        }
        Self { wire, address: url.into(), ..self }
    }

    /// Sends `body` (see [`Wire::body`]) and waits for the head of the answer, for a whole answer
    /// until its end. `asked` must say what the body says. An empty key sends none. Dropping the future, or the stream it
    /// gave, closes the socket.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] if the deadline passed; every other kind is the provider's doing (see [`fault`]).
    pub async fn start(
        &self,
        body: Bytes,
        id: impl Into<CallId>,
        key: &SecretString,
        asked: Asked,
        deadline: Instant,
    ) -> Result<Answer, GatewayError> {
        let Asked { stream, answers } = asked;
        let patience = Patience { target: self.target.clone(), deadline };
        let limit = if stream { self.timeouts.first_byte } else { self.timeouts.first_byte_unstreamed };
        let started = Instant::now();
        self.suffer_before(&patience, started + limit).await?;
        let headers = self.headers(&id.into(), key, stream)?;
        let sending = self.http.send(Method::POST, &self.address, headers, body.clone());
        let response = patience.within(started + limit, "did not answer in time", sending).await?.map_err(|error| {
            let failed = patience.failed(&error.in_words());
            if error.is_connect() { failed.unworked() } else { failed }
        })?;
        if !response.status().is_success() {
            return Err(patience.refused(response, key, &body).await);
        }
        if !stream || is_media(response.headers(), "application/json") {
            let whole = read_body(&patience, self.wire, response, self.timeouts.idle).await?;
            return self.suffer_whole(&patience).await.map(|()| Answer::Body(whole));
        }
        if is_media(response.headers(), "text/html") {
            return Err(patience.failed("answered without an event stream"));
        }
        let reader = self.wire.stream_reader(answers);
        let events = EventStream::new(patience, reader, response, self.timeouts, started);
        Ok(Answer::Stream(Box::new(events.suffering(self.befalls.and_then(|befalls| befalls.mishap)))))
    }

    fn headers(&self, id: &CallId, key: &SecretString, stream: bool) -> Result<HeaderMap, GatewayError> {
        let accept = if stream { "text/event-stream" } else { "application/json" };
        let mut headers = self.wire.headers(key).map_err(|_| {
            GatewayError::target(&self.target, ErrorKind::Unauthorized, "the API key holds characters no header may")
        })?;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        if let Ok(id) = HeaderValue::from_str(&id.request.to_string()) {
            headers.insert("x-request-id", id);
        }
        if let Some(trace) = &id.trace {
            trace.write(&mut headers);
        }
        Ok(headers)
    }
}

/// `None` also for a URL with user, query or fragment: a key belongs into the header, and nothing else is a base.
fn endpoint(base_url: &str) -> Option<Url> {
    let mut url = Url::parse(base_url).ok()?;
    let plain =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if !plain || !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    url.path_segments_mut().ok()?.pop_if_empty().extend(Wire::OpenAi.path());
    Some(url)
}

/// The one TLS provider of the process. Every HTTP client needs it, even one without TLS.
pub fn install_tls_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Losing a race against another thread here is as good as winning it.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

/// One attempt's target and deadline, and the errors that name them.
#[derive(Debug)]
struct Patience {
    target: TargetName,
    deadline: Instant,
}

impl Patience {
    /// Waits until `limit` at most, and never past the deadline.
    async fn within<T>(&self, limit: Instant, late: &str, what: impl Future<Output = T>) -> Result<T, GatewayError> {
        self.within_by(&mut Alarm::default(), limit, late, what).await
    }

    /// The same, for one of many waits.
    async fn within_by<T>(
        &self,
        alarm: &mut Alarm,
        limit: Instant,
        late: &str,
        what: impl Future<Output = T>,
    ) -> Result<T, GatewayError> {
        // A provider that always has data ready would otherwise outrun every timer.
        if Instant::now() < self.deadline
            && let Some(done) = alarm.unless_rung(limit.min(self.deadline), what).await
        {
            return Ok(done);
        }
        Err(if Instant::now() >= self.deadline {
            GatewayError::target(&self.target, ErrorKind::Timeout, "the request's deadline passed")
        } else {
            self.failed(late)
        })
    }

    fn failed(&self, how: &str) -> GatewayError {
        GatewayError::target(&self.target, ErrorKind::Upstream, format!("the provider {how}"))
    }

    fn malformed(&self, why: Malformed) -> GatewayError {
        let how = match why {
            Malformed::Shape => "sent something that is no chat completion",
            Malformed::InBandError | Malformed::Refused(_) => "reported an error inside its answer",
        };
        let kind = if let Malformed::Refused(kind) = why { kind } else { ErrorKind::Upstream };
        GatewayError { kind, ..self.failed(how) }
    }

    async fn refused(&self, mut response: Response, key: &SecretString, request_body: &[u8]) -> GatewayError {
        let status = response.status();
        let retry_after = fault::retry_after(response.headers(), SystemTime::now());
        let mut body = Vec::new();
        let reading = async {
            while let Ok(Some(piece)) = response.chunk().await {
                let room = MAX_ERROR_BODY_BYTES - body.len();
                body.extend_from_slice(&piece[..piece.len().min(room)]);
                if body.len() == MAX_ERROR_BODY_BYTES {
                    break;
                }
            }
        };
        // What came until then is enough: the status decides.
        let _ = self.within(Instant::now() + ERROR_BODY_WAIT, "", reading).await;
        let refusal = Refusal { target: self.target.as_str(), status, body: &body, retry_after };
        refusal.into_error(key.expose_secret(), request_body)
    }
}

/// A timer for many waits, set anew only when it would ring too late: the next wait's limit is mostly later than the last
/// one's, and to set a timer takes the lock of all of them.
#[derive(Debug, Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    async fn unless_rung<T>(&mut self, until: Instant, what: impl Future<Output = T>) -> Option<T> {
        let mut what = pin!(what);
        poll_fn(|cx| match what.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => self.poll(until, cx).map(|()| None),
        })
        .await
    }

    fn poll(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if sleep.deadline() > until {
            sleep.as_mut().reset(until);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(until);
        }
        Poll::Pending
    }
}

async fn read_body(
    patience: &Patience,
    wire: Wire,
    mut response: Response,
    idle: Duration,
) -> Result<WholeAnswer, GatewayError> {
    let mut body = Vec::new();
    loop {
        let piece =
            patience.within(Instant::now() + idle, "stopped in the middle of its answer", response.chunk()).await?;
        match piece.map_err(|error| patience.failed(&error.in_words()))? {
            None => break,
            Some(piece) if body.len() + piece.len() > MAX_BODY_BYTES => {
                return Err(patience.failed("sent more than an answer may hold"));
            }
            Some(piece) => body.extend_from_slice(&piece),
        }
    }
    if body.is_empty() {
        return Err(patience.failed("sent an empty answer"));
    }
    wire.read_whole(&body).map_err(|why| patience.malformed(why))
}

/// Whether the head names this media type. A stream without a content type is left to the parser.
fn is_media(headers: &HeaderMap, wanted: &str) -> bool {
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim();
    media.eq_ignore_ascii_case(wanted)
}

#[cfg(test)]
mod tests;
