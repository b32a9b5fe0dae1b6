//! From raw predictions to probabilities and cut points, always on predictions for rows that were left out.

use crate::{
    data::Row,
    fit::Settings,
    validate::{self, Predicted},
};
use spillway_actors::classify::weights::{FAILS, Weights, logistic};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Calibration {
    score_odds: [f32; 2],
    fail_odds: [f32; 2],
    cuts: [f32; 3],
}

/// Both log-odds are fitted where near-duplicates were left out. The cut points also count what happens on unseen sources,
/// because that is what they will meet.
pub(crate) fn calibrate(rows: &[Row], unseen: &[&[Predicted]], settings: Settings) -> Calibration {
    let fails: Vec<bool> = rows.iter().map(|row| row.weak_fails).collect();
    let [tree_share, gain_share] = [settings.tree_share, settings.gain_share].map(f64::from);
    let blends =
        |predicted: &[Predicted]| predicted.iter().map(|row| row.blend(tree_share, gain_share)).collect::<Vec<_>>();
    let heads: Vec<f64> = unseen[0].iter().map(|row| row.head(FAILS, tree_share)).collect();
    let score_odds = logistic_fit(&blends(unseen[0]), &fails);
    let fail_odds = logistic_fit(&heads, &fails);
    let of_heads =
        |predicted: &[Predicted]| -> Vec<f64> { predicted.iter().map(|row| row.head(FAILS, tree_share)).collect() };
    let both: Vec<f64> = unseen.iter().take(2).flat_map(|predicted| of_heads(predicted)).collect();
    let (_, cuts) = validate::best_cuts(rows, &both);
    let chance = |cut: f64| logistic(fail_odds[0] + fail_odds[1] * cut);
    Calibration {
        score_odds: score_odds.map(|odds| odds as f32),
        fail_odds: fail_odds.map(|odds| odds as f32),
        // Three digits, so that a configuration can state them.
        cuts: cuts.map(|cut| (chance(cut) * 1000.0).round() as f32 / 1000.0),
    }
}

impl Calibration {
    pub(crate) fn score(&self, row: &Predicted, settings: Settings) -> f64 {
        let [intercept, slope] = self.score_odds.map(f64::from);
        logistic(intercept + slope * row.blend(f64::from(settings.tree_share), f64::from(settings.gain_share)))
    }

    pub(crate) fn fails(&self, row: &Predicted, settings: Settings) -> f64 {
        let [intercept, slope] = self.fail_odds.map(f64::from);
        logistic(intercept + slope * row.head(FAILS, f64::from(settings.tree_share)))
    }

    pub(crate) fn cuts(&self) -> [f64; 3] {
        self.cuts.map(f64::from)
    }

    pub(crate) fn into_weights(self, weights: &mut Weights) {
        weights.score_odds = self.score_odds;
        weights.fail_odds = self.fail_odds;
        weights.cuts = self.cuts;
    }
}

/// Intercept and slope of the log-odds, by Newton's method.
fn logistic_fit(values: &[f64], truths: &[bool]) -> [f64; 2] {
    let [mut intercept, mut slope] = [0.0, 1.0];
    for _ in 0..30 {
        let (mut g0, mut g1, mut h00, mut h01, mut h11) = (0.0, 0.0, 1e-9, 0.0, 1e-9);
        for (value, truth) in values.iter().zip(truths) {
            let p = logistic(intercept + slope * value);
            let error = f64::from(u8::from(*truth)) - p;
            let spread = p * (1.0 - p);
            g0 += error;
            g1 += error * value;
            h00 += spread;
            h01 += spread * value;
            h11 += spread * value * value;
        }
        let det = h00 * h11 - h01 * h01;
        intercept += (h11 * g0 - h01 * g1) / det;
        slope += (h00 * g1 - h01 * g0) / det;
    }
    [intercept, slope]
}
