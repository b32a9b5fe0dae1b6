//! Requests of several answers, with a model that only counts: its text goes on with the next letters.

use super::*;
use crate::{
    backend::counting::{Counting, spec},
    engine::tests::{Heard, is_end, turn},
};
use proptest::prelude::*;
use spillway_actors::gpu::frame::{JobEvent, StopReason};
use std::collections::HashMap;

fn run_on(engine: &mut Engine<Counting>, heard: &mut Heard) {
    for _ in 0..3000 {
        turn(engine, heard);
        if engine.is_idle() {
            return heard.hear(engine.flush());
        }
    }
    panic!("not idle after 3000 turns");
}

/// `n` answers to each prompt; jobs are numbered from `first` on.
fn batch(first: JobId, prompts: &[&str], n: u64, max_tokens: u32) -> Batch {
    let member = |prompt: usize, nth: u64| Member {
        job: first + prompt as u64 * n + nth,
        prompt: prompt as u32,
        seed: None,
        replay: vec![],
        sent_bytes: 0,
        echo: Echo::Nothing,
    };
    Batch {
        group: first,
        like: spec(0, "", max_tokens),
        prompts: prompts.iter().map(|text| Prompt::Text((*text).into())).collect(),
        members: (0..prompts.len()).flat_map(|prompt| (0..n).map(move |nth| member(prompt, nth))).collect(),
    }
}

#[test]
fn a_prompt_is_computed_once_for_all_of_its_answers() {
    let mut engine = Engine::new(Counting::new(4, 400), 5);
    let prompt = "abcdefghijklmnopqrstuvwxyz".get(..24).unwrap();
    engine.submit_all(batch(10, &[prompt], 4, 3));
    let mut heard = Heard::default();
    run_on(&mut engine, &mut heard);
    assert!((10..14).all(|job| heard.text(job) == "yza"), "{:?}", heard.0);
    assert_eq!((10..14).map(|job| heard.cached(job)).collect::<Vec<_>>(), [0, 23, 23, 23]);
    // The prompt, one token of it for each of the other answers, and two of each answer.
    assert_eq!(engine.backend.decoded, 24 + 3 + 4 * 2);
}

#[test]
fn answers_beyond_the_sequences_wait_and_use_what_the_first_left() {
    let mut engine = Engine::new(Counting::new(1, 200), 5);
    engine.submit_all(batch(1, &["abcdefghijklmnopqrst", "xy"], 3, 2));
    let mut heard = Heard::default();
    run_on(&mut engine, &mut heard);
    assert!((1..4).all(|job| heard.text(job) == "uv") && (4..7).all(|job| heard.text(job) == "za"));
    assert!(heard.cached(2) >= 16, "{}", heard.cached(2));
}

#[test]
fn a_scored_prompt_is_computed_whole_and_every_token_is_told_of_once() {
    let mut engine = Engine::new(Counting::new(2, 200), 5);
    let prompt = "abcdefghijklmnopqrstuvwxya";
    engine.submit_all(batch(1, &[prompt], 1, 2));
    let mut heard = Heard::default();
    run_on(&mut engine, &mut heard);
    let mut scored = batch(5, &[prompt], 2, 2);
    scored.like.logprobs = Some(1);
    scored.members.iter_mut().for_each(|member| member.echo = Echo::Scored);
    engine.submit_all(scored);
    run_on(&mut engine, &mut heard);
    for job in [5, 6] {
        let events = &heard.0[&job];
        assert!(matches!(events[0], JobEvent::Accepted { prompt_tokens: 26, cached_tokens: 0 }), "{events:?}");
        let JobEvent::Echoed { text, tokens, done: true } = &events[1] else { panic!("{events:?}") };
        assert_eq!(text, prompt);
        assert_eq!(
            tokens.iter().map(|token| token.token).collect::<Vec<_>>(),
            (0..26).map(|at| at % 25).collect::<Vec<_>>()
        );
        let logprobs: Vec<_> = tokens.iter().map(|token| token.logprob).collect();
        // The last letter is not the one that follows.
        assert_eq!(
            (logprobs[0], logprobs[1], logprobs[24], logprobs[25]),
            (None, Some(-0.25), Some(-0.25), Some(-4.0))
        );
        assert!(tokens[0].top.is_empty() && tokens[25].top[0].token == 25, "{:?}", tokens[25]);
        assert_eq!((heard.text(job).as_str(), heard.cached(job)), ("abcdefghijklmnopqrstuvwxyabc", 0));
    }
}

#[test]
fn a_count_needs_no_sequence_and_says_why_it_cannot() {
    let mut engine = Engine::new(Counting::new(1, 200), 5);
    engine.submit(&spec(1, "abc", 5));
    engine.count(2, &Prompt::Text("abcd".into()));
    engine.count(3, &Prompt::Chat { messages_json: "[]".into(), tools_json: None });
    let mut heard = Heard::default();
    heard.hear(engine.flush());
    let counted =
        JobEvent::Finished { reason: StopReason::Stop, prompt_tokens: 4, completion_tokens: 0, cached_tokens: 0 };
    assert_eq!(heard.0[&2], [counted]);
    assert!(matches!(heard.end(3), JobEvent::Failed(failure) if failure.kind == JobFailureKind::Invalid));
    run_on(&mut engine, &mut heard);
    assert_eq!(heard.text(1), "defgh");
}

