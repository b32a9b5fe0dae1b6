//! From a model's numbers for each token to one vector of length 1 for the text. Pure.

/// How a text's tokens become one vector; the model file names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    Mean,
    /// The first token's, which such models train for it.
    First,
    Last,
}

impl Pooling {
    /// GGUF's number for it. A file that names none gets the mean, which any model's tokens have.
    ///
    /// # Errors
    /// It ranks texts and makes no vectors of them, or is unknown.
    pub fn from_gguf(number: Option<u32>) -> Result<Self, u32> {
        match number {
            None | Some(0 | 1) => Ok(Self::Mean),
            Some(2) => Ok(Self::First),
            Some(3) => Ok(Self::Last),
            Some(other) => Err(other),
        }
    }
}

/// One text's tokens so far, in their order.
#[derive(Debug, Clone)]
pub struct Pool {
    pooling: Pooling,
    sum: Vec<f64>,
    count: usize,
}

impl Pool {
    pub fn new(pooling: Pooling, dimensions: usize) -> Self {
        Self { pooling, sum: vec![0.0; dimensions], count: 0 }
    }

    pub fn add(&mut self, token: &[f32]) {
        let first = self.count == 0;
        self.count += 1;
        let values = self.sum.iter_mut().zip(token);
        match self.pooling {
            Pooling::Mean => values.for_each(|(sum, value)| *sum += f64::from(*value)),
            Pooling::First if !first => {}
            Pooling::First | Pooling::Last => values.for_each(|(sum, value)| *sum = f64::from(*value)),
        }
    }

    /// `None`: it has no direction, or is not made of numbers.
    pub fn vector(self) -> Option<Vec<f32>> {
        normalised(self.sum)
    }
}

/// Scaled to length 1; the mean needs no division then.
fn normalised(values: Vec<f64>) -> Option<Vec<f32>> {
    let length = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    (length.is_normal()).then(|| values.into_iter().map(|value| (value / length) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pooled(pooling: Pooling, tokens: &[[f32; 2]]) -> Option<Vec<f32>> {
        let mut pool = Pool::new(pooling, 2);
        tokens.iter().for_each(|token| pool.add(token));
        pool.vector()
    }

    #[test]
    fn each_kind_takes_its_tokens_and_scales_to_length_one() {
        let tokens = [[3.0, 4.0], [0.0, 0.0], [0.0, 2.0]];
        assert_eq!(pooled(Pooling::First, &tokens), Some(vec![0.6, 0.8]));
        assert_eq!(pooled(Pooling::Last, &tokens), Some(vec![0.0, 1.0]));
        let mean = pooled(Pooling::Mean, &tokens).unwrap();
        assert!((mean[0] - 3.0 / 45_f32.sqrt()).abs() < 1e-6 && (mean[1] - 6.0 / 45_f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn what_has_no_direction_is_no_vector() {
        assert_eq!(pooled(Pooling::Mean, &[]), None);
        assert_eq!(pooled(Pooling::Mean, &[[0.0, 0.0]]), None);
        assert_eq!(pooled(Pooling::Mean, &[[f32::NAN, 1.0]]), None);
        assert_eq!(pooled(Pooling::Last, &[[f32::INFINITY, 1.0]]), None);
    }

    #[test]
    fn the_files_number_is_understood_and_a_ranking_model_is_none() {
        let kinds = [None, Some(0), Some(1), Some(2), Some(3), Some(4)].map(Pooling::from_gguf);
        let mean = Ok(Pooling::Mean);
        assert_eq!(kinds, [mean, mean, mean, Ok(Pooling::First), Ok(Pooling::Last), Err(4)]);
    }

    proptest! {
        #[test]
        fn every_vector_has_length_one(tokens in proptest::collection::vec([-1e3_f32..1e3, 0.1_f32..1e3], 1..20)) {
            for pooling in [Pooling::Mean, Pooling::First, Pooling::Last] {
                let vector = pooled(pooling, &tokens).unwrap();
                prop_assert!((vector.iter().map(|value| value * value).sum::<f32>() - 1.0).abs() < 1e-5);
            }
        }
    }
}
