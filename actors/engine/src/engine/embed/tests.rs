//! Vectors beside text, with a model that only counts: a text's vector is its tokens.

use super::*;
use crate::{
    backend::counting::{Counting, spec},
    engine::tests::{Heard, is_end, turn as text_turn},
};
use proptest::prelude::*;

impl Heard {
    /// By input; each exactly once.
    fn vectors(&self, job: JobId) -> Vec<Vec<f32>> {
        let mut vectors: Vec<(u32, Vec<f32>)> = Vec::new();
        for event in &self.0[&job] {
            if let JobEvent::Vector { input, values } = event {
                vectors.push((*input, values.clone()));
            }
        }
        vectors.sort_by_key(|(input, _)| *input);
        assert!((0..).zip(&vectors).all(|(at, (input, _))| at == *input), "{vectors:?}");
        vectors.into_iter().map(|(_, values)| values).collect()
    }
}

fn turn(engine: &mut Engine<Counting>, heard: &mut Heard) {
    text_turn(engine, heard);
    if let Some((_, runs)) = engine.begin_embedding() {
        heard.hear(Some(engine.run_embedding(&runs)));
    }
}

fn run(engine: &mut Engine<Counting>) -> Heard {
    let mut heard = Heard::default();
    run_on(engine, &mut heard);
    heard
}

fn run_on(engine: &mut Engine<Counting>, heard: &mut Heard) {
    for _ in 0..3000 {
        turn(engine, heard);
        if engine.is_idle() {
            heard.hear(engine.flush());
            assert!(engine.backend.texts.is_empty(), "a text left its tokens behind");
            return;
        }
    }
    panic!("not idle after 3000 turns");
}

fn embed(job: JobId, inputs: &[&str]) -> EmbedSpec {
    EmbedSpec { job, inputs: inputs.iter().map(|text| Prompt::Text((*text).into())).collect() }
}

fn letters(text: &str) -> Vec<f32> {
    text.bytes().map(|byte| f32::from(byte - b'a')).collect()
}

#[test]
fn every_text_gets_its_own_vector_beside_running_jobs() {
    let mut engine = Engine::new(Counting::new(2, 60), 5);
    engine.submit(&spec(1, "abc", 4));
    let long = "abcdefghijklmnopqrstuvwxyzabcdefghijklm";
    engine.embed(embed(2, &["ab", long, "c"]));
    engine.embed(embed(3, &["zz"]));
    let heard = run(&mut engine);
    assert_eq!(heard.vectors(2), [letters("ab"), letters(long), letters("c")]);
    assert_eq!(heard.vectors(3), [letters("zz")]);
    assert_eq!(heard.0[&2][0], JobEvent::Accepted { prompt_tokens: 42, cached_tokens: 0 });
    assert!(matches!(heard.end(2), JobEvent::Finished { prompt_tokens: 42, completion_tokens: 0, .. }));
    assert!(matches!(heard.end(1), JobEvent::Finished { completion_tokens: 4, .. }));
}

#[test]
fn what_cannot_be_embedded_is_refused_with_its_place() {
    let mut engine = Engine::new(Counting::new(1, 60), 5);
    engine.embed(embed(1, &["a", &"b".repeat(41)]));
    engine.embed(embed(2, &["a", ""]));
    engine.embed(EmbedSpec { job: 3, inputs: vec![Prompt::Tokens(vec![1, 27])] });
    engine.embed(embed(4, &[]));
    let heard = run(&mut engine);
    for (job, kind, place) in [
        (1, JobFailureKind::ContextLength, "input 1 has 41 tokens"),
        (2, JobFailureKind::Invalid, "input 1 is empty"),
        (3, JobFailureKind::Invalid, "input 0"),
        (4, JobFailureKind::Invalid, "no text"),
    ] {
        let JobEvent::Failed(failure) = heard.end(job) else { panic!("job {job}: {:?}", heard.0[&job]) };
        assert!(failure.kind == kind && failure.message.contains(place), "{failure:?}");
    }
}

