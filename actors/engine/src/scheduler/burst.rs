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
    /// Whether the prompts that wait, the oldest first, are a burst of more than `budget`. Then the arguments keep who takes
    /// part in the batch: those of the burst with all but their last tokens.
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
        let (mut burst, mut due) = (Vec::new(), 0);
        for &member in prompts.iter().filter(|member| !goes_on(member)) {
            let with_it = due + member.1.due();
            if with_it > BURST_TOKENS || !member.1.is_short() || member.1.is_scored() {
                break;
            }
            burst.push(member);
            due = with_it;
        }
        if burst.is_empty() || burst.len() + decoding.len() < 2 || due + decoding.len() <= budget {
            return false;
        }
        decoding.retain(goes_on);
        prompts.retain(|member| goes_on(member) || burst.contains(member));
        true
    }
}
