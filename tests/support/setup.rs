//! What a test's gateway is configured with. The file is written anew for each gateway and goes with it.

use super::{
    client::Client,
    cloud::{Cloud, key},
    gateway::Gateway,
};
use spillway::sim::SimOptions;
use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// Name of the variable that holds the provider's key.
pub const KEY_VAR: &str = "SPILLWAY_TEST_CLOUD_KEY";
/// The default model, by its catalogue name.
pub const MODEL: &str = "smollm2-135m";

/// Built step by step, then started.
#[derive(Debug, Clone)]
pub struct Setup {
    pub listen: String,
    pub model: String,
    pub parallel: u32,
    pub context_tokens: u32,
    pub cloud: Option<SimOptions>,
    /// Which wire format the provider is spoken to in.
    pub wire: &'static str,
    pub drain_timeout: Duration,
    pub request_timeout: Duration,
    /// Bound on the expected wait for the local target; generous, so that tests decide what goes where.
    pub max_latency: Duration,
    pub max_inflight: u32,
    /// Off but for tests about it: a machine that is busy with other tests is not what a test is about.
    pub adaptive_admission: bool,
    /// More lines of the server's table.
    pub server: String,
    /// Whether there is a local target.
    pub local: bool,
    /// Keys of the provider `sim`, the first of them [`KEY`].
    pub keys: usize,
    /// More lines of the provider `sim`.
    pub provider: String,
    /// More lines of its model `ok`.
    pub ok: String,
    /// A second provider, `backup`, with the one model `spare`; hard requests fall back to it.
    pub backup: Option<SimOptions>,
    /// More lines of the model `spare`.
    pub spare: String,
    /// More lines of the local target's table.
    pub local_extra: String,
    /// Lines of the table `[ledger]`.
    pub ledger: String,
    /// More lines of configuration, whole tables.
    pub extra: String,
    /// More variables of the gateway's environment.
    pub vars: Vec<(String, String)>,
    /// Goes to SPILLWAY_LOG.
    pub log: String,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:0".to_owned(),
            model: MODEL.to_owned(),
            parallel: 4,
            context_tokens: 2048,
            cloud: Some(SimOptions { tokens: 24, ..SimOptions::default() }),
            wire: "openai",
            drain_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(60),
            max_latency: Duration::from_secs(60),
            max_inflight: 64,
            adaptive_admission: false,
            server: String::new(),
            local: true,
            keys: 1,
            provider: String::new(),
            ok: String::new(),
            backup: None,
            spare: String::new(),
            local_extra: String::new(),
            ledger: "url = \"memory:\"\n".to_owned(),
            extra: String::new(),
            vars: Vec::new(),
            log: "info".to_owned(),
        }
    }
}

impl Setup {
    pub fn parallel(self, parallel: u32) -> Self {
        Self { parallel, ..self }
    }

    pub fn model(self, model: impl Into<String>) -> Self {
        Self { model: model.into(), ..self }
    }

    pub fn without_cloud(self) -> Self {
        Self { cloud: None, ..self }
    }

    pub fn cloud(self, options: SimOptions) -> Self {
        Self { cloud: Some(options), ..self }
    }

    pub fn without_local(self) -> Self {
        Self { local: false, ..self }
    }

    /// More lines of the server's table.
    pub fn server(self, lines: &str) -> Self {
        Self { server: lines.to_owned(), ..self }
    }

    pub fn backup(self, options: SimOptions) -> Self {
        Self { backup: Some(options), ..self }
    }

    pub fn keys(self, keys: usize) -> Self {
        Self { keys, ..self }
    }

    /// More lines of the provider `sim`.
    pub fn provider(self, lines: &str) -> Self {
        Self { provider: lines.to_owned(), ..self }
    }

    pub fn drain_timeout(self, drain_timeout: Duration) -> Self {
        Self { drain_timeout, ..self }
    }

    /// Lines of the table `[ledger]`.
    pub fn ledger(self, lines: impl Into<String>) -> Self {
        Self { ledger: lines.into(), ..self }
    }

    /// A ledger in a file of this folder.
    pub fn ledger_in(self, folder: &Path) -> Self {
        self.ledger(format!("url = \"sqlite:{}/ledger.db\"\n", folder.display()))
    }

    pub fn extra(self, extra: &str) -> Self {
        Self { extra: extra.to_owned(), ..self }
    }

    /// A gateway whose API answers and whose local target serves.
    pub async fn warm(self) -> Gateway {
        let gateway = self.start().await;
        gateway.until_serving().await;
        gateway
    }

    /// A gateway whose API answers over TLS, as whoever this certificate (PEM) is of.
    pub async fn start_tls(self, cert: &str) -> Gateway {
        self.start_for(Client::trusting(cert)).await
    }

    /// A gateway whose API answers; its model may still be loading.
    pub async fn start(self) -> Gateway {
        self.start_for(Client::new()).await
    }

    async fn start_for(self, client: Client) -> Gateway {
        let cloud = match &self.cloud {
            Some(options) => Some(Cloud::start(options.clone()).await),
            None => None,
        };
        let backup = match &self.backup {
            Some(options) => Some(Cloud::start(options.clone()).await),
            None => None,
        };
        Gateway::start_for(&self, cloud, backup, client).await
    }

