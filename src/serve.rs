//! One run of the gateway: listeners, recorder, actors, and the orderly end. Holds the order of start and stop, nothing
//! else.

pub mod load;
pub mod notify;
pub mod reload;
pub mod tidy;

#[cfg(feature = "otel")]
use crate::otel::{self, export::Exporter};
use crate::{
    admin::{self, AdminState},
    cli::say,
    http::{
        is_ready,
        listen::{self, Door},
        routes::{EdgeState, api_router},
    },
    sim::{Sim, SimOptions},
};
use load::{LoadError, Loaded, Loader};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use notify::Systemd;
use reload::Reloader;
use spillway_actors::{
    config::{Config, LiveConfig},
    flight::Traces,
    jobs::JobTable,
    keys::Keys,
    observe,
    runtime::{Runtime, StartError},
    task,
};
use std::{
    io::{self, IsTerminal},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tidy::Rush;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// How long flights may take to say their last word once they were told to end.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How long connections may take to close after the last request.
const CLOSE: Duration = Duration::from_secs(2);
/// Histograms are condensed this often, and it is seen whether a rush is over.
const UPKEEP: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{0}")]
    Config(#[from] LoadError),
    #[error("cannot listen on {address} ([server] {key}): {source}; is another instance running?")]
    Listen { key: &'static str, address: SocketAddr, source: io::Error },
    #[error("the simulated provider cannot listen on loopback: {0}")]
    Demo(io::Error),
    #[error("signals cannot be caught: {0}")]
    Signals(io::Error),
    #[error("metrics: {0}")]
    Metrics(#[from] BuildError),
    #[error("[otel] endpoint: no HTTP client can be made for the collector: {0}")]
    Otel(reqwest::Error),
    #[error("{0}")]
    Start(#[from] StartError),
    #[error("the root actor died; open requests were ended with an error")]
    RootDied,
}

/// Logs go to stderr; `SPILLWAY_LOG` filters them, `SPILLWAY_LOG_FORMAT` is their form: `text` (a line each, the default),
/// `pretty` (several lines each, for reading along) or `json` (one object a line, for machines).
pub fn init_logs() {
    let filter = EnvFilter::try_from_env("SPILLWAY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // A second call, in tests, keeps the first subscriber.
    let format = std::env::var("SPILLWAY_LOG_FORMAT").unwrap_or_default();
    let in_colour = io::stderr().is_terminal();
    let _ = match format.as_str() {
        "json" => builder.json().try_init(),
        "pretty" => builder.with_ansi(in_colour).pretty().try_init(),
        _ => builder.with_ansi(in_colour).try_init(),
    };
    if !matches!(format.as_str(), "" | "text" | "json" | "pretty") {
        tracing::warn!("SPILLWAY_LOG_FORMAT must be text, pretty or json; it is taken as text");
    }
}

/// The provider behind `--demo`, on a free loopback port, at a speed that can be watched.
pub async fn demo_provider() -> Result<Sim, ServeError> {
    let options =
        SimOptions { ttft: Duration::from_millis(40), tokens_per_second: Some(60.0), ..SimOptions::default() };
    Sim::bind(SocketAddr::from(([127, 0, 0, 1], 0)), options).await.map_err(ServeError::Demo)
}

/// Serves what `loader` loads until a signal or Root's death.
///
/// # Errors
/// The configuration is faulty, an address is taken, actors cannot start, or Root died.
pub async fn run(loader: Loader) -> Result<(), ServeError> {
    open_files();
    let mut signals = StopSignals::catch().map_err(ServeError::Signals)?;
    let hangups = reload::hangups().map_err(ServeError::Signals)?;
    let (files, loaded) = loader.load();
    let Loaded { config, warnings } = loaded?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let config = Arc::new(config);
    let api = bind("listen", config.server.listen).await?;
    let admin = bind("admin_listen", config.server.admin_listen).await?;
    let metrics = install_metrics()?;
    let runtime = Runtime::start(Arc::clone(&config), find_engine()).await?;
    let _upkeep = task::owned(upkeep(metrics.clone(), runtime.services.jobs.clone()));
    let (traces, exporter) = tracing_of(&config)?;
    let mut services = runtime.services.clone();
    services.traces = traces;
    let (jobs, keys) = (services.jobs.clone(), services.keys.clone());
    let stop = CancellationToken::new();
    let (api_addr, admin_addr) = (local(&api, config.server.listen), local(&admin, config.server.admin_listen));
    let runtime = Arc::new(runtime);
    let live = runtime.live.clone();
    let systemd = Systemd::from_env();
    let reloader = Arc::new(Reloader::new(loader, files, Arc::clone(&runtime), Arc::clone(&systemd)));
    let _following = task::owned(Arc::clone(&reloader).follow(hangups));
    let most = config.server.edge.max_connections;
    let _vouching = watched(&systemd, &runtime);
    let api_routes = api_router(EdgeState::new(services).following(live.clone()));
    let admin_state = AdminState::new(Arc::clone(&runtime), metrics, reloader, api_routes.clone(), stop.clone());
    let _beating = admin_state.beat();
    let serving_api = task::detached(listen::serve(api, api_routes, stop.clone(), most, door(&live, true)));
    let admin_tls = !config.server.admin_listen.ip().is_loopback();
    let serving_admin =
        task::detached(listen::serve(admin, admin::router(admin_state), stop.clone(), most, door(&live, admin_tls)));
    greet(&config, &keys, api_addr, admin_addr);
    let ready = runtime.services.clone();
    let _telling_start = systemd.await_start(move |now| is_ready(&ready, now));

    let outcome = tokio::select! {
        () = signals.next() => {
            tracing::info!("draining: no new requests are admitted");
            systemd.stopping();
            jobs.close();
            drain(&jobs, live.load().server.drain_timeout, &mut signals).await;
            Ok(())
        }
        () = runtime.root_ended() => {
            tracing::error!("the root actor died: ending every open request with an error");
            systemd.stopping();
            Err(ServeError::RootDied)
        }
    };
    jobs.fail_all();
    jobs.drained(LAST_WORDS).await;
    stop.cancel();
    let _ = tokio::time::timeout(CLOSE, serving_api).await;
    runtime.stop().await;
    if let Some(exporter) = exporter {
        exporter.close().await;
    }
    let _ = tokio::time::timeout(CLOSE, serving_admin).await;
    outcome
}

/// The supervision tree vouches for the process.
fn watched(systemd: &Arc<Systemd>, runtime: &Arc<Runtime>) -> Option<task::Owned> {
    let runtime = Arc::clone(runtime);
    systemd.watch(move |limit| {
        let runtime = Arc::clone(&runtime);
        async move { runtime.is_supervised(limit).await }
    })
}

/// Who draws and sends spans, if a collector is configured.
#[cfg(feature = "otel")]
fn tracing_of(config: &Config) -> Result<(Traces, Option<Exporter>), ServeError> {
    let Some(otel) = &config.otel else { return Ok((Traces::default(), None)) };
    let (traces, exporter) = Exporter::start(otel, otel::peers::peers(config)).map_err(ServeError::Otel)?;
    Ok((traces, Some(exporter)))
}

/// What takes its place in a build without traces.
#[cfg(not(feature = "otel"))]
struct Exporter;

#[cfg(not(feature = "otel"))]
impl Exporter {
    async fn close(self) {}
}

#[cfg(not(feature = "otel"))]
fn tracing_of(config: &Config) -> Result<(Traces, Option<Exporter>), ServeError> {
    if config.otel.is_some() {
        tracing::warn!("[otel] names a collector, but this build has no traces: it lacks the feature `otel`");
    }
    Ok((Traces::default(), None))
}

/// Takes as many open files as the system gives: a shell's default of 1024 is fewer than the connections meant to be held.
fn open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Waits for open requests; a second signal cuts the wait short.
async fn drain(jobs: &JobTable, timeout: Duration, signals: &mut StopSignals) {
    tokio::select! {
        _ = jobs.drained(timeout) => {}
        () = signals.next() => tracing::warn!("second signal: not waiting any longer"),
    }
}

/// Lets each connection in as the configuration in force says.
fn door(live: &LiveConfig, tls: bool) -> impl Fn() -> Door + use<> {
    let live = live.clone();
    move || {
        let server = &live.load().server;
        let tls = server.tls.as_ref().filter(|_| tls).map(|identity| Arc::clone(&identity.server));
        Door { limits: (&server.edge).into(), tls }
    }
}

async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { key, address, source })
}

/// The address really bound: differs from the configured one for port 0.
fn local(listener: &TcpListener, configured: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(configured)
}

fn install_metrics() -> Result<PrometheusHandle, ServeError> {
    let builder = observe::buckets().try_fold(PrometheusBuilder::new(), |builder, (name, buckets)| {
        builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)
    })?;
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::warn!("a metrics recorder is installed already");
    }
    observe::begin(env!("CARGO_PKG_VERSION"));
    Ok(handle)
}

async fn upkeep(metrics: PrometheusHandle, jobs: JobTable) {
    let mut ticks = tokio::time::interval(UPKEEP);
    let (mut rush, mut admitted) = (Rush::default(), 0);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
        let totals = jobs.totals();
        if rush.is_over(jobs.running(), totals.admitted - admitted) {
            tidy::ask();
        }
        admitted = totals.admitted;
    }
}

