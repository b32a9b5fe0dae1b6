//! When silence or a long step is a hang. Pure: the link feeds it what it hears and asks at each tick.

use std::{fmt, time::Duration};
use tokio::time::Instant;

/// Silence (no frame at all) that means a hang, once the child has said Hello.
pub const SILENCE: Duration = Duration::from_secs(2);
/// Time a child may take from its start to Hello: the loader maps large libraries on a busy machine.
pub const HELLO: Duration = Duration::from_secs(15);
/// A load may be this long without a progress callback.
pub const LOAD_STALL: Duration = Duration::from_secs(30);
/// The first step after a load compiles kernels and touches every weight.
pub const FIRST_STEP: Duration = Duration::from_secs(60);
/// Shortest limit of any later step.
pub const STEP_MIN: Duration = Duration::from_secs(2);
/// Jobs may wait this long while no step is under way: reading a prompt and sampling take a fraction of it.
pub const NO_STEP: Duration = Duration::from_secs(5);
/// A step may take this many times its expected duration.
const STEP_FACTOR: f64 = 5.0;
/// A tick this late means that the gateway itself was stopped: what it did not hear then proves nothing.
const OWN_GAP: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Hello,
    Loading,
    Serving,
}

/// What is known of one child's pulse.
#[derive(Debug, Clone)]
pub struct Pulse {
    phase: Phase,
    heard: Instant,
    progressed: Instant,
    ticked: Instant,
    step: Option<(Instant, u32)>,
    steps: u64,
    /// Of the step that ended last.
    began: Option<Instant>,
    ended: Option<Instant>,
    /// Last time a step began or ended, or nobody waited for one.
    stirred: Instant,
    pace: Pace,
}

/// What a hang looks like from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hang {
    /// Nothing at all is heard: the process is stopped, or the machine starves it.
    Silent(String),
    /// Its heart beats and its work does not go on: what it works on may be why.
    Stuck(String),
}

impl fmt::Display for Hang {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(what) | Self::Stuck(what) => f.write_str(what),
        }
    }
}

/// How fast an engine decodes, as measured; 0 = not measured yet.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pace {
    /// Seconds of a step that only decodes: one token for each running sequence.
    pub decode_step: f64,
    /// Seconds per token of a step that is mostly prompt.
    pub prompt_token: f64,
}

/// A step that ended this long ago still proves that the engine decodes.
const PROOF_OF_LIFE: Duration = Duration::from_millis(250);

/// Steps of at least this many tokens are mostly prompt.
const PROMPT_STEP: u32 = 17;

impl Pace {
    fn learn(&mut self, tokens: u32, took: Duration) {
        let roll = |old: &mut f64, new: f64| *old = if *old == 0.0 { new } else { 0.8 * *old + 0.2 * new };
        if tokens < PROMPT_STEP {
            roll(&mut self.decode_step, took.as_secs_f64());
        } else {
            roll(&mut self.prompt_token, took.as_secs_f64() / f64::from(tokens));
        }
    }

    /// Expected seconds of a step of `tokens` tokens; `None` until a step of its kind was measured.
    fn step(&self, tokens: u32) -> Option<f64> {
        let (measured, more) = if tokens < PROMPT_STEP {
            (self.decode_step, 0.0)
        } else {
            (self.prompt_token, self.prompt_token * f64::from(tokens))
        };
        (measured > 0.0).then_some(self.decode_step + more)
    }
}

impl Pulse {
    /// `pace` is what an earlier life of the same engine was measured at.
    pub fn new(now: Instant, pace: Pace) -> Self {
        Self {
            phase: Phase::Hello,
            heard: now,
            progressed: now,
            ticked: now,
            step: None,
            steps: 0,
            began: None,
            ended: None,
            stirred: now,
            pace,
        }
    }

    pub fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    pub fn hello(&mut self, now: Instant) {
        self.phase = Phase::Loading;
        self.progressed = now;
    }

