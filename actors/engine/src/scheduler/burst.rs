//! A burst of requests onto an engine in which hardly anybody speaks: their prompts are computed first, and they begin to
//! speak together.
//!
//! One that began alone would decode alone, which takes as long as decoding for all, and every further prompt would hold it
//! up. Nobody waits so for a long prompt, and who speaks already goes on, with a token a batch.

use super::{Running, Scheduler};
use crate::backend::Sequence;

/// Prompt tokens that are computed before they speak: the oldest prompts up to so many.
const BURST_TOKENS: usize = 2048;
/// So many must wait for each that speaks.
const WAITING_PER_SPEAKER: usize = 4;

type Member = (Sequence, Running);

impl Scheduler {
    /// Whether the prompts that wait are a burst of more than `budget`. Then what the batch may hold is left in the
    /// arguments: of the prompts in the burst all but their last tokens.
    pub(super) fn gather(&self, decoding: &mut Vec<Member>, prompts: &mut Vec<Member>, budget: usize) -> bool {
        let is_canary = |member: &Member| member.0 == self.limits.parallel;
        let goes_on = |member: &Member| member.1.speaks() || is_canary(member);
        let all = decoding.iter().chain(prompts.iter());
        let (speakers, waiting) = all.fold((0, 0), |(speakers, waiting), member| match goes_on(member) {
            true => (speakers + 1, waiting),
            false => (speakers, waiting + 1),
        });
        if speakers * WAITING_PER_SPEAKER > waiting {
            return false;
        }
        prompts.sort_by_key(|(_, running)| running.order);
        let mut left = 0;
        let burst = prompts.iter().filter(|member| !goes_on(member)).take_while(|(_, running)| {
            left += running.due();
            left <= BURST_TOKENS && running.is_short() && !running.is_scored()
        });
        let burst: Vec<Member> = burst.copied().collect();
        let left: usize = burst.iter().map(|(_, running)| running.due()).sum();
        if burst.len() + decoding.len() < 2 || burst.is_empty() || left + decoding.len() <= budget {
            return false;
        }
        decoding.retain(goes_on);
        prompts.retain(|member| goes_on(member) || burst.contains(member));
        for (_, running) in prompts.iter_mut().filter(|member| !goes_on(member)) {
            running.held = true;
        }
        true
    }
}
