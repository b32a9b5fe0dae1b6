//! The trained weights and what they say about a sketch: two heads ("the local model fails", "the cloud gains"), each a
//! linear model over hashed words and counts plus small boosted trees over the counts. Data only; the training program
//! makes it, and the file beside this one is compiled in.

use super::sketch::{BUCKETS, DENSE, Sketch};
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// What each head predicts, in the order of the arrays below.
pub const HEADS: usize = 2;
pub const FAILS: usize = 0;
pub const GAINS: usize = 1;

static BUILT_IN: LazyLock<Weights> =
    LazyLock::new(|| Weights::decode(include_bytes!("weights.bin")).unwrap_or_default());

/// Everything that was learned.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    /// How a count becomes an input of the linear models.
    pub scales: Vec<Scale>,
    pub linear: [Linear; HEADS],
    pub forests: [Forest; HEADS],
    /// Share of the trees in a head, 0 to 1; the rest is linear.
    pub tree_share: f32,
    /// Share of "the cloud gains" in the score.
    pub gain_share: f32,
    /// Log-odds of the blend: intercept and slope.
    pub score_odds: [f32; 2],
    /// Log-odds that the local model fails: intercept and slope over the first head.
    pub fail_odds: [f32; 2],
    /// Default cut points between the four grades, ascending.
    pub cuts: [f32; 3],
    /// Quantised weights of each bucket, one for each head.
    #[serde(skip)]
    pub buckets: Vec<[i8; HEADS]>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    pub mean: f32,
    pub per_unit: f32,
    /// The range seen in training: beyond it a linear model would run away.
    pub low: f32,
    pub high: f32,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    pub bias: f32,
    pub dense: Vec<f32>,
    /// Worth of one unit of a quantised bucket.
    pub unit: f32,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Forest {
    pub bias: f32,
    pub trees: Vec<Tree>,
}

/// A complete binary tree: node `n` has children `2n + 1` and `2n + 2`; what comes after the last node are leaves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tree {
    pub nodes: Vec<Node>,
    pub leaves: Vec<f32>,
}

/// Goes right if the count is above the threshold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub feature: u8,
    pub above: f32,
}

/// What the weights say about one prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Opinion {
    /// 0 to 1; higher = needs the cloud.
    pub score: f64,
    /// Calibrated probability that a local model fails.
    pub fails: f64,
}

impl Weights {
    pub fn built_in() -> &'static Self {
        &BUILT_IN
    }

    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        let mut bytes = postcard::to_allocvec(self)?;
        bytes.extend(self.buckets.iter().flatten().map(|weight| weight.cast_unsigned()));
        Ok(bytes)
    }

    /// `None` if the bytes are not a whole weights file.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut weights, rest) = postcard::take_from_bytes::<Self>(bytes).ok()?;
        let (pairs, []) = rest.as_chunks::<HEADS>() else { return None };
        weights.buckets = pairs.iter().map(|pair| pair.map(u8::cast_signed)).collect();
        let whole = weights.buckets.len() == BUCKETS
            && weights.scales.len() == DENSE
            && weights.linear.iter().all(|linear| linear.dense.len() == DENSE);
        whole.then_some(weights)
    }

    /// `shift` moves the log-odds for what the prompt's text does not show.
    pub fn opinion(&self, sketch: &Sketch, shift: f64) -> Opinion {
        let [fails, gains] = self.heads(sketch);
        let blend = fails + self.gain_share * (gains - fails);
        let odds = |[intercept, slope]: [f32; 2], value: f32| logistic(f64::from(intercept + slope * value) + shift);
        Opinion { score: odds(self.score_odds, blend), fails: odds(self.fail_odds, fails) }
    }

    /// The raw predictions of both heads.
    pub fn heads(&self, sketch: &Sketch) -> [f32; HEADS] {
        let linear = self.linear_heads(sketch);
        std::array::from_fn(|head| match (linear.get(head), self.forests.get(head)) {
            (Some(linear), Some(forest)) => linear + self.tree_share * (forest.predict(&sketch.dense) - linear),
            _ => 0.0,
        })
    }

    pub fn linear_heads(&self, sketch: &Sketch) -> [f32; HEADS] {
        let mut sums = [0i32; HEADS];
        for bucket in &sketch.buckets {
            if let Some(pair) = self.buckets.get(usize::from(*bucket)) {
                for (sum, weight) in sums.iter_mut().zip(pair) {
                    *sum += i32::from(*weight);
                }
            }
        }
        let norm = bucket_value(sketch.buckets.len());
        let inputs = self.inputs(&sketch.dense);
        let mut heads = [0.0; HEADS];
        for ((head, linear), sum) in heads.iter_mut().zip(&self.linear).zip(sums) {
            let dense: f32 = linear.dense.iter().zip(&inputs).map(|(weight, input)| weight * input).sum();
            #[expect(clippy::cast_precision_loss, reason = "at most a few thousand times 127")]
            let hashed = sum as f32 * linear.unit * norm;
            *head = linear.bias + dense + hashed;
        }
        heads
    }

    /// The counts that move "the local model fails" most, and whether they make the prompt look harder.
    pub fn reasons(&self, sketch: &Sketch, most: usize) -> Vec<(usize, bool)> {
        let [fails, _] = &self.linear;
        let inputs = self.inputs(&sketch.dense);
        let mut moves: Vec<(usize, f32)> =
            fails.dense.iter().zip(inputs).map(|(weight, input)| weight * input).enumerate().collect();
        moves.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        moves.into_iter().take(most).filter(|(_, moved)| *moved != 0.0).map(|(at, moved)| (at, moved > 0.0)).collect()
    }

    fn inputs(&self, dense: &[f32; DENSE]) -> [f32; DENSE] {
        let mut inputs = [0.0; DENSE];
        for ((input, value), scale) in inputs.iter_mut().zip(dense).zip(&self.scales) {
            *input = scale.input(*value);
        }
        inputs
    }
}

impl Scale {
    pub fn input(&self, value: f32) -> f32 {
        (value.max(self.low).min(self.high) - self.mean) * self.per_unit
    }
}

impl Forest {
    pub fn predict(&self, dense: &[f32; DENSE]) -> f32 {
        self.bias + self.trees.iter().map(|tree| tree.predict(dense)).sum::<f32>()
    }
}

impl Tree {
    pub fn predict(&self, dense: &[f32; DENSE]) -> f32 {
        let mut at = 0;
        while let Some(node) = self.nodes.get(at) {
            let right = dense.get(usize::from(node.feature)).is_some_and(|value| *value > node.above);
            at = 2 * at + 1 + usize::from(right);
        }
        self.leaves.get(at - self.nodes.len()).copied().unwrap_or(0.0)
    }
}

/// The input of each distinct bucket: all of a prompt's buckets together have length 1.
pub fn bucket_value(distinct: usize) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "at most a few thousand")]
    let distinct = distinct.max(1) as f32;
    distinct.sqrt().recip()
}

pub fn logistic(odds: f64) -> f64 {
    1.0 / (1.0 + (-odds).exp())
}