    pub fn load_progress(&mut self, now: Instant) {
        self.progressed = now;
    }

    pub fn loaded(&mut self) {
        self.phase = Phase::Serving;
    }

    pub fn step_began(&mut self, tokens: u32, now: Instant) {
        self.step = Some((now, tokens.max(1)));
        self.stirred = now;
    }

    pub fn step_ended(&mut self, now: Instant) {
        let Some((began, tokens)) = self.step.take() else { return };
        self.began = Some(began);
        // The first step of a life touches every weight: it says nothing about the next.
        if self.steps > 0 {
            self.pace.learn(tokens, now.duration_since(began));
        }
        self.steps += 1;
        self.ended = Some(now);
        self.stirred = now;
    }

    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// A canary passed, which is as good as a step that ended.
    pub fn proved(&mut self, now: Instant) {
        self.ended = Some(now);
    }

    /// When the step began that ended last.
    pub fn last_begun(&self) -> Option<Instant> {
        self.began
    }

    /// When a step last ended.
    pub fn last_step(&self) -> Option<Instant> {
        self.ended
    }

    /// A step ended just now: the engine decodes, which is all that a canary could show.
    pub fn is_decoding(&self, now: Instant) -> bool {
        self.steps > 0 && self.ended.is_some_and(|ended| now.duration_since(ended) < PROOF_OF_LIFE)
    }

    /// The child has used its processors since the last look: slow, not stuck. Its step gets the time again, until
    /// [`FIRST_STEP`] is over.
    pub fn is_computing(&self, now: Instant) -> bool {
        self.step.is_some_and(|(began, _)| now.duration_since(began) < FIRST_STEP)
            && now.duration_since(self.heard) <= SILENCE
    }

    /// Called at every tick: what kind of hang this is, if it is one. `busy`: some job waits for an output.
    pub fn hang(&mut self, now: Instant, busy: bool) -> Option<Hang> {
        let own_gap = now.duration_since(self.ticked);
        self.ticked = now;
        if own_gap > OWN_GAP {
            self.heard = now;
            self.progressed = now;
            self.stirred = now;
            if let Some((began, _)) = &mut self.step {
                *began += own_gap;
            }
            return None;
        }
        let silent = now.duration_since(self.heard);
        let allowed = if self.phase == Phase::Hello { HELLO } else { SILENCE };
        if silent > allowed {
            return Some(Hang::Silent(format!("silent for {} ms", silent.as_millis())));
        }
        if self.phase == Phase::Loading && now.duration_since(self.progressed) > LOAD_STALL {
            return Some(Hang::Stuck(format!("no load progress for {} s", LOAD_STALL.as_secs())));
        }
        if !busy {
            self.stirred = now;
        }
        let Some((began, tokens)) = self.step else {
            // A heart that beats beside jobs that nobody works on.
            let still = now.duration_since(self.stirred);
            let what = || Hang::Stuck(format!("jobs wait and no step began for {} ms", still.as_millis()));
            return (still > NO_STEP).then(what);
        };
        let took = now.duration_since(began);
        let what = || Hang::Stuck(format!("a step of {tokens} tokens takes {} ms", took.as_millis()));
        (took > self.step_limit(tokens)).then(what)
    }

