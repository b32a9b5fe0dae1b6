//! Boosted regression trees over the counts, on histograms of quantile bins. No sampling: the same data gives the same
//! trees.

use spillway_actors::classify::{
    sketch::{DENSE, Sketch},
    weights::{Forest, Node, Tree},
};

const BINS: usize = 48;

#[derive(Clone, Copy)]
pub(crate) struct Growth {
    pub trees: usize,
    pub depth: usize,
    pub rate: f64,
    /// Added to a leaf's weight: small leaves say little.
    pub shrink: f64,
}

/// Upper bounds of the bins of every count, and the bin of every row.
struct Binned {
    bounds: Vec<Vec<f32>>,
    rows: Vec<[u8; DENSE]>,
}

pub(crate) fn fit(sketches: &[&Sketch], weights: &[f64], targets: &[f64], growth: Growth) -> Forest {
    let binned = bin(sketches);
    let total: f64 = weights.iter().sum();
    let bias = weights.iter().zip(targets).map(|(weight, target)| weight * target).sum::<f64>() / total;
    let mut rest: Vec<f64> = targets.iter().map(|target| target - bias).collect();
    let mut trees = Vec::with_capacity(growth.trees);
    for _ in 0..growth.trees {
        let tree = grow(&binned, weights, &rest, growth);
        for (rest, sketch) in rest.iter_mut().zip(sketches) {
            *rest -= f64::from(tree.predict(&sketch.dense));
        }
        trees.push(tree);
    }
    Forest { bias: bias as f32, trees }
}

fn bin(sketches: &[&Sketch]) -> Binned {
    let bounds: Vec<Vec<f32>> = (0..DENSE)
        .map(|at| {
            let mut values: Vec<f32> = sketches.iter().map(|sketch| sketch.dense[at]).collect();
            values.sort_by(f32::total_cmp);
            let mut bounds: Vec<f32> = (1..BINS).map(|bin| values[bin * (values.len() - 1) / BINS]).collect();
            bounds.dedup();
            bounds
        })
        .collect();
    let row = |sketch: &&Sketch| {
        std::array::from_fn(|at| bounds[at].partition_point(|bound| *bound < sketch.dense[at]) as u8)
    };
    let rows = sketches.iter().map(row).collect();
    Binned { bounds, rows }
}

#[derive(Clone, Copy, Default)]
struct Sum {
    weight: f64,
    value: f64,
}

impl Sum {
    fn worth(self, shrink: f64) -> f64 {
        self.value * self.value / (self.weight + shrink)
    }
}

fn grow(binned: &Binned, weights: &[f64], rest: &[f64], growth: Growth) -> Tree {
    let inner = (1 << growth.depth) - 1;
    let mut place = vec![0usize; rest.len()];
    let mut nodes = vec![Node { feature: 0, above: f32::INFINITY }; inner];
    for level in 0..growth.depth {
        let first = (1 << level) - 1;
        let sums = histograms(binned, weights, rest, &place, first, 1 << level);
        let splits: Vec<Option<(usize, usize)>> = sums.iter().map(|sums| best_split(sums, growth.shrink)).collect();
        for (at, split) in splits.iter().enumerate() {
            if let Some((feature, bin)) = split {
                nodes[first + at] = Node { feature: *feature as u8, above: binned.bounds[*feature][*bin] };
            }
        }
        for (place, row) in place.iter_mut().zip(&binned.rows) {
            let right = splits[*place - first].is_some_and(|(feature, bin)| usize::from(row[feature]) > bin);
            *place = 2 * *place + 1 + usize::from(right);
        }
    }
    let mut sums = vec![Sum::default(); inner + 1];
    for ((place, weight), rest) in place.iter().zip(weights).zip(rest) {
        let sum = &mut sums[place - inner];
        sum.weight += weight;
        sum.value += weight * rest;
    }
    let leaves = sums.iter().map(|sum| (growth.rate * sum.value / (sum.weight + growth.shrink)) as f32).collect();
    Tree { nodes, leaves }
}

type Histogram = Vec<[Sum; BINS]>;

fn histograms(
    binned: &Binned,
    weights: &[f64],
    rest: &[f64],
    place: &[usize],
    first: usize,
    count: usize,
) -> Vec<Histogram> {
    let mut sums = vec![vec![[Sum::default(); BINS]; DENSE]; count];
    for (at, row) in binned.rows.iter().enumerate() {
        let sums = &mut sums[place[at] - first];
        for (sums, bin) in sums.iter_mut().zip(row) {
            let sum = &mut sums[usize::from(*bin)];
            sum.weight += weights[at];
            sum.value += weights[at] * rest[at];
        }
    }
    sums
}

/// The count and bin whose split explains most, leaving at least `shrink` rows' weight on both sides.
fn best_split(sums: &Histogram, shrink: f64) -> Option<(usize, usize)> {
    let mut best = None;
    let mut most = 1e-9;
    for (feature, bins) in sums.iter().enumerate() {
        let all = bins
            .iter()
            .fold(Sum::default(), |sum, bin| Sum { weight: sum.weight + bin.weight, value: sum.value + bin.value });
        let mut left = Sum::default();
        for (bin, sum) in bins.iter().enumerate().take(BINS - 1) {
            left = Sum { weight: left.weight + sum.weight, value: left.value + sum.value };
            let right = Sum { weight: all.weight - left.weight, value: all.value - left.value };
            let gained = left.worth(shrink) + right.worth(shrink) - all.worth(shrink);
            if left.weight >= shrink && right.weight >= shrink && gained > most {
                most = gained;
                best = Some((feature, bin));
            }
        }
    }
    best
}
