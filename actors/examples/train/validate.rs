//! Cross-validation: predictions for every row by weights that never saw it, its near-duplicates or, for transfer, its
//! source or its task.

use crate::{
    data::Row,
    fit::{self, Settings},
};
use spillway_actors::classify::{
    measure::{Confusion, Curve, Labelled, auc, quadratic_kappa},
    weights::{FAILS, GAINS},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, thread,
};

/// What is left out together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Group,
    Source,
    Task,
}

impl Scheme {
    pub(crate) const ALL: [Self; 3] = [Self::Group, Self::Source, Self::Task];
}

/// Predictions of one row: linear and trees, for both heads.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Predicted {
    pub linear: [f64; 2],
    pub trees: [f64; 2],
}

impl Predicted {
    pub(crate) fn head(&self, head: usize, tree_share: f64) -> f64 {
        self.linear[head] + tree_share * (self.trees[head] - self.linear[head])
    }

    pub(crate) fn blend(&self, tree_share: f64, gain_share: f64) -> f64 {
        let fails = self.head(FAILS, tree_share);
        fails + gain_share * (self.head(GAINS, tree_share) - fails)
    }
}

/// Fold of every row. Groups go round by order of their name; so do sources and tasks.
pub(crate) fn folds(rows: &[Row], scheme: Scheme) -> Vec<usize> {
    let key = |row: &Row| match scheme {
        Scheme::Group => row.group.clone(),
        Scheme::Source => row.source.clone(),
        Scheme::Task => row.task.clone(),
    };
    let keys: BTreeSet<String> = rows.iter().map(key).collect();
    let most = match scheme {
        Scheme::Group => 5,
        Scheme::Source => 6,
        Scheme::Task => 6,
    };
    let order: BTreeMap<String, usize> = keys.into_iter().enumerate().map(|(at, key)| (key, at % most)).collect();
    rows.iter().map(|row| order[&key(row)]).collect()
}

pub(crate) fn out_of_fold(rows: &[Row], scheme: Scheme, settings: Settings) -> Vec<Predicted> {
    let folds = folds(rows, scheme);
    let count = folds.iter().max().map_or(0, |most| most + 1);
    let mut predicted = vec![Predicted::default(); rows.len()];
    let halves: Vec<Vec<(usize, Predicted)>> = thread::scope(|scope| {
        let run = |half: usize| {
            let folds = &folds;
            scope.spawn(move || {
                (half..count).step_by(2).flat_map(|fold| one_fold(rows, folds, fold, settings)).collect()
            })
        };
        let threads = [run(0), run(1)];
        threads.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
    });
    for (at, value) in halves.into_iter().flatten() {
        predicted[at] = value;
    }
    predicted
}

fn one_fold(rows: &[Row], folds: &[usize], fold: usize, settings: Settings) -> Vec<(usize, Predicted)> {
    let held: Vec<usize> = (0..rows.len()).filter(|at| folds[*at] == fold).collect();
    let groups: BTreeSet<&str> = held.iter().map(|at| rows[*at].group.as_str()).collect();
    // A near-duplicate elsewhere would give the answer away.
    let training: Vec<&Row> = (0..rows.len())
        .filter(|at| folds[*at] != fold && !groups.contains(rows[*at].group.as_str()))
        .map(|at| &rows[at])
        .collect();
    let weights = fit::fit(&training, settings);
    let predict = |at: usize| {
        let sketch = &rows[at].sketch;
        let linear = weights.linear_heads(sketch).map(f64::from);
        let trees = std::array::from_fn(|head| f64::from(weights.forests[head].predict(&sketch.dense)));
        (at, Predicted { linear, trees })
    };
    held.into_iter().map(predict).collect()
}

/// The measures of one score (and for the tiers one probability that a local model fails) for each row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub apgr: f64,
    /// Mean over sources that have a gap.
    pub apgr_within: f64,
    pub auc: f64,
    pub kappa: f64,
    /// Share of all rows in each tier.
    pub shares: [f64; 4],
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { apgr, apgr_within, auc, kappa, shares } = self;
        write!(
            f,
            "APGR {apgr:.4} (mean within sources {apgr_within:.4}), AUC {auc:.4}, kappa {kappa:.4}, shares {shares:.2?}"
        )
    }
}

