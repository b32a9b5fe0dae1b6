//! Resolved configuration: types that cannot be invalid. `raw` mirrors the file, `resolve` turns one into the other and
//! reports every fault at once with its place. Nothing here reads a file or the environment: the caller passes text in.

mod catalogue;
mod edge;
mod fault;
mod live;
mod raw;
mod resolve;
mod section;
mod source;
mod sources;
#[cfg(test)]
mod tests;

pub use catalogue::{Capability, Catalogue, CatalogueModel};
pub use edge::{CorsOrigins, EdgeConfig, TlsIdentity};
pub use fault::{ConfigFaults, Fault, Place, Warning};
pub use live::{LiveConfig, in_force};
pub use resolve::load;
pub use source::{BadSource, Source, is_loopback};
pub use sources::{BUILT_IN, DemoCloud, ReadFile, Sources, default_cache_dir};

use crate::classify::Cuts;
use crate::domain::{
    BudgetLimits, Complexity, ModelName, NanoUsd, Needs, OverrideValue, Premises, Price, Rope, Sampling, TargetName,
};
use crate::gguf::KvType;
use secrecy::{ExposeSecret, SecretString};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

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
    /// The file to load; empty for a server. Need not exist: the target is then Down with that cause.
    pub model_path: PathBuf,
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

/// One `[[cloud]]` entry. Present even without a key: then `keys` is empty and the provider takes no traffic.
#[derive(Debug, Clone)]
pub struct CloudConfig {
    pub name: TargetName,
    /// Without a trailing slash, e.g. `https://api.holysheep.ai/v1`.
    pub base_url: String,
    pub wire: Wire,
    pub keys: Vec<SecretString>,
    /// Names of the environment variables looked at, for messages.
    pub key_sources: Vec<String>,
    /// CloudActors in the pool, 1 to 64.
    pub actors: usize,
    /// Calls at once over the whole pool.
    pub max_concurrency: usize,
    pub timeouts: CloudTimeouts,
    pub models: Vec<CloudModel>,
    /// Open a connection before the first request needs it.
    pub warm_up: bool,
    /// Serve, by explicit name, what the provider's own list names.
    pub discover_models: bool,
    /// Answers come from a simulated provider and are labelled so.
    pub simulated: bool,
}

impl CloudConfig {
    pub fn is_usable(&self) -> bool {
        !self.keys.is_empty()
    }
}

#[derive(Debug, Clone, Copy)]
pub struct CloudTimeouts {
    pub connect: Duration,
    pub first_byte: Duration,
    /// `None` = off.
    pub first_token: Option<Duration>,
    pub idle: Duration,
}

impl Default for CloudTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            first_byte: Duration::from_secs(10),
            first_token: Some(Duration::from_secs(10)),
            idle: Duration::from_secs(20),
        }
    }
}

#[derive(Debug, Clone)]
pub struct CloudModel {
    pub name: ModelName,
    /// The provider's own id.
    pub upstream: String,
    pub kind: ModelKind,
    pub context_tokens: u32,
    pub prefill: PrefillStyle,
    pub price: Price,
    /// Where the price was read and when.
    pub price_source: String,
    pub price_as_of: String,
    /// Expected time to the first token before any measurement.
    pub typical_latency: Duration,
}

impl CloudModel {
    /// How it is spoken to, at a provider that speaks `provider` otherwise.
    pub fn wire(&self, provider: Wire) -> Wire {
        if self.kind == ModelKind::Completion { Wire::Text } else { provider }
    }
}

/// What a cloud model answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ModelKind {
    #[default]
    Chat,
    /// Text that goes on where a prompt ends, at `POST /completions`; no chats.
    Completion,
    /// Vectors, at `POST /embeddings`.
    Embedding,
}

/// The API a provider speaks; `upstream/wire.rs` says what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wire {
    /// `POST /chat/completions`.
    #[default]
    OpenAi,
    /// `POST /messages`.
    Anthropic,
    /// `POST /completions`, OpenAI's older endpoint: that of single models, never of a whole provider.
    Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrefillStyle {
    #[default]
    None,
    Assistant,
    DeepseekPrefix,
}

/// What becomes of a request that names a model nobody configured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnknownModels {
    #[default]
    Refuse,
    /// It is served as if it had said `auto`.
    Auto,
}

#[derive(Debug, Clone)]
pub struct RouterConfig {
    pub classifier: ClassifierKind,
    pub unknown_models: UnknownModels,
    pub session: SessionConfig,
    pub hedge: HedgeConfig,
    pub cascade: CascadeConfig,
    /// Other names for configured models or `auto`/`local`.
    pub aliases: BTreeMap<String, String>,
    rules: [Rule; 4],
}

