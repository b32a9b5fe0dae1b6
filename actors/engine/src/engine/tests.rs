//! The engine's contract with the gateway, checked with a model that only counts.

use super::*;
use crate::backend::counting::{Counting, spec};
use proptest::prelude::*;
use spillway_actors::gpu::frame::{Prompt, Sampling};

/// Everything said about each job, after checking the numbering.
#[derive(Default)]
struct Heard(HashMap<JobId, Vec<JobEvent>>);

impl Heard {
    fn hear(&mut self, frame: Option<FromEngine>) {
        let Some(FromEngine::Step { outputs, epoch: 5, .. }) = frame else { return assert!(frame.is_none()) };
        for output in outputs {
            let events = self.0.entry(output.job).or_default();
            assert_eq!(output.seq as usize, events.len(), "outputs of job {} have a gap", output.job);
            assert!(
                !matches!(events.last(), Some(JobEvent::Finished { .. } | JobEvent::Failed(_))),
                "spoke after its end"
            );
            events.push(output.event);
        }
    }

    fn text(&self, job: JobId) -> String {
        let text =
            |event: &JobEvent| if let JobEvent::Piece { text, .. } = event { text.clone() } else { String::new() };
        self.0[&job].iter().map(text).collect()
    }

    fn tokens(&self, job: JobId) -> Vec<Token> {
        let tokens =
            |event: &JobEvent| if let JobEvent::Piece { tokens, .. } = event { tokens.clone() } else { vec![] };
        self.0[&job].iter().flat_map(tokens).collect()
    }

    fn end(&self, job: JobId) -> &JobEvent {
        self.0[&job].last().unwrap()
    }
}

fn turn(engine: &mut Engine<Counting>, heard: &mut Heard) {
    heard.hear(engine.flush());
    if let Some((_, plan)) = engine.begin() {
        heard.hear(Some(engine.run(&plan)));
    }
}

fn drain(engine: &mut Engine<Counting>) -> Heard {
    let mut heard = Heard::default();
    drain_into(engine, &mut heard);
    heard
}

fn drain_into(engine: &mut Engine<Counting>, heard: &mut Heard) {
    for _ in 0..5_000 {
        turn(engine, heard);
        if engine.is_idle() {
            heard.hear(engine.flush());
            assert!(engine.backend.cache.is_empty(), "cells of a job that has left");
            return;
        }
    }
    panic!("the engine never became idle");
}

fn engine(parallel: u32, pool: usize) -> Engine<Counting> {
    Engine::new(Counting::new(parallel, pool), 5)
}

fn finished(reason: StopReason, prompt_tokens: u32, completion_tokens: u32) -> JobEvent {
    JobEvent::Finished { reason, prompt_tokens, completion_tokens, cached_tokens: 0 }
}

#[test]
fn a_job_is_accepted_streams_and_finishes() {
    let mut engine = engine(2, 100);
    engine.submit(&spec(1, "abc", 3));
    let heard = drain(&mut engine);
    assert_eq!(heard.0[&1][0], JobEvent::Accepted { prompt_tokens: 3, cached_tokens: 0 });
    assert_eq!((heard.text(1).as_str(), heard.end(1)), ("def", &finished(StopReason::Length, 3, 3)));
}

#[test]
fn a_stop_string_ends_the_job_before_its_text() {
    let mut engine = engine(2, 100);
    engine.submit(&JobSpec { stop: vec!["fg".into()], ..spec(1, "abc", 30) });
    let heard = drain(&mut engine);
    assert_eq!((heard.text(1).as_str(), heard.end(1)), ("de", &finished(StopReason::Stop, 3, 4)));
}

#[test]
fn a_cancelled_job_says_nothing_more_and_frees_its_cells() {
    let mut engine = engine(2, 100);
    let mut heard = Heard::default();
    engine.submit(&spec(1, "abc", 30));
    turn(&mut engine, &mut heard);
    turn(&mut engine, &mut heard);
    let said = heard.0[&1].len();
    engine.cancel(1);
    assert!(engine.backend.cache.is_empty());
    assert!(engine.is_idle());
    turn(&mut engine, &mut heard);
    assert_eq!(heard.0[&1].len(), said);
}

