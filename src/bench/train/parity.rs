//! Whether a run of another trainer comes out the same here.

use std::path::Path;

use serde::Serialize;

use super::exchange::{self, Folder};
use super::setup::Setup;
use super::{Error, chosen, learner};
use crate::model::{Device, to_vec};
use crate::recipe::Recipe;
use crate::train::{ranks, step};

/// How far two trainers may differ.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tolerance {
    /// Of the first step's loss, in nats.
    pub loss: f64,
    /// Of each parameter's first gradient: the length of the difference over the length.
    pub gradient: f64,
    /// Of every step's loss, in nats.
    pub curve: f64,
}

impl Default for Tolerance {
    /// What single precision allows.
    fn default() -> Self {
        Self {
            loss: 1e-5,
            gradient: 1e-5,
            curve: 1e-4,
        }
    }
}

/// What was compared.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether all differences are within the tolerance.
    pub equal: bool,
    /// The tolerance.
    pub tolerance: Tolerance,
    /// The first step's loss here.
    pub loss: f64,
    /// Its difference.
    pub loss_difference: f64,
    /// The parameter whose first gradient differs most, and by how much.
    pub gradient: (String, f64),
    /// All gradients as one.
    pub gradient_difference: f64,
    /// Steps compared.
    pub steps: u64,
    /// The largest difference of a step's loss, and the step, from 1.
    pub curve_difference: (f64, u64),
    /// The largest difference of a gradient's norm, over the norm.
    pub norm_difference: f64,
    /// The difference of the parameters after the last step, over their length; absent
    /// where the exchange has none.
    pub final_difference: Option<f64>,
}

/// Does the run of an exchange: as many steps as it has losses.
pub fn run(
    folder: &Path,
    mut recipe: Recipe,
    tolerance: Tolerance,
    (device, kernels): (&Device, &str),
) -> Result<Report, Error> {
    let arrays = Folder::open(folder)?;
    let (losses, norms) = (arrays.series("losses")?, arrays.series("norms")?);
    if let Some(train) = recipe
        .pretrain
        .as_mut()
        .and_then(|stage| stage.train.as_mut())
    {
        train.steps = losses.len() as u64;
    }
    let setup = Setup::new(recipe, None)?;
    let batches = setup.batches(Some(&arrays), 1)?;
    let kernels = chosen(&setup, std::slice::from_ref(device), kernels)?.kernels;
    let mut learner = learner(&setup, Some(&arrays), device, kernels)?;
    let first = batches.first().ok_or(Error::Steps { found: 0 })?;
    let first = step::gradients(&learner.model, first, &setup.train, &learner.seat);
    let (loss, gradients) = first.map_err(ranks::Error::from)?;
    let ours: Vec<_> = gradients.iter().map(to_vec).collect();
    let theirs = arrays.required("grad", &setup.config)?;
    let distances = exchange::distances(&ours, &theirs, &setup.config);
    let worst = distances.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));

    let mut curve = (0.0, 1);
    let mut norm = 0.0f64;
    for ((batch, their_loss), their_norm) in batches.iter().zip(&losses).zip(&norms) {
        let done = learner.step(batch, &setup.train);
        let done = done.map_err(|source| Error::NonFinite {
            step: learner.step + 1,
            source,
        })?;
        let difference = (done.loss - their_loss).abs();
        if curve.0 < difference || difference.is_nan() {
            curve = (difference, learner.step);
        }
        norm = norm.max((done.grad_norm - their_norm).abs() / their_norm.max(f64::MIN_POSITIVE));
    }
    let last = arrays.parameters("final", &setup.config)?;
    let loss_difference = losses
        .first()
        .map_or(f64::NAN, |theirs| (loss.cross_entropy - theirs).abs());
    let gradient = worst.unwrap_or_default();
    Ok(Report {
        equal: loss_difference <= tolerance.loss
            && gradient.1 <= tolerance.gradient
            && curve.0 <= tolerance.curve,
        tolerance,
        loss: loss.cross_entropy,
        loss_difference,
        gradient,
        gradient_difference: exchange::relative(&ours, &theirs),
        steps: learner.step,
        curve_difference: curve,
        norm_difference: norm,
        final_difference: last.map(|last| exchange::relative(&learner.model.values(), &last)),
    })
}