    fn step_limit(&self, tokens: u32) -> Duration {
        // The first step of a life, and the first prompt ever, have no measure: a large model on a CPU reads for many
        // seconds what its canary did not have.
        let expected = self.pace.step(tokens).filter(|_| self.steps > 0);
        let Some(expected) = expected else { return FIRST_STEP };
        STEP_MIN.max(Duration::try_from_secs_f64(STEP_FACTOR * expected).unwrap_or(FIRST_STEP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    /// Ticks until a hang is declared or `limit` has passed; says when.
    fn run(pulse: &mut Pulse, start: Instant, limit: Duration, heartbeat: bool) -> Option<Duration> {
        run_with(pulse, start, limit, heartbeat, false)
    }

    fn run_with(pulse: &mut Pulse, start: Instant, limit: Duration, heartbeat: bool, busy: bool) -> Option<Duration> {
        let mut now = start;
        while now.duration_since(start) < limit {
            now += TICK;
            if heartbeat {
                pulse.heard(now);
            }
            if pulse.hang(now, busy).is_some() {
                return Some(now.duration_since(start));
            }
        }
        None
    }

    fn serving(now: Instant) -> Pulse {
        let mut pulse = Pulse::new(now, Pace::default());
        pulse.hello(now);
        pulse.loaded();
        pulse
    }

    #[tokio::test(start_paused = true)]
    async fn two_seconds_of_silence_are_a_hang_idle_or_busy() {
        let start = Instant::now();
        let after = run(&mut serving(start), start, Duration::from_secs(10), false).unwrap();
        assert!(after > SILENCE && after <= SILENCE + TICK, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_beating_heart_does_not_excuse_a_stuck_step() {
        let start = Instant::now();
        let mut pulse = serving(start);
        pulse.step_began(1, start);
        assert!(run(&mut pulse, start, FIRST_STEP - TICK, true).is_none(), "the first step may be long");
        let now = start + FIRST_STEP;
        for _ in 0..2 {
            pulse.step_began(1, now);
            pulse.step_ended(now + Duration::from_millis(10));
        }
        pulse.step_began(1, now);
        let after = run(&mut pulse, now, Duration::from_secs(9), true).unwrap();
        assert!(after > STEP_MIN && after <= STEP_MIN + TICK, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_step_gets_five_times_its_expected_time() {
        let start = Instant::now();
        let mut pulse = serving(start);
        for _ in 0..2 {
            pulse.step_began(100, start);
            pulse.step_ended(start + Duration::from_secs(1));
        }
        pulse.step_began(500, start);
        let after = run(&mut pulse, start, Duration::from_secs(60), true).unwrap();
        assert!(after > Duration::from_secs(25) && after <= Duration::from_secs(25) + TICK * 2, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_was_stopped_itself_accuses_nobody() {
        let start = Instant::now();
        let mut pulse = serving(start);
        assert!(pulse.hang(start + Duration::from_secs(300), true).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_that_nobody_works_on_are_a_hang_although_the_heart_beats() {
        let start = Instant::now();
        let after = run_with(&mut serving(start), start, Duration::from_secs(10), true, true).unwrap();
        assert!(after > NO_STEP && after <= NO_STEP + TICK, "{after:?}");
        assert!(run_with(&mut serving(start), start, Duration::from_secs(60), true, false).is_none(), "idle is fine");
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_is_not_learned_from_the_first_step_and_keeps_prompts_and_decodes_apart() {
        let start = Instant::now();
        let mut pulse = serving(start);
        for (tokens, ms) in [(2, 900), (1, 20), (200, 1000)] {
            pulse.step_began(tokens, start);
            pulse.step_ended(start + Duration::from_millis(ms));
        }
        assert_eq!(pulse.pace(), Pace { decode_step: 0.02, prompt_token: 0.005 });
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_prompt_after_decodes_gets_the_time_of_a_first_step() {
        let start = Instant::now();
        let mut pulse = serving(start);
        for _ in 0..3 {
            pulse.step_began(1, start);
            pulse.step_ended(start + Duration::from_millis(300));
        }
        pulse.step_began(512, start);
        let after = run(&mut pulse, start, FIRST_STEP * 2, true).unwrap();
        assert!(after > FIRST_STEP && after <= FIRST_STEP + TICK, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_without_progress_hangs_after_thirty_seconds() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start, Pace::default());
        pulse.hello(start);
        let after = run(&mut pulse, start, Duration::from_secs(60), true).unwrap();
        assert!(after > LOAD_STALL && after <= LOAD_STALL + TICK);
    }
}
