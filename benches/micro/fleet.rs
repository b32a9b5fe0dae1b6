//! A fleet of 32 targets, a conversation of 20 turns, and one decision: for whoever measures how long decisions take.

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
use std::{fmt::Write as _, path::PathBuf, sync::Arc};
use tokio::time::Instant;

/// Whoever decides, and what is asked.
pub struct Scene {
    config: Config,
    fleet: Fleet,
    pub request: ChatRequest,
}

impl Scene {
    pub fn new() -> Self {
        let config = config();
        let slot = |local: &Arc<_>| EngineSlot::new(Arc::clone(local), config.supervision.gpu, Poison::default());
        let slots = config.locals.iter().map(slot).collect();
        let providers = config.clouds.iter().map(|cloud| Provider::new(Arc::clone(cloud)).unwrap()).collect();
        let fleet = Fleet { slots, providers, ..Fleet::default() };
        Self { config, fleet, request: request() }
    }

    /// Candidates of one decision: facts read, conversation recognised, gates, estimates, policy and sentence.
    pub fn decide(&self, queued: usize) -> usize {
        decide(&self.fleet, &self.config, &self.request, queued)
    }
}

pub const TARGETS: usize = 32;

pub fn config() -> Config {
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
