//! Requests of several answers, and text between two others, by the real llama.cpp.

use crate::support::{Engine, Heard, gguf, greedy, load_spec, model_path};
use spillway_actors::gpu::frame::{
    Batch, Echo, FromEngine, JobEvent, JobFailureKind, JobId, JobSpec, LoadSpec, Member, Prompt, Sampling, ToEngine,
};
use std::collections::HashMap;

const COUNT: &str = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,";

fn batch(prompts: &[&str], n: u32, max_tokens: u32, sampling: Sampling) -> Batch {
    let member = |prompt: u32, nth: u32| Member {
        job: JobId::from(100 + prompt * n + nth),
        prompt,
        seed: sampling.seed.map(|seed| seed + nth),
        replay: vec![],
        sent_bytes: 0,
        echo: Echo::Nothing,
    };
    Batch {
        group: 100,
        like: JobSpec { sampling, ..greedy(0, "", max_tokens) },
        prompts: prompts.iter().map(|text| Prompt::Text((*text).into())).collect(),
        members: (0..prompts.len() as u32).flat_map(|prompt| (0..n).map(move |nth| member(prompt, nth))).collect(),
    }
}

fn run(engine: &mut Engine, batch: Batch) -> HashMap<JobId, Heard> {
    let mut heard: HashMap<JobId, Heard> = batch.members.iter().map(|member| (member.job, Heard::default())).collect();
    engine.say(&ToEngine::SubmitAll(Box::new(batch)));
    while heard.values().any(|heard| heard.end.is_none()) {
        engine.hear_step(&mut heard);
    }
    heard
}

fn cached(heard: &Heard) -> (u32, u32) {
    match &heard.end {
        Some(JobEvent::Finished { prompt_tokens, cached_tokens, .. }) => (*prompt_tokens, *cached_tokens),
        end => panic!("{end:?}"),
    }
}

#[test]
fn the_answers_of_a_prompt_share_its_cells_and_each_counts_on() {
    let (mut engine, _) = Engine::loaded(4, 2048, &[]);
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let heard = run(&mut engine, batch(&[COUNT], 4, 12, greedy));
    for job in 100..104 {
        assert!(heard[&job].text.trim_start().starts_with("17, 18"), "{}", heard[&job].text);
    }
    let (prompt, first) = cached(&heard[&100]);
    assert_eq!(first, 0, "somebody computes it");
    assert!((101..104).all(|job| cached(&heard[&job]) == (prompt, prompt - 1)), "and the others do not");
}

#[test]
fn seeded_answers_differ_from_each_other_and_repeat() {
    let (mut engine, _) = Engine::loaded(1, 1024, &[]);
    let seeded = Sampling { temperature: 1.0, seed: Some(11), ..Sampling::default() };
    let story = "Once upon a time in a small village by the sea there lived an old man who";
    let texts = |heard: HashMap<JobId, Heard>| {
        let mut texts: Vec<(JobId, String)> = heard.into_iter().map(|(job, heard)| (job, heard.text)).collect();
        texts.sort();
        texts
    };
    let once = texts(run(&mut engine, batch(&[story], 3, 12, seeded)));
    assert!(once[0].1 != once[1].1 && once[1].1 != once[2].1 && once[0].1 != once[2].1, "{once:?}");
    assert_eq!(texts(run(&mut engine, batch(&[story], 3, 12, seeded))), once);
}

#[test]
fn text_between_two_others_needs_tokens_for_it() {
    let between = || Prompt::Between { prefix: "def add(a, b):\n".into(), suffix: "\n    return c".into() };
    let (mut engine, info) = Engine::loaded(1, 512, &[]);
    assert!(!info.infills, "the default model has none");
    let heard = engine.run_one(JobSpec { prompt: between(), ..greedy(1, "", 4) });
    assert!(matches!(heard.end, Some(JobEvent::Failed(failure)) if failure.kind == JobFailureKind::Invalid));
    let count = |engine: &mut Engine, job: JobId, prompt: Prompt| {
        cached(&engine.run_one(JobSpec { prompt, ..greedy(job, "", 1) })).0
    };
    let (prefix, suffix) = (
        count(&mut engine, 2, Prompt::Text("def add(a, b):\n".into())),
        count(&mut engine, 3, Prompt::Text("\n    return c".into())),
    );
    let file = gguf::with_infill(&model_path(), [3, 4, 5]);
    let mut engine = Engine::greeted(&[]);
    let model_path = file.path().to_str().unwrap().to_owned();
    engine.say(&ToEngine::Load(LoadSpec { model_path, ..load_spec(1, 512) }));
    let info = loop {
        match engine.hear() {
            FromEngine::LoadProgress { .. } => {}
            FromEngine::Loaded(info) => break info,
            frame => panic!("instead of Loaded: {frame:?}"),
        }
    };
    assert!(info.infills);
    assert_eq!(count(&mut engine, 4, between()), prefix + suffix + 3, "both texts and three tokens around them");
}
