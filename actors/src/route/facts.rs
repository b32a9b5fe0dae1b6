//! What a plan is made from: targets as they are now, who asks, and what is left to spend. Data only; `fleet` reads it
//! from its owners, the gates and the policy judge it.

use super::session::Recalled;
use crate::{
    classify::Classification,
    cloud::CloudView,
    config::{PrefillStyle, RouterConfig, Wire},
    domain::{ChatRequest, ModelName, NanoUsd, Needs, Premises, Price, RequestKind, TargetName, Unmet},
    gpu::{SlotView, poison::Verdict, slot::SlotStats},
    jobs::{Progress, TargetKey},
    ledger::{Bound, Purchasing},
};
use std::time::Duration;

/// What a target can do beside plain text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    pub offers: Needs,
    /// Token ids mean something to the local tokenizer only.
    pub token_prompts: bool,
    /// Writes text.
    pub generates: bool,
    /// Takes the messages of a chat, not only a text that goes on.
    pub chats: bool,
    /// Does not read again what it has read of a conversation.
    pub prefix_cache: bool,
    /// Schemas are obeyed by a grammar of ours, so those that no grammar stands for are not.
    pub own_grammar: bool,
}

impl Abilities {
    /// What our own engine does: as many answers of text as are wanted, or token ids of its own tokenizer; tools and schemas
    /// by grammar.
    pub const LOCAL: Self = Self {
        offers: Needs {
            tools: true,
            response_format: true,
            logprobs: true,
            logit_bias: true,
            several_choices: true,
            batch: true,
            best_of: true,
            echo: true,
            ..Needs::NONE
        },
        token_prompts: true,
        generates: true,
        chats: true,
        prefix_cache: false,
        own_grammar: true,
    };
    /// A server of the operator's, of whose tokenizer only its own vectors know, with what its configuration says it can do.
    pub const fn of_server(offers: Needs) -> Self {
        Self { offers, ..Self::CLOUD }
    }

    /// Everything that a chat may ask but token ids: what a model refuses, its provider says.
    pub const CLOUD: Self = Self {
        offers: Needs::OF_CHAT,
        token_prompts: false,
        generates: true,
        chats: true,
        prefix_cache: true,
        own_grammar: false,
    };
    /// Everything that a text completion may ask but token ids: nobody knows whose they are.
    pub const CLOUD_COMPLETION: Self = Self {
        offers: Needs {
            logprobs: true,
            logit_bias: true,
            several_choices: true,
            batch: true,
            best_of: true,
            echo: true,
            suffix: true,
            ..Needs::NONE
        },
        chats: false,
        ..Self::CLOUD
    };
    /// Vectors, of texts or of token ids of its own tokenizer.
    pub const CLOUD_EMBEDDING: Self = Self {
        offers: Needs { embeddings: true, dimensions: true, ..Needs::NONE },
        token_prompts: true,
        generates: false,
        chats: false,
        prefix_cache: false,
        own_grammar: false,
    };

    pub fn missing(self, needs: Needs) -> Needs {
        needs.without(self.offers)
    }

    /// What keeps the request from a target that offers all it needs.
    pub fn unmet(self, request: &ChatRequest) -> Option<&Unmet> {
        request.output.unmet.as_ref().filter(|_| self.own_grammar)
    }

    pub fn serves(self, request: &ChatRequest) -> bool {
        let reads = self.token_prompts || request.needs.embeddings || !request.has_token_ids();
        let whole = reads && !self.missing(request.needs).any() && self.unmet(request).is_none();
        whole && self.writes(request) && self.hears(request)
    }

    /// Whether it answers with what is wanted, text or vectors.
    pub fn writes(self, request: &ChatRequest) -> bool {
        self.generates || request.needs.embeddings
    }

    /// Whether it takes requests of this kind.
    pub fn hears(self, request: &ChatRequest) -> bool {
        self.chats || request.kind != RequestKind::Chat
    }
}

/// How a target has done lately, as its watchers say. The default knows nothing and changes nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TargetHealth {
    /// Share of recent attempts that landed, 0 to 1; `None` = too few, or too old to say.
    pub success_ratio: Option<f64>,
    /// Works, but should get work only if nothing better is there.
    pub degraded: bool,
    /// Rolling time between two output tokens.
    pub inter_token: Option<Duration>,
}

/// Targets that land fewer attempts than this go behind all that work.
const POOR: f64 = 0.5;

impl TargetHealth {
    pub fn is_poor(self) -> bool {
        self.degraded || self.success_ratio.is_some_and(|ratio| ratio < POOR)
    }

    /// Attempts to expect until one lands, 1 to 10: what a figure of one attempt is multiplied by.
    pub fn penalty(self) -> f64 {
        1.0 / self.success_ratio.unwrap_or(1.0).clamp(0.1, 1.0)
    }
}

