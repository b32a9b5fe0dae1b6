//! How likely a token was: the softmax of the raw logits, before anything a request asks for reshapes them.
//!
//! Pure. As OpenAI reports it: a banned or filtered token keeps the likelihood the model gave it.

use crate::backend::Token;
use std::cmp::Ordering;

/// Natural logarithms of probabilities.
#[derive(Debug, Clone, PartialEq)]
pub struct Likelihood {
    pub chosen: f32,
    /// The most likely tokens, best first.
    pub top: Vec<(Token, f32)>,
}

/// `None` when the logits are no numbers or hold no such token.
pub fn likelihood(logits: &[f32], chosen: Token, top: usize) -> Option<Likelihood> {
    let largest = largest(logits)?;
    let sum: f64 = logits.iter().filter(|logit| !logit.is_nan()).map(|logit| f64::from(logit - largest).exp()).sum();
    // A sum of at least one term of one: the logarithm is a number.
    let scale = f64::from(largest) + sum.ln();
    let logprob = |logit: f32| narrow(f64::from(logit) - scale);
    let of_chosen = usize::try_from(chosen).ok().and_then(|at| logits.get(at)).copied()?;
    let top = largest_of(logits, top).into_iter().map(|(token, logit)| (token, logprob(logit))).collect();
    Some(Likelihood { chosen: logprob(of_chosen), top })
}

/// `None` without a number among them, or with infinity.
pub fn largest(logits: &[f32]) -> Option<f32> {
    // `max` prefers numbers to what is none.
    Some(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)).filter(|largest| largest.is_finite())
}

/// JSON knows no infinities, and OpenAI says -9999 for "as good as never".
#[expect(clippy::cast_possible_truncation, reason = "from -9999 to 0, where f32 is precise enough")]
fn narrow(logprob: f64) -> f32 {
    logprob.max(-9999.0) as f32
}

fn largest_of(logits: &[f32], count: usize) -> Vec<(Token, f32)> {
    let mut all: Vec<(Token, f32)> = (0..).zip(logits.iter().copied()).filter(|(_, logit)| !logit.is_nan()).collect();
    let best_first = |one: &(Token, f32), other: &(Token, f32)| {
        other.1.partial_cmp(&one.1).unwrap_or(Ordering::Equal).then(one.0.cmp(&other.0))
    };
    if count == 0 || all.is_empty() {
        return Vec::new();
    }
    if count < all.len() {
        all.select_nth_unstable_by(count - 1, best_first);
        all.truncate(count);
    }
    all.sort_unstable_by(best_first);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn probabilities_of_equal_logits_are_equal_and_ties_go_to_the_lower_id() {
        let two = likelihood(&[3.0, 3.0], 1, 1).unwrap();
        assert!((two.chosen - 0.5_f32.ln()).abs() < 1e-6);
        assert_eq!(two.top[0].0, 0);
    }

    #[test]
    fn what_is_no_number_gives_nothing_and_impossible_tokens_a_number() {
        assert_eq!(likelihood(&[f32::NAN, f32::NEG_INFINITY], 0, 1), None);
        assert_eq!(likelihood(&[0.0], 7, 0), None);
        assert_eq!(likelihood(&[0.0, f32::NEG_INFINITY], 1, 0).unwrap().chosen, -9999.0);
    }

    proptest! {
        #[test]
        fn all_probabilities_add_up_to_one_and_the_top_is_sorted(logits in proptest::collection::vec(-60.0f32..60.0, 1..50), count in 0usize..60) {
            let all = likelihood(&logits, 0, logits.len()).unwrap();
            let sum: f64 = all.top.iter().map(|(_, logprob)| f64::from(*logprob).exp()).sum();
            prop_assert!((sum - 1.0).abs() < 1e-4, "{}", sum);
            let top = likelihood(&logits, 0, count).unwrap().top;
            prop_assert_eq!(&top[..], &all.top[..count.min(logits.len())]);
            prop_assert!(top.windows(2).all(|pair| pair[0].1 >= pair[1].1));
        }
    }
}
