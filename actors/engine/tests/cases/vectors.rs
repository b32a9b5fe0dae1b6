//! Vectors by the real llama.cpp: the same text, the same vector, however it came; and models that make nothing else.

use crate::support::{Engine, Heard, SECRET, gguf, greedy, load_spec};
use spillway_actors::gpu::frame::{
    EmbedSpec, FromEngine, JobEvent, JobFailureKind, JobId, JobSpec, LoadSpec, LoadedInfo, Prompt, ToEngine,
};
use std::{collections::HashMap, path::Path};

fn texts(inputs: &[&str]) -> Vec<Prompt> {
    inputs.iter().map(|text| Prompt::Text((*text).into())).collect()
}

fn embed(engine: &mut Engine, job: JobId, inputs: Vec<Prompt>) -> Heard {
    engine.say(&ToEngine::Embed(Box::new(EmbedSpec { job, inputs })));
    let mut heard = HashMap::from([(job, Heard::default())]);
    while heard[&job].end.is_none() {
        engine.hear_step(&mut heard);
    }
    heard.remove(&job).unwrap()
}

fn vectors(engine: &mut Engine, job: JobId, inputs: Vec<Prompt>) -> Vec<Vec<f32>> {
    let due = inputs.len();
    let heard = embed(engine, job, inputs);
    assert!(matches!(heard.end, Some(JobEvent::Finished { completion_tokens: 0, .. })), "{:?}", heard.end);
    assert_eq!(heard.vectors.keys().copied().collect::<Vec<_>>(), (0..due as u32).collect::<Vec<_>>());
    heard.vectors.into_values().collect()
}

fn cosine(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

fn loaded_from(path: &Path, parallel: u32) -> (Engine, LoadedInfo) {
    let mut engine = Engine::greeted(&[]);
    let model_path = path.to_str().unwrap().to_owned();
    engine.say(&ToEngine::Load(LoadSpec { model_path, ..load_spec(parallel, 512) }));
    loop {
        match engine.hear() {
            FromEngine::LoadProgress { .. } => {}
            FromEngine::Loaded(info) => return (engine, info),
            frame => panic!("instead of Loaded: {frame:?}"),
        }
    }
}

#[test]
fn a_text_has_one_vector_alone_among_others_in_portions_and_beside_running_jobs() {
    let (mut engine, info) = Engine::loaded(2, 2048, &[]);
    let embeddings = info.embeddings.expect("any model can");
    assert_eq!((embeddings.dimensions, embeddings.max_tokens, info.generates), (576, 1024, true));
    let long = "The keeper of the lighthouse wrote down every ship that passed in the night. ".repeat(40);
    let inputs = ["A cat on a mat.", "The ship left the harbour at dawn.", &long, "x"];
    let alone: Vec<Vec<f32>> =
        (1..).zip(inputs).map(|(job, text)| vectors(&mut engine, job, texts(&[text])).remove(0)).collect();
    for vector in &alone {
        assert!((cosine(vector, vector) - 1.0).abs() < 1e-4);
    }
    assert!(cosine(&alone[0], &alone[1]) < 0.999, "different texts, different vectors");
    engine.submit(JobSpec { max_tokens: 200, ..greedy(90, "Tell me a long story.", 200) });
    let together = embed(&mut engine, 20, texts(&inputs));
    for (at, (one, other)) in alone.iter().zip(together.vectors.values()).enumerate() {
        assert!(cosine(one, other) > 1.0 - 1e-4, "input {at}: {}", cosine(one, other));
    }
    let JobEvent::Finished { prompt_tokens, .. } = together.end.unwrap() else { panic!("it failed") };
    assert!(prompt_tokens > 256, "the long one needs several batches: {prompt_tokens}");
    engine.say(&ToEngine::Cancel { job: 90, left_ns: 0 });
}

#[test]
fn texts_too_long_and_ids_unknown_fail_their_request_and_nobody_elses() {
    let (mut engine, _) = Engine::loaded(1, 512, &[]);
    let long = format!("{SECRET} ").repeat(1100);
    for (job, input, kind) in [
        (1, Prompt::Text(long), JobFailureKind::ContextLength),
        (2, Prompt::Tokens(vec![1; 1025]), JobFailureKind::ContextLength),
        (3, Prompt::Tokens(vec![-1]), JobFailureKind::Invalid),
        (4, Prompt::Tokens(vec![i32::MAX]), JobFailureKind::Invalid),
        (5, Prompt::Text(String::new()), JobFailureKind::Invalid),
    ] {
        let heard = embed(&mut engine, job, vec![Prompt::Text("fine".into()), input]);
        let Some(JobEvent::Failed(failure)) = heard.end else { panic!("{job}: {:?}", heard.end) };
        assert!(failure.kind == kind && failure.message.contains("input 1"), "{failure:?}");
    }
    assert_eq!(vectors(&mut engine, 9, vec![Prompt::Tokens(vec![1; 1024])]).len(), 1);
    // Cancelled between two batches; what it held is free for the next.
    engine.say(&ToEngine::Embed(Box::new(EmbedSpec { job: 10, inputs: vec![Prompt::Tokens(vec![2; 1024]); 8] })));
    engine.say(&ToEngine::Cancel { job: 10, left_ns: 0 });
    assert_eq!(vectors(&mut engine, 11, texts(&["after"])).len(), 1);
}

/// Each of its tokens looks at the whole text, so it goes into one batch and is pooled as the file says; it writes nothing,
/// and proves itself with a vector.
#[test]
fn a_model_made_for_embeddings_makes_them_and_refuses_to_write() {
    let mut found = Vec::new();
    for pooling in [1, 2] {
        let file = gguf::bert(pooling);
        let (mut engine, info) = loaded_from(file.path(), 2);
        let embeddings = info.embeddings.expect("it is made for it");
        assert_eq!((embeddings.dimensions, embeddings.max_tokens, info.generates), (32, 64, false));
        let canary = JobSpec { canary: true, prompt: Prompt::Text("1".into()), ..greedy(1, "", 1) };
        assert!(matches!(engine.run_one(canary).end, Some(JobEvent::Finished { .. })));
        let write = JobSpec { prompt: Prompt::Text("cat".into()), ..greedy(2, "", 4) };
        assert!(
            matches!(engine.run_one(write).end, Some(JobEvent::Failed(failure)) if failure.kind == JobFailureKind::Invalid)
        );
        let inputs = ["cat dog ship", "sea storm", gguf::WORDS[5], "cat dog ship house light night sea"];
        let together = vectors(&mut engine, 3, texts(&inputs));
        for (job, (text, in_batch)) in (4..).zip(inputs.iter().zip(&together)) {
            let alone = vectors(&mut engine, job, texts(&[text]));
            assert!(cosine(&alone[0], in_batch) > 1.0 - 1e-4 && (cosine(in_batch, in_batch) - 1.0).abs() < 1e-4);
        }
        let heard = embed(&mut engine, 20, vec![Prompt::Tokens(vec![104; 65])]);
        assert!(matches!(heard.end, Some(JobEvent::Failed(failure)) if failure.kind == JobFailureKind::ContextLength));
        found.push(together);
    }
    assert!(cosine(&found[0][0], &found[1][0]) < 0.9999, "the mean is not the first");
    let ranks = gguf::bert(4);
    assert_eq!(loaded_from(ranks.path(), 1).1.embeddings, None, "a model that ranks texts makes no vectors");
}