/// A local target as it is now.
#[derive(Debug, Clone)]
pub struct LocalFacts {
    pub slot: usize,
    pub name: TargetName,
    pub model: ModelName,
    pub view: SlotView,
    /// What of its measurements is still to be believed; `view.stats` are the last known.
    pub believed: SlotStats,
    /// Requests waiting for it already.
    pub queued: usize,
    /// Most tokens of one request, prompt and output.
    pub window: u64,
    /// Most tokens of one text that becomes a vector.
    pub embedding_window: u64,
    pub default_output: u32,
    pub max_output: u32,
    pub abilities: Abilities,
    /// Whether what must stay local may go there.
    pub premises: Premises,
    /// How it continues an answer from its text, if it does. Our own engine replays tokens instead.
    pub prefill: PrefillStyle,
    pub health: TargetHealth,
}

impl LocalFacts {
    pub fn key(&self) -> TargetKey {
        TargetKey::Gpu { slot: self.slot, epoch: self.view.epoch }
    }

    /// Requests on it and before it, in shares of its places: 1 = all places taken, 2 = as many wait as run.
    pub fn load(&self) -> f64 {
        (self.view.leases + self.queued) as f64 / self.view.parallel.max(1) as f64
    }
}

/// A cloud model as it is now.
#[derive(Debug, Clone)]
pub struct CloudFacts {
    pub provider: usize,
    pub model_index: usize,
    pub provider_name: TargetName,
    pub model: ModelName,
    /// What can be said to it.
    pub wire: Wire,
    pub window: u64,
    pub price: Price,
    /// How it continues an answer that somebody else began, if it does.
    pub prefill: PrefillStyle,
    pub view: CloudView,
    pub abilities: Abilities,
    pub health: TargetHealth,
}

impl CloudFacts {
    pub fn key(&self) -> TargetKey {
        TargetKey::Cloud { provider: self.provider, model: self.model_index }
    }
}

/// Money that may still be spent on this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// What is left of the tightest bound; `None` = unlimited.
    pub bound: Option<Bound>,
    /// A paid attempt can be written down; if not, none may start.
    pub recordable: bool,
}

impl Default for Budget {
    fn default() -> Self {
        Self { bound: None, recordable: true }
    }
}

impl From<Purchasing> for Budget {
    fn from(Purchasing { bound, recordable }: Purchasing) -> Self {
        Self { bound, recordable }
    }
}

impl Budget {
    /// Whether an attempt of this expected cost may start. What is free may always; nothing paid may when nothing is left.
    pub fn covers(self, cost: NanoUsd, is_free: bool) -> bool {
        is_free || self.bound.is_none_or(|bound| bound.covers(cost))
    }
}

/// Everything a plan is made from besides the request.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    pub locals: &'a [LocalFacts],
    pub clouds: &'a [CloudFacts],
    pub router: &'a RouterConfig,
    /// Output cap of a paid request without max_tokens.
    pub default_output: u32,
    pub budget: Budget,
}

/// What is asked, by whom, and what is known of the conversation.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub request: &'a ChatRequest,
    pub grade: &'a Classification,
    pub progress: &'a Progress,
    pub recalled: Recalled,
    /// Until the request's deadline; `None` = not known.
    pub time_left: Option<Duration>,
    /// Whether engines die of it.
    pub verdict: Verdict,
}

impl<'a> Ask<'a> {
    /// A request of an unknown conversation.
    pub const fn new(request: &'a ChatRequest, grade: &'a Classification, progress: &'a Progress) -> Self {
        Self { request, grade, progress, recalled: Recalled::NOTHING, time_left: None, verdict: Verdict::Free }
    }

    /// Whether the request's key may use this target; without a key everything may be used.
    pub fn may_use_local(self, local: &LocalFacts) -> bool {
        self.request.caller.as_ref().is_none_or(|caller| caller.allows_local(&local.name, &local.model))
    }

    pub fn may_use_cloud(self, cloud: &CloudFacts) -> bool {
        self.request.caller.as_ref().is_none_or(|caller| caller.allows_cloud(&cloud.provider_name, &cloud.model))
    }
}

/// Output tokens assumed for estimates when the request names none.
const EXPECTED_OUTPUT: u64 = 256;
/// Nobody's answer is expected to be longer, whatever max_tokens allows.
const EXPECTED_OUTPUT_MAX: u64 = 1024;

/// A request in tokens, counted once for all targets.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub prompt: u64,
    /// Of several prompts the longest: what must fit into one context.
    pub longest: u64,
    /// The least that may be: an estimate from bytes may be twice the truth, token ids are exact.
    pub prompt_least: u64,
    /// Explicit max_tokens.
    pub asked: Option<u32>,
    /// Output tokens to expect.
    pub output: u64,
}

impl Size {
    pub fn of(request: &ChatRequest) -> Self {
        let (prompt, longest) = (request.estimated_prompt_tokens(), request.estimated_longest_tokens());
        let expected = request.max_tokens.map_or(EXPECTED_OUTPUT, u64::from).min(EXPECTED_OUTPUT_MAX);
        Self {
            prompt,
            longest,
            prompt_least: if request.has_token_ids() { longest } else { longest / 2 },
            asked: request.max_tokens,
            output: if request.needs.embeddings { 0 } else { expected },
        }
    }
}