/// The engine beside this executable (or one folder up, where test binaries live).
pub(crate) fn find_engine() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("own path unknown: {error}"))?;
    let folders = own.ancestors().skip(1).take(2);
    let mut candidates = folders.map(|folder| folder.join("spillway-engine"));
    candidates.find(|path| path.is_file()).ok_or_else(|| {
        let folder = own.parent().map_or_else(|| ".".into(), |folder| folder.display().to_string());
        format!("spillway-engine is not in {folder}; build it with `make build` or set engine_path in [[local]]")
    })
}

/// SIGTERM and SIGINT. Caught from its creation on, so it is made before anyone is told that the process serves.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// # Errors
    /// The signals cannot be caught.
    pub fn catch() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Resolves at the next of either.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn greet(config: &Config, keys: &Keys, api: SocketAddr, admin: SocketAddr) {
    let tls = config.server.tls.is_some();
    let scheme = if tls { "https" } else { "http" };
    let admin_scheme = if tls && !admin.ip().is_loopback() { "https" } else { "http" };
    say(&format!("spillway serves {scheme}://{api}/v1 · admin and metrics on {admin_scheme}://{admin}"));
    if !config.clouds.iter().any(|cloud| cloud.is_usable()) {
        say(&"no cloud provider has a key: serving every tier locally");
    }
    let required = config.server.require_keys;
    if required && keys.all().is_empty() {
        say(&"API keys are required and there is none yet: KEY=$(spillway keys create --name NAME)");
    }
    let key = if required { "-H \"authorization: Bearer $KEY\" " } else { "" };
    say(&"try:");
    say(&format!(
        "  curl {scheme}://{api}/v1/chat/completions {key}-H 'content-type: application/json' \
         -d '{{\"messages\":[{{\"role\":\"user\",\"content\":\"Say hello\"}}]}}'"
    ));
    say(&format!("console: {admin_scheme}://{admin}/console · status: {admin_scheme}://{admin}/admin/status"));
}