#[test]
fn a_failed_decode_fails_its_own_sequences_only() {
    let mut engine = engine(2, 100);
    let mut heard = Heard::default();
    for job in 1..=3 {
        engine.submit(&spec(job, "abc", 4));
    }
    turn(&mut engine, &mut heard);
    engine.backend.faults.push(DecodeFault::Failed("code -3".into()));
    turn(&mut engine, &mut heard);
    for job in [1, 2] {
        assert_eq!(heard.end(job), &JobEvent::Failed(failure(JobFailureKind::Decode, "decode failed: code -3")));
    }
    assert_eq!(drain(&mut engine).end(3), &finished(StopReason::Length, 3, 4));
}

#[test]
fn a_cache_smaller_than_it_said_preempts_instead_of_failing() {
    let mut engine = engine(3, 100);
    for job in 1..=3 {
        engine.submit(&spec(job, "abc", 5));
    }
    engine.backend.faults = vec![DecodeFault::NoSlot; 2];
    let heard = drain(&mut engine);
    for job in 1..=3 {
        assert_eq!((heard.text(job).as_str(), heard.end(job)), ("defgh", &finished(StopReason::Length, 3, 5)));
    }
}

#[test]
fn requests_that_cannot_be_served_fail_with_their_reason() {
    let mut engine = engine(1, 20);
    engine.submit(&spec(1, "", 1));
    engine.submit(&spec(2, "abc", 0));
    engine.submit(&spec(3, &"a".repeat(20), 1));
    engine.submit(&JobSpec { prompt: Prompt::Tokens(vec![27]), ..spec(4, "", 1) });
    engine.submit(&JobSpec { sampling: Sampling { top_p: 2.0, ..Sampling::default() }, ..spec(5, "a", 1) });
    engine.submit(&JobSpec { replay: vec![1; 18], ..spec(6, "abc", 50) });
    let heard = drain(&mut engine);
    let kind = |job| {
        if let JobEvent::Failed(failure) = heard.end(job) { failure.kind } else { panic!("job {job} did not fail") }
    };
    assert_eq!([1, 2, 4, 5].map(kind), [JobFailureKind::Invalid; 4]);
    assert_eq!([3, 6].map(kind), [JobFailureKind::ContextLength; 2]);
    let JobEvent::Failed(JobFailure { message, .. }) = heard.end(3) else { unreachable!() };
    assert!(message.contains("20 tokens"), "{message}");
}

#[test]
fn a_prompt_one_token_short_of_the_context_gives_one_token() {
    let mut engine = engine(1, 20);
    engine.submit(&spec(1, &"a".repeat(19), 9));
    assert_eq!(drain(&mut engine).end(1), &finished(StopReason::Length, 19, 1));
}

#[test]
fn a_replay_that_already_holds_the_end_finishes_at_once() {
    let mut engine = engine(1, 100);
    engine.submit(&JobSpec { replay: vec![3, 4], ..spec(1, "abc", 2) });
    engine.submit(&JobSpec { replay: vec![3, 4, 5], stop: vec!["ef".into()], ..spec(2, "abc", 9) });
    engine.submit(&JobSpec { replay: vec![3, 26], sent_bytes: 1, ..spec(3, "abc", 9) });
    let heard = drain(&mut engine);
    assert_eq!(engine.steps, 0);
    assert_eq!((heard.text(1).as_str(), heard.end(1)), ("de", &finished(StopReason::Length, 3, 2)));
    assert_eq!((heard.text(2).as_str(), heard.end(2)), ("d", &finished(StopReason::Stop, 3, 3)));
    assert_eq!((heard.text(3).as_str(), heard.end(3)), ("", &finished(StopReason::Stop, 3, 1)));
}

