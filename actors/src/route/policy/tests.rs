//! What moves a candidate, each by an example; and that nothing moves one out.

use super::*;
use crate::{
    classify::{Classification, by_keywords},
    domain::ChatRequest,
    gpu::life::GpuState,
    jobs::Progress,
    route::{
        facts::{Budget, CloudFacts, LocalFacts, TargetHealth},
        fixtures::{cloud, clouds, local, model, request, router_of, rule},
        plan::{Plan, plan},
        session::Recalled,
    },
};
use proptest::prelude::*;

/// Every tier prefers local and may fall back on cheap; the harder, the earlier it makes room.
fn local_first() -> crate::config::RouterConfig {
    let spilling = |spill_load| Rule { spill_load, ..rule(vec![RuleTarget::AnyLocal], vec![model("cheap")], 3000) };
    router_of([spilling(1000.0), spilling(2.0), spilling(0.75), spilling(0.5)])
}

fn planned(
    request: &ChatRequest,
    complexity: Complexity,
    recalled: Recalled,
    locals: &[LocalFacts],
    clouds: &[CloudFacts],
) -> Plan {
    let (router, progress) = (local_first(), Progress::default());
    let mut grade = by_keywords(request);
    grade.complexity = complexity;
    grade.basis = Basis::of(&request.model, request.budget_sensitive, complexity);
    let around = Surroundings { locals, clouds, router: &router, default_output: 4096, budget: Budget::default() };
    plan(Ask { recalled, ..Ask::new(request, &grade, &progress) }, around).unwrap()
}

fn first(plan: &Plan) -> &str {
    plan.candidates[0].model.as_str()
}

#[test]
fn load_sends_premium_away_first_and_trivial_last() {
    let spills_at = |complexity| {
        (0..=4).find(|leases| {
            let locals = [local(GpuState::Warm, *leases)];
            let plan = planned(&request(), complexity, Recalled::NOTHING, &locals, &clouds());
            first(&plan) != "tiny"
        })
    };
    assert_eq!(Complexity::ALL.map(spills_at), [None, None, Some(3), Some(2)]);
    let mut queued = local(GpuState::Warm, 4);
    queued.queued = 4;
    let plan = planned(&request(), Complexity::Moderate, Recalled::NOTHING, &[queued.clone()], &clouds());
    assert_eq!((first(&plan), plan.candidates.last().unwrap().standing), ("cheap", Standing::Crowded));
    assert!(plan.reasoning.contains("keeps its last places for easier requests"), "{}", plan.reasoning);
    let trivial = planned(&request(), Complexity::Trivial, Recalled::NOTHING, &[queued.clone()], &clouds());
    assert_eq!(first(&trivial), "tiny");
    assert_eq!(first(&planned(&request(), Complexity::Premium, Recalled::NOTHING, &[queued], &[])), "tiny");
}

#[test]
fn poor_health_goes_behind_all_that_work_but_stays() {
    let mut sick = local(GpuState::Warm, 0);
    sick.health.degraded = true;
    let plan = planned(&request(), Complexity::Trivial, Recalled::NOTHING, &[sick.clone()], &clouds());
    assert_eq!(plan.candidates.last().unwrap().standing, Standing::Poor);
    assert_eq!(first(&planned(&request(), Complexity::Trivial, Recalled::NOTHING, &[sick], &[])), "tiny");
    let failing = TargetHealth { success_ratio: Some(0.3), ..TargetHealth::default() };
    let clouds = [CloudFacts { health: failing, ..cloud(0, "cheap", 1, true) }, cloud(1, "dear", 15, true)];
    assert_eq!(first(&planned(&request(), Complexity::Trivial, Recalled::NOTHING, &[], &clouds)), "dear");
}

#[test]
fn among_others_the_cheapest_until_an_answer_comes_first() {
    let half = TargetHealth { success_ratio: Some(0.5), ..TargetHealth::default() };
    let clouds = [CloudFacts { health: half, ..cloud(0, "a", 2, true) }, cloud(1, "b", 3, true)];
    let plan = planned(&request(), Complexity::Trivial, Recalled::NOTHING, &[], &clouds);
    assert_eq!(first(&plan), "b", "two attempts at 2 cost more than one at 3");
}

#[test]
fn a_conversation_stays_where_its_cache_is_unless_the_queue_gap_is_large() {
    let other = LocalFacts { slot: 1, name: "other".into(), model: "twin".into(), ..local(GpuState::Warm, 0) };
    let recalled = |slot| Recalled { cache: Some((TargetKey::Gpu { slot, epoch: 1 }, 4)), tier: None };
    let with = |queued, recalled| {
        let mut mine = local(GpuState::Warm, 4);
        mine.queued = queued;
        let plan = planned(&request(), Complexity::Trivial, recalled, &[mine, other.clone()], &clouds());
        first(&plan).to_owned()
    };
    // A request takes 1 s over four places: one waits 250 ms, two 500 ms, three 750 ms.
    assert_eq!(with(0, Recalled::NOTHING), "twin");
    assert_eq!(with(0, recalled(0)), "tiny");
    assert_eq!(with(1, recalled(0)), "tiny");
    assert_eq!(with(2, recalled(0)), "twin");
    assert_eq!(with(0, recalled(1)), "twin");
}

#[test]
fn cached_tokens_make_the_holder_cheaper() {
    let clouds = [cloud(0, "here", 2, true), cloud(1, "there", 2, true)];
    let recalled = Recalled { cache: Some((TargetKey::Cloud { provider: 0, model: 1 }, 1_000)), tier: None };
    let plan = planned(&request(), Complexity::Trivial, recalled, &[], &clouds);
    assert_eq!(first(&plan), "there");
    assert!(plan.candidates[0].cost < plan.candidates[1].cost);
}

