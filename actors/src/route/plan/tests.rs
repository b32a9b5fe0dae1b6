//! Each rule of the plan by an example, and what must hold for every request by property.

use super::*;
use crate::{
    classify::Basis,
    cloud::CloudView,
    config::Wire,
    domain::{Caller, ChatRequest, ErrorKind, Input, ModelChoice, Needs},
    gpu::life::{Cause, GpuState},
    jobs::Progress,
    route::{
        facts::{Budget, CloudFacts, LocalFacts},
        fixtures::{clouds, down, local, request, router},
    },
};
use proptest::prelude::*;
use std::sync::Arc;
use tokio::time::Instant;

/// The candidates' models in order.
fn order(request: &ChatRequest, complexity: Complexity, locals: &[LocalFacts], clouds: &[CloudFacts]) -> Vec<String> {
    planned(request, complexity, &Progress::default(), locals, clouds)
        .map(|plan| plan.candidates.iter().map(|candidate| candidate.model.to_string()).collect())
        .unwrap_or_default()
}

fn planned(
    request: &ChatRequest,
    complexity: Complexity,
    progress: &Progress,
    locals: &[LocalFacts],
    clouds: &[CloudFacts],
) -> Result<Plan, GatewayError> {
    let mut grade = crate::classify::by_keywords(request);
    grade.complexity = complexity;
    grade.basis = Basis::of(&request.model, request.budget_sensitive, complexity);
    let router = router();
    let around = Surroundings { locals, clouds, router: &router, default_output: 4096, budget: Budget::default() };
    plan(Ask::new(request, &grade, progress), around)
}

#[test]
fn the_rule_comes_first_then_everything_else_cheapest_first() {
    let (locals, clouds) = ([local(GpuState::Warm, 0)], clouds());
    assert_eq!(order(&request(), Complexity::Trivial, &locals, &clouds), ["tiny", "cheap", "middle", "dear"]);
    assert_eq!(order(&request(), Complexity::Premium, &locals, &clouds), ["dear", "middle", "tiny", "cheap"]);
}

#[test]
fn a_target_that_is_down_or_loading_moves_behind_the_cloud_but_is_kept() {
    let clouds = clouds();
    for state in [down(), GpuState::Loading, GpuState::Cold] {
        let locals = [local(state, 0)];
        assert_eq!(order(&request(), Complexity::Trivial, &locals, &clouds), ["cheap", "middle", "dear", "tiny"]);
        assert_eq!(order(&request(), Complexity::Trivial, &locals, &[]), ["tiny"], "without a cloud it waits");
    }
}

#[test]
fn a_request_under_which_two_engines_died_goes_to_the_cloud_if_there_is_one() {
    let (locals, clouds) = ([local(GpuState::Warm, 0)], clouds());
    let died = |epochs: std::ops::Range<u64>| Progress {
        tried: epochs.map(|epoch| TargetKey::Gpu { slot: 0, epoch: 100 + epoch }).collect(),
        ..Progress::default()
    };
    let first = |progress: &Progress, clouds: &[CloudFacts]| {
        planned(&request(), Complexity::Trivial, progress, &locals, clouds).unwrap().candidates[0].model.to_string()
    };
    assert_eq!(first(&died(0..1), &clouds), "tiny", "one death is bad luck");
    assert_eq!(first(&died(0..2), &clouds), "cheap");
    assert_eq!(first(&died(0..2), &[]), "tiny", "it may have nowhere else to go");
}

#[test]
fn a_full_target_spills_when_the_expected_wait_breaks_the_bound_and_only_reorders() {
    let (full, clouds) = ([local(GpuState::Warm, 4)], clouds());
    assert_eq!(order(&request(), Complexity::Trivial, &full, &clouds), ["cheap", "middle", "dear", "tiny"]);
    assert_eq!(order(&request(), Complexity::Trivial, &full, &[]), ["tiny"]);
    let patient = ChatRequest { max_latency: Some(Duration::from_secs(60)), ..request() };
    assert_eq!(order(&patient, Complexity::Trivial, &full, &clouds), ["tiny", "cheap", "middle", "dear"]);
}

#[test]
fn budget_sensitive_keeps_easy_requests_local_whatever_the_rule_prefers() {
    let (locals, clouds) = ([local(GpuState::Warm, 0)], clouds());
    let frugal = ChatRequest { budget_sensitive: true, ..request() };
    assert_eq!(order(&frugal, Complexity::Moderate, &locals, &clouds)[0], "tiny");
    assert_eq!(order(&frugal, Complexity::Complex, &locals, &clouds)[0], "cheap");
}

#[test]
fn an_explicit_model_is_a_gate() {
    let (locals, clouds) = ([local(GpuState::Warm, 0)], clouds());
    let named = |model: ModelChoice| order(&ChatRequest { model, ..request() }, Complexity::Trivial, &locals, &clouds);
    assert_eq!(named(ModelChoice::Named("dear".into())), ["dear"]);
    assert_eq!(named(ModelChoice::Named("tiny".into())), ["tiny"]);
    assert_eq!(named(ModelChoice::Named("local".into())), ["tiny"]);
    assert_eq!(named(ModelChoice::Local), ["tiny"]);
}

