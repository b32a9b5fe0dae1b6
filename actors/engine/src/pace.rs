//! How many prompt tokens a step may carry beside running streams, learnt from how long steps take.
//!
//! Pure: durations come in as arguments. A step costs what its decoding sequences cost plus so much per prompt token; both
//! are measured as moving averages. Beside running streams a step may take [`SLOWDOWN`] times as long as the streams alone
//! would need: below three times with room for scatter, and not much less, because a prompt in small portions is slow work on
//! a CPU and its client waits too. For a short prompt it may take [`ONE_PAUSE`]: a second of pause now and then costs the
//! streams no more than many slow steps, and the prompt's client waits a fraction. How much a few prompt tokens cost beside a
//! stream says little about a full batch of them (a CPU takes twice as long for each), so it is measured where it is used,
//! against steps without any put in between.

use std::time::Duration;

/// A step with prompt tokens may take this many times as long as the same step without.
const SLOWDOWN: f64 = 2.0;
/// A step with tokens of short prompts may take so long at least.
pub const ONE_PAUSE: Duration = Duration::from_secs(1);
/// Weight of a new measurement.
const WEIGHT: f64 = 0.25;
/// One measurement counts at most this many times more or less than expected: a machine that slept is not a slow model.
const MOST_SURPRISE: f64 = 4.0;
/// A prompt's token is never taken for free, however the measurements scatter: nothing would bound a step any more.
const LEAST_SHARE: f64 = 0.05;
/// The first tokens of a step read the weights for all the others: so few say nothing about many.
const TELLING: usize = 16;
/// A prompt moves on, however slow the machine.
const AT_LEAST: usize = 2;
/// Every so many steps with prompt tokens, one without shows what the streams cost alone by now.
const MIXED_IN_A_ROW: u32 = 16;

/// Microseconds throughout.
#[derive(Debug)]
pub struct Pace {
    /// Index = decoding sequences - 1; what a step with only them takes.
    decode: Vec<Option<f64>>,
    /// Of a step without streams.
    prompt_token: Option<f64>,
    /// Beside streams.
    mixed_token: Option<f64>,
    mixed_in_a_row: u32,
}

impl Pace {
    pub fn new(sequences: usize) -> Self {
        Self { decode: vec![None; sequences], prompt_token: None, mixed_token: None, mixed_in_a_row: 0 }
    }

    /// A step of `decoding` single tokens and `prompt` prompt tokens took this long.
    pub fn observe(&mut self, decoding: usize, prompt: usize, took: Duration) {
        let took = took.as_secs_f64() * 1e6;
        match (decoding, prompt) {
            (0, 0) => {}
            (0, _) if prompt < TELLING && self.prompt_token.is_some() => {}
            (0, _) => blend(&mut self.prompt_token, took / as_f64(prompt)),
            (_, 0) => {
                self.mixed_in_a_row = 0;
                if let Some(slot) = self.decode.get_mut(decoding - 1) {
                    blend(slot, took);
                }
            }
            (_, _) => {
                self.mixed_in_a_row = self.mixed_in_a_row.saturating_add(1);
                if let Some(base) = self.expected(decoding) {
                    blend(&mut self.mixed_token, (took - base).max(took * LEAST_SHARE) / as_f64(prompt));
                }
            }
        }
    }

    /// How long so many prompt tokens take without streams, if that is known.
    pub fn alone(&self, prompt: usize) -> Option<Duration> {
        self.prompt_token.map(|each| Duration::from_secs_f64(each * as_f64(prompt) / 1e6))
    }

    /// Prompt tokens for the next step; at most `most`. Nobody decoding: `most`. `short`: somebody waits for a prompt that is
    /// soon done.
    pub fn prompt_budget(&self, decoding: usize, short: bool, most: usize) -> usize {
        if decoding == 0 {
            return most;
        }
        if self.mixed_in_a_row >= MIXED_IN_A_ROW {
            return 0;
        }
        let (Some(base), Some(each)) = (self.expected(decoding), self.mixed_token.or(self.prompt_token)) else {
            return most;
        };
        let room = base * (SLOWDOWN - 1.0);
        let room = if short { room.max(ONE_PAUSE.as_secs_f64() * 1e6 - base) } else { room };
        let fit = (AT_LEAST..=most).rev().find(|&tokens| as_f64(tokens) * each <= room);
        fit.unwrap_or(AT_LEAST).min(most)
    }

    /// From the nearest count that was measured, and of two the smaller, so as to promise less.
    fn expected(&self, decoding: usize) -> Option<f64> {
        let at = decoding.checked_sub(1)?;
        let (below, above) = self.decode.split_at_checked(at + 1)?;
        below.iter().rev().chain(above).find_map(|measured| *measured)
    }
}

