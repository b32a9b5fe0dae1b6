//! Resolved configuration: types that cannot be invalid. `raw` mirrors the file, `resolve` turns one into the other and
//! reports every fault at once with its place. Nothing here reads a file or the environment: the caller passes text in.

mod catalogue;
mod cloud;
mod edge;
mod fault;
mod live;
mod otel;
mod raw;
mod resolve;
mod router;
mod schema;
mod section;
mod source;
mod sources;
mod supervision;
#[cfg(test)]
mod tests;

pub use catalogue::{Capability, Catalogue, CatalogueModel};
pub use cloud::{CloudConfig, CloudModel, CloudTimeouts, LimitField, ModelKind, PrefillStyle, Wire};
pub use edge::{CorsOrigins, EdgeConfig, TlsIdentity};
pub use fault::{ConfigFaults, Fault, Place, Warning};
pub use live::{LiveConfig, in_force};
pub use otel::OtelConfig;
pub use resolve::load;
pub use router::{
    CascadeConfig, ClassifierKind, HedgeConfig, RouterConfig, Rule, RuleTarget, SessionConfig, UnknownModels,
};
pub use schema::schema;
pub use source::{BadSource, Source, is_loopback};
pub use sources::{BUILT_IN, DemoCloud, ReadFile, Sources, default_cache_dir};
pub use supervision::{ActorRestart, EngineRestart, SupervisionConfig};

use crate::domain::{
    BudgetLimits, ModelName, NanoUsd, Needs, OverrideValue, Premises, Rope, Sampling, Simulation, TargetName,
};
use crate::gguf::KvType;
use secrecy::{ExposeSecret, SecretString};
use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

/// Everything a run of the gateway needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    pub server: ServerConfig,
    pub keys: KeysConfig,
    pub locals: Vec<Arc<LocalConfig>>,
    pub clouds: Vec<Arc<CloudConfig>>,
    pub router: RouterConfig,
    pub supervision: SupervisionConfig,
    pub ledger: LedgerConfig,
    pub energy: EnergyConfig,
    /// `None` = dollars only.
    pub currency: Option<CurrencyConfig>,
    pub health: HealthConfig,
    /// `None`: nothing is traced.
    pub otel: Option<OtelConfig>,
    pub chaos_enabled: bool,
    /// Models by name.
    pub catalogue: Catalogue,
    /// Where models are kept, under `models/`.
    pub cache_dir: PathBuf,
}

impl Config {
    /// Every name that a request may use by configuration, reserved words and aliases included.
    pub fn names(&self) -> BTreeSet<String> {
        let locals = self.locals.iter().flat_map(|local| [local.name.to_string(), local.model.to_string()]);
        let clouds = self.clouds.iter().flat_map(|cloud| &cloud.models).map(|model| model.name.to_string());
        let aliases = self.router.aliases.keys().cloned();
        ["auto", "local"].map(str::to_owned).into_iter().chain(locals).chain(clouds).chain(aliases).collect()
    }
}

#[cfg(test)]
impl Config {
    /// The built-in configuration: what tests start from.
    pub(crate) fn built_in() -> Self {
        load(&Sources::default(), &|_| Err(std::io::ErrorKind::NotFound.into())).expect("it is good").0
    }
}

#[derive(Debug, Clone)]
pub struct ServerConfig {
    pub listen: SocketAddr,
    pub admin_listen: SocketAddr,
    /// Requests admitted at once; the next one is refused with 429.
    pub max_inflight: usize,
    /// Fewer while the gateway itself is what requests wait for.
    pub adaptive_admission: bool,
    pub max_body_bytes: usize,
    /// Without a key nothing is served.
    pub require_keys: bool,
    pub admin_token: Option<SecretString>,
    /// Values accepted in the `Host` header of the admin listener, without port.
    pub admin_hosts: Vec<String>,
    /// A request older than this ends in a timeout.
    pub request_timeout: Duration,
    /// How long SIGTERM waits for open requests.
    pub drain_timeout: Duration,
    /// Comment frames keep an idle SSE stream open; `None` = off.
    pub keep_alive: Option<Duration>,
    /// What connections may cost.
    pub edge: EdgeConfig,
    pub cors: CorsOrigins,
    /// `None` = plain HTTP.
    pub tls: Option<TlsIdentity>,
    /// How often files are looked at for changes; `None` = never.
    pub reload_poll: Option<Duration>,
}

