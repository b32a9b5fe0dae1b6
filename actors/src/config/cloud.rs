//! `[[cloud]]`, resolved: a provider, its keys, its models and their prices.

use crate::domain::{ModelName, Price, TargetName};
use secrecy::SecretString;
use std::time::Duration;

/// One `[[cloud]]` entry. Present even without a key: then `keys` is empty and the provider takes no traffic.
#[derive(Debug, Clone)]
pub struct CloudConfig {
    pub name: TargetName,
    /// Without a trailing slash, e.g. `https://api.holysheep.ai/v1`.
    pub base_url: String,
    pub wire: Wire,
    /// How it is told the longest answer, where the client has not named the field itself.
    pub limit_field: LimitField,
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

/// The name of the field that bounds an answer. The old one is understood nearly everywhere, but OpenAI's models that think
/// refuse it, and other servers do not know the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LimitField {
    #[default]
    MaxTokens,
    MaxCompletionTokens,
}

impl LimitField {
    pub const fn name(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrefillStyle {
    #[default]
    None,
    Assistant,
    DeepseekPrefix,
}
