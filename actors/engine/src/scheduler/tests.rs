//! The scheduler's promises, told as small stories and checked over random ones.

use super::*;
use proptest::prelude::*;

fn limits() -> Limits {
    Limits {
        batch_tokens: 16,
        mixed_prompt_tokens: 6,
        parallel: 3,
        pool_cells: 100,
        canary_cells: 32,
        max_request_tokens: 100,
        vocab: 1000,
    }
}

fn evaluate(scheduler: &mut Scheduler) -> Vec<Chunk> {
    let plan = scheduler.plan();
    for chunk in &plan {
        scheduler.evaluated(chunk);
        if chunk.samples {
            scheduler.sampled(chunk.job);
        }
    }
    plan
}

#[test]
fn jobs_are_seated_in_order_and_the_rest_wait() {
    let mut scheduler = Scheduler::new(limits());
    for job in 10..15 {
        scheduler.enqueue(job, 5, false);
    }
    let seated: Vec<JobId> = scheduler.admit().into_iter().map(|seat| seat.job).collect();
    assert_eq!(seated, [10, 11, 12]);
    assert_eq!((scheduler.running_count(), scheduler.waiting()), (3, 2));
    assert_eq!(scheduler.remove(11), Some(1));
    assert_eq!(scheduler.admit(), [Seat { job: 13, sequence: 1 }]);
}

#[test]
fn a_canary_has_its_own_sequence_and_never_waits_behind_jobs() {
    let mut scheduler = Scheduler::new(limits());
    for job in 0..5 {
        scheduler.enqueue(job, 30, false);
    }
    scheduler.enqueue(99, 4, true);
    assert!(scheduler.admit().contains(&Seat { job: 99, sequence: 3 }));
    assert_eq!(scheduler.plan().first().map(|chunk| (chunk.job, chunk.len)), Some((99, 4)));
}

#[test]
fn decoding_sequences_come_first_and_prompts_share_what_is_left() {
    let mut scheduler = Scheduler::new(limits());
    scheduler.enqueue(1, 3, false);
    scheduler.admit();
    evaluate(&mut scheduler);
    scheduler.enqueue(2, 40, false);
    scheduler.enqueue(3, 2, false);
    scheduler.admit();
    let plan = evaluate(&mut scheduler);
    assert_eq!(plan[0], Chunk { job: 1, sequence: 0, start: 3, len: 1, samples: true });
    assert_eq!(plan[1], Chunk { job: 2, sequence: 1, start: 0, len: 4, samples: false });
    assert_eq!(plan[2], Chunk { job: 3, sequence: 2, start: 0, len: 2, samples: true });
}

#[test]
fn a_full_pool_preempts_the_newest_which_comes_back_before_later_ones() {
    let mut scheduler = Scheduler::new(Limits { pool_cells: 40, max_request_tokens: 40, ..limits() });
    scheduler.enqueue(1, 10, false);
    scheduler.enqueue(2, 10, false);
    scheduler.admit();
    scheduler.enqueue(3, 3, false);
    let mut steps = 0;
    let preempted = loop {
        evaluate(&mut scheduler);
        if let Some(seat) = scheduler.preempt_if_full() {
            break seat;
        }
        steps += 1;
        assert!(steps < 100);
    };
    assert_eq!(preempted.job, 2);
    assert!(scheduler.admit().is_empty(), "job 3 must not overtake job 2");
    scheduler.remove(1);
    let seated: Vec<JobId> = scheduler.admit().into_iter().map(|seat| seat.job).collect();
    assert_eq!(seated, [2, 3]);
    let again = scheduler.plan();
    assert!(again.iter().any(|chunk| chunk.job == 2 && chunk.start == 0), "its cells were given back: {again:?}");
}

#[test]
fn a_job_alone_is_never_preempted() {
    let mut scheduler = Scheduler::new(Limits { pool_cells: 4, max_request_tokens: 4, ..limits() });
    scheduler.enqueue(1, 9, false);
    scheduler.admit();
    assert_eq!(scheduler.preempt_if_full(), None);
    assert_eq!(scheduler.pool_was_full(), None);
}

proptest! {
    #[test]
    fn shares_are_fair_and_spend_the_budget(budget in 0usize..64, needs in proptest::collection::vec(0usize..40, 0..8)) {
        let shares = fair_shares(budget, &needs);
        prop_assert_eq!(shares.iter().sum::<usize>(), budget.min(needs.iter().sum()));
        for (share, need) in shares.iter().zip(&needs) {
            prop_assert!(share <= need);
            if share < need {
                prop_assert!(shares.iter().all(|other| *other <= share + 1));
            }
        }
    }

    #[test]
    fn every_job_gets_its_tokens_evaluated_in_order_and_the_pool_is_never_exceeded(
        jobs in proptest::collection::vec((1usize..60, 1usize..20, any::<bool>()), 1..12),
        pool in 60usize..120,
    ) {
        let limits = Limits { pool_cells: pool, max_request_tokens: 60, ..limits() };
        let mut scheduler = Scheduler::new(limits);
        let mut left: std::collections::HashMap<JobId, (usize, usize, usize)> = std::collections::HashMap::new();
        for (job, (prompt, output, canary)) in (0u64..).zip(&jobs) {
            let canary = *canary && *prompt < 10;
            scheduler.enqueue(job, *prompt, canary);
            left.insert(job, (0, *prompt, (*output).min(60 - *prompt)));
        }
        let mut steps = 0;
        while !left.is_empty() {
            steps += 1;
            prop_assert!(steps < 5_000, "jobs never end: {left:?}");
            for seat in scheduler.admit() {
                left.get_mut(&seat.job).unwrap().0 = 0;
            }
            while scheduler.preempt_if_full().is_some() {}
            let plan = scheduler.plan();
            prop_assert!(!plan.is_empty());
            prop_assert!(plan.iter().map(|chunk| chunk.len).sum::<usize>() <= limits.batch_tokens);
            for chunk in plan {
                prop_assert!(chunk.sequence <= limits.parallel);
                scheduler.evaluated(&chunk);
                let (evaluated, tokens, output) = left.get_mut(&chunk.job).unwrap();
                prop_assert_eq!(chunk.start, *evaluated);
                *evaluated += chunk.len;
                prop_assert_eq!(chunk.samples, *evaluated == *tokens);
                if chunk.samples {
                    if *output == 0 {
                        scheduler.remove(chunk.job);
                        left.remove(&chunk.job);
                    } else {
                        *output -= 1;
                        *tokens += 1;
                        scheduler.sampled(chunk.job);
                    }
                }
            }
            let canary = scheduler.canary.map_or(0, |running| running.evaluated);
            prop_assert!(scheduler.used_cells() - canary <= pool);
        }
        prop_assert!(scheduler.is_idle());
    }
}
