//! Whom a hedge is made for and where it would go.

use super::*;
use crate::{
    domain::{Complexity, NanoUsd, Price},
    route::{facts::TargetHealth, plan::Reason},
};
use std::time::Duration;

const ON: HedgeConfig = HedgeConfig { enabled: true, after: Duration::ZERO, max_per_hour: NanoUsd::ZERO };
const LOCAL: TargetKey = TargetKey::Gpu { slot: 0, epoch: 1 };
const FIRST: TargetKey = TargetKey::Cloud { provider: 0, model: 0 };
const SECOND: TargetKey = TargetKey::Cloud { provider: 0, model: 1 };

fn candidate(key: TargetKey, standing: Standing) -> Candidate {
    Candidate {
        key,
        target: "t".into(),
        model: "m".into(),
        reason: Reason::Preferred,
        standing,
        ready: true,
        wait: Duration::ZERO,
        first_token: Duration::ZERO,
        latency: Duration::ZERO,
        cost: NanoUsd::ZERO,
        cost_per_1k: 0.0,
        output_cap: 16,
        price: Price::default(),
        cached_tokens: None,
        load: 0.0,
        on_cpu: false,
        health: TargetHealth::default(),
    }
}

fn plan(standing: Standing) -> Plan {
    let candidates =
        vec![candidate(LOCAL, Standing::Ready), candidate(FIRST, standing), candidate(SECOND, Standing::Ready)];
    Plan { candidates, complexity: Complexity::Trivial, confidence: 1.0, reasoning: String::new() }
}

fn goes_to(request: &ChatRequest, config: HedgeConfig, standing: Standing, tried: &[TargetKey]) -> Option<TargetKey> {
    hedge_candidate(request, config, &plan(standing), tried).map(|candidate| candidate.key)
}

#[test]
fn a_hedge_goes_to_the_first_cloud_model_that_works_and_was_not_tried() {
    let request = ChatRequest::plain("hi");
    assert_eq!(goes_to(&request, ON, Standing::Ready, &[]), Some(FIRST));
    assert_eq!(goes_to(&request, ON, Standing::Poor, &[]), Some(SECOND));
    assert_eq!(goes_to(&request, ON, Standing::Ready, &[FIRST]), Some(SECOND));
    assert_eq!(goes_to(&request, ON, Standing::Ready, &[FIRST, SECOND]), None);
}

#[test]
fn nobody_is_hedged_who_asked_for_local_for_cheap_or_for_one_model_or_while_it_is_off() {
    let plain = || ChatRequest::plain("hi");
    for request in [
        ChatRequest { local_only: true, ..plain() },
        ChatRequest { budget_sensitive: true, ..plain() },
        ChatRequest { model: ModelChoice::Local, ..plain() },
        ChatRequest { model: ModelChoice::Named("m".into()), ..plain() },
    ] {
        assert_eq!(goes_to(&request, ON, Standing::Ready, &[]), None, "{request:?}");
    }
    assert_eq!(goes_to(&plain(), HedgeConfig::default(), Standing::Ready, &[]), None, "off by default");
}
