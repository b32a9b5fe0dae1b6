//! When to restart, how long to wait, when to stop trying. Pure: `now` and the jitter come in as arguments.

use crate::config::{ActorRestart, EngineRestart};
use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// Full jitter: a uniform share of `bound`. `jitter` is in `0.0..1.0`.
fn full_jitter(bound: Duration, jitter: f64) -> Duration {
    bound.mul_f64(jitter.clamp(0.0, 1.0))
}

/// `min` doubled `doublings` times, at most `max`.
fn doubled(min: Duration, max: Duration, doublings: u32) -> Duration {
    min.saturating_mul(1_u32.checked_shl(doublings.min(31)).unwrap_or(u32::MAX)).min(max)
}

fn forget_before(deaths: &mut VecDeque<Instant>, now: Instant, window: Duration) {
    while deaths.front().is_some_and(|&death| now.duration_since(death) > window) {
        deaths.pop_front();
    }
}

/// What a supervisor does about one dead child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActorVerdict {
    Restart {
        after: Duration,
    },
    /// The budget is spent: the supervisor dies of it.
    GiveUp,
}

/// Deaths of one child actor.
#[derive(Debug, Clone, Default)]
pub struct ActorDeaths {
    recent: VecDeque<Instant>,
}

impl ActorDeaths {
    pub fn on_death(&mut self, limits: &ActorRestart, now: Instant, jitter: f64) -> ActorVerdict {
        forget_before(&mut self.recent, now, limits.window);
        let earlier = u32::try_from(self.recent.len()).unwrap_or(u32::MAX);
        self.recent.push_back(now);
        if earlier >= limits.max_deaths {
            return ActorVerdict::GiveUp;
        }
        // The first death of the window is most likely an accident: whoever waits for the actor need not wait longer.
        let Some(doublings) = earlier.checked_sub(1) else { return ActorVerdict::Restart { after: Duration::ZERO } };
        let bound = doubled(limits.backoff_min, limits.backoff_max, doublings);
        ActorVerdict::Restart { after: full_jitter(bound, jitter) }
    }
}

/// How one engine child ended, as far as the policy cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineDeath {
    /// Before its first passed canary.
    FailedStart,
    /// After serving for this long.
    AfterServing(Duration),
    /// A server that somebody else runs was not there when it was looked for. Looking harms nobody, so it counts as no
    /// death; who is gone for longer than a failed start may take is not waited for.
    Absent,
    /// Nothing a restart could mend: the model file is missing or corrupt, the engine binary is absent.
    NotLoadable,
    /// No memory, and nothing left to give up.
    Exhausted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineVerdict {
    Backoff {
        after: Duration,
    },
    Quarantine {
        probe_after: Duration,
    },
    /// Stay Down with the cause in view and look again later.
    Down {
        look_after: Duration,
    },
}

/// Deaths of the engine children of one slot.
#[derive(Debug, Clone, Default)]
pub struct EngineDeaths {
    all: VecDeque<Instant>,
    failed_starts: VecDeque<Instant>,
    in_a_row: u32,
    probes: u32,
    /// Since when a server has not been found.
    absent_since: Option<Instant>,
}

impl EngineDeaths {
    pub fn on_death(&mut self, limits: &EngineRestart, death: EngineDeath, now: Instant, jitter: f64) -> EngineVerdict {
        match death {
            EngineDeath::NotLoadable => return EngineVerdict::Down { look_after: self.next_probe(limits) },
            EngineDeath::Exhausted => return EngineVerdict::Quarantine { probe_after: self.next_probe(limits) },
            EngineDeath::AfterServing(healthy) if healthy >= limits.reset_after => *self = Self::default(),
            EngineDeath::AfterServing(_) => {}
            EngineDeath::Absent => return self.on_absence(limits, now, jitter),
            EngineDeath::FailedStart => self.failed_starts.push_back(now),
        }
        self.all.push_back(now);
        forget_before(&mut self.all, now, limits.deaths_window);
        forget_before(&mut self.failed_starts, now, limits.failed_starts_window);
        let too_many = |deaths: &VecDeque<Instant>, max: u32| u32::try_from(deaths.len()).is_ok_and(|n| n >= max);
        let probing = self.probes > 0 && death == EngineDeath::FailedStart;
        if probing || too_many(&self.failed_starts, limits.max_failed_starts) || too_many(&self.all, limits.max_deaths)
        {
            return EngineVerdict::Quarantine { probe_after: self.next_probe(limits) };
        }
        self.back_off(limits, jitter)
    }