/// `[keys]`: where API keys are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysConfig {
    /// Need not exist: then there are no keys yet.
    pub file: PathBuf,
    pub pepper: PepperSource,
}

/// What digests of keys are keyed with.
#[derive(Debug, Clone)]
pub enum PepperSource {
    Text(SecretString),
    /// Made with the first key if it does not exist.
    File(PathBuf),
}

impl PartialEq for PepperSource {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(one), Self::Text(other)) => one.expose_secret() == other.expose_secret(),
            (Self::File(one), Self::File(other)) => one == other,
            _ => false,
        }
    }
}

impl Eq for PepperSource {}

/// One `[[local]]` entry.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalConfig {
    pub name: TargetName,
    /// What clients may call the model.
    pub model: ModelName,
    /// The file to load; empty for a server. Need not exist: the target is then Down with that cause. Of a simulation its
    /// own words.
    pub model_path: PathBuf,
    /// There is no model: the engine plays this. Only with `[chaos] enabled`.
    pub simulation: Option<Simulation>,
    /// `engine = "http"`: a server that was started by somebody else. `None`: our own engine child.
    pub server: Option<LocalServer>,
    pub engine_path: Option<PathBuf>,
    /// `None` = auto; `Some("cpu")`; or a device index or UUID as text.
    pub gpu: Option<String>,
    /// Index or UUID of the device whose health counts for this target; `None` = the one it runs on.
    pub health_gpu: Option<String>,
    /// `None` = as many as fit.
    pub gpu_layers: Option<u32>,
    pub context_tokens: u32,
    /// `None` = all of `context_tokens`.
    pub max_request_tokens: Option<u32>,
    /// Leases at once, 1 to 256.
    pub parallel: u32,
    /// `None` = the engine measures.
    pub threads: Option<u32>,
    pub use_mmap: bool,
    pub use_mlock: bool,
    /// Most tokens of one text that becomes a vector; `None` = it makes none.
    pub embedding_tokens: Option<u32>,
    pub options: LoadOptions,
    /// Smaller quantisations of the same model, the largest first; they need not exist.
    pub smaller_models: Vec<PathBuf>,
    /// What `spillway models pull` gets this model by; `None` for a file of the operator's own.
    pub pull: Option<String>,
    /// Where the model is named, for faults found later.
    pub model_place: Place,
    pub defaults: LocalDefaults,
}

/// How an engine loads its model.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadOptions {
    /// Most tokens of one decode; `None` = by device.
    pub batch_tokens: Option<u32>,
    /// Most tokens computed at once.
    pub ubatch_tokens: u32,
    pub kv_type_k: KvType,
    pub kv_type_v: KvType,
    pub rope: Rope,
    /// Facts of the model file that are replaced.
    pub overrides: Vec<(String, OverrideValue)>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            batch_tokens: None,
            ubatch_tokens: 512,
            kv_type_k: KvType::F16,
            kv_type_v: KvType::F16,
            rope: Rope::default(),
            overrides: Vec::new(),
        }
    }
}

#[cfg(test)]
impl LocalConfig {
    /// A target without a file: what tests start from.
    pub(crate) fn tiny(parallel: u32) -> Self {
        Self {
            name: "local".into(),
            model: "tiny".into(),
            model_path: "/nonexistent.gguf".into(),
            simulation: None,
            server: None,
            engine_path: None,
            gpu: None,
            health_gpu: None,
            gpu_layers: None,
            context_tokens: 4096,
            max_request_tokens: None,
            parallel,
            threads: None,
            use_mmap: true,
            use_mlock: false,
            embedding_tokens: Some(2048),
            options: LoadOptions::default(),
            smaller_models: Vec::new(),
            pull: None,
            model_place: Place::default(),
            defaults: LocalDefaults::default(),
        }
    }
}

/// An inference server on the operator's machines that speaks OpenAI's API.
#[derive(Debug, Clone)]
pub struct LocalServer {
    /// Without a trailing slash, e.g. `http://127.0.0.1:8000/v1`.
    pub base_url: String,
    /// The server's own id of the model; `None` = the target's model, or the only one the server lists.
    pub upstream: Option<String>,
    pub key: Option<SecretString>,
    /// Whether what must stay local may go there.
    pub premises: Premises,
    /// How it goes on with an answer that broke off, if it does.
    pub prefill: PrefillStyle,
    pub offers: Needs,
    pub timeouts: LocalServerTimeouts,
}

