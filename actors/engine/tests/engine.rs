//! The built engine with a real model, spoken to as the gateway speaks to it.
//!
//! Needs the test model (`SPILLWAY_TEST_MODEL`, or the cache folder). Tests that decode run one at a time: two engines on
//! the same cores would only measure each other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::disallowed_methods)]

mod cases;
mod support;

use spillway_actors::gpu::frame::{
    EngineChaos, FromEngine, JobEvent, JobFailure, JobFailureKind, JobSpec, LoadFailureKind, LoadSpec,
    PROTOCOL_VERSION, Prompt, Sampling, StopReason, ToEngine,
};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use support::{Engine, Heard, SECRET, greedy, load_spec, model_path};

static CORES: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    CORES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn total_tokens(heard: &HashMap<u64, Heard>) -> usize {
    heard.values().map(|heard| heard.tokens.len()).sum()
}

#[test]
fn a_model_loads_and_eight_jobs_stream_at_once() {
    let _cores = alone();
    let (mut engine, info) = Engine::loaded(8, 8192, &[]);
    assert_eq!((info.parallel, info.on_gpu, info.device.as_str(), info.has_chat_template), (8, false, "cpu", true));
    assert_eq!((info.context_tokens, info.max_request_tokens), (8192, 8192));
    engine.run_one(greedy(100, "Warm up", 8));
    let started = Instant::now();
    let one = engine.run_one(greedy(0, "Write a long story about a ship.", 64));
    let alone = one.tokens.len() as f64 / started.elapsed().as_secs_f64();
    let questions = ["Write a story.", "Tell me about rivers.", "What is Rust?", "Describe a cat at length."];
    let jobs = (1..=8).map(|job| greedy(job, questions[job as usize % 4], 48)).collect();
    let started = Instant::now();
    let heard = engine.run(jobs);
    let together = total_tokens(&heard) as f64 / started.elapsed().as_secs_f64();
    eprintln!("load {} ms, one sequence {alone:.0} tokens/s, eight {together:.0} tokens/s", info.load_ms);
    for (job, heard) in &heard {
        assert!(!heard.text.is_empty() && !heard.text.contains("<|im_end|>"), "job {job}");
        let Some(JobEvent::Finished { completion_tokens, .. }) = heard.end else {
            panic!("job {job}: {:?}", heard.end)
        };
        assert_eq!(completion_tokens as usize, heard.tokens.len());
    }
    let idle = engine.heartbeat_where(|beat| beat.running == 0);
    assert_eq!((idle.waiting, idle.kv_used), (0, 0));
    engine.say(&ToEngine::Stop);
    assert_eq!(engine.exit_code(), Some(0));
}

#[test]
fn a_canary_is_answered_while_every_sequence_is_busy() {
    let _cores = alone();
    let (mut engine, _) = Engine::loaded(2, 2048, &[]);
    let mut heard = HashMap::new();
    for job in 1..=3 {
        engine.submit(greedy(job, "Write a very long story.", 400));
    }
    while heard.get(&2).is_none_or(|heard: &Heard| heard.pieces.is_empty()) {
        engine.hear_step(&mut heard);
    }
    let started = Instant::now();
    let canary = JobSpec { canary: true, prompt: Prompt::Text("Hello".into()), ..greedy(99, "", 1) };
    engine.submit(canary);
    while heard.get(&99).is_none_or(|heard| heard.end.is_none()) {
        engine.hear_step(&mut heard);
    }
    eprintln!("canary beside two sequences: {:?}", started.elapsed());
    assert_eq!(heard[&99].tokens.len(), 1);
    assert!(!heard.contains_key(&3), "the third job waits for a sequence");
}

#[test]
fn greedy_alone_is_deterministic_and_a_replay_goes_on_as_if_nothing_had_happened() {
    let _cores = alone();
    let (mut engine, _) = Engine::loaded(1, 2048, &[]);
    let spec = |job| greedy(job, "Name three colours and say why you like them.", 40);
    let whole = engine.run_one(spec(1));
    assert_eq!(engine.run_one(spec(2)).tokens, whole.tokens);
    for cut in [1, 13, 30] {
        let sent: usize = whole.pieces[..cut].iter().map(|(text, _)| text.len()).sum();
        let replay = whole.tokens[..cut].to_vec();
        let rest = engine.run_one(JobSpec { replay, sent_bytes: sent as u64, ..spec(10 + cut as u64) });
        assert_eq!(rest.text, whole.text[sent..], "cut at {cut}");
        assert_eq!(rest.tokens, whole.tokens[cut..], "cut at {cut}");
        assert_eq!(rest.end, whole.end);
    }
}