#[test]
fn a_conversation_only_escalates_but_money_and_names_are_taken_at_their_word() {
    let recalled = Recalled { tier: Some(Complexity::Complex), cache: None };
    let full = [local(GpuState::Warm, 3)];
    let tier_of =
        |request: &ChatRequest, complexity| planned(request, complexity, recalled, &full, &clouds()).complexity;
    assert_eq!(tier_of(&request(), Complexity::Trivial), Complexity::Complex);
    assert_eq!(tier_of(&request(), Complexity::Premium), Complexity::Premium);
    let frugal = ChatRequest { budget_sensitive: true, ..request() };
    assert_eq!(tier_of(&frugal, Complexity::Trivial), Complexity::Trivial);
    let named = ChatRequest { model: ModelChoice::Local, ..request() };
    assert_eq!(tier_of(&named, Complexity::Trivial), Complexity::Trivial);
    let plan = planned(&request(), Complexity::Trivial, recalled, &full, &clouds());
    assert_eq!(first(&plan), "cheap", "the escalated tier's rule spills at this load");
    assert!(plan.reasoning.contains("in a conversation that was complex"), "{}", plan.reasoning);
}

#[test]
fn a_frugal_request_waits_for_local_unless_it_says_how_long_or_its_deadline_does() {
    let mut busy = local(GpuState::Warm, 4);
    busy.queued = 30;
    let with = |request: &ChatRequest, left: Option<u64>| {
        let (router, progress, clouds, locals) = (local_first(), Progress::default(), clouds(), [busy.clone()]);
        let grade = by_keywords(request);
        let around = Surroundings {
            locals: &locals,
            clouds: &clouds,
            router: &router,
            default_output: 1,
            budget: Budget::default(),
        };
        let time_left = left.map(Duration::from_secs);
        first(&plan(Ask { time_left, ..Ask::new(request, &grade, &progress) }, around).unwrap()).to_owned()
    };
    let frugal = ChatRequest { budget_sensitive: true, ..request() };
    assert_eq!(with(&request(), None), "cheap");
    assert_eq!(with(&frugal, None), "tiny");
    assert_eq!(with(&frugal, Some(60)), "tiny");
    assert_eq!(with(&frugal, Some(5)), "cheap");
    assert_eq!(with(&ChatRequest { max_latency: Some(Duration::from_secs(2)), ..frugal }, Some(60)), "cheap");
}

#[test]
fn who_stays_here_or_is_in_no_list_of_the_rule_has_a_reason_of_its_own() {
    let locals = [local(GpuState::Warm, 0)];
    let reason = |request: &ChatRequest, clouds: &[CloudFacts]| {
        let plan = planned(request, Complexity::Trivial, Recalled::NOTHING, &locals, clouds);
        let reasons = plan.candidates.iter().map(|candidate| candidate.reason.label()).collect::<Vec<_>>();
        (reasons, plan.reasoning)
    };
    let (reasons, why) = reason(&ChatRequest { local_only: true, ..request() }, &clouds());
    assert_eq!(reasons, ["local_only"]);
    assert!(why.contains(", local_only: "), "{why}");
    assert_eq!(
        reason(&request(), &[cloud(0, "cheap", 1, true), cloud(1, "strange", 9, true)]).0,
        ["preferred", "fallback", "unlisted"]
    );
}

proptest! {
    /// A bound or a load reorders; the same candidates are there before and after.
    #[test]
    fn no_policy_removes_a_candidate(
        leases in 0..5_usize, queued in 0..50_usize, tier in 0..4_usize, ms in proptest::option::of(1..10_000_u64),
        degraded: bool, ratio in proptest::option::of(0.0..1.0_f64), frugal: bool
    ) {
        let mut target = local(GpuState::Warm, leases);
        target.queued = queued;
        target.health = TargetHealth { degraded, success_ratio: ratio, inter_token: None };
        let asked = ChatRequest {
            max_latency: ms.map(Duration::from_millis), budget_sensitive: frugal, ..request()
        };
        let plan = planned(&asked, Complexity::ALL[tier], Recalled::NOTHING, &[target], &clouds());
        let mut models: Vec<&str> = plan.candidates.iter().map(|candidate| candidate.model.as_str()).collect();
        prop_assert!(plan.candidates.windows(2).all(|pair| pair[0].standing.class() <= pair[1].standing.class()));
        models.sort_unstable();
        prop_assert_eq!(models, ["cheap", "dear", "middle", "tiny"]);
    }
}

#[test]
fn a_poor_answer_raises_its_request_one_tier_and_its_conversation_only_further() {
    let request = request();
    let grade = Classification { basis: Basis::Rule, complexity: Complexity::Trivial, ..by_keywords(&request) };
    let tier_of = |ask: Ask<'_>| tier(ask).complexity;
    let progress = Progress { escalated: Some(Complexity::Moderate), ..Progress::default() };
    let escalated = Ask::new(&request, &grade, &progress);
    assert_eq!(tier_of(escalated), Complexity::Moderate);
    let reached = |tier| Recalled { tier: Some(tier), ..Recalled::NOTHING };
    assert_eq!(tier_of(Ask { recalled: reached(Complexity::Premium), ..escalated }), Complexity::Premium);
    assert_eq!(tier_of(Ask { recalled: reached(Complexity::Trivial), ..escalated }), Complexity::Moderate);
}
