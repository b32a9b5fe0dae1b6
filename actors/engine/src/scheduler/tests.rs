//! The scheduler's promises, told as small stories and checked over random ones.

use super::*;
use proptest::prelude::*;

fn limits() -> Limits {
    Limits {
        batch_tokens: 16,
        first_prompt_tokens: usize::MAX,
        parallel: 3,
        pool_cells: 100,
        canary_cells: 32,
        max_request_tokens: 100,
        vocab: 1000,
        prefix_reuse: true,
        kept_cells: usize::MAX,
        apart: false,
    }
}

/// Tokens of jobs that share nothing: the job's number, over and over.
fn tokens_of(job: JobId) -> &'static [Token] {
    static TOKENS: std::sync::LazyLock<Vec<Vec<Token>>> =
        std::sync::LazyLock::new(|| (0..100).map(|job| vec![job; 4096]).collect());
    &TOKENS[job as usize]
}

fn ask(job: JobId, tokens: usize) -> Ask {
    Ask { job, group: job, scope: 0, prompt: tokens, tokens, exact: false, scored: false }
}

fn admit(scheduler: &mut Scheduler) -> Vec<JobId> {
    scheduler.admit(&tokens_of).into_iter().map(|seat| seat.job).collect()
}

fn evaluate(scheduler: &mut Scheduler) -> Vec<Chunk> {
    let plan = scheduler.plan();
    scheduler.take_changes();
    for chunk in &plan {
        scheduler.evaluated(chunk, &tokens_of(chunk.job)[..chunk.len]);
        if chunk.samples {
            scheduler.sampled(chunk.job);
        }
    }
    plan
}

fn run_of(job: JobId, sequence: Sequence, start: usize, len: usize, samples: bool) -> Chunk {
    Chunk { job, sequence, start, len, samples, canonical: false }
}

#[test]
fn jobs_are_seated_in_order_and_the_rest_wait() {
    let mut scheduler = Scheduler::new(limits());
    for job in 10..15 {
        scheduler.enqueue(ask(job, 5), false);
    }
    assert_eq!(admit(&mut scheduler), [10, 11, 12]);
    assert_eq!((scheduler.running_count(), scheduler.waiting()), (3, 2));
    scheduler.remove(11, true);
    assert_eq!(scheduler.admit(&tokens_of), [Seat { job: 13, sequence: 1, reused: 0 }]);
}

#[test]
fn a_canary_has_its_own_sequence_and_never_waits_behind_jobs() {
    let mut scheduler = Scheduler::new(limits());
    for job in 0..5 {
        scheduler.enqueue(ask(job, 30), false);
    }
    scheduler.enqueue(ask(99, 4), true);
    assert!(scheduler.admit(&tokens_of).contains(&Seat { job: 99, sequence: 3, reused: 0 }));
    assert_eq!(scheduler.plan().first().map(|chunk| (chunk.job, chunk.len)), Some((99, 4)));
}

#[test]
fn decoding_sequences_come_first_and_short_prompts_are_done_beside_long_ones() {
    let mut scheduler = Scheduler::new(Limits { pool_cells: 5000, max_request_tokens: 5000, ..limits() });
    scheduler.enqueue(ask(1, 3), false);
    admit(&mut scheduler);
    evaluate(&mut scheduler);
    scheduler.enqueue(ask(2, 1500), false);
    scheduler.enqueue(ask(3, 2), false);
    admit(&mut scheduler);
    let plan = evaluate(&mut scheduler);
    assert_eq!(plan, [run_of(1, 0, 3, 1, true), run_of(3, 2, 0, 2, true), run_of(2, 1, 0, 13, false)]);
}

#[test]
fn prompts_get_less_of_a_step_when_they_are_slow() {
    let mut scheduler = Scheduler::new(limits());
    scheduler.enqueue(ask(1, 3), false);
    admit(&mut scheduler);
    let prompt = evaluate(&mut scheduler);
    scheduler.took(&prompt, Duration::from_millis(1200));
    let alone = evaluate(&mut scheduler);
    scheduler.took(&alone, Duration::from_millis(30));
    scheduler.enqueue(ask(2, 40), false);
    admit(&mut scheduler);
    let plan = evaluate(&mut scheduler);
    assert_eq!(
        plan.iter().map(|chunk| chunk.len).collect::<Vec<_>>(),
        [1, 2],
        "a second for a short prompt: 30 ms, and 400 for each token"
    );
}

