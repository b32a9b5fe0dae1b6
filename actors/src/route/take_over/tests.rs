//! The order of the ways, and what closes each.

use super::{super::fixtures, *};
use crate::{
    classify,
    cloud::continuation::is_continuable,
    config::PrefillStyle,
    domain::{ChatRequest, ModelChoice, Needs, Premises},
    gpu::life::{Cause, GpuState},
    jobs::Progress,
    route::facts::{Budget, CloudFacts, LocalFacts},
};
use fixtures::{request, rule};

const LEFT: Duration = Duration::from_secs(30);

fn local(slot: usize, state: GpuState, leases: usize) -> LocalFacts {
    LocalFacts { slot, name: format!("gpu{slot}").as_str().into(), ..fixtures::local(state, leases) }
}

fn cloud(at: usize, name: &str, prefill: PrefillStyle) -> CloudFacts {
    CloudFacts { prefill, ..fixtures::cloud(at, name, at as u64 + 1, true) }
}

fn cut(now: Instant) -> TakeOver {
    TakeOver { model: "tiny".into(), replay: Some("tiny".into()), prefix: true, sent_tokens: 20, deadline: now + LEFT }
}

fn backoff(now: Instant, after: u64) -> GpuState {
    GpuState::Backoff { cause: Cause::LinkClosed, until: now + Duration::from_secs(after) }
}

fn planned(
    request: &ChatRequest,
    progress: &Progress,
    locals: &[LocalFacts],
    clouds: &[CloudFacts],
) -> Result<Plan, GatewayError> {
    let like = || rule(vec![RuleTarget::AnyLocal], vec![fixtures::model("liked")], 1000);
    let router = fixtures::router_of([like(), like(), like(), like()]);
    let grade = classify::by_keywords(request);
    let around = Surroundings { locals, clouds, router: &router, default_output: 4096, budget: Budget::default() };
    crate::route::plan::plan(Ask::new(request, &grade, progress), around)
}

