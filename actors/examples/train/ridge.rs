//! Ridge regression over hashed words and counts, by conjugate gradients on the normal equations. Plain sequential sums:
//! the same data gives the same weights.

use spillway_actors::classify::{
    sketch::{BUCKETS, DENSE, Sketch},
    weights::{Linear, Scale, bucket_value},
};

const STEPS: usize = 80;

#[derive(Clone, Copy)]
pub(crate) struct Penalty {
    pub buckets: f64,
    pub dense: f64,
}

/// Weights before quantisation: buckets first, then counts.
pub(crate) struct Fitted {
    bias: f64,
    weights: Vec<f64>,
}

struct Input<'a> {
    buckets: &'a [u16],
    value: f64,
    dense: [f64; DENSE],
}

/// Mean, spread and range of every count.
pub(crate) fn scales(sketches: &[&Sketch]) -> Vec<Scale> {
    let all = sketches.len() as f64;
    (0..DENSE)
        .map(|at| {
            let values: Vec<f64> = sketches.iter().map(|sketch| f64::from(sketch.dense[at])).collect();
            let mean = values.iter().sum::<f64>() / all;
            let spread = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / all).sqrt();
            let mut sorted = values;
            sorted.sort_by(f64::total_cmp);
            let quantile = |share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize] as f32;
            let per_unit = if spread > 1e-9 { 1.0 / spread } else { 0.0 };
            Scale { mean: mean as f32, per_unit: per_unit as f32, low: quantile(0.001), high: quantile(0.999) }
        })
        .collect()
}

pub(crate) fn fit(
    sketches: &[&Sketch],
    weights: &[f64],
    targets: &[f64],
    scales: &[Scale],
    penalty: Penalty,
) -> Fitted {
    let inputs: Vec<Input<'_>> = sketches.iter().map(|sketch| input(sketch, scales)).collect();
    let bias = dot(weights, targets) / weights.iter().sum::<f64>();
    let centred: Vec<f64> = targets.iter().map(|target| target - bias).collect();
    let mut found = vec![0.0; BUCKETS + DENSE];
    let mut rest = transposed(&inputs, weights, &centred);
    let mut direction = rest.clone();
    let mut size = dot(&rest, &rest);
    let first = size;
    for _ in 0..STEPS {
        if size < first * 1e-10 {
            break;
        }
        let image = normal(&inputs, weights, &direction, penalty);
        let step = size / dot(&direction, &image);
        for ((found, rest), (direction, image)) in found.iter_mut().zip(&mut rest).zip(direction.iter().zip(&image)) {
            *found += step * direction;
            *rest -= step * image;
        }
        let next = dot(&rest, &rest);
        for (direction, rest) in direction.iter_mut().zip(&rest) {
            *direction = rest + next / size * *direction;
        }
        size = next;
    }
    Fitted { bias, weights: found }
}

/// Rounds the bucket weights to a byte each.
pub(crate) fn quantised(fitted: &Fitted) -> (Linear, Vec<i8>) {
    let (buckets, dense) = fitted.weights.split_at(BUCKETS);
    let mut sizes: Vec<f64> = buckets.iter().map(|weight| weight.abs()).collect();
    sizes.sort_by(f64::total_cmp);
    // The few largest weights are clipped so that the many small ones keep their digits.
    let largest = sizes[BUCKETS - 1 - BUCKETS / 4096].max(1e-9);
    let unit = largest / 127.0;
    let rounded = buckets.iter().map(|weight| (weight / unit).round().clamp(-127.0, 127.0) as i8).collect();
    let dense = dense.iter().map(|weight| *weight as f32).collect();
    (Linear { bias: fitted.bias as f32, dense, unit: unit as f32 }, rounded)
}

fn input<'a>(sketch: &'a Sketch, scales: &[Scale]) -> Input<'a> {
    Input {
        buckets: &sketch.buckets,
        value: f64::from(bucket_value(sketch.buckets.len())),
        dense: std::array::from_fn(|at| f64::from(scales[at].input(sketch.dense[at]))),
    }
}

fn predict(input: &Input<'_>, weights: &[f64]) -> f64 {
    let (buckets, dense) = weights.split_at(BUCKETS);
    let hashed: f64 = input.buckets.iter().map(|bucket| buckets[usize::from(*bucket)]).sum();
    hashed * input.value + dot(dense, &input.dense)
}

fn transposed(inputs: &[Input<'_>], weights: &[f64], values: &[f64]) -> Vec<f64> {
    let mut sums = vec![0.0; BUCKETS + DENSE];
    for ((input, weight), value) in inputs.iter().zip(weights).zip(values) {
        let each = weight * value * input.value;
        for bucket in input.buckets {
            sums[usize::from(*bucket)] += each;
        }
        for (sum, dense) in sums[BUCKETS..].iter_mut().zip(&input.dense) {
            *sum += weight * value * dense;
        }
    }
    sums
}

fn normal(inputs: &[Input<'_>], weights: &[f64], direction: &[f64], penalty: Penalty) -> Vec<f64> {
    let predicted: Vec<f64> = inputs.iter().map(|input| predict(input, direction)).collect();
    let mut image = transposed(inputs, weights, &predicted);
    for (at, (image, direction)) in image.iter_mut().zip(direction).enumerate() {
        *image += if at < BUCKETS { penalty.buckets } else { penalty.dense } * direction;
    }
    image
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
