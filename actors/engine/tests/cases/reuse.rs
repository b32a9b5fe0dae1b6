//! Kept and shared cells never change what is said, only how soon.

use crate::{
    alone,
    support::{Engine, Heard, SECRET, greedy},
};
use spillway_actors::gpu::frame::{JobEvent, JobId, JobSpec, Prompt, Sampling};
use std::time::Instant;

fn cached(heard: &Heard) -> u32 {
    let Some(JobEvent::Finished { cached_tokens, .. }) = heard.end else { panic!("{:?}", heard.end) };
    cached_tokens
}

/// A system prompt of about `words` words that differs from others in its first one.
fn system(name: &str, words: usize) -> String {
    let subjects = ["river", "harbour", "engine", "garden", "letter", "mountain", "window", "story"];
    let text = (0..words).map(|n| subjects[(n * 5 + n / 7) % subjects.len()]).collect::<Vec<_>>().join(" ");
    format!("{name} {SECRET} {text}")
}

fn chat(job: JobId, turns: &[(&str, &str)], max_tokens: u32) -> JobSpec {
    let messages: Vec<_> =
        turns.iter().map(|(role, content)| serde_json::json!({"role": role, "content": content})).collect();
    let messages_json = serde_json::Value::Array(messages).to_string();
    JobSpec { prompt: Prompt::Chat { messages_json, tools_json: None }, ..greedy(job, "", max_tokens) }
}

/// Conversations that begin alike and part somewhere.
fn conversations() -> Vec<JobSpec> {
    let (long, short) = (system("Captain", 400), system("Gardener", 40));
    let ask = "What is the best way to cross the sea?";
    let answer = "By ship, of course, if the weather allows it.";
    [
        vec![("system", &*long), ("user", ask)],
        vec![("system", &*long), ("user", ask), ("assistant", answer), ("user", "And by night?")],
        vec![("system", &*long), ("user", "Name three fish.")],
        vec![("system", &*short), ("user", ask)],
        vec![("system", &*short), ("user", "What is the best way to cross the desert?")],
        vec![("user", ask)],
    ]
    .iter()
    .map(|turns| chat(0, turns, 20))
    .collect()
}

/// A small generator, so that a failure can be repeated.
fn shuffled(seed: u64, kinds: usize, count: usize) -> Vec<usize> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap()
    };
    (0..count).map(|_| next() % kinds).collect()
}

/// Each conversation answered by an engine that knows nothing else.
fn cold(parallel: u32, specs: &[JobSpec]) -> Vec<Heard> {
    let cold = |spec: &JobSpec| Engine::loaded(parallel, 4096, &[]).0.run_one(spec.clone());
    specs.iter().map(cold).collect()
}

#[test]
fn alone_the_greedy_text_is_the_same_whatever_was_asked_before() {
    let _cores = alone();
    let specs = conversations();
    let expected = cold(1, &specs);
    let (mut engine, _) = Engine::loaded(1, 4096, &[]);
    let (mut reused, mut job) = (0, 1);
    for kind in shuffled(3, specs.len(), 24) {
        // Between them, somebody whose cells were computed in other batches.
        let other = JobSpec {
            job,
            sampling: Sampling { temperature: 1.0, ..Sampling::default() },
            ..specs[job as usize % specs.len()].clone()
        };
        engine.run_one(other);
        let heard = engine.run_one(JobSpec { job: job + 1, ..specs[kind].clone() });
        assert_eq!(heard.tokens, expected[kind].tokens, "conversation {kind} as job {job}");
        reused += cached(&heard);
        job += 2;
    }
    eprintln!("{reused} prompt tokens were not computed again");
    assert!(reused > 0);
}

/// Batches shared with others round differently, so the text may part at a near tie; the likelihoods may not. Continuing
/// from a foreign cell would show in them at once.
#[test]
fn beside_others_the_first_token_is_as_likely_as_in_an_engine_that_knows_nothing_else() {
    let _cores = alone();
    first_tokens_are_as_likely(None);
}

#[test]
fn the_same_holds_where_each_sequence_has_its_own_cells() {
    let _cores = alone();
    first_tokens_are_as_likely(Some(1024));
}

