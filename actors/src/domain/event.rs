//! What a target says while it answers, in one form for the local engine and every provider.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One step of an answer. Order: any number of `Delta`, one `Finish` per choice, at most one `Usage`.
#[derive(Debug, Clone, PartialEq)]
pub enum GenerationEvent {
    Delta(Delta),
    /// `reason` is OpenAI's `finish_reason` ("stop", "length", "tool_calls", "content_filter", …).
    Finish {
        choice: u32,
        reason: String,
    },
    Usage(TokenUsage),
}

/// A piece of one choice.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Delta {
    pub choice: u32,
    /// Text to append; `None` when the delta carries only other fields.
    pub content: Option<String>,
    /// Every other field of a provider's delta (tool_calls, reasoning_content, refusal, …), passed through.
    pub other: Map<String, Value>,
    pub logprobs: Option<Value>,
    /// Token ids behind `content` (local engine only), for replay after an engine death.
    pub tokens: Vec<i32>,
}

impl Delta {
    /// Whether a client would notice this delta.
    pub fn is_visible(&self) -> bool {
        self.content.as_deref().is_some_and(|text| !text.is_empty())
            || !self.other.is_empty()
            || self.logprobs.is_some()
    }
}

/// What a provider says of the software and the tier that made its answer: the same in all of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imprint {
    pub system_fingerprint: Option<Box<str>>,
    pub service_tier: Option<Box<str>>,
}

impl Imprint {
    pub fn is_empty(&self) -> bool {
        self.system_fingerprint.is_none() && self.service_tier.is_none()
    }

    /// By their names in an answer.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let named = [("service_tier", &self.service_tier), ("system_fingerprint", &self.system_fingerprint)];
        named.into_iter().filter_map(|(name, said)| said.as_deref().map(|said| (name, said)))
    }
}

/// Token counts of one attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUsage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Part of `prompt_tokens` that came from a cache.
    pub cached_tokens: u64,
    /// Part of `prompt_tokens` that was written into a provider's cache, at a price of its own. Decides the cost and is not
    /// kept beyond it.
    #[serde(skip)]
    pub written_tokens: u64,
    /// Part of `completion_tokens` that was thought, not said. Told to the client and not kept.
    #[serde(skip)]
    pub reasoning_tokens: u64,
    /// Counted by us because the provider sent none.
    pub estimated: bool,
}
