//! What a measurement on a GPU tells beside its times.

use serde::Serialize;

use super::Laps;
use crate::model::Model;
use crate::model::flops::PerToken;
use crate::model::ops::cuda::{Examined, examine};

/// A GPU in a measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Gpu {
    /// Its memory, what a copy and each product reach, what it was asked for in all.
    #[serde(flatten)]
    pub examined: Examined,
    /// Kernels of ours that a step runs.
    pub kernels_per_step: f64,
    /// Products.
    pub products_per_step: f64,
    /// Copies from the host.
    pub copies_per_step: f64,
    /// Operations a second, in billions, by [`PerToken::palm`].
    pub palm_gflops: f64,
    /// By [`PerToken::causal`].
    pub causal_gflops: f64,
    /// Those of the fastest of the model's products.
    pub ceiling_gflops: Option<f64>,
    /// The share of the recipe's `peak_gflops` that [`Self::palm_gflops`] is.
    pub mfu_palm: Option<f64>,
    /// Of [`Self::ceiling_gflops`].
    pub palm_of_ceiling: Option<f64>,
}

impl Gpu {
    /// Asks the GPU that a model lies on; nothing where it lies on none, or where it cannot
    /// be asked.
    pub(super) fn of(
        model: &Model,
        laps: &Laps,
        before: Option<&Examined>,
        (tokens_per_s, per_token, peak): (f64, PerToken, Option<f64>),
    ) -> Option<Self> {
        let examined = examine(model.tensors.first()?, true)?.ok()?;
        let (now, then) = (examined.asked, before.map(|before| before.asked));
        let then = then.unwrap_or_default();
        let steps = laps.losses.len().max(1) as f64;
        let each = |now: u64, then: u64| now.saturating_sub(then) as f64 / steps;
        let rate = |flops: u64| tokens_per_s * flops as f64 / 1e9;
        let palm = rate(per_token.palm);
        let products = examined.products.iter();
        let ceiling = products
            .filter_map(|told| told.gflops)
            .max_by(f64::total_cmp);
        Some(Self {
            kernels_per_step: each(now.kernels, then.kernels),
            products_per_step: each(now.products, then.products),
            copies_per_step: each(now.copies, then.copies),
            palm_gflops: palm,
            causal_gflops: rate(per_token.causal),
            ceiling_gflops: ceiling,
            mfu_palm: peak.map(|peak| palm / peak),
            palm_of_ceiling: ceiling.map(|ceiling| palm / ceiling),
            examined,
        })
    }
}