#[test]
fn a_seed_and_penalties_survive_a_replay() {
    let _cores = alone();
    let (mut engine, _) = Engine::loaded(1, 2048, &[]);
    let sampling = Sampling {
        temperature: 0.9,
        top_p: 0.95,
        top_k: 50,
        min_p: 0.01,
        presence_penalty: 0.5,
        frequency_penalty: 0.2,
        repeat_penalty: 1.05,
        seed: Some(42),
    };
    let spec = |job| JobSpec { sampling, ..greedy(job, "Invent a word.", 30) };
    let whole = engine.run_one(spec(1));
    assert_eq!(engine.run_one(spec(2)).tokens, whole.tokens);
    let cut = whole.tokens.len() / 2;
    let rest = engine.run_one(JobSpec { replay: whole.tokens[..cut].to_vec(), ..spec(3) });
    assert_eq!(rest.tokens, whole.tokens[cut..]);
    assert_eq!(rest.text, whole.text, "nothing was marked as sent");
    let other = JobSpec { sampling: Sampling { seed: Some(43), ..sampling }, ..spec(4) };
    assert_ne!(engine.run_one(other).tokens, whole.tokens);
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let _cores = alone();
    let (mut engine, _) = Engine::loaded(1, 2048, &[]);
    let whole = engine.run_one(greedy(1, "Tell me about the sea.", 40));
    let (at, _) = whole.text.char_indices().nth(25).unwrap();
    let stop: String = whole.text[at..].chars().take(6).collect();
    let stopped = engine.run_one(JobSpec { stop: vec![stop.clone()], ..greedy(2, "Tell me about the sea.", 40) });
    assert_eq!(stopped.text, whole.text[..whole.text.find(&stop).unwrap()]);
    assert_eq!(stopped.reason(), StopReason::StopText(0));
}

#[test]
fn a_cancelled_job_falls_silent_within_one_token_and_frees_its_cells() {
    let _cores = alone();
    let (mut engine, _) = Engine::loaded(2, 2048, &[]);
    let mut heard = HashMap::new();
    engine.submit(greedy(1, "Write a very long story.", 1000));
    while heard.get(&1).is_none_or(|heard: &Heard| heard.pieces.len() < 3) {
        engine.hear_step(&mut heard);
    }
    let before = heard[&1].pieces.len();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    engine.say(&ToEngine::Cancel { job: 1, left_ns: now.as_nanos().try_into().unwrap() });
    engine.submit(greedy(2, "Hi", 4));
    while heard.get(&2).is_none_or(|heard| heard.end.is_none()) {
        engine.hear_step(&mut heard);
    }
    let late = heard[&1].pieces.len() - before;
    assert!(late <= 2, "{late} pieces after the cancel: one may be on the wire, one in work");
    assert!(heard[&1].end.is_none());
    let [left] = engine.left[..] else { panic!("one word of it: {:?}", engine.left) };
    assert!(left.jobs == 1 && left.most <= 1, "the one in work: {left:?}");
    assert_eq!(engine.heartbeat_where(|beat| beat.running == 0).kv_used, 0);
}

#[test]
fn a_full_pool_preempts_and_every_job_still_finishes() {
    let _cores = alone();
    let (mut engine, info) = Engine::loaded(4, 256, &[]);
    assert_eq!(info.max_request_tokens, 256);
    let heard = engine.run((1..=4).map(|job| greedy(job, "Count from one to one hundred.", 100)).collect());
    for (job, heard) in heard {
        heard.reason();
        assert!(heard.tokens.len() <= 100, "job {job}");
    }
}

#[test]
fn requests_that_cannot_be_served_are_refused_without_quoting_them() {
    let _cores = alone();
    let (mut engine, _) = Engine::loaded(2, 256, &[]);
    let long = greedy(1, &"word ".repeat(400), 5);
    let bad_chat = |messages: &str| Prompt::Chat { messages_json: messages.into(), tools_json: None };
    let jobs = vec![
        long,
        JobSpec { prompt: bad_chat(&format!("[\"{SECRET}\"]")), ..greedy(2, "", 5) },
        JobSpec { prompt: bad_chat(&format!("{{{SECRET}")), ..greedy(3, "", 5) },
        JobSpec { prompt: Prompt::Text(String::new()), ..greedy(4, "", 5) },
        JobSpec { prompt: Prompt::Tokens(vec![-1]), ..greedy(5, "", 5) },
        JobSpec { replay: vec![i32::MAX], ..greedy(6, "", 5) },
        greedy(7, "Hi", 3),
    ];
    let heard = engine.run(jobs);
    for (job, kind) in [
        (1, JobFailureKind::ContextLength),
        (2, JobFailureKind::Invalid),
        (3, JobFailureKind::Invalid),
        (4, JobFailureKind::Invalid),
        (5, JobFailureKind::Invalid),
        (6, JobFailureKind::Invalid),
    ] {
        let Some(JobEvent::Failed(JobFailure { kind: failed, message, .. })) = &heard[&job].end else {
            panic!("job {job}")
        };
        assert_eq!((job, *failed), (job, kind), "{message}");
        assert!(!message.contains(SECRET), "{message}");
    }
    heard[&7].reason();
}

