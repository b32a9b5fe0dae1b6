//! What the rest of the gateway sees of a slot, without asking any actor.

use crate::gpu::{
    frame::{Heartbeat, Left, LoadedInfo},
    ladder::Ladder,
    life::GpuState,
    watchdog::Pace,
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Rolling measurements of one slot.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SlotStats {
    pub pace: Pace,
    /// When the pace was last measured.
    pub measured_at: Option<Instant>,
    /// Seconds a request holds a lease; 0 = not measured yet.
    pub service_seconds: f64,
}

/// An idle slot's measurements are forgotten after this long. Otherwise one slow moment could keep every request away,
/// and nothing would ever measure again.
const STALE: Duration = Duration::from_secs(5);

/// An answer of a server, as its client saw it.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    pub first_token: Duration,
    pub took: Duration,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

impl SlotStats {
    /// What its own engine measures by the step, a server shows by its answers: queue and all.
    pub(super) fn learn_answer(&mut self, answer: Answered, now: Instant) {
        let roll = |old: f64, new: f64| if old == 0.0 { new } else { 0.8 * old + 0.2 * new };
        let per = |time: Duration, tokens: u64| time.as_secs_f64() / tokens.max(1) as f64;
        let generating = answer.took.saturating_sub(answer.first_token);
        self.pace.prompt_token = roll(self.pace.prompt_token, per(answer.first_token, answer.prompt_tokens));
        if answer.completion_tokens > 1 {
            self.pace.decode_step = roll(self.pace.decode_step, per(generating, answer.completion_tokens - 1));
        }
        self.measured_at = Some(now);
        self.record_service(answer.took.as_secs_f64());
    }

    pub(super) fn learn(&mut self, pace: Pace, now: Instant) {
        self.pace = pace;
        self.measured_at = Some(now);
    }

    /// What is still to be believed at `now` of a slot with this many leases.
    #[must_use]
    pub fn believed(self, leases: usize, now: Instant) -> Self {
        let fresh = self.measured_at.is_some_and(|at| now.duration_since(at) <= STALE);
        if leases > 0 || fresh { self } else { Self::default() }
    }

    pub(super) fn record_service(&mut self, seconds: f64) {
        self.service_seconds =
            if self.service_seconds == 0.0 { seconds } else { 0.8 * self.service_seconds + 0.2 * seconds };
    }

    /// Expected wait for a lease with `queued` requests ahead and all `parallel` places taken.
    pub fn expected_wait(&self, queued: usize, parallel: usize) -> Duration {
        let turns = (queued + 1) as f64 / parallel.max(1) as f64;
        Duration::try_from_secs_f64(self.service_seconds * turns).unwrap_or(Duration::MAX)
    }

    /// Expected time from lease to first token of a prompt this long.
    pub fn expected_first_token(&self, prompt_tokens: u64) -> Duration {
        let seconds = self.pace.prompt_token.mul_add(prompt_tokens as f64, self.pace.decode_step);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

/// What an engine has to do, and what it did for clients that had gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// The last heartbeat of the engine that lives; `None` before it.
    pub beat: Option<Heartbeat>,
    /// Jobs whose client left before their end, of all engines of this slot so far.
    pub left: u64,
    /// Tokens that came out for them after the client had gone.
    pub tokens_after_leaving: u64,
    /// Most of one job.
    pub most_after_leaving: u32,
}

impl Work {
    pub(super) fn leave(&mut self, left: Left) {
        self.left += u64::from(left.jobs);
        self.tokens_after_leaving += u64::from(left.tokens);
        self.most_after_leaving = self.most_after_leaving.max(left.most);
    }
}

/// A slot at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotView {
    pub state: GpuState,
    pub epoch: u64,
    /// Leases may be granted: warm, owned by a live actor that has passed a canary.
    pub serving: bool,
    pub owned: bool,
    pub adopted: bool,
    pub leases: usize,
    /// Somebody runs there who takes nobody beside it.
    pub alone: bool,
    pub parallel: usize,
    /// The loaded model; `None` until it is loaded.
    pub info: Option<Arc<LoadedInfo>>,
    /// There is an engine child, or a server that is taken to be there.
    pub is_linked: bool,
    pub is_server: bool,
    pub engine_pid: Option<u32>,
    pub stats: SlotStats,
    /// The card turned bad: what still runs on it is ended then.
    pub drain_until: Option<Instant>,
    /// When what was given up for want of memory may be taken back.
    pub climbs_at: Option<Instant>,
}

impl SlotView {
    pub(super) fn cold(ladder: &Ladder) -> Self {
        Self {
            state: GpuState::Cold,
            epoch: 1,
            serving: false,
            owned: false,
            adopted: false,
            leases: 0,
            alone: false,
            parallel: ladder.plan().parallel as usize,
            info: None,
            is_linked: false,
            is_server: false,
            engine_pid: None,
            stats: SlotStats::default(),
            drain_until: None,
            climbs_at: None,
        }
    }

    /// Places free right now.
    pub fn free(&self) -> usize {
        if self.serving && !self.alone { self.parallel.saturating_sub(self.leases) } else { 0 }
    }
}
