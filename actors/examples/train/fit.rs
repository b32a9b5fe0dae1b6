//! From labelled rows to weights: both heads, linear and trees.

use crate::{data::Row, ridge, trees};
use spillway_actors::classify::{
    sketch::Sketch,
    weights::{Forest, Linear, Weights},
};

#[derive(Clone, Copy)]
pub(crate) struct Settings {
    pub penalty: ridge::Penalty,
    pub growth: trees::Growth,
    pub tree_share: f32,
    pub gain_share: f32,
    /// A source of n rows counts as n to this power.
    pub source_power: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            penalty: ridge::Penalty { buckets: 4.0, dense: 30.0 },
            growth: trees::Growth { trees: 100, depth: 4, rate: 0.08, shrink: 40.0 },
            tree_share: 0.7,
            gain_share: 0.45,
            source_power: 1.0,
        }
    }
}

/// What the heads learn: whether local models fail, and how much better the cloud does. Means over several models of a
/// class are steadier targets than one model's answer.
pub(crate) fn targets(row: &Row) -> [f64; 2] {
    [1.0 - row.weak, row.strong - row.weak]
}

/// Weights without calibration and cut points.
pub(crate) fn fit(rows: &[&Row], settings: Settings) -> Weights {
    let sketches: Vec<&Sketch> = rows.iter().map(|row| &row.sketch).collect();
    let weights = row_weights(rows, settings.source_power);
    let scales = ridge::scales(&sketches);
    let heads: [(Linear, Vec<i8>, Forest); 2] = std::array::from_fn(|head| {
        let targets: Vec<f64> = rows.iter().map(|row| targets(row)[head]).collect();
        let fitted = ridge::fit(&sketches, &weights, &targets, &scales, settings.penalty);
        let (linear, buckets) = ridge::quantised(&fitted);
        (linear, buckets, trees::fit(&sketches, &weights, &targets, settings.growth))
    });
    let [(fails, fail_buckets, fail_trees), (gains, gain_buckets, gain_trees)] = heads;
    Weights {
        scales,
        linear: [fails, gains],
        forests: [fail_trees, gain_trees],
        tree_share: settings.tree_share,
        gain_share: settings.gain_share,
        buckets: fail_buckets.into_iter().zip(gain_buckets).map(|(fails, gains)| [fails, gains]).collect(),
        score_odds: [0.0, 1.0],
        fail_odds: [0.0, 1.0],
        cuts: [0.25, 0.5, 0.75],
    }
}

fn row_weights(rows: &[&Row], power: f64) -> Vec<f64> {
    let size = |source: &str| rows.iter().filter(|row| row.source == source).count() as f64;
    let mut sizes = std::collections::BTreeMap::new();
    for row in rows {
        sizes.entry(row.source.as_str()).or_insert_with(|| size(&row.source).powf(power - 1.0));
    }
    let mean = rows.iter().map(|row| sizes[row.source.as_str()]).sum::<f64>() / rows.len() as f64;
    rows.iter().map(|row| sizes[row.source.as_str()] / mean).collect()
}
