//! When silence or a long step is a hang. Pure: the link feeds it what it hears and asks at each tick.

use std::time::Duration;
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
/// Jobs may wait this long while no step is under way: reading prompts and sampling take a fraction of it.
pub const NO_STEP: Duration = Duration::from_secs(10);
/// A step may take this many times its expected duration.
const STEP_FACTOR: f64 = 5.0;
/// Size classes of steps; the last holds everything larger.
const SIZES: usize = 16;
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
    /// Rolling seconds per token of a step.
    seconds_per_token: f64,
    /// The same for each size class of steps, by the binary logarithm of their tokens; 0 = none of that size yet. A step of
    /// one token reads every weight just as one of a hundred does, so sizes must not be judged by each other's rates.
    rates: [f64; SIZES],
}

impl Pulse {
    pub fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Hello,
            heard: now,
            progressed: now,
            ticked: now,
            step: None,
            steps: 0,
            seconds_per_token: 0.0,
            rates: [0.0; SIZES],
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
        self.progressed = now;
        self.step = Some((now, tokens.max(1)));
    }

    pub fn step_ended(&mut self, now: Instant) {
        self.progressed = now;
        let Some((began, tokens)) = self.step.take() else { return };
        let per_token = now.duration_since(began).as_secs_f64() / f64::from(tokens);
        let roll = |old: f64| if old == 0.0 { per_token } else { 0.9 * old + 0.1 * per_token };
        self.seconds_per_token = roll(self.seconds_per_token);
        if let Some(rate) = self.rates.get_mut(size_class(tokens)) {
            *rate = roll(*rate);
        }
        self.steps += 1;
    }

    /// Seconds one prompt or output token takes in a step, as measured; 0 before the first step.
    pub fn seconds_per_token(&self) -> f64 {
        self.seconds_per_token
    }

    /// Called at every tick: what kind of hang this is, if it is one. `has_jobs`: something waits for tokens.
    pub fn hang(&mut self, now: Instant, has_jobs: bool) -> Option<String> {
        let own_gap = now.duration_since(self.ticked);
        self.ticked = now;
        if own_gap > OWN_GAP {
            self.heard = now;
            self.progressed = now;
            if let Some((began, _)) = &mut self.step {
                *began += own_gap;
            }
            return None;
        }
        let silent = now.duration_since(self.heard);
        let allowed = if self.phase == Phase::Hello { HELLO } else { SILENCE };
        if silent > allowed {
            return Some(format!("silent for {} ms", silent.as_millis()));
        }
        if self.phase == Phase::Loading && now.duration_since(self.progressed) > LOAD_STALL {
            return Some(format!("no load progress for {} s", LOAD_STALL.as_secs()));
        }
        let Some((began, tokens)) = self.step else { return self.stuck_between_steps(now, has_jobs) };
        let took = now.duration_since(began);
        (took > self.step_limit(tokens)).then(|| format!("a step of {tokens} tokens takes {} ms", took.as_millis()))
    }

    fn stuck_between_steps(&mut self, now: Instant, has_jobs: bool) -> Option<String> {
        if self.phase != Phase::Serving {
            return None;
        }
        if !has_jobs {
            self.progressed = now;
        }
        let stuck = now.duration_since(self.progressed);
        (stuck > NO_STEP).then(|| format!("no step begins for {} ms though jobs wait", stuck.as_millis()))
    }

    fn step_limit(&self, tokens: u32) -> Duration {
        if self.steps == 0 {
            return FIRST_STEP;
        }
        let expected = STEP_FACTOR * self.expected_seconds(tokens);
        STEP_MIN.max(Duration::try_from_secs_f64(expected).unwrap_or(FIRST_STEP))
    }

    /// How long a step of this many tokens takes at most, as measured: at the rate of its own size; at that of the next
    /// smaller size seen; else no longer than the next larger one.
    fn expected_seconds(&self, tokens: u32) -> f64 {
        let class = size_class(tokens);
        let (up_to, above) = self.rates.split_at(class + 1);
        if let Some(rate) = up_to.iter().rev().find(|rate| **rate > 0.0) {
            return rate * f64::from(tokens);
        }
        let larger = (class + 1..).zip(above).find(|(_, rate)| **rate > 0.0);
        larger.map_or(0.0, |(class, rate)| rate * f64::from(2_u32.pow(class as u32 + 1)))
    }
}

