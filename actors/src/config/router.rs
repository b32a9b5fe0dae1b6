//! `[router]`, resolved: the classifier, names, sessions, hedging, cascading, and a rule for each tier.

use crate::{
    classify::Cuts,
    domain::{Complexity, ModelName, NanoUsd, TargetName},
};
use std::{collections::BTreeMap, time::Duration};

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
    pub(super) rules: [Rule; 4],
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
