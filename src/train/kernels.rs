//! Which form of the operations a run computes with: the one place that decides.

use crate::model::Device;
use crate::model::config::Config;
use crate::model::ops::Kernels;
use crate::recipe::Train;

/// What somebody wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Our own where they can be had, else burn's.
    #[default]
    Auto,
    /// Burn's.
    Burn,
    /// Our own, or none.
    Own,
}

/// Kernels that were wanted and cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("our own kernels cannot be used here: {reason}")]
pub struct Refused {
    /// Why not.
    pub reason: String,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The form.
    pub kernels: Kernels,
    /// What whoever started the run should know.
    pub note: Option<String>,
}

impl Choice {
    fn silent(kernels: Kernels) -> Self {
        Self {
            kernels,
            note: None,
        }
    }
}

/// Decides for a run. On a GPU, our own kernels must first agree with the CPU's on a small
/// model of the same kind.
pub fn choose(
    wish: Wish,
    device: &Device,
    config: &Config,
    train: &Train,
) -> Result<Choice, Refused> {
    let best = Kernels::for_device(device);
    match (wish, best) {
        (Wish::Burn, _) => Ok(Choice::silent(Kernels::Plain)),
        (_, Kernels::Fused) => Ok(Choice::silent(best)),
        _ => on_gpu(wish, device, config, train),
    }
}

#[cfg(not(feature = "cuda"))]
fn on_gpu(wish: Wish, _: &Device, _: &Config, _: &Train) -> Result<Choice, Refused> {
    match wish {
        Wish::Own => Err(Refused {
            reason: "this build has none for a GPU".into(),
        }),
        _ => Ok(Choice::silent(Kernels::Plain)),
    }
}

#[cfg(feature = "cuda")]
fn on_gpu(wish: Wish, device: &Device, config: &Config, train: &Train) -> Result<Choice, Refused> {
    use crate::model::ops::cuda::{check, engine};

    let precision = engine::Precision::Bf16;
    let checked = match train.freeze.is_some() || train.lora.is_some() {
        true => Err(
            "they know neither adapters nor frozen weights (`train.lora`, `train.freeze`)".into(),
        ),
        false => engine::supports(&crate::model::ops::Shape::new(config))
            .and_then(|()| check::on_device(config, device, precision)),
    };
    let reason = match checked {
        Ok(agreement) if agreement.holds() => {
            return Ok(Choice {
                kernels: Kernels::Cuda(precision),
                note: Some(format!("our own kernels agree with the CPU's: {agreement}")),
            });
        }
        Ok(agreement) => format!("they do not agree with the CPU's: {agreement}"),
        Err(reason) => reason,
    };
    match wish {
        Wish::Own => Err(Refused { reason }),
        _ => Ok(Choice {
            kernels: Kernels::Plain,
            note: Some(format!(
                "burn's operations compute, in single precision and slower: of our own, {reason}"
            )),
        }),
    }
}