    /// The file's text.
    pub fn text(&self, cloud: Option<&Cloud>, backup: Option<&Cloud>) -> String {
        let mut text = self.server_and_local();
        match cloud {
            None => text.insert_str(0, "cloud = []\n"),
            Some(cloud) => self.providers(&mut text, cloud, backup),
        }
        self.rules(&mut text, cloud.is_some());
        let baseline = if self.ledger.contains("baseline_model") { "" } else { "baseline_model = \"\"\n" };
        let _ = writeln!(text, "[ledger]\n{baseline}{}\n[chaos]\nenabled = true\n", self.ledger);
        text.push_str(&self.extra);
        text
    }

    fn server_and_local(&self) -> String {
        let mut text = String::new();
        let (drain, request) = (self.drain_timeout.as_millis(), self.request_timeout.as_millis());
        let _ = writeln!(
            text,
            "[server]\nlisten = \"{}\"\nadmin_listen = \"127.0.0.1:0\"\nmax_inflight = {}\n\
             adaptive_admission = {}\nrequest_timeout_ms = {request}\ndrain_timeout_ms = {drain}\n{}",
            self.listen, self.max_inflight, self.adaptive_admission, self.server
        );
        if self.local {
            let _ = writeln!(
                text,
                "[[local]]\nname = \"local\"\nmodel = \"{}\"\ngpu = \"cpu\"\ncontext_tokens = {}\nparallel = {}\n{}\n",
                self.model, self.context_tokens, self.parallel, self.local_extra
            );
        } else {
            text.insert_str(0, "local = []\n");
        }
        text
    }

    fn providers(&self, text: &mut String, cloud: &Cloud, backup: Option<&Cloud>) {
        let keys: Vec<String> = (0..self.keys).map(|key| format!("\"{}\"", key_var(key))).collect();
        let _ = writeln!(
            text,
            "[[cloud]]\nname = \"sim\"\nbase_url = \"{}\"\napi_keys_env = [{}]\nactors = 2\nwire = \"{}\"\n{}",
            cloud.base_url(),
            keys.join(", "),
            self.wire,
            self.provider
        );
        model(text, "ok", "0.42", &self.ok);
        model(text, "other", "8.00", "");
        if let Some(backup) = backup {
            let _ = writeln!(
                text,
                "[[cloud]]\nname = \"backup\"\nbase_url = \"{}\"\napi_keys_env = [\"{KEY_VAR}\"]\nactors = 2\n{}",
                backup.base_url(),
                self.provider
            );
            model(text, "spare", "2.50", &self.spare);
        }
    }

    fn rules(&self, text: &mut String, has_cloud: bool) {
        let ms = self.max_latency.as_millis();
        let cloud = if has_cloud { "\"ok\"" } else { "" };
        let fallback = match (&self.backup, has_cloud) {
            (_, false) => "",
            (Some(_), true) => "\"spare\"",
            (None, true) => "\"other\"",
        };
        let easy = if self.local { ("\"local\"", cloud) } else { (cloud, fallback) };
        let hard = if has_cloud { (cloud, fallback) } else { ("\"local\"", "") };
        // Tests choose a grade by a word of the published rule.
        text.push_str("[router]\nclassifier = \"keywords\"\n\n");
        for (tier, (prefer, fallback)) in [("trivial", easy), ("moderate", easy), ("complex", hard), ("premium", hard)]
        {
            let _ = writeln!(
                text,
                "[router.rules.{tier}]\nprefer = [{prefer}]\nfallback = [{fallback}]\nmax_latency_ms = {ms}\n"
            );
        }
    }

    /// Variables of the gateway's environment.
    pub fn env(&self) -> Vec<(String, String)> {
        // The first backtrace of a process reads all its debug information, which would drown what memory is measured.
        let no_backtrace = ("RUST_BACKTRACE".to_owned(), "0".to_owned());
        let mut env = vec![("SPILLWAY_LOG".to_owned(), self.log.clone()), no_backtrace];
        env.extend((0..self.keys).map(|number| (key_var(number), key(number))));
        env.extend(self.vars.iter().cloned());
        env
    }
}

fn key_var(number: usize) -> String {
    if number == 0 { KEY_VAR.to_owned() } else { format!("{KEY_VAR}_{number}") }
}

fn model(text: &mut String, name: &str, price: &str, more: &str) {
    let _ = writeln!(
        text,
        "[[cloud.models]]\nname = \"{name}\"\ninput_usd_per_mtok = {price}\noutput_usd_per_mtok = {price}\n\
         source = \"none: simulated\"\nas_of = \"2026-11-23\"\ntypical_latency_ms = 5\n{more}"
    );
}

/// A folder that goes with its value.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("spillway-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).expect("the temporary folder takes files");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Where `make model` puts the default model.
pub fn model_path() -> PathBuf {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = var("SPILLWAY_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|cache| cache.join("spillway")))
        .or_else(|| var("HOME").map(|home| home.join(".cache/spillway")))
        .expect("a home folder");
    let path = cache.join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(path.is_file(), "{} is missing: run `make model`", path.display());
    path
}
