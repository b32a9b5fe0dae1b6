//! What was computed for clients that had gone: how many tokens came out between the moment the gateway saw a client go and
//! the moment its job ended here.
//!
//! Pure: times come in as arguments (nanoseconds of the clock that both processes read). It remembers the last few steps
//! only; a word that comes later than those is counted too low, and is a fault that other measurements show.

use crate::scheduler::Chunk;
use spillway_actors::gpu::frame::{JobId, Left};
use std::collections::VecDeque;

const STEPS: usize = 32;

#[derive(Debug)]
struct Step {
    ended_ns: u64,
    /// Who got a token.
    jobs: Vec<JobId>,
}

#[derive(Debug, Default)]
pub struct Late {
    steps: VecDeque<Step>,
}

impl Late {
    /// The step of this plan ended then.
    pub fn stepped(&mut self, plan: &[Chunk], ended_ns: u64) {
        let jobs = plan.iter().filter(|chunk| chunk.samples).map(|chunk| chunk.job).collect();
        if self.steps.len() == STEPS {
            self.steps.pop_front();
        }
        self.steps.push_back(Step { ended_ns, jobs });
    }

    /// The client of these jobs went at `left_ns`, and they end now.
    pub fn left(&self, jobs: &[JobId], left_ns: u64) -> Left {
        let after = || self.steps.iter().filter(|step| step.ended_ns > left_ns);
        let tokens_of = |job: &JobId| after().filter(|step| step.jobs.contains(job)).count();
        let tokens: Vec<u32> = jobs.iter().map(|job| u32::try_from(tokens_of(job)).unwrap_or(u32::MAX)).collect();
        Left {
            jobs: u32::try_from(jobs.len()).unwrap_or(u32::MAX),
            tokens: tokens.iter().sum(),
            most: tokens.iter().copied().max().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::counting::{Counting, spec},
        engine::Engine,
    };

    #[test]
    fn only_tokens_that_came_after_the_client_went_are_counted() {
        let mut engine = Engine::new(Counting::new(2, 200), 5);
        let mut late = Late::default();
        engine.submit(&spec(1, "abc", 30));
        engine.submit(&spec(2, "xyz", 30));
        for at in [10, 20, 30, 40] {
            let (_, plan) = engine.begin().unwrap();
            engine.run(&plan);
            late.stepped(&plan, at);
        }
        assert_eq!(late.left(&[1], 40), Left { jobs: 1, tokens: 0, most: 0 });
        assert_eq!(late.left(&[1], 35), Left { jobs: 1, tokens: 1, most: 1 });
        assert_eq!(late.left(&[1, 2], 15), Left { jobs: 2, tokens: 6, most: 3 });
        assert_eq!(late.left(&[3], 0), Left { jobs: 1, tokens: 0, most: 0 }, "it waited");
        assert_eq!(late.left(&[], 0), Left { jobs: 0, tokens: 0, most: 0 });
    }
}