#[test]
fn a_full_pool_preempts_the_newest_which_comes_back_before_later_ones() {
    let mut scheduler = Scheduler::new(Limits { pool_cells: 40, max_request_tokens: 40, ..limits() });
    scheduler.enqueue(ask(1, 10), false);
    scheduler.enqueue(ask(2, 10), false);
    admit(&mut scheduler);
    scheduler.enqueue(ask(3, 3), false);
    let mut steps = 0;
    let preempted = loop {
        evaluate(&mut scheduler);
        if let Some(job) = scheduler.preempt_if_full() {
            break job;
        }
        steps += 1;
        assert!(steps < 100);
    };
    assert_eq!(preempted, 2);
    assert!(admit(&mut scheduler).is_empty(), "job 3 must not overtake job 2");
    scheduler.remove(1, false);
    let seated = scheduler.admit(&tokens_of);
    assert_eq!(seated.iter().map(|seat| seat.job).collect::<Vec<_>>(), [2, 3]);
    assert!(seated[0].reused > 0, "nobody needed its cells meanwhile");
}

#[test]
fn a_request_of_many_answers_fills_what_is_free_and_gives_it_up_to_whoever_comes() {
    let mut scheduler = Scheduler::new(limits());
    for job in 0..6 {
        scheduler.enqueue(Ask { group: 50, ..ask(job, 5) }, false);
    }
    assert_eq!(admit(&mut scheduler), [0, 1, 2]);
    scheduler.enqueue(ask(10, 5), false);
    scheduler.enqueue(ask(11, 5), false);
    assert_eq!(admit(&mut scheduler), [10, 11], "the newest of the six gave way");
    assert_eq!(scheduler.find(0).map(|running| running.ask.job), Some(0));
    scheduler.enqueue(ask(12, 5), false);
    assert!(admit(&mut scheduler).is_empty(), "nobody has more than one now");
    scheduler.remove(10, true);
    assert_eq!(admit(&mut scheduler), [12], "before the five that still wait");
    scheduler.remove(11, true);
    assert_eq!(admit(&mut scheduler), [1]);
}

#[test]
fn a_full_pool_takes_from_whoever_has_several_first() {
    let mut scheduler = Scheduler::new(Limits { pool_cells: 60, max_request_tokens: 60, ..limits() });
    scheduler.enqueue(Ask { group: 50, ..ask(0, 10) }, false);
    scheduler.enqueue(Ask { group: 50, ..ask(1, 10) }, false);
    scheduler.enqueue(ask(2, 10), false);
    assert_eq!(admit(&mut scheduler), [0, 2, 1], "everybody's first before anybody's second");
    for _ in 0..100 {
        evaluate(&mut scheduler);
        if let Some(job) = scheduler.preempt_if_full() {
            return assert_eq!(job, 1);
        }
    }
    panic!("the pool was never full");
}

#[test]
fn a_burst_begins_to_speak_together_and_a_long_prompt_holds_nobody_up() {
    let limits = Limits { pool_cells: 5000, max_request_tokens: 5000, ..limits() };
    let mut scheduler = Scheduler::new(limits);
    for (job, tokens) in [(1, 4), (2, 20), (3, 30)] {
        scheduler.enqueue(ask(job, tokens), false);
    }
    admit(&mut scheduler);
    let speaking: Vec<JobId> = loop {
        let plan = evaluate(&mut scheduler);
        let speaking: Vec<JobId> = plan.iter().filter(|chunk| chunk.samples).map(|chunk| chunk.job).collect();
        if !speaking.is_empty() {
            break speaking;
        }
    };
    assert_eq!(speaking.len(), 3, "{speaking:?}");
    let mut scheduler = Scheduler::new(limits);
    scheduler.enqueue(ask(1, 1500), false);
    scheduler.enqueue(ask(2, 4), false);
    admit(&mut scheduler);
    assert!(evaluate(&mut scheduler).contains(&run_of(2, 1, 0, 4, true)));
}