#[test]
fn an_echo_comes_before_the_answer_as_it_was_sent_or_as_its_tokens_spell_it() {
    let mut engine = Engine::new(Counting::new(2, 200), 5);
    let mut echoed = batch(1, &["abc"], 2, 2);
    echoed.prompts = vec![Prompt::Text("abc".into())];
    echoed.members[0].echo = Echo::Text;
    engine.submit_all(echoed);
    let mut tokens = batch(5, &["?"], 1, 1);
    tokens.prompts = vec![Prompt::Tokens(vec![7, 8])];
    tokens.members[0].echo = Echo::Text;
    engine.submit_all(tokens);
    let mut heard = Heard::default();
    run_on(&mut engine, &mut heard);
    assert_eq!([1, 2, 5].map(|job| heard.text(job)), ["abcde", "de", "hij"]);
}

#[test]
fn a_prompt_that_is_refused_fails_its_own_answers_only() {
    let mut engine = Engine::new(Counting::new(2, 100), 5);
    let long = "a".repeat(60);
    engine.submit_all(batch(1, &["ab", &long], 2, 2));
    let mut stray = batch(9, &["ab"], 1, 2);
    stray.members[0].prompt = 7;
    engine.submit_all(stray);
    let mut heard = Heard::default();
    run_on(&mut engine, &mut heard);
    assert!([1, 2].iter().all(|job| heard.text(*job) == "cd"));
    for (job, kind) in
        [(3, JobFailureKind::ContextLength), (4, JobFailureKind::ContextLength), (9, JobFailureKind::Invalid)]
    {
        assert!(matches!(heard.end(job), JobEvent::Failed(failure) if failure.kind == kind), "{:?}", heard.end(job));
    }
}

#[test]
fn a_single_request_is_not_held_up_by_a_batch() {
    let mut engine = Engine::new(Counting::new(2, 400), 5);
    engine.submit_all(batch(100, &["abcd"], 100, 20));
    let mut heard = Heard::default();
    (0..5).for_each(|_| turn(&mut engine, &mut heard));
    engine.submit(&spec(1, "abc", 3));
    (0..5).for_each(|_| turn(&mut engine, &mut heard));
    assert_eq!(heard.text(1), "def");
    run_on(&mut engine, &mut heard);
    assert!((100..200).all(|job| heard.text(job) == "efghijklmnopqrstuvwx"));
}

#[test]
fn a_cancelled_batch_leaves_nothing_and_says_nothing_more() {
    let mut engine = Engine::new(Counting::new(2, 400), 5);
    engine.submit_all(batch(100, &["abcd", "xyz"], 50, 20));
    engine.submit(&spec(1, "abc", 5));
    let mut heard = Heard::default();
    (0..3).for_each(|_| turn(&mut engine, &mut heard));
    let said: HashMap<JobId, usize> = heard.0.iter().map(|(job, events)| (*job, events.len())).collect();
    engine.cancel_all(100);
    run_on(&mut engine, &mut heard);
    assert_eq!(heard.text(1), "defgh");
    for (job, events) in heard.0.iter().filter(|(job, _)| **job >= 100) {
        assert_eq!(Some(&events.len()), said.get(job), "job {job}");
    }
}

#[derive(Debug, Clone)]
enum Act {
    Batch(Vec<String>, u64, u32),
    One(String, u32),
    Cancel(u64),
    CancelAll(u64),
    Turn,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let text = || "[a-c]{1,30}";
    let act = prop_oneof![
        (proptest::collection::vec(text(), 1..4), 1u64..5, 1u32..8)
            .prop_map(|(texts, n, max)| Act::Batch(texts, n, max)),
        (text(), 1u32..8).prop_map(|(text, max)| Act::One(text, max)),
        (0u64..40).prop_map(Act::Cancel),
        (0u64..40).prop_map(Act::CancelAll),
        Just(Act::Turn),
        Just(Act::Turn),
        Just(Act::Turn),
    ];
    proptest::collection::vec(act, 1..30)
}

/// What the counting model says after this prompt.
fn answer(prompt: &str, max_tokens: u32) -> String {
    let last = prompt.bytes().last().unwrap() - b'a';
    (1..=u8::try_from(max_tokens).unwrap()).map(|n| char::from(b'a' + (last + n) % 26)).collect()
}

proptest! {
    /// Whatever comes, goes and waits: every answer that nobody cancelled ends once, with the text its prompt has alone;
    /// `turn` checks that none continues another one's.
    #[test]
    fn every_answer_of_every_request_is_its_own(acts in acts(), parallel in 1u32..5, pool in 60usize..200) {
        let mut engine = Engine::new(Counting::new(parallel, pool), 5);
        let mut heard = Heard::default();
        let (mut due, mut silent, mut next) = (HashMap::new(), Vec::new(), 0);
        let mut groups: HashMap<u64, Vec<JobId>> = HashMap::new();
        for act in acts {
            match act {
                Act::Batch(texts, n, max) => {
                    let prompts: Vec<&str> = texts.iter().map(String::as_str).collect();
                    let batch = batch(next, &prompts, n, max);
                    for member in &batch.members {
                        due.insert(member.job, answer(&texts[member.prompt as usize], max));
                        groups.entry(next).or_default().push(member.job);
                    }
                    next += batch.members.len() as u64;
                    engine.submit_all(batch);
                }
                Act::One(text, max) => {
                    due.insert(next, answer(&text, max));
                    groups.entry(next).or_default().push(next);
                    engine.submit(&spec(next, &text, max));
                    next += 1;
                }
                Act::Cancel(job) => {
                    engine.cancel(job);
                    silent.push(job);
                }
                Act::CancelAll(group) => {
                    engine.cancel_all(group);
                    silent.extend(groups.get(&group).into_iter().flatten());
                }
                Act::Turn => turn(&mut engine, &mut heard),
            }
        }
        run_on(&mut engine, &mut heard);
        for (job, text) in due.iter().filter(|(job, _)| !silent.contains(job)) {
            prop_assert!(is_end(heard.end(*job)), "job {} was forgotten", job);
            prop_assert_eq!(&heard.text(*job), text, "job {}", job);
        }
    }
}