/// Names in order: a local target's own, a cloud model's.
fn order(request: &ChatRequest, cut: TakeOver, locals: &[LocalFacts], clouds: &[CloudFacts]) -> Vec<String> {
    let progress = Progress { take_over: Some(cut), ..Progress::default() };
    let name = |candidate: &Candidate| match candidate.key {
        TargetKey::Gpu { .. } => candidate.target.to_string(),
        TargetKey::Cloud { .. } => candidate.model.to_string(),
    };
    planned(request, &progress, locals, clouds)
        .map(|plan| plan.candidates.iter().map(name).collect())
        .unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_warm_gpu_comes_before_a_prefix_and_a_prefix_before_waiting() {
    let now = Instant::now();
    let other_model = LocalFacts { model: "else".into(), ..local(9, GpuState::Warm, 0) };
    let locals = [local(0, backoff(now, 1), 0), local(1, GpuState::Warm, 4), local(2, GpuState::Warm, 0), other_model];
    let clouds = [
        cloud(0, "plain", PrefillStyle::None),
        cloud(1, "cheap", PrefillStyle::Assistant),
        cloud(2, "liked", PrefillStyle::DeepseekPrefix),
    ];
    let ways = order(&request(), cut(now), &locals, &clouds);
    assert_eq!(ways, ["gpu2", "liked", "cheap", "gpu0", "gpu1"]);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_continues_nothing_is_never_offered() {
    let now = Instant::now();
    let clouds = [cloud(0, "plain", PrefillStyle::None)];
    assert!(order(&request(), cut(now), &[], &clouds).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_prefix_is_for_plain_text_that_may_leave_and_for_the_model_that_was_asked_for() {
    let now = Instant::now();
    let (locals, clouds) = ([local(0, backoff(now, 1), 0)], [cloud(0, "liked", PrefillStyle::Assistant)]);
    let ways = |request: &ChatRequest, cut: TakeOver| order(request, cut, &locals, &clouds);
    assert_eq!(ways(&request(), cut(now)), ["liked", "gpu0"]);
    assert_eq!(ways(&request(), TakeOver { prefix: false, ..cut(now) }), ["gpu0"]);
    assert_eq!(ways(&ChatRequest { local_only: true, ..request() }, cut(now)), ["gpu0"]);
    assert_eq!(ways(&ChatRequest { model: ModelChoice::Local, ..request() }, cut(now)), ["gpu0"]);
    let named = ModelChoice::Named("another".into());
    assert_eq!(ways(&ChatRequest { model: named, ..request() }, cut(now)), ["gpu0"]);
    let needs = Needs { images: true, ..Needs::default() };
    let cut = TakeOver { prefix: is_continuable(&ChatRequest { needs, ..request() }), ..cut(now) };
    assert_eq!(ways(&request(), cut), ["gpu0"]);
}

#[tokio::test(start_paused = true)]
async fn a_cloud_stream_is_never_replayed_on_a_gpu() {
    let now = Instant::now();
    let cut = TakeOver { replay: None, ..cut(now) };
    let ways = order(&request(), cut, &[local(0, GpuState::Warm, 0)], &[cloud(0, "liked", PrefillStyle::Assistant)]);
    assert_eq!(ways, ["liked"]);
}

#[tokio::test(start_paused = true)]
async fn what_comes_too_late_or_is_not_expected_is_no_way() {
    let now = Instant::now();
    let clouds = [cloud(0, "liked", PrefillStyle::Assistant)];
    let late = TakeOver { deadline: now + Duration::from_millis(40), ..cut(now) };
    assert!(order(&request(), late, &[local(0, backoff(now, 1), 0)], &clouds).is_empty());
    let quarantined = GpuState::Quarantined { cause: Cause::LinkClosed, until: now + Duration::from_secs(1) };
    assert!(order(&request(), cut(now), &[local(0, quarantined, 0), local(1, backoff(now, 31), 0)], &[]).is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_target_is_tried_once_and_asked_only_for_what_is_left() {
    let now = Instant::now();
    let clouds = [cloud(0, "liked", PrefillStyle::Assistant), cloud(1, "next", PrefillStyle::Assistant)];
    let locals = [local(0, GpuState::Warm, 0)];
    let tried = vec![TargetKey::Cloud { provider: 0, model: 0 }, TargetKey::Gpu { slot: 0, epoch: 1 }];
    let progress = Progress { tried, take_over: Some(cut(now)), ..Progress::default() };
    let plan = planned(&request(), &progress, &locals, &clouds).unwrap();
    assert_eq!(plan.candidates.iter().map(|candidate| candidate.model.as_str()).collect::<Vec<_>>(), ["next"]);
    assert_eq!((plan.candidates[0].output_cap, plan.candidates[0].reason), (30, Reason::TakeOver));
    let all = TakeOver { sent_tokens: 50, ..cut(now) };
    let progress = Progress { take_over: Some(all), ..Progress::default() };
    assert_eq!(planned(&request(), &progress, &[], &clouds).unwrap().candidates[0].output_cap, 1);
    assert!(plan.reasoning.contains("continued there"), "{}", plan.reasoning);
}

/// A server of the operator's: it has no tokens to replay, but may go on from the text.
fn server(slot: usize, model: &str, prefill: PrefillStyle, premises: Premises) -> LocalFacts {
    let mut server = LocalFacts { model: model.into(), prefill, premises, ..local(slot, GpuState::Warm, 0) };
    server.view.is_server = true;
    server
}

#[tokio::test(start_paused = true)]
async fn a_server_goes_on_from_the_text_if_it_can_and_one_of_the_same_model_comes_first() {
    let now = Instant::now();
    let style = PrefillStyle::Assistant;
    let own = |model, style| server(3, model, style, Premises::Own);
    let clouds = [cloud(2, "liked", style)];
    let ways = |local: LocalFacts| order(&request(), cut(now), &[local], &clouds);
    assert_eq!(ways(own("tiny", style)), ["gpu3", "liked"]);
    assert_eq!(ways(own("tiny", PrefillStyle::None)), ["liked"], "it cannot replay");
    assert_eq!(ways(own("else", style)), ["gpu3", "liked"], "the rule prefers any local");
    // Cut at a server: there are no tokens, and it may come back.
    let no_tokens = || TakeOver { replay: None, ..cut(now) };
    let waiting = LocalFacts { view: local(0, backoff(now, 1), 0).view, ..own("tiny", style) };
    let waiting = {
        let mut waiting = waiting;
        waiting.view.is_server = true;
        waiting
    };
    assert_eq!(order(&request(), no_tokens(), &[waiting], &clouds), ["liked", "gpu3"]);
    let engine = local(0, GpuState::Warm, 0);
    assert!(order(&request(), no_tokens(), &[engine], &[]).is_empty(), "an engine has nothing to replay");
}

#[tokio::test(start_paused = true)]
async fn what_must_stay_local_goes_on_only_at_a_server_on_the_premises() {
    let now = Instant::now();
    let bound = ChatRequest { local_only: true, ..request() };
    for (premises, ways) in [(Premises::Own, 1), (Premises::Anywhere, 0)] {
        let server = server(3, "tiny", PrefillStyle::Assistant, premises);
        assert_eq!(order(&bound, cut(now), &[server], &[]).len(), ways);
    }
}
