//! The engine's contract with the gateway, checked with a model that only counts.

use super::*;
use crate::backend::counting::{Counting, spec};
use proptest::prelude::*;
use spillway_actors::gpu::frame::{Prompt, Sampling, StopReason};

/// Everything said about each job, after checking the numbering. For the tests of batches and vectors, too.
#[derive(Default)]
pub(super) struct Heard(pub(super) HashMap<JobId, Vec<JobEvent>>);

impl Heard {
    pub(super) fn hear(&mut self, frame: Option<FromEngine>) {
        let Some(FromEngine::Step { outputs, epoch: 5, .. }) = frame else { return assert!(frame.is_none()) };
        for output in outputs {
            let events = self.0.entry(output.job).or_default();
            assert_eq!(output.seq as usize, events.len(), "outputs of job {} have a gap", output.job);
            assert!(!events.last().is_some_and(is_end), "spoke after its end");
            events.push(output.event);
        }
    }

    pub(super) fn text(&self, job: JobId) -> String {
        let text = |event: &JobEvent| match event {
            JobEvent::Piece { text, .. } | JobEvent::Echoed { text, .. } => text.clone(),
            _ => String::new(),
        };
        self.0[&job].iter().map(text).collect()
    }

    fn tokens(&self, job: JobId) -> Vec<Token> {
        let tokens =
            |event: &JobEvent| if let JobEvent::Piece { tokens, .. } = event { tokens.clone() } else { vec![] };
        self.0[&job].iter().flat_map(tokens).collect()
    }

    pub(super) fn end(&self, job: JobId) -> &JobEvent {
        self.0[&job].last().unwrap()
    }

    pub(super) fn cached(&self, job: JobId) -> u32 {
        let JobEvent::Finished { cached_tokens, .. } = self.end(job) else { panic!("job {job} did not finish") };
        *cached_tokens
    }
}

pub(super) fn is_end(event: &JobEvent) -> bool {
    matches!(event, JobEvent::Finished { .. } | JobEvent::Failed(_))
}

pub(super) fn turn(engine: &mut Engine<Counting>, heard: &mut Heard) {
    heard.hear(engine.flush());
    if let Some((_, plan)) = engine.begin() {
        // What the model is about to continue from is this job's own text, token for token.
        for chunk in &plan {
            let own = &engine.jobs[&chunk.job].job.tokens()[..chunk.start];
            assert_eq!(engine.backend.held(chunk.sequence), own, "job {} continues another text", chunk.job);
        }
        heard.hear(Some(engine.run(&plan)));
    }
}