fn size_class(tokens: u32) -> usize {
    (tokens.max(1).ilog2() as usize).min(SIZES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    /// Ticks until a hang is declared or `limit` has passed; says when.
    fn run(pulse: &mut Pulse, start: Instant, limit: Duration, heartbeat: bool) -> Option<Duration> {
        let mut now = start;
        while now.duration_since(start) < limit {
            now += TICK;
            if heartbeat {
                pulse.heard(now);
            }
            if pulse.hang(now, true).is_some() {
                return Some(now.duration_since(start));
            }
        }
        None
    }

    fn serving(now: Instant) -> Pulse {
        let mut pulse = Pulse::new(now);
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
        pulse.step_began(1, now);
        pulse.step_ended(now + Duration::from_millis(10));
        pulse.step_began(1, now);
        let after = run(&mut pulse, now, Duration::from_secs(9), true).unwrap();
        assert!(after > STEP_MIN && after <= STEP_MIN + TICK, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_step_gets_five_times_its_expected_time() {
        let start = Instant::now();
        let mut pulse = serving(start);
        pulse.step_began(10, start);
        pulse.step_ended(start + Duration::from_millis(100));
        pulse.step_began(500, start);
        let after = run(&mut pulse, start, Duration::from_secs(60), true).unwrap();
        assert!(after > Duration::from_secs(25) && after <= Duration::from_secs(25) + TICK * 2, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_is_judged_by_steps_of_its_own_size() {
        let start = Instant::now();
        let mut pulse = serving(start);
        let mut now = start;
        let mut step = |pulse: &mut Pulse, tokens, took| {
            pulse.step_began(tokens, now);
            now += took;
            pulse.step_ended(now);
        };
        // A slow machine: 3 s for a token alone, 6 s for three hundred together.
        step(&mut pulse, 300, Duration::from_secs(6));
        assert!(
            pulse.step_limit(1) > Duration::from_secs(15),
            "nothing that small was seen: {:?}",
            pulse.step_limit(1)
        );
        for _ in 0..50 {
            step(&mut pulse, 300, Duration::from_secs(6));
        }
        step(&mut pulse, 1, Duration::from_secs(3));
        assert_eq!(pulse.step_limit(1), Duration::from_secs(15));
        for _ in 0..50 {
            step(&mut pulse, 1, Duration::from_secs(3));
        }
        assert_eq!(pulse.step_limit(300), Duration::from_secs(30), "not 300 times the limit of one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_was_stopped_itself_accuses_nobody() {
        let start = Instant::now();
        let mut pulse = serving(start);
        assert!(pulse.hang(start + Duration::from_secs(300), true).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_that_wait_while_no_step_begins_are_a_hang_and_an_idle_engine_is_none() {
        let start = Instant::now();
        let mut pulse = serving(start);
        pulse.step_began(1, start);
        pulse.step_ended(start + Duration::from_millis(10));
        let mut now = start;
        while now.duration_since(start) < Duration::from_secs(60) {
            now += TICK;
            pulse.heard(now);
            assert_eq!(pulse.hang(now, false), None, "nobody waits");
        }
        let after = run(&mut pulse, now, Duration::from_secs(60), true).unwrap();
        assert!(after > NO_STEP && after <= NO_STEP + TICK, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_without_progress_hangs_after_thirty_seconds() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        pulse.hello(start);
        let after = run(&mut pulse, start, Duration::from_secs(60), true).unwrap();
        assert!(after > LOAD_STALL && after <= LOAD_STALL + TICK);
    }
}