/// `longest`: most tokens of one request.
fn first_tokens_are_as_likely(longest: Option<u32>) {
    let specs: Vec<JobSpec> =
        conversations().into_iter().map(|spec| JobSpec { logprobs: Some(5), max_tokens: 8, ..spec }).collect();
    let expected = cold(4, &specs);
    let (mut engine, _) = Engine::loaded_for(4, 4096, longest);
    let (mut reused, mut same, mut total) = (0, 0, 0);
    let mut largest = 0.0_f32;
    for round in 0..6u64 {
        let kinds = shuffled(round, specs.len(), 7);
        let jobs: Vec<JobSpec> =
            (round * 10..).zip(&kinds).map(|(job, kind)| JobSpec { job, ..specs[*kind].clone() }).collect();
        let heard = engine.run(jobs);
        for (job, kind) in (round * 10..).zip(kinds) {
            let (heard, expected) = (&heard[&job], &expected[kind]);
            let (one, other) = (&heard.logprobs[0].top[0], &expected.logprobs[0].top);
            let twin = other.iter().find(|other| other.token == one.token).expect("another distribution");
            largest = largest.max((one.logprob - twin.logprob).abs());
            reused += cached(heard);
            same += usize::from(heard.tokens == expected.tokens);
            total += 1;
        }
    }
    eprintln!(
        "{reused} prompt tokens reused; {same} of {total} texts equal to the last token; log-probabilities within {largest:.3}"
    );
    assert!(reused > 0 && same * 10 >= total * 7);
    assert!(largest < 0.3, "{largest}");
}

#[test]
fn eight_clients_with_one_system_prompt_compute_it_once() {
    let _cores = alone();
    let measure = |name: &dyn Fn(u64) -> String| {
        let (mut engine, _) = Engine::loaded(8, 16384, &[]);
        engine.run_one(greedy(100, "Warm up", 4));
        let jobs: Vec<JobSpec> = (0..8)
            .map(|job| {
                let question = format!("Question {job}: name a number.");
                chat(job, &[("system", &system(&name(job), 800)), ("user", &question)], 8)
            })
            .collect();
        let started = Instant::now();
        let heard = engine.run(jobs);
        let (prompt, cached) = heard.values().fold((0, 0), |(prompt, cached), heard| match heard.end {
            Some(JobEvent::Finished { prompt_tokens, cached_tokens, .. }) => {
                (prompt + prompt_tokens, cached + cached_tokens)
            }
            _ => panic!("{:?}", heard.end),
        });
        (started.elapsed(), prompt, cached)
    };
    let (cold, _, none) = measure(&|job| format!("Person{job}"));
    let (warm, prompt, cached) = measure(&|_| "Person".into());
    let ratio = cold.as_secs_f64() / warm.as_secs_f64();
    eprintln!(
        "eight prompts of {} tokens: {cold:?} each its own, {warm:?} one beginning, ratio {ratio:.1}",
        prompt / 8
    );
    assert!(none < 8 * 64, "{none}");
    assert!(cached * 10 >= prompt * 8, "{cached} of {prompt}");
    assert!(ratio > 2.0, "{ratio}");
}

#[test]
fn a_full_cache_of_kept_cells_gives_way_to_new_prompts_and_costs_running_ones_little() {
    let _cores = alone();
    let (mut engine, _) = Engine::loaded(4, 4096, &[]);
    let decode = |engine: &mut Engine, job| {
        let started = Instant::now();
        let heard = engine.run_one(greedy(job, "Write a long story about a ship.", 64));
        heard.tokens.len() as f64 / started.elapsed().as_secs_f64()
    };
    decode(&mut engine, 1);
    let empty = decode(&mut engine, 2);
    for job in 10..18 {
        engine.run_one(chat(job, &[("system", &system(&format!("Person{job}"), 700)), ("user", "Hi")], 2));
    }
    let beat = engine.heartbeat_where(|beat| beat.running == 0);
    // The last one's, and of the others as many as are worth their cost.
    assert!((1000..3500).contains(&beat.kv_kept) && beat.kv_used == 0, "{beat:?}");
    let full = decode(&mut engine, 3);
    eprintln!("one sequence: {empty:.0} tokens/s, beside {} kept cells {full:.0}", beat.kv_kept);
}