/// One speaks, and it is known what a prompt token takes.
fn one_speaks(batch_tokens: usize, prompt_token: Duration) -> Scheduler {
    let mut scheduler =
        Scheduler::new(Limits { batch_tokens, parallel: 9, pool_cells: 9000, max_request_tokens: 9000, ..limits() });
    scheduler.enqueue(ask(1, 40), false);
    admit(&mut scheduler);
    while scheduler.find(1).is_some_and(|running| !running.speaks()) {
        step(&mut scheduler, prompt_token);
    }
    step(&mut scheduler, prompt_token);
    scheduler
}

/// A decoded token takes as long as one of a prompt.
fn step(scheduler: &mut Scheduler, token: Duration) -> (Vec<Chunk>, Duration) {
    let plan = evaluate(scheduler);
    let took = token * u32::try_from(plan.iter().map(|chunk| chunk.len).sum::<usize>()).unwrap();
    scheduler.took(&plan, took);
    (plan, took)
}

fn speaks(plan: &[Chunk], job: JobId) -> bool {
    plan.iter().any(|chunk| chunk.job == job && chunk.samples)
}

/// How long the one who speaks has been silent, and was at most.
#[derive(Debug, Default)]
struct Silence {
    lasts: Duration,
    longest: Duration,
}

impl Silence {
    fn step(&mut self, scheduler: &mut Scheduler, token: Duration) {
        let (plan, took) = step(scheduler, token);
        self.lasts = if speaks(&plan, 1) { took } else { self.lasts + took };
        self.longest = self.longest.max(self.lasts);
    }
}