#[test]
fn a_canary_is_served_while_every_sequence_is_taken() {
    let mut engine = engine(1, 100);
    let mut heard = Heard::default();
    engine.submit(&spec(1, "abc", 50));
    engine.submit(&spec(2, "abc", 50));
    engine.submit(&JobSpec { canary: true, ..spec(9, "abc", 1) });
    turn(&mut engine, &mut heard);
    assert_eq!(heard.end(9), &finished(StopReason::Length, 3, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the load, the pool and the moment of death: each job ends once, and with the text it has alone.
    #[test]
    fn every_job_ends_once_with_its_own_text(
        jobs in proptest::collection::vec((1usize..20, 1u32..20, 0usize..20, any::<bool>()), 1..10),
        parallel in 1u32..5,
        pool in 40usize..90,
        full in proptest::collection::vec(any::<bool>(), 0..6),
    ) {
        let mut engine = engine(parallel, pool);
        engine.backend.faults = full.iter().filter(|full| **full && jobs.len() > 1).map(|_| DecodeFault::NoSlot).take(1).collect();
        let letters = |from: usize, count: usize| -> String { (from..from + count).map(|n| char::from(b'a' + (n % 26) as u8)).collect() };
        for (id, (prompt, max, replayed, canary)) in (0u64..).zip(&jobs) {
            let replayed = (*replayed).min(*max as usize);
            let replay: Vec<Token> = (0..replayed).map(|n| ((prompt + n) % 26) as Token).collect();
            let canary = *canary && prompt + (*max as usize) < 16;
            let base = spec(id, &letters(0, *prompt), *max);
            engine.submit(&JobSpec { replay, sent_bytes: (replayed / 2) as u64, canary, ..base });
        }
        let alone = parallel == 1 || jobs.len() == 1;
        if alone { engine.backend.faults.clear(); }
        let heard = drain(&mut engine);
        for (id, (prompt, max, replayed, _)) in (0u64..).zip(&jobs) {
            let replayed = (*replayed).min(*max as usize);
            if matches!(heard.end(id), JobEvent::Failed(_)) {
                // Only a cache with no room for a sequence alone may fail a job here.
                prop_assert!(!engine.backend.faults.is_empty() || full.contains(&true));
                continue;
            }
            prop_assert_eq!(heard.end(id), &finished(StopReason::Length, *prompt as u32, *max));
            prop_assert_eq!(heard.text(id), letters(prompt + replayed / 2, *max as usize - replayed / 2));
            prop_assert_eq!(heard.tokens(id).len(), *max as usize - replayed);
        }
    }

    /// Commands, faults and steps in any order: nobody is forgotten, nobody speaks after the end or a cancel.
    #[test]
    fn every_job_ends_once_or_was_cancelled(acts in proptest::collection::vec((0u8..10, 1usize..15, 1u32..12), 1..60)) {
        let mut engine = engine(3, 48);
        let (mut heard, mut submitted, mut silenced) = (Heard::default(), 0u64, HashMap::new());
        for (act, prompt, max) in acts {
            match act {
                0..=2 => {
                    engine.submit(&JobSpec { canary: act == 0, ..spec(submitted, &"a".repeat(prompt), max) });
                    submitted += 1;
                }
                3 if submitted > 0 => {
                    let job = prompt as u64 % submitted;
                    engine.cancel(job);
                    silenced.entry(job).or_insert(heard.0.get(&job).map_or(0, Vec::len));
                }
                4 => engine.backend.faults = vec![DecodeFault::Failed("by chance".into())],
                5 => engine.backend.faults = vec![DecodeFault::NoSlot],
                _ => turn(&mut engine, &mut heard),
            }
        }
        engine.backend.faults.clear();
        drain_into(&mut engine, &mut heard);
        for job in 0..submitted {
            let events = heard.0.get(&job).map_or(&[][..], Vec::as_slice);
            let ended = matches!(events.last(), Some(JobEvent::Finished { .. } | JobEvent::Failed(_)));
            match silenced.get(&job) {
                Some(said) => prop_assert_eq!(events.len(), *said, "job {} spoke after its cancel", job),
                None => prop_assert!(ended, "job {} was forgotten", job),
            }
        }
    }
}