    fn on_absence(&mut self, limits: &EngineRestart, now: Instant, jitter: f64) -> EngineVerdict {
        let since = *self.absent_since.get_or_insert(now);
        if now.duration_since(since) > limits.failed_starts_window {
            return EngineVerdict::Quarantine { probe_after: self.next_probe(limits) };
        }
        self.back_off(limits, jitter)
    }

    fn back_off(&mut self, limits: &EngineRestart, jitter: f64) -> EngineVerdict {
        let bound = doubled(limits.backoff_min, limits.backoff_max, self.in_a_row);
        self.in_a_row = self.in_a_row.saturating_add(1);
        EngineVerdict::Backoff { after: full_jitter(bound, jitter) }
    }

    /// A canary passed: a later failure is not a failed probe.
    pub fn on_canary_passed(&mut self) {
        self.failed_starts.clear();
        self.probes = 0;
        self.absent_since = None;
    }

    fn next_probe(&mut self, limits: &EngineRestart) -> Duration {
        let after = doubled(limits.probe_min, limits.probe_max, self.probes);
        self.probes = self.probes.saturating_add(1);
        after
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ACTOR: ActorRestart = ActorRestart {
        max_deaths: 5,
        window: Duration::from_secs(10),
        backoff_min: Duration::from_millis(50),
        backoff_max: Duration::from_secs(1),
    };

    fn engine() -> EngineRestart {
        EngineRestart::default()
    }

    #[tokio::test(start_paused = true)]
    async fn the_sixth_actor_death_inside_ten_seconds_spends_the_budget() {
        let mut deaths = ActorDeaths::default();
        let start = Instant::now();
        for n in 0..5 {
            let now = start + Duration::from_secs(n);
            let bound = if n == 0 { Duration::ZERO } else { Duration::from_millis(50 << (n - 1)) };
            assert_eq!(deaths.on_death(&ACTOR, now, 1.0), ActorVerdict::Restart { after: bound });
        }
        assert_eq!(deaths.on_death(&ACTOR, start + Duration::from_secs(9), 0.5), ActorVerdict::GiveUp);
    }

    #[tokio::test(start_paused = true)]
    async fn actor_deaths_older_than_the_window_are_forgotten() {
        let mut deaths = ActorDeaths::default();
        let start = Instant::now();
        for n in 0..50 {
            let verdict = deaths.on_death(&ACTOR, start + Duration::from_secs(11 * n), 0.0);
            assert_eq!(verdict, ActorVerdict::Restart { after: Duration::ZERO });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn engine_backoff_doubles_from_half_a_second_to_ten() {
        let mut deaths = EngineDeaths::default();
        let start = Instant::now();
        let served = EngineDeath::AfterServing(Duration::from_secs(1));
        let waits: Vec<_> =
            (0..7).map(|n| deaths.on_death(&engine(), served, start + Duration::from_secs(n * 70), 1.0)).collect();
        let expected = [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0];
        for (verdict, seconds) in waits.into_iter().zip(expected) {
            assert_eq!(verdict, EngineVerdict::Backoff { after: Duration::from_secs_f64(seconds) });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_absent_server_is_looked_for_every_ten_seconds_for_a_minute_and_then_ever_more_rarely() {
        let mut deaths = EngineDeaths::default();
        let (mut now, mut waits) = (Instant::now(), Vec::new());
        for _ in 0..14 {
            let (word, after) = match deaths.on_death(&engine(), EngineDeath::Absent, now, 1.0) {
                EngineVerdict::Backoff { after } => ("backoff", after),
                EngineVerdict::Quarantine { probe_after } => ("quarantine", probe_after),
                EngineVerdict::Down { look_after } => ("down", look_after),
            };
            now += after;
            waits.push((word, after.as_millis() / 500));
        }
        let backoffs = [1, 2, 4, 8, 16, 20, 20, 20, 20, 20].map(|halves| ("backoff", halves));
        let probes = [30, 60, 120, 240].map(|halves| ("quarantine", halves));
        assert_eq!(waits, [&backoffs[..], &probes[..]].concat());
        deaths.on_canary_passed();
        let again = deaths.on_death(&engine(), EngineDeath::Absent, now, 1.0);
        assert_eq!(again, EngineVerdict::Backoff { after: Duration::from_secs(10) });
    }

    #[tokio::test(start_paused = true)]
    async fn five_healthy_minutes_start_the_backoff_over() {
        let mut deaths = EngineDeaths::default();
        let now = Instant::now();
        for _ in 0..4 {
            deaths.on_death(&engine(), EngineDeath::AfterServing(Duration::ZERO), now, 1.0);
        }
        let healthy = EngineDeath::AfterServing(Duration::from_secs(300));
        let verdict = deaths.on_death(&engine(), healthy, now + Duration::from_secs(300), 1.0);
        assert_eq!(verdict, EngineVerdict::Backoff { after: Duration::from_millis(500) });
    }

    #[tokio::test(start_paused = true)]
    async fn the_fifth_failed_start_quarantines_and_each_failed_probe_doubles_the_wait() {
        let mut deaths = EngineDeaths::default();
        let start = Instant::now();
        for n in 0..4 {
            let verdict = deaths.on_death(&engine(), EngineDeath::FailedStart, start + Duration::from_secs(n), 0.0);
            assert!(matches!(verdict, EngineVerdict::Backoff { .. }));
        }
        let mut now = start + Duration::from_secs(5);
        for seconds in [15, 30, 60, 120, 240, 300, 300] {
            let verdict = deaths.on_death(&engine(), EngineDeath::FailedStart, now, 0.0);
            assert_eq!(verdict, EngineVerdict::Quarantine { probe_after: Duration::from_secs(seconds) });
            now += Duration::from_secs(seconds);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn twenty_deaths_in_ten_minutes_quarantine_even_if_each_had_served() {
        let mut deaths = EngineDeaths::default();
        let start = Instant::now();
        let verdicts: Vec<_> = (0..20)
            .map(|n| {
                deaths.on_canary_passed();
                let served = EngineDeath::AfterServing(Duration::from_secs(9));
                deaths.on_death(&engine(), served, start + Duration::from_secs(n * 10), 0.0)
            })
            .collect();
        assert!(verdicts[..19].iter().all(|verdict| matches!(verdict, EngineVerdict::Backoff { .. })));
        assert!(matches!(verdicts[19], EngineVerdict::Quarantine { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_model_stays_down_and_is_looked_for_ever_more_rarely() {
        let mut deaths = EngineDeaths::default();
        let now = Instant::now();
        for seconds in [15, 30, 60, 120, 240, 300] {
            let verdict = deaths.on_death(&engine(), EngineDeath::NotLoadable, now, 0.3);
            assert_eq!(verdict, EngineVerdict::Down { look_after: Duration::from_secs(seconds) });
        }
    }

    proptest! {
        #[test]
        fn no_wait_is_ever_longer_than_its_limit(
            gaps in proptest::collection::vec((0_u64..400, 0_u8..3, 0.0_f64..1.0), 1..80)
        ) {
            let limits = engine();
            let mut deaths = EngineDeaths::default();
            let mut now = Instant::now();
            for (gap, kind, jitter) in gaps {
                now += Duration::from_secs(gap);
                let death = match kind {
                    0 => EngineDeath::FailedStart,
                    1 => EngineDeath::AfterServing(Duration::from_secs(gap)),
                    _ => EngineDeath::NotLoadable,
                };
                match deaths.on_death(&limits, death, now, jitter) {
                    EngineVerdict::Backoff { after } => prop_assert!(after <= limits.backoff_max),
                    EngineVerdict::Quarantine { probe_after: wait } | EngineVerdict::Down { look_after: wait } => {
                        prop_assert!(wait >= limits.probe_min && wait <= limits.probe_max);
                    }
                }
                prop_assert!(deaths.all.len() <= 80);
            }
        }
    }
}
