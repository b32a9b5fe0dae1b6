//! Cut points: where on the scale of probabilities that a local model fails one grade ends and the next begins.

use super::weights::Weights;
use crate::domain::Complexity;

/// Lowest probabilities of MODERATE, COMPLEX and PREMIUM; never descending, all between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cuts([f64; 3]);

impl Cuts {
    /// `None` if they descend or leave the range of scores.
    pub fn new(cuts: [f64; 3]) -> Option<Self> {
        let [moderate, complex, premium] = cuts;
        let inside = cuts.iter().all(|cut| (0.0..=1.0).contains(cut));
        (inside && moderate <= complex && complex <= premium).then_some(Self(cuts))
    }

    /// The cut points that were found with the weights.
    pub fn trained() -> Self {
        Self::new(Weights::built_in().cuts.map(f64::from)).unwrap_or(Self([0.25, 0.5, 0.75]))
    }

    /// So that each grade gets its share of these scores, easiest first; a score that is a cut point goes up. `None` without
    /// scores, or if the shares are negative or all 0.
    pub fn of_shares(scores: &mut [f64], shares: [f64; 4]) -> Option<Self> {
        let all: f64 = shares.iter().sum();
        if scores.is_empty() || all <= 0.0 || !all.is_finite() || shares.iter().any(|share| *share < 0.0) {
            return None;
        }
        scores.sort_by(f64::total_cmp);
        let mut below = 0.0;
        let [first, second, third, _] = shares;
        let cuts = [first, second, third].map(|share| {
            below += share / all;
            quantile(scores, below)
        });
        Self::new(cuts)
    }

    pub fn points(self) -> [f64; 3] {
        self.0
    }

    pub fn grade(self, score: f64) -> Complexity {
        let [moderate, complex, premium] = self.0;
        match score {
            _ if score >= premium => Complexity::Premium,
            _ if score >= complex => Complexity::Complex,
            _ if score >= moderate => Complexity::Moderate,
            _ => Complexity::Trivial,
        }
    }
}

/// The score that `share` of the sorted scores lie below; 1 if all do.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in a list, checked by `get`"
    )]
    let at = (sorted.len() as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_score_at_a_cut_belongs_to_the_harder_grade() {
        let cuts = Cuts::new([0.2, 0.5, 0.9]).unwrap();
        let grades = [0.0, 0.19, 0.2, 0.5, 0.89, 0.9, 1.0].map(|score| cuts.grade(score).as_str());
        assert_eq!(grades, ["trivial", "trivial", "moderate", "complex", "complex", "premium", "premium"]);
    }

    #[test]
    fn descending_or_impossible_cuts_are_refused() {
        for cuts in [[0.5, 0.4, 0.9], [0.1, 0.2, 1.1], [-0.1, 0.2, 0.3], [f64::NAN, 0.2, 0.3]] {
            assert_eq!(Cuts::new(cuts), None, "{cuts:?}");
        }
    }

    #[test]
    fn shares_are_met_on_the_scores_they_were_made_from() {
        let mut scores: Vec<f64> = (0..100).rev().map(|at| f64::from(at) / 100.0).collect();
        let cuts = Cuts::of_shares(&mut scores, [60.0, 20.0, 15.0, 5.0]).unwrap();
        let share = |grade| scores.iter().filter(|score| cuts.grade(**score) == grade).count();
        assert_eq!(Complexity::ALL.map(share), [60, 20, 15, 5]);
    }

    #[test]
    fn shares_without_scores_or_sense_make_no_cuts() {
        assert_eq!(Cuts::of_shares(&mut [], [1.0; 4]), None);
        assert_eq!(Cuts::of_shares(&mut [0.5], [0.0; 4]), None);
        assert_eq!(Cuts::of_shares(&mut [0.5], [2.0, -1.0, 0.0, 0.0]), None);
    }

    proptest! {
        #[test]
        fn a_higher_score_is_never_graded_easier(mut cuts: [f64; 3], a in 0.0f64..=1.0, b in 0.0f64..=1.0) {
            cuts.iter_mut().for_each(|cut| *cut = cut.abs().fract());
            cuts.sort_by(f64::total_cmp);
            prop_assume!(cuts.iter().all(|cut| cut.is_finite()));
            let cuts = Cuts::new(cuts).unwrap();
            prop_assert!(cuts.grade(a.min(b)) <= cuts.grade(a.max(b)));
        }
    }
}