/// No job holds a cell, and the books of what is kept are true.
fn assert_left_in_order(engine: &Engine<Counting>) {
    assert_eq!(engine.scheduler.used_cells(), 0, "cells of a job that has left");
    for sequence in 0..=engine.backend.limits().parallel {
        assert_eq!(engine.scheduler.kept_tokens(sequence), engine.backend.held(sequence), "sequence {sequence}");
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
            assert_left_in_order(engine);
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
    assert_eq!((heard.text(1).as_str(), heard.end(1)), ("de", &finished(StopReason::StopText(0), 3, 4)));
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
    assert_left_in_order(&engine);
    assert!(engine.is_idle());
    turn(&mut engine, &mut heard);
    assert_eq!(heard.0[&1].len(), said);
}

#[test]
fn a_failed_decode_fails_only_who_fails_alone() {
    for broken in 0..4 {
        let mut engine = engine(4, 100);
        let mut heard = Heard::default();
        for job in 0..5 {
            engine.submit(&spec(job, "abc", 4));
        }
        turn(&mut engine, &mut heard);
        engine.backend.broken.insert(broken);
        turn(&mut engine, &mut heard);
        engine.backend.broken.clear();
        drain_into(&mut engine, &mut heard);
        for job in 0..5 {
            if job == u64::from(broken) {
                let failed = failure(JobFailureKind::Decode, "decode failed: broken");
                assert_eq!(heard.end(job), &JobEvent::Failed(failed));
            } else {
                assert_eq!((heard.text(job).as_str(), heard.end(job)), ("defg", &finished(StopReason::Length, 3, 4)));
            }
        }
    }
}

#[test]
fn a_decode_that_fails_once_fails_nobody_but_a_job_alone() {
    let mut two = engine(2, 100);
    let mut heard = Heard::default();
    for job in 1..=2 {
        two.submit(&spec(job, "abc", 4));
    }
    two.backend.faults.push(DecodeFault::Failed("code -3".into()));
    drain_into(&mut two, &mut heard);
    assert_eq!((heard.text(1), heard.text(2)), ("defg".into(), "defg".into()));
    two.submit(&spec(3, "abc", 4));
    two.backend.faults.push(DecodeFault::Failed("code -3".into()));
    drain_into(&mut two, &mut heard);
    assert_eq!(heard.end(3), &JobEvent::Failed(failure(JobFailureKind::Decode, "decode failed: code -3")));
}

const LETTERS: &str = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz";

#[test]
fn a_prompt_that_begins_like_an_earlier_one_is_computed_from_where_they_differ() {
    let mut engine = engine(2, 300);
    engine.submit(&spec(1, &LETTERS[..30], 4));
    assert_eq!(drain(&mut engine).cached(1), 0);
    let before = engine.backend.decoded;
    engine.submit(&spec(2, &format!("{}qq", &LETTERS[..25]), 4));
    let heard = drain(&mut engine);
    assert_eq!((heard.cached(2), engine.backend.decoded - before), (25, 2 + 3));
    assert_eq!(heard.0[&2][0], JobEvent::Accepted { prompt_tokens: 27, cached_tokens: 25 });
    engine.submit(&spec(3, &format!("b{}", &LETTERS[1..30]), 1));
    assert_eq!(drain(&mut engine).cached(3), 0, "one other token at the beginning makes it another text");
}

#[test]
fn another_scope_learns_nothing_of_what_was_computed_at_once_or_later() {
    let mut engine = engine(6, 300);
    let scoped = |job, cache_scope| JobSpec { cache_scope, ..spec(job, &LETTERS[..25], 2) };
    engine.submit(&scoped(1, 7));
    engine.submit(&scoped(2, 8));
    engine.submit(&scoped(3, 7));
    let heard = drain(&mut engine);
    assert_eq!((heard.cached(1), heard.cached(2), heard.cached(3)), (0, 0, 24));
    for (job, scope, cached) in [(4, 9, 0), (5, 8, 24), (6, 0, 0), (7, 7, 24)] {
        engine.submit(&scoped(job, scope));
        assert_eq!(drain(&mut engine).cached(job), cached, "scope {scope}");
    }
}

#[test]
fn a_conversation_goes_on_from_its_own_answer() {
    let mut engine = engine(2, 300);
    engine.submit(&spec(1, &LETTERS[..20], 10));
    let heard = drain(&mut engine);
    let next = format!("{}{}qq", &LETTERS[..20], heard.text(1));
    engine.submit(&spec(2, &next, 2));
    assert_eq!(drain(&mut engine).cached(2), 20 + 9, "the last answer token was sampled, not computed");
}

#[test]
fn eight_prompts_with_one_beginning_compute_it_once() {
    let mut engine = engine(8, 300);
    for job in 0..8u8 {
        let own = String::from_utf8(vec![b'a' + job; 4]).unwrap();
        engine.submit(&spec(u64::from(job), &format!("{}{own}", &LETTERS[..40]), 1));
    }
    let heard = drain(&mut engine);
    assert!(engine.backend.decoded <= 40 + 8 * 4, "{}", engine.backend.decoded);
    assert_eq!((0..8).filter(|job| heard.cached(*job) >= 40).count(), 7);
}

#[test]
fn followers_of_a_cancelled_leader_find_another() {
    let mut engine = engine(4, 300);
    let mut heard = Heard::default();
    for job in 0..4u8 {
        let own = String::from_utf8(vec![b'a' + job; 4]).unwrap();
        engine.submit(&spec(u64::from(job), &format!("{}{own}", &LETTERS[..40]), 2));
    }
    turn(&mut engine, &mut heard);
    engine.cancel(0);
    drain_into(&mut engine, &mut heard);
    assert!(engine.backend.decoded <= 40 + 16 + 4 * 5, "{}", engine.backend.decoded);
    assert!((1..4).all(|job| matches!(heard.end(job), JobEvent::Finished { .. })));
}

#[test]
fn where_cells_cannot_be_kept_everything_is_computed() {
    let mut counting = Counting::new(2, 300);
    counting.limits_mut().prefix_reuse = false;
    let mut engine = Engine::new(counting, 5);
    for job in 0..3 {
        engine.submit(&spec(job, &LETTERS[..30], 2));
    }
    let heard = drain(&mut engine);
    assert_eq!((0..3).map(|job| heard.cached(job)).sum::<u32>(), 0);
    assert!(engine.backend.cache.values().all(Vec::is_empty));
}

#[test]
fn a_backend_that_cannot_share_after_all_computes_everything_and_says_so() {
    let mut engine = engine(2, 300);
    engine.backend.pliable = false;
    let mut heard = Heard::default();
    for job in 0..3 {
        engine.submit(&spec(job, &LETTERS[..30], 2));
        drain_into(&mut engine, &mut heard);
    }
    let before = engine.backend.decoded;
    assert_eq!((before, heard.cached(2)), (3 * 31, 0));
}

#[test]
#[should_panic(expected = "continues another text")]
fn a_poisoned_index_would_be_noticed_by_these_tests() {
    let mut engine = engine(1, 300);
    engine.submit(&spec(1, &LETTERS[..30], 2));
    drain(&mut engine);
    engine.backend.cache.get_mut(&0).unwrap()[7].0 = 25;
    engine.submit(&spec(2, &LETTERS[..30], 2));
    // Seed-less and not greedy, so that the cells are taken as they are.
    drain(&mut engine);
}

#[test]
fn at_one_sequence_a_repeatable_replay_is_computed_in_the_batches_of_its_first_run() {
    let batches = |replay: Vec<Token>, warm: bool| {
        let mut engine = engine(1, 300);
        let base = || JobSpec {
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            ..spec(1, &LETTERS[..37], 12)
        };
        if warm {
            engine.submit(&JobSpec { job: 9, ..spec(9, &LETTERS[..30], 6) });
            drain(&mut engine);
        }
        engine.submit(&JobSpec { replay, ..base() });
        let mut batches = vec![];
        while let Some((_, plan)) = engine.begin() {
            batches.extend(plan.iter().map(|chunk| (chunk.start, chunk.len)));
            engine.run(&plan);
        }
        batches
    };
    let whole = batches(vec![], false);
    assert_eq!(&whole[..4], [(0, 16), (16, 16), (32, 5), (37, 1)]);
    let answer: Vec<Token> = (37..44).map(|token| token % 26).collect();
    assert_eq!(batches(answer.clone(), false), whole);
    assert_eq!(batches(answer, true), whole[1..], "one whole batch was kept from the other job");
}

#[test]
fn logprobs_come_with_their_tokens() {
    let mut engine = engine(1, 100);
    engine.submit(&JobSpec { logprobs: Some(2), stop: vec!["fg".into()], ..spec(1, "abc", 3) });
    let heard = drain(&mut engine);
    for event in &heard.0[&1] {
        if let JobEvent::Piece { tokens, logprobs, .. } = event {
            let chosen: Vec<Token> = logprobs.iter().map(|logprob| logprob.chosen.token).collect();
            assert_eq!(&chosen, tokens);
            assert!(logprobs.iter().all(|logprob| logprob.top.len() == 2 && logprob.top[1].bytes == b"b"));
        }
    }
    assert_eq!(heard.tokens(1).len(), 3);
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
    assert_eq!((heard.text(2).as_str(), heard.end(2)), ("d", &finished(StopReason::StopText(0), 3, 3)));
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
            let JobEvent::Finished { reason: StopReason::Length, prompt_tokens, completion_tokens, cached_tokens } = heard.end(id) else {
                panic!("{:?}", heard.end(id))
            };
            prop_assert_eq!((*prompt_tokens, *completion_tokens), (*prompt as u32, *max));
            prop_assert!(cached_tokens <= prompt_tokens);
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

    /// Prompts that differ in a single token somewhere, in any interleaving with cancels and a full pool: `turn` checks
    /// that each job continues its own text and no other's.
    #[test]
    fn near_twins_never_continue_each_other(
        jobs in proptest::collection::vec((1usize..50, 0usize..50, 0i32..26, 0u8..4, 0usize..6), 1..24),
        parallel in 1u32..5,
        pool in 60usize..200,
    ) {
        let mut engine = engine(parallel, pool);
        let mut heard = Heard::default();
        for (id, (len, at, other, act, turns)) in (0u64..).zip(jobs) {
            let mut tokens: Vec<Token> = (0..len as Token).map(|n| n % 26).collect();
            if let Some(token) = tokens.get_mut(at) {
                *token = other;
            }
            let sampling = Sampling { temperature: if act == 1 { 0.0 } else { 1.0 }, ..Sampling::default() };
            engine.submit(&JobSpec { prompt: Prompt::Tokens(tokens), sampling, ..spec(id, "", 5) });
            for _ in 0..turns {
                turn(&mut engine, &mut heard);
            }
            if act == 0 {
                engine.cancel(id / 2);
            }
        }
        drain_into(&mut engine, &mut heard);
    }
}