#[test]
fn a_missing_or_damaged_model_is_reported_and_the_engine_ends() {
    let _cores = alone();
    let folder = std::env::temp_dir().join(format!("spillway-engine-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let whole = std::fs::read(model_path()).unwrap();
    let mut noise = whole[..24].to_vec();
    noise.extend((0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8));
    let cases = [
        ("/nonexistent/model.gguf".to_owned(), LoadFailureKind::Missing),
        (file("text.gguf", b"this is no model, only a line of text"), LoadFailureKind::Corrupt),
        (file("noise.gguf", &noise), LoadFailureKind::Corrupt),
        (file("cut-header.gguf", &whole[..1 << 20]), LoadFailureKind::Corrupt),
        (file("cut-weights.gguf", &whole[..whole.len() / 2]), LoadFailureKind::Corrupt),
    ];
    for (model_path, kind) in cases {
        let mut engine = Engine::greeted(&[]);
        engine.say(&ToEngine::Load(LoadSpec { model_path: model_path.clone(), ..load_spec(1, 512) }));
        let failure = loop {
            match engine.hear() {
                FromEngine::LoadProgress { .. } => {}
                FromEngine::LoadFailed(failure) => break failure,
                frame => panic!("{model_path}: {frame:?}"),
            }
        };
        assert_eq!(failure.kind, kind, "{}", failure.message);
        assert!(failure.message.contains(&model_path));
        assert_eq!(engine.exit_code(), Some(1));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn another_version_is_refused_with_our_own() {
    let mut engine = Engine::spawn(&[]);
    engine.say(&ToEngine::Hello { version: PROTOCOL_VERSION + 1, epoch: 1 });
    assert!(matches!(engine.hear(), FromEngine::Hello { version: PROTOCOL_VERSION, .. }));
    assert_eq!(engine.exit_code(), Some(3));
}

#[test]
fn a_wrong_parent_ends_the_engine_before_it_reads_anything() {
    assert_eq!(Engine::spawn_for(1, &[]).exit_code(), Some(2));
}

#[test]
fn garbage_ends_the_engine() {
    let mut engine = Engine::spawn(&[]);
    engine.say_raw(&[0xff; 64]);
    assert_eq!(engine.exit_code(), Some(4));
    let mut engine = Engine::greeted(&[]);
    engine.say_raw(&[3, 0, 0, 0, 0xff, 0xff, 0xff]);
    assert_eq!(engine.exit_code(), Some(4));
}

#[test]
fn the_gateways_end_ends_the_engine_idle_or_busy() {
    let _cores = alone();
    let mut engine = Engine::greeted(&[]);
    engine.stream = None;
    assert_eq!(engine.exit_code(), Some(0));
    let (mut engine, _) = Engine::loaded(1, 1024, &[]);
    let mut heard = HashMap::new();
    engine.submit(greedy(1, "Write a very long story.", 900));
    while heard.get(&1).is_none_or(|heard: &Heard| heard.pieces.is_empty()) {
        engine.hear_step(&mut heard);
    }
    let started = Instant::now();
    engine.stream = None;
    assert_eq!(engine.exit_code(), Some(0));
    eprintln!("busy engine ended {:?} after its gateway", started.elapsed());
}

#[test]
fn chaos_is_obeyed_only_when_it_was_allowed() {
    let _cores = alone();
    let mut engine = Engine::greeted(&["--chaos"]);
    engine.say(&ToEngine::Chaos(EngineChaos::Exit));
    assert_eq!(engine.exit_code(), Some(1));
    let (mut engine, _) = Engine::loaded(1, 512, &["--chaos"]);
    engine.submit(greedy(1, "Write a very long story.", 400));
    while !matches!(engine.hear(), FromEngine::StepBegin { .. }) {}
    engine.say(&ToEngine::Chaos(EngineChaos::Exit));
    assert_eq!(engine.exit_code(), Some(1), "while it decodes");
    for chaos in [EngineChaos::Garbage, EngineChaos::HalfFrame] {
        let mut engine = Engine::greeted(&["--chaos"]);
        engine.say(&ToEngine::Chaos(chaos));
        while engine.hear_any().is_ok() {}
    }
    let (mut engine, _) = Engine::loaded(1, 512, &["--chaos"]);
    engine.say(&ToEngine::Chaos(EngineChaos::HangDecode));
    engine.submit(greedy(1, "Hi", 3));
    for _ in 0..4 {
        assert_eq!(engine.heartbeat_where(|_| true).steps, 0, "a hung engine decodes nothing and its heart beats on");
    }
    engine.stream = None;
    assert_eq!(engine.exit_code(), None, "a hung engine kills itself when its gateway has gone");
    let (mut engine, _) = Engine::loaded(1, 512, &[]);
    engine.say(&ToEngine::Chaos(EngineChaos::Exit));
    engine.run_one(greedy(1, "Hi", 3)).reason();
}
