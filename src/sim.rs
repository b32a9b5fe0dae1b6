//! A simulated provider that speaks OpenAI's and Anthropic's wire formats: a demo's cloud, a benchmark's instant upstream, and every fault of the fault
//! table on demand, chosen by the model's name (`cut-40`, `gpt-4.1-error-500-2`, …) or set at run time.
//!
//! It says that it is simulated wherever a client may look: a header, `owned_by`, `system_fingerprint` and the text. It
//! keeps account of what it served (`/sim/requests`, `/sim/stats`), so that a gateway's books can be checked against it.
//! It understands no request and generates no language.

mod embeddings;
mod fault;
mod faults;
mod http;
mod instance;
mod log;
mod messages;
mod play;
mod request;
mod script;
mod shape;
mod text;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use play::Breaker;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// More wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 10_000;
/// After a failed accept (no file descriptors, say), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const SIMULATED: HeaderName = HeaderName::from_static("x-spillway-simulated");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How the provider answers when no fault says otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct SimOptions {
    /// To the first token.
    pub ttft: Duration,
    /// `None`: no limit.
    pub tokens_per_second: Option<f64>,
    /// Of a whole answer; a request's own cap may cut it.
    pub tokens: u32,
    /// Demanded as bearer token, of Anthropic's endpoint as `x-api-key`: one, or several with commas between them.
    pub api_key: Option<String>,
    pub seed: u64,
    /// The account of requests shows what each answer said.
    pub keep_text: bool,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self { ttft: Duration::ZERO, tokens_per_second: None, tokens: 60, api_key: None, seed: 0, keep_text: false }
    }
}

impl SimOptions {
    fn between_tokens(&self) -> Option<Duration> {
        let rate = self.tokens_per_second.filter(|rate| *rate > 0.0)?;
        Duration::try_from_secs_f64(rate.recip()).ok()
    }
}

/// `spillway sim`: a simulated provider for tests, benchmarks and demos.
#[derive(Debug, Clone, clap::Args)]
pub struct SimArgs {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:9100")]
    pub listen: SocketAddr,
    /// Milliseconds to the first token.
    #[arg(long, default_value_t = 0)]
    pub ttft_ms: u64,
    /// Tokens per second after the first; 0 for all at once.
    #[arg(long, default_value_t = 0.0)]
    pub tokens_per_second: f64,
    /// Tokens of a whole answer.
    #[arg(long, default_value_t = 60)]
    pub tokens: u32,
    /// Demand this bearer token, or one of several with commas between them.
    #[arg(long, env = "SPILLWAY_SIM_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// Of the generated text.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Show what each answer said in GET /sim/requests.
    #[arg(long)]
    pub keep_text: bool,
}

impl SimArgs {
    pub fn options(&self) -> SimOptions {
        SimOptions {
            ttft: Duration::from_millis(self.ttft_ms),
            tokens_per_second: Some(self.tokens_per_second).filter(|rate| *rate > 0.0),
            tokens: self.tokens,
            api_key: self.api_key.clone(),
            seed: self.seed,
            keep_text: self.keep_text,
        }
    }
}

/// A provider that listens but does not serve yet.
#[derive(Debug)]
pub struct Sim {
    listener: TcpListener,
    router: Router,
    pub local_addr: SocketAddr,
}

impl Sim {
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind(addr: SocketAddr, options: SimOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let local_addr = listener.local_addr()?;
        Ok(Self { listener, router: http::router(options), local_addr })
    }

    /// Serves until `shutdown`, then closes every connection at once: some faults never end by themselves.
    pub async fn serve(self, shutdown: CancellationToken) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = connections.join_next() => {}
                (permit, socket) = accept(&self.listener, &permits) => {
                    connections.spawn(connection(socket, self.router.clone(), permit));
                }
            }
        }
        connections.shutdown().await;
    }
}

async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> (Option<OwnedSemaphorePermit>, TcpStream) {
    // The semaphore is never closed.
    let permit = Arc::clone(permits).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((socket, _)) => return (permit, socket),
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn connection(socket: TcpStream, router: Router, _permit: Option<OwnedSemaphorePermit>) {
    // A socket that refuses it is about to fail anyway.
    let _ = socket.set_nodelay(true);
    let breaker = Breaker::default();
    let router = TowerToHyperService::new(router);
    let ours = breaker.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let id = request.headers().get(&REQUEST_ID).cloned();
        request.extensions_mut().insert(ours.clone());
        let answer = router.call(request);
        async move {
            let mut response = answer.await?;
            response.headers_mut().insert(SIMULATED, HeaderValue::from_static("true"));
            response.headers_mut().extend(id.map(|id| (REQUEST_ID, id)));
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let mut served = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
    let reset = tokio::select! {
        _ = &mut served => return,
        reset = breaker.broken() => reset,
    };
    let socket = served.into_parts().io.into_inner();
    if reset {
        // Closing with nothing to linger for sends RST instead of FIN.
        let _ = socket.set_zero_linger();
    }
}

#[cfg(test)]
mod tests;
