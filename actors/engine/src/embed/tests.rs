//! The turns of texts: nothing lost, nothing doubled, nobody starved, no batch too large.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

fn limits(batch_tokens: usize, whole: bool) -> EmbedLimits {
    EmbedLimits { batch_tokens, sequences: 5, max_tokens: if whole { batch_tokens } else { 64 }, whole }
}

fn enqueue(queue: &mut Queue, job: JobId, lengths: &[usize]) {
    queue.enqueue(job, lengths.len());
    lengths.iter().for_each(|len| queue.add(job, vec![1; *len]));
}

fn all_computed(queue: &mut Queue, runs: &[Run]) {
    for run in runs {
        queue.computed(run);
    }
}

#[test]
fn short_texts_share_a_batch_and_a_long_one_comes_in_portions() {
    let mut queue = Queue::default();
    enqueue(&mut queue, 1, &[3, 20, 2]);
    let limits = limits(8, false);
    let mut batches = Vec::new();
    while !queue.is_empty() {
        let runs = queue.plan(8, limits);
        batches.push(runs.iter().map(|run| (run.input, run.start, run.len, run.last)).collect::<Vec<_>>());
        all_computed(&mut queue, &runs);
    }
    assert_eq!(
        batches,
        [
            vec![(0, 0, 3, true)],
            vec![(1, 0, 8, false)],
            vec![(1, 8, 8, false)],
            vec![(1, 16, 4, true), (2, 0, 2, true)]
        ]
    );
}

#[test]
fn what_is_tokenised_is_computed_while_the_rest_is_still_to_come() {
    let mut queue = Queue::default();
    queue.enqueue(1, 2);
    assert!(queue.plan(8, limits(8, false)).is_empty() && !queue.is_empty());
    queue.add(1, vec![1; 3]);
    let first = queue.plan(8, limits(8, false));
    assert!(!queue.computed(&first[0]), "one more is due");
    queue.add(1, vec![1; 2]);
    let second = queue.plan(8, limits(8, false));
    assert_eq!((second[0].input, queue.computed(&second[0]), queue.is_empty()), (1, true, true));
}

#[test]
fn a_single_word_does_not_wait_for_two_thousand_texts() {
    let mut queue = Queue::default();
    enqueue(&mut queue, 1, &[8; 2000]);
    let limits = limits(8, false);
    let first = queue.plan(8, limits);
    all_computed(&mut queue, &first);
    enqueue(&mut queue, 2, &[1]);
    let steps = (1..).find(|_| {
        let runs = queue.plan(8, limits);
        let ended = runs.iter().filter(|run| queue.computed(run)).count();
        ended > 0
    });
    assert!(steps.unwrap() <= 2, "{steps:?}");
    assert!(!queue.contains(2) && queue.contains(1));
}

#[test]
fn where_texts_must_be_whole_a_small_budget_still_moves_them() {
    let mut queue = Queue::default();
    enqueue(&mut queue, 1, &[7, 1]);
    let runs = queue.plan(2, limits(8, true));
    assert_eq!(runs.iter().map(|run| run.len).collect::<Vec<_>>(), [7]);
    assert!(runs[0].is_whole());
}

#[test]
fn a_lost_long_text_begins_again_once() {
    let mut queue = Queue::default();
    enqueue(&mut queue, 1, &[20]);
    let run = queue.plan(8, limits(8, false))[0];
    queue.computed(&run);
    assert!(queue.begin_again(&run));
    let run = queue.plan(8, limits(8, false))[0];
    assert_eq!(run.start, 0);
    assert!(!queue.begin_again(&run));
    assert_eq!(queue.remove(1), Some(LONG));
    assert!(queue.is_empty() && queue.plan(8, limits(8, false)).is_empty());
}

#[derive(Debug, Clone)]
enum Act {
    Come(Vec<usize>),
    Leave(usize),
    Step(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        proptest::collection::vec(1usize..30, 1..12).prop_map(Act::Come),
        (0usize..8).prop_map(Act::Leave),
        (0usize..20).prop_map(Act::Step),
        (0usize..20).prop_map(Act::Step),
    ];
    proptest::collection::vec(act, 1..60)
}

proptest! {
    #[test]
    fn every_token_of_every_text_is_computed_once_in_order(acts in acts(), whole in any::<bool>()) {
        let limits = limits(if whole { 30 } else { 12 }, whole);
        let mut queue = Queue::default();
        let mut lengths: HashMap<JobId, Vec<usize>> = HashMap::new();
        // (job, input) → tokens computed.
        let mut done: HashMap<(JobId, usize), usize> = HashMap::new();
        let (mut next, mut gone) = (0, Vec::new());
        let steps = acts.into_iter().chain(std::iter::repeat_n(Act::Step(12), 4000));
        for act in steps {
            match act {
                Act::Come(texts_of) => {
                    next += 1;
                    enqueue(&mut queue, next, &texts_of);
                    lengths.insert(next, texts_of);
                }
                Act::Leave(which) => {
                    let id = JobId::try_from(which).unwrap();
                    if queue.contains(id) {
                        queue.remove(id);
                        gone.push(id);
                    }
                }
                Act::Step(budget) => {
                    let waits = !queue.is_empty();
                    let runs = queue.plan(budget, limits);
                    prop_assert_eq!(waits, !runs.is_empty(), "a step moves somebody on");
                    let tokens: usize = runs.iter().map(|run| run.len).sum();
                    prop_assert!(tokens <= limits.batch_tokens);
                    let mut sequences: Vec<_> = runs.iter().map(|run| run.sequence).collect();
                    sequences.sort_unstable();
                    sequences.dedup();
                    prop_assert_eq!(sequences.len(), runs.len(), "one text in each sequence");
                    for run in &runs {
                        prop_assert!(run.len > 0 && run.sequence < limits.sequences && (!whole || run.is_whole()));
                        prop_assert_eq!(queue.tokens(run).len(), run.len);
                        let at = done.entry((run.job, run.input)).or_default();
                        prop_assert_eq!(*at, run.start);
                        *at += run.len;
                        prop_assert_eq!(run.last, *at == lengths[&run.job][run.input]);
                    }
                    for run in &runs {
                        queue.computed(run);
                    }
                }
            }
        }
        prop_assert!(queue.is_empty());
        for (job, lengths) in lengths.iter().filter(|(job, _)| !gone.contains(job)) {
            for (input, len) in lengths.iter().enumerate() {
                prop_assert_eq!(done.get(&(*job, input)), Some(len));
            }
        }
    }
}
