//! The numbers of a step: its losses, the norm of its gradient, and what they make of the
//! update. A device computes them and its update reads them there, so that nobody waits;
//! the host asks for a copy, and reads it when it likes.

use burn::tensor::{Tensor, TensorData};

use super::{Kernels, Loss};

/// The sums of a loss over scored positions.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one a step")]
pub enum Sums {
    /// At hand.
    Known(Loss),
    /// The first two of some numbers that a device may still be computing: cross entropy
    /// and z-loss.
    Coming(Tensor<1>),
}

impl Sums {
    /// The sums; waits for a device.
    pub fn read(self) -> Loss {
        let sums = match self {
            Self::Known(loss) => return loss,
            Self::Coming(sums) => sums.into_data(),
        };
        let [cross_entropy, z_loss] = first(&sums);
        Loss {
            cross_entropy,
            z_loss,
        }
    }
}

/// The first of some numbers that a device sent; not a number where it sent fewer.
fn first<const N: usize>(data: &TensorData) -> [f64; N] {
    let mut numbers = data.iter::<f32>().map(f64::from);
    std::array::from_fn(|_| numbers.next().unwrap_or(f64::NAN))
}

/// What makes the numbers of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Turns sums into means.
    pub mean: f64,
    /// The largest norm that a gradient may have; a larger one is scaled down to it.
    pub clip: f64,
}

impl Limits {
    /// What gradients of a norm are multiplied by.
    pub fn scale(&self, norm: f64) -> f64 {
        if norm <= self.clip {
            1.0
        } else {
            self.clip / norm
        }
    }
}

/// The numbers of a step, on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Known {
    /// Mean losses.
    pub loss: Loss,
    /// The norm of all gradients together: the root of the sum of their squares.
    pub norm: f64,
}

/// The numbers of a step, where they are.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one a step")]
pub enum Numbers {
    /// At hand.
    Known(Known),
    /// On a device.
    Coming(Coming),
}

/// Numbers that a device may still be computing: the means of cross entropy and z-loss, the
/// norm, and what gradients are to be multiplied with, which is not a number where any of
/// the others is not finite: then no update may be made.
#[derive(Clone, Debug)]
pub struct Coming(pub Tensor<1>);

impl Coming {
    /// Asks for a copy once all that was queued before is done.
    pub fn send(&self) -> Arrival {
        #[cfg(feature = "cuda")]
        if let Some(sent) = super::cuda::Fetched::of(&self.0) {
            return Arrival::Sent(sent);
        }
        Arrival::Late(self.0.clone())
    }
}

/// A copy that is on its way.
#[expect(clippy::large_enum_variant, reason = "there is one a step")]
pub enum Arrival {
    /// At hand.
    Known(Known),
    /// Made when it is read.
    Late(Tensor<1>),
    /// Queued on a GPU.
    #[cfg(feature = "cuda")]
    Sent(super::cuda::Fetched),
}

/// The device lost what it computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device failed: {reason}")]
pub struct Lost {
    /// What it said.
    pub reason: String,
}

impl Arrival {
    /// The numbers; waits for them.
    pub fn wait(self) -> Result<Known, Lost> {
        let data: Result<TensorData, String> = match self {
            Self::Known(known) => return Ok(known),
            Self::Late(numbers) => numbers.try_into_data().map_err(|e| format!("{e:?}")),
            #[cfg(feature = "cuda")]
            Self::Sent(sent) => sent.wait(),
        };
        let data = data.map_err(|reason| Lost { reason })?;
        let [cross_entropy, z_loss, norm] = first(&data);
        let loss = Loss {
            cross_entropy,
            z_loss,
        };
        Ok(Known { loss, norm })
    }
}

/// The numbers of a step with these sums and gradients.
pub fn numbers(kernels: Kernels, sums: Sums, gradients: &[Tensor<1>], limits: &Limits) -> Numbers {
    match sums {
        Sums::Known(sum) => {
            let squares = gradients.iter();
            let squares = squares.map(|gradient| super::gradient_norm_squared(kernels, gradient));
            Numbers::Known(Known {
                loss: sum * limits.mean,
                norm: squares.sum::<f64>().sqrt(),
            })
        }
        Sums::Coming(sums) => Numbers::Coming(Coming(match kernels {
            #[cfg(feature = "cuda")]
            Kernels::Cuda(_) => super::cuda::pass::numbers(sums, gradients, limits),
            _ => super::plain::numbers(sums, gradients, limits),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_large_gradients_are_clipped() {
        let scale = |norm, clip| Limits { mean: 1.0, clip }.scale(norm);
        assert_eq!(scale(0.5, 1.0), 1.0);
        assert_eq!(scale(1.0, 1.0), 1.0);
        assert_eq!(scale(4.0, 1.0), 0.25);
        assert_eq!(scale(0.0, 0.0), 1.0);
        assert_eq!(scale(1e30, f64::INFINITY), 1.0);
    }
}