fn blend(average: &mut Option<f64>, measured: f64) {
    *average = Some(match *average {
        Some(old) => old + WEIGHT * (measured.clamp(old / MOST_SURPRISE, old * MOST_SURPRISE) - old),
        None => measured,
    });
}

fn as_f64(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn unmeasured_or_alone_a_prompt_may_fill_the_batch() {
        let mut pace = Pace::new(4);
        assert_eq!(pace.prompt_budget(1, false, 128), 128);
        pace.observe(0, 100, micros(200_000));
        assert_eq!((pace.prompt_budget(0, false, 256), pace.prompt_budget(2, false, 128)), (256, 128));
    }

    #[test]
    fn beside_streams_a_step_stays_within_its_slowdown() {
        let mut pace = Pace::new(8);
        pace.observe(1, 0, micros(8_000));
        pace.observe(8, 0, micros(40_000));
        pace.observe(0, 100, micros(100_000));
        assert_eq!((pace.prompt_budget(1, false, 128), pace.prompt_budget(8, false, 128)), (8, 40));
        assert_eq!(pace.prompt_budget(5, false, 128), 8, "an unmeasured count is taken for the smaller one measured");
    }

    #[test]
    fn a_prompt_moves_on_however_slow_the_machine() {
        let mut pace = Pace::new(1);
        pace.observe(1, 0, micros(10));
        pace.observe(0, 1, micros(1_000_000));
        assert_eq!((pace.prompt_budget(1, false, 128), pace.prompt_budget(1, false, 1)), (AT_LEAST, 1));
    }

    #[test]
    fn one_sleep_of_the_machine_does_not_change_the_pace_by_much() {
        let mut pace = Pace::new(1);
        pace.observe(0, 100, micros(100_000));
        pace.observe(1, 0, micros(10_000));
        pace.observe(1, 0, micros(60_000_000));
        assert!(pace.prompt_budget(1, false, 128) < 20);
    }

    #[test]
    fn a_step_without_prompts_is_put_in_between() {
        let mut pace = Pace::new(1);
        pace.observe(1, 0, micros(10_000));
        for _ in 0..MIXED_IN_A_ROW {
            assert!(pace.prompt_budget(1, false, 128) > 0);
            pace.observe(1, 4, micros(20_000));
        }
        assert_eq!(pace.prompt_budget(1, false, 128), 0);
        pace.observe(1, 0, micros(10_000));
        assert!(pace.prompt_budget(1, false, 128) > 0);
    }

    #[test]
    fn a_step_that_took_no_longer_than_without_its_prompt_tokens_does_not_make_them_free_for_ever() {
        let mut pace = Pace::new(1);
        pace.observe(0, 100, micros(500_000));
        pace.observe(1, 0, micros(30_000));
        pace.observe(1, 2, micros(29_000));
        for _ in 0..50 {
            pace.observe(1, 0, micros(30_000));
            let next = pace.prompt_budget(1, false, 255);
            pace.observe(1, next, micros(30_000 + 5_000 * u64::try_from(next).unwrap()));
        }
        assert!(pace.prompt_budget(1, false, 255) < 20);
    }

    #[test]
    fn the_first_tokens_of_a_batch_say_nothing_about_the_others() {
        let mut pace = Pace::new(1);
        pace.observe(0, 100, micros(100_000));
        (0..50).for_each(|_| pace.observe(0, 2, micros(20_000)));
        assert_eq!(pace.alone(100), Some(micros(100_000)));
    }

    proptest! {
        /// Whatever the true costs, after some steps the budget keeps a step below three times a pure decode.
        #[test]
        fn a_long_prompt_keeps_steps_below_three_times_idle(
            decode in 2_000u64..80_000, each in 100u64..4_000, wrong in 1u64..16, decoding in 1usize..9,
        ) {
            let mut pace = Pace::new(8);
            // From a quarter to four times the truth.
            pace.observe(0, 40, micros(each * 10 * wrong));
            for _ in 0..40 {
                pace.observe(decoding, 0, micros(decode));
            }
            let mut budget = 0;
            for _ in 0..200 {
                let next = pace.prompt_budget(decoding, false, 128);
                pace.observe(decoding, next, micros(decode + each * next as u64));
                budget = if next > 0 { next } else { budget };
            }
            let least = each * AT_LEAST as u64;
            prop_assert!(each * budget as u64 <= (decode * 2).max(least), "budget {}", budget);
            prop_assert!(budget == 128 || each * (budget as u64 + 1) * 3 > decode, "too shy: {}", budget);
        }
    }
}