#[test]
fn a_text_that_breaks_its_batch_takes_no_other_request_along() {
    let mut backend = Counting::new(1, 60);
    backend.poison = Some(25);
    let mut engine = Engine::new(backend, 5);
    for (job, text) in [(1, "ab"), (2, "za"), (3, "cd")] {
        engine.embed(embed(job, &[text]));
    }
    engine.embed(embed(4, &["abcdefghijklmnopq", "e"]));
    let heard = run(&mut engine);
    assert_eq!((heard.vectors(1), heard.vectors(3)), (vec![letters("ab")], vec![letters("cd")]));
    assert!(matches!(heard.end(2), JobEvent::Failed(failure) if failure.kind == JobFailureKind::Decode));
    assert_eq!(heard.vectors(4), [letters("abcdefghijklmnopq"), letters("e")]);
}

#[test]
fn a_model_that_writes_nothing_proves_itself_with_a_vector() {
    let mut backend = Counting::new(1, 60);
    backend.generates = false;
    let mut engine = Engine::new(backend, 5);
    engine.submit(&spillway_actors::gpu::frame::JobSpec { canary: true, ..spec(1, "a", 1) });
    engine.submit(&spec(2, "a", 1));
    let heard = run(&mut engine);
    assert!(matches!(heard.end(1), JobEvent::Finished { .. }));
    assert!(matches!(heard.end(2), JobEvent::Failed(failure) if failure.kind == JobFailureKind::Invalid));
}

#[test]
fn vectors_that_find_no_memory_end_the_engine_and_fail_nobody() {
    let mut model = Counting::new(2, 60);
    model.no_room_for_vectors = true;
    let (mut engine, mut heard) = (Engine::new(model, 5), Heard::default());
    engine.submit(&spec(1, "abc", 3));
    turn(&mut engine, &mut heard);
    engine.embed(embed(2, &["a"]));
    assert_eq!(engine.out_of_memory(), Some(&Shortage { message: "vectors".into(), embeddings: true }));
    turn(&mut engine, &mut heard);
    assert!(!heard.0.contains_key(&2) && !is_end(heard.end(1)), "both may go on elsewhere");
}

#[derive(Debug, Clone)]
enum Act {
    Embed(Vec<String>),
    Write(String),
    Cancel(u64),
    Turn,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        proptest::collection::vec("[a-z]{1,40}", 1..6).prop_map(Act::Embed),
        "[a-c]{1,9}".prop_map(Act::Write),
        (1u64..12).prop_map(Act::Cancel),
        Just(Act::Turn),
        Just(Act::Turn),
    ];
    proptest::collection::vec(act, 1..40)
}

proptest! {
    #[test]
    fn whatever_comes_and_goes_each_request_gets_exactly_its_own_vectors(acts in acts()) {
        let mut engine = Engine::new(Counting::new(2, 60), 5);
        let mut heard = Heard::default();
        let (mut asked, mut cancelled, mut next) = (HashMap::new(), Vec::new(), 0);
        for act in acts {
            match act {
                Act::Embed(texts) => {
                    next += 1;
                    engine.embed(embed(next, &texts.iter().map(String::as_str).collect::<Vec<_>>()));
                    asked.insert(next, texts);
                }
                Act::Write(text) => {
                    next += 1;
                    engine.submit(&spec(next, &text, 3));
                }
                Act::Cancel(job) => {
                    engine.cancel(job);
                    cancelled.push(job);
                }
                Act::Turn => turn(&mut engine, &mut heard),
            }
        }
        run_on(&mut engine, &mut heard);
        for (job, texts) in asked.iter().filter(|(job, _)| !cancelled.contains(job)) {
            let finished = matches!(heard.end(*job), JobEvent::Finished { .. });
            prop_assert!(finished, "job {} did not finish", job);
            let expected: Vec<Vec<f32>> = texts.iter().map(|text| letters(text)).collect();
            prop_assert_eq!(heard.vectors(*job), expected);
        }
    }
}
