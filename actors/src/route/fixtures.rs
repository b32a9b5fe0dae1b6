//! Targets, rules and requests that the tests of this folder start from.

use super::facts::{Abilities, CloudFacts, LocalFacts, TargetHealth};
use crate::{
    cloud::CloudView,
    config::{ClassifierKind, EngineRestart, LocalConfig, PrefillStyle, RouterConfig, Rule, RuleTarget, Wire},
    domain::{ChatRequest, NanoUsd, Premises, Price},
    gpu::{
        EngineSlot,
        life::{Cause, GpuState},
        poison::Poison,
        slot::SlotStats,
        watchdog::Pace,
    },
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;

pub(super) fn rule(prefer: Vec<RuleTarget>, fallback: Vec<RuleTarget>, ms: u64) -> Rule {
    Rule {
        prefer,
        fallback,
        max_latency: Duration::from_millis(ms),
        max_latency_is_default: false,
        max_latency_cpu: Duration::from_secs(2),
        spill_load: 1000.0,
    }
}

pub(super) fn model(name: &str) -> RuleTarget {
    RuleTarget::Model(name.into())
}

pub(super) fn router_of(rules: [Rule; 4]) -> RouterConfig {
    RouterConfig::new(ClassifierKind::Keywords, BTreeMap::new(), rules)
}

pub(super) fn router() -> RouterConfig {
    router_of([
        rule(vec![RuleTarget::AnyLocal], vec![model("cheap")], 100),
        rule(vec![RuleTarget::AnyLocal], vec![model("middle")], 500),
        rule(vec![model("cheap")], vec![model("dear")], 2000),
        rule(vec![model("dear")], vec![model("middle")], 5000),
    ])
}

pub(super) fn request() -> ChatRequest {
    ChatRequest { max_tokens: Some(50), ..ChatRequest::plain("hello there") }
}

/// One target of four places, measured: 1 ms a prompt token, 10 ms an output token, a request takes 1 s.
pub(super) fn local(state: GpuState, leases: usize) -> LocalFacts {
    let config = LocalConfig::tiny(4);
    let mut view = EngineSlot::new(Arc::new(config), EngineRestart::default(), Poison::default()).view();
    view.serving = state.serves();
    view.state = state;
    view.leases = leases;
    view.stats =
        SlotStats { pace: Pace { decode_step: 0.01, prompt_token: 0.001 }, measured_at: None, service_seconds: 1.0 };
    LocalFacts {
        slot: 0,
        name: "local".into(),
        model: "tiny".into(),
        believed: view.stats,
        view,
        queued: 0,
        window: 4096,
        embedding_window: 2048,
        default_output: 1024,
        max_output: 2048,
        abilities: Abilities::LOCAL,
        premises: Premises::Own,
        prefill: PrefillStyle::None,
        health: TargetHealth::default(),
    }
}

pub(super) fn cloud(at: usize, name: &str, usd: u64, usable: bool) -> CloudFacts {
    let per_mtok = NanoUsd::new(usd * 1_000_000_000);
    CloudFacts {
        provider: 0,
        model_index: at,
        provider_name: "provider".into(),
        model: name.into(),
        wire: Wire::OpenAi,
        window: 100_000,
        price: Price {
            input_per_mtok: per_mtok,
            cached_per_mtok: NanoUsd::ZERO,
            written_per_mtok: per_mtok,
            output_per_mtok: per_mtok,
        },
        prefill: crate::config::PrefillStyle::None,
        view: CloudView {
            usable,
            usable_at: None,
            limited: false,
            unpriced: false,
            expected_first_token: Duration::from_millis(50),
        },
        abilities: Abilities::CLOUD,
        health: TargetHealth::default(),
    }
}

pub(super) fn clouds() -> Vec<CloudFacts> {
    vec![cloud(0, "dear", 15, true), cloud(1, "cheap", 1, true), cloud(2, "middle", 3, true)]
}

pub(super) fn down() -> GpuState {
    GpuState::Backoff { cause: Cause::LinkClosed, until: Instant::now() }
}