impl RouterConfig {
    pub fn new(classifier: ClassifierKind, aliases: BTreeMap<String, String>, rules: [Rule; 4]) -> Self {
        let (unknown_models, session, hedge, cascade) = Default::default();
        Self { classifier, unknown_models, session, hedge, cascade, aliases, rules }
    }

    pub fn rule(&self, complexity: Complexity) -> &Rule {
        let [trivial, moderate, complex, premium] = &self.rules;
        match complexity {
            Complexity::Trivial => trivial,
            Complexity::Moderate => moderate,
            Complexity::Complex => complex,
            Complexity::Premium => premium,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ClassifierKind {
    /// The published rule.
    Keywords,
    /// Trained weights, graded at these cut points.
    Learned(Cuts),
}

/// `[router.session]`: what is remembered of conversations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionConfig {
    /// Silence after which a conversation is forgotten.
    pub ttl: Duration,
    /// Conversations remembered at once; 0 = none.
    pub max_sessions: usize,
    /// How much longer a conversation may wait for the target that holds its cache.
    pub max_queue_gap: Duration,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(600), max_sessions: 10_000, max_queue_gap: Duration::from_millis(500) }
    }
}

/// `[router.hedge]`: a second attempt in the cloud beside a local one whose first token is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HedgeConfig {
    pub enabled: bool,
    /// How late.
    pub after: Duration,
    /// What all of them together may cost.
    pub max_per_hour: NanoUsd,
}

impl Default for HedgeConfig {
    fn default() -> Self {
        Self { enabled: false, after: Duration::from_millis(500), max_per_hour: NanoUsd::new(100_000_000) }
    }
}

/// `[router.cascade]`: a poor local answer that nobody has seen goes one tier up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CascadeConfig {
    pub enabled: bool,
    /// A local answer whose tokens' mean log-probability is lower is poor; `None` = not looked at.
    pub min_mean_logprob: Option<f32>,
    /// Tokens of a stream that wait until its beginning has been judged.
    pub hold_back_tokens: u32,
}

impl Default for CascadeConfig {
    fn default() -> Self {
        Self { enabled: false, min_mean_logprob: None, hold_back_tokens: 24 }
    }
}

/// One `[router.rules.*]` table. Names are resolved: every one is a local target, `local` (any of them) or a cloud model.
#[derive(Debug, Clone)]
pub struct Rule {
    pub prefer: Vec<RuleTarget>,
    pub fallback: Vec<RuleTarget>,
    pub max_latency: Duration,
    /// Whether the operator set `max_latency_ms`; if not, a local target on the CPU uses `max_latency_cpu`.
    pub max_latency_is_default: bool,
    pub max_latency_cpu: Duration,
    /// Load of a local target from which a cloud one is better; 1 = all its places taken.
    pub spill_load: f64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleTarget {
    AnyLocal,
    Local(TargetName),
    Model(ModelName),
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

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SupervisionConfig {
    pub gpu: EngineRestart,
    pub actors: ActorRestart,
}

/// `[supervision.gpu]`: deaths of engine children.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineRestart {
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// Healthy time after which the backoff starts over.
    pub reset_after: Duration,
    /// Deaths before the first passed canary, inside `failed_starts_window`, that quarantine.
    pub max_failed_starts: u32,
    pub failed_starts_window: Duration,
    /// Deaths of any kind inside `deaths_window` that quarantine.
    pub max_deaths: u32,
    pub deaths_window: Duration,
    /// First probe of a quarantined GPU, doubling to `probe_max`.
    pub probe_min: Duration,
    pub probe_max: Duration,
}

impl Default for EngineRestart {
    fn default() -> Self {
        Self {
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(10),
            reset_after: Duration::from_secs(300),
            max_failed_starts: 5,
            failed_starts_window: Duration::from_secs(60),
            max_deaths: 20,
            deaths_window: Duration::from_secs(600),
            probe_min: Duration::from_secs(15),
            probe_max: Duration::from_secs(300),
        }
    }
}

/// `[supervision.actors]`: deaths of actors, each child counted by its supervisor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActorRestart {
    /// More deaths than this inside `window` spend the supervisor's budget.
    pub max_deaths: u32,
    pub window: Duration,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
}

impl Default for ActorRestart {
    fn default() -> Self {
        Self {
            max_deaths: 5,
            window: Duration::from_secs(10),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
        }
    }
}
