//! How long a decision takes: facts read from a fleet of 32 targets, conversation recognised, gates, estimates, policy
//! and sentence. `cargo run --release -p spillway-actors --example plan-bench` prints p50 and p99 in microseconds.
//! Measures no actor and no mailbox.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints its figures and may fail")]

use spillway_actors::{
    classify::by_keywords,
    cloud::Provider,
    config::{Config, Sources, load},
    domain::{
        ChatRequest, Choices, Input, Message, ModelChoice, Needs, OutputWish, RequestId, RequestKind, SamplingWish,
    },
    gpu::{EngineSlot, poison::Poison},
    jobs::Progress,
    route::{
        Fleet,
        facts::{Ask, Budget, Surroundings},
        plan::plan,
    },
};
use std::{fmt::Write as _, hint::black_box, path::PathBuf, sync::Arc, time::Duration};
use tokio::time::Instant;

const TARGETS: usize = 32;
const DECISIONS: usize = 200_000;

fn config() -> Config {
    let mut text = String::new();
    for at in 0..TARGETS / 2 {
        writeln!(text, "[[local]]\nname = \"gpu-{at}\"\nmodel = \"smollm2-135m\"").unwrap();
    }
    text.push_str("[[cloud]]\nname = \"sim\"\nbase_url = \"http://127.0.0.1:9/v1\"\napi_keys_env = [\"KEY\"]\n");
    for at in 0..TARGETS / 2 {
        writeln!(
            text,
            "[[cloud.models]]\nname = \"model-{at}\"\ninput_usd_per_mtok = {at}\noutput_usd_per_mtok = {at}\n\
             source = \"none\"\nas_of = \"2026-11-23\""
        )
        .unwrap();
    }
    let sources = Sources {
        file: Some((PathBuf::from("bench.toml"), text)),
        env: vec![("KEY".to_owned(), "none".to_owned())],
        cache_dir: PathBuf::from("/nonexistent"),
        ..Sources::default()
    };
    load(&sources, &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap().0
}

/// A conversation of 20 turns, 400 bytes each.
fn request() -> ChatRequest {
    let message = |at: usize| Message {
        role: if at.is_multiple_of(2) { "user" } else { "assistant" }.to_owned(),
        content: format!("turn {at} ").repeat(50),
        raw: serde_json::Map::new(),
    };
    ChatRequest {
        id: RequestId::from_bits(1),
        kind: RequestKind::Chat,
        model: ModelChoice::Auto,
        input: Input::Messages((0..21).map(message).collect()),
        choices: Choices::default(),
        needs: Needs::default(),
        sampling: SamplingWish::default(),
        output: OutputWish::default(),
        max_tokens: Some(200),
        stop: None,
        stream: true,
        include_usage: false,
        budget_sensitive: false,
        local_only: false,
        max_latency: None,
        session: None,
        caller: None,
        trace: None,
        client_id: None,
        body: serde_json::Map::new(),
        anthropic: serde_json::Map::new(),
    }
}

fn decide(fleet: &Fleet, config: &Config, request: &ChatRequest, queued: usize) -> usize {
    let now = Instant::now();
    let grade = by_keywords(request);
    let conversation = fleet.sessions.conversation(request);
    let recalled = fleet.sessions.recall(&conversation, now);
    let (locals, clouds) = (fleet.locals(queued, now), fleet.clouds(now));
    let around = Surroundings {
        locals: &locals,
        clouds: &clouds,
        router: &config.router,
        default_output: config.ledger.default_output_tokens,
        budget: Budget::default(),
    };
    let progress = Progress::default();
    let plan = plan(Ask { recalled, ..Ask::new(request, &grade, &progress) }, around).unwrap();
    if let Some(first) = plan.candidates.first() {
        fleet.sessions.note(&conversation, Some(plan.complexity), first.key, now);
    }
    plan.candidates.len()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (config, request) = (config(), request());
    let slots = config
        .locals
        .iter()
        .map(|local| EngineSlot::new(Arc::clone(local), config.supervision.gpu, Poison::default()))
        .collect();
    let providers = config.clouds.iter().map(|cloud| Provider::new(Arc::clone(cloud)).unwrap()).collect();
    let fleet = Fleet { slots, providers, ..Fleet::default() };
    let mut took: Vec<Duration> = Vec::with_capacity(DECISIONS);
    for at in 0..DECISIONS {
        let began = Instant::now();
        let candidates = black_box(decide(&fleet, &config, &request, at % 7));
        took.push(began.elapsed());
        assert_eq!(candidates, TARGETS);
    }
    took.sort_unstable();
    let at = |share: f64| took[((DECISIONS - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    println!(
        "{TARGETS} targets, {DECISIONS} decisions: p50 {:.1} µs, p99 {:.1} µs, worst {:.1} µs",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}
