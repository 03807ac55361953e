//! The operations on a CUDA GPU, forward and backward by hand.
//!
//! `block`, `loss` and `embedding` say what runs in which order; they hold addresses and an
//! [`engine::Engine`] and know neither burn nor CUDA, so that tests run all of it on a
//! processor ([`host`]). `kernels/` holds what runs on the device, as CUDA C++ that is
//! compiled when it is first needed; matrix products are a library's.

pub mod agreement;
pub mod arena;
pub mod batch;
pub mod block;
#[cfg(feature = "cuda")]
mod bridge;
pub mod check;
#[cfg(test)]
mod check_tests;
#[cfg(feature = "cuda")]
pub mod device;
#[cfg(feature = "cuda")]
mod driver;
pub mod embedding;
pub mod engine;
#[cfg(test)]
mod host;
pub mod kernels;
pub mod loss;
#[cfg(feature = "cuda")]
pub mod pass;
#[cfg(feature = "cuda")]
mod products;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod whole;
pub mod words;

#[cfg(feature = "cuda")]
pub use bridge::{Examined, Fetched, examine, know};
