//! Draws a token by its probability, without a list of candidates.
//!
//! Pure but for the random numbers, of which there is one per token. Most requests only name a temperature, and going over
//! a vocabulary of candidates for each of their tokens takes as long as a tenth of a decode.

use crate::{backend::Token, logprobs};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Weights are summed up in runs of this many, so that a draw need not go over all of them again.
const RUN: usize = 256;
/// Binary orders of magnitude below the most likely token, where a weight counts as none.
const NEGLIGIBLE: f32 = -100.0;

/// One job's draws.
pub struct Draw {
    /// Logits are multiplied by it, to be powers of two.
    scale: f32,
    random: StdRng,
    weights: Vec<f32>,
}

impl Draw {
    /// The same seed draws the same numbers; `None`: any. `replayed` draws have been made.
    pub fn new(temperature: f32, seed: Option<u32>, replayed: usize) -> Self {
        let mut random = StdRng::seed_from_u64(seed.map_or_else(rand::random, u64::from));
        for _ in 0..replayed {
            random.random::<f64>();
        }
        Self { scale: std::f32::consts::LOG2_E / temperature, random, weights: Vec::new() }
    }

    /// `None` when there is no number among the logits.
    pub fn draw(&mut self, logits: &[f32]) -> Option<Token> {
        let uniform = self.random.random::<f64>();
        draw(logits, self.scale, uniform, &mut self.weights)
    }
}

/// The token at which the sum of all weights before it passes `uniform` (0 to 1) of the whole.
fn draw(logits: &[f32], scale: f32, uniform: f64, weights: &mut Vec<f32>) -> Option<Token> {
    let largest = logprobs::largest(logits)?;
    weights.clear();
    weights.extend(logits.iter().map(|logit| power_of_two((logit - largest) * scale)));
    let sums: Vec<f64> = weights.chunks(RUN).map(|run| f64::from(run.iter().sum::<f32>())).collect();
    let mut left = sums.iter().sum::<f64>() * uniform;
    let mut run = 0;
    for (at, sum) in sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
        run = at;
        if left < *sum {
            break;
        }
        left -= sum;
    }
    let start = run * RUN;
    let mut drawn = None;
    for (at, weight) in (start..).zip(weights.get(start..)?.iter().take(RUN)).filter(|(_, weight)| **weight > 0.0) {
        drawn = Some(at);
        left -= f64::from(*weight);
        if left < 0.0 {
            break;
        }
    }
    Token::try_from(drawn?).ok()
}

/// 2^x for x up to 0, right to six digits, and 0 for what is no number. Without a call or a branch, so that compilers
/// compute several at once.
fn power_of_two(x: f32) -> f32 {
    /// Added to a small number it leaves the nearest integer in the lowest bits.
    const ROUNDS: f32 = 12_582_912.0;
    let bounded = if x > NEGLIGIBLE { x } else { NEGLIGIBLE };
    let rounded = bounded + ROUNDS;
    let fraction = bounded - (rounded - ROUNDS);
    // The series of 2^f.
    let series = 1.540_353e-4_f32;
    let series = series * fraction + 1.333_355_8e-3;
    let series = series * fraction + 9.618_129e-3;
    let series = series * fraction + 5.550_411e-2;
    let series = series * fraction + 0.240_226_5;
    let series = series * fraction + std::f32::consts::LN_2;
    let series = series * fraction + 1.0;
    let power = f32::from_bits(series.to_bits().wrapping_add(rounded.to_bits() << 23));
    if x > NEGLIGIBLE { power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn powers_of_two_are_right_to_six_digits() {
        for step in 0..60_000_u16 {
            let x = -f32::from(step) / 601.0;
            let (ours, exact) = (f64::from(power_of_two(x)), f64::from(x).exp2());
            assert!((ours / exact - 1.0).abs() < 1e-6, "2^{x}: {ours} for {exact}");
        }
        assert_eq!((power_of_two(-1000.0), power_of_two(f32::NEG_INFINITY), power_of_two(f32::NAN)), (0.0, 0.0, 0.0));
    }

    #[test]
    fn tokens_come_as_often_as_their_probability_says() {
        let mut logits = vec![f32::NEG_INFINITY; 1000];
        for (at, probability) in [(3, 0.5_f32), (255, 0.2), (256, 0.2), (999, 0.1)] {
            logits[at] = probability.ln() + 7.0;
        }
        let mut draws = Draw::new(1.0, Some(11), 0);
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..20_000 {
            *counts.entry(draws.draw(&logits).unwrap()).or_insert(0_u32) += 1;
        }
        let shares: Vec<(Token, f64)> =
            counts.into_iter().map(|(token, count)| (token, f64::from(count) / 20_000.0)).collect();
        for ((token, share), (expected, probability)) in
            shares.iter().zip([(3, 0.5), (255, 0.2), (256, 0.2), (999, 0.1)])
        {
            assert_eq!(*token, expected);
            assert!((share - probability).abs() < 0.012, "{shares:?}");
        }
        assert_eq!(shares.len(), 4);
    }

    #[test]
    fn a_lower_temperature_prefers_the_likely_and_a_seed_repeats_from_any_place() {
        let logits = [0.0, 1.0, 2.0, 3.0];
        let texts = |temperature, seed| {
            let mut draws = Draw::new(temperature, Some(seed), 0);
            (0..50).map(|_| draws.draw(&logits).unwrap()).collect::<Vec<_>>()
        };
        assert!(texts(1e-4, 1).iter().all(|token| *token == 3));
        assert_ne!(texts(1.0, 1), texts(1.0, 2));
        let mut later = Draw::new(1.0, Some(1), 20);
        assert_eq!(later.draw(&logits), texts(1.0, 1).get(20).copied());
    }

    #[test]
    fn without_numbers_nothing_is_drawn() {
        let mut draws = Draw::new(1.0, None, 0);
        assert_eq!(draws.draw(&[]), None);
        assert_eq!(draws.draw(&[f32::NAN, f32::NEG_INFINITY]), None);
        assert_eq!(draws.draw(&[f32::NAN, 0.5, f32::NEG_INFINITY]), Some(1));
    }

    proptest! {
        #[test]
        fn what_is_drawn_has_a_weight(
            logits in proptest::collection::vec(prop_oneof![-50.0_f32..50.0, Just(f32::NEG_INFINITY), Just(f32::NAN)], 1..700),
            uniform in 0.0_f64..1.0, temperature in 0.01_f32..2.0,
        ) {
            match draw(&logits, std::f32::consts::LOG2_E / temperature, uniform, &mut Vec::new()) {
                Some(token) => prop_assert!(logits[usize::try_from(token).unwrap()].is_finite()),
                None => prop_assert!(logits.iter().all(|logit| !logit.is_finite())),
            }
        }
    }
}