pub(crate) fn measure(rows: &[Row], scores: &[f64], chances: &[f64], cuts: [f64; 3]) -> Measured {
    let labelled = |keep: &dyn Fn(&Row) -> bool| -> Vec<Labelled> {
        let kept = rows.iter().zip(scores).filter(|(row, _)| keep(row));
        kept.map(|(row, score)| Labelled { score: *score, weak: row.weak, strong: row.strong }).collect()
    };
    let apgr = |rows: &[Labelled]| Curve::of(rows).map_or(0.5, |curve| curve.apgr());
    let sources: BTreeSet<&str> = rows.iter().map(|row| row.source.as_str()).collect();
    let within: Vec<f64> = sources
        .into_iter()
        .map(|source| labelled(&|row| row.source == source))
        .filter(|rows| rows.iter().map(|row| row.strong - row.weak).sum::<f64>() > 0.03 * rows.len() as f64)
        .map(|rows| apgr(&rows))
        .collect();
    let fails: Vec<(f64, bool)> = rows.iter().zip(scores).map(|(row, score)| (*score, row.weak_fails)).collect();
    let given: Vec<usize> = chances.iter().map(|chance| cuts.iter().filter(|cut| chance >= cut).count()).collect();
    let mut confusion = [[0; 4]; 4];
    for (row, given) in rows.iter().zip(&given) {
        if let Some(truth) = row.min_tier {
            confusion[truth as usize][*given] += 1;
        }
    }
    Measured {
        apgr: apgr(&labelled(&|_| true)),
        apgr_within: within.iter().sum::<f64>() / within.len() as f64,
        auc: auc(&fails).unwrap_or(0.5),
        kappa: quadratic_kappa(&confusion).unwrap_or(0.0),
        shares: std::array::from_fn(|tier| {
            given.iter().filter(|given| **given == tier).count() as f64 / rows.len() as f64
        }),
    }
}

/// The three cut points, among quantiles, that agree best with the lowest tier known to solve a row.
pub(crate) fn best_cuts(rows: &[Row], scores: &[f64]) -> (f64, [f64; 3]) {
    let graded: Vec<(f64, usize)> =
        rows.iter().cycle().zip(scores).filter_map(|(row, score)| Some((*score, row.min_tier? as usize))).collect();
    let mut sorted: Vec<f64> = graded.iter().map(|row| row.0).collect();
    sorted.sort_by(f64::total_cmp);
    let grid: Vec<f64> = (1..QUANTILES).map(|at| sorted[at * (sorted.len() - 1) / QUANTILES]).collect();
    let below = counts_below(&graded, &grid);
    let mut best = (f64::MIN, [0.0; 3]);
    for low in 0..grid.len() {
        for middle in low + 1..grid.len() {
            for high in middle + 1..grid.len() {
                let kappa = quadratic_kappa(&confusion(&below, [low, middle, high])).unwrap_or(0.0);
                if kappa > best.0 {
                    best = (kappa, [grid[low], grid[middle], grid[high]]);
                }
            }
        }
    }
    best
}

const QUANTILES: usize = 50;

/// For every cut of the grid, how many rows of every true tier score below it; last all rows.
fn counts_below(graded: &[(f64, usize)], grid: &[f64]) -> Vec<[u64; 4]> {
    let ends = grid.iter().copied().chain([f64::INFINITY]);
    ends.map(|cut| {
        let mut counts = [0; 4];
        for (_, truth) in graded.iter().filter(|row| row.0 < cut) {
            counts[*truth] += 1;
        }
        counts
    })
    .collect()
}

fn confusion(below: &[[u64; 4]], [low, middle, high]: [usize; 3]) -> Confusion {
    let all = below.len() - 1;
    std::array::from_fn(|truth| {
        let [a, b, c, d] = [low, middle, high, all].map(|at| below[at][truth]);
        [a, b - a, c - b, d - c]
    })
}
