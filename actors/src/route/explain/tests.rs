//! That an explanation shows each step, agrees with the plan, and never shows the prompt.

use super::*;
use crate::{
    classify::by_keywords,
    config::{DemoCloud, Sources, load},
    domain::ModelChoice,
    route::{
        facts::Abilities,
        fixtures::{cloud, clouds, local, request, router},
        plan::plan,
    },
};
use serde_json::{Value, json};

fn explained(request: &ChatRequest) -> (Value, Option<String>) {
    let (router, grade, progress) = (router(), by_keywords(request), Progress::default());
    let (locals, clouds) = ([local(GpuState::Warm, 1)], clouds());
    let around = Surroundings {
        locals: &locals,
        clouds: &clouds,
        router: &router,
        default_output: 4096,
        budget: Budget::default(),
    };
    let ask = Ask::new(request, &grade, &progress);
    let reasoning = plan(ask, around).ok().map(|plan| plan.reasoning);
    (serde_json::to_value(laid_open(ask, around)).unwrap(), reasoning)
}

#[test]
fn every_step_is_shown_and_the_plan_is_the_one_that_would_be_made() {
    let (shown, reasoning) = explained(&request());
    assert_eq!(shown["object"], "route");
    assert_eq!(
        shown["gates"][0],
        json!({"target": "local", "model": "tiny", "is_local": true, "passed": true, "stopped_by": null,
               "why": "is warm, 1 of 4 places taken"})
    );
    assert_eq!(shown["score"]["basis"], "rule");
    assert_eq!(shown["score"]["signals"], json!(["effective length 2"]));
    assert_eq!(shown["policy"]["order"][0]["bound_ms"], 100.0);
    assert_eq!(shown["policy"]["order"][0]["standing"], "ready");
    assert_eq!(shown["plan"]["reasoning"], reasoning.unwrap());
    assert_eq!(shown["plan"]["max_attempts"], 3);
    let models: Vec<&Value> =
        shown["plan"]["candidates"].as_array().unwrap().iter().map(|candidate| &candidate["model"]).collect();
    assert_eq!(models, ["tiny", "cheap", "middle", "dear"]);
    assert_eq!(shown["refusal"], Value::Null);
}

#[test]
fn a_request_that_nobody_may_serve_is_explained_too() {
    let contradiction = ChatRequest { local_only: true, model: ModelChoice::Named("cheap".into()), ..request() };
    let (shown, reasoning) = explained(&contradiction);
    assert_eq!((reasoning, &shown["plan"]), (None, &Value::Null));
    assert_eq!(shown["refusal"]["kind"], "invalid_request");
    let stopped: Vec<&Value> = shown["gates"].as_array().unwrap().iter().map(|gate| &gate["stopped_by"]).collect();
    assert_eq!(stopped, ["model", "model", "local_only", "model"]);
    assert_eq!(shown["gates"][2]["why"], "the request may not leave this machine");
}

#[test]
fn a_chat_with_a_model_of_another_kind_is_told_what_kind_it_is() {
    let (router, progress) = (router(), Progress::default());
    let clouds = [
        (0, "chats", Abilities::CLOUD),
        (1, "texts", Abilities::CLOUD_COMPLETION),
        (2, "vectors", Abilities::CLOUD_EMBEDDING),
    ];
    let clouds = clouds.map(|(at, name, abilities)| CloudFacts { abilities, ..cloud(at, name, 1, true) });
    let told = |name: &str| {
        let request = ChatRequest { model: ModelChoice::Named(name.into()), ..request() };
        let grade = by_keywords(&request);
        let budget = Budget::default();
        let around = Surroundings { locals: &[], clouds: &clouds, router: &router, default_output: 4096, budget };
        let shown = laid_open(Ask::new(&request, &grade, &progress), around);
        let gate = shown.gates.into_iter().find(|gate| gate.model == name).unwrap();
        (gate.why, shown.refusal.unwrap().message)
    };
    let (why, refusal) = told("texts");
    assert_eq!(
        (why.as_str(), refusal.as_str()),
        ("takes text completions only, no chats", "the model takes text completions only, no chats")
    );
    let (why, refusal) = told("vectors");
    assert_eq!(why, "turns texts into vectors and writes none");
    assert!(refusal.contains("'vectors' is an embedding model") && refusal.contains("/v1/embeddings"), "{refusal}");
}

#[test]
fn the_prompt_is_never_shown() {
    let secret = ChatRequest { session: Some("xyzzy-name".into()), ..ChatRequest::plain("xyzzy analyze plugh") };
    let (shown, _) = explained(&secret);
    let text = shown.to_string();
    assert!(!text.contains("xyzzy") && !text.contains("plugh"), "{text}");
    assert!(text.contains("analyze"), "a word of ours that was found is shown");
}

#[tokio::test]
async fn without_a_gateway_local_targets_are_taken_to_be_warm() {
    let demo = Some(DemoCloud { base_url: "http://127.0.0.1:9/v1".into() });
    let sources = Sources { demo, ..Sources::default() };
    let (config, _) = load(&sources, &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap();
    let request = request();
    let explanation = explain_at_rest(&request, &config, Instant::now()).unwrap();
    assert!(explanation.gates.iter().all(|gate| gate.passed), "{:?}", explanation.gates);
    assert!(explanation.gates.iter().any(|gate| !gate.is_local));
    assert!(explanation.plan.unwrap().reasoning.contains("local is warm"));
}
