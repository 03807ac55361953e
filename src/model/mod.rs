//! The model: parameters, the forward pass, generation's cache, Hugging Face files.
//!
//! Axes: `n` positions of a batch (`rows * length`), `d` the residual stream,
//! `V` the vocabulary.

#[cfg(feature = "train")]
pub mod collective;
pub mod config;
#[cfg(feature = "train")]
mod devices;
pub mod flops;
pub mod folder;
#[cfg(any(test, feature = "cuda"))]
pub mod gpu;

#[cfg(feature = "train")]
pub mod hub;
#[cfg(feature = "train")]
pub mod kv_cache;
#[cfg(feature = "train")]
pub mod layout;
pub mod lora;
#[cfg(feature = "train")]
pub mod mask;
#[cfg(feature = "train")]
pub mod ops;
#[cfg(feature = "train")]
mod parameters;
#[cfg(feature = "train")]
pub mod peft;
pub mod precision;
mod rope_scaling;
#[cfg(feature = "train")]
pub mod rows;
#[cfg(feature = "train")]
pub mod tuning;

#[cfg(feature = "train")]
pub use devices::{device, devices, name as device_name};
#[cfg(feature = "train")]
pub use ops::Kernels;
#[cfg(feature = "train")]
pub use parameters::{Device, Error, Model, kernels, to_vec};
#[cfg(test)]
#[cfg(feature = "train")]
pub(crate) mod testing;
