//! The average of weights over steps, which wanders less than the weights themselves.

use burn::tensor::Tensor;

use crate::model::Model;

/// An exponential moving average of the weights of a model that are trained.
#[derive(Clone, Debug)]
pub struct Average {
    keep: f64,
    /// Of [`Model::trained_groups`].
    tensors: Vec<Tensor<1>>,
}

impl Average {
    /// An average that is `model` so far; `keep` of it stays at each step.
    pub fn new(keep: f64, model: &Model) -> Self {
        let tensors = model.trained_tensors().to_vec();
        Self { keep, tensors }
    }

    /// Takes in the weights after an update, the first of which is 1.
    ///
    /// Of a young average less stays, so that it soon forgets the first weights: at most
    /// `(1 + n) / (10 + n)` at update n, as in TensorFlow's `ExponentialMovingAverage`.
    pub fn take_in(&mut self, model: &Model, update: u64) {
        let keep = kept(self.keep, update);
        let tensors = std::mem::take(&mut self.tensors).into_iter();
        self.tensors = tensors
            .zip(model.trained_tensors())
            .map(|(average, now)| average.mul_scalar(keep) + now.clone().mul_scalar(1.0 - keep))
            .collect();
    }

    /// `model` with the average in place of its weights; what is frozen stays as it is.
    pub fn model(&self, model: &Model) -> Model {
        let mut result = model.clone();
        result.train(|_, _| self.tensors.clone());
        result
    }
}

fn kept(keep: f64, update: u64) -> f64 {
    keep.min((1.0 + update as f64) / (10.0 + update as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_young_average_forgets_sooner() {
        assert_eq!(kept(0.999, 1), 2.0 / 11.0);
        assert_eq!(kept(0.5, 1000), 0.5);
        assert!((1..20_000).all(|n| kept(0.999, n) <= kept(0.999, n + 1)));
        assert_eq!(kept(0.999, 20_000), 0.999);
        assert_eq!(kept(0.0, 5), 0.0);
    }
}
