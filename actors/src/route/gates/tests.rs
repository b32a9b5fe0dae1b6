//! Each gate by an example: which target it stops, and what it lets pass.

use super::*;
use crate::domain::Input;
use crate::{
    classify::by_keywords,
    domain::{Caller, ChatRequest, CloudBound, NanoUsd, Needs, OutputWish, Unmet},
    gpu::life::{Cause, GpuState},
    jobs::{Progress, TargetKey},
    ledger::{Bound, Payer, Period},
    route::{
        facts::{Abilities, Budget},
        fixtures::{cloud, clouds, local, request, router},
    },
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Who is stopped by what: the local target first, then dear, cheap and middle.
fn stopped(request: &ChatRequest, change: impl FnOnce(&mut Vec<LocalFacts>, &mut Budget)) -> Vec<Option<Gate>> {
    let (router, grade, progress) = (router(), by_keywords(request), Progress::default());
    let (mut locals, mut budget, clouds) = (vec![local(GpuState::Warm, 0)], Budget::default(), clouds());
    change(&mut locals, &mut budget);
    let ask = Ask::new(request, &grade, &progress);
    let around = Surroundings { locals: &locals, clouds: &clouds, router: &router, default_output: 4096, budget };
    gates(ask, Size::of(request), around).all().collect()
}

fn plainly(request: &ChatRequest) -> Vec<Option<Gate>> {
    stopped(request, |_, _| {})
}

const PASSED: Option<Gate> = None;

fn all_but_first(gate: Gate) -> Vec<Option<Gate>> {
    vec![PASSED, Some(gate), Some(gate), Some(gate)]
}

#[test]
fn an_ordinary_request_passes_everywhere() {
    assert_eq!(plainly(&request()), [PASSED; 4]);
}

#[test]
fn an_explicit_model_or_local_only_leaves_nothing_else() {
    let named = |model| plainly(&ChatRequest { model, ..request() });
    assert_eq!(named(ModelChoice::Local), all_but_first(Gate::Model));
    assert_eq!(named(ModelChoice::Named("tiny".into())), all_but_first(Gate::Model));
    let stops = Some(Gate::Model);
    assert_eq!(named(ModelChoice::Named("cheap".into())), [stops, stops, PASSED, stops]);
    assert_eq!(plainly(&ChatRequest { local_only: true, ..request() }), all_but_first(Gate::LocalOnly));
}

fn of_key(caller: Caller) -> ChatRequest {
    ChatRequest { caller: Some(Arc::new(caller)), ..request() }
}

#[test]
fn a_key_uses_what_it_may() {
    let only = |allowed: &[&str]| {
        let models = Some(allowed.iter().map(|name| (*name).into()).collect());
        plainly(&of_key(Caller { models, ..Caller::unlimited("key") }))
    };
    let stops = Some(Gate::KeyPolicy);
    assert_eq!(plainly(&of_key(Caller::unlimited("key"))), [PASSED; 4]);
    assert_eq!(only(&["tiny", "cheap"]), [PASSED, stops, PASSED, stops]);
    assert_eq!(only(&["local"]), all_but_first(Gate::KeyPolicy));
    assert_eq!(only(&[]), [stops; 4]);
}

#[test]
fn requests_of_a_local_only_key_stay_here_whatever_they_say_themselves() {
    let here = of_key(Caller { local_only: true, ..Caller::unlimited("key") });
    assert!(!here.local_only);
    assert_eq!(plainly(&here), all_but_first(Gate::LocalOnly));
    assert!(CloudBound::new(&here).is_none(), "nor is there a body for the cloud");
    assert!(CloudBound::new(&request()).is_some());
}

fn bound(left: u64) -> Bound {
    let (limit, left) = (NanoUsd::new(1_000_000), NanoUsd::new(left));
    Bound { payer: Payer::Operator, period: Period::Day, limit, left, renewed: None }
}

#[test]
fn a_spent_budget_leaves_only_what_is_free_and_a_small_one_what_it_covers() {
    let left = |nano| stopped(&request(), |_, budget| budget.bound = Some(bound(nano)));
    assert_eq!(left(0), all_but_first(Gate::Budget));
    // 4 prompt and 50 output tokens: 54,000, 162,000 and 810,000 nano-dollars.
    let stops = Some(Gate::Budget);
    assert_eq!(left(100_000), [PASSED, stops, PASSED, stops]);
    assert_eq!(left(1_000_000), [PASSED; 4]);
}

#[test]
fn while_the_ledger_cannot_be_written_nothing_paid_starts() {
    let down = stopped(&request(), |_, budget| budget.recordable = false);
    assert_eq!(down, all_but_first(Gate::Ledger));
}

#[test]
fn what_the_ledger_refused_is_not_offered_again_and_says_why() {
    let (router, grade, request) = (router(), by_keywords(&request()), request());
    let (locals, clouds) = ([local(GpuState::Warm, 0)], clouds());
    let (dear, cheap) = (clouds[0].key(), clouds[1].key());
    let progress = Progress { unaffordable: vec![dear], unrecorded: vec![cheap], ..Progress::default() };
    let ask = Ask::new(&request, &grade, &progress);
    let around = Surroundings {
        locals: &locals,
        clouds: &clouds,
        router: &router,
        default_output: 4096,
        budget: Budget::default(),
    };
    let found: Vec<_> = gates(ask, Size::of(&request), around).all().collect();
    assert_eq!(found, [PASSED, Some(Gate::Budget), Some(Gate::Ledger), PASSED]);
}

#[test]
fn what_is_needed_must_be_declared() {
    let asks = ChatRequest { needs: Needs { images: true, ..Needs::default() }, ..request() };
    let stops = Some(Gate::Abilities);
    assert_eq!(plainly(&asks), [stops, PASSED, PASSED, PASSED]);
    let sees = Abilities { offers: Needs { images: true, ..Needs::NONE }, ..Abilities::LOCAL };
    assert_eq!(stopped(&asks, |locals, _| locals[0].abilities = sees), [PASSED; 4]);
    let more = ChatRequest { needs: Needs { images: true, audio: true, ..Needs::default() }, ..request() };
    assert_eq!(stopped(&more, |locals, _| locals[0].abilities = sees)[0], stops);
    let ids = ChatRequest { input: Input::Tokens(vec![1, 2]), ..request() };
    assert_eq!(plainly(&ids), all_but_first(Gate::Abilities));
}

#[test]
fn a_local_target_takes_tools_and_schemas_but_those_no_grammar_stands_for() {
    let needs = Needs { tools: true, response_format: true, logprobs: true, logit_bias: true, ..Needs::default() };
    assert_eq!(plainly(&ChatRequest { needs, ..request() }), [PASSED; 4]);
    let unmet = Some(Unmet { param: "response_format".into(), message: "no".into() });
    let odd = ChatRequest { needs, output: OutputWish { unmet, ..OutputWish::default() }, ..request() };
    assert_eq!(plainly(&odd), [Some(Gate::Abilities), PASSED, PASSED, PASSED]);
    let passes_on = Abilities { own_grammar: false, ..Abilities::LOCAL };
    assert_eq!(stopped(&odd, |locals, _| locals[0].abilities = passes_on), [PASSED; 4]);
}

#[test]
fn an_absent_max_tokens_never_leaves_local_and_an_explicit_one_only_if_somebody_can_do_better() {
    let asks = |max_tokens| plainly(&ChatRequest { max_tokens, ..request() });
    assert_eq!(asks(None), [PASSED; 4]);
    assert_eq!(asks(Some(3684)), [PASSED; 4], "2 + 3,684 tokens are 0.9 of 4,096");
    assert_eq!(asks(Some(3685)), [Some(Gate::Output), PASSED, PASSED, PASSED]);
    let only_local = ChatRequest { max_tokens: Some(50_000), local_only: true, ..request() };
    assert_eq!(plainly(&only_local), all_but_first(Gate::LocalOnly), "capped rather than refused");
    let too_much = asks(Some(95_000));
    assert_eq!(too_much, [PASSED, Some(Gate::Context), Some(Gate::Context), Some(Gate::Context)]);
}

#[test]
fn a_prompt_that_fits_no_window_is_stopped_everywhere() {
    let long = ChatRequest { input: Input::Text("a".repeat(1_000_000)), max_tokens: None, ..request() };
    assert_eq!(plainly(&long), [Some(Gate::Context); 4]);
    let half = ChatRequest { input: Input::Text("a".repeat(40_000)), max_tokens: None, ..request() };
    assert_eq!(plainly(&half)[0], Some(Gate::Context));
    let exact = ChatRequest { input: Input::Tokens(vec![1; 3687]), max_tokens: None, ..request() };
    assert_eq!(plainly(&exact)[0], Some(Gate::Context), "ids need no benefit of the doubt");
}

#[test]
fn who_was_tried_or_rests_is_stopped_and_who_comes_back_soon_is_not() {
    let grade = by_keywords(&request());
    let progress = Progress { tried: vec![TargetKey::Cloud { provider: 0, model: 1 }], ..Progress::default() };
    let until = Instant::now() + Duration::from_secs(15);
    let states =
        [(GpuState::Loading, PASSED), (GpuState::Quarantined { cause: Cause::LinkClosed, until }, Some(Gate::State))];
    for (state, expected) in states {
        let (router, locals) = (router(), [local(state, 0)]);
        let clouds = [cloud(0, "rests", 1, false), cloud(1, "tried", 1, true)];
        let request = request();
        let around = Surroundings {
            locals: &locals,
            clouds: &clouds,
            router: &router,
            default_output: 1,
            budget: Budget::default(),
        };
        let gated = gates(Ask::new(&request, &grade, &progress), Size::of(&request), around);
        assert_eq!(gated.locals, [expected]);
        assert_eq!(gated.clouds, [Some(Gate::State), Some(Gate::Tried)]);
    }
}