#[test]
fn who_speaks_pauses_once_where_the_burst_is_soon_computed_and_is_then_left_in_peace() {
    let token = Duration::from_millis(40);
    let mut scheduler = one_speaks(16, token);
    (2..5).for_each(|job| scheduler.enqueue(ask(job, 10), false));
    admit(&mut scheduler);
    let (pause, _) = step(&mut scheduler, token);
    assert!(pause.iter().all(|chunk| chunk.job != 1 && !chunk.samples), "{pause:?}");
    let (together, _) =
        std::iter::repeat_with(|| step(&mut scheduler, token)).find(|(plan, _)| speaks(plan, 2)).unwrap();
    assert_eq!(
        together.iter().map(|chunk| (chunk.job, chunk.samples)).collect::<Vec<_>>(),
        [(1, true), (2, true), (3, true), (4, true)]
    );
    (2..5).for_each(|job| scheduler.remove(job, false));
    (5..8).for_each(|job| scheduler.enqueue(ask(job, 10), false));
    admit(&mut scheduler);
    let (beside, took) = step(&mut scheduler, token);
    assert!(speaks(&beside, 1), "{beside:?}");
    assert!(took <= Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_pause_is_bounded_whoever_comes_in_it() {
    let token = Duration::from_millis(33);
    let mut scheduler = one_speaks(256, token);
    (2..4).for_each(|job| scheduler.enqueue(ask(job, 150), false));
    let mut silence = Silence::default();
    for job in 4..40 {
        admit(&mut scheduler);
        silence.step(&mut scheduler, token);
        scheduler.enqueue(ask(job, 250), false);
    }
    assert!(silence.longest <= Duration::from_secs(12), "{silence:?}");
}

#[test]
fn a_pause_is_bounded_whoever_leaves_in_it() {
    let token = Duration::from_millis(40);
    let mut scheduler = one_speaks(16, token);
    let mut silence = Silence::default();
    for pair in 1..40 {
        let jobs = [2 * pair, 2 * pair + 1];
        jobs.iter().for_each(|job| scheduler.enqueue(ask(*job, 20), false));
        admit(&mut scheduler);
        silence.step(&mut scheduler, token);
        jobs.iter().for_each(|job| scheduler.remove(*job, false));
    }
    assert!(silence.longest <= Duration::from_secs(11), "{silence:?}");
}

#[test]
fn a_burst_that_takes_too_long_is_computed_beside_who_speaks_within_a_second_a_step() {
    let token = Duration::from_millis(80);
    let mut scheduler = one_speaks(256, token);
    (2..8).for_each(|job| scheduler.enqueue(ask(job, 60), false));
    admit(&mut scheduler);
    for _ in 0..20 {
        let (plan, took) = step(&mut scheduler, token);
        assert!(speaks(&plan, 1), "{plan:?}");
        assert!(took <= Duration::from_millis(1080), "{took:?}");
    }
}

#[test]
fn a_long_prompt_does_not_ride_on_the_second_of_a_short_one() {
    let token = Duration::from_millis(5);
    let mut scheduler = one_speaks(256, token);
    scheduler.enqueue(ask(2, 3000), false);
    for job in 3..40 {
        scheduler.enqueue(ask(job, 2), false);
        admit(&mut scheduler);
        let (plan, took) = step(&mut scheduler, token);
        assert!(took <= token * 6, "{plan:?}");
        scheduler.remove(job, false);
    }
}

#[test]
fn a_burst_before_anybody_speaks_is_no_pause() {
    let token = Duration::from_millis(100);
    let mut scheduler = Scheduler::new(Limits { parallel: 6, pool_cells: 1000, max_request_tokens: 1000, ..limits() });
    (1..3).for_each(|job| scheduler.enqueue(ask(job, 10), false));
    admit(&mut scheduler);
    while !speaks(&step(&mut scheduler, token).0, 1) {}
    (3..5).for_each(|job| scheduler.enqueue(ask(job, 10), false));
    admit(&mut scheduler);
    let (plan, _) = step(&mut scheduler, token);
    assert!(!speaks(&plan, 1), "a pause is still to be had: {plan:?}");
}

#[test]
fn who_lost_its_cells_brings_its_whole_prompt_again() {
    let mut scheduler = Scheduler::new(Limits { pool_cells: 9000, max_request_tokens: 9000, ..limits() });
    scheduler.enqueue(ask(1, 1500), false);
    admit(&mut scheduler);
    while !speaks(&evaluate(&mut scheduler), 1) {}
    scheduler.remove(1, true);
    scheduler.enqueue(ask(1, 1510), false);
    admit(&mut scheduler);
    let short =
        |scheduler: &mut Scheduler| scheduler.find(1).copied().is_some_and(|running| scheduler.is_short(&running));
    assert!(short(&mut scheduler));
    scheduler.lost(0);
    assert!(!short(&mut scheduler));
}

#[test]
fn a_burst_ends_with_its_tokens_though_others_wait() {
    let limits = Limits { batch_tokens: 512, parallel: 6, pool_cells: 9000, max_request_tokens: 9000, ..limits() };
    let mut scheduler = Scheduler::new(limits);
    (1..6).for_each(|job| scheduler.enqueue(ask(job, 600), false));
    admit(&mut scheduler);
    let speaking: Vec<JobId> = (0..6)
        .map(|_| evaluate(&mut scheduler))
        .find(|plan| plan.iter().any(|chunk| chunk.samples))
        .map(|plan| plan.iter().filter(|chunk| chunk.samples).map(|chunk| chunk.job).collect())
        .unwrap_or_default();
    assert_eq!(speaking, [1, 2, 3], "2,048 tokens hold three of them");
}

#[test]
fn the_first_batch_leaves_room_for_those_who_come_at_the_same_time() {
    let mut scheduler = Scheduler::new(Limits { first_prompt_tokens: 5, ..limits() });
    scheduler.enqueue(ask(1, 30), false);
    admit(&mut scheduler);
    assert_eq!(evaluate(&mut scheduler), [run_of(1, 0, 0, 5, false)]);
    assert_eq!(evaluate(&mut scheduler), [run_of(1, 0, 5, 16, false)]);
}

#[test]
fn no_more_is_kept_than_may_be_while_others_run() {
    let mut scheduler = Scheduler::new(Limits { kept_cells: 10, ..limits() });
    scheduler.enqueue(ask(1, 30), false);
    admit(&mut scheduler);
    evaluate(&mut scheduler);
    evaluate(&mut scheduler);
    scheduler.remove(1, true);
    assert_eq!(scheduler.kept_cells(), 30, "as long as nobody runs, it costs nothing");
    scheduler.enqueue(ask(2, 3), false);
    admit(&mut scheduler);
    let _ = scheduler.plan();
    assert!(scheduler.kept_cells() <= 10);
    assert!(matches!(scheduler.take_changes()[..], [Change::Truncate { sequence: 0, len: 0..=10 }]));
}

#[test]
fn sequences_apart_are_low_ones_and_a_common_beginning_is_copied_once() {
    fn alike(_: JobId) -> &'static [Token] {
        tokens_of(7)
    }
    let apart = Limits { apart: true, pool_cells: 300, max_request_tokens: 100, parallel: 3, ..limits() };
    let mut scheduler = Scheduler::new(apart);
    for job in [1, 2] {
        scheduler.enqueue(ask(job, 40), false);
    }
    assert_eq!(scheduler.admit(&alike).iter().map(|seat| seat.sequence).collect::<Vec<_>>(), [0, 1]);
    let mut copies = Vec::new();
    for _ in 0..6 {
        scheduler.catch_up(&alike);
        let plan = scheduler.plan();
        copies.extend(scheduler.take_changes());
        for chunk in &plan {
            scheduler.evaluated(chunk, &alike(chunk.job)[..chunk.len]);
            if chunk.samples {
                scheduler.sampled(chunk.job);
            }
        }
    }
    assert_eq!(copies, [Change::Share { from: 0, to: 1, start: 0, end: 39 }]);
    scheduler.remove(1, true);
    scheduler.remove(2, true);
    for job in [3, 4] {
        scheduler.enqueue(ask(job, 3), false);
    }
    assert_eq!(scheduler.admit(&alike).iter().map(|seat| seat.sequence).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn a_job_alone_is_never_preempted() {
    let mut scheduler = Scheduler::new(Limits { pool_cells: 4, max_request_tokens: 4, ..limits() });
    scheduler.enqueue(ask(1, 9), false);
    admit(&mut scheduler);
    assert_eq!(scheduler.preempt_if_full(), None);
    assert!(!scheduler.pool_was_full());
}

proptest! {
    #[test]
    fn every_job_gets_its_tokens_evaluated_in_order_and_the_pool_is_never_exceeded(
        jobs in proptest::collection::vec((1usize..60, 1usize..20, any::<bool>()), 1..12),
        pool in 60usize..120,
        prompts_kept in any::<bool>(), apart in any::<bool>(), kept_cells in 0usize..120,
    ) {
        let pool = if apart { 180 } else { pool };
        let limits = Limits { pool_cells: pool, max_request_tokens: 60, apart, kept_cells, ..limits() };
        let mut scheduler = Scheduler::new(limits);
        let mut left: std::collections::HashMap<JobId, (usize, usize, usize)> = std::collections::HashMap::new();
        for (job, (prompt, output, canary)) in (0u64..).zip(&jobs) {
            let canary = *canary && *prompt < 10;
            scheduler.enqueue(Ask { exact: *prompt % 2 == 0, ..ask(job, *prompt) }, canary);
            left.insert(job, (0, *prompt, (*output).min(60 - *prompt)));
        }
        let mut steps = 0;
        while !left.is_empty() {
            steps += 1;
            prop_assert!(steps < 5_000, "jobs never end: {left:?}");
            for seat in scheduler.admit(&tokens_of) {
                left.get_mut(&seat.job).unwrap().0 = seat.reused;
            }
            while scheduler.preempt_if_full().is_some() {}
            prop_assert_eq!(scheduler.catch_up(&tokens_of), vec![]);
            let plan = scheduler.plan();
            scheduler.take_changes();
            prop_assert!(!plan.is_empty());
            prop_assert!(plan.iter().map(|chunk| chunk.len).sum::<usize>() <= limits.batch_tokens);
            for chunk in plan {
                prop_assert!(chunk.sequence <= limits.parallel);
                scheduler.evaluated(&chunk, &tokens_of(chunk.job)[..chunk.len]);
                let (evaluated, tokens, output) = left.get_mut(&chunk.job).unwrap();
                prop_assert_eq!(chunk.start, *evaluated);
                *evaluated += chunk.len;
                prop_assert_eq!(chunk.samples, *evaluated == *tokens);
                if chunk.samples {
                    if *output == 0 {
                        scheduler.remove(chunk.job, prompts_kept);
                        left.remove(&chunk.job);
                    } else {
                        *output -= 1;
                        *tokens += 1;
                        scheduler.sampled(chunk.job);
                    }
                }
            }
            let canary = scheduler.canary.map_or(0, |running| running.evaluated);
            prop_assert!(scheduler.used_cells() - canary + scheduler.kept_cells() <= pool);
        }
        prop_assert!(scheduler.is_idle());
    }

    /// Requests of one and of many answers in any mixture: everybody ends, and nobody waits for a sequence while another
    /// request has several, unless the pool has no room.
    #[test]
    fn no_request_waits_for_a_sequence_while_another_has_several(
        requests in proptest::collection::vec((1usize..9, 1usize..20, 1usize..6, 0usize..4), 1..10),
    ) {
        let limits = Limits { pool_cells: 1000, max_request_tokens: 1000, ..limits() };
        let mut scheduler = Scheduler::new(limits);
        let mut left: std::collections::HashMap<JobId, usize> = std::collections::HashMap::new();
        let mut next = 0;
        let mut come = requests.into_iter();
        let mut pause = 0;
        for step in 0.. {
            prop_assert!(step < 3_000, "jobs never end: {left:?}");
            if pause == 0 && let Some((answers, prompt, output, wait)) = come.next() {
                let group = 1000 + next;
                for _ in 0..answers {
                    scheduler.enqueue(Ask { group, ..ask(next, prompt) }, false);
                    left.insert(next, output);
                    next += 1;
                }
                pause = wait;
            }
            pause = pause.saturating_sub(1);
            admit(&mut scheduler);
            let held = |group: u64| scheduler.running().filter(|(_, running)| running.ask.group == group).count();
            let starved = scheduler.waiting.values().any(|waiting| held(waiting.group) == 0);
            let several = scheduler.running().any(|(_, running)| held(running.ask.group) > 1);
            prop_assert!(!(starved && several));
            if left.is_empty() && come.len() == 0 {
                break;
            }
            for chunk in evaluate(&mut scheduler).iter().filter(|chunk| chunk.samples) {
                let output = left.get_mut(&chunk.job).unwrap();
                *output -= 1;
                if *output == 0 {
                    left.remove(&chunk.job);
                    scheduler.remove(chunk.job, true);
                }
            }
        }
        prop_assert!(scheduler.is_idle());
    }

    /// One long prompt, and short ones coming without end: the long one still ends, within the steps that half the budget
    /// in equal shares needs.
    #[test]
    fn a_long_prompt_does_not_starve_behind_short_ones(long in 50usize..300, short in 1usize..10) {
        let limits = Limits { pool_cells: 1000, max_request_tokens: 1000, ..limits() };
        let mut scheduler = Scheduler::new(limits);
        scheduler.enqueue(ask(0, long), false);
        let mut next = 1;
        for step in 0.. {
            while scheduler.running_count() + scheduler.waiting() < 4 {
                scheduler.enqueue(ask(next, short), false);
                next = next % 98 + 1;
            }
            admit(&mut scheduler);
            let plan = evaluate(&mut scheduler);
            if plan.iter().any(|chunk| chunk.job == 0 && chunk.samples) {
                break;
            }
            // A sequence's share of half of the budget.
            let share = limits.batch_tokens / 2 / 3;
            prop_assert!(step <= long / share, "{step} steps");
            for chunk in plan.iter().filter(|chunk| chunk.samples) {
                scheduler.remove(chunk.job, false);
            }
        }
    }
}