#[test]
fn what_no_target_can_do_is_said_to_the_client() {
    let needs = Needs { images: true, ..Needs::default() };
    let locals = [local(GpuState::Warm, 0)];
    let asks = ChatRequest { needs, ..request() };
    let plan_with = |request: &ChatRequest, clouds: &[CloudFacts]| {
        planned(request, Complexity::Trivial, &Progress::default(), &locals, clouds)
    };
    assert_eq!(plan_with(&asks, &[]).unwrap_err().kind, ErrorKind::InvalidRequest);
    assert_eq!(plan_with(&asks, &clouds()).unwrap().candidates.len(), 3);
    let long = ChatRequest { input: Input::Text("a".repeat(1_000_000)), ..request() };
    assert_eq!(plan_with(&long, &clouds()).unwrap_err().kind, ErrorKind::ContextLengthExceeded);
}

#[test]
fn what_a_wire_format_cannot_say_goes_elsewhere() {
    let several = ChatRequest { needs: Needs { several_choices: true, ..Needs::default() }, ..request() };
    let speaks = |clouds: Vec<CloudFacts>| {
        clouds.into_iter().map(|cloud| CloudFacts { wire: Wire::Anthropic, ..cloud }).collect::<Vec<_>>()
    };
    let mut mixed = clouds();
    mixed[1].wire = Wire::Anthropic;
    let plan_with = |request: &ChatRequest, clouds: &[CloudFacts]| {
        planned(request, Complexity::Trivial, &Progress::default(), &[], clouds)
    };
    assert_eq!(plan_with(&request(), &mixed).unwrap().candidates.len(), 3);
    let others = plan_with(&several, &mixed).unwrap().candidates;
    assert!(others.len() == 2 && others.iter().all(|candidate| candidate.model.as_str() != "cheap"));
    for model in [ModelChoice::Auto, ModelChoice::Named("cheap".into())] {
        let error = plan_with(&ChatRequest { model, ..several.clone() }, &speaks(clouds())).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidRequest);
        assert!(error.message.contains("n > 1"), "{error}");
    }
}

#[test]
fn a_quarantined_gpu_fails_a_local_only_request_at_once_and_says_when_to_retry() {
    let until = Instant::now() + Duration::from_secs(15);
    let locals = [local(GpuState::Quarantined { cause: Cause::LinkClosed, until }, 0)];
    let private = ChatRequest { local_only: true, ..request() };
    let error = planned(&private, Complexity::Trivial, &Progress::default(), &locals, &clouds()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::LocalOnlyUnavailable);
    assert!(error.retry_after.unwrap() > Duration::from_secs(13));
}

fn any_state() -> impl Strategy<Value = GpuState> {
    (0..7_u8).prop_map(|state| match state {
        0 => GpuState::Cold,
        1 => GpuState::Loading,
        2 => GpuState::Warm,
        3 => GpuState::Draining,
        4 => down(),
        5 => GpuState::Down { cause: Cause::LinkClosed, look_at: Some(Instant::now()) },
        _ => GpuState::Degraded(Cause::LinkClosed),
    })
}

proptest! {
    #[test]
    fn whatever_the_fleet_looks_like(
        state in any_state(), leases in 0..5_usize, queued in 0..20_usize, usable in any::<[bool; 3]>(),
        local_only: bool, images: bool, tier in 0..4_usize, tried in proptest::collection::vec(0..4_usize, 0..4),
        choice in 0..4_u8, budget_sensitive: bool, whose in 0..4_u8,
    ) {
        let mut target = local(state, leases);
        target.queued = queued;
        let clouds: Vec<_> = clouds()
            .into_iter()
            .zip(usable)
            .map(|(cloud, usable)| CloudFacts { view: CloudView { usable, ..cloud.view }, ..cloud })
            .collect();
        let key = |at| match at {
            3 => TargetKey::Gpu { slot: 0, epoch: 1 },
            model => TargetKey::Cloud { provider: 0, model },
        };
        let progress = Progress { tried: tried.into_iter().map(key).collect(), ..Progress::default() };
        let model = match choice {
            0 => ModelChoice::Local,
            1 => ModelChoice::Named("cheap".into()),
            _ => ModelChoice::Auto,
        };
        let caller = match whose {
            0 => None,
            1 => Some(Caller { local_only: true, ..Caller::unlimited("key") }),
            2 => Some(Caller { models: Some(vec!["cheap".into()]), ..Caller::unlimited("key") }),
            _ => Some(Caller::unlimited("key")),
        };
        let asked = ChatRequest {
            local_only, budget_sensitive, model, caller: caller.map(Arc::new),
            needs: Needs { images, ..Needs::default() }, ..request()
        };
        match planned(&asked, Complexity::ALL[tier], &progress, &[target], &clouds) {
            Ok(plan) => {
                prop_assert!(!plan.candidates.is_empty());
                let mut seen = Vec::new();
                for candidate in &plan.candidates {
                    let is_local = matches!(candidate.key, TargetKey::Gpu { .. });
                    prop_assert!(!(local_only || whose == 1) || is_local, "a local-only request was offered the cloud");
                    prop_assert!(whose != 2 || candidate.model.as_str() == "cheap", "a key was offered what it may not use");
                    prop_assert!(!images || !is_local, "a target was offered what it cannot do");
                    prop_assert!(!progress.tried.contains(&candidate.key), "a target was offered twice");
                    prop_assert!(is_local || candidate.ready, "a cloud model that rests was offered");
                    prop_assert!(!seen.contains(&candidate.key));
                    seen.push(candidate.key);
                }
                prop_assert!(!plan.reasoning.is_empty());
            }
            Err(error) => prop_assert!(
                !error.message.is_empty() && error.kind != ErrorKind::Internal, "{error}"
            ),
        }
    }
}