impl PartialEq for LocalServer {
    fn eq(&self, other: &Self) -> bool {
        let Self { base_url, upstream, key, premises, prefill, offers, timeouts } = self;
        let text = |key: &Option<SecretString>| key.as_ref().map(|key| key.expose_secret().to_owned());
        text(key) == text(&other.key)
            && (base_url, upstream, premises) == (&other.base_url, &other.upstream, &other.premises)
            && (prefill, offers, timeouts) == (&other.prefill, &other.offers, &other.timeouts)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalServerTimeouts {
    /// To the first token, queue and prompt of the server included.
    pub first_token: Duration,
    /// Silence inside a stream.
    pub idle: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LocalDefaults {
    pub sampling: Sampling,
    /// Output tokens when the request names none.
    pub max_tokens: u32,
    /// Cap on what a request may name.
    pub max_output_tokens: u32,
    /// Stop strings of `/v1/completions` requests without `stop`.
    pub completion_stop: Vec<String>,
}

impl Default for LocalDefaults {
    fn default() -> Self {
        Self {
            sampling: Sampling::default(),
            max_tokens: 1024,
            max_output_tokens: 2048,
            completion_stop: vec!["</s>".into(), "USER:".into(), "\n\n\n".into()],
        }
    }
}

#[derive(Debug, Clone)]
pub struct LedgerConfig {
    pub place: LedgerPlace,
    /// `None`: a ledger in memory has no journal.
    pub journal_dir: Option<PathBuf>,
    /// A journal this large takes no reservation until the database has caught up.
    pub max_journal_bytes: u64,
    /// Rows are kept for so long; `None` = for ever.
    pub retention: Option<Duration>,
    /// What all requests together may cost.
    pub budget: BudgetLimits,
    /// Output cap of a paid request without max_tokens, in tokens.
    pub default_output_tokens: u32,
    /// Model whose price "saved cost" is measured against.
    pub baseline: Option<ModelName>,
}

/// Where rows end up.
#[derive(Debug, Clone)]
pub enum LedgerPlace {
    Memory,
    Sqlite(PathBuf),
    /// The address may hold a password.
    Postgres(SecretString),
}

impl PartialEq for LedgerPlace {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Memory, Self::Memory) => true,
            (Self::Sqlite(one), Self::Sqlite(other)) => one == other,
            (Self::Postgres(one), Self::Postgres(other)) => one.expose_secret() == other.expose_secret(),
            _ => false,
        }
    }
}

/// `[energy]`: what local answers cost the operator's household, beside what providers bill.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EnergyConfig {
    /// Draw of a busy local target whose card does not tell; 0 = not known.
    pub local_watts: f64,
    /// In USD; zero = not known.
    pub usd_per_kwh: NanoUsd,
}

/// `[currency]`: what the dollars of the price list are paid in.
#[derive(Debug, Clone, PartialEq)]
pub struct CurrencyConfig {
    pub code: String,
    /// What the provider bills for one dollar of list price.
    pub billed_per_usd: f64,
    /// What a dollar costs elsewhere.
    pub market_per_usd: f64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthConfig {
    pub interval: Duration,
    pub timeout: Duration,
    /// `None` = off.
    pub canary_interval: Option<Duration>,
    /// `None` = off.
    pub provider_probe: Option<Duration>,
    /// How long requests on a card that turned bad may go on.
    pub drain: Duration,
    /// When a card that turned bad is tried again.
    pub bad_gpu_retry: Duration,
    pub strain: StrainLimits,
    /// `None` = the system's libnvidia-ml.
    pub nvml_library: Option<PathBuf>,
}

/// From where on a card is left alone, and where that ends: °C and percent of its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StrainLimits {
    pub heat_enter: u32,
    pub heat_leave: u32,
    pub memory_enter: u32,
    pub memory_leave: u32,
}

impl Default for StrainLimits {
    fn default() -> Self {
        Self { heat_enter: 88, heat_leave: 83, memory_enter: 97, memory_leave: 93 }
    }
}
